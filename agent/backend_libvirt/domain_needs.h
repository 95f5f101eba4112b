/* What a domain asks of the host that runs it, read from its definition: pure.
 *
 * Flow:   a definition in XML -> [domain_needs] -> domain_check
 * Thread: any; no state. The XML is a stranger's: no network, no entities, a size cap.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_NEEDS_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_NEEDS_H

#include <stdbool.h>
#include <stddef.h>

struct fault;

enum {
    DOMAIN_NEEDS_XML_MAX = 1 << 20,
    DOMAIN_NEEDS_MANY = 32, /* disks, links: more are refused */
    DOMAIN_NEEDS_PATH_SIZE = 512,
    DOMAIN_NEEDS_WORD_SIZE = 64,
};

struct domain_disk {
    char path[DOMAIN_NEEDS_PATH_SIZE]; /* "": an empty drive, or nothing on this host's files */
    char target[DOMAIN_NEEDS_WORD_SIZE]; /* "vda" */
    bool is_block, is_network, writable;
};

struct domain_link {
    char name[DOMAIN_NEEDS_WORD_SIZE];
    bool is_network; /* libvirt's, else a bridge */
};

struct domain_needs {
    char virt_type[DOMAIN_NEEDS_WORD_SIZE]; /* "kvm" */
    char arch[DOMAIN_NEEDS_WORD_SIZE], machine[DOMAIN_NEEDS_WORD_SIZE];
    char emulator[DOMAIN_NEEDS_PATH_SIZE];
    char *cpu_xml; /* malloc'ed; NULL: the emulator's own, or the host's as it is */
    struct domain_disk disks[DOMAIN_NEEDS_MANY];
    size_t disk_count;
    struct domain_link links[DOMAIN_NEEDS_MANY];
    size_t link_count;
    char pinned_by[DOMAIN_NEEDS_WORD_SIZE]; /* what ties it to its host: "hostdev pci"; "": nothing */
};

/* ERR_INVALID with words; ret_needs is then untouched. */
int domain_needs_read(const char *xml, struct domain_needs *ret_needs, struct fault *fault);
void domain_needs_deinit(struct domain_needs *needs);

#endif

/* A definition of a VM by another program, on its way to a spec of ours: what it becomes, what was
 * changed on the way, and what stands against it.
 *
 * Flow:   libvirt XML, xl file -> import_libvirt, import_xl -> [import] -> VmSpec, words
 * Thread: any; no state.
 *
 * Notes are told and do no harm ("the e1000 card becomes a virtio card"). Obstacles are what the
 * embedded VMM cannot run; with one of them there is no VM.
 */
#ifndef GODWIT_CLI_IMPORT_H
#define GODWIT_CLI_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/vm_spec.pb-c.h"

struct fault;

enum {
    IMPORT_TEXT_MAX = 1 << 20, /* bytes of a definition */
    IMPORT_LINES_MAX = 64,
    IMPORT_LINE_SIZE = 256,
    IMPORT_DISKS_MAX = 16,
    IMPORT_NICS_MAX = 8,
};

struct import_lines {
    char text[IMPORT_LINES_MAX][IMPORT_LINE_SIZE];
    unsigned count;
    bool overflow; /* there were more */
};

struct import {
    const char *bridges; /* borrowed: "default=br0,lan=br1", networks that are bridges here; NULL */
    Godwit__VmSpec *spec; /* owned */
    struct import_lines notes, obstacles;
};

int import_init(struct import *import, const char *bridges, struct fault *fault);
void import_deinit(struct import *import);

/* The same words twice are said once. */
void import_note(struct import *import, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void import_obstacle(struct import *import, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Each adds to the spec. Texts are copied; NULL or "" leaves the field out. */
int import_set_text(char **field, const char *text, struct fault *fault);
int import_set_name(struct import *import, const char *name, struct fault *fault);
/* Rounded up to whole 2 MiB. */
void import_set_memory(struct import *import, uint64_t bytes, bool huge_pages);
void import_set_vcpus(struct import *import, uint64_t vcpus);

struct import_disk {
    const char *name; /* "vda" */
    const char *path, *serial, *cache;
    bool read_only, shared;
};
int import_add_disk(struct import *import, const struct import_disk *disk, struct fault *fault);

struct import_nic {
    const char *bridge;  /* of the host; or */
    const char *network; /* that `bridges` may name */
    const char *mac;
    uint64_t queues, mtu; /* 0: none said */
};
int import_add_nic(struct import *import, const struct import_nic *nic, struct fault *fault);

/* Last: what is missing for a VM that could be created is an obstacle too. */
void import_finish(struct import *import);

#endif

/* Which kernel, initrds and command line a guest's own /boot names: a Boot Loader Specification
 * entry, or the chosen entry of a grub.cfg.
 *
 * Flow:   agent/boot -> [boot_entry] -> agent/boot
 * Thread: any; pure.
 *
 * Reads what distributions write, not the whole of GRUB's language: the entry that `default` or the
 * saved one names by number, id or title, else the first; its first `linux` and `initrd` lines.
 * Words that hold a variable are left out, but for those of the environment block.
 */
#ifndef GODWIT_STORAGE_BOOT_ENTRY_H
#define GODWIT_STORAGE_BOOT_ENTRY_H

#include <stdbool.h>
#include <stddef.h>

struct fault;

enum {
    BOOT_ENTRY_PATH_SIZE = 512,
    BOOT_ENTRY_OPTIONS_SIZE = 4096,
    BOOT_ENTRY_INITRDS_MAX = 4,
    BOOT_ENTRY_NAME_SIZE = 256,
};

struct boot_entry {
    char kernel[BOOT_ENTRY_PATH_SIZE];
    char initrds[BOOT_ENTRY_INITRDS_MAX][BOOT_ENTRY_PATH_SIZE];
    unsigned initrd_count;
    char options[BOOT_ENTRY_OPTIONS_SIZE];
};

struct boot_environment { /* of a grubenv; empty texts when there is none */
    char saved_entry[BOOT_ENTRY_NAME_SIZE];
    char kernelopts[BOOT_ENTRY_OPTIONS_SIZE];
};

/* Texts are `count` bytes without an end. ERR_NOT_FOUND: no entry in it; ERR_LIMIT: too long. */
void boot_environment_parse(const char *text, size_t count, struct boot_environment *ret_environment);
int boot_entry_parse_bls(const char *text, size_t count, const struct boot_environment *environment,
                         struct boot_entry *ret_entry, struct fault *fault);
int boot_entry_parse_grub(const char *text, size_t count,
                          const struct boot_environment *environment, struct boot_entry *ret_entry,
                          struct fault *fault);
/* Of two names of BLS files, is `a` the one to boot? The saved one, else the higher version. */
bool boot_entry_is_better(const char *a, const char *b, const struct boot_environment *environment);

#endif

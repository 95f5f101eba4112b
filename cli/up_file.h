/* What a godwit.yaml declares: one VmSpec for each VM, in the order of the file.
 *
 * Flow:   godwit.yaml -> vm_spec_file (binding) -> [up_file] -> up_core, cmd_up
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_UP_FILE_H
#define GODWIT_CLI_UP_FILE_H

#include <stddef.h>

#include "proto/up.pb-c.h"

struct fault;

enum { UP_VMS_MAX = 1000, UP_COUNT_MAX = 1000 };

struct up_file {
    Godwit__VmSpec **specs; /* owned, as is what they point to */
    size_t count;
};

/* Each VM is judged as `vm create -f` judges it, names are unique, and what several of a count would
 * share (a file, a nic's address) is refused. Pure. */
int up_file_expand(const Godwit__UpFile *file, struct up_file *ret_file, struct fault *fault);
/* "-" reads stdin. Relative paths of kernels are made absolute from the current folder. */
int up_file_read(const char *path, struct up_file *ret_file, struct fault *fault);
void up_file_deinit(struct up_file *file);

#endif

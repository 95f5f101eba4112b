/* What is to be done so that the pool has the VMs that a file declares, and no more than that.
 *
 * Flow:   up_file, VmInfo -> [up_core] -> cmd_up
 * Thread: any; pure.
 *
 * Idempotent by construction: what is there and runs is kept, whatever it is like. A VM that differs
 * from its declaration is told about, field by field, and never touched: only what the file gives is
 * compared, so what the pool filled in by itself is no difference.
 */
#ifndef GODWIT_CLI_UP_CORE_H
#define GODWIT_CLI_UP_CORE_H

#include <stddef.h>

#include "proto/pool.pb-c.h"

enum up_action {
    UP_CREATE, /* it is not there */
    UP_START,  /* it is there, stopped or crashed */
    UP_KEEP,   /* it runs, or is busy with something else */
    UP_REMOVE, /* destroy: it is there */
    UP_ABSENT, /* destroy: it is not */
};

enum { UP_WORD_SIZE = 64, UP_DIFF_SIZE = 2048 };

struct up_step {
    size_t declared; /* its number in the file */
    const char *name; /* the declaration's */
    const char *vm_id; /* the present VM's, borrowed as its name is; NULL: none is there */
    enum up_action action;
    char state[UP_WORD_SIZE]; /* as the pool told it; "" absent */
    /* "cpu.vcpus: 2 in the file, 1 in the pool" a line, each ended; "": as declared */
    char diff[UP_DIFF_SIZE];
};

/* Fills `ret_steps` (count of them) for `declared`, in the order in which they are to be done: as in
 * the file. `present`: VMs of the pool, with their specs, of any names. */
void up_core_plan(const Godwit__VmSpec *const *declared, size_t count,
                  const Godwit__VmInfo *const *present, size_t present_count,
                  struct up_step *ret_steps);
/* The same for taking away: the last of the file first. */
void up_core_plan_destroy(const Godwit__VmSpec *const *declared, size_t count,
                          const Godwit__VmInfo *const *present, size_t present_count,
                          struct up_step *ret_steps);
/* What `declared` gives and `present` has not. Cut where the room ends. */
void up_core_diff(const Godwit__VmSpec *declared, const Godwit__VmSpec *present,
                  char ret_diff[static UP_DIFF_SIZE]);

#endif

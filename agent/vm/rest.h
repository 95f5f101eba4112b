/* This process's guest, which stands still, goes into a file or comes out of one.
 *
 * Flow:   machine -> [rest] -> migrate/guest_file
 * Thread: the loop's; the file is written or read by a worker, which alone touches the guest meanwhile.
 */
#ifndef GODWIT_AGENT_VM_REST_H
#define GODWIT_AGENT_VM_REST_H

#include <stdbool.h>

#include "migrate/guest_file.h"
#include "storage/guest_label.h"

struct fault;
struct guest;
struct guest_pager;
struct loop;
struct rest;

struct rest_config {
    struct loop *loop;
    struct guest *guest; /* borrowed, must outlive the rest */
    struct guest_label label;
    bool is_load;
    /* load: the guest runs at once and its memory follows, where that can be done; else as always. These two
     * come on threads of its own (see migrate/guest_pager.h), also after `done`. */
    bool is_lazy;
    void (*whole)(void *data);
    void (*lost)(void *data, const struct fault *fault);
    /* Worker: all is loaded and nobody has gone on from the file yet; when it returns, whoever asks
     * finds that this process is about to. */
    void (*before_consume)(void *data);
    uint64_t consumed_by; /* load: the generation that goes on */
    bool keeps_file;      /* load: it is not marked, and may be gone on from again: a snapshot's */
    /* Loop, once: `fault` NULL: it is done. The rest may be freed in it. */
    void (*done)(void *data, const struct guest_file_counts *counts, const struct fault *fault);
    void *data;
};

/* Takes fd when it returns 0. */
int rest_new(struct rest **ret_rest, const struct rest_config *config, int fd, struct fault *fault);
/* After `done`, once: gives what brings the memory of a guest that runs already; NULL: all of it is here, and it
 * does not run yet. */
struct guest_pager *rest_take_pager(struct rest *rest);
/* Waits for the worker, without a callback. */
struct rest *rest_free(struct rest *rest);

#endif

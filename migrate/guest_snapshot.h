/* A running guest as it is at one instant: its memory goes into a file behind its back.
 *
 * Flow:   agent/vm -> [guest_snapshot] -> page_keeper, guest_file_writer -> file
 * Thread: one worker, blocking; pauses and resumes the guest itself.
 *
 * The file is a guest's file (guest_file.h). The guest stands still for the last protected pages, the
 * machine's state and what the owner captures; its memory is copied while it runs again.
 */
#ifndef GODWIT_MIGRATE_GUEST_SNAPSHOT_H
#define GODWIT_MIGRATE_GUEST_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/guest_file.h"

struct fault;
struct guest;
struct guest_label;

struct guest_snapshot_config {
    struct guest *guest; /* borrowed; its was_running says whether it runs on */
    const struct guest_label *label;
    int fd;                 /* borrowed, empty; -1: without memory, only what is captured */
    const bool *is_stopped; /* looked at between blocks */
    /* What takes long and can be done before the pause; the guest runs. May be NULL. */
    int (*prepare)(void *data, struct fault *fault);
    /* The guest stands still and its disks are at rest: disks, in milliseconds. May be NULL. */
    int (*capture)(void *data, struct fault *fault);
    /* Give no memory back to the host from now on (true), or do again. May be NULL. */
    void (*hold_memory)(void *data, bool hold);
    void *data;
};

struct guest_snapshot_pause { /* what a pause is made of */
    uint64_t stop_ns;    /* until vCPUs and disks are at rest */
    uint64_t protect_ns; /* pages that were written since the last round */
    uint64_t save_ns;    /* the machine's state */
    uint64_t capture_ns; /* disks */
    uint64_t resume_ns;
};

struct guest_snapshot_result {
    struct guest_file_counts file; /* zero without memory */
    uint64_t pause_ns;             /* the guest stood still */
    struct guest_snapshot_pause parts;
    uint64_t put_aside_pages;      /* were written before they were copied */
};

/* Whatever goes wrong, the guest runs on and the file is a torso that no reader takes. */
int guest_snapshot_take(const struct guest_snapshot_config *config,
                        struct guest_snapshot_result *ret_result, struct fault *fault);

#endif

/* A move while it runs: a few lines that are drawn anew in place, or one line a phase.
 *
 * Flow:   JobInfo events -> job_wait -> [progress_bar] -> stderr
 * Thread: the command's.
 *
 * The pure half (frame, plain line) makes text from a JobInfo; the other half knows what is on the
 * screen and when to touch it.
 */
#ifndef GODWIT_CLI_PROGRESS_BAR_H
#define GODWIT_CLI_PROGRESS_BAR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/pool.pb-c.h"

enum progress_mode { PROGRESS_LIVE, PROGRESS_PLAIN, PROGRESS_JSON, PROGRESS_NONE };

enum {
    PROGRESS_FRAME_SIZE = 4096,
    PROGRESS_REDRAW_MS = 100, /* at most 10 a second */
    PROGRESS_PLAIN_MS = 10000,
};

struct progress_bar {
    enum progress_mode mode;
    FILE *out;
    bool color;
    unsigned width;
    unsigned lines_drawn; /* by the last live frame */
    unsigned spin;
    unsigned percent; /* never goes back */
    int phase_told;   /* plain: the last phase that got a line */
    bool wait_told;   /* plain: that the pause does not fit */
    uint64_t told_ms;
    bool header_told;
};

void progress_bar_init(struct progress_bar *bar, enum progress_mode mode, FILE *out, bool color,
                       unsigned width);
/* `now_ms` decides whether something is drawn. Also called without news, for the spinner. */
void progress_bar_update(struct progress_bar *bar, const Godwit__JobInfo *job, uint64_t now_ms);
/* Take the live lines off the screen; further updates draw anew. */
void progress_bar_clear(struct progress_bar *bar);

/* "db-01  node1 -> node2   8.0 GiB RAM, 4 vCPU, policy balanced      job J4K7Q" */
void progress_bar_header(const Godwit__JobInfo *job, unsigned width, char *ret_text, size_t size);
/* The live lines, each ended by a line end; how many. */
unsigned progress_bar_frame(struct progress_bar *bar, const Godwit__JobInfo *job, char *ret_text,
                            size_t size);
/* "db-01: precopy, round 1, 53 %, ..." with a line end. */
void progress_bar_plain(const Godwit__JobInfo *job, unsigned percent, char *ret_text, size_t size);

#endif

/* How far a number of bytes has come: one line that is drawn anew, or a line per phase and per 10 s.
 *
 * Flow:   image_send, ImageProgress events -> [transfer_bar] -> stderr
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_TRANSFER_BAR_H
#define GODWIT_CLI_TRANSFER_BAR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct client;
struct context;

enum { TRANSFER_LINE_SIZE = 256, TRANSFER_REDRAW_MS = 100, TRANSFER_PLAIN_MS = 10000 };

struct transfer_bar {
    FILE *out;
    bool live, silent;
    bool drawn;      /* a line stands on the screen */
    char title[200]; /* what is told about now */
    uint64_t began_ms, told_ms, began_at;
};

/* By --progress, if the command has it, and by what the terminal can. */
void transfer_bar_init(struct transfer_bar *bar, struct context *context);
/* `what` is done with `done` of `total` bytes at `now_ms`. */
void transfer_bar_update(struct transfer_bar *bar, const char *what, uint64_t done, uint64_t total,
                         uint64_t now_ms);
/* Take the line off the screen. */
void transfer_bar_clear(struct transfer_bar *bar);
/* From now on the coordinator's events about images are shown; `bar` must outlive that. */
void transfer_bar_listen(struct transfer_bar *bar, struct client *client);

/* "debian12 to node2: fetch   45 %   120 MiB of 260 MiB   210 MiB/s   ETA 1 s". Pure. */
void transfer_bar_line(const struct transfer_bar *bar, uint64_t done, uint64_t total,
                       uint64_t now_ms, char ret_text[static TRANSFER_LINE_SIZE]);

#endif

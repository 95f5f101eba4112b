/* A raw file's way into the pool: its digest first, then its content in parts, a few under way.
 *
 * Flow:   cmd_image -> [image_send] -> client -> coordinator -> a host's agent
 * Thread: the command's.
 *
 * Whoever has the content already gets none of it again; a line that broke goes on where the host
 * was. Ctrl-C throws away what has come there.
 */
#ifndef GODWIT_CLI_IMAGE_SEND_H
#define GODWIT_CLI_IMAGE_SEND_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/image.pb-c.h"

struct client;
struct context;
struct fault;
struct transfer_bar;

enum { IMAGE_SEND_PARTS = 4 };

struct image_send {
    int fd; /* borrowed */
    uint64_t size;
    const Godwit__ImageInfo *image; /* borrowed; with its digest for image_send_all */
    const char *host;               /* "": the coordinator chooses */
    struct transfer_bar *bar;       /* borrowed */
    /* told: */
    char taken_by[64];
    uint64_t sent_bytes; /* of content, zeros not counted */
    bool was_there;
};

/* SHA-256 of the content, 64 digits and an end. */
int image_send_digest(struct image_send *send, char ret_digest[static 65], struct fault *fault);
/* Gives the coordinator's last answer, or one with an error, to free; ERR_CANCELED after Ctrl-C. */
int image_send_all(struct image_send *send, struct context *context, Godwit__ImageReply **ret_reply,
                   struct fault *fault);

#endif

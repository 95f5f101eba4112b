/* What `ls` commands share: print rows once, or again and again with -w.
 *
 * Flow:   cmd_* -> [listing] -> render -> stdout
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_LISTING_H
#define GODWIT_CLI_LISTING_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct context;
struct fault;
struct render_view;

enum { LISTING_WATCH_MS = 2000 };

struct listing {
    const struct render_view *view;
    const char *nothing; /* what is said on stderr when there are no rows */
    /* Ask the pool; gives a reply whose rows are borrowed from it. */
    int (*fetch)(struct context *context, ProtobufCMessage **ret_reply,
                 const ProtobufCMessage *const **ret_rows, size_t *ret_count, struct fault *fault);
};

int listing_run(struct context *context, const struct listing *listing);
/* Call `show` every two seconds with -w, once without; it returns an exit code. */
int listing_watch(struct context *context, int (*show)(struct context *context, const void *data),
                  const void *data);

#endif

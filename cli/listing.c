#include "cli/listing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/render.h"
#include "proto/gw_code.h"

int listing_watch(struct context *context, int (*show)(struct context *context, const void *data),
                  const void *data)
{
    bool again = command_flag(context->line, "watch");
    for (;;) {
        if (again && context->out_color)
            (void)fputs("\033[H\033[2J", context->out);
        int exit_code = show(context, data);
        (void)fflush(context->out);
        if (!again || exit_code != EXIT_CODE_DONE)
            return exit_code;
        const struct timespec pause = {.tv_sec = LISTING_WATCH_MS / 1000};
        (void)nanosleep(&pause, NULL); /* Ctrl-C ends the command here */
    }
}

static int show_rows(struct context *context, const void *data)
{
    const struct listing *listing = data;
    AUTO_FREE char *text = NULL;
    ProtobufCMessage *reply = NULL;
    const ProtobufCMessage *const *rows = NULL;
    size_t count = 0;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    int r = listing->fetch(context, &reply, &rows, &count, &fault);
    if (r == 0)
        r = render_list(&options, listing->view, rows, count, &text, &fault);
    if (r == 0)
        (void)fputs(text, context->out);
    if (r == 0 && count == 0 && !context_is_machine(context) && context->output != OUTPUT_NAME)
        (void)fprintf(context->talk, "%s\n", listing->nothing);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

int listing_run(struct context *context, const struct listing *listing)
{
    return listing_watch(context, show_rows, listing);
}

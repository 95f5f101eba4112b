/* Messages as tables, pages, JSON or names: what the columns are is data, how to print is here.
 *
 * Flow:   replies -> [render] -> base/table, base/json -> stdout
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_RENDER_H
#define GODWIT_CLI_RENDER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/context.h"

struct fault;

enum { RENDER_CELL_SIZE = 256 };

enum render_unit {
    RENDER_PLAIN,    /* as it is */
    RENDER_BYTES,    /* 8.0 GiB */
    RENDER_RATE,     /* 290 MiB/s */
    RENDER_DURATION, /* of ns */
    RENDER_AGO,      /* of Unix ms: "12 s ago" */
    RENDER_YES_NO,
};

struct render_column {
    const char *field; /* proto name, dotted for nested ones; also the name for --columns */
    const char *head;  /* in tables; pages print it as their key */
    enum render_unit unit;
    bool wide; /* only with -o wide and on pages */
    /* NULL: the field itself */
    void (*cell)(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE]);
};

struct render_view {
    const struct render_column *columns;
    size_t count;
    const char *name_field; /* what -o name prints */
};

struct render_options {
    enum output_form form;
    const char *columns; /* "name,state"; NULL: the view's */
    const char *sort_by; /* "-memory_bytes" turns the order round; NULL: as it came */
    bool no_headers, color;
    uint64_t now_unix_ms;
};

void render_options_of(const struct context *context, struct render_options *ret_options);

/* Give malloc'ed text. */
int render_list(const struct render_options *options, const struct render_view *view,
                const ProtobufCMessage *const *rows, size_t count, char **ret_text,
                struct fault *fault);
/* One thing on a page: "key  value" lines; absent values are left out. */
int render_page(const struct render_options *options, const struct render_view *view,
                const ProtobufCMessage *message, char **ret_text, struct fault *fault);

#endif

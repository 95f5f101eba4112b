/* What every command holds in its hand: its line, where to print, how, and the way to the pool.
 *
 * Flow:   main -> [context] -> cmd_*
 * Thread: the one of the command.
 */
#ifndef GODWIT_CLI_CONTEXT_H
#define GODWIT_CLI_CONTEXT_H

#include <stdbool.h>
#include <stdio.h>

#include "cli/command.h"

struct client;

enum output_form {
    OUTPUT_TABLE,
    OUTPUT_WIDE,
    OUTPUT_JSON,
    OUTPUT_NDJSON,
    OUTPUT_YAML,
    OUTPUT_NAME
};

struct context {
    const struct command_table *table;
    const struct command_line *line;
    FILE *out;  /* data */
    FILE *talk; /* everything else */
    bool out_color, talk_color;
    bool talk_live; /* a terminal on which lines may be redrawn */
    enum output_form output;
    struct client *client; /* made by client_of at first need */
};

/* Look at the streams, NO_COLOR, TERM and -o. */
void context_init(struct context *context, const struct command_table *table,
                  const struct command_line *line);
void context_deinit(struct context *context);
/* Is -o json, ndjson or yaml asked for: no prose on stdout, errors as JSON? */
bool context_is_machine(const struct context *context);
/* Columns of the talk terminal; 80 when unknown. */
unsigned context_width(const struct context *context);
/* Ask yes or no on the terminal; `-y` answers yes; no terminal answers no. */
bool context_confirm(struct context *context, const char *question);

#endif

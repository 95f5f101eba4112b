#include "cli/cmd_why.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/render.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

static void cell_mark(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__WhyHost *host = (const Godwit__WhyHost *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s",
                   host->is_here ? "here"
                   : host->best  ? "best other"
                   : host->fits  ? "fits"
                                 : "no");
}

static void cell_full(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__WhyHost *host = (const Godwit__WhyHost *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%.0f %%", 100 * host->full);
}

static void cell_stall(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__WhyHost *host = (const Godwit__WhyHost *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%+.2f", host->stall_delta);
}

static const struct render_column host_columns[] = {
    {.field = "host", .head = "HOST"},
    {.field = "fits", .head = "VERDICT", .cell = cell_mark},
    {.field = "stall_delta", .head = "WAITING", .cell = cell_stall},
    {.field = "full", .head = "FULL WITH IT", .cell = cell_full},
    {.field = "code", .head = "CODE"},
    {.field = "reason", .head = "REASON"},
};
static const struct render_view host_view = {
    .columns = host_columns, .count = ARRAY_COUNT(host_columns), .name_field = "host"};

static const struct render_column move_columns[] = {
    {.field = "job", .head = "JOB"},
    {.field = "source", .head = "FROM"},
    {.field = "target", .head = "TO"},
    {.field = "state", .head = "STATE"},
    {.field = "pause_ns", .head = "PAUSE", .unit = RENDER_DURATION},
    {.field = "ended_unix_ms", .head = "ENDED", .unit = RENDER_AGO},
    {.field = "plan", .head = "PLAN"},
    {.field = "reason", .head = "BECAUSE"},
};
static const struct render_view move_view = {
    .columns = move_columns, .count = ARRAY_COUNT(move_columns), .name_field = "job"};

static void print_table(struct context *context, const struct render_view *view, const void *rows,
                        size_t count)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    if (render_list(&options, view, rows, count, &text, &fault) == 0)
        (void)fputs(text, context->out);
}

static int tell(struct context *context, const Godwit__WhyReply *reply)
{
    if (context_is_machine(context)) {
        AUTO_FREE char *text = NULL;
        enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                              : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                               : JSON_FORM_COMPACT;
        if (json_print(&reply->base, form, &text, NULL) == 0)
            (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    (void)fprintf(context->out, "%s\n", words_or_dash(reply->verdict));
    for (size_t i = 0; i < reply->n_concessions; i++)
        (void)fprintf(context->out, "%s%s", i == 0 ? "would do: " : ", or ", reply->concessions[i]);
    if (reply->n_concessions > 0)
        (void)fputc('\n', context->out);
    print_table(context, &host_view, reply->hosts, reply->n_hosts);
    for (size_t i = 0; i < reply->n_rules; i++)
        (void)fprintf(context->out, "%s %s\n", i == 0 ? "rules" : "     ", reply->rules[i]);
    if (reply->n_moves > 0)
        print_table(context, &move_view, reply->moves, reply->n_moves);
    return EXIT_CODE_DONE;
}

static int ask(struct context *context, const char *vm, const char *host)
{
    Godwit__WhyRequest request = GODWIT__WHY_REQUEST__INIT;
    Godwit__WhyReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)vm; /* texts are only read */
    request.host = (char *)host;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_WHY, &request.base, &godwit__why_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error ? error_print(context, reply->error) : tell(context, reply);
    godwit__why_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_why(struct context *context)
{
    return ask(context, context->line->operands[0], NULL);
}

int cmd_why_not(struct context *context)
{
    return ask(context, context->line->operands[0], context->line->operands[1]);
}

#include "cli/cmd_job.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/job_wait.h"
#include "cli/listing.h"
#include "cli/receipt_text.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

static void cell_doing(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__JobInfo *job = (const Godwit__JobInfo *)row;
    const Godwit__MoveProgress *progress = job->progress;
    if (job_is_over(job)) {
        if (job->error && job->error->code)
            (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s %s", job->error->code,
                           job->error->name ? job->error->name : "");
    } else if (progress && progress->has_phase) {
        json_enum_word(&godwit__move_phase__descriptor, (int)progress->phase, ret_cell);
    } else if (job->step) {
        (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", job->step);
    }
}

static const struct render_column columns[] = {
    {.field = "id", .head = "JOB"},
    {.field = "kind", .head = "KIND"},
    {.field = "vm", .head = "VM"},
    {.field = "source", .head = "FROM"},
    {.field = "target", .head = "TO"},
    {.field = "state", .head = "STATE"},
    {.field = "step", .head = "DOING", .cell = cell_doing},
    {.field = "receipt.downtime_ns", .head = "DOWNTIME", .unit = RENDER_DURATION},
    {.field = "receipt.total_ns", .head = "TOTAL", .unit = RENDER_DURATION},
    {.field = "created_unix_ms", .head = "BEGAN", .unit = RENDER_AGO},
    {.field = "ended_unix_ms", .head = "ENDED", .unit = RENDER_AGO, .wide = true},
    {.field = "receipt.wire_bytes", .head = "WIRE", .unit = RENDER_BYTES, .wide = true},
    {.field = "vm_state", .head = "VM NOW", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "id"};

static int fetch(struct context *context, bool all, const char *job, Godwit__JobList **ret_list,
                 struct fault *fault)
{
    Godwit__JobListRequest request = GODWIT__JOB_LIST_REQUEST__INIT;
    struct client *client;
    request.has_all = true;
    request.all = all;
    request.job = (char *)job; /* only read */
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_JOB_LIST, &request.base, &godwit__job_list__descriptor,
                        CLIENT_CALL_MS, ret_list, fault);
    return r;
}

static int fetch_jobs(struct context *context, ProtobufCMessage **ret_reply,
                      const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                      struct fault *fault)
{
    Godwit__JobList *list = NULL;
    int r = fetch(context, command_flag(context->line, "all"), NULL, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->jobs;
    *ret_count = list->n_jobs;
    return 0;
}

int cmd_job_ls(struct context *context)
{
    static const struct listing listing = {
        .view = &view,
        .nothing = "No jobs are under way; godwit job ls --all shows the ended ones",
        .fetch = fetch_jobs};
    return listing_run(context, &listing);
}

/* The one job that is named; its list must be freed. */
static int fetch_one(struct context *context, Godwit__JobList **ret_list, struct fault *fault)
{
    const char *id = context->line->operands[0];
    Godwit__JobList *list = NULL;
    int r = fetch(context, true, id, &list, fault);
    if (r < 0)
        return r;
    if (list->n_jobs == 0) {
        godwit__job_list__free_unpacked(list, NULL);
        r = fault_set(fault, ERR_NOT_FOUND, "there is no job '%.40s'", id);
        fault_hint(fault, "godwit job ls --all");
        return r;
    }
    *ret_list = list;
    return 0;
}

static int print_report(struct context *context, const Godwit__JobInfo *job)
{
    if (context_is_machine(context) || context->output == OUTPUT_NAME) {
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &view, &job->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    char text[2 * RECEIPT_TEXT_SIZE];
    receipt_text_report(job, context_width(context), context->out_color, text, sizeof text);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

int cmd_job_show(struct context *context)
{
    Godwit__JobList *list = NULL;
    struct fault fault = {0};
    if (fetch_one(context, &list, &fault) < 0)
        return error_print_fault(context, &fault);
    const Godwit__JobInfo *job = list->jobs[0];
    int exit_code = EXIT_CODE_DONE;
    struct render_options options;
    AUTO_FREE char *text = NULL;
    render_options_of(context, &options);
    options.form = options.form == OUTPUT_TABLE ? OUTPUT_WIDE : options.form;
    if (render_page(&options, &view, &job->base, &text, &fault) < 0)
        exit_code = error_print_fault(context, &fault);
    else
        (void)fputs(text, context->out);
    for (size_t i = 0; text && !context_is_machine(context) && i < job->n_notes; i++)
        (void)fprintf(context->out, "%-14s %s\n", i == 0 ? "NOTES" : "", job->notes[i]);
    if (text && !context_is_machine(context) && job->error && job->error->message)
        (void)fprintf(context->out, "%-14s %s\n", "ERROR", job->error->message);
    godwit__job_list__free_unpacked(list, NULL);
    return exit_code;
}

int cmd_job_report(struct context *context)
{
    Godwit__JobList *list = NULL;
    struct fault fault = {0};
    if (fetch_one(context, &list, &fault) < 0)
        return error_print_fault(context, &fault);
    int exit_code = print_report(context, list->jobs[0]);
    godwit__job_list__free_unpacked(list, NULL);
    return exit_code;
}

int cmd_job_watch(struct context *context)
{
    return job_wait(context, context->line->operands[0], command_text(context->line, "progress"));
}

int cmd_job_set(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.has_downtime_ns_max = command_given(line, "max-downtime");
    goals.downtime_ns_max = command_number(line, "max-downtime");
    goals.has_deadline_ms = command_given(line, "deadline");
    goals.deadline_ms = command_number(line, "deadline") / NS_PER_MS;
    goals.has_bandwidth_bytes_per_s = command_given(line, "bandwidth");
    goals.bandwidth_bytes_per_s = command_number(line, "bandwidth");
    goals.policy = (char *)command_text(line, "policy"); /* only read */

    Godwit__JobSetRequest request = GODWIT__JOB_SET_REQUEST__INIT;
    Godwit__MigrateReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.job = (char *)line->operands[0]; /* only read */
    request.goals = &goals;
    if (!goals.has_downtime_ns_max && !goals.has_deadline_ms && !goals.has_bandwidth_bytes_per_s &&
        !(goals.policy && goals.policy[0])) {
        (void)fault_set(&fault, ERR_INVALID, "nothing to set");
        fault_hint(&fault, "godwit job set %s --max-downtime 300ms", line->operands[0]);
        return error_print_fault(context, &fault);
    }
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_JOB_SET, &request.base, &godwit__migrate_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    const Godwit__JobInfo *job = reply->job;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (job && context_is_machine(context))
        exit_code = print_report(context, job);
    else if (job)
        (void)fprintf(context->out, "job %s goes on with these goals\n", job->id ? job->id : "");
    godwit__migrate_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_job_cancel(struct context *context)
{
    Godwit__JobCancelRequest request = GODWIT__JOB_CANCEL_REQUEST__INIT;
    Godwit__MigrateReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.job = (char *)context->line->operands[0]; /* only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_JOB_CANCEL, &request.base,
                        &godwit__migrate_reply__descriptor, CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    const Godwit__JobInfo *job = reply->job;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (job && context_is_machine(context))
        exit_code = print_report(context, job);
    else if (job)
        (void)fprintf(context->out, "job %s is being canceled; %s stays on %s\n",
                      job->id ? job->id : "", job->vm ? job->vm : "the VM",
                      job->source ? job->source : "its host");
    godwit__migrate_reply__free_unpacked(reply, NULL);
    return exit_code;
}

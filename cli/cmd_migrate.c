#include "cli/cmd_migrate.h"

#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/forecast_text.h"
#include "cli/job_wait.h"
#include "cli/progress_bar.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { MIGRATE_MS = 60000, FORECAST_TEXT_SIZE = 2048 };

static void set_goals(const struct command_line *line, Godwit__MoveGoals *goals)
{
    *goals = (Godwit__MoveGoals)GODWIT__MOVE_GOALS__INIT;
    goals->has_downtime_ns_max = command_given(line, "max-downtime");
    goals->downtime_ns_max = command_number(line, "max-downtime");
    goals->has_deadline_ms = command_given(line, "deadline");
    goals->deadline_ms = command_number(line, "deadline") / NS_PER_MS;
    goals->has_bandwidth_bytes_per_s = command_given(line, "bandwidth");
    goals->bandwidth_bytes_per_s = command_number(line, "bandwidth");
    goals->has_lanes = command_given(line, "streams");
    goals->lanes = (uint32_t)command_number(line, "streams");
    goals->compress = (char *)command_text(line, "compress"); /* texts are only read */
    goals->delta = (char *)command_text(line, "delta");
    goals->mode = (char *)command_text(line, "mode");
    /* Not given: the VM's own policy and goal, then the pool's, are the coordinator's to find. */
    goals->policy = (char *)command_text(line, "policy");
    goals->has_away_ms_max = command_given(line, "reconnect");
    goals->away_ms_max = command_number(line, "reconnect") / NS_PER_MS;
    goals->has_postcopy = goals->postcopy = command_flag(line, "postcopy");
    goals->has_no_postcopy = goals->no_postcopy = command_flag(line, "no-postcopy");
    goals->has_verify_reread = command_flag(line, "verify");
    goals->verify_reread = command_flag(line, "verify");
    goals->has_with_local_disks = command_flag(line, "with-local-disks");
    goals->with_local_disks = command_flag(line, "with-local-disks");
}

static int print_job(struct context *context, const Godwit__JobInfo *job)
{
    AUTO_FREE char *text = NULL;
    struct fault fault = {0};
    enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                          : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                           : JSON_FORM_COMPACT;
    if (json_print(&job->base, form, &text, &fault) < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

static int tell_dry_run(struct context *context, const Godwit__JobInfo *job)
{
    if (context_is_machine(context))
        return print_job(context, job);
    (void)fprintf(context->out, "%s would move from %s to %s; nothing was changed\n",
                  job->vm ? job->vm : "the VM", job->source ? job->source : "-",
                  job->target ? job->target : "-");
    for (size_t i = 0; i < job->n_notes; i++)
        (void)fprintf(context->out, "  %s\n", job->notes[i]);
    char text[FORECAST_TEXT_SIZE];
    forecast_text_move(job, text, sizeof text);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

static int tell_started(struct context *context, const Godwit__JobInfo *job)
{
    if (context_is_machine(context))
        return print_job(context, job);
    (void)fprintf(context->out, "%s\n", job->id ? job->id : "");
    if (context->output != OUTPUT_NAME)
        (void)fprintf(context->talk, "%s is on its way to %s: godwit job watch %s\n",
                      job->vm ? job->vm : "the VM", job->target ? job->target : "another host",
                      job->id ? job->id : "");
    return EXIT_CODE_DONE;
}

static int migrate_one(struct context *context, const char *vm)
{
    const struct command_line *line = context->line;
    Godwit__MigrateRequest request = GODWIT__MIGRATE_REQUEST__INIT;
    Godwit__MoveGoals goals;
    Godwit__MigrateReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    set_goals(line, &goals);
    request.vm = (char *)vm; /* texts are only read */
    request.to = (char *)command_text(line, "to");
    request.goals = &goals;
    request.has_dry_run = true;
    request.dry_run = command_flag(line, "dry-run");
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_MIGRATE, &request.base, &godwit__migrate_reply__descriptor,
                        MIGRATE_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);

    int exit_code = EXIT_CODE_FAILED;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (reply->job && request.dry_run)
        exit_code = tell_dry_run(context, reply->job);
    else if (reply->job && command_flag(line, "no-wait"))
        exit_code = tell_started(context, reply->job);
    else if (reply->job && reply->job->id)
        exit_code = job_wait(context, reply->job->id, command_text(line, "progress"));
    godwit__migrate_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_vm_disk_move(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__DiskMoveRequest request = GODWIT__DISK_MOVE_REQUEST__INIT;
    Godwit__MigrateReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)line->operands[0]; /* texts are only read */
    request.disk = (char *)line->operands[1];
    request.to = (char *)command_text(line, "to");
    request.has_bandwidth_bytes_per_s = command_given(line, "bandwidth");
    request.bandwidth_bytes_per_s = command_number(line, "bandwidth");
    request.has_dry_run = true;
    request.dry_run = command_flag(line, "dry-run");
    if (!request.to) {
        (void)fault_set(&fault, ERR_INVALID, "where shall the disk go? --to STORE[:FILE]");
        fault_hint(&fault, "godwit store ls");
        return error_print_fault(context, &fault);
    }
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_DISK_MOVE, &request.base, &godwit__migrate_reply__descriptor,
                        MIGRATE_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);

    int exit_code = EXIT_CODE_FAILED;
    const Godwit__JobInfo *job = reply->job;
    if (reply->error) {
        exit_code = error_print(context, reply->error);
    } else if (job && request.dry_run) {
        exit_code = EXIT_CODE_DONE;
        if (context_is_machine(context))
            exit_code = print_job(context, job);
        else
            (void)fprintf(context->out, "disk %s of %s would move from %s to %s; nothing was changed\n",
                          job->disk_name ? job->disk_name : "", job->vm ? job->vm : "",
                          job->source ? job->source : "", job->target ? job->target : "");
    } else if (job && command_flag(line, "no-wait")) {
        exit_code = tell_started(context, job);
    } else if (job && job->id) {
        exit_code = job_wait(context, job->id, command_text(line, "progress"));
    }
    godwit__migrate_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_migrate(struct context *context)
{
    const struct command_line *line = context->line;
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0;
    for (size_t i = 0; i < line->operand_count; i++) {
        int exit_code = migrate_one(context, line->operands[i]);
        if (exit_code == EXIT_CODE_DETACHED) /* who leaves, leaves the batch */
            return exit_code;
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        }
    }
    if (line->operand_count > 1 && !context_is_machine(context))
        (void)fprintf(context->talk, "%zu of %zu VMs done\n", line->operand_count - failed,
                      line->operand_count);
    return failed > 0 && failed < line->operand_count ? EXIT_CODE_PARTLY : failed_with;
}

#include "cli/cmd_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/plan_text.h"
#include "cli/plan_wait.h"
#include "cli/render.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { PLAN_MAKE_MS = 60000, CHOICES_MAX = 256 };

static const struct render_column columns[] = {
    {.field = "id", .head = "PLAN"},
    {.field = "kind", .head = "KIND"},
    {.field = "host", .head = "HOST"},
    {.field = "state", .head = "STATE"},
    {.field = "steps_done", .head = "DONE"},
    {.field = "steps_total", .head = "OF"},
    {.field = "steps_running", .head = "NOW"},
    {.field = "predicted_ns", .head = "EXPECTED", .unit = RENDER_DURATION},
    {.field = "created_unix_ms", .head = "MADE", .unit = RENDER_AGO},
    {.field = "ended_unix_ms", .head = "ENDED", .unit = RENDER_AGO},
    {.field = "verdict", .head = "VERDICT"},
    {.field = "by", .head = "BY", .wide = true},
    {.field = "parent", .head = "PART OF", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "id"};

/* ---- making ---- */

struct choices { /* what --cold a,b and the like say */
    Godwit__VmChoice choices[CHOICES_MAX];
    Godwit__VmChoice *list[CHOICES_MAX];
    char *texts[4]; /* the split copies, owned */
    size_t text_count, count;
};

static int add_choices(struct choices *choices, const char *words, const char *how,
                       struct fault *fault)
{
    if (!words)
        return 0;
    char *copy = strdup(words);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory for the names of VMs");
    choices->texts[choices->text_count++] = copy;
    for (char *word = copy, *next; word; word = next) {
        next = strchr(word, ',');
        if (next)
            *next++ = '\0';
        if (!word[0])
            continue;
        if (choices->count == CHOICES_MAX)
            return fault_set(fault, ERR_LIMIT, "%d VMs may be named at most", CHOICES_MAX);
        Godwit__VmChoice *choice = &choices->choices[choices->count];
        godwit__vm_choice__init(choice);
        choice->vm = word;
        choice->how = (char *)how; /* texts are only read */
        choices->list[choices->count++] = choice;
    }
    return 0;
}

static int tell_plan(struct context *context, const Godwit__PlanInfo *plan)
{
    if (context_is_machine(context) || context->output == OUTPUT_NAME) {
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &view, &plan->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
    } else {
        plan_text_page(context->out, plan, true);
    }
    return EXIT_CODE_DONE;
}

static int make(struct context *context, Godwit__PlanMakeRequest *request)
{
    const struct command_line *line = context->line;
    Godwit__PlanReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request->has_dry_run = true;
    request->dry_run = command_flag(line, "dry-run");
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_PLAN_MAKE, &request->base, &godwit__plan_reply__descriptor,
                        PLAN_MAKE_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_FAILED;
    const Godwit__PlanInfo *plan = reply->plan;
    if (reply->error) {
        exit_code = error_print(context, reply->error);
    } else if (plan && request->dry_run) {
        exit_code = tell_plan(context, plan);
        if (!context_is_machine(context) && context->output != OUTPUT_NAME && plan->n_steps > 0)
            (void)fprintf(context->talk, "nothing was changed: godwit plan run %s does just this\n",
                          plan->id);
    } else if (plan && command_flag(line, "no-wait")) {
        (void)fprintf(context->out, "%s\n", plan->id);
        exit_code = EXIT_CODE_DONE;
    } else if (plan && plan->id) {
        exit_code = plan_wait(context, plan->id, command_text(line, "progress"));
    }
    godwit__plan_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_host_evacuate(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct choices choices = {0};
    struct fault fault = {0};
    static const char *const hows[] = {"live", "cold", "stop", "keep"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_COUNT(hows); i++)
        r = add_choices(&choices, command_text(line, hows[i]), hows[i], &fault);
    request.kind = (char *)"evacuate"; /* texts are only read */
    request.host = (char *)line->operands[0];
    request.choices = choices.list;
    request.n_choices = choices.count;
    request.has_by_ms = command_given(line, "by");
    request.by_ms = command_number(line, "by") / NS_PER_MS;
    int exit_code = r < 0 ? error_print_fault(context, &fault) : make(context, &request);
    for (size_t i = 0; i < choices.text_count; i++)
        free(choices.texts[i]);
    return exit_code;
}

int cmd_host_restore(struct context *context)
{
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    request.kind = (char *)"restore"; /* texts are only read */
    request.host = (char *)context->line->operands[0];
    request.has_bring_back = true;
    request.bring_back = command_flag(context->line, "bring-back");
    return make(context, &request);
}

int cmd_pool_reboot(struct context *context)
{
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    request.kind = (char *)"reboot"; /* texts are only read */
    request.hosts = (char **)(uintptr_t)context->line->operands;
    request.n_hosts = context->line->operand_count;
    if (!command_flag(context->line, "dry-run") &&
        !context_confirm(context, "Reboot these hosts, one after another?"))
        return EXIT_CODE_NOT_ALLOWED;
    return make(context, &request);
}

int cmd_rule_repair(struct context *context)
{
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    request.kind = (char *)"repair"; /* texts are only read */
    return make(context, &request);
}

/* ---- balance ---- */

static const struct render_column load_columns[] = {
    {.field = "host", .head = "HOST"},
    {.field = "load", .head = "LOAD"},
    {.field = "full", .head = "FULL"},
    {.field = "stall", .head = "STALL"},
    {.field = "waits", .head = "WAITS"},
    {.field = "psi_cpu", .head = "PSI CPU"},
    {.field = "psi_memory", .head = "PSI MEMORY"},
};
static const struct render_view load_view = {
    .columns = load_columns, .count = ARRAY_COUNT(load_columns), .name_field = "host"};

static int tell_auto(struct context *context, const Godwit__BalanceReply *reply)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    int r = render_list(&options, &load_view, (const ProtobufCMessage *const *)reply->hosts,
                        reply->n_hosts, &text, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    if (context_is_machine(context))
        return EXIT_CODE_DONE;
    (void)fprintf(context->talk, "balance auto %s%s%s\n", words_or_dash(reply->auto_),
                  reply->last && reply->last[0] ? "; last look: " : "",
                  reply->last && reply->last[0] ? reply->last : "");
    if (reply->plan)
        (void)fprintf(context->talk, "plan %s: godwit plan show %s   godwit plan run %s\n",
                      reply->plan, reply->plan, reply->plan);
    return EXIT_CODE_DONE;
}

static int balance_auto(struct context *context, const char *mode)
{
    Godwit__BalanceRequest request = GODWIT__BALANCE_REQUEST__INIT;
    Godwit__BalanceReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.set_auto = (char *)mode; /* texts are only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_BALANCE, &request.base, &godwit__balance_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error ? error_print(context, reply->error) : tell_auto(context, reply);
    godwit__balance_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_balance(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    if (line->operand_count > 0) {
        if (strcmp(line->operands[0], "auto") == 0 && line->operand_count <= 2)
            return balance_auto(context, line->operand_count == 2 ? line->operands[1] : NULL);
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_INVALID, "'%.60s' is not understood after balance",
                        line->operands[0]);
        fault_hint(&fault, "godwit balance auto on");
        return error_print_fault(context, &fault);
    }
    request.kind = (char *)"balance"; /* texts are only read */
    request.goal = (char *)command_text(line, "goal");
    return make(context, &request);
}

/* ---- plans that are there ---- */

static int fetch(struct context *context, const char *plan, Godwit__PlanList **ret_list,
                 struct fault *fault)
{
    Godwit__PlanListRequest request = GODWIT__PLAN_LIST_REQUEST__INIT;
    struct client *client;
    request.plan = (char *)plan; /* only read */
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_PLAN_LIST, &request.base, &godwit__plan_list__descriptor,
                        CLIENT_CALL_MS, ret_list, fault);
    return r;
}

static int fetch_plans(struct context *context, ProtobufCMessage **ret_reply,
                       const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                       struct fault *fault)
{
    Godwit__PlanList *list = NULL;
    int r = fetch(context, NULL, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->plans;
    *ret_count = list->n_plans;
    return 0;
}

int cmd_plan_ls(struct context *context)
{
    static const struct listing listing = {
        .view = &view, .nothing = "No plans were made yet", .fetch = fetch_plans};
    return listing_run(context, &listing);
}

int cmd_plan_show(struct context *context)
{
    Godwit__PlanList *list = NULL;
    struct fault fault = {0};
    if (fetch(context, context->line->operands[0], &list, &fault) < 0)
        return error_print_fault(context, &fault);
    int exit_code = list->n_plans == 1 ? tell_plan(context, list->plans[0]) : EXIT_CODE_NOT_FOUND;
    godwit__plan_list__free_unpacked(list, NULL);
    return exit_code;
}

static int act(struct context *context, Godwit__PlanVerb verb, const char *done, bool wait)
{
    Godwit__PlanActRequest request = GODWIT__PLAN_ACT_REQUEST__INIT;
    Godwit__PlanReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.plan = (char *)context->line->operands[0]; /* only read */
    request.has_verb = true;
    request.verb = verb;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_PLAN_ACT, &request.base, &godwit__plan_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (wait && reply->plan)
        exit_code = plan_wait(context, reply->plan->id, command_text(context->line, "progress"));
    else if (!context_is_machine(context))
        (void)fprintf(context->talk, "plan %s %s\n",
                      reply->plan ? reply->plan->id : context->line->operands[0], done);
    godwit__plan_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_plan_run(struct context *context)
{
    return act(context, GODWIT__PLAN_VERB__PLAN_VERB_RUN, "runs",
               !command_flag(context->line, "no-wait"));
}

int cmd_plan_watch(struct context *context)
{
    return plan_wait(context, context->line->operands[0], command_text(context->line, "progress"));
}

int cmd_plan_pause(struct context *context)
{
    return act(context, GODWIT__PLAN_VERB__PLAN_VERB_PAUSE,
               "begins no more steps; those under way finish", false);
}

int cmd_plan_resume(struct context *context)
{
    return act(context, GODWIT__PLAN_VERB__PLAN_VERB_RESUME, "goes on", false);
}

int cmd_plan_cancel(struct context *context)
{
    return act(context, GODWIT__PLAN_VERB__PLAN_VERB_CANCEL,
               "is being canceled; moves under way roll back or finish", false);
}

int cmd_plan_rm(struct context *context)
{
    return act(context, GODWIT__PLAN_VERB__PLAN_VERB_RM, "removed", false);
}

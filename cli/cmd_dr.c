#include "cli/cmd_dr.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/dr_wait.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "proto/dr.pb-c.h"
#include "proto/gw_code.h"
#include "proto/method.h"

/* ---- how one looks ---- */
static const Godwit__DrInfo *info_of(const ProtobufCMessage *row)
{
    return (const Godwit__DrInfo *)row;
}

static void say_ms(bool has, uint64_t ms, char ret_cell[static RENDER_CELL_SIZE])
{
    char text[UNITS_TEXT_SIZE] = "-";
    if (has)
        units_print_duration(ms * NS_PER_MS, text);
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", text);
}

static void cell_rpo(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    say_ms(info_of(row)->has_rpo_ms, info_of(row)->rpo_ms, ret_cell);
}

static void cell_goal(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    say_ms(true, info_of(row)->rpo_goal_ms, ret_cell);
}

static void cell_worst(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    say_ms(info_of(row)->has_rpo_worst_ms, info_of(row)->rpo_worst_ms, ret_cell);
}

static void cell_pauses(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    say_ms(info_of(row)->has_pause_all_ms, info_of(row)->pause_all_ms, ret_cell);
}

static void cell_link(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__DrInfo *info = info_of(row);
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s",
                   !info->has_is_linked ? "-"
                   : info->is_linked    ? "up"
                                        : "down");
}

/* Away it runs where its replica was, and nobody holds another. */
static void cell_target(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__DrInfo *info = info_of(row);
    bool is_away = info->state && strcmp(info->state, "away") == 0;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", is_away || !info->target ? "-" : info->target);
}

static void cell_test(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__DrTest *test = info_of(row)->test;
    const char *word = !test || !test->step                            ? "-"
                       : test->error && test->error[0]                 ? "failed"
                       : strcmp(test->step, "over") == 0               ? "ok"
                                                                       : test->step;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", word);
}

static void cell_test_rpo(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__DrTest *test = info_of(row)->test;
    say_ms(test && test->has_rpo_ms, test ? test->rpo_ms : 0, ret_cell);
}

static void cell_test_rto(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__DrTest *test = info_of(row)->test;
    say_ms(test && test->has_rto_ms, test ? test->rto_ms : 0, ret_cell);
}

static void cell_drill(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    say_ms(info_of(row)->has_drill_every_ms, info_of(row)->drill_every_ms, ret_cell);
}

static const struct render_column columns[] = {
    {.field = "vm", .head = "VM"},
    {.field = "source", .head = "FROM"},
    {.field = "target", .head = "TO", .cell = cell_target},
    {.field = "state", .head = "STATE"},
    {.field = "rpo_ms", .head = "RPO", .cell = cell_rpo},
    {.field = "rpo_goal_ms", .head = "GOAL", .cell = cell_goal},
    {.field = "rpo_worst_ms", .head = "WORST", .cell = cell_worst},
    {.field = "pause_all_ms", .head = "STOOD STILL", .cell = cell_pauses},
    {.field = "bytes_out", .head = "SENT", .unit = RENDER_BYTES},
    {.field = "is_linked", .head = "LINK", .cell = cell_link},
    {.field = "group", .head = "GROUP"},
    {.field = "reason", .head = "REASON"},
    {.field = "order", .head = "ORDER", .wide = true},
    {.field = "checkpoints", .head = "CHECKPOINTS", .wide = true},
    {.field = "missed_count", .head = "MISSED", .wide = true},
    {.field = "held_unix_ms", .head = "HELD", .unit = RENDER_AGO, .wide = true},
    {.field = "disks_only", .head = "DISKS ONLY", .unit = RENDER_YES_NO, .wide = true},
    {.field = "auto_take", .head = "AUTO", .unit = RENDER_YES_NO, .wide = true},
    {.field = "home", .head = "HOME", .wide = true},
    {.field = "last_op", .head = "LAST", .wide = true},
    {.field = "last_state", .head = "ENDED", .wide = true},
    {.field = "last_error", .head = "WHY", .wide = true},
    {.field = "test.step", .head = "TEST", .cell = cell_test, .wide = true},
    {.field = "test.began_unix_ms", .head = "TESTED", .unit = RENDER_AGO, .wide = true},
    {.field = "test.copy", .head = "COPY", .wide = true},
    {.field = "test.rpo_ms", .head = "TEST RPO", .cell = cell_test_rpo, .wide = true},
    {.field = "test.rto_ms", .head = "TEST RTO", .cell = cell_test_rto, .wide = true},
    {.field = "test.error", .head = "TEST WHY", .wide = true},
    {.field = "drill_every_ms", .head = "DRILL EVERY", .cell = cell_drill, .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "vm"};

/* ---- asking ---- */

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static Godwit__DrRequest request_of(Godwit__DrVerb verb)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    request.has_verb = true;
    request.verb = verb;
    return request;
}

static int call(struct context *context, const Godwit__DrRequest *request,
                Godwit__DrReply **ret_reply, struct fault *fault)
{
    struct client *client;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_DR, &request->base, &godwit__dr_reply__descriptor,
                        CLIENT_CALL_MS, ret_reply, fault);
    return r;
}

/* Gives the reply when the exit code is DONE. */
static int ask(struct context *context, const Godwit__DrRequest *request,
               Godwit__DrReply **ret_reply)
{
    Godwit__DrReply *reply = NULL;
    struct fault fault = {0};
    if (call(context, request, &reply, &fault) < 0)
        return error_print_fault(context, &fault);
    if (reply->error) {
        int exit_code = error_print(context, reply->error);
        godwit__dr_reply__free_unpacked(reply, NULL);
        return exit_code;
    }
    *ret_reply = reply;
    return EXIT_CODE_DONE;
}

/* ---- commands ---- */

static void fill_goals(const struct command_line *line, Godwit__DrRequest *request)
{
    request->to = text_of(command_text(line, "to"));
    request->group = text_of(command_text(line, "group"));
    request->has_rpo_ms = command_given(line, "rpo");
    request->rpo_ms = command_number(line, "rpo") / NS_PER_MS;
    request->has_bandwidth_bytes_per_s = command_given(line, "bandwidth");
    request->bandwidth_bytes_per_s = command_number(line, "bandwidth");
    request->has_disks_only = request->disks_only = command_flag(line, "disks-only");
    request->has_auto_take = request->auto_take = command_flag(line, "auto");
    request->has_order = command_given(line, "order");
    request->order = (uint32_t)command_number(line, "order");
    request->has_delay_ms = command_given(line, "delay");
    request->delay_ms = command_number(line, "delay") / NS_PER_MS;
}

int cmd_dr_protect(struct context *context)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_PROTECT);
    Godwit__DrReply *reply = NULL;
    struct fault fault = {0};
    request.vm = text_of(context->line->operands[0]);
    fill_goals(context->line, &request);
    if (!request.to) {
        (void)fault_set(&fault, ERR_INVALID, "--to HOST, or a peer pool, says where the replica is to lie");
        return error_print_fault(context, &fault);
    }
    int exit_code = ask(context, &request, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (reply->n_vms == 1) {
        char goal[UNITS_TEXT_SIZE];
        units_print_duration(reply->vms[0]->rpo_goal_ms * NS_PER_MS, goal);
        (void)fprintf(context->talk,
                      "%s is replicated to %s, goal %s; godwit dr status %s says once it is held\n",
                      reply->vms[0]->vm, reply->vms[0]->target, goal, reply->vms[0]->vm);
    }
    godwit__dr_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_dr_unprotect(struct context *context)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    Godwit__DrReply *reply = NULL;
    request.vm = text_of(context->line->operands[0]);
    request.has_force = request.force = command_flag(context->line, "force");
    int exit_code = ask(context, &request, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    (void)fprintf(context->talk, "the protection of %s ends; the VM is as it was\n", request.vm);
    godwit__dr_reply__free_unpacked(reply, NULL);
    return exit_code;
}

static int fetch(struct context *context, ProtobufCMessage **ret_reply,
                 const ProtobufCMessage *const **ret_rows, size_t *ret_count, struct fault *fault)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_STATUS);
    Godwit__DrReply *reply = NULL;
    if (context->line->operand_count > 0)
        request.vm = text_of(context->line->operands[0]);
    int r = call(context, &request, &reply, fault);
    if (r == 0 && reply->error) {
        r = fault_set(fault, ERR_NOT_FOUND, "%s",
                      reply->error->message ? reply->error->message : "no such VM");
        if (reply->error->hint)
            fault_hint(fault, "%s", reply->error->hint);
        godwit__dr_reply__free_unpacked(reply, NULL);
    }
    if (r < 0)
        return r;
    *ret_reply = &reply->base;
    *ret_rows = (const ProtobufCMessage *const *)reply->vms;
    *ret_count = reply->n_vms;
    return 0;
}

int cmd_dr_status(struct context *context)
{
    static const struct listing listing = {
        .view = &view, .nothing = "No replicas: godwit dr protect VM --to HOST", .fetch = fetch};
    return listing_run(context, &listing);
}

static int begin_and_wait(struct context *context, Godwit__DrRequest *request)
{
    Godwit__DrReply *reply = NULL;
    if (context->line->operand_count > 0)
        request->vm = text_of(context->line->operands[0]);
    request->group = text_of(command_text(context->line, "group"));
    int exit_code = ask(context, request, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    exit_code = dr_wait(context, reply);
    godwit__dr_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_dr_failover(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILOVER);
    const char *gone = command_text(line, "yes-the-old-host-is-gone");
    const char *down = command_text(line, "confirm-down");
    struct fault fault = {0};
    request.has_planned = request.planned = command_flag(line, "planned");
    request.has_accept_split = request.accept_split = command_flag(line, "accept-split");
    request.confirm = text_of(request.accept_split ? gone : down);
    if (request.accept_split != (gone != NULL) || (gone && down)) {
        (void)fault_set(
            &fault, ERR_INVALID,
            "--accept-split goes with --yes-the-old-host-is-gone NAME, and with nothing "
            "else");
        return error_print_fault(context, &fault);
    }
    return begin_and_wait(context, &request);
}

int cmd_dr_failback(struct context *context)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILBACK);
    return begin_and_wait(context, &request);
}

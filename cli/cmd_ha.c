#include "cli/cmd_ha.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/ha.pb-c.h"
#include "proto/method.h"

static const struct render_column host_columns[] = {
    {.field = "host", .head = "HOST"},           {.field = "state", .head = "STATE"},
    {.field = "classes", .head = "CLASSES"},     {.field = "agent", .head = "FENCE AGENT"},
    {.field = "fenced_by", .head = "FENCED BY"}, {.field = "protected_vms", .head = "VMS"},
};
static const struct render_view host_view = {
    .columns = host_columns, .count = ARRAY_COUNT(host_columns), .name_field = "host"};

static const struct render_column vm_columns[] = {
    {.field = "vm", .head = "VM"},         {.field = "priority", .head = "PRIORITY"},
    {.field = "state", .head = "STATE"},   {.field = "host", .head = "HOST"},
    {.field = "tries", .head = "STARTED"}, {.field = "reason", .head = "REASON"},
};
static const struct render_view vm_view = {
    .columns = vm_columns, .count = ARRAY_COUNT(vm_columns), .name_field = "vm"};

static int ask(struct context *context, const Godwit__HaRequest *request,
               Godwit__HaReply **ret_reply, struct fault *fault)
{
    struct client *client;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_HA, &request->base, &godwit__ha_reply__descriptor,
                        CLIENT_CALL_MS, ret_reply, fault);
    return r;
}

static int print_rows(struct context *context, const struct render_options *options,
                      const struct render_view *view, const void *rows, size_t count,
                      struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    if (count == 0)
        return 0;
    int r = render_list(options, view, (const ProtobufCMessage *const *)rows, count, &text, fault);
    if (r == 0)
        (void)fprintf(context->out, "\n%s", text);
    return r;
}

static int print_status(struct context *context, const Godwit__HaStatus *status,
                        struct fault *fault)
{
    static const struct render_view whole_view = {.name_field = "armed"};
    struct render_options options;
    AUTO_FREE char *text = NULL;
    render_options_of(context, &options);
    if (context_is_machine(context)) {
        int r = render_page(&options, &whole_view, &status->base, &text, fault);
        if (r == 0)
            (void)fputs(text, context->out);
        return r;
    }
    char left[UNITS_TEXT_SIZE] = "";
    uint64_t now_ms = world_wall_ms();
    if (!status->armed && status->rearm_unix_ms > now_ms)
        units_print_duration((status->rearm_unix_ms - now_ms) * NS_PER_MS, left);
    (void)fprintf(context->out, "HA is %s%s%s; room is kept for the death of %u %s: %s\n",
                  status->armed ? "armed" : "disarmed", left[0] ? ", armed again in " : "", left,
                  status->reserve, status->reserve == 1 ? "host" : "hosts",
                  status->reserve_holds ? "it is there" : status->reserve_lacks);
    int r = print_rows(context, &options, &host_view, status->hosts, status->n_hosts, fault);
    if (r == 0)
        r = print_rows(context, &options, &vm_view, status->vms, status->n_vms, fault);
    return r;
}

/* What was asked is done, or why not; `done`: the words for it, NULL: print the status. */
static int run(struct context *context, const Godwit__HaRequest *request, const char *done,
               const char *what)
{
    Godwit__HaReply *reply = NULL;
    struct fault fault = {0};
    int code = EXIT_CODE_DONE;
    int r = ask(context, request, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    if (reply->error) {
        code = error_print(context, reply->error);
    } else if (!done) {
        r = reply->status ? print_status(context, reply->status, &fault)
                          : fault_set(&fault, ERR_CORRUPT, "the coordinator's answer is empty");
    } else {
        (void)fprintf(context->talk, done, what);
        if (reply->status && !reply->status->reserve_holds)
            (void)fprintf(context->talk, "note: %s\n", reply->status->reserve_lacks);
    }
    godwit__ha_reply__free_unpacked(reply, NULL);
    return r < 0 ? error_print_fault(context, &fault) : code;
}

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static Godwit__HaRequest request_of(Godwit__HaVerb verb)
{
    Godwit__HaRequest request = GODWIT__HA_REQUEST__INIT;
    request.has_verb = true;
    request.verb = verb;
    return request;
}

int cmd_ha_status(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_STATUS);
    return run(context, &request, NULL, NULL);
}

int cmd_ha_add(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_ADD);
    request.vm = text_of(context->line->operands[0]);
    request.has_priority = command_given(context->line, "priority");
    request.priority = (uint32_t)command_number(context->line, "priority");
    return run(context, &request, "%s is protected\n", request.vm);
}

int cmd_ha_rm(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_RM);
    request.vm = text_of(context->line->operands[0]);
    return run(context, &request, "%s is no longer protected\n", request.vm);
}

int cmd_ha_arm(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_ARM);
    return run(context, &request, "HA is armed%s\n", "");
}

int cmd_ha_disarm(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_DISARM);
    request.has_for_s = true;
    request.for_s = command_number(context->line, "for") / NS_PER_S;
    return run(context, &request, "HA is disarmed, and arms itself again after %s\n",
               command_text(context->line, "for"));
}

int cmd_ha_reserve(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_RESERVE);
    char *end;
    unsigned long hosts = strtoul(context->line->operands[0], &end, 10);
    struct fault fault = {0};
    if (*end || end == context->line->operands[0] || hosts > 8) {
        (void)fault_set(&fault, ERR_INVALID, "'%.20s' is no number of hosts; 0 to 8 would fit",
                        context->line->operands[0]);
        return error_print_fault(context, &fault);
    }
    request.has_reserve = true;
    request.reserve = (uint32_t)hosts;
    return run(context, &request, "room is kept for the death of %s hosts\n",
               context->line->operands[0]);
}

int cmd_ha_fence_agent(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_FENCE_AGENT);
    bool none = context->line->operand_count < 2;
    request.host = text_of(context->line->operands[0]);
    request.agent = text_of(none ? "" : context->line->operands[1]);
    request.options = text_of(command_text(context->line, "options"));
    return run(context, &request,
               none ? "%s has no fence agent any more\n" : "the fence agent of %s is set\n",
               request.host);
}

int cmd_host_fence(struct context *context)
{
    Godwit__HaRequest request = request_of(GODWIT__HA_VERB__HA_VERB_CONFIRM_DOWN);
    struct fault fault = {0};
    request.host = text_of(context->line->operands[0]);
    request.confirm = text_of(command_text(context->line, "confirm-down"));
    if (!request.confirm) {
        (void)fault_set(&fault, ERR_INVALID,
                        "--confirm-down HOST says once more which host is down for certain");
        return error_print_fault(context, &fault);
    }
    return run(context, &request, "%s counts as down: what it ran is lost\n", request.host);
}

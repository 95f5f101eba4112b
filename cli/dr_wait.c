#include "cli/dr_wait.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/dr_waited.h"
#include "cli/error_text.h"
#include "cli/job_wait.h"
#include "proto/gw_code.h"
#include "proto/method.h"

enum { ASK_MS = 200 };

struct dr_wait {
    struct context *context;
    struct client *client;
    struct loop_timer *timer;
    struct dr_waiteds vms;
    bool is_due, is_gone;  /* the coordinator */
    Godwit__DrReply *last; /* owned */
};

static void on_tick(void *data)
{
    ((struct dr_wait *)data)->is_due = true;
}

static void take(struct dr_wait *wait, Godwit__DrReply *reply)
{
    dr_waiteds_take(&wait->vms, reply,
                    context_is_machine(wait->context) ? NULL : wait->context->talk);
    if (wait->last)
        godwit__dr_reply__free_unpacked(wait->last, NULL);
    wait->last = reply;
}

static int look(struct dr_wait *wait, struct fault *fault)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    Godwit__DrReply *reply = NULL;
    request.has_verb = true;
    request.verb = GODWIT__DR_VERB__DR_VERB_STATUS;
    if (!client_is_connected(wait->client)) {
        int r = client_reconnect(wait->client, fault);
        if (r < 0)
            return r;
    }
    int r = client_call(wait->client, METHOD_DR, &request.base, &godwit__dr_reply__descriptor,
                        CLIENT_CALL_MS, &reply, fault);
    if (r == 0)
        take(wait, reply);
    return r;
}

static int wait_for_all(struct dr_wait *wait, struct fault *fault)
{
    uint64_t gone_ms = 0;
    while (wait->vms.open > 0) {
        int r = look(wait, fault);
        if (r < 0) {
            gone_ms = gone_ms ? gone_ms : world_now_ms();
            if (!wait->is_gone && !context_is_machine(wait->context))
                (void)fprintf(wait->context->talk,
                              "the coordinator at %s is gone; it goes on when it is back, trying "
                              "again for 30 s\n",
                              client_address(wait->client));
            wait->is_gone = true;
            if (world_now_ms() - gone_ms >= JOB_WAIT_RECONNECT_MS) {
                fault_hint(fault, "godwit dr status");
                return r;
            }
        } else {
            gone_ms = 0;
            wait->is_gone = false;
        }
        for (wait->is_due = false; wait->vms.open > 0 && !wait->is_due;)
            client_turn(wait->client);
    }
    return 0;
}

/* ---- what it cost ---- */

static void say_bytes(struct context *context, const Godwit__DrInfo *info)
{
    char sent[UNITS_TEXT_SIZE], kept[UNITS_TEXT_SIZE];
    if (!info->has_last_bytes)
        return;
    units_print_bytes(info->last_bytes, sent);
    units_print_bytes(info->last_bytes_kept, kept);
    (void)fprintf(context->out, ", %s received", sent);
    if (info->last_bytes_kept)
        (void)fprintf(context->out, ", %s lay there and were equal", kept);
}

static int say_end(struct context *context, const Godwit__DrInfo *info)
{
    char rpo[UNITS_TEXT_SIZE] = "unknown", rto[UNITS_TEXT_SIZE];
    bool is_done = info->last_state && strcmp(info->last_state, "done") == 0;
    units_print_duration(info->last_rto_ms * NS_PER_MS, rto);
    if (info->has_last_rpo_ms)
        units_print_duration(info->last_rpo_ms * NS_PER_MS, rpo);
    if (!is_done) {
        (void)fprintf(context->out, "%s  FAILED after %s: %s (%s); %s\n", info->vm, rto,
                      info->last_error ? info->last_error : "",
                      info->last_code ? info->last_code : "", info->vm_state ? info->vm_state : "");
        return EXIT_CODE_FAILED;
    }
    (void)fprintf(
        context->out, "%s  %s; RPO %s%s, RTO %s", info->vm, info->vm_state ? info->vm_state : "",
        info->has_last_rpo_ms && info->last_rpo_ms > 0 ? "at most " : "",
        info->has_last_rpo_ms && info->last_rpo_ms == 0 ? "0: nothing was lost" : rpo, rto);
    say_bytes(context, info);
    (void)fputc('\n', context->out);
    return EXIT_CODE_DONE;
}

static int say_machine(struct context *context, const Godwit__DrInfo *info)
{
    AUTO_FREE char *text = NULL;
    enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                          : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                           : JSON_FORM_COMPACT;
    bool is_done = info->last_state && strcmp(info->last_state, "done") == 0;
    if (json_print(&info->base, form, &text, NULL) == 0)
        (void)fputs(text, context->out);
    return is_done ? EXIT_CODE_DONE : EXIT_CODE_FAILED;
}

static int say(struct context *context, const Godwit__DrInfo *info)
{
    return context_is_machine(context) ? say_machine(context, info) : say_end(context, info);
}

/* Its record went with its protection, and with it what it would have told. */
static void say_gone(struct context *context, struct dr_waited *waited)
{
    Godwit__DrInfo info = GODWIT__DR_INFO__INIT;
    info.vm = waited->vm;
    info.last_state = (char *)(uintptr_t) "failed";
    info.last_error = (char *)(uintptr_t) "its protection was ended meanwhile";
    if (context_is_machine(context))
        (void)say_machine(context, &info);
    else
        (void)fprintf(context->out, "%s  FAILED: %s; godwit vm show %s\n", info.vm, info.last_error,
                      info.vm);
}

static int say_all(struct dr_wait *wait)
{
    size_t failed = 0;
    for (size_t i = 0; wait->last && i < wait->last->n_vms; i++) {
        const Godwit__DrInfo *info = wait->last->vms[i];
        const struct dr_waited *waited = dr_waiteds_find(&wait->vms, info);
        if (waited && !waited->is_gone)
            failed += say(wait->context, info) != EXIT_CODE_DONE;
    }
    for (size_t i = 0; i < wait->vms.count; i++) {
        if (wait->vms.vms[i].is_gone)
            say_gone(wait->context, &wait->vms.vms[i]);
        failed += wait->vms.vms[i].is_gone;
    }
    if (failed == 0)
        return EXIT_CODE_DONE;
    return failed < wait->vms.count ? EXIT_CODE_PARTLY : EXIT_CODE_FAILED;
}

int dr_wait(struct context *context, const Godwit__DrReply *begun)
{
    struct dr_wait wait = {.context = context};
    struct fault fault = {0};
    dr_waiteds_init(&wait.vms, begun);
    int r = client_of(context, &wait.client, &fault);
    if (r == 0)
        r = loop_timer_new(&wait.timer, client_loop(wait.client), on_tick, &wait, &fault);
    if (r == 0) {
        loop_timer_start(wait.timer, ASK_MS, ASK_MS);
        r = wait_for_all(&wait, &fault);
    }
    int exit_code = r < 0 ? error_print_fault(context, &fault) : say_all(&wait);
    wait.timer = loop_timer_free(wait.timer);
    dr_waiteds_deinit(&wait.vms);
    if (wait.last)
        godwit__dr_reply__free_unpacked(wait.last, NULL);
    return exit_code;
}

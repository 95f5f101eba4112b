#include "cli/dr_wait.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/job_wait.h"
#include "proto/gw_code.h"
#include "proto/method.h"

enum { ASK_MS = 200 };

struct waited { /* one VM */
    char vm[ID_NAME_MAX + 1], told[256];
    uint64_t began_unix_ms;
    bool is_over;
};

struct dr_wait {
    struct context *context;
    struct client *client;
    struct loop_timer *timer;
    struct waited *vms; /* owned */
    size_t count, open;
    bool is_due, is_gone;  /* the coordinator */
    Godwit__DrReply *last; /* owned */
};

static void on_tick(void *data)
{
    ((struct dr_wait *)data)->is_due = true;
}

static struct waited *find(struct dr_wait *wait, const Godwit__DrInfo *info)
{
    for (size_t i = 0; i < wait->count; i++) {
        if (info->vm && strcmp(wait->vms[i].vm, info->vm) == 0)
            return &wait->vms[i];
    }
    return NULL;
}

static bool is_over(const struct waited *waited, const Godwit__DrInfo *info)
{
    bool is_same_one = info->began_unix_ms == waited->began_unix_ms;
    return !is_same_one || !info->last_state || strcmp(info->last_state, "running") != 0;
}

static void say_step(struct dr_wait *wait, struct waited *waited, const Godwit__DrInfo *info)
{
    char text[sizeof waited->told];
    (void)snprintf(text, sizeof text, "%s%s%s", info->state ? info->state : "",
                   info->reason && info->reason[0] ? ": " : "", info->reason ? info->reason : "");
    if (strcmp(text, waited->told) == 0 || context_is_machine(wait->context))
        return;
    memcpy(waited->told, text, sizeof waited->told);
    (void)fprintf(wait->context->talk, "  %s  %s\n", waited->vm, text);
    (void)fflush(wait->context->talk);
}

static void take(struct dr_wait *wait, Godwit__DrReply *reply)
{
    for (size_t i = 0; i < reply->n_vms; i++) {
        struct waited *waited = find(wait, reply->vms[i]);
        if (!waited || waited->is_over)
            continue;
        waited->is_over = is_over(waited, reply->vms[i]);
        wait->open -= waited->is_over;
        if (!waited->is_over)
            say_step(wait, waited, reply->vms[i]);
    }
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
    while (wait->open > 0) {
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
        for (wait->is_due = false; wait->open > 0 && !wait->is_due;)
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

static int say_all(struct dr_wait *wait)
{
    size_t failed = 0;
    for (size_t i = 0; wait->last && i < wait->last->n_vms; i++) {
        const Godwit__DrInfo *info = wait->last->vms[i];
        if (!find(wait, info))
            continue;
        int code = context_is_machine(wait->context) ? say_machine(wait->context, info)
                                                     : say_end(wait->context, info);
        failed += code != EXIT_CODE_DONE;
    }
    if (failed == 0)
        return EXIT_CODE_DONE;
    return failed < wait->count ? EXIT_CODE_PARTLY : EXIT_CODE_FAILED;
}

static void begin(struct dr_wait *wait, const Godwit__DrReply *begun)
{
    wait->vms = calloc(begun->n_vms + 1, sizeof *wait->vms);
    for (size_t i = 0; wait->vms && i < begun->n_vms; i++) {
        const Godwit__DrInfo *info = begun->vms[i];
        if (!info->last_state || strcmp(info->last_state, "running") != 0)
            continue; /* of its group, and had nothing to do */
        struct waited *waited = &wait->vms[wait->count++];
        (void)snprintf(waited->vm, sizeof waited->vm, "%s", info->vm ? info->vm : "");
        waited->began_unix_ms = info->began_unix_ms;
    }
    wait->open = wait->count;
}

int dr_wait(struct context *context, const Godwit__DrReply *begun)
{
    struct dr_wait wait = {.context = context};
    struct fault fault = {0};
    begin(&wait, begun);
    int r = client_of(context, &wait.client, &fault);
    if (r == 0)
        r = loop_timer_new(&wait.timer, client_loop(wait.client), on_tick, &wait, &fault);
    if (r == 0) {
        loop_timer_start(wait.timer, ASK_MS, ASK_MS);
        r = wait_for_all(&wait, &fault);
    }
    int exit_code = r < 0 ? error_print_fault(context, &fault) : say_all(&wait);
    wait.timer = loop_timer_free(wait.timer);
    free(wait.vms);
    if (wait.last)
        godwit__dr_reply__free_unpacked(wait.last, NULL);
    return exit_code;
}

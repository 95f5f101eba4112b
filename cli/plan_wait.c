#include "cli/plan_wait.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/job_wait.h"
#include "cli/plan_text.h"
#include "cli/progress_bar.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"

enum { LIVE_STEPS_MAX = 8, STEP_TEXT_SIZE = 512 };

struct plan_wait {
    struct context *context;
    struct client *client;
    char id[32];
    enum progress_mode mode;
    Godwit__PlanInfo *plan; /* the newest news; ours */
    char *told_states;      /* plain: the first letter of each step's state that got a line */
    size_t told_count;
    unsigned lines_drawn;
    uint64_t drawn_ms, told_ms;
    struct loop_timer *timer;
    struct loop_signal *interrupt;
    uint64_t interrupted_ms;
    bool detached, cancel, said, header_told;
    struct fault broken;
};

static void print_machine(struct context *context, const Godwit__PlanInfo *plan)
{
    AUTO_FREE char *text = NULL;
    enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                          : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                           : JSON_FORM_COMPACT;
    if (json_print(&plan->base, form, &text, NULL) == 0)
        (void)fputs(text, context->out);
}

int plan_tell_over(struct context *context, const Godwit__PlanInfo *plan)
{
    if (context_is_machine(context))
        print_machine(context, plan);
    else if (plan->verdict)
        (void)fprintf(context->out, "%s%s%s %s: %s; godwit plan show %s\n",
                      words_or_dash(plan->kind), plan->host ? " of " : "",
                      plan->host ? plan->host : "", words_or_dash(plan->state), plan->verdict,
                      words_or_dash(plan->id));
    if (plan->error)
        return error_print(context, plan->error);
    bool done = plan->state && strcmp(plan->state, "done") == 0;
    return done ? EXIT_CODE_DONE : EXIT_CODE_PARTLY;
}

/* ---- drawing ---- */

static void clear(struct plan_wait *wait)
{
    if (wait->lines_drawn > 0)
        (void)fprintf(wait->context->talk, "\033[%uF\033[J", wait->lines_drawn);
    wait->lines_drawn = 0;
}

static bool is_state(const Godwit__PlanStep *step, const char *state)
{
    return step->state && strcmp(step->state, state) == 0;
}

static void draw_live(struct plan_wait *wait)
{
    FILE *out = wait->context->talk;
    char text[STEP_TEXT_SIZE];
    unsigned width = context_width(wait->context) - 3, shown = 0;
    clear(wait);
    plan_text_count(wait->plan, text, sizeof text);
    (void)fprintf(out, "%s\n", text);
    wait->lines_drawn = 1;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < wait->plan->n_steps && shown < LIVE_STEPS_MAX; i++) {
            const Godwit__PlanStep *step = wait->plan->steps[i];
            if (!is_state(step, pass == 0 ? "running" : "waiting"))
                continue;
            plan_text_step(step, text, sizeof text);
            words_cut(text, width);
            (void)fprintf(out, "  %s\n", text);
            wait->lines_drawn++;
            shown++;
        }
    }
    (void)fflush(out);
}

/* One line for each step that ended, so that a log tells what happened. */
static void tell_ended(struct plan_wait *wait)
{
    if (wait->told_count != wait->plan->n_steps) {
        free(wait->told_states);
        wait->told_states = calloc(wait->plan->n_steps + 1, 1);
        wait->told_count = wait->told_states ? wait->plan->n_steps : 0;
    }
    for (size_t i = 0; i < wait->told_count; i++) {
        const Godwit__PlanStep *step = wait->plan->steps[i];
        char text[STEP_TEXT_SIZE];
        bool is_open = is_state(step, "waiting") || is_state(step, "running");
        if (is_open || !step->state || wait->told_states[i] == step->state[0])
            continue;
        wait->told_states[i] = step->state[0];
        clear(wait);
        plan_text_step(step, text, sizeof text);
        (void)fprintf(wait->context->talk, "%s %s\n", is_state(step, "done") ? "✔" : "✖", text);
    }
}

static void show(struct plan_wait *wait)
{
    uint64_t now_ms = world_now_ms();
    if (!wait->plan || wait->mode == PROGRESS_NONE)
        return;
    if (!wait->header_told && wait->mode != PROGRESS_JSON) {
        plan_text_header(wait->context->talk, wait->plan);
        wait->header_told = true;
    }
    if (wait->mode == PROGRESS_JSON) {
        AUTO_FREE char *text = NULL;
        if (now_ms - wait->told_ms < 1000)
            return;
        wait->told_ms = now_ms;
        if (json_print(&wait->plan->base, JSON_FORM_COMPACT, &text, NULL) == 0)
            (void)fputs(text, wait->context->talk);
        return;
    }
    tell_ended(wait);
    if (wait->mode == PROGRESS_LIVE && now_ms - wait->drawn_ms >= PROGRESS_REDRAW_MS) {
        wait->drawn_ms = now_ms;
        draw_live(wait);
    } else if (wait->mode == PROGRESS_PLAIN && now_ms - wait->told_ms >= PROGRESS_PLAIN_MS) {
        char text[STEP_TEXT_SIZE];
        wait->told_ms = now_ms;
        plan_text_count(wait->plan, text, sizeof text);
        (void)fprintf(wait->context->talk, "%s\n", text);
    }
    (void)fflush(wait->context->talk);
}

/* ---- news ---- */

static void keep_news(struct plan_wait *wait, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return; /* the next event says more anyway */
    (void)protobuf_c_message_pack(message, bytes);
    Godwit__PlanInfo *plan = godwit__plan_info__unpack(NULL, size, bytes);
    if (!plan)
        return;
    if (wait->plan)
        godwit__plan_info__free_unpacked(wait->plan, NULL);
    wait->plan = plan;
}

static void on_event(void *data, uint16_t method, const ProtobufCMessage *message)
{
    struct plan_wait *wait = data;
    const Godwit__PlanInfo *plan = (const Godwit__PlanInfo *)message;
    if (method == METHOD_PLAN_EVENT && plan->id && strcmp(plan->id, wait->id) == 0)
        keep_news(wait, message);
}

static void on_closed(void *data, const struct fault *fault)
{
    struct plan_wait *wait = data;
    if (fault)
        wait->broken = *fault;
    else
        (void)fault_set(&wait->broken, ERR_CLOSED, "the coordinator closed the connection");
}

static void on_tick(void *data)
{
    (void)data; /* it only makes the loop turn: drawing is done outside of callbacks */
}

static void on_interrupt(void *data, int signal_number)
{
    struct plan_wait *wait = data;
    (void)signal_number;
    if (wait->interrupted_ms == 0)
        wait->interrupted_ms = world_now_ms();
    else
        wait->cancel = true;
}

static int start_watch(struct plan_wait *wait, struct fault *fault)
{
    Godwit__PlanWatchRequest request = GODWIT__PLAN_WATCH_REQUEST__INIT;
    Godwit__PlanReply *reply = NULL;
    request.plan = wait->id;
    int r = client_call(wait->client, METHOD_PLAN_WATCH, &request.base,
                        &godwit__plan_reply__descriptor, CLIENT_CALL_MS, &reply, fault);
    if (r < 0)
        return r;
    if (reply->plan) {
        if (reply->plan->id) /* a prefix becomes the whole id */
            (void)snprintf(wait->id, sizeof wait->id, "%s", reply->plan->id);
        keep_news(wait, &reply->plan->base);
    } else {
        r = fault_set(fault, ERR_NOT_FOUND, "%s",
                      reply->error && reply->error->message ? reply->error->message
                                                            : "there is no such plan");
    }
    godwit__plan_reply__free_unpacked(reply, NULL);
    return r;
}

static void cancel(struct plan_wait *wait)
{
    Godwit__PlanActRequest request = GODWIT__PLAN_ACT_REQUEST__INIT;
    Godwit__PlanReply *reply = NULL;
    struct fault fault = {0};
    request.plan = wait->id;
    request.has_verb = true;
    request.verb = GODWIT__PLAN_VERB__PLAN_VERB_CANCEL;
    (void)fprintf(wait->context->talk, "Cancelling plan %s.\n", wait->id);
    if (client_call(wait->client, METHOD_PLAN_ACT, &request.base, &godwit__plan_reply__descriptor,
                    CLIENT_CALL_MS, &reply, &fault) < 0) {
        (void)error_print_fault(wait->context, &fault);
        return;
    }
    if (reply->error)
        (void)error_print(wait->context, reply->error);
    godwit__plan_reply__free_unpacked(reply, NULL);
}

static void heed_interrupts(struct plan_wait *wait)
{
    if (wait->interrupted_ms == 0)
        return;
    if (!wait->said) {
        clear(wait);
        if (!context_is_machine(wait->context))
            (void)fprintf(wait->context->talk,
                          "\nThe plan goes on. Ctrl-C again within 3 s cancels it; later: "
                          "godwit plan watch %s   godwit plan cancel %s\n",
                          wait->id, wait->id);
        wait->said = true;
    }
    if (wait->cancel) {
        wait->cancel = wait->said = false;
        wait->interrupted_ms = 0;
        cancel(wait);
    } else if (world_now_ms() - wait->interrupted_ms > JOB_WAIT_SECOND_CTRL_C_MS) {
        wait->detached = true;
    }
}

static int come_back(struct plan_wait *wait, struct fault *fault)
{
    uint64_t began_ms = world_now_ms(), tried_ms = 0;
    int r = ERR_UNREACHABLE;
    clear(wait);
    if (!context_is_machine(wait->context))
        (void)fprintf(wait->context->talk,
                      "the coordinator at %s is gone (%.200s); moves under way go on without it, "
                      "trying again for 30 s\n",
                      client_address(wait->client), wait->broken.text);
    while (world_now_ms() - began_ms < JOB_WAIT_RECONNECT_MS && wait->interrupted_ms == 0) {
        if (tried_ms == 0 || world_now_ms() - tried_ms >= 1000) {
            tried_ms = world_now_ms();
            r = client_reconnect(wait->client, fault);
            if (r == 0)
                r = start_watch(wait, fault);
            if (r == 0) {
                wait->broken = (struct fault){0};
                if (!context_is_machine(wait->context))
                    (void)fprintf(wait->context->talk, "the coordinator is back\n");
                return 0;
            }
            if (r != ERR_UNREACHABLE && r != ERR_CLOSED && r != ERR_TIMEOUT)
                return r;
        }
        client_turn(wait->client);
    }
    fault_hint(fault, "godwit plan watch %s", wait->id);
    return r;
}

static int wait_for_end(struct plan_wait *wait, struct fault *fault)
{
    for (;;) {
        if (wait->broken.code < 0) {
            int r = come_back(wait, fault);
            if (wait->interrupted_ms != 0)
                wait->detached = true;
            else if (r < 0)
                return r;
        }
        if (wait->interrupted_ms == 0)
            show(wait);
        if (wait->detached || (wait->plan && plan_text_is_over(wait->plan)))
            return 0;
        client_turn(wait->client);
        heed_interrupts(wait);
    }
}

static int start(struct plan_wait *wait, struct fault *fault)
{
    struct loop *loop = client_loop(wait->client);
    const struct client_listener listener = {.event = on_event, .closed = on_closed, .data = wait};
    client_listen(wait->client, &listener);
    int r = loop_timer_new(&wait->timer, loop, on_tick, wait, fault);
    if (r == 0)
        r = loop_signal_new(&wait->interrupt, loop, SIGINT, on_interrupt, wait, fault);
    if (r == 0)
        r = start_watch(wait, fault);
    if (r < 0)
        return r;
    loop_timer_start(wait->timer, PROGRESS_REDRAW_MS, PROGRESS_REDRAW_MS);
    return 0;
}

static enum progress_mode mode_of(const struct context *context, const char *word)
{
    if (word && strcmp(word, "none") == 0)
        return PROGRESS_NONE;
    if (word && strcmp(word, "json") == 0)
        return PROGRESS_JSON;
    if (word && strcmp(word, "plain") == 0)
        return PROGRESS_PLAIN;
    if (context_is_machine(context))
        return PROGRESS_NONE;
    return context->talk_live ? PROGRESS_LIVE : PROGRESS_PLAIN;
}

int plan_wait(struct context *context, const char *plan_id, const char *progress)
{
    struct plan_wait wait = {.context = context, .mode = mode_of(context, progress)};
    struct fault fault = {0};
    wait.told_ms = world_now_ms();
    (void)snprintf(wait.id, sizeof wait.id, "%s", plan_id);
    int r = client_of(context, &wait.client, &fault);
    if (r == 0)
        r = start(&wait, &fault);
    if (r == 0)
        r = wait_for_end(&wait, &fault);

    clear(&wait);
    int exit_code;
    if (r < 0)
        exit_code = error_print_fault(context, &fault);
    else if (wait.detached && !plan_text_is_over(wait.plan))
        exit_code = EXIT_CODE_DETACHED;
    else
        exit_code = plan_tell_over(context, wait.plan);
    wait.interrupt = loop_signal_free(wait.interrupt);
    wait.timer = loop_timer_free(wait.timer);
    if (wait.client)
        client_listen(wait.client, NULL);
    if (wait.plan)
        godwit__plan_info__free_unpacked(wait.plan, NULL);
    free(wait.told_states);
    return exit_code;
}

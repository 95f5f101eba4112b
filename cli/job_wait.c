#include "cli/job_wait.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/disk_move_text.h"
#include "cli/error_text.h"
#include "cli/progress_bar.h"
#include "cli/receipt_text.h"
#include "proto/gw_code.h"
#include "proto/method.h"

struct job_wait {
    struct context *context;
    struct client *client;
    char id[32];
    Godwit__JobInfo *job; /* the newest news; ours */
    struct progress_bar bar;
    struct loop_timer *timer;
    struct loop_signal *interrupt;
    uint64_t interrupted_ms; /* of the first Ctrl-C; 0: none yet */
    /* of a disk's move, whose progress is one line */
    char disk_told[16]; /* the state that it was told in */
    uint64_t disk_told_ms;
    bool disk_is_drawn;
    bool detached, cancel;
    struct fault broken; /* why the connection went */
};

bool job_is_over(const Godwit__JobInfo *job)
{
    static const char *const over[] = {"done", "failed", "rolled-back", "canceled"};
    if (job->ended_unix_ms != 0)
        return true;
    for (size_t i = 0; job->state && i < ARRAY_COUNT(over); i++) {
        if (strcmp(job->state, over[i]) == 0)
            return true;
    }
    return false;
}

static bool needs_attention(const Godwit__JobInfo *job)
{
    return job->state && strcmp(job->state, "attention") == 0;
}

static int exit_code_of_state(const char *state)
{
    static const struct {
        const char *state;
        int exit_code;
    } codes[] = {
        {"done", EXIT_CODE_DONE},
        {"failed", EXIT_CODE_FAILED},
        {"rolled-back", EXIT_CODE_ROLLED_BACK},
        {"canceled", EXIT_CODE_ROLLED_BACK},
        {"attention", EXIT_CODE_ATTENTION},
    };
    for (size_t i = 0; state && i < ARRAY_COUNT(codes); i++) {
        if (strcmp(codes[i].state, state) == 0)
            return codes[i].exit_code;
    }
    return EXIT_CODE_FAILED;
}

static void print_machine(struct context *context, const Godwit__JobInfo *job)
{
    AUTO_FREE char *text = NULL;
    enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                          : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                           : JSON_FORM_COMPACT;
    if (json_print(&job->base, form, &text, NULL) == 0)
        (void)fputs(text, context->out);
}

int job_tell_end(struct context *context, const Godwit__JobInfo *job, bool with_phases)
{
    int exit_code = exit_code_of_state(job->state);
    char text[RECEIPT_TEXT_SIZE];
    bool machine = context_is_machine(context);
    if (machine) {
        print_machine(context, job);
    } else if (with_phases && !disk_move_text_is(job)) {
        receipt_text_phases(job, context_width(context), context->talk_color, text, sizeof text);
        (void)fputs(text, context->talk);
        (void)fflush(context->talk);
    }
    if (exit_code == EXIT_CODE_DONE) {
        if (disk_move_text_is(job))
            disk_move_text_summary(job, text, sizeof text);
        else
            receipt_text_summary(job, text, sizeof text);
        if (!machine)
            (void)fputs(text, context->out);
        return exit_code;
    }
    if (job->error) {
        Godwit__OperatorError error = *job->error;
        if (!error.vm_state || !error.vm_state[0])
            error.vm_state = job->vm_state;
        int told = error_print(context, &error);
        return error.has_exit_code ? told : exit_code;
    }
    if (!machine) {
        if (disk_move_text_is(job))
            disk_move_text_summary(job, text, sizeof text);
        else
            receipt_text_summary(job, text, sizeof text);
        (void)fputs(text, context->talk);
    }
    return exit_code;
}

/* ---- news ---- */

static void keep_news(struct job_wait *wait, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return; /* the next event says more anyway */
    (void)protobuf_c_message_pack(message, bytes);
    Godwit__JobInfo *job = godwit__job_info__unpack(NULL, size, bytes);
    if (!job)
        return;
    if (wait->job)
        godwit__job_info__free_unpacked(wait->job, NULL);
    wait->job = job;
}

static void on_event(void *data, uint16_t method, const ProtobufCMessage *message)
{
    struct job_wait *wait = data;
    const Godwit__JobInfo *job = (const Godwit__JobInfo *)message;
    if (method != METHOD_JOB_EVENT || !job->id || strcmp(job->id, wait->id) != 0)
        return;
    keep_news(wait, message);
}

static void on_closed(void *data, const struct fault *fault)
{
    struct job_wait *wait = data;
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
    struct job_wait *wait = data;
    (void)signal_number;
    if (wait->interrupted_ms == 0)
        wait->interrupted_ms = world_now_ms();
    else
        wait->cancel = true;
}

static int start_watch(struct job_wait *wait, struct fault *fault)
{
    Godwit__JobWatchRequest request = GODWIT__JOB_WATCH_REQUEST__INIT;
    Godwit__MigrateReply *reply = NULL;
    request.job = wait->id;
    int r = client_call(wait->client, METHOD_JOB_WATCH, &request.base,
                        &godwit__migrate_reply__descriptor, CLIENT_CALL_MS, &reply, fault);
    if (r < 0)
        return r;
    if (reply->job) {
        if (reply->job->id) /* a prefix becomes the whole id */
            (void)snprintf(wait->id, sizeof wait->id, "%s", reply->job->id);
        if (!wait->job)
            keep_news(wait, &reply->job->base);
        else if (job_is_over(reply->job))
            keep_news(wait, &reply->job->base);
    } else {
        r = fault_set(fault, ERR_NOT_FOUND, "%s",
                      reply->error && reply->error->message ? reply->error->message
                                                            : "there is no such job");
        if (reply->error && reply->error->hint)
            fault_hint(fault, "%s", reply->error->hint);
    }
    godwit__migrate_reply__free_unpacked(reply, NULL);
    return r;
}

/* ---- Ctrl-C ---- */

static void say_detached(struct job_wait *wait)
{
    if (context_is_machine(wait->context))
        return;
    (void)fprintf(wait->context->talk,
                  "\nThe job goes on. Ctrl-C again within 3 s cancels it; later: "
                  "godwit job watch %s   godwit job cancel %s\n",
                  wait->id, wait->id);
}

static void cancel(struct job_wait *wait)
{
    Godwit__JobCancelRequest request = GODWIT__JOB_CANCEL_REQUEST__INIT;
    Godwit__MigrateReply *reply = NULL;
    struct fault fault = {0};
    request.job = wait->id;
    (void)fprintf(wait->context->talk, "Cancelling job %s.\n", wait->id);
    int r = client_call(wait->client, METHOD_JOB_CANCEL, &request.base,
                        &godwit__migrate_reply__descriptor, CLIENT_CALL_MS, &reply, &fault);
    if (r < 0) {
        (void)error_print_fault(wait->context, &fault);
        return;
    }
    if (reply->error)
        (void)error_print(wait->context, reply->error);
    godwit__migrate_reply__free_unpacked(reply, NULL);
}

/* After the first Ctrl-C the wait goes on silently for 3 s, for a second one; a terminal that shows
 * a prompt while its next Ctrl-C cancels a move would be a trap. */
static void heed_interrupts(struct job_wait *wait, bool *said)
{
    if (wait->interrupted_ms == 0)
        return;
    if (!*said) {
        progress_bar_clear(&wait->bar);
        say_detached(wait);
        *said = true;
    }
    if (wait->cancel) {
        wait->cancel = false;
        wait->interrupted_ms = 0;
        *said = false;
        cancel(wait);
    } else if (world_now_ms() - wait->interrupted_ms > JOB_WAIT_SECOND_CTRL_C_MS) {
        wait->detached = true;
    }
}

/* ---- a broken connection ---- */

static int come_back(struct job_wait *wait, struct fault *fault)
{
    uint64_t began_ms = world_now_ms(), tried_ms = 0;
    int r = ERR_UNREACHABLE;
    progress_bar_clear(&wait->bar);
    if (!context_is_machine(wait->context))
        (void)fprintf(wait->context->talk,
                      "the coordinator at %s is gone (%.200s); the move goes on without it, "
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
    fault_hint(fault, "godwit job watch %s", wait->id);
    return r;
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

static void clear_disk_line(struct job_wait *wait)
{
    if (wait->disk_is_drawn)
        (void)fputs("\r\033[K", wait->context->talk);
    wait->disk_is_drawn = false;
}

static void show_disk(struct job_wait *wait, uint64_t now_ms)
{
    const Godwit__JobInfo *job = wait->job;
    const char *state = job->disk && job->disk->state ? job->disk->state : "";
    bool is_new = strcmp(state, wait->disk_told) != 0;
    char text[512];
    if (wait->bar.mode == PROGRESS_JSON)
        progress_bar_update(&wait->bar, job, now_ms);
    if (wait->bar.mode != PROGRESS_LIVE && wait->bar.mode != PROGRESS_PLAIN)
        return;
    uint64_t every_ms = wait->bar.mode == PROGRESS_LIVE ? PROGRESS_REDRAW_MS : PROGRESS_PLAIN_MS;
    if (!is_new && now_ms - wait->disk_told_ms < every_ms)
        return;
    (void)snprintf(wait->disk_told, sizeof wait->disk_told, "%s", state);
    wait->disk_told_ms = now_ms;
    disk_move_text_progress(job, text, sizeof text);
    if (wait->bar.mode == PROGRESS_LIVE)
        (void)fprintf(wait->context->talk, "\r\033[K%.*s", (int)wait->bar.width - 1, text);
    else
        (void)fprintf(wait->context->talk, "%s\n", text);
    wait->disk_is_drawn = wait->bar.mode == PROGRESS_LIVE;
    (void)fflush(wait->context->talk);
}

static void show(struct job_wait *wait)
{
    if (disk_move_text_is(wait->job))
        show_disk(wait, world_now_ms());
    else
        progress_bar_update(&wait->bar, wait->job, world_now_ms());
}

static int wait_for_end(struct job_wait *wait, struct fault *fault)
{
    bool said = false;
    for (;;) {
        if (wait->broken.code < 0) {
            int r = come_back(wait, fault);
            if (wait->interrupted_ms != 0)
                wait->detached = true;
            else if (r < 0)
                return r;
        }
        if (wait->detached || (wait->job && (job_is_over(wait->job) || needs_attention(wait->job))))
            return 0;
        if (wait->job && wait->interrupted_ms == 0)
            show(wait);
        client_turn(wait->client);
        heed_interrupts(wait, &said);
    }
}

static int start(struct job_wait *wait, struct fault *fault)
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

static int tell(struct job_wait *wait)
{
    struct context *context = wait->context;
    progress_bar_clear(&wait->bar);
    clear_disk_line(wait);
    if (wait->detached && !(wait->job && job_is_over(wait->job)))
        return EXIT_CODE_DETACHED;
    bool phases = wait->bar.mode == PROGRESS_LIVE || wait->bar.mode == PROGRESS_PLAIN;
    if (phases && !wait->bar.header_told && !disk_move_text_is(wait->job)) { /* it was over before the first redraw */
        char header[256];
        progress_bar_header(wait->job, wait->bar.width, header, sizeof header);
        (void)fputs(header, context->talk);
    }
    return job_tell_end(context, wait->job, phases);
}

int job_wait(struct context *context, const char *job_id, const char *progress)
{
    struct job_wait wait = {.context = context};
    struct fault fault = {0};
    (void)snprintf(wait.id, sizeof wait.id, "%s", job_id);
    progress_bar_init(&wait.bar, mode_of(context, progress), context->talk, context->talk_color,
                      context_width(context));
    int r = client_of(context, &wait.client, &fault);
    if (r == 0)
        r = start(&wait, &fault);
    if (r == 0)
        r = wait_for_end(&wait, &fault);

    progress_bar_clear(&wait.bar);
    int exit_code = r < 0 ? error_print_fault(context, &fault) : tell(&wait);
    wait.interrupt = loop_signal_free(wait.interrupt);
    wait.timer = loop_timer_free(wait.timer);
    if (wait.client)
        client_listen(wait.client, NULL);
    if (wait.job)
        godwit__job_info__free_unpacked(wait.job, NULL);
    return exit_code;
}

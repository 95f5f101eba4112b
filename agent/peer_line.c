#include "agent/peer_line.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { ANSWER_MS = 10000 };

struct peer_line {
    struct loop *loop;
    struct tls_context *context;
    char *address;
    struct rpc *rpc;
    bool is_open, is_broken;
    struct loop_timer *timer; /* closes what broke, outside of rpc's callbacks */
    Godwit__PeerMove *question; /* owned; under way, or waiting for the connection */
    void (*done)(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault);
    void *data;
};

static void question_free(struct peer_line *line)
{
    if (!line->question)
        return;
    if (line->question->has_psk)
        explicit_bzero(line->question->psk.data, line->question->psk.len);
    godwit__peer_move__free_unpacked(line->question, NULL);
    line->question = NULL;
}

/* The last thing that a callback does: `done` may free the line. */
static void answer(struct peer_line *line, const Godwit__PeerMoveReply *reply,
                   const struct fault *fault)
{
    if (!line->question)
        return;
    question_free(line);
    line->done(line->data, reply, fault);
}

static void break_off(struct peer_line *line, const struct fault *fault)
{
    line->is_open = false;
    line->is_broken = true;
    loop_timer_start(line->timer, 0, 0);
    answer(line, NULL, fault);
}

static void timer_fired(void *data)
{
    struct peer_line *line = data;

    line->rpc = rpc_close(line->rpc);
    line->is_broken = false;
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    answer(data, (const Godwit__PeerMoveReply *)reply, fault);
}

static void send_question(struct peer_line *line)
{
    struct fault fault = {0};

    if (rpc_call(line->rpc, METHOD_PEER_MOVE, &line->question->base,
                 &godwit__peer_move_reply__descriptor, ANSWER_MS, on_answer, line, &fault) < 0)
        answer(line, NULL, &fault);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    break_off(data, fault);
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct peer_line *line = data;
    (void)rpc;

    if (fault) {
        break_off(line, fault);
        return;
    }
    line->is_open = true;
    if (line->question)
        send_question(line);
}

static const struct rpc_service service = {.on_closed = on_closed};

static Godwit__PeerMove *copy_question(const Godwit__PeerMove *message)
{
    size_t count = godwit__peer_move__get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)godwit__peer_move__pack(message, bytes);
    Godwit__PeerMove *copy = godwit__peer_move__unpack(NULL, count, bytes);
    explicit_bzero(bytes, count); /* a move's key is in it */
    return copy;
}

void peer_line_ask(struct peer_line *line, const Godwit__PeerMove *message,
                   void (*done)(void *data, const Godwit__PeerMoveReply *reply,
                                const struct fault *fault),
                   void *data)
{
    struct fault fault = {0};

    int r = line->question || line->is_broken
                ? fault_set(&fault, ERR_BUSY, "the line to the other agent is in use")
                : 0;
    if (r == 0 && !(line->question = copy_question(message)))
        r = fault_set(&fault, ERR_NOMEM, "no memory for a question");
    if (r < 0) {
        done(data, NULL, &fault);
        return;
    }
    line->done = done;
    line->data = data;
    if (line->is_open)
        send_question(line);
    else if (!line->rpc && rpc_connect(&line->rpc, line->loop, line->address, line->context, "host",
                                       &service, line, on_opened, &fault) < 0)
        answer(line, NULL, &fault);
}

struct peer_line *peer_line_new(struct loop *loop, struct tls_context *context, const char *address)
{
    struct peer_line *line = calloc(1, sizeof *line);

    if (line)
        line->address = strdup(address);
    if (!line || !line->address ||
        loop_timer_new(&line->timer, loop, timer_fired, line, NULL) < 0) {
        if (line)
            free(line->address);
        free(line);
        return NULL;
    }
    line->loop = loop;
    line->context = context;
    return line;
}

struct peer_line *peer_line_free(struct peer_line *line)
{
    if (!line)
        return NULL;
    question_free(line);
    (void)rpc_close(line->rpc);
    (void)loop_timer_free(line->timer);
    free(line->address);
    free(line);
    return NULL;
}

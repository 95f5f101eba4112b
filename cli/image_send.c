#include "cli/image_send.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/sparse.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/transfer_bar.h"
#include "net/digest.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { BEGIN_MS = 60000, PART_MS = 120000, END_MS = 15 * 60 * 1000 };

/* ---- the digest ---- */
int image_send_digest(struct image_send *send, char ret_digest[static 65], struct fault *fault)
{
    AUTO_FREE uint8_t *buffer = malloc(IMAGE_CHUNK_BYTES);
    struct digest *sum = digest_new();
    struct sparse_piece piece;
    int r = buffer && sum ? 0 : fault_set(fault, ERR_NOMEM, "no memory to read the image");

    for (uint64_t at = 0; r == 0 && at < send->size; at += piece.count + piece.zeros) {
        piece = (struct sparse_piece){0};
        r = sparse_read(send->fd, at, send->size, buffer, IMAGE_CHUNK_BYTES, &piece, fault);
        if (r == 0 && piece.count > 0)
            digest_add(sum, buffer, piece.count);
        else if (r == 0)
            digest_add_zeros(sum, piece.zeros);
        if (r == 0)
            transfer_bar_update(send->bar, "reading: SHA-256", at + piece.count + piece.zeros,
                                send->size, world_now_ms());
    }
    if (r == 0)
        digest_finish(sum, ret_digest);
    (void)digest_free(sum);
    return r;
}

/* ---- sending ---- */
struct sending {
    struct image_send *send;
    struct client *client;
    uint64_t at;
    unsigned under_way;
    uint8_t *buffer;
    struct fault fault; /* the first */
    char title[120];
};

static void on_interrupt(void *data, int number)
{
    struct sending *sending = data;
    (void)number;

    if (!sending->fault.code)
        (void)fault_set(&sending->fault, ERR_CANCELED, "interrupted; nothing was imported");
}

static void on_part(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct sending *sending = data;
    const Godwit__ImageState *state = (const Godwit__ImageState *)reply;

    sending->under_way--;
    if (fault && !sending->fault.code)
        sending->fault = *fault;
    if (state)
        transfer_bar_update(sending->send->bar, sending->title, state->offset, sending->send->size,
                            world_now_ms());
}

static int post_part(struct sending *sending, struct fault *fault)
{
    struct image_send *send = sending->send;
    Godwit__ImageChunk chunk = GODWIT__IMAGE_CHUNK__INIT;
    struct sparse_piece piece;

    int r = sparse_read(send->fd, sending->at, send->size, sending->buffer, IMAGE_CHUNK_BYTES,
                        &piece, fault);
    if (r < 0)
        return r;
    chunk.host = send->taken_by;
    chunk.digest = send->image->digest;
    chunk.has_offset = true;
    chunk.offset = sending->at;
    chunk.has_data = piece.count > 0;
    chunk.data = (ProtobufCBinaryData){.len = piece.count, .data = sending->buffer};
    chunk.has_zeros = piece.zeros > 0;
    chunk.zeros = piece.zeros;
    r = client_post(sending->client, METHOD_IMAGE_CHUNK, &chunk.base,
                    &godwit__image_state__descriptor, PART_MS, on_part, sending, fault);
    if (r < 0)
        return r;
    sending->under_way++;
    sending->at += piece.count + piece.zeros;
    send->sent_bytes += piece.count;
    return 0;
}

static int send_parts(struct sending *sending, struct fault *fault)
{
    int r = 0;

    while (r == 0 && (sending->at < sending->send->size || sending->under_way > 0)) {
        bool may_post = sending->at < sending->send->size &&
                        sending->under_way < IMAGE_SEND_PARTS && !sending->fault.code;
        if (may_post)
            r = post_part(sending, fault);
        else if (sending->under_way > 0)
            client_turn(sending->client); /* also what tells us of Ctrl-C */
        if (r == 0 && sending->fault.code && sending->under_way == 0) {
            *fault = sending->fault;
            r = fault->code;
        }
    }
    while (sending->under_way > 0 && client_is_connected(sending->client))
        client_turn(sending->client); /* their answers come to us: before we go */
    return r;
}

static int begin(struct image_send *send, struct client *client, Godwit__ImageBeginReply **ret_reply,
                 struct fault *fault)
{
    Godwit__ImageBeginRequest request = GODWIT__IMAGE_BEGIN_REQUEST__INIT;

    request.image = (Godwit__ImageInfo *)(uintptr_t)send->image; /* only read */
    request.host = (char *)(uintptr_t)send->host;
    return client_call(client, METHOD_IMAGE_BEGIN, &request.base,
                       &godwit__image_begin_reply__descriptor, BEGIN_MS, ret_reply, fault);
}

static int end(struct image_send *send, struct client *client, bool abort,
               Godwit__ImageReply **ret_reply, struct fault *fault)
{
    Godwit__ImageEndRequest request = GODWIT__IMAGE_END_REQUEST__INIT;

    request.image = (Godwit__ImageInfo *)(uintptr_t)send->image; /* only read */
    request.host = send->taken_by;
    request.has_abort = request.abort = abort;
    return client_call(client, METHOD_IMAGE_END, &request.base, &godwit__image_reply__descriptor,
                       END_MS, ret_reply, fault);
}

/* What has come there is of no use to anybody. */
static void give_up(struct image_send *send, struct client *client)
{
    Godwit__ImageReply *reply = NULL;

    if (client_is_connected(client) && end(send, client, true, &reply, NULL) == 0)
        godwit__image_reply__free_unpacked(reply, NULL);
}

static int send_content(struct image_send *send, struct client *client, uint64_t from,
                        struct fault *fault)
{
    AUTO_FREE uint8_t *buffer = malloc(IMAGE_CHUNK_BYTES);
    struct sending sending = {.send = send, .client = client, .at = from, .buffer = buffer};

    if (!buffer)
        return fault_set(fault, ERR_NOMEM, "no memory to send the image");
    if (from > send->size)
        return fault_set(fault, ERR_CORRUPT, "%s has more of the image than there is",
                         send->taken_by);
    (void)snprintf(sending.title, sizeof sending.title, "%.60s to %.50s", send->image->name,
                   send->taken_by);
    struct loop_signal *interrupt = NULL;
    int r = loop_signal_new(&interrupt, client_loop(client), SIGINT, on_interrupt, &sending, fault);
    if (r == 0)
        r = send_parts(&sending, fault);
    if (interrupt)
        (void)loop_signal_free(interrupt);
    return r;
}

/* An error of the first answer as one of the last. */
static int refuse(Godwit__ImageBeginReply *begun, Godwit__ImageReply **ret_reply,
                  struct fault *fault)
{
    Godwit__ImageReply *reply = calloc(1, sizeof *reply);

    if (!reply)
        return fault_set(fault, ERR_NOMEM, "no memory for an answer");
    godwit__image_reply__init(reply);
    reply->error = TAKE(begun->error);
    *ret_reply = reply;
    return 0;
}

int image_send_all(struct image_send *send, struct context *context, Godwit__ImageReply **ret_reply,
                   struct fault *fault)
{
    struct client *client;
    Godwit__ImageBeginReply *begun = NULL;

    int r = client_of(context, &client, fault);
    if (r == 0)
        r = begin(send, client, &begun, fault);
    if (r < 0)
        return r;
    if (begun->error || !begun->host || strlen(begun->host) >= sizeof send->taken_by) {
        r = begun->error ? refuse(begun, ret_reply, fault)
                         : fault_set(fault, ERR_CORRUPT, "the coordinator names no host");
        godwit__image_begin_reply__free_unpacked(begun, NULL);
        return r;
    }
    (void)snprintf(send->taken_by, sizeof send->taken_by, "%s", begun->host);
    send->was_there = begun->whole;
    r = begun->whole ? 0 : send_content(send, client, begun->offset, fault);
    if (r == 0)
        r = end(send, client, false, ret_reply, fault);
    if (r < 0)
        give_up(send, client);
    godwit__image_begin_reply__free_unpacked(begun, NULL);
    return r;
}

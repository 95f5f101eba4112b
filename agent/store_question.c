#include "agent/store_question.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/attach.h"
#include "agent/backends.h"
#include "agent/host_facts.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/id.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/vm_spec.h"
#include "storage/share.h"

struct question {
    struct store_questions *questions;
    struct rpc_request *request;
    ProtobufCMessage *order;    /* owned copy; what follows points into it */
    const Godwit__VmSpec *spec; /* judged */
    const char *vm_id;
    struct stamp stamp; /* expected, or found */
    struct backends seen;
    int result;
    struct fault fault;
    void (*answer)(struct question *question); /* when the result is 0 */
};

static void question_free(struct question *question)
{
    if (question->order)
        protobuf_c_message_free_unpacked(question->order, NULL);
    free(question);
}

static ProtobufCMessage *message_copy(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    ProtobufCMessage *copy = protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
    free(bytes);
    return copy;
}

static void done(void *data)
{
    struct question *question = data;

    question->questions->workers--;
    if (question->result < 0 && question->request)
        (void)rpc_reply_fault(question->request, &question->fault);
    else if (question->request)
        question->answer(question);
    question_free(question);
}

static int question_new(struct question **ret_question, struct store_questions *questions,
                        const ProtobufCMessage *order, struct rpc_request *request,
                        struct fault *fault)
{
    struct question *question = calloc(1, sizeof *question);
    if (!question)
        return fault_set(fault, ERR_NOMEM, "no memory for a question");
    question->questions = questions;
    question->request = request;
    question->order = message_copy(order);
    if (!question->order) {
        question_free(question);
        return fault_set(fault, ERR_NOMEM, "no memory for a question");
    }
    *ret_question = question;
    return 0;
}

/* Takes the question, whatever comes. */
static void begin(struct question *question, void (*work)(void *data))
{
    struct fault fault = {0};
    const char *vm_id = question->vm_id;
    int r = 0;

    if (!vm_id || !id_name_is_valid(vm_id) || strlen(vm_id) >= VM_ID_SIZE || !question->spec ||
        !question->spec->name)
        r = fault_set(&fault, ERR_INVALID, "a question without its VM");
    if (r == 0)
        r = vm_spec_judge(question->spec, &fault);
    if (r == 0) {
        r = loop_work(question->questions->loop, work, done, question);
        if (r < 0)
            (void)fault_set(&fault, r, "no worker to look at stores");
    }
    if (r == 0) {
        question->questions->workers++;
        return;
    }
    if (question->request)
        (void)rpc_reply_fault(question->request, &fault);
    question_free(question);
}

static void refuse(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

/* ---- the stamp ---- */
static void stamp_work(void *data)
{
    struct question *question = data;

    question->result =
        backends_read_stamp(question->spec, question->vm_id, &question->stamp, &question->fault);
}

static void stamp_answer(struct question *question)
{
    Godwit__Stamp reply;

    attach_stamp_write(&question->stamp, &reply);
    (void)rpc_reply(question->request, &reply.base);
}

void store_question_stamp(struct store_questions *questions, const Godwit__OrderStampRead *order,
                          struct rpc_request *request)
{
    struct question *question;
    struct fault fault = {0};

    if (question_new(&question, questions, &order->base, request, &fault) < 0) {
        refuse(request, &fault);
        return;
    }
    const Godwit__OrderStampRead *copy = (const Godwit__OrderStampRead *)question->order;
    question->vm_id = copy->vm_id;
    question->spec = copy->spec;
    question->answer = stamp_answer;
    begin(question, stamp_work);
}

/* ---- the word ---- */
static bool is_word(const char *word)
{
    return word && strlen(word) == SHARE_WORD_SIZE - 1 && id_name_is_valid(word);
}

static void word_work(void *data)
{
    struct question *question = data;
    const Godwit__OrderStoreWord *order = (const Godwit__OrderStoreWord *)question->order;

    if (order->wipe)
        backends_wipe_word(question->spec, order->word);
    else
        question->result = backends_write_word(question->spec, order->word, &question->fault);
}

static void word_answer(struct question *question)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    (void)rpc_reply(question->request, &empty.base);
}

void store_question_word(struct store_questions *questions, const Godwit__OrderStoreWord *order,
                         struct rpc_request *request)
{
    struct question *question;
    struct fault fault = {0};
    int r = is_word(order->word)
                ? question_new(&question, questions, &order->base, request, &fault)
                : fault_set(&fault, ERR_INVALID, "a word for a store of a wrong form");

    if (r < 0) {
        refuse(request, &fault);
        return;
    }
    const Godwit__OrderStoreWord *copy = (const Godwit__OrderStoreWord *)question->order;
    question->vm_id = copy->vm_id;
    question->spec = copy->spec;
    question->answer = word_answer;
    begin(question, word_work);
}

/* ---- a move to here ---- */
static void move_work(void *data)
{
    struct question *question = data;
    const Godwit__OrderMoveCheck *order = (const Godwit__OrderMoveCheck *)question->order;
    const struct backends_ask ask = {
        .spec = question->spec,
        .vm_id = question->vm_id,
        .host = host_facts_name(question->questions->facts),
        .expected = question->stamp,
        .with_local_disks = order->with_local_disks,
    };

    question->result = backends_read_word(question->spec, order->word, ask.host, &question->fault);
    if (question->result < 0)
        return; /* its words begin with the host */
    question->result = backends_check(&ask, &question->seen, &question->fault);
    if (question->result < 0)
        question->result = fault_wrap(&question->fault, ERR_REFUSED, "%s", ask.host);
    question->fault.code = question->result; /* whatever it was: the move is refused, not retried */
}

static void move_answer(struct question *question)
{
    Godwit__MoveChecked reply = GODWIT__MOVE_CHECKED__INIT;
    char note[256];
    char *notes[] = {note};
    size_t nics = question->spec->n_nics;

    (void)snprintf(note, sizeof note, "%s sees its %u disk%s and has the bridge%s of its %zu nic%s",
                   host_facts_name(question->questions->facts), question->seen.disk_count,
                   question->seen.disk_count == 1 ? "" : "s", nics == 1 ? "" : "s", nics,
                   nics == 1 ? "" : "s");
    reply.notes = notes;
    reply.n_notes = 1;
    (void)rpc_reply(question->request, &reply.base);
}

void store_question_move(struct store_questions *questions, const Godwit__OrderMoveCheck *order,
                         struct rpc_request *request)
{
    struct question *question = NULL;
    struct fault fault = {0};
    int r = is_word(order->word)
                ? question_new(&question, questions, &order->base, request, &fault)
                : fault_set(&fault, ERR_INVALID, "a word for a store of a wrong form");

    if (r == 0)
        r = attach_stamp_read(order->expected_stamp, &question->stamp, &fault);
    if (r < 0) {
        if (question)
            question_free(question);
        refuse(request, &fault);
        return;
    }
    const Godwit__OrderMoveCheck *copy = (const Godwit__OrderMoveCheck *)question->order;
    question->vm_id = copy->vm_id;
    question->spec = copy->spec;
    question->answer = move_answer;
    begin(question, move_work);
}

/* ---- what was made for a stranger ---- */
static void remove_work(void *data)
{
    struct question *question = data;

    question->result = backends_remove(question->spec, question->vm_id, &question->fault);
}

static void remove_answer(struct question *question)
{
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;

    gone.vm_id = (char *)(uintptr_t)question->vm_id; /* protobuf-c knows no const */
    gone.has_state = true;
    gone.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    (void)rpc_reply(question->request, &gone.base);
}

void store_question_remove(struct store_questions *questions, const Godwit__OrderVmStop *order,
                           struct rpc_request *request)
{
    struct question *question;
    struct fault fault = {0};

    if (question_new(&question, questions, &order->base, request, &fault) < 0) {
        refuse(request, &fault);
        return;
    }
    const Godwit__OrderVmStop *copy = (const Godwit__OrderVmStop *)question->order;
    question->vm_id = copy->vm_id;
    question->spec = copy->spec;
    question->answer = remove_answer;
    begin(question, remove_work);
}

void store_questions_wait(struct store_questions *questions)
{
    while (questions->workers)
        loop_turn(questions->loop, true); /* each holds a pointer to us */
}

#include "agent/store_look.h"

#include <stdlib.h>
#include <string.h>

#include "agent/store_question.h"
#include "base/err.h"
#include "base/id.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "storage/share.h"
#include "storage/share_space.h"

enum { HANGS_MS = 15000 }; /* longer than any look takes that ends */

struct look {
    struct look *next;
    uint64_t began_ns;
    struct store_questions *questions;
    struct rpc_request *request;
    Godwit__OrderStoreLook *order; /* owned copy */
    struct share_space space;
    uint64_t *bytes, *used_bytes; /* owned; of its files */
    bool word_seen;
    struct fault fault;
};

static void look_free(struct look *look)
{
    if (look->order)
        godwit__order_store_look__free_unpacked(look->order, NULL);
    free(look->bytes);
    free(look->used_bytes);
    free(look);
}

/* ---- on a worker ---- */
static int read_word(struct look *look, int share_fd)
{
    int r = share_word_read(share_fd, look->order->word, &look->fault);

    look->word_seen = r == 0;
    if (r == ERR_NOT_FOUND) { /* that is an answer */
        look->fault = (struct fault){0};
        r = 0;
    }
    return r;
}

static int act(struct look *look, int share_fd)
{
    switch (look->order->verb) {
    case GODWIT__STORE_LOOK_VERB__STORE_LOOK:
        return 0;
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_WRITE:
        return share_word_write(share_fd, look->order->word, &look->fault);
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_READ:
        return read_word(look, share_fd);
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_WIPE:
        share_word_wipe(share_fd, look->order->word);
        return 0;
    case GODWIT__STORE_LOOK_VERB__STORE_PROVE:
        return share_space_prove(share_fd, &look->fault);
    case _GODWIT__STORE_LOOK_VERB_IS_INT_SIZE:
        break;
    }
    return fault_set(&look->fault, ERR_UNSUPPORTED,
                     "this agent cannot do verb %d with a store; it may be older than the "
                     "coordinator",
                     (int)look->order->verb);
}

static void look_work(void *data)
{
    struct look *look = data;
    const Godwit__OrderStoreLook *order = look->order;
    AUTO_FD int share_fd = -1;

    int r = share_open(order->path, &share_fd, &look->fault);
    if (r == 0)
        r = act(look, share_fd);
    if (r == 0)
        r = share_space_read(share_fd, &look->space, &look->fault);
    for (size_t i = 0; r == 0 && i < order->n_files; i++) {
        struct fault ignored = {0}; /* a file that cannot be measured takes nothing yet */
        (void)share_space_measure(share_fd, order->files[i], &look->bytes[i],
                                  &look->used_bytes[i], &ignored);
    }
}

/* ---- on the loop ---- */
static void look_done(void *data)
{
    struct look *look = data;
    Godwit__StoreSeen seen = GODWIT__STORE_SEEN__INIT;

    struct look **at = &look->questions->looks;

    while (*at != look)
        at = &(*at)->next;
    *at = look->next;
    look->questions->workers--;
    if (look->fault.code) {
        (void)rpc_reply_fault(look->request, &look->fault);
        look_free(look);
        return;
    }
    seen.has_total_bytes = seen.has_free_bytes = seen.has_read_only = true;
    seen.total_bytes = look->space.total_bytes;
    seen.free_bytes = look->space.free_bytes;
    seen.read_only = look->space.read_only;
    seen.file_system = look->space.file_system;
    seen.has_word_seen = true;
    seen.word_seen = look->word_seen;
    seen.file_bytes = look->bytes;
    seen.file_used_bytes = look->used_bytes;
    seen.n_file_bytes = seen.n_file_used_bytes = look->order->n_files;
    (void)rpc_reply(look->request, &seen.base);
    look_free(look);
}

static int judge(const Godwit__OrderStoreLook *order, struct fault *fault)
{
    bool needs_word = order->verb == GODWIT__STORE_LOOK_VERB__STORE_WORD_WRITE ||
                      order->verb == GODWIT__STORE_LOOK_VERB__STORE_WORD_READ ||
                      order->verb == GODWIT__STORE_LOOK_VERB__STORE_WORD_WIPE;

    if (!order->path || order->path[0] != '/')
        return fault_set(fault, ERR_INVALID, "a store of no absolute path: '%.120s'",
                         order->path ? order->path : "");
    if (order->n_files > STORE_FILES_MAX)
        return fault_set(fault, ERR_LIMIT, "%zu files to measure, possible are %d", order->n_files,
                         STORE_FILES_MAX);
    if (needs_word && (!order->word || strlen(order->word) != SHARE_WORD_SIZE - 1 ||
                       !id_name_is_valid(order->word)))
        return fault_set(fault, ERR_INVALID, "a word for a store of a wrong form");
    return 0;
}

/* One worker at most is lost to a file system that does not answer. */
static int judge_hanging(const struct store_questions *questions, const char *path,
                         struct fault *fault)
{
    uint64_t now_ns = world_now_ns();

    for (const struct look *look = questions->looks; look; look = look->next) {
        if (strcmp(look->order->path, path) == 0 && now_ns - look->began_ns > HANGS_MS * NS_PER_MS)
            return fault_set(fault, ERR_BUSY, "a look at %.120s still hangs", path);
    }
    return 0;
}

static Godwit__OrderStoreLook *copy_of(const Godwit__OrderStoreLook *order)
{
    size_t count = godwit__order_store_look__get_packed_size(order);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)godwit__order_store_look__pack(order, bytes);
    return godwit__order_store_look__unpack(NULL, count, bytes);
}

void store_look(struct store_questions *questions, const Godwit__OrderStoreLook *order,
                struct rpc_request *request)
{
    struct fault fault = {0};
    struct look *look = NULL;

    if (!request)
        return; /* a question that nobody waits for */
    int r = judge(order, &fault);
    if (r == 0)
        r = judge_hanging(questions, order->path, &fault);
    if (r == 0 && !(look = calloc(1, sizeof *look)))
        r = fault_set(&fault, ERR_NOMEM, "no memory to look at a store");
    if (r == 0) {
        look->questions = questions;
        look->request = request;
        look->order = copy_of(order);
        look->bytes = calloc(order->n_files + 1, sizeof *look->bytes);
        look->used_bytes = calloc(order->n_files + 1, sizeof *look->used_bytes);
        if (!look->order || !look->bytes || !look->used_bytes)
            r = fault_set(&fault, ERR_NOMEM, "no memory to look at a store");
    }
    if (r == 0) {
        r = loop_work(questions->loop, look_work, look_done, look);
        if (r < 0)
            (void)fault_set(&fault, r, "no worker to look at a store");
    }
    if (r == 0) {
        look->began_ns = world_now_ns();
        look->next = questions->looks;
        questions->looks = look;
        questions->workers++;
        return;
    }
    (void)rpc_reply_fault(request, &fault);
    if (look)
        look_free(look);
}

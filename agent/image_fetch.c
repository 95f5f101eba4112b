#include "agent/image_fetch.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/image_folder.h"
#include "agent/images.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/address_list.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

struct source {
    char host[ID_NAME_MAX + 1];
    char address[ADDRESS_SIZE];
};

struct part { /* what came, until it is written */
    uint64_t offset, zeros;
    uint8_t *bytes; /* owned */
    size_t count;
};

struct fetch {
    struct image_fetches *fetches;
    struct fetch *next;
    char digest[DIGEST_TEXT_SIZE];
    uint64_t size;
    struct source sources[IMAGE_FETCH_SOURCES_MAX];
    size_t source_count, at; /* the one that is asked */
    struct rpc_request *waiters[IMAGE_FETCH_WAITERS_MAX];
    size_t waiter_count;
    struct images_watch watch;
    struct loop_timer *timer; /* the next source, or the end: outside of rpc's callbacks */
    struct rpc *rpc;
    uint64_t asked;  /* where the part that is under way begins */
    bool is_asking, is_over;
    struct part held; /* came while another is written; count and zeros 0: none */
    struct part now;  /* the worker's */
    bool is_working, is_ended; /* ended: all is there, and published */
    struct fault fault;        /* why this source failed */
    /* the worker's while it works */
    struct image_draft draft;
    struct fault work_fault;
    bool work_ended;
};

struct image_fetches {
    struct images *images;
    struct fetch *first;
};

static void ask(struct fetch *fetch);
static void write_held(struct fetch *fetch);

static bool part_is_empty(const struct part *part)
{
    return part->count == 0 && part->zeros == 0;
}

static void part_drop(struct part *part)
{
    free(part->bytes);
    *part = (struct part){0};
}

/* ---- ends ---- */
static void fetch_free(struct fetch *fetch)
{
    struct fetch **at = &fetch->fetches->first;

    assert(!fetch->is_working);
    while (*at != fetch)
        at = &(*at)->next;
    *at = fetch->next;
    (void)rpc_close(fetch->rpc);
    images_unwatch(fetch->fetches->images, &fetch->watch);
    if (fetch->timer)
        (void)loop_timer_free(fetch->timer);
    part_drop(&fetch->held);
    part_drop(&fetch->now);
    image_draft_drop(&fetch->draft);
    free(fetch);
}

static void answer(struct fetch *fetch, const struct fault *fault)
{
    Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;

    state.has_whole = state.whole = true;
    for (size_t i = 0; i < fetch->waiter_count; i++) {
        if (fault)
            (void)rpc_reply_fault(fetch->waiters[i], fault);
        else
            (void)rpc_reply(fetch->waiters[i], &state.base);
    }
    fetch->waiter_count = 0;
}

/* This source is done with, well or not; the timer goes on from here. */
static void source_over(struct fetch *fetch, const struct fault *fault)
{
    if (fault && !fetch->fault.code)
        fetch->fault = *fault;
    fetch->is_over = true;
    fetch->is_asking = false;
    if (!fetch->is_working)
        loop_timer_start(fetch->timer, 0, 0);
}

/* ---- writing ---- */
static void work(void *data)
{
    struct fetch *fetch = data;
    struct fault *fault = &fetch->work_fault;
    int r = 0;

    if (!fetch->draft.digest[0])
        r = image_draft_open(&fetch->draft, images_folder(fetch->fetches->images), fetch->digest,
                             fetch->size, fault);
    if (r == 0)
        r = image_draft_add(&fetch->draft, fetch->now.offset, fetch->now.bytes, fetch->now.count,
                            fetch->now.zeros, fault);
    if (r == 0 && fetch->draft.offset == fetch->size)
        fetch->work_ended = image_draft_publish(&fetch->draft, fault) == 0;
}

static void worked(void *data)
{
    struct fetch *fetch = data;

    images_work_done(fetch->fetches->images);
    fetch->is_working = false;
    atomic_store(&fetch->watch.done, fetch->now.offset + fetch->now.count + fetch->now.zeros);
    part_drop(&fetch->now);
    fetch->is_ended = fetch->work_ended;
    if (fetch->work_fault.code || fetch->is_ended || fetch->is_over)
        source_over(fetch, fetch->work_fault.code ? &fetch->work_fault : NULL);
    else
        write_held(fetch);
}

static void write_held(struct fetch *fetch)
{
    struct fault fault = {0};

    if (fetch->is_working || fetch->is_over || part_is_empty(&fetch->held))
        return;
    fetch->now = fetch->held;
    fetch->held = (struct part){0};
    fetch->is_working = true;
    if (images_work(fetch->fetches->images, work, worked, fetch) < 0) {
        fetch->is_working = false;
        (void)fault_set(&fault, ERR_BUSY, "no worker to write an image");
        source_over(fetch, &fault);
        return;
    }
    ask(fetch); /* the next comes while this is written */
}

/* ---- asking ---- */
static int judge(const struct fetch *fetch, const Godwit__ImageData *data, struct fault *fault)
{
    uint64_t left = fetch->size - fetch->asked;

    if (data->size != fetch->size)
        return fault_set(fault, ERR_CORRUPT, "it has %llu bytes there, %llu are right",
                         (unsigned long long)data->size, (unsigned long long)fetch->size);
    if ((data->data.len == 0) == (data->zeros == 0) || data->data.len > left || data->zeros > left)
        return fault_set(fault, ERR_CORRUPT, "a part of %zu bytes and %llu zeros where %llu are left",
                         data->data.len, (unsigned long long)data->zeros,
                         (unsigned long long)left);
    return 0;
}

static void on_part(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct fetch *fetch = data;
    const Godwit__ImageData *came = (const Godwit__ImageData *)reply;
    struct fault why = {0};

    fetch->is_asking = false;
    if (fetch->is_over)
        return; /* a worker may still have the draft: nothing goes on before it is done */
    if (fault || judge(fetch, came, &why) < 0) {
        source_over(fetch, fault ? fault : &why);
        return;
    }
    assert(part_is_empty(&fetch->held));
    struct part part = {.offset = fetch->asked, .zeros = came->zeros, .count = came->data.len};
    if (part.count > 0 && !(part.bytes = malloc(part.count))) {
        (void)fault_set(&why, ERR_NOMEM, "no memory for a part of an image");
        source_over(fetch, &why);
        return;
    }
    if (part.count > 0)
        memcpy(part.bytes, came->data.data, part.count);
    fetch->held = part;
    fetch->asked += part.count + part.zeros;
    write_held(fetch);
}

static void ask(struct fetch *fetch)
{
    Godwit__ImageReadRequest question = GODWIT__IMAGE_READ_REQUEST__INIT;
    struct fault fault = {0};

    if (fetch->is_asking || fetch->is_over || fetch->asked == fetch->size ||
        !part_is_empty(&fetch->held))
        return;
    question.digest = fetch->digest;
    question.has_offset = true;
    question.offset = fetch->asked;
    fetch->is_asking = true;
    if (rpc_call(fetch->rpc, METHOD_PEER_IMAGE_READ, &question.base,
                 &godwit__image_data__descriptor, IMAGE_FETCH_PART_MS, on_part, fetch, &fault) < 0)
        source_over(fetch, &fault);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct fetch *fetch = data;
    (void)rpc;

    if (!fetch->is_ended)
        source_over(fetch, fault);
}

static const struct rpc_service service = {.on_closed = on_closed};

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct fetch *fetch = data;
    const char *wanted = fetch->sources[fetch->at].host;
    struct fault why = {0};

    if (!fault && strcmp(rpc_peer(rpc)->name, wanted) != 0)
        (void)fault_set(&why, ERR_DENIED, "%s answers where %s was expected", rpc_peer(rpc)->name,
                        wanted);
    if (fault || why.code)
        source_over(fetch, fault ? fault : &why);
    else
        ask(fetch);
}

static void begin_source(struct fetch *fetch)
{
    const struct source *source = &fetch->sources[fetch->at];
    struct fault fault = {0};

    fetch->asked = 0;
    fetch->is_over = fetch->is_asking = false;
    fetch->fault = fetch->work_fault = (struct fault){0};
    atomic_store(&fetch->watch.done, 0);
    if (rpc_connect(&fetch->rpc, images_loop(fetch->fetches->images), source->address,
                    images_context(fetch->fetches->images), "host", &service, fetch, on_opened,
                    &fault) < 0)
        source_over(fetch, &fault);
}

/* A source is over and no worker has the draft. */
static void on_timer(void *data)
{
    struct fetch *fetch = data;
    struct images *images = fetch->fetches->images;
    struct fault fault = fetch->fault;

    fetch->rpc = rpc_close(fetch->rpc);
    part_drop(&fetch->held);
    if (fetch->is_ended) {
        log_info("image_fetch", "here image=%.12s from=%s bytes=%llu", fetch->digest,
                 fetch->sources[fetch->at].host, (unsigned long long)fetch->size);
        images_added(images, fetch->digest);
        answer(fetch, NULL);
        fetch_free(fetch);
        return;
    }
    image_draft_drop(&fetch->draft);
    log_warn("image_fetch", "not from there image=%.12s from=%s: %s", fetch->digest,
             fetch->sources[fetch->at].host, fault.text);
    if (++fetch->at < fetch->source_count) {
        begin_source(fetch);
        return;
    }
    (void)fault_wrap(&fault, fault.code, "image %.12s from %s", fetch->digest,
                     fetch->sources[fetch->at - 1].host);
    answer(fetch, &fault);
    fetch_free(fetch);
}

/* ---- begin ---- */
static void take_sources(struct fetch *fetch, const Godwit__OrderImageFetch *order)
{
    for (size_t i = 0; i < order->n_sources && fetch->source_count < IMAGE_FETCH_SOURCES_MAX; i++) {
        const Godwit__ImageSource *from = order->sources[i];
        struct source *source = &fetch->sources[fetch->source_count];
        if (!from->host || !from->address || strlen(from->host) >= sizeof source->host ||
            strlen(from->address) >= sizeof source->address)
            continue;
        (void)snprintf(source->host, sizeof source->host, "%s", from->host);
        (void)snprintf(source->address, sizeof source->address, "%s", from->address);
        fetch->source_count++;
    }
}

static int fetch_new(struct image_fetches *fetches, const Godwit__OrderImageFetch *order,
                     struct fetch **ret_fetch, struct fault *fault)
{
    if (!vm_spec_digest_is_valid(order->digest) || order->size < IMAGE_BYTES_MIN ||
        order->size > DISK_BYTES_MAX)
        return fault_set(fault, ERR_INVALID, "an order to fetch no image");
    struct fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch)
        return fault_set(fault, ERR_NOMEM, "no memory to fetch an image");
    fetch->draft.fd = -1;
    fetch->fetches = fetches;
    fetch->size = order->size;
    memcpy(fetch->digest, order->digest, DIGEST_TEXT_SIZE);
    fetch->next = fetches->first;
    fetches->first = fetch;
    fetch->watch.number = order->watch;
    fetch->watch.phase = "fetch";
    fetch->watch.total = order->size;
    take_sources(fetch, order);
    int r = fetch->source_count > 0
                ? loop_timer_new(&fetch->timer, images_loop(fetches->images), on_timer, fetch, fault)
                : fault_set(fault, ERR_NOT_FOUND, "no other host has image %.12s", fetch->digest);
    if (r < 0) {
        fetch_free(fetch);
        return r;
    }
    *ret_fetch = fetch;
    return 0;
}

static struct fetch *find(const struct image_fetches *fetches, const char *digest)
{
    struct fetch *fetch = fetches->first;

    while (fetch && strcmp(fetch->digest, digest) != 0)
        fetch = fetch->next;
    return fetch;
}

bool image_fetch_is_busy(const struct image_fetches *fetches, const char *digest)
{
    return find(fetches, digest) != NULL;
}

void image_fetch_begin(struct image_fetches *fetches, const Godwit__OrderImageFetch *order,
                       struct rpc_request *request)
{
    struct fetch *fetch = order->digest ? find(fetches, order->digest) : NULL;
    struct fault fault = {0};
    int r = 0;

    bool is_new = !fetch;
    if (is_new)
        r = fetch_new(fetches, order, &fetch, &fault);
    else if (fetch->waiter_count == IMAGE_FETCH_WAITERS_MAX)
        r = fault_set(&fault, ERR_BUSY, "image %.12s is just coming", fetch->digest);
    if (r < 0) {
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    fetch->waiters[fetch->waiter_count++] = request;
    if (is_new) {
        images_watch(fetches->images, &fetch->watch);
        begin_source(fetch);
    }
}

/* ---- life ---- */
int image_fetches_new(struct image_fetches **ret_fetches, struct images *images,
                      struct fault *fault)
{
    struct image_fetches *fetches = calloc(1, sizeof *fetches);
    if (!fetches)
        return fault_set(fault, ERR_NOMEM, "no memory to fetch images");
    fetches->images = images;
    *ret_fetches = fetches;
    return 0;
}

void image_fetches_stop(struct image_fetches *fetches)
{
    for (struct fetch *fetch = fetches ? fetches->first : NULL; fetch; fetch = fetch->next) {
        fetch->is_over = true;
        if (!fetch->fault.code)
            (void)fault_set(&fetch->fault, ERR_CANCELED, "the agent stops");
        fetch->source_count = fetch->at + 1; /* the last one */
        fetch->rpc = rpc_close(fetch->rpc);
    }
}

struct image_fetches *image_fetches_free(struct image_fetches *fetches)
{
    while (fetches && fetches->first)
        fetch_free(fetches->first);
    free(fetches);
    return NULL;
}

#include "agent/image_upload.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/image_folder.h"
#include "agent/images.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum part_kind { PART_BEGIN, PART_BYTES, PART_END };

struct part { /* what is to be done next */
    struct part *next;
    enum part_kind kind;
    struct rpc_request *request;
    uint64_t offset, zeros;
    uint8_t *bytes; /* owned */
    size_t count;
};

struct upload {
    struct image_uploads *uploads;
    struct upload *next;
    char digest[DIGEST_TEXT_SIZE];
    uint64_t size;
    struct image_draft draft; /* the worker's while one is at it */
    struct part *first, **end;
    size_t count;
    struct part *now; /* the one that the worker has; NULL: none works */
    bool is_dead; /* dead: dropped as soon as its worker is done */
    struct loop_timer *idle;
    struct fault fault; /* the worker's */
};

struct image_uploads {
    struct images *images;
    struct upload *first;
    size_t count;
};

static void run_next(struct upload *upload);

/* ---- parts ---- */
static void part_free(struct part *part)
{
    free(part->bytes);
    free(part);
}

static void part_refuse(struct part *part, const struct fault *fault)
{
    (void)rpc_reply_fault(part->request, fault);
    part_free(part);
}

static struct part *take_part(struct upload *upload)
{
    struct part *part = upload->first;

    if (part) {
        upload->first = part->next;
        if (!upload->first)
            upload->end = &upload->first;
        upload->count--;
    }
    return part;
}

/* ---- an upload ---- */
static struct upload *find(const struct image_uploads *uploads, const char *digest)
{
    struct upload *upload = uploads->first;

    while (upload && strcmp(upload->digest, digest) != 0)
        upload = upload->next;
    return upload;
}

static void upload_free(struct upload *upload)
{
    struct upload **at = &upload->uploads->first;

    while (*at != upload)
        at = &(*at)->next;
    *at = upload->next;
    upload->uploads->count--;
    image_draft_drop(&upload->draft);
    for (struct part *part; (part = take_part(upload));)
        part_free(part);
    if (upload->idle)
        (void)loop_timer_free(upload->idle);
    free(upload);
}

/* Whatever waits for it is told; the file goes. */
static void give_up(struct upload *upload, const struct fault *fault)
{
    for (struct part *part; (part = take_part(upload));)
        part_refuse(part, fault);
    if (upload->now)
        upload->is_dead = true;
    else
        upload_free(upload);
}

static void on_idle(void *data)
{
    struct upload *upload = data;
    struct fault fault = {0};

    log_info("image_upload", "nobody sends any more, dropped image=%.12s", upload->digest);
    (void)fault_set(&fault, ERR_TIMEOUT, "image %.12s was not sent on", upload->digest);
    give_up(upload, &fault);
}

static struct upload *upload_new(struct image_uploads *uploads, const char *digest, uint64_t size)
{
    struct upload *upload = calloc(1, sizeof *upload);

    if (!upload)
        return NULL;
    upload->draft.fd = -1;
    upload->uploads = uploads;
    upload->size = size;
    upload->end = &upload->first;
    memcpy(upload->digest, digest, DIGEST_TEXT_SIZE);
    upload->next = uploads->first;
    uploads->first = upload;
    uploads->count++;
    if (loop_timer_new(&upload->idle, images_loop(uploads->images), on_idle, upload, NULL) < 0) {
        upload_free(upload);
        return NULL;
    }
    return upload;
}

/* ---- working ---- */
static void work(void *data)
{
    struct upload *upload = data;
    const struct part *part = upload->now;

    switch (part->kind) {
    case PART_BEGIN:
        if (upload->draft.fd < 0)
            (void)image_draft_open(&upload->draft, images_folder(upload->uploads->images),
                                   upload->digest, upload->size, &upload->fault);
        break;
    case PART_BYTES:
        (void)image_draft_add(&upload->draft, part->offset, part->bytes, part->count, part->zeros,
                              &upload->fault);
        break;
    case PART_END:
        (void)image_draft_publish(&upload->draft, &upload->fault);
        break;
    }
}

static void worked(void *data)
{
    struct upload *upload = data;
    struct images *images = upload->uploads->images;
    struct part *part = upload->now;
    struct fault fault = upload->fault;
    Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;

    images_work_done(images);
    upload->now = NULL;
    if (upload->is_dead && !fault.code && part->kind != PART_END)
        (void)fault_set(&fault, ERR_CANCELED, "image %.12s was given up", upload->digest);
    bool is_misplaced = part->kind == PART_BYTES && part->offset != upload->draft.offset;
    if (fault.code == ERR_INVALID && is_misplaced && !upload->is_dead) {
        upload->fault = (struct fault){0}; /* that part only: the draft is as it was */
        part_refuse(part, &fault);
        run_next(upload);
        return;
    }
    if (fault.code) {
        part_refuse(part, &fault);
        give_up(upload, &fault);
        return;
    }
    state.has_offset = state.has_whole = true;
    state.offset = upload->draft.offset;
    state.whole = part->kind == PART_END;
    if (state.whole) {
        log_info("image_upload", "here image=%.12s bytes=%llu", upload->digest,
                 (unsigned long long)upload->size);
        images_added(images, upload->digest);
    }
    (void)rpc_reply(part->request, &state.base);
    part_free(part);
    if (state.whole) {
        (void)fault_set(&fault, ERR_STATE, "image %.12s is whole", upload->digest);
        give_up(upload, &fault); /* drops what is open, not what was published */
    } else {
        run_next(upload);
    }
}

static void run_next(struct upload *upload)
{
    struct fault fault = {0};

    loop_timer_start(upload->idle, IMAGE_UPLOAD_IDLE_MS, 0);
    if (upload->now || !upload->first)
        return;
    upload->now = take_part(upload);
    if (images_work(upload->uploads->images, work, worked, upload) == 0)
        return;
    (void)fault_set(&fault, ERR_BUSY, "no worker to take an image");
    part_refuse(TAKE(upload->now), &fault);
    give_up(upload, &fault);
}

static void add_part(struct upload *upload, enum part_kind kind, const Godwit__ImageChunk *chunk,
                     struct rpc_request *request)
{
    struct fault fault = {0};
    struct part *part = upload->count < IMAGE_UPLOAD_QUEUE_MAX ? calloc(1, sizeof *part) : NULL;

    if (part && chunk && chunk->data.len > 0) {
        part->bytes = malloc(chunk->data.len);
        if (part->bytes)
            memcpy(part->bytes, chunk->data.data, chunk->data.len);
        part->count = chunk->data.len;
    }
    if (!part || (part->count > 0 && !part->bytes)) {
        free(part);
        (void)fault_set(&fault, ERR_LIMIT, "more parts of image %.12s than can be kept",
                        upload->digest);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    part->kind = kind;
    part->request = request;
    part->offset = chunk ? chunk->offset : 0;
    part->zeros = chunk ? chunk->zeros : 0;
    *upload->end = part;
    upload->end = &part->next;
    upload->count++;
    run_next(upload);
}

/* ---- orders ---- */
void image_upload_begin(struct image_uploads *uploads, const Godwit__OrderImageBegin *order,
                        struct rpc_request *request)
{
    Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;
    struct fault fault = {0};

    if (!vm_spec_digest_is_valid(order->digest)) {
        (void)fault_set(&fault, ERR_INVALID, "'%.80s' is no SHA-256",
                        order->digest ? order->digest : "");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (images_has(uploads->images, order->digest)) {
        state.has_whole = state.whole = true;
        (void)rpc_reply(request, &state.base);
        return;
    }
    struct upload *upload = find(uploads, order->digest);
    if (upload && (upload->is_dead || upload->size != order->size)) {
        (void)fault_set(&fault, ERR_BUSY, "image %.12s is just coming, with %llu bytes",
                        order->digest, (unsigned long long)upload->size);
    } else if (!upload) {
        upload = uploads->count < IMAGE_UPLOADS_MAX
                     ? upload_new(uploads, order->digest, order->size)
                     : NULL;
        if (!upload)
            (void)fault_set(&fault, ERR_LIMIT, "%zu images are just coming, which is all that can",
                            uploads->count);
    }
    if (fault.code)
        (void)rpc_reply_fault(request, &fault);
    else
        add_part(upload, PART_BEGIN, NULL, request);
}

static struct upload *need(struct image_uploads *uploads, const char *digest,
                           struct rpc_request *request)
{
    struct upload *upload = digest ? find(uploads, digest) : NULL;
    struct fault fault = {0};

    if (upload && !upload->is_dead)
        return upload;
    (void)fault_set(&fault, ERR_NOT_FOUND, "image %.12s is not being taken here",
                    digest ? digest : "");
    (void)rpc_reply_fault(request, &fault);
    return NULL;
}

void image_upload_chunk(struct image_uploads *uploads, const Godwit__ImageChunk *order,
                        struct rpc_request *request)
{
    struct upload *upload = need(uploads, order->digest, request);

    if (upload)
        add_part(upload, PART_BYTES, order, request);
}

void image_upload_end(struct image_uploads *uploads, const Godwit__OrderImageEnd *order,
                      struct rpc_request *request)
{
    Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;
    struct fault fault = {0};

    state.has_whole = true;
    state.whole = order->digest && images_has(uploads->images, order->digest);
    if (state.whole && !order->abort) { /* said twice */
        (void)rpc_reply(request, &state.base);
        return;
    }
    struct upload *upload = order->digest ? find(uploads, order->digest) : NULL;
    if (order->abort) {
        (void)fault_set(&fault, ERR_CANCELED, "image %.12s was given up",
                        order->digest ? order->digest : "");
        if (upload)
            give_up(upload, &fault);
        (void)rpc_reply(request, &state.base);
        return;
    }
    upload = need(uploads, order->digest, request);
    if (upload)
        add_part(upload, PART_END, NULL, request);
}

bool image_upload_is_busy(const struct image_uploads *uploads, const char *digest)
{
    return find(uploads, digest) != NULL;
}

/* ---- life ---- */
int image_uploads_new(struct image_uploads **ret_uploads, struct images *images,
                      struct fault *fault)
{
    struct image_uploads *uploads = calloc(1, sizeof *uploads);
    if (!uploads)
        return fault_set(fault, ERR_NOMEM, "no memory for images that come in");
    uploads->images = images;
    *ret_uploads = uploads;
    return 0;
}

struct image_uploads *image_uploads_free(struct image_uploads *uploads)
{
    while (uploads && uploads->first) {
        assert(!uploads->first->now); /* images_stop has waited */
        upload_free(uploads->first);
    }
    free(uploads);
    return NULL;
}

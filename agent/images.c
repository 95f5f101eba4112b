#include "agent/images.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_link.h"
#include "agent/image_clone.h"
#include "agent/image_fetch.h"
#include "agent/image_seal.h"
#include "agent/image_upload.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/sparse.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { TELL_MS = 500 };

struct images {
    struct loop *loop;
    struct tls_context *context;
    struct agent_link *link;
    int folder_fd;
    char **digests; /* that are whole; owned */
    size_t count;
    struct image_proof *proofs; /* owned */
    size_t proof_count;
    struct images_watch *watches;
    struct loop_timer *timer; /* tells how far they are, while there are some */
    struct image_uploads *uploads;
    struct image_fetches *fetches;
    struct image_clones *clones;
    struct image_seals *seals;
    unsigned workers;
    bool stopped;
};

/* ---- for the three ---- */
struct loop *images_loop(const struct images *images)
{
    return images->loop;
}

int images_folder(const struct images *images)
{
    return images->folder_fd;
}

struct tls_context *images_context(const struct images *images)
{
    return images->context;
}

bool images_has(const struct images *images, const char *digest)
{
    for (size_t i = 0; i < images->count; i++) {
        if (strcmp(images->digests[i], digest) == 0)
            return true;
    }
    return false;
}

void images_tell(struct images *images)
{
    Godwit__AgentImages event = GODWIT__AGENT_IMAGES__INIT;

    event.digests = images->digests;
    event.n_digests = images->count;
    if (images->link)
        agent_link_send(images->link, METHOD_AGENT_IMAGES, &event.base);
}

void images_added(struct images *images, const char *digest)
{
    if (images_has(images, digest))
        return;
    char **more = reallocarray(images->digests, images->count + 1, sizeof *more);
    char *copy = strdup(digest);
    assert(more && copy); /* 64 letters: without them there is no agent */
    images->digests = more;
    more[images->count++] = copy;
    images_tell(images);
}

struct image_proof *images_proof(struct images *images, const char *digest)
{
    for (size_t i = 0; i < images->proof_count; i++) {
        if (strcmp(images->proofs[i].digest, digest) == 0)
            return &images->proofs[i];
    }
    return NULL;
}

void images_set_proof(struct images *images, const struct image_proof *proof)
{
    struct image_proof *found = images_proof(images, proof->digest);

    if (!found) {
        struct image_proof *more =
            reallocarray(images->proofs, images->proof_count + 1, sizeof *more);
        if (!more)
            return; /* it is verified again the next time */
        images->proofs = more;
        found = &more[images->proof_count++];
    }
    *found = *proof;
}

int images_work(struct images *images, void (*work)(void *data), void (*done)(void *data),
                void *data)
{
    if (images->stopped || loop_work(images->loop, work, done, data) < 0)
        return -1;
    images->workers++;
    return 0;
}

void images_work_done(struct images *images)
{
    assert(images->workers > 0);
    images->workers--;
}

/* ---- how far it is ---- */
static void tell_watches(void *data)
{
    const struct images *images = data;

    for (const struct images_watch *watch = images->watches; watch; watch = watch->next) {
        Godwit__AgentImageProgress event = GODWIT__AGENT_IMAGE_PROGRESS__INIT;
        event.has_watch = event.has_done = event.has_total = true;
        event.watch = watch->number;
        event.phase = (char *)(uintptr_t)watch->phase; /* protobuf-c knows no const */
        event.done = atomic_load(&watch->done);
        event.total = watch->total;
        if (watch->number && images->link)
            agent_link_send(images->link, METHOD_AGENT_IMAGE_PROGRESS, &event.base);
    }
}

void images_watch(struct images *images, struct images_watch *watch)
{
    watch->next = images->watches;
    images->watches = watch;
    if (!watch->next)
        loop_timer_start(images->timer, TELL_MS, TELL_MS);
}

void images_unwatch(struct images *images, struct images_watch *watch)
{
    struct images_watch **at = &images->watches;

    while (*at && *at != watch)
        at = &(*at)->next;
    if (*at)
        *at = watch->next;
    if (!images->watches)
        loop_timer_stop(images->timer);
}

/* ---- orders ---- */
void images_begin(struct images *images, const Godwit__OrderImageBegin *order,
                  struct rpc_request *request)
{
    const char *digest = order->digest ? order->digest : "";
    struct fault fault = {0};

    if (images_has(images, digest) || !image_fetch_is_busy(images->fetches, digest)) {
        image_upload_begin(images->uploads, order, request);
        return;
    }
    (void)fault_set(&fault, ERR_BUSY, "image %.12s is just coming from another host", digest);
    (void)rpc_reply_fault(request, &fault);
}

void images_chunk(struct images *images, const Godwit__ImageChunk *order,
                  struct rpc_request *request)
{
    image_upload_chunk(images->uploads, order, request);
}

void images_end(struct images *images, const Godwit__OrderImageEnd *order,
                struct rpc_request *request)
{
    image_upload_end(images->uploads, order, request);
}

void images_fetch(struct images *images, const Godwit__OrderImageFetch *order,
                  struct rpc_request *request)
{
    const char *digest = order->digest ? order->digest : "";

    if (images_has(images, digest)) {
        Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;
        state.has_whole = state.whole = true;
        (void)rpc_reply(request, &state.base);
    } else if (image_upload_is_busy(images->uploads, digest)) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_BUSY, "image %.12s is just coming from an operator", digest);
        (void)rpc_reply_fault(request, &fault);
    } else {
        image_fetch_begin(images->fetches, order, request);
    }
}

void images_clone(struct images *images, const Godwit__OrderImageClone *order,
                  struct rpc_request *request)
{
    image_clone_begin(images->clones, order, request);
}

void images_seal(struct images *images, const Godwit__OrderImageSeal *order,
                 const char *snapshots, struct rpc_request *request)
{
    image_seal_begin(images->seals, order, snapshots, request);
}

bool images_are_sealed_for(const struct images *images, const char *vm_id)
{
    return images && image_seal_is_busy(images->seals, vm_id);
}

bool images_are_cloned_for(const struct images *images, const char *vm_id)
{
    return images && image_clone_is_busy(images->clones, vm_id);
}

/* ---- one that does not stay, one that is read ---- */
struct reading { /* and removing */
    struct images *images;
    struct rpc_request *request;
    char digest[DIGEST_TEXT_SIZE];
    uint64_t offset, size;
    uint8_t *buffer;
    struct sparse_piece piece;
    struct fault fault;
};

static struct reading *reading_new(struct images *images, const char *digest,
                                   struct rpc_request *request, struct fault *fault)
{
    if (!vm_spec_digest_is_valid(digest)) {
        (void)fault_set(fault, ERR_INVALID, "'%.80s' is no SHA-256", digest ? digest : "");
        return NULL;
    }
    struct reading *reading = calloc(1, sizeof *reading);
    if (!reading) {
        (void)fault_set(fault, ERR_NOMEM, "no memory for an image");
        return NULL;
    }
    reading->images = images;
    reading->request = request;
    memcpy(reading->digest, digest, DIGEST_TEXT_SIZE);
    return reading;
}

static void reading_free(struct reading *reading)
{
    free(reading->buffer);
    free(reading);
}

static void remove_work(void *data)
{
    struct reading *reading = data;

    (void)image_folder_remove(reading->images->folder_fd, reading->digest, &reading->fault);
}

void images_forget(struct images *images, const char *digest)
{
    struct image_proof *proof = images_proof(images, digest);

    if (proof)
        *proof = images->proofs[--images->proof_count];
    for (size_t i = 0; i < images->count; i++) {
        if (strcmp(images->digests[i], digest) != 0)
            continue;
        free(images->digests[i]);
        images->digests[i] = images->digests[--images->count];
        log_info("images", "not here any more image=%.12s", digest);
        images_tell(images);
        return;
    }
}

static void remove_done(void *data)
{
    struct reading *reading = data;
    Godwit__ImageState state = GODWIT__IMAGE_STATE__INIT;

    images_work_done(reading->images);
    if (reading->fault.code) {
        (void)rpc_reply_fault(reading->request, &reading->fault);
    } else {
        images_forget(reading->images, reading->digest);
        (void)rpc_reply(reading->request, &state.base);
    }
    reading_free(reading);
}

void images_remove(struct images *images, const Godwit__OrderImageRemove *order,
                   struct rpc_request *request)
{
    struct fault fault = {0};
    struct reading *reading = reading_new(images, order->digest, request, &fault);

    if (reading && images_work(images, remove_work, remove_done, reading) < 0) {
        reading_free(reading);
        (void)fault_set(&fault, ERR_BUSY, "no worker to remove an image");
    }
    if (fault.code)
        (void)rpc_reply_fault(request, &fault);
}

static void read_work(void *data)
{
    struct reading *reading = data;
    AUTO_FD int fd = -1;

    reading->buffer = malloc(IMAGE_CHUNK_BYTES);
    int r = reading->buffer ? 0 : fault_set(&reading->fault, ERR_NOMEM, "no memory for an image");
    if (r == 0)
        r = image_folder_file(reading->images->folder_fd, reading->digest, &fd, &reading->size,
                              &reading->fault);
    if (r == 0 && reading->offset >= reading->size)
        r = fault_set(&reading->fault, ERR_INVALID, "image %.12s has %llu bytes, asked was for %llu",
                      reading->digest, (unsigned long long)reading->size,
                      (unsigned long long)reading->offset);
    if (r == 0)
        (void)sparse_read(fd, reading->offset, reading->size, reading->buffer, IMAGE_CHUNK_BYTES,
                          &reading->piece, &reading->fault);
}

static void read_done(void *data)
{
    struct reading *reading = data;
    Godwit__ImageData reply = GODWIT__IMAGE_DATA__INIT;

    images_work_done(reading->images);
    if (reading->fault.code) {
        (void)rpc_reply_fault(reading->request, &reading->fault);
    } else {
        reply.has_size = true;
        reply.size = reading->size;
        reply.has_data = reading->piece.count > 0;
        reply.data = (ProtobufCBinaryData){.len = reading->piece.count, .data = reading->buffer};
        reply.has_zeros = reading->piece.zeros > 0;
        reply.zeros = reading->piece.zeros;
        (void)rpc_reply(reading->request, &reply.base);
    }
    reading_free(reading);
}

void images_read(struct images *images, const Godwit__ImageReadRequest *message,
                 struct rpc_request *request)
{
    struct fault fault = {0};
    struct reading *reading = reading_new(images, message->digest, request, &fault);

    if (reading) {
        reading->offset = message->offset;
        if (images_work(images, read_work, read_done, reading) < 0) {
            reading_free(reading);
            (void)fault_set(&fault, ERR_BUSY, "no worker to read an image");
        }
    }
    if (fault.code)
        (void)rpc_reply_fault(request, &fault);
}

/* ---- life ---- */
int images_new(struct images **ret_images, struct loop *loop, struct tls_context *context,
               const char *folder, struct fault *fault)
{
    struct images *images = calloc(1, sizeof *images);
    if (!images)
        return fault_set(fault, ERR_NOMEM, "no memory for images");
    images->loop = loop;
    images->context = context;
    images->folder_fd = -1;
    int r = image_folder_open(folder, &images->folder_fd, fault);
    if (r == 0)
        r = image_folder_list(images->folder_fd, &images->digests, &images->count, fault);
    if (r == 0)
        r = loop_timer_new(&images->timer, loop, tell_watches, images, fault);
    if (r == 0)
        r = image_uploads_new(&images->uploads, images, fault);
    if (r == 0)
        r = image_fetches_new(&images->fetches, images, fault);
    if (r == 0)
        r = image_clones_new(&images->clones, images, fault);
    if (r == 0)
        r = image_seals_new(&images->seals, images, fault);
    if (r < 0) {
        (void)images_free(images);
        return r;
    }
    *ret_images = images;
    return 0;
}

void images_set_link(struct images *images, struct agent_link *link)
{
    if (images)
        images->link = link;
}

void images_stop(struct images *images)
{
    if (!images)
        return;
    images->stopped = true;
    image_fetches_stop(images->fetches);
    image_clones_stop(images->clones);
    image_seals_stop(images->seals);
    while (images->workers)
        loop_turn(images->loop, true); /* each holds a pointer to us */
}

struct images *images_free(struct images *images)
{
    if (!images)
        return NULL;
    images->uploads = image_uploads_free(images->uploads);
    images->fetches = image_fetches_free(images->fetches);
    images->clones = image_clones_free(images->clones);
    images->seals = image_seals_free(images->seals);
    if (images->timer)
        (void)loop_timer_free(images->timer);
    image_folder_list_free(images->digests, images->count);
    free(images->proofs);
    close_p(&images->folder_fd);
    free(images);
    return NULL;
}

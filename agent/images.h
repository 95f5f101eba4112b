/* Images on this host: what is here, what comes in from an operator or another host, what becomes a
 * VM's disk, and of which disks they are made.
 *
 * Flow:   orders, peers -> [images] -> image_upload, image_fetch, image_clone, image_seal -> image_folder
 * Thread: the loop's; files on workers.
 *
 * The coordinator is told what is here when it welcomes this host and whenever it changes, before
 * the answer of the order that changed it.
 */
#ifndef GODWIT_AGENT_IMAGES_H
#define GODWIT_AGENT_IMAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image_folder.h"
#include "proto/image.pb-c.h"

struct agent_link;
struct fault;
struct image_clone;
struct image_fetch;
struct image_upload;
struct images;
struct loop;
struct rpc_request;
struct tls_context;

int images_new(struct images **ret_images, struct loop *loop, struct tls_context *context,
               const char *folder, struct fault *fault);
void images_set_link(struct images *images, struct agent_link *link); /* NULL: nobody is told */
/* What is under way is given up; workers are done with it. */
void images_stop(struct images *images);
struct images *images_free(struct images *images);
void images_tell(struct images *images); /* all that is here, to the coordinator */

/* Orders; each answers its request. */
void images_begin(struct images *images, const Godwit__OrderImageBegin *order,
                  struct rpc_request *request);
void images_chunk(struct images *images, const Godwit__ImageChunk *order,
                  struct rpc_request *request);
void images_end(struct images *images, const Godwit__OrderImageEnd *order,
                struct rpc_request *request);
void images_fetch(struct images *images, const Godwit__OrderImageFetch *order,
                  struct rpc_request *request);
void images_clone(struct images *images, const Godwit__OrderImageClone *order,
                  struct rpc_request *request);
/* `snapshots`: their folder here, which must outlive the images; NULL: none. */
void images_seal(struct images *images, const Godwit__OrderImageSeal *order,
                 const char *snapshots, struct rpc_request *request);
bool images_are_cloned_for(const struct images *images, const char *vm_id); /* just now */
bool images_are_sealed_for(const struct images *images, const char *vm_id); /* just now */
void images_remove(struct images *images, const Godwit__OrderImageRemove *order,
                   struct rpc_request *request);
/* Also of other hosts. */
void images_read(struct images *images, const Godwit__ImageReadRequest *message,
                 struct rpc_request *request);

/* ---- for image_upload, image_fetch, image_clone, image_seal ---- */
struct images_watch { /* how far something is: written by a worker, told by the loop */
    struct images_watch *next;
    uint64_t number; /* 0: nobody is told */
    const char *phase; /* the loop's: fetch, verify, clone */
    uint64_t total;
    atomic_ullong done;
};
struct loop *images_loop(const struct images *images);
int images_folder(const struct images *images);
struct tls_context *images_context(const struct images *images);
bool images_has(const struct images *images, const char *digest);
void images_added(struct images *images, const char *digest); /* published: told */
void images_watch(struct images *images, struct images_watch *watch);
void images_unwatch(struct images *images, struct images_watch *watch);
/* As loop_work; `done` is called even when all is being given up. -1: there is no worker. */
int images_work(struct images *images, void (*work)(void *data), void (*done)(void *data),
                void *data);
void images_work_done(struct images *images); /* the first that every `done` calls */
struct image_proof *images_proof(struct images *images, const char *digest);
void images_forget(struct images *images, const char *digest); /* removed, or put aside: told */
void images_set_proof(struct images *images, const struct image_proof *proof);

#endif

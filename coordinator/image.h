/* The pool's images: which names stand for which content, and what that means for a VM's disks.
 *
 * Flow:   image_api -> [image] -> cluster -> store
 * Thread: the loop's; pure.
 *
 * A name is the pool's and lasts; which hosts have the content they tell themselves. A disk that is
 * made from an image is an independent clone: its description keeps the image's name and digest.
 */
#ifndef GODWIT_COORDINATOR_IMAGE_H
#define GODWIT_COORDINATOR_IMAGE_H

#include "coordinator/cluster.h"

/* Where disks go whose description names no store; agents make it (agent/image_clone.h). */
#define IMAGE_STORE_DEFAULT "/var/lib/godwit/disks"

/* NULL with `problem` set (may be NULL). */
struct cluster_image *image_find(const struct cluster *cluster, const char *name,
                                 struct problem *problem);
/* Could it be added? 0; IMAGE_E_SAME: it is there with the same content; -1. */
enum { IMAGE_E_SAME = 1 };
int image_judge(const struct cluster *cluster, const Godwit__ImageInfo *given,
                struct problem *problem);
/* Judged, then kept and stored. 0, or -1 and nothing changed. */
int image_add(struct cluster *cluster, const Godwit__ImageInfo *given, struct cluster_now now,
              struct cluster_image **ret_image, struct problem *problem, struct cluster_todo *todo);
/* Refused while a VM's description names it. 0, or -1 and nothing changed. */
int image_remove(struct cluster *cluster, const char *name, struct problem *problem,
                 struct cluster_todo *todo);

/* An agent said what it has: kept. */
void image_take(struct cluster_host *host, const Godwit__AgentImages *images);
bool image_host_has(const struct cluster_host *host, const char *digest);
bool image_is_named(const struct cluster *cluster, const char *digest); /* by any image */
/* A host that answers and has it, but for `not_on` (may be NULL); NULL: none. */
const struct cluster_host *image_find_host(const struct cluster *cluster, const char *digest,
                                           const char *not_on, struct cluster_now now);
/* The host that `word` names, or for "" the one that an import fits best: it has the content, or is
 * the first that is up and not cordoned. NULL with `problem` set. */
struct cluster_host *image_choose_host(const struct cluster *cluster, const char *word,
                                       const char *digest, struct cluster_now now,
                                       struct problem *problem);
/* What is told of it: lists are the caller's to free, what they point to is borrowed. */
void image_tell(const struct cluster *cluster, const struct cluster_image *image,
                Godwit__ImageInfo *ret_info);
void image_tell_end(Godwit__ImageInfo *info);

/* A copy of the description in which disks that are made from images have their place, size and
 * digest, and which boots as its first disk's image says. NULL with `problem` set. */
Godwit__VmSpec *image_complete_spec(const struct cluster *cluster, const Godwit__VmSpec *spec,
                                    struct problem *problem);
/* Are its disks still to be made from images? Once it has been started they never are again. */
bool image_vm_is_raw(const struct cluster_vm *vm);

#endif

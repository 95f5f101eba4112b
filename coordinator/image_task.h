/* One request about images that takes a while: who asked, and how far it is.
 *
 * Flow:   image_api, image_make, image_seal -> [image_task] -> the operator; agents' progress -> [image_task]
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_IMAGE_TASK_H
#define GODWIT_COORDINATOR_IMAGE_TASK_H

#include "coordinator/agent_link.h"
#include "coordinator/coordinator.h"

struct image_task {
    struct image_task *next;
    struct coordinator *coordinator;
    struct rpc_request *request;
    uint64_t number; /* agents tell their progress under it */
    char what[160];  /* for the operator: "debian12 to node2" */
    char host[OWN_HOST_SIZE];
    char name[OWN_HOST_SIZE]; /* of an image */
    Godwit__ImageInfo *info;  /* owned; import: what becomes of it */
    /* disks of a VM */
    char vm_id[ID_TEXT_SIZE];
    size_t disk;     /* the one that is made */
    bool is_created; /* the VM was, by this request */
};

struct image_task *image_task_new(struct coordinator *coordinator, struct rpc_request *request);
void image_task_free(struct image_task *task);
/* "busy with that": to the operator who asked, if it is still there. */
void image_task_progress(struct image_task *task, const char *phase, uint64_t done, uint64_t total);
/* Have `host` fetch the content from those that have it; `done` as agent_link_call's. */
void image_task_fetch(struct image_task *task, const char *digest, uint64_t size,
                      agent_link_done_fn *done);
/* The words of an agent's refusal. */
void image_task_problem(const struct image_task *task, const struct fault *fault,
                        enum agent_link_fate fate, struct problem *ret_problem);

#endif

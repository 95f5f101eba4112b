/* Tells the guest of this process by vsock what is about to become of it, and what became of it.
 *
 * Flow:   machine -> [notice] -> vmm-core/vm (a stream of its vsock) -> who listens in the guest
 * Thread: the loop's.
 *
 * Says what notice_core decides; docs/guest-notice.md has the lines. Every object here works on a
 * guest that never listens as on one that does: nothing blocks, nothing is waited for but GO.
 */
#ifndef GODWIT_AGENT_VM_NOTICE_H
#define GODWIT_AGENT_VM_NOTICE_H

#include <stdint.h>

#include "agent/vm/notice_core.h"

struct fault;
struct loop;
struct notice;

struct notice_config {
    struct loop *loop;
    /* Gives a stream to the guest, non-blocking, that begins with "OK N\n" (vm_connect_vsock). */
    int (*connect)(void *data, int *ret_fd, struct fault *fault);
    /* The guest knows of its pause, or had its time; once for each notice_prepare. May come from
     * within it. */
    void (*go)(void *data);
    void *data;
};

int notice_new(struct notice **ret_notice, const struct notice_config *config, struct fault *fault);
struct notice *notice_free(struct notice *notice); /* without a go */

/* `id` NULL: none is told. */
void notice_prepare(struct notice *notice, enum notice_kind kind, const char *id, uint64_t wait_ms);
void notice_cancelled(struct notice *notice, enum notice_kind kind, const char *id);
/* `pause_ms` NULL: not known; `host` NULL: not told. */
void notice_resumed(struct notice *notice, enum notice_kind kind, const char *id,
                    const uint64_t *pause_ms, const char *host);
/* The machine goes away: no connection is used any more. */
void notice_stop(struct notice *notice);

#endif

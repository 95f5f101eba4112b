/* The bandwidth limit of one move: a token bucket that all its lanes draw from.
 *
 * Flow:   lane_source -> [pacer] -> stream
 * Thread: the core is pure; pacer_wait from any lane, pacer_close from any thread.
 *
 * The limit is for the long part. The few pages of the pause are not held back: a guest that stands
 * still costs more than a burst.
 */
#ifndef GODWIT_MIGRATE_PACER_H
#define GODWIT_MIGRATE_PACER_H

#include <stdint.h>

/* Pure core. Debt is allowed: a taker of more than there is waits until it is paid, so that large
 * frames pass through a small bucket. */
struct pacer_core {
    uint64_t bytes_per_s; /* 0: no limit */
    uint64_t burst_bytes;
    double tokens; /* bytes; negative: debt */
    uint64_t last_ns;
};

void pacer_core_init(struct pacer_core *core, uint64_t bytes_per_s, uint64_t now_ns);
/* Take `bytes`; returns how long the taker must wait before it sends them. */
uint64_t pacer_core_take(struct pacer_core *core, uint64_t bytes, uint64_t now_ns);
/* Another limit from now on; what was taken stays taken. */
void pacer_core_set(struct pacer_core *core, uint64_t bytes_per_s, uint64_t now_ns);
/* How long until the debt of now is paid. */
uint64_t pacer_core_debt_ns(const struct pacer_core *core, uint64_t now_ns);

/* How long until more may not gather: who sends nothing till then loses nothing of the limit. 0: no limit. */
uint64_t pacer_core_room_ns(const struct pacer_core *core, uint64_t now_ns);

struct pacer;

enum { PACER_E_CLOSED = 1 };

int pacer_new(struct pacer **ret_pacer, uint64_t bytes_per_s);
struct pacer *pacer_free(struct pacer *pacer);
/* Returns 0 after waiting, with the time in *ret_waited_ns; PACER_E_CLOSED once it is closed. */
int pacer_wait(struct pacer *pacer, uint64_t bytes, uint64_t *ret_waited_ns);
/* Sent already, by who may not wait: those who may pay for it. */
void pacer_charge(struct pacer *pacer, uint64_t bytes);
uint64_t pacer_room_ns(struct pacer *pacer);
/* Another limit from now on, for those who wait, too. 0: none. */
void pacer_set(struct pacer *pacer, uint64_t bytes_per_s);
void pacer_close(struct pacer *pacer);

#endif

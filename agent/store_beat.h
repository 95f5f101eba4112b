/* The storage heartbeat, and class F1 of fencing: word that goes over a folder all hosts share.
 *
 * Flow:   agent <-> [store_beat] <-> FOLDER/.godwit-ha/
 * Thread: the loop's; files are read and written on a worker.
 *
 *   id            which store this is: random, made once
 *   HOST.beat     "<incarnation> <count>", counted up every second
 *   HOST.evict    "<incarnation> <nonce>": that life of HOST shall end its VMs, asked by a peer;
 *                 looked for four times a second
 *   HOST.evicted  "<nonce>": it has, and has taken a new life
 *
 * How old a beat is is told by the reader's clock: since when has its count stood still? Nobody's
 * wall clock matters. An eviction is confirmed by the evicted host itself, so it is sound as long
 * as that host speaks the truth; it is no defence against one that does not.
 */
#ifndef GODWIT_AGENT_STORE_BEAT_H
#define GODWIT_AGENT_STORE_BEAT_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct host_facts;
struct loop;
struct store_beat;

enum {
    STORE_BEAT_MS = 1000,
    STORE_BEAT_LOOK_MS =
        250, /* word for us is looked for so often: a start elsewhere waits for it */
    STORE_BEAT_HOSTS_MAX = 1000,
    STORE_BEAT_NONCE_SIZE = 33
};

/* `asked`: this life of this host is to end all its VMs; answer by store_beat_evicted. */
int store_beat_new(struct store_beat **ret_beat, struct loop *loop, struct host_facts *facts,
                   const char *host, const char *folder,
                   void (*asked)(void *data, const char *nonce), void *data, struct fault *fault);
struct store_beat *store_beat_free(struct store_beat *beat);

/* UINT64_MAX: it has never beaten here as far as we have seen. */
uint64_t store_beat_age_ms(const struct store_beat *beat, const char *host);
/* All VMs have ended and a new incarnation is taken. */
void store_beat_evicted(struct store_beat *beat, const char *nonce);
/* Ask `host` to end its VMs; `done` comes once, on the loop. */
void store_beat_evict(struct store_beat *beat, const char *host, const char *incarnation,
                      const char *nonce, uint64_t wait_ms, void (*done)(void *data, bool evicted),
                      void *data);

/* "<word> <word>" of these files, judged: each 1 to 63 letters and digits. */
bool store_beat_decode(const char *text, char ret_first[static 64], char ret_second[static 64]);

#endif

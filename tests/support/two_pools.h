/* A replica across two pools, for tests: two clusters with their rows in two stores, an agent each, and a line between
 * them. A coordinator of either pool dies where a test says so, and goes on from what was durable.
 *
 * Flow:   test -> [two_pools] -> cluster_core, dr_peer, store
 * Thread: the test's. Its names are short: a test is to read as what happens in the pools.
 */
#ifndef GODWIT_TESTS_SUPPORT_TWO_POOLS_H
#define GODWIT_TESTS_SUPPORT_TWO_POOLS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/cluster.h"

enum { QUEUE_MAX = 64, TURNS_MAX = 3000, TURN_MS = 100 };
enum { HERE, THERE, POOLS }; /* the source, and the holder */

extern const char *const names[POOLS], *const ids[POOLS];

struct pool {
    struct cluster cluster;
    struct cluster_todo todo;
    struct store *store;
    uint64_t last_event;
    bool up; /* its host */
    unsigned boot;
    struct cluster_order queue[QUEUE_MAX];
    size_t queued;
    /* its host's process of the VM, or of its replica */
    bool runs, finished, replicates, holds;
    uint64_t generation, seen, written, held;
    char out_id[ID_TEXT_SIZE], in_id[ID_TEXT_SIZE];
};

extern struct two_pools {
    struct pool pools[POOLS];
    struct problem problem;
    uint64_t now_ns;
    bool line, was_split, is_no_peer;
    unsigned applies, dies_at;
    bool is_durable, died, refuses_take;
    unsigned starts;
    struct { /* the copy of a test, on the holder's host */
        bool exists, runs, stands;
        uint64_t generation, vcpu_ns;
        char id[ID_TEXT_SIZE];
    } twin;
    bool refuses_copy, loses_answer; /* of the order that makes it */
    unsigned copies;
} world;

/* "web" runs in the one pool, and is held by the other. */
int set_up(void **ignored);
int tear_down(void **ignored);

/* ---- what is there ---- */
struct cluster_now now(void);
struct cluster_vm *vm(int p);
struct cluster_host *host(int p);
bool step_is(int p, const char *step);
const char *state(int p);
bool is_held(void);
bool runs_there(void);
bool is_over(void);
bool is_failed(void);
bool runs_here_again(void);
bool is_unprotected(void);

/* ---- what operators say: 0, or -1 with world.problem set ---- */
int ask(int p, Godwit__DrVerb verb, const char *confirm, bool split, bool force);
int take_over(const char *confirm, bool split);
int unprotect(int p, bool force);
int start(int p);
void protect(void);

/* ---- what happens ---- */
void turn(void);
void turn_for(unsigned ms);
void turn_until(bool (*is_so)(void), const char *what);
void power_off(int p);
void power_on(int p);
/* The coordinator's process, from its store. */
void restart(int p);
/* Carry out what is to do. Returns false when the coordinator died of it: what was to follow does not. */
bool apply(int p);

#endif

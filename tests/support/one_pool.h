/* A replica within one pool, for tests: a cluster with its rows in a store, and three agents. Its coordinator dies where a
 * test says so, and goes on from what was durable; that nothing ever runs twice is asserted whenever something begins to.
 *
 * Flow:   test -> [one_pool] -> cluster_core, dr, store
 * Thread: the test's. Its names are short: a test is to read as what happens in the pool.
 */
#ifndef GODWIT_TESTS_SUPPORT_ONE_POOL_H
#define GODWIT_TESTS_SUPPORT_ONE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/cluster.h"

enum { HOSTS = 3, VMS = 2, QUEUE_MAX = 64, TURNS_MAX = 4000 };

extern const char *const host_names[HOSTS], *const vm_names[VMS];

struct process {
    bool runs, finished;
    uint64_t generation, seen, held_ms;
    bool replicates, holds, keeps_disks;
    char out_id[ID_TEXT_SIZE], in_id[ID_TEXT_SIZE];
};

extern struct one_pool {
    struct cluster cluster;
    struct cluster_todo todo;
    struct problem problem;
    struct store *store;
    uint64_t now_ns, last_event;
    bool up[HOSTS];
    unsigned boot[HOSTS];
    struct process processes[HOSTS][VMS];
    struct cluster_order queue[QUEUE_MAX];
    size_t queued;
    /* the coordinator dies: at this transaction, before or after it is durable */
    unsigned applies, dies_at;
    bool is_durable, died;
    /* what agents refuse, once each */
    bool refuses_take, refuses_finish, target_goes, loses_target;
    bool keeps_whole; /* disks of kept_id lie there whole: asked for, they are held */
    char kept_id[ID_TEXT_SIZE];
    unsigned busy_takes; /* so many are put off */
    /* the copy of a test: at most one at a time here */
    struct {
        bool exists, runs; /* it was made; and started */
        char id[ID_TEXT_SIZE];
        int h;
        uint64_t generation, vcpu_ns;
    } twin;
    bool refuses_copy, refuses_twin, twin_stands, twin_is_busy, twin_may_rest;
    unsigned copies;
    unsigned overdue, given_up; /* alerts: a drill was due for long; of a copy */
    char told[CLUSTER_REASON_SIZE]; /* the last of them */
    bool misses;         /* the link carries less than the guest writes */
    unsigned orders[64]; /* by kind, as delivered */
    unsigned takes[VMS];
} world;

/* "web" and "db" run on node1. */
int set_up(void **ignored);
int tear_down(void **ignored);
void begin_world(void);
void end_world(void);

/* ---- what is there ---- */
struct cluster_now now(void);
struct cluster_vm *vm(int v);
const char *state(void);
bool is_held(void);
bool is_away(void);
bool is_home(void);
bool is_unprotected(void);
bool is_failed(void);
/* On so many hosts. */
unsigned running(int v);

/* ---- what operators say: 0, or -1 with world.problem set ---- */
Godwit__DrRequest request_of(Godwit__DrVerb verb);
int ask(const Godwit__DrRequest *request);
int protect(const char *name, const char *to, const char *group, unsigned order, unsigned delay_ms);
int ask_protect(void);
int failover(bool planned, const char *confirm, bool split);
int failback(void);
/* Protected on node2, and held there. */
void hold(void);

/* ---- what happens ---- */
void turn(void);
void turn_for(unsigned ms);
void turn_until(bool (*is_so)(void), const char *what);
void power_off(int h);
/* Its agent's link is gone, or there anew. */
void lose(int h);
void say_hello(int h);
void tell_replicas(int h);
/* The copy of a test is made, by an order whose answer is still to come. */
int copy_replica(int h, const struct cluster_order *order);
/* The coordinator's process, from its store. */
void restart(void);
/* Carry out what is to do. */
void apply(void);

/* ---- death at every step ---- */
/* An operator whose order was lost says it again. */
void until(int (*ask_for)(void), bool (*is_so)(void), const char *what);
/* The scenario once for each transaction of it, before and after that is durable. */
void dies_at_each_step_of(void (*scenario)(void), unsigned steps_min);

#endif

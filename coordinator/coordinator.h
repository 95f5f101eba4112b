/* The coordinator's shell: turns calls and ticks into steps of the cores, and carries out their
 * todo.
 *
 * Flow:   api, agent_link, enrol -> [coordinator] -> cluster_core; todo -> store -> agent_link,
 * watch Thread: the loop's.
 *
 * Memory runs ahead of the disk, never the world: a step changes the cluster at once, its todo's
 * rows are committed in the order of the steps, and its orders and answers leave when they are
 * durable (INV-7). A store that fails ends the process: what was not committed was told to nobody.
 */
#ifndef GODWIT_COORDINATOR_COORDINATOR_H
#define GODWIT_COORDINATOR_COORDINATOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "coordinator/cluster.h"
#include "coordinator/peer_pool.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "proto/address_list.h"

struct adding;
struct agent_call;
struct audit;
struct coordinator;
struct events;
struct loop;
struct loop_timer;
struct store;
struct store_batch;

struct peer { /* one connection: an agent, an operator, or a host that wants to join */
    struct coordinator *coordinator;
    struct rpc *rpc;
    struct peer *next;
    char host[OWN_HOST_SIZE]; /* after its HELLO; "" for all others */
    struct agent_call *calls; /* that wait for this agent */
};

struct coordinator {
    struct loop *loop;
    struct store *store;
    struct cluster cluster;
    struct loop_timer *tick;
    struct rpc_server *server;
    char *pool_id, *name;
    char *address; /* of all coordinators; owned, as are all texts here */
    char *self;    /* of this one */
    char *ca_certificate, *ca_key;
    char pin[PKI_PIN_SIZE];
    struct peer *peers;
    struct agent_call *failed_calls; /* agent_link: of no peer, told by the loop's next turn */
    struct ticket *tickets;           /* operators that wait for an order */
    struct token *tokens;             /* enrol */
    struct peer_pools peer_pools;
    struct adding *peer_addings;      /* peer_api */
    struct job_key *job_keys;         /* job */
    struct watcher *watchers;         /* watch */
    struct plan_watcher *plan_watchers;
    char *reboot_command; /* owned; NULL: operators reboot */
    pid_t reboot_pid;     /* of the last one */
    bool adopts_all;      /* pool.json's "adopt": "all" */
    struct adopter *adopters; /* adopt_all */
    struct console_session *sessions; /* console_relay */
    struct image_task *image_tasks;   /* image_api */
    uint64_t last_session, last_event, last_image_task;
    struct events *events; /* as is the next, there while it is active */
    struct audit *audit;
    unsigned commits;      /* on their way to the disk */
    unsigned fencings;     /* fence agents that run */
    bool looks_at_stores;  /* store_look_tick's, as is the next */
    uint64_t looked_at_stores_ns;
    const char *fence_dir; /* where they lie; borrowed */
    bool is_failed;

    /* several coordinators on one store: this one leads, or stands by */
    bool is_active;
    char *where;                 /* the store */
    char leader[ADDRESS_SIZE];   /* standing by: who leads, "" for nobody known */
    struct loop_timer *campaign; /* NULL: SQLite, always active */
    bool is_campaigning;         /* a worker tries to open the store */
    bool is_told;                /* the log knows why we stand by */
    struct fault campaign_fault; /* the worker's, until it is done */
    struct store *campaign_store;
};

/* Reads pool.json and certificates of `directory`, opens the store, listens. `store`: NULL for
 * SQLite in the directory, or "etcd://..." : then it stands by, refusing all by the leader's
 * address, until it leads. */
int coordinator_new(struct coordinator **ret_coordinator, struct loop *loop, const char *directory,
                    const char *store, const char *fence_dir, struct fault *fault);
/* Instead of running: fill the empty store from the backup at `path` (see backup.h). */
int coordinator_restore(struct loop *loop, const char *directory, const char *store,
                        const char *path, struct fault *fault);
/* The loop was stopped: was it because the leadership is gone? Then it stands by again, and the
 * loop may go on. */
bool coordinator_stood_down(struct coordinator *coordinator);
struct coordinator *coordinator_free(struct coordinator *coordinator);

struct cluster_now coordinator_now(void);

/* Carry a step's todo out, after `batch` (taken; NULL: nothing beside it). Empties the todo.
 * `after` (may be NULL) comes once, when all of it is durable and its orders have left. */
void coordinator_apply(struct coordinator *coordinator, struct cluster_todo *todo,
                       struct store_batch *batch, void (*after)(void *data), void *data);

/* The answer of `ticket` shall go to `request`, as ActionReply. */
void coordinator_await(struct coordinator *coordinator, uint64_t ticket,
                       struct rpc_request *request);
/* Or to a call, once; not when the coordinator ends before. */
void coordinator_await_call(struct coordinator *coordinator, uint64_t ticket,
                            void (*done)(void *data, const struct cluster_answer *answer),
                            void *data);
void coordinator_peer_gone(struct peer *peer); /* closes and frees it */

#endif

/* Other pools that this one trusts: invitations, and what became of them.
 *
 * Flow:   peer_api, peer_link -> [peer_pool] -> store; api's judge of certificates
 * Thread: the loop's; decides without any I/O. Rows change in the batch that the caller commits.
 *
 *   invited --a pool that holds the token joins--> peer --rm--> no record
 *   (at the joining pool:) no record --the other let us in--> peer --rm--> no record
 *
 * The token's id is the record's, and the name in the certificate that the joining pool is given:
 * once the record is gone that certificate opens nothing, whatever else it says.
 */
#ifndef GODWIT_COORDINATOR_PEER_POOL_H
#define GODWIT_COORDINATOR_PEER_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"
#include "coordinator/problem.h"
#include "net/pki.h"
#include "proto/peer.pb-c.h"

struct coordinator;
struct fault;
struct peer_link;
struct store;
struct store_batch;

enum {
    PEER_POOLS_MAX = 16,
    PEER_INVITATIONS_MAX = 100,
    PEER_INVITATION_S = 900,
    PEER_INVITATION_S_MAX = 86400,
    PEER_AWAY_MS = 10000,
    PEER_NEWS_MS = 10000,
    PEER_ID_SIZE = 17,
    PEER_CERTIFICATE_DAYS = 3650, /* it ends with the record, not with the calendar */
};

enum { PEER_TOLD_MAX = 16 }; /* about one a second, each for some */

struct peer_told { /* a question to a pool */
    struct peer_pool *pool;
    uint64_t at_ns; /* when it left */
};

struct peer_pool { /* a pool, or an invitation for one */
    Godwit__PeerRecord *info; /* owned */
    uint64_t revision;
    struct peer_pool *next;
    struct peer_link *link; /* peer_link's, of one that we call */
    uint64_t seen_ns, seen_unix_ms; /* when it last spoke; 0: not in this life */
    uint64_t news_ns;               /* when it last told a new name or address; 0: so */
    char reason[192];               /* why it is away */
    /* peer_dr's: what is said of replicas, one thing at a time */
    struct coordinator *coordinator;
    uint64_t tell_ns, hold_ns; /* not before */
    struct peer_told told[PEER_TOLD_MAX];
    size_t next_told;
    size_t next_dr, next_word;          /* whose turn it is to be asked to be held, and to be told */
    char hold_id[ID_TEXT_SIZE];         /* the VM that it was asked to hold */
};

struct peer_pools {
    struct peer_pool *first;
};

int peer_pools_load(struct peer_pools *pools, struct store *store, struct fault *fault);
void peer_pools_deinit(struct peer_pools *pools); /* links were given back before */

bool peer_pool_is_peer(const struct peer_pool *pool);
/* We call it, and it lets us in; the others call us. */
bool peer_pool_is_called(const struct peer_pool *pool);
bool peer_pool_is_linked(const struct peer_pool *pool, uint64_t now_ns);
/* A peer by name or the beginning of its id; NULL: `problem` says why. */
struct peer_pool *peer_pool_find(const struct peer_pools *pools, const char *word,
                                 struct problem *problem);
/* Or an invitation, by the beginning of its own. */
struct peer_pool *peer_pool_find_any(const struct peer_pools *pools, const char *word,
                                     struct problem *problem);
/* Whose certificate is this? NULL: of nobody that is a peer now. */
struct peer_pool *peer_pool_of(const struct peer_pools *pools, const struct pki_identity *identity);

/* ---- the inviting pool ---- */
/* Takes nothing of `secret` but its hash. NULL: refused. */
struct peer_pool *peer_pool_invite(struct peer_pools *pools, uint64_t ttl_s, uint64_t now_unix_ms,
                                   const char *id, const void *secret, size_t secret_bytes,
                                   struct store_batch *batch, struct problem *problem);
/* NULL: may not come in. Changes nothing. */
struct peer_pool *peer_pool_judge_join(const struct peer_pools *pools, const char *own_pool_id,
                                       const Godwit__PeerJoin *join, uint64_t now_unix_ms,
                                       struct problem *problem);
void peer_pool_joined(struct peer_pool *pool, const Godwit__PeerJoin *join, uint64_t now_unix_ms,
                      struct store_batch *batch);

/* ---- the joining pool ---- */
int peer_pool_judge_token(const struct peer_pools *pools, const char *own_pool_id,
                          const Godwit__JoinToken *token, struct problem *problem);
/* Is the answer of whom the token names, and what was asked for? */
int peer_pool_judge_joined(const Godwit__JoinToken *token, const Godwit__PeerJoined *joined,
                           struct problem *problem);
struct peer_pool *peer_pool_add(struct peer_pools *pools, const Godwit__JoinToken *token,
                                const Godwit__PeerJoined *joined, const char *locked_key,
                                uint64_t now_unix_ms, struct store_batch *batch);

/* ---- both ---- */
/* It spoke; what it is called now, and where, is kept when that is news: every PEER_NEWS_MS at most,
 * as it says it again with each hello, and no name that another peer has. */
void peer_pool_heard(const struct peer_pools *pools, struct peer_pool *pool, const char *name,
                     const char *address, uint64_t now_ns, uint64_t now_unix_ms,
                     struct store_batch *batch);
/* Frees it. */
void peer_pool_remove(struct peer_pools *pools, struct peer_pool *pool, struct store_batch *batch);
/* Everything is borrowed, `ret_pin` too. */
void peer_pool_tell(const struct peer_pool *pool, uint64_t now_ns, Godwit__PeerInfo *ret_info,
                    char ret_pin[static PKI_PIN_SIZE]);
/* An invitation is told as one called by its id. */
void peer_pool_tell_invitation(const struct peer_pool *pool, uint64_t now_unix_ms,
                               Godwit__PeerInfo *ret_info);

#endif

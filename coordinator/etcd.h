/* The few words of etcd's JSON gateway that the store needs, said to whichever member answers.
 *
 * Flow:   store_etcd -> [etcd] -> libcurl -> etcd members
 * Thread: one client, one thread at a time; calls block.
 *
 * A member that is silent, away or without a leader is left for the next one. So a call that ended
 * with ERR_UNREACHABLE, and also one that came through at a second member, may have been carried
 * out once before: whoever changes something must be able to tell that from the outcome.
 */
#ifndef GODWIT_COORDINATOR_ETCD_H
#define GODWIT_COORDINATOR_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct etcd;
struct fault;

enum {
    ETCD_E_NOT_MET = 1, /* a comparison of the transaction did not hold: nothing was changed */
    ETCD_MEMBERS_MAX = 9,
    ETCD_KEY_MAX = 384,
    ETCD_CHANGES_MAX = 120, /* of one transaction; etcd's own limit is 128 unless set otherwise */
    ETCD_ANSWER_MAX = 64 << 20,
};

/* `where`: "etcd://HOST:PORT,HOST:PORT/PREFIX"; or "etcds://" and the same, by TLS, and behind it
 * "?ca=FILE&cert=FILE&key=FILE", each of them if wanted: who signs the members' certificates (else
 * whom this machine trusts), and what we show them. Files are PEM and are read when a connection is
 * made. ERR_INVALID: it is nothing of the kind, or a file cannot be read. */
int etcd_new(struct etcd **ret_etcd, const char *where, struct fault *fault);
struct etcd *etcd_free(struct etcd *etcd);
/* Does `where` name an etcd? Not whether it is well-formed. */
bool etcd_is_named(const char *where);
const char *etcd_prefix(const struct etcd *etcd); /* "/PREFIX/" */

struct etcd_row { /* borrowed for the call */
    const char *key;
    const uint8_t *value;
    size_t count;
    uint64_t create_revision, mod_revision, version;
};
typedef int etcd_row_fn(void *data, const struct etcd_row *row, struct fault *fault);
/* Every row from `first` on and below `end` ("": only `first` itself), in the order of keys. */
int etcd_range(struct etcd *etcd, const char *first, const char *end, bool keys_only,
               etcd_row_fn *row, void *data, struct fault *fault);

struct etcd_compare {
    const char *key;
    bool of_creation;  /* compare when it was created, else when it was changed last */
    uint64_t revision; /* 0: there is no such key */
};
struct etcd_change {
    const char *key;
    const void *value;
    size_t count;
    bool is_delete;
    uint64_t lease; /* 0: none */
};
/* Returns 0, ETCD_E_NOT_MET, or a negative ERR_*. */
int etcd_commit(struct etcd *etcd, const struct etcd_compare *compares, size_t compare_count,
                const struct etcd_change *changes, size_t change_count, uint64_t *ret_revision,
                struct fault *fault);
/* Forget what was before `revision`; only a courtesy. */
int etcd_compact(struct etcd *etcd, uint64_t revision, struct fault *fault);

int etcd_lease_grant(struct etcd *etcd, unsigned ttl_s, uint64_t *ret_lease, struct fault *fault);
/* ERR_NOT_FOUND: it has ended. */
int etcd_lease_renew(struct etcd *etcd, uint64_t lease, struct fault *fault);
int etcd_lease_revoke(struct etcd *etcd, uint64_t lease, struct fault *fault);

#endif

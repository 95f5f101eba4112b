#include "coordinator/audit.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/audit_line.h"
#include "proto/method.h"
#include "proto/dr.pb-c.h"
#include "proto/peer.pb-c.h"
#include "proto/snapshot.pb-c.h"

enum { ENTRIES_KEPT = 20000, ENTRIES_A_REPLY = 1000 };

struct entry {
    uint64_t number, unix_ms, begins;
    char *who, *what, *subject, *outcome; /* owned */
    char hash[PKI_PIN_SIZE];
};

struct audit { /* a ring of the newest */
    struct entry *entries;
    size_t count, first;
    uint64_t last;
    char hash[PKI_PIN_SIZE];   /* of the last */
    char before[PKI_PIN_SIZE]; /* of the one before the first that is kept */
};

struct pending { /* a request that is not answered yet */
    struct coordinator *coordinator;
    uint64_t begins;
    char who[AUDIT_WORD_MAX], what[32];
};

/* ---- entries ----------------------------------------------------------------------------------
 */

static void entry_deinit(struct entry *entry)
{
    free(entry->who);
    free(entry->what);
    free(entry->subject);
    free(entry->outcome);
    *entry = (struct entry){0};
}

static char *copy_of(const char *text)
{
    char *copy = strdup(text);
    assert(copy); /* control memory is small; without it there is no noting */
    return copy;
}

static void message_of(const struct entry *entry, Godwit__AuditEntry *message)
{
    godwit__audit_entry__init(message);
    message->has_number = message->has_unix_ms = message->has_begins = true;
    message->number = entry->number;
    message->unix_ms = entry->unix_ms;
    message->begins = entry->begins;
    message->who = entry->who;
    message->what = entry->what;
    message->subject = entry->subject;
    message->outcome = entry->outcome;
    message->hash = (char *)(uintptr_t)entry->hash; /* protobuf-c knows no const */
}

/* Takes the entry. */
static void keep(struct audit *audit, const struct entry *entry)
{
    if (audit->count == ENTRIES_KEPT) {
        struct entry *oldest = &audit->entries[audit->first];
        memcpy(audit->before, oldest->hash, sizeof audit->before);
        entry_deinit(oldest);
        audit->first = (audit->first + 1) % ENTRIES_KEPT;
        audit->count--;
    }
    audit->entries[(audit->first + audit->count++) % ENTRIES_KEPT] = *entry;
    audit->last = entry->number;
    memcpy(audit->hash, entry->hash, sizeof audit->hash);
}

static uint64_t note(struct coordinator *coordinator, const char *who, const char *what,
                     const char *subject, const char *outcome, uint64_t begins)
{
    struct audit *audit = coordinator->audit;
    struct entry entry = {.number = audit->last + 1,
                          .unix_ms = coordinator_now().unix_ms,
                          .begins = begins,
                          .who = copy_of(who),
                          .what = copy_of(what),
                          .subject = copy_of(subject),
                          .outcome = copy_of(outcome)};
    Godwit__AuditEntry message;
    char line[AUDIT_LINE_SIZE], key[24];
    struct store_batch *batch = NULL;
    message_of(&entry, &message);
    size_t count = audit_line(audit->hash, &message, line);
    assert(count > 0); /* the words were cut to fit */
    pki_sha256_hex(line, count, entry.hash);
    int r = store_batch_new(&batch, NULL);
    assert(r == 0); /* control memory is small; without it there is no noting */
    (void)snprintf(key, sizeof key, "%020llu", (unsigned long long)entry.number);
    store_batch_put(batch, STORE_AUDIT, key, 0);
    store_batch_number(batch, (int64_t)entry.unix_ms);
    store_batch_text(batch, entry.who);
    store_batch_text(batch, entry.what);
    store_batch_text(batch, entry.subject);
    store_batch_text(batch, entry.outcome);
    store_batch_number(batch, (int64_t)entry.begins);
    store_batch_text(batch, entry.hash);
    keep(audit, &entry);
    struct cluster_todo todo = {0};
    coordinator_apply(coordinator, &todo, batch, NULL, NULL);
    return entry.number;
}

/* ---- requests ---------------------------------------------------------------------------------
 */

static const char *dr_name(Godwit__DrVerb verb, bool accept_split)
{
    switch (verb) {
    case GODWIT__DR_VERB__DR_VERB_PROTECT:
        return "dr-protect";
    case GODWIT__DR_VERB__DR_VERB_UNPROTECT:
        return "dr-unprotect";
    case GODWIT__DR_VERB__DR_VERB_FAILOVER:
        return accept_split ? "dr-failover-split" : "dr-failover";
    case GODWIT__DR_VERB__DR_VERB_FAILBACK:
        return "dr-failback";
    case GODWIT__DR_VERB__DR_VERB_TEST:
        return "dr-test";
    case GODWIT__DR_VERB__DR_VERB_TEST_END:
        return "dr-test-end";
    case GODWIT__DR_VERB__DR_VERB_DRILL:
    case GODWIT__DR_VERB__DR_VERB_DRILL_NOW:
        return "dr-drill";
    case GODWIT__DR_VERB__DR_VERB_STATUS:
    case _GODWIT__DR_VERB_IS_INT_SIZE:
    default: /* a number from the wire: refused anyway */
        return NULL;
    }
}

static const char *peer_name(Godwit__PeerVerb verb)
{
    return verb == GODWIT__PEER_VERB__PEER_VERB_INVITE   ? "pool-peer-invite"
           : verb == GODWIT__PEER_VERB__PEER_VERB_ADD    ? "pool-peer-add"
           : verb == GODWIT__PEER_VERB__PEER_VERB_REMOVE ? "pool-peer-rm"
                                                         : NULL;
}

/* What changes the pool; what only looks is not noted. NULL: not noted. */
static const char *name_of(uint16_t method, const ProtobufCMessage *message)
{
    switch (method) {
    case METHOD_TOKEN_CREATE:
        return "token-create";
    case METHOD_POOL_PEER:
        return peer_name(((const Godwit__PeerRequest *)message)->verb);
    case METHOD_VM_CREATE_IN_POOL:
        return "vm-create";
    case METHOD_VM_ACTION:
        return "vm-action";
    case METHOD_VM_ADOPT:
        return "vm-adopt";
    case METHOD_VM_CONSOLE:
        return "vm-console";
    case METHOD_SNAPSHOT: {
        Godwit__SnapshotVerb verb = ((const Godwit__SnapshotRequest *)message)->verb;
        return verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_CREATE   ? "snapshot-create"
               : verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE ? "snapshot-rm"
                                                                : NULL;
    }
    case METHOD_SNAPSHOT_CLONE:
        return "snapshot-clone";
    case METHOD_MIGRATE:
        return ((const Godwit__MigrateRequest *)message)->dry_run ? NULL : "migrate";
    case METHOD_JOB_CANCEL:
        return "job-cancel";
    case METHOD_HOST_SET:
        return "host-set";
    case METHOD_RULE_ADD:
        return "rule-add";
    case METHOD_RULE_REMOVE:
        return "rule-rm";
    case METHOD_DISK_MOVE:
        return ((const Godwit__DiskMoveRequest *)message)->dry_run ? NULL : "vm-disk-move";
    case METHOD_STORE_ADD:
        return "store-add";
    case METHOD_STORE_REMOVE:
        return "store-rm";
    case METHOD_IMAGE_END:
        return ((const Godwit__ImageEndRequest *)message)->abort ? NULL : "image-import";
    case METHOD_IMAGE_REMOVE:
        return "image-rm";
    case METHOD_IMAGE_SEAL:
        return "image-seal";
    case METHOD_IMAGE_COPY:
        return "image-copy";
    case METHOD_PLAN_MAKE:
        return "plan-make";
    case METHOD_PLAN_ACT:
        return "plan-act";
    case METHOD_HA:
        return ((const Godwit__HaRequest *)message)->verb == GODWIT__HA_VERB__HA_VERB_STATUS ? NULL
                                                                                             : "ha";
    case METHOD_DR:
        return dr_name(((const Godwit__DrRequest *)message)->verb,
                       ((const Godwit__DrRequest *)message)->accept_split);
    default:
        return NULL;
    }
}

bool audit_is_change(uint16_t method, const ProtobufCMessage *message)
{
    return name_of(method, message) != NULL;
}

/* The OperatorError inside a reply that has one. */
static const Godwit__OperatorError *error_in(const ProtobufCMessage *reply)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(reply->descriptor, "error");
    if (!field || field->type != PROTOBUF_C_TYPE_MESSAGE ||
        field->descriptor != &godwit__operator_error__descriptor)
        return NULL;
    return *(Godwit__OperatorError *const *)((const char *)reply + field->offset);
}

static void on_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    AUTO_FREE struct pending *pending = data;
    const Godwit__OperatorError *error = reply ? error_in(reply) : NULL;
    char outcome[AUDIT_WORD_MAX] = "done";
    if (error)
        (void)snprintf(outcome, sizeof outcome, "%s %s: %.120s", error->code ? error->code : "",
                       error->name ? error->name : "", error->message ? error->message : "");
    else if (fault)
        (void)snprintf(outcome, sizeof outcome, "%s: %.150s", err_name(fault->code), fault->text);
    if (pending->coordinator->is_active && !pending->coordinator->is_failed)
        (void)note(pending->coordinator, pending->who, pending->what, "", outcome, pending->begins);
}

/* The request in words. A VM's description may hold secrets (cloud-init): only its name is noted;
 * of a token nothing. */
static void describe(uint16_t method, const ProtobufCMessage *message,
                     char ret_subject[static AUDIT_SUBJECT_MAX])
{
    AUTO_FREE char *json = NULL;
    Godwit__PeerRequest silent;
    ret_subject[0] = '\0';
    if (method == METHOD_POOL_PEER) {
        silent = *(const Godwit__PeerRequest *)message;
        silent.token = NULL;
        message = &silent.base;
    }
    if (method == METHOD_VM_CREATE_IN_POOL) {
        const Godwit__VmSpec *spec = ((const Godwit__VmCreateRequest *)message)->spec;
        (void)snprintf(ret_subject, AUDIT_SUBJECT_MAX, "{\"vm\":\"%.100s\"}",
                       spec && spec->name ? spec->name : "");
    } else if (json_print(message, JSON_FORM_COMPACT, &json, NULL) == 0) {
        json[strcspn(json, "\n")] = '\0';
        words_copy(ret_subject, AUDIT_SUBJECT_MAX, json);
    }
}

void audit_request(struct peer *peer, uint16_t method, struct rpc_request *request,
                   const ProtobufCMessage *message)
{
    const char *what = name_of(method, message);
    struct pending *pending = what && request ? calloc(1, sizeof *pending) : NULL;
    if (!pending)
        return;
    char subject[AUDIT_SUBJECT_MAX];
    describe(method, message, subject);
    pending->coordinator = peer->coordinator;
    (void)snprintf(pending->who, sizeof pending->who, "%.20s/%.60s@%.60s",
                   rpc_peer(peer->rpc)->role, rpc_peer(peer->rpc)->name,
                   rpc_peer_address(peer->rpc));
    WORDS_COPY(pending->what, what);
    pending->begins = note(peer->coordinator, pending->who, what, subject, "begins", 0);
    rpc_request_watch(request, on_answered, pending);
}

void audit_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__AuditRequest *wanted = message;
    const struct audit *audit = peer->coordinator->audit;
    AUTO_FREE Godwit__AuditEntry *entries = calloc(ENTRIES_A_REPLY, sizeof *entries);
    AUTO_FREE Godwit__AuditEntry **list = calloc(ENTRIES_A_REPLY, sizeof *list);
    assert(entries && list); /* control memory is small; without it there is no telling */
    Godwit__AuditList reply = GODWIT__AUDIT_LIST__INIT;
    reply.hash_before = (char *)(uintptr_t)audit->before; /* protobuf-c knows no const */
    for (size_t i = 0; i < audit->count; i++) {
        const struct entry *entry = &audit->entries[(audit->first + i) % ENTRIES_KEPT];
        if (entry->number <= wanted->after) {
            reply.hash_before = (char *)(uintptr_t)entry->hash;
            continue;
        }
        if (reply.n_entries == ENTRIES_A_REPLY) {
            reply.has_more = reply.more = true;
            break;
        }
        message_of(entry, &entries[reply.n_entries]);
        list[reply.n_entries] = &entries[reply.n_entries];
        reply.n_entries++;
    }
    reply.entries = list;
    (void)rpc_reply(request, &reply.base);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static int load_entry(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    (void)revision;
    (void)fault;
    struct entry entry = {.number = strtoull(key, NULL, 10),
                          .unix_ms = (uint64_t)cells[STORE_AUDIT_TIME].number,
                          .begins = (uint64_t)cells[STORE_AUDIT_BEGINS].number,
                          .who = copy_of(cells[STORE_AUDIT_WHO].bytes),
                          .what = copy_of(cells[STORE_AUDIT_WHAT].bytes),
                          .subject = copy_of(cells[STORE_AUDIT_SUBJECT].bytes),
                          .outcome = copy_of(cells[STORE_AUDIT_OUTCOME].bytes)};
    WORDS_COPY(entry.hash, cells[STORE_AUDIT_HASH].bytes);
    keep(data, &entry); /* as it is: whether it is true is for the verifier */
    return 0;
}

int audit_load(struct coordinator *coordinator, struct fault *fault)
{
    struct audit *audit = calloc(1, sizeof *audit);
    if (audit)
        audit->entries = calloc(ENTRIES_KEPT, sizeof *audit->entries);
    if (!audit || !audit->entries) {
        free(audit);
        return fault_set(fault, ERR_NOMEM, "no memory for the audit log");
    }
    coordinator->audit = audit;
    return store_load(coordinator->store, STORE_AUDIT, load_entry, audit, fault);
}

void audit_unload(struct coordinator *coordinator)
{
    struct audit *audit = TAKE(coordinator->audit);
    for (size_t i = 0; audit && i < audit->count; i++)
        entry_deinit(&audit->entries[(audit->first + i) % ENTRIES_KEPT]);
    if (audit)
        free(audit->entries);
    free(audit);
}

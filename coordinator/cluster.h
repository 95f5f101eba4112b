/* What the pool knows: hosts, VMs with their ownership records, jobs; and what is to be done next.
 *
 * Flow:   store -> [cluster] <- cluster_core, cluster_view
 * Thread: the loop's; pure memory, no I/O.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_H
#define GODWIT_COORDINATOR_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/convoy.h"
#include "coordinator/dr_cross.h"
#include "coordinator/ha_core.h"
#include "coordinator/job_core.h"
#include "coordinator/name_map.h"
#include "coordinator/own.h"
#include "coordinator/problem.h"
#include "net/pki.h"
#include "placement/forecast.h"
#include "proto/agent.pb-c.h"
#include "proto/disk_move.pb-c.h"
#include "proto/dr.pb-c.h"
#include "proto/ha.pb-c.h"
#include "proto/image.pb-c.h"
#include "proto/limits.h"
#include "proto/pool.pb-c.h"
#include "proto/pool_store.pb-c.h"
#include "proto/snapshot.pb-c.h"

enum {
    CLUSTER_REASON_SIZE = 256,
    CLUSTER_NOTES_MAX = 8,
    CLUSTER_WARNINGS_MAX = 32,
    CLUSTER_JOBS_KEPT = 500,
    CLUSTER_PLANS_KEPT = 100,
    CLUSTER_FENCE_AGENT_SIZE = 128,
    CLUSTER_FENCE_OPTIONS_SIZE = 512,
    CLUSTER_SETTING_SIZE = 32,
    CLUSTER_PSK_BYTES = 32,
    CLUSTER_ADDRESS_SIZE = 128,
    GUEST_NONCE_SIZE = ID_TEXT_SIZE,
};

struct cluster_host {
    char name[OWN_HOST_SIZE];
    size_t index; /* among the cluster's hosts: none is ever taken out */
    uint64_t revision;
    Godwit__HostFacts *facts; /* owned; NULL until its first HELLO */
    uint64_t memory_free_bytes;
    bool link_up;
    size_t unheard; /* VMs of its last HELLO of which it did not know what they are, and has not said since */
    bool ends_starts; /* its agent knows a stop that ends a start; one of before stops what runs, or finds nothing */
    uint64_t seen_ns;
    uint64_t seen_unix_ms;
    Godwit__HostPolicy *policy; /* owned; NULL: nothing was set */
    Godwit__AgentFound *found;  /* owned; of this coordinator's life only; NULL: nothing was told */
    Godwit__AgentImages *images; /* the same */
    /* of this coordinator's life only */
    double others_cores; /* what uses its CPUs beside VMs, as its agent told last */
    double psi_cpu, psi_memory;
    struct convoy convoy_out, convoy_in;
    struct ha_core ha;
    char fence_agent[CLUSTER_FENCE_AGENT_SIZE]; /* of class F2; "" for none */
    char fence_options[CLUSTER_FENCE_OPTIONS_SIZE];
    uint64_t fence_revision;
};

enum cluster_want { WANT_RUNNING, WANT_STOPPED, WANT_REMOVED };

struct cluster_vm {
    char id[ID_TEXT_SIZE];
    uint64_t revision, own_revision;
    Godwit__VmSpec *spec; /* owned; its baseline is frozen */
    struct own own;
    uint64_t start_ns;      /* when START was repeated last */
    bool start_is_repeated; /* and that has not been answered */
    uint64_t remove_ns;     /* when a removal that was recorded was */
    uint64_t own_ns;        /* when the record was changed, in this coordinator's life */
    enum cluster_want want; /* a stop that was recorded is carried out, however late */
    bool crashed;
    char suspended[GUEST_NONCE_SIZE]; /* STOPPED, at rest in this file of its owner's; STARTING: from it */
    char restoring[ID_TEXT_SIZE]; /* STARTING: from this snapshot of its owner's; "" */
    bool lazy; /* STARTING from either: it runs at once; not kept, a coordinator that is new reads all first */
    char reason[CLUSTER_REASON_SIZE];
    /* as its owner's agent told last */
    Godwit__VmState state;
    int32_t pid;
    bool in_postcopy; /* pages of it may be at its last source only */
    uint64_t memory_populated, vcpu_cpu_ns;
    uint64_t disk_bytes[DISKS_MAX + 1]; /* of the machine; 0: not told yet */
    char version[32]; /* of its process; "" while none was told */
    double run_cores, wait_cores; /* what its vCPUs get, and what they wait for */
    uint64_t load_ns;             /* when that was told; 0: never */
    double dirty_bytes_per_s;     /* as its last move saw */
    struct forecast_guest seen;   /* as it was sampled, or as its last move found it; zeroed: never */
    bool is_sampled;              /* the former */
    struct forecast_record record; /* how its moves were forecast */
    uint64_t balanced_ns;         /* when a plan of balance moved it; 0: not in this life */
    /* restarts by HA, in this coordinator's life */
    unsigned ha_tries;    /* since it last ran steadily */
    uint64_t ha_next_ns;  /* not before */
    uint64_t ha_since_ns; /* when it was last seen to start */
    bool ha_starts;       /* STARTING is HA's doing */
    /* what is found of it on hosts where the record does not have it (cluster_found) */
    uint64_t found_ns; /* when the record followed last */
    uint64_t found_gen; /* of a start that takes up what was found running, and starts nothing; kept with the record */
    char conflict_host[OWN_HOST_SIZE];
    uint64_t conflict_ns;
    bool conflict_told;
    uint64_t undefined_ns; /* since when its host's libvirt has no definition of it; 0: it has */
    bool undefined_told;
    char definition[PKI_PIN_SIZE]; /* digest of the spec's domain_xml; "": not reckoned yet */
    uint64_t definition_ns;  /* when the host's was asked for last; 0: never */
    uint64_t definition_gen; /* of the record, when the host's was seen to be the same */
    uint64_t autostart_ns; /* when a host was last ordered to switch its autostart off; 0: never */
    uint64_t listed_in; /* the number of the last hello that it was in */
    /* who has it now */
    uint64_t ticket;         /* an operator's order under way; 0: none */
    struct cluster_job *job; /* active; NULL: none */
    struct cluster_disk_move *disk_move; /* as is this */
    struct cluster_dr *dr; /* its protection by a replica; NULL: none */
};

struct cluster_job {
    struct job_core core;
    uint64_t revision;
    char vm_name[OWN_HOST_SIZE];
    Godwit__MoveGoals *goals; /* owned, may be NULL, as are the next */
    Godwit__MoveProgress *progress;
    Godwit__MoveReceipt *receipt;
    Godwit__MoveForecast *forecast; /* owned; made before it began */
    uint64_t created_unix_ms, ended_unix_ms;
    uint32_t vcpus;
    uint64_t memory_bytes;
    char notes[CLUSTER_NOTES_MAX][CLUSTER_REASON_SIZE];
    unsigned note_count;
    char plan_id[ID_SHORT_SIZE];      /* whose step it is; "" */
    char reason[CLUSTER_REASON_SIZE]; /* why that target; "" */
    /* of this coordinator's life only: what plan_core measures */
    bool is_measured;
    double seen_bytes, fresh_bytes;
};

struct cluster_link { /* from one host to another, as moves found it */
    char source[OWN_HOST_SIZE], target[OWN_HOST_SIZE];
    struct forecast_link link;
    struct forecast_record record;
};

struct cluster_rule {
    uint64_t revision;
    Godwit__Rule *rule; /* owned; judged by rule_add */
};

struct cluster_store_place { /* a store on one host, as it was last looked at */
    char host[OWN_HOST_SIZE];
    char state[16]; /* StorePlace's */
    char reason[CLUSTER_REASON_SIZE];
    char file_system[24];
    uint64_t total_bytes, free_bytes;
    uint64_t reserved_bytes; /* by the disks that lie there */
    uint64_t growth_bytes;   /* what they may still take */
    uint32_t disks;
    uint64_t seen_ns;  /* space; 0: not in this coordinator's life */
    uint64_t state_ns; /* as above */
};

struct cluster_store {
    uint64_t revision;
    Godwit__PoolStore *store;           /* owned; judged by pool_store_judge; without what is told */
    struct cluster_store_place *places; /* owned; one for each of its hosts */
};

struct cluster_image {
    uint64_t revision;
    Godwit__ImageInfo *info; /* owned; only what is stored, judged by image_judge */
};

struct cluster_disk_move {
    uint64_t revision;
    Godwit__DiskMove *info; /* owned */
    /* of this coordinator's life only */
    bool is_asked, is_storing; /* an order is out; its step is on its way to the disk */
    uint64_t next_ns;          /* not before */
    unsigned refusals;         /* in a row */
};

struct cluster_dr { /* a VM's replica on another host */
    uint64_t revision;
    Godwit__DrRecord *info; /* owned; its texts are never NULL */
    struct cluster_vm *vm;
    /* of this coordinator's life only */
    Godwit__ProtectStatus *out; /* owned; as its source told last; NULL: nothing yet */
    Godwit__ReplicaStatus *in;  /* owned; as its target did */
    uint64_t out_ns;
    bool in_ready, out_ready; /* both were asked since they last came up, and said yes */
    bool is_asked;            /* an order is out */
    bool is_stopping;         /* as is one to the host that was given up */
    uint64_t next_ns, stop_ns, auto_ns; /* not before */
    uint64_t lost_unix_ms; /* when its source's line broke; 0: it has not */
    uint64_t late_ns;      /* since when it has not kept its goal; 0: it does */
    bool is_alarm;
    bool is_copying;     /* a test: the order for its copy is out */
    uint64_t test_ns;    /* not before: its next step */
    uint64_t watch_ns;   /* a drill: since when its copy is seen to run; its end: that it waits was told */
    uint64_t watch_vcpu_ns; /* and what its vCPUs had run by then */
    uint64_t drill_set_unix_ms; /* when drills were asked for; 0: in an earlier life */
    uint64_t overdue_unix_ms;   /* since when there was none, as it was told; 0: it was not */
    char trouble[CLUSTER_REASON_SIZE]; /* why an end was not ready; "" */
    uint8_t psk[CLUSTER_PSK_BYTES];    /* one-time, drawn and wiped by the shell */
    char address[CLUSTER_ADDRESS_SIZE];
    /* its other end is in a peer pool (dr_peer) */
    struct dr_cross cross; /* with what is durable of it in `info` */
    bool peer_is_up;       /* its line is */
    bool peer_is_gone;     /* it is no peer any more: nobody is there to be told */
    bool wants_hold;       /* source: the peer is to be asked to hold it */
    uint64_t link_no;      /* of the key that was asked for last */
    enum dr_cross_step peer_step; /* as the peer told last */
    uint64_t peer_ns;             /* when; 0: not in this life */
};

struct cluster_snapshot {
    uint64_t revision;
    Godwit__SnapshotInfo *info; /* owned */
};

struct plan_run { /* of one step, of this coordinator's life only */
    uint64_t not_before_ns, stuck_ns;
    bool is_started; /* cold: the start was ordered */
};

struct cluster_plan {
    char id[ID_SHORT_SIZE];
    uint64_t revision;
    Godwit__PlanInfo *info; /* owned: what is stored and what is told */
    struct plan_run *runs;  /* by step */
};

enum cluster_auto { AUTO_OFF, AUTO_APPROVE, AUTO_ON };

enum cluster_setting {
    SETTING_HA_DISARMED, /* until this unix ms; "": armed */
    SETTING_HA_RESERVE,  /* how many hosts may die at once; "": 1 */
    SETTING_RESTORED,    /* from a backup of this unix ms; "": no, or all has been seen since */
    SETTING_COUNT
};

struct cluster_setting_row {
    uint64_t revision;
    char value[CLUSTER_SETTING_SIZE];
};

struct cluster {
    struct cluster_host **hosts; /* owned, as are the next two; sorted by nothing */
    size_t host_count;
    struct cluster_vm **vms;
    size_t vm_count;
    struct cluster_job **jobs; /* oldest first */
    size_t job_count;
    struct name_map hosts_by_name, vms_by_id, jobs_by_id;
    struct cluster_rule **rules; /* owned, as is the next */
    size_t rule_count;
    struct cluster_store **stores; /* owned */
    size_t store_count;
    struct cluster_image **images; /* owned */
    size_t image_count;
    struct cluster_disk_move **disk_moves; /* owned; oldest first */
    size_t disk_move_count;
    struct cluster_dr **drs; /* owned */
    size_t dr_count;
    struct cluster_plan **plans; /* oldest first */
    size_t plan_count;
    struct cluster_snapshot **snapshots; /* owned */
    size_t snapshot_count;
    enum cluster_auto auto_balance;
    uint64_t settings_revision;
    struct forecast_link link; /* what moves carry, as measured; zero: nothing was yet */
    struct cluster_link *links; /* owned; the newest are kept */
    size_t link_count;
    uint64_t measured_ns, balance_ns;
    char balance_word[CLUSTER_REASON_SIZE]; /* what the last look found */
    uint64_t balance_unix_ms;
    uint64_t chance[2]; /* of ids, see cluster_seed */
    char warnings[CLUSTER_WARNINGS_MAX][CLUSTER_REASON_SIZE];
    char warning_hosts[CLUSTER_WARNINGS_MAX][OWN_HOST_SIZE]; /* whose HELLO renews it */
    unsigned warning_count;
    uint64_t next_ticket;
    uint64_t hellos; /* that were taken, in this life */
    uint64_t began_ns; /* when this coordinator took the pool over */
    struct cluster_setting_row settings[SETTING_COUNT];
};

/* ---- todo ---- */
enum cluster_put_kind {
    PUT_HOST,
    PUT_VM,
    PUT_OWN,
    PUT_JOB,
    PUT_DELETE_VM, /* with its record */
    PUT_DELETE_JOB,
    PUT_EVENT,
    PUT_RULE,
    PUT_DELETE_RULE,
    PUT_PLAN,
    PUT_DELETE_PLAN,
    PUT_SETTINGS,
    PUT_FENCE,   /* object: the host */
    PUT_SNAPSHOT,
    PUT_DELETE_SNAPSHOT,
    PUT_SETTING, /* key: its name; text: the value */
    PUT_STORE,
    PUT_DELETE_STORE,
    PUT_IMAGE,
    PUT_DELETE_IMAGE,
    PUT_DISK_MOVE,
    PUT_DELETE_DISK_MOVE,
    PUT_DR,
    PUT_DELETE_DR,
};

struct cluster_put {
    enum cluster_put_kind kind;
    const void *object;              /* of the kinds that put one: valid until the next step */
    uint64_t revision, own_revision; /* expected: what the store holds now */
    char key[ID_TEXT_SIZE];          /* delete: the id; event: the VM's or "" */
    char name[OWN_HOST_SIZE];        /* delete of a rule, of a store, of an image */
    char text[CLUSTER_REASON_SIZE];  /* event */
};

enum cluster_order_kind {
    ORDER_START,
    ORDER_STOP,
    ORDER_PAUSE,
    ORDER_RESUME,
    ORDER_POWER_BUTTON,
    ORDER_VM_REBOOT, /* of a libvirt domain, as the next */
    ORDER_VM_RESET,
    ORDER_STATUS,
    ORDER_MOVE_IN,
    ORDER_MOVE_OUT,
    ORDER_VERDICT,
    ORDER_REBOOT, /* of a host: the command that the pool is configured with, if any */
    /* of HA: about a host, no VM */
    ORDER_PROBE, /* to host: do you reach `about`? */
    ORDER_EVICT, /* to host: leave word for `about` on the store that you share */
    ORDER_FENCE, /* to nobody: the coordinator itself switches `about` off */
    ORDER_TUNE, /* to the source: the job's goals */
    ORDER_UPGRADE,
    ORDER_SUSPEND,
    /* of dr; move_id: the protection's id */
    ORDER_REPLICA_IN,
    ORDER_PROTECT,
    ORDER_PROTECT_FINISH,
    ORDER_PROTECT_END,
    ORDER_REPLICA_TAKE,
    ORDER_REPLICA_DROP,
    ORDER_REPLICA_COPY, /* nonce: its test's */
    ORDER_SPLIT_STOP, /* what a host that was given up still runs of it */
    ORDER_AUTOSTART_OFF, /* of a libvirt domain, to any host that has it defined */
    ORDER_DEFINITION,    /* of one that runs there: its text */
};

struct cluster_order {
    enum cluster_order_kind kind;
    char host[OWN_HOST_SIZE];
    char vm_id[ID_TEXT_SIZE];
    char job_id[ID_SHORT_SIZE]; /* of a move; "" */
    char move_id[ID_TEXT_SIZE]; /* verdict */
    Godwit__MoveVerdictKind verdict;
    uint64_t generation;
    uint64_t ticket;   /* whose answer depends on it; 0: nobody's */
    uint64_t asked_ns; /* when it was decided */
    bool remove;       /* stop */
    bool is_late;      /* the same: nobody waits for it, and a host that is busy is asked again */
    bool ends_start;   /* stop: of a start that is under way */
    bool was_lost;     /* stop: of one that HA was to start again: refused, it is again */
    char nonce[GUEST_NONCE_SIZE]; /* suspend */
    char about[OWN_HOST_SIZE];
    char incarnation[ID_TEXT_SIZE]; /* of `about`: the life that is meant */
};

struct cluster_answer {
    uint64_t ticket;
    char vm_id[ID_TEXT_SIZE];
    struct problem *problem; /* owned; NULL: it went well */
    Godwit__MoveReceipt *receipt; /* owned; NULL: none */
};

struct cluster_todo {
    struct cluster_put *puts;
    size_t put_count, put_room;
    struct cluster_order *orders;
    size_t order_count, order_room;
    struct cluster_answer *answers;
    size_t answer_count, answer_room;
    char (*news)[ID_SHORT_SIZE]; /* jobs and plans whose watchers should hear of them */
    size_t news_count, news_room;
};
void cluster_todo_deinit(struct cluster_todo *todo);
/* Each adds one entry and gives it, zeroed, to be filled in. Control memory is small and without it
 * there is no deciding: these do not fail. */
struct cluster_put *cluster_todo_put(struct cluster_todo *todo, enum cluster_put_kind kind);
struct cluster_order *cluster_todo_order(struct cluster_todo *todo, enum cluster_order_kind kind);
struct cluster_answer *cluster_todo_answer(struct cluster_todo *todo);
void cluster_todo_news(struct cluster_todo *todo, const char *job_id); /* once each */
void cluster_todo_event(struct cluster_todo *todo, const char *vm_id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* What became of an order. */
struct cluster_result {
    const struct fault *fault; /* NULL: done */
    bool definite;             /* with a fault: the agent itself said so, or it never left */
    bool never_left;
    const Godwit__VmStatus *status; /* with its answer, or NULL */
    const Godwit__VmUpgraded *upgraded; /* the same, as are the next two */
    const Godwit__ProtectStatus *protect;
    const Godwit__ReplicaStatus *replica;
    const Godwit__ReplicaCopied *copied;
    const Godwit__FoundDomain *found;
    bool confirmed;                 /* probe: it was reached; evict, fence: it is done */
    uint64_t storage_age_ms;        /* probe; UINT64_MAX: it cannot tell */
};

struct cluster_now {
    uint64_t ns;      /* monotonic */
    uint64_t unix_ms; /* for people */
};

/* ---- life ---- */
void cluster_deinit(struct cluster *cluster);
/* While loading: adds an empty object, the caller fills it. NULL: no memory. */
struct cluster_host *cluster_add_host(struct cluster *cluster, const char *name);
struct cluster_vm *cluster_add_vm(struct cluster *cluster, const char *id);
struct cluster_job *cluster_add_job(struct cluster *cluster, const char *id);
void cluster_drop_vm(struct cluster *cluster, struct cluster_vm *vm);    /* frees it */
void cluster_drop_job(struct cluster *cluster, struct cluster_job *job); /* frees it */
struct cluster_job *cluster_job_free(struct cluster_job *job);           /* one in no cluster */
struct cluster_rule *cluster_add_rule(struct cluster *cluster);
void cluster_drop_rule(struct cluster *cluster, struct cluster_rule *rule); /* frees it */
/* Takes `store` when it is not NULL: a place for each of its hosts. */
struct cluster_store *cluster_add_store(struct cluster *cluster, Godwit__PoolStore *store);
void cluster_drop_store(struct cluster *cluster, struct cluster_store *store); /* frees it */
struct cluster_image *cluster_add_image(struct cluster *cluster);
void cluster_drop_image(struct cluster *cluster, struct cluster_image *image); /* frees it */
/* Without its record, which the caller fills in. */
struct cluster_disk_move *cluster_add_disk_move(struct cluster *cluster);
/* Takes it out; it is the caller's to free. */
void cluster_drop_disk_move(struct cluster *cluster, struct cluster_disk_move *move);
/* Without its record, which the caller fills in; the VM has none yet. */
struct cluster_dr *cluster_add_dr(struct cluster *cluster, struct cluster_vm *vm);
void cluster_drop_dr(struct cluster *cluster, struct cluster_dr *dr); /* frees it */
/* With a copy of it; NULL: no memory. */
struct cluster_snapshot *cluster_add_snapshot(struct cluster *cluster,
                                              const Godwit__SnapshotInfo *info);
void cluster_drop_snapshot(struct cluster *cluster, struct cluster_snapshot *snapshot); /* frees it */
/* With an empty message; cluster_plan_ready once its steps are there. */
struct cluster_plan *cluster_add_plan(struct cluster *cluster, const char *id);
void cluster_plan_ready(struct cluster_plan *plan);
void cluster_drop_plan(struct cluster *cluster, struct cluster_plan *plan); /* frees it */
/* Ids that the cores draw: two lives of a coordinator must be seeded differently. */
void cluster_seed(struct cluster *cluster, uint64_t a, uint64_t b);
void cluster_draw_id(struct cluster *cluster, char ret_id[static ID_TEXT_SIZE]);
void cluster_draw_short(struct cluster *cluster, char prefix, char ret_id[static ID_SHORT_SIZE]);
/* malloc'ed twin of a message, for protobuf_c_message_free_unpacked; NULL: no memory. */
void *cluster_message_copy(const ProtobufCMessage *message);
/* ---- look-up ---- */
struct cluster_host *cluster_host(const struct cluster *cluster, const char *name);
struct cluster_vm *cluster_vm(const struct cluster *cluster, const char *id);
struct cluster_job *cluster_job(const struct cluster *cluster, const char *id);
/* By name, id or unique prefix of either; NULL with `problem` set (nearest word, candidates). */
struct cluster_host *cluster_find_host(const struct cluster *cluster, const char *word,
                                       struct problem *problem);
struct cluster_vm *cluster_find_vm(const struct cluster *cluster, const char *word,
                                   struct problem *problem);
struct cluster_job *cluster_find_job(const struct cluster *cluster, const char *word,
                                     struct problem *problem);
struct cluster_plan *cluster_find_plan(const struct cluster *cluster, const char *word,
                                       struct problem *problem);
#endif

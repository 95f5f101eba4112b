#include "agent/quarantine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/host_facts.h"
#include "agent/start_recall.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "agent/watchdog.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/world.h"

enum { DONES_MAX = 4, TELL_EVERY_MS = 2000 };

struct doomed {
    struct doomed *next;
    char id[VM_ID_SIZE];
    uint64_t generation;
};

struct quarantine {
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    struct loop_timer *timer;
    struct watchdog *watchdog; /* borrowed; NULL: none */
    struct doomed *doomed;
    bool is_on, is_all;
    uint64_t told_ns; /* when it was last said who is waited for */
    struct {
        void (*done)(void *data);
        void *data;
    } dones[DONES_MAX];
    unsigned done_count;
};

static void forget_doomed(struct quarantine *quarantine)
{
    while (quarantine->doomed) {
        struct doomed *doomed = quarantine->doomed;
        quarantine->doomed = doomed->next;
        free(doomed);
    }
}

/* Given away, it stands still for good unless the pool gives it a newer generation; another host's
 * guest may need its pages (post-copy). The pool says when it can go. */
static bool is_given_away(const struct vm_entry *entry)
{
    bool stands = entry->status->state == GODWIT__VM_STATE__VM_STATE_HELD || vm_word_is_unheard(entry);

    return stands && vm_entry_given_as(entry) > 0 && !entry->upgrade;
}

static bool must_end(const struct quarantine *quarantine, const struct vm_entry *entry)
{
    if ((quarantine->is_all && !is_given_away(entry)) || entry->is_recalled || entry->starting) /* nobody could name these */
        return true;
    for (const struct doomed *doomed = quarantine->doomed; doomed; doomed = doomed->next) {
        if (strcmp(doomed->id, entry->id) != 0)
            continue;
        if (doomed->generation ? entry->status->generation == doomed->generation
                               : !is_given_away(entry)) /* 0: we could not tell as what it is here */
            return true;
    }
    return false;
}

/* One look at one of them; `tells`: say it. A libvirt domain takes its time. */
static void end_entry(struct vm_entry *entry, bool tells)
{
    struct fault fault = {0};
    if (!entry->process && entry->starting) { /* a worker is at it, and makes none then */
        entry->start_ends = entry->start_ends || !(entry->starting_moves_in || entry->remove);
        if (tells)
            log_warn("quarantine", "a start that must end is still being prepared vm=%s", entry->id);
        return;
    }
    /* First the one that has not taken the guest yet, or it might. */
    bool is_next = entry->next_process != NULL;
    struct vm_process *process = is_next ? entry->next_process : entry->process;
    int r = process ? vm_process_kill(process, &fault) : 0;

    if (!tells)
        return;
    if (!process)
        log_error("quarantine", "a VM that must end cannot be reached vm=%s", entry->id);
    else if (r < 0)
        log_warn("quarantine", "a %s that must end is not known yet vm=%s: %s",
                 is_next ? "process" : "VM", entry->id, fault.text);
    else if (!is_next)
        log_warn("quarantine", "killed: it was superseded vm=%s generation=%llu", entry->id,
                 (unsigned long long)entry->status->generation);
}

static void end_recalled(struct vm_entry *entry)
{
    struct fault fault = {0};

    if (start_recall_end(entry, &fault) < 0)
        log_error("quarantine", "a start that must end cannot be reached vm=%s: %s", entry->id, fault.text);
}

/* Kills what is left; false: something is. */
static bool all_have_ended(struct quarantine *quarantine)
{
    bool ended = true;
    uint64_t now_ns = world_now_ns();
    bool tells = now_ns - quarantine->told_ns > TELL_EVERY_MS * NS_PER_MS;

    if (tells)
        quarantine->told_ns = now_ns;
    for (struct vm_entry *entry = vm_table_first(quarantine->table); entry; entry = entry->next) {
        bool is_alive = vm_entry_is_alive(entry) || entry->starting;
        if (!(is_alive || entry->is_recalled) || !must_end(quarantine, entry))
            continue;
        ended = false;
        bool is_due = start_recall_is_due(entry);
        if (is_due && tells)
            end_recalled(entry);
        else if (!is_due && is_alive)
            end_entry(entry, tells);
    }
    return ended;
}

static void finish(struct quarantine *quarantine)
{
    struct fault fault = {0};
    if (host_facts_renew(quarantine->facts, &fault) < 0) {
        log_error("quarantine", "no new incarnation, trying on: %s", fault.text);
        loop_timer_start(quarantine->timer, QUARANTINE_AGAIN_MS, 0);
        return;
    }
    log_info("quarantine", "over, this host lives as incarnation=%.8s now",
             host_facts_incarnation(quarantine->facts));
    unsigned count = quarantine->done_count;
    quarantine->is_on = quarantine->is_all = false;
    quarantine->done_count = 0;
    forget_doomed(quarantine);
    for (unsigned i = 0; i < count; i++)
        quarantine->dones[i].done(quarantine->dones[i].data);
}

static void look(void *data)
{
    struct quarantine *quarantine = data;
    if (!quarantine->is_on)
        return;
    if (all_have_ended(quarantine)) {
        watchdog_isolated(quarantine->watchdog); /* what is left to do harms nobody */
        finish(quarantine);
        return;
    }
    watchdog_isolate(quarantine->watchdog);
    loop_timer_start(quarantine->timer, 20, 0);
}

void quarantine_begin(struct quarantine *quarantine, const Godwit__AgentWelcome *named,
                      void (*done)(void *data), void *data)
{
    quarantine->is_on = true;
    quarantine->told_ns = 0;
    quarantine->is_all = quarantine->is_all || !named;
    for (size_t i = 0; named && i < named->n_superseded; i++) {
        const Godwit__VmGeneration *end = named->superseded[i];
        struct doomed *doomed = end->vm_id ? calloc(1, sizeof *doomed) : NULL;
        if (!doomed) {
            quarantine->is_all = quarantine->is_all || end->vm_id; /* rather one too many */
            continue;
        }
        (void)snprintf(doomed->id, sizeof doomed->id, "%s", end->vm_id);
        doomed->generation = end->generation;
        doomed->next = quarantine->doomed;
        quarantine->doomed = doomed;
    }
    if (quarantine->done_count < DONES_MAX) {
        quarantine->dones[quarantine->done_count].done = done;
        quarantine->dones[quarantine->done_count++].data = data;
    }
    loop_timer_start(quarantine->timer, 0, 0);
}

void quarantine_set_watchdog(struct quarantine *quarantine, struct watchdog *watchdog)
{
    quarantine->watchdog = watchdog;
}

bool quarantine_is_on(const struct quarantine *quarantine)
{
    return quarantine->is_on;
}

int quarantine_new(struct quarantine **ret_quarantine, struct loop *loop, struct vm_table *table,
                   struct host_facts *facts, struct fault *fault)
{
    struct quarantine *quarantine = calloc(1, sizeof *quarantine);
    if (!quarantine)
        return fault_set(fault, ERR_NOMEM, "no memory for the quarantine");
    quarantine->loop = loop;
    quarantine->table = table;
    quarantine->facts = facts;
    int r = loop_timer_new(&quarantine->timer, loop, look, quarantine, fault);
    if (r < 0) {
        free(quarantine);
        return r;
    }
    *ret_quarantine = quarantine;
    return 0;
}

struct quarantine *quarantine_free(struct quarantine *quarantine)
{
    if (!quarantine)
        return NULL;
    (void)loop_timer_free(quarantine->timer);
    forget_doomed(quarantine);
    free(quarantine);
    return NULL;
}

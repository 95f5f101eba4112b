#include "coordinator/why.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/cluster_view.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "net/rpc.h"
#include "placement/choose.h"
#include "placement/evacuate.h"

enum { MOVES_TOLD = 20, RULES_TOLD = 64 };

struct why { /* room for what the reply points to */
    struct cluster *cluster;
    struct cluster_vm *vm;
    uint32_t v, here;
    struct layout *layout;
    Godwit__WhyReply reply;
    Godwit__VmInfo info;
    Godwit__WhyHost *hosts;
    Godwit__WhyHost **host_list;
    char (*host_words)[LAYOUT_WORDS_SIZE];
    Godwit__WhyMove moves[MOVES_TOLD];
    Godwit__WhyMove *move_list[MOVES_TOLD];
    char rules[RULES_TOLD][LAYOUT_WORDS_SIZE];
    char *rule_list[RULES_TOLD];
    struct blocker blocker;
    char *concession_list[MOVES_CONCESSIONS_MAX];
    char verdict[CLUSTER_REASON_SIZE];
};

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text; /* protobuf-c knows no const; nobody writes through these */
}

static void tell_host(struct why *why, uint32_t h, uint32_t best)
{
    Godwit__WhyHost *told = &why->hosts[h];
    godwit__why_host__init(told);
    told->host = why->cluster->hosts[h]->name;
    told->has_is_here = told->has_fits = told->has_best = true;
    told->is_here = h == why->here;
    told->best = h == best;
    enum gw_code code = layout_obstacle_words(why->layout, why->v, h, why->host_words[h],
                                              sizeof why->host_words[h]);
    told->fits = code == GW_NONE || told->is_here;
    told->has_stall_delta = told->has_full = true;
    told->stall_delta = layout_delta(why->layout, why->v, h);
    told->full = layout_pressure(why->layout, h, told->is_here ? LAYOUT_NONE : why->v);
    told->reason = why->host_words[h];
    if (told->is_here)
        (void)snprintf(why->host_words[h], sizeof why->host_words[h], "it runs here");
    else if (code != GW_NONE)
        told->code = text_of(gw_code_row((int)code)->label);
    why->host_list[h] = told;
}

static void tell_rules(struct why *why)
{
    for (uint32_t r = 0; r < layout_rule_count(why->layout) && why->reply.n_rules < RULES_TOLD;
         r++) {
        const Godwit__Rule *rule = why->cluster->rules[r]->rule;
        if (!rule_names_vm(rule, why->vm))
            continue;
        char *text = why->rules[why->reply.n_rules];
        bool broken = why->here != LAYOUT_NONE && layout_breaks(why->layout, why->v, r);
        (void)snprintf(text, LAYOUT_WORDS_SIZE, "%s: %s %s, %s", rule->id,
                       rule->soft ? "soft" : "hard", rule->kind, broken ? "broken here" : "kept");
        why->rule_list[why->reply.n_rules++] = text;
    }
    why->reply.rules = why->rule_list;
}

static void tell_moves(struct why *why)
{
    for (size_t i = why->cluster->job_count; i-- > 0 && why->reply.n_moves < MOVES_TOLD;) {
        struct cluster_job *job = why->cluster->jobs[i];
        if (strcmp(job->core.vm_id, why->vm->id) != 0)
            continue;
        Godwit__WhyMove *told = &why->moves[why->reply.n_moves];
        godwit__why_move__init(told);
        told->job = job->core.id;
        told->source = job->core.source_host;
        told->target = job->core.target_host;
        told->state = text_of(job_state_name(job->core.state));
        told->reason = job->core.error_text[0] && job->core.state != JOB_DONE ? job->core.error_text
                       : job->reason[0]                                       ? job->reason
                                                                              : NULL;
        told->plan = job->plan_id[0] ? job->plan_id : NULL;
        told->has_ended_unix_ms = job->ended_unix_ms != 0;
        told->ended_unix_ms = job->ended_unix_ms;
        told->has_pause_ns = job->receipt != NULL;
        told->pause_ns = job->receipt ? job->receipt->downtime_ns : 0;
        why->move_list[why->reply.n_moves++] = told;
    }
    why->reply.moves = why->move_list;
}

static void judge_here(struct why *why, uint32_t best)
{
    const char *name = why->vm->spec->name;
    if (why->here == LAYOUT_NONE)
        (void)snprintf(why->verdict, sizeof why->verdict,
                       "%s does not run; it would be started %s%s", name,
                       best == LAYOUT_NONE ? "nowhere now" : "on ",
                       best == LAYOUT_NONE ? "" : why->cluster->hosts[best]->name);
    else if (best == LAYOUT_NONE)
        (void)snprintf(why->verdict, sizeof why->verdict,
                       "%s is on %s, and no other host may have it", name,
                       why->cluster->hosts[why->here]->name);
    else if (layout_delta(why->layout, why->v, best) < -1e-6)
        (void)snprintf(
            why->verdict, sizeof why->verdict,
            "%s is on %s; on %s guests would wait %.2f cores' worth less (whether that is "
            "worth a move: godwit balance --dry-run)",
            name, why->cluster->hosts[why->here]->name, why->cluster->hosts[best]->name,
            -layout_delta(why->layout, why->v, best));
    else
        (void)snprintf(why->verdict, sizeof why->verdict,
                       "%s is on %s; no guest would wait less if it moved", name,
                       why->cluster->hosts[why->here]->name);
}

static void judge_there(struct why *why, uint32_t h)
{
    char words[LAYOUT_WORDS_SIZE];
    enum gw_code code = layout_obstacle_words(why->layout, why->v, h, words, sizeof words);
    if (code == GW_NONE) {
        double delta = layout_delta(why->layout, why->v, h);
        (void)snprintf(
            why->verdict, sizeof why->verdict,
            "%s may run on %s; guests would wait %.2f cores' worth %s: godwit migrate %s "
            "--to %s",
            why->vm->spec->name, why->cluster->hosts[h]->name, delta < 0 ? -delta : delta,
            delta < 0 ? "less" : "more", why->vm->spec->name, why->cluster->hosts[h]->name);
        return;
    }
    (void)snprintf(why->verdict, sizeof why->verdict, "%.63s cannot run on %.63s: %.110s",
                   why->vm->spec->name, why->cluster->hosts[h]->name, words);
    if (code == GW_SAME_HOST)
        return;
    evacuate_concede_on(why->layout, why->v, h, &why->blocker);
    for (unsigned i = 0; i < why->blocker.concession_count; i++)
        why->concession_list[i] = why->blocker.concessions[i];
    why->reply.concessions = why->concession_list;
    why->reply.n_concessions = why->blocker.concession_count;
}

static void fill(struct why *why, uint32_t only)
{
    uint32_t best = choose_host(why->layout, why->v);
    if (only == LAYOUT_NONE)
        judge_here(why, best);
    else
        judge_there(why, only);
    for (uint32_t h = 0; h < why->cluster->host_count; h++)
        tell_host(why, h, best);
    why->reply.hosts = only == LAYOUT_NONE ? why->host_list : &why->host_list[only];
    why->reply.n_hosts = only == LAYOUT_NONE ? why->cluster->host_count : 1;
    tell_rules(why);
    tell_moves(why);
    why->reply.verdict = why->verdict;
}

void why_reply(struct cluster *cluster, struct rpc_request *request,
               const Godwit__WhyRequest *wanted, struct cluster_now now)
{
    struct problem problem = {0};
    struct cluster_layout view = {0};
    struct cluster_host *only = NULL;
    AUTO_FREE struct why *why = calloc(1, sizeof *why);
    assert(why);
    why->cluster = cluster;
    godwit__why_reply__init(&why->reply);
    why->vm = cluster_find_vm(cluster, wanted->vm ? wanted->vm : "", &problem);
    bool ok = why->vm != NULL;
    if (ok && wanted->host && wanted->host[0]) {
        only = cluster_find_host(cluster, wanted->host, &problem);
        ok = only != NULL;
    }
    ok = ok && cluster_layout_new(&view, cluster, now, LAYOUT_STALL, true, &problem) == 0;
    AUTO_FREE Godwit__WhyHost *hosts = calloc(cluster->host_count + 1, sizeof *hosts);
    AUTO_FREE Godwit__WhyHost **host_list = calloc(cluster->host_count + 1, sizeof *host_list);
    AUTO_FREE char(*host_words)[LAYOUT_WORDS_SIZE] =
        calloc(cluster->host_count + 1, sizeof *host_words);
    assert(hosts && host_list && host_words);
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    if (ok) {
        why->layout = view.layout;
        why->v = cluster_layout_vm(cluster, why->vm);
        why->here = layout_vm(view.layout, why->v)->host;
        why->hosts = hosts;
        why->host_list = host_list;
        why->host_words = host_words;
        cluster_vm_info(cluster, why->vm, now.ns, &why->info);
        why->reply.vm = &why->info;
        fill(why, only ? cluster_layout_host(cluster, only) : LAYOUT_NONE);
    } else {
        problem_to_message(&problem, &error, details);
        why->reply.error = &error;
    }
    (void)rpc_reply(request, &why->reply.base);
    cluster_layout_deinit(&view);
}

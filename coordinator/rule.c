#include "coordinator/rule.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/own.h"
#include "coordinator/admission.h"
#include "coordinator/cluster_core.h"
#include "coordinator/words.h"
#include "proto/limits.h"

static const char *const kinds[LAYOUT_RULE_KIND_COUNT] = {
    [LAYOUT_AFFINITY] = "affinity", [LAYOUT_ANTI_AFFINITY] = "anti-affinity",
    [LAYOUT_PIN] = "pin",           [LAYOUT_EXCLUDE] = "exclude",
    [LAYOUT_SPREAD] = "spread",
};

enum layout_rule_kind rule_kind_from_name(const char *name)
{
    for (enum layout_rule_kind kind = 0; kind < LAYOUT_RULE_KIND_COUNT; kind++) {
        if (strcmp(kinds[kind], name) == 0)
            return kind;
    }
    return LAYOUT_RULE_KIND_COUNT;
}

const char *rule_kind_name(enum layout_rule_kind kind)
{
    assert((unsigned)kind < LAYOUT_RULE_KIND_COUNT);
    return kinds[kind];
}

bool rule_matches(const char *pattern, const char *name)
{
    size_t length = strlen(pattern);
    if (length > 0 && pattern[length - 1] == '*')
        return strncmp(pattern, name, length - 1) == 0;
    return strcmp(pattern, name) == 0;
}

bool rule_names_vm(const Godwit__Rule *rule, const struct cluster_vm *vm)
{
    for (size_t i = 0; i < rule->n_vms; i++) {
        if (rule_matches(rule->vms[i], vm->spec->name))
            return true;
    }
    return false;
}

const char *rule_host_label(const struct cluster_host *host, const char *key)
{
    size_t length = strlen(key);
    for (size_t i = 0; host->policy && i < host->policy->n_labels; i++) {
        const char *label = host->policy->labels[i];
        if (strncmp(label, key, length) == 0 && label[length] == '=')
            return label + length + 1;
    }
    return NULL;
}

bool rule_names_host(const Godwit__Rule *rule, const struct cluster_host *host)
{
    for (size_t i = 0; i < rule->n_hosts; i++) {
        const char *word = rule->hosts[i];
        const char *equals = strchr(word, '=');
        if (!equals) {
            if (rule_matches(word, host->name))
                return true;
            continue;
        }
        for (size_t n = 0; host->policy && n < host->policy->n_labels; n++) {
            if (strcmp(host->policy->labels[n], word) == 0)
                return true;
        }
    }
    return false;
}

/* ---- rules ------------------------------------------------------------------------------------
 */

static bool pattern_is_valid(const char *pattern)
{
    char name[ID_NAME_MAX + 1];
    size_t length = strlen(pattern);
    if (length == 0 || length > ID_NAME_MAX)
        return false;
    if (pattern[length - 1] != '*')
        return id_name_is_valid(pattern);
    if (length == 1)
        return true;
    memcpy(name, pattern, length - 1);
    name[length - 1] = '\0';
    return id_name_is_valid(name);
}

static bool label_is_valid(const char *label)
{
    char key[ID_NAME_MAX + 1];
    const char *equals = strchr(label, '=');
    size_t length = equals ? (size_t)(equals - label) : 0;
    if (length == 0 || length > ID_NAME_MAX || !id_name_is_valid(equals + 1))
        return false;
    memcpy(key, label, length);
    key[length] = '\0';
    return id_name_is_valid(key);
}

static int judge_parts(const Godwit__Rule *rule, enum layout_rule_kind kind,
                       struct problem *problem)
{
    bool takes_hosts = kind == LAYOUT_PIN || kind == LAYOUT_EXCLUDE;
    if (rule->n_vms == 0 || rule->n_vms > RULE_WORDS_MAX || rule->n_hosts > RULE_WORDS_MAX)
        return problem_set(problem, GW_RULE_INVALID,
                           "rule %s names %zu VMs and %zu hosts, possible are 1 to %d", rule->id,
                           rule->n_vms, rule->n_hosts, RULE_WORDS_MAX);
    if (takes_hosts != (rule->n_hosts > 0))
        return problem_set(problem, GW_RULE_INVALID, "rule %s of kind %s %s hosts", rule->id,
                           rule->kind, takes_hosts ? "needs" : "takes no");
    for (size_t i = 0; i < rule->n_vms; i++) {
        if (!pattern_is_valid(rule->vms[i]))
            return problem_set(problem, GW_RULE_INVALID,
                               "'%.80s' is no VM's name, nor the beginning of names and a '*'",
                               rule->vms[i]);
    }
    for (size_t i = 0; i < rule->n_hosts; i++) {
        bool is_label = strchr(rule->hosts[i], '=') != NULL;
        if (!(is_label ? label_is_valid(rule->hosts[i]) : pattern_is_valid(rule->hosts[i])))
            return problem_set(problem, GW_RULE_INVALID,
                               "'%.80s' is no host's name and no label like rack=a",
                               rule->hosts[i]);
    }
    bool counts = kind == LAYOUT_ANTI_AFFINITY || kind == LAYOUT_SPREAD;
    if (rule->most > 0 && !counts)
        return problem_set(problem, GW_RULE_INVALID, "a rule of kind %s counts nothing",
                           rule->kind);
    return 0;
}

static struct cluster_rule *find_rule(const struct cluster *cluster, const char *id)
{
    for (size_t i = 0; i < cluster->rule_count; i++) {
        if (strcmp(cluster->rules[i]->rule->id, id) == 0)
            return cluster->rules[i];
    }
    return NULL;
}

int rule_add(struct cluster *cluster, const Godwit__Rule *given, struct cluster_now now,
             struct cluster_rule **ret_rule, struct problem *problem, struct cluster_todo *todo)
{
    char lacks[PROBLEM_HINT_SIZE];
    if (!given || !given->id || !id_name_is_valid(given->id))
        return problem_set(problem, GW_RULE_INVALID,
                           "'%.80s' is no name for a rule: 1 to %d letters, digits, '.', '_', '-'",
                           given && given->id ? given->id : "", ID_NAME_MAX);
    enum layout_rule_kind kind = rule_kind_from_name(given->kind ? given->kind : "");
    if (kind == LAYOUT_RULE_KIND_COUNT) {
        (void)problem_set(problem, GW_RULE_INVALID, "'%.60s' is no kind of rule",
                          given->kind ? given->kind : "");
        problem_hint(problem, "affinity, anti-affinity, pin, exclude, spread");
        return -1;
    }
    if (judge_parts(given, kind, problem) != 0)
        return -1;
    if (find_rule(cluster, given->id)) {
        (void)problem_set(problem, GW_NAME_TAKEN, "there already is a rule %s", given->id);
        problem_hint(problem, "godwit rule rm %s", given->id);
        return -1;
    }
    if (cluster->rule_count == RULES_MAX)
        return problem_set(problem, GW_POOL_FULL, "the pool has %d rules, which is all it may have",
                           RULES_MAX);
    bool held = !given->soft && admission_holds(cluster, now, lacks, sizeof lacks);
    struct cluster_rule *rule = cluster_add_rule(cluster);
    Godwit__Rule *copy = rule ? cluster_message_copy(&given->base) : NULL;
    if (!copy) {
        if (rule)
            cluster_drop_rule(cluster, rule);
        return problem_set(problem, GW_INTERNAL, "no memory for rule %s", given->id);
    }
    copy->has_created_unix_ms = true;
    copy->created_unix_ms = now.unix_ms;
    rule->rule = copy;
    if (admission_judge_changed(cluster, held, now, problem) != 0) {
        cluster_drop_rule(cluster, rule);
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_RULE);
    put->object = rule;
    put->revision = rule->revision++;
    cluster_todo_event(todo, "", "rule %s added: %s%s", copy->id, copy->soft ? "soft " : "",
                       copy->kind);
    *ret_rule = rule;
    return 0;
}

int rule_remove(struct cluster *cluster, const char *id, struct problem *problem,
                struct cluster_todo *todo)
{
    struct cluster_rule *rule = find_rule(cluster, id);
    if (!rule) {
        (void)problem_set(problem, GW_RULE_UNKNOWN, "there is no rule '%.80s'", id);
        problem_hint(problem, "godwit rule ls");
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_RULE);
    put->revision = rule->revision;
    WORDS_COPY(put->name, rule->rule->id);
    cluster_todo_event(todo, "", "rule %s removed", rule->rule->id);
    cluster_drop_rule(cluster, rule);
    return 0;
}

/* ---- hosts ------------------------------------------------------------------------------------
 */

static Godwit__HostPolicy *policy_of(struct cluster_host *host)
{
    if (!host->policy) {
        host->policy = calloc(1, sizeof *host->policy);
        assert(host->policy); /* control memory is small; without it there is no deciding */
        godwit__host_policy__init(host->policy);
    }
    return host->policy;
}

static void set_text(char **field, const char *text)
{
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = text && text[0] ? strdup(text) : NULL;
}

static void put_policy(struct cluster_host *host, struct cluster_todo *todo)
{
    struct cluster_put *put = cluster_todo_put(todo, PUT_HOST);
    put->object = host;
    put->revision = host->revision++;
}

void rule_cordon(struct cluster_host *host, bool cordoned, const char *reason, const char *plan,
                 struct cluster_todo *todo)
{
    Godwit__HostPolicy *policy = policy_of(host);
    policy->has_cordoned = true;
    policy->cordoned = cordoned;
    set_text(&policy->reason, cordoned ? reason : NULL);
    set_text(&policy->plan, cordoned ? plan : NULL);
    put_policy(host, todo);
    cluster_todo_event(todo, "", "host %s %s%s%s", host->name, cordoned ? "cordoned" : "uncordoned",
                       cordoned && reason[0] ? ": " : "", cordoned ? reason : "");
}

void rule_domains_adopted(struct cluster_host *host, struct cluster_todo *todo)
{
    Godwit__HostPolicy *policy = policy_of(host);
    policy->has_domains_adopted = policy->domains_adopted = true;
    put_policy(host, todo);
    cluster_todo_event(todo, "", "the libvirt domains that %s brought along are adopted",
                       host->name);
}

/* `label` is "key=value" or "key-"; judged before. */
static void set_label(Godwit__HostPolicy *policy, const char *label)
{
    size_t length = strcspn(label, "=");
    bool is_removal = label[length] == '\0';
    if (is_removal)
        length--;
    size_t kept = 0;
    for (size_t i = 0; i < policy->n_labels; i++) {
        bool is_same =
            strncmp(policy->labels[i], label, length) == 0 && policy->labels[i][length] == '=';
        if (is_same)
            free(policy->labels[i]);
        else
            policy->labels[kept++] = policy->labels[i];
    }
    policy->n_labels = kept;
    if (is_removal)
        return;
    policy->labels = reallocarray(policy->labels, kept + 1, sizeof *policy->labels);
    assert(policy->labels);
    policy->labels[policy->n_labels++] = strdup(label);
}

/* Labels name hosts in rules and make them domains; what would break HA's promise is taken back. */
static int set_labels(struct cluster *cluster, struct cluster_host *host,
                      const Godwit__HostSetRequest *wanted, struct cluster_now now,
                      struct problem *problem)
{
    char lacks[PROBLEM_HINT_SIZE];
    bool held = cluster->rule_count > 0 && admission_holds(cluster, now, lacks, sizeof lacks);
    Godwit__HostPolicy *before = cluster_message_copy(&policy_of(host)->base);
    assert(before); /* see policy_of */
    for (size_t i = 0; i < wanted->n_labels; i++)
        set_label(host->policy, wanted->labels[i]);
    int r = admission_judge_changed(cluster, held, now, problem);
    if (r != 0) {
        Godwit__HostPolicy *after = host->policy;
        host->policy = before;
        before = after;
    }
    godwit__host_policy__free_unpacked(before, NULL);
    return r;
}

int rule_set_host(struct cluster *cluster, const Godwit__HostSetRequest *wanted,
                  struct cluster_now now, struct cluster_host **ret_host, struct problem *problem,
                  struct cluster_todo *todo)
{
    struct cluster_host *host =
        cluster_find_host(cluster, wanted->host ? wanted->host : "", problem);
    if (!host)
        return -1;
    if (wanted->n_labels > RULE_WORDS_MAX)
        return problem_set(problem, GW_USAGE, "%zu labels, possible are %d at once",
                           wanted->n_labels, RULE_WORDS_MAX);
    for (size_t i = 0; i < wanted->n_labels; i++) {
        const char *label = wanted->labels[i];
        size_t length = strlen(label);
        bool is_removal =
            length > 1 && length <= ID_NAME_MAX && label[length - 1] == '-' && !strchr(label, '=');
        if (!is_removal && !label_is_valid(label))
            return problem_set(problem, GW_USAGE,
                               "'%.80s' is no label: key=value sets one, key- takes it away",
                               label);
    }
    if (host->policy && host->policy->n_labels + wanted->n_labels > RULE_WORDS_MAX)
        return problem_set(problem, GW_USAGE, "a host has %d labels at most", RULE_WORDS_MAX);
    *ret_host = host;
    if (wanted->n_labels > 0 && set_labels(cluster, host, wanted, now, problem) != 0)
        return -1;
    if (wanted->n_labels > 0)
        put_policy(host, todo);
    if (wanted->has_cordoned && wanted->cordoned != rule_host_is_cordoned(host))
        rule_cordon(host, wanted->cordoned, wanted->reason ? wanted->reason : "", "", todo);
    return 0;
}

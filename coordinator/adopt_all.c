#include "coordinator/adopt_all.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/agent_link.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_found.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "proto/method.h"

enum { READ_MS = 5000 };

struct adopter { /* of one host, while it is not done */
    struct adopter *next;
    char host[OWN_HOST_SIZE];
    bool is_asking;
    char (*passed)[ID_TEXT_SIZE]; /* owned: that could not be adopted */
    size_t passed_count;
};

struct reading {
    struct coordinator *coordinator;
    char host[OWN_HOST_SIZE], vm_id[ID_TEXT_SIZE], name[OWN_HOST_SIZE];
};

bool adopt_all_is_word(const char *word)
{
    return word[0] == '\0' || strcmp(word, "all") == 0;
}

static struct adopter *find(struct coordinator *coordinator, const char *host)
{
    struct adopter *adopter = coordinator->adopters;
    while (adopter && strcmp(adopter->host, host) != 0)
        adopter = adopter->next;
    return adopter;
}

static struct adopter *add(struct coordinator *coordinator, const char *host)
{
    struct adopter *adopter = calloc(1, sizeof *adopter);
    assert(adopter); /* control memory is small; without it there is no deciding */
    WORDS_COPY(adopter->host, host);
    adopter->next = coordinator->adopters;
    coordinator->adopters = adopter;
    return adopter;
}

static void drop(struct coordinator *coordinator, struct adopter *adopter)
{
    struct adopter **link = &coordinator->adopters;
    while (*link != adopter)
        link = &(*link)->next;
    *link = adopter->next;
    free(adopter->passed);
    free(adopter);
}

void adopt_all_free(struct coordinator *coordinator)
{
    while (coordinator->adopters)
        drop(coordinator, coordinator->adopters);
}

static bool was_passed(const void *data, const char *vm_id)
{
    const struct adopter *adopter = data;
    for (size_t i = 0; i < adopter->passed_count; i++) {
        if (strcmp(adopter->passed[i], vm_id) == 0)
            return true;
    }
    return false;
}

static void pass(struct adopter *adopter, const char *vm_id)
{
    size_t count = adopter->passed_count + 1;
    char(*more)[ID_TEXT_SIZE] = realloc(adopter->passed, count * sizeof *more);
    assert(more);
    adopter->passed = more;
    WORDS_COPY(adopter->passed[adopter->passed_count], vm_id);
    adopter->passed_count = count;
}

static void on_read(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                    enum agent_link_fate fate)
{
    struct reading *reading = data;
    struct coordinator *coordinator = reading->coordinator;
    struct adopter *adopter = find(coordinator, reading->host);
    struct cluster_host *host = cluster_host(&coordinator->cluster, reading->host);
    struct cluster_todo todo = {0};
    struct problem problem = {0};
    uint64_t ticket = 0;

    if (!coordinator->is_active || !adopter || !host) { /* of an earlier leadership */
        free(reading);
        return;
    }
    adopter->is_asking = false;
    if (reply && cluster_found_adopt(&coordinator->cluster, host,
                                     (const Godwit__FoundDomain *)reply, coordinator_now(), &ticket,
                                     &problem, &todo) != 0) {
        pass(adopter, reading->vm_id);
        cluster_todo_event(&todo, "", "domain %s of %s is not adopted: %s", reading->name,
                           reading->host, problem.text);
    } else if (!reply && fate == AGENT_LINK_REFUSED) {
        pass(adopter, reading->vm_id);
        cluster_todo_event(&todo, "", "domain %s of %s is not adopted: %s", reading->name,
                           reading->host, fault->text);
    }
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    if (reply || fate == AGENT_LINK_REFUSED)
        adopt_all_look(coordinator, reading->host);
    /* else the host is away: its next word goes on */
    free(reading);
}

static void read_definition(struct coordinator *coordinator, struct adopter *adopter,
                            const Godwit__FoundDomain *domain)
{
    struct reading *reading = calloc(1, sizeof *reading);
    Godwit__VmAction order = GODWIT__VM_ACTION__INIT;
    assert(reading);
    reading->coordinator = coordinator;
    WORDS_COPY(reading->host, adopter->host);
    WORDS_COPY(reading->vm_id, domain->vm_id);
    WORDS_COPY(reading->name, domain->name);
    adopter->is_asking = true;
    order.vm_id = reading->vm_id;
    agent_link_call(coordinator, reading->host, METHOD_ORDER_DOMAIN, &order.base,
                    &godwit__found_domain__descriptor, READ_MS, on_read, reading);
}

void adopt_all_look(struct coordinator *coordinator, const char *name)
{
    struct cluster_host *host = cluster_host(&coordinator->cluster, name);
    struct adopter *adopter = find(coordinator, name);
    struct cluster_todo todo = {0};

    if (!coordinator->adopts_all || !host || !host->found || !host->found->libvirt ||
        (host->policy && host->policy->domains_adopted) || (adopter && adopter->is_asking) ||
        cluster_is_restored(&coordinator->cluster, NULL, 0))
        return;
    if (!adopter)
        adopter = add(coordinator, name);
    const Godwit__FoundDomain *domain =
        cluster_found_next(&coordinator->cluster, host, was_passed, adopter);
    if (domain) {
        read_definition(coordinator, adopter, domain);
        return;
    }
    log_info("adopt_all", "done host=%s", name);
    rule_domains_adopted(host, &todo);
    drop(coordinator, adopter);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

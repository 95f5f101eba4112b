#include "agent/agent_link.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/host_facts.h"
#include "agent/host_load.h"
#include "agent/start_list.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/address_list.h"
#include "proto/agent.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    BACKOFF_MS_MIN = 100,
    BACKOFF_MS_MAX = 2000,
    BACKOFF_SEVERAL_MS_MAX = 400,
    HELLO_MS_MAX = 10000
};

struct agent_link {
    struct agent_link_config config;
    struct rpc_service service;
    struct rpc *rpc;
    bool welcome;  /* it knows us: events may go */
    bool was_told; /* that the coordinator is away */
    uint64_t backoff_ms;
    size_t next;                /* of the coordinators' addresses */
    char leader[ADDRESS_SIZE];  /* the one that another coordinator named; "" */
    char address[ADDRESS_SIZE]; /* the one that is tried or spoken to */
    struct loop_timer *retry_timer, *heartbeat_timer;
    struct host_load *load; /* NULL: without memory for it */
};

/* ---- away ---- */
static void retry_later(struct agent_link *link, const char *why)
{
    uint8_t chance;

    if (!link->was_told)
        log_warn("agent_link", "no connection to the coordinator at %s, trying on: %s",
                 link->config.address, why);
    link->was_told = true;
    world_random(&chance, sizeof chance); /* so that many hosts do not come at once */
    loop_timer_start(link->retry_timer, link->backoff_ms + link->backoff_ms * chance / 1024, 0);
    uint64_t most_ms =
        address_list_count(link->config.address) > 1 ? BACKOFF_SEVERAL_MS_MAX : BACKOFF_MS_MAX;
    link->backoff_ms = link->backoff_ms * 2 < most_ms ? link->backoff_ms * 2 : most_ms;
}

static void link_lost(struct agent_link *link, const char *why)
{
    bool was_welcome = link->welcome;

    link->welcome = false;
    loop_timer_stop(link->heartbeat_timer);
    link->rpc = rpc_close(link->rpc);
    if (was_welcome)
        link->config.on_lost(link->config.data);
    retry_later(link, why);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct agent_link *link = data;
    (void)rpc;

    link_lost(link, fault ? fault->text : "it ended the connection");
}

/* ---- hello ---- */
/* A coordinator that stands by says who leads: it is believed, for it has shown the pool's
 * certificate. */
static void follow_leader(struct agent_link *link, const struct fault *fault)
{
    if (!fault->hint[0] || strcmp(fault->hint, link->address) == 0)
        return;
    (void)snprintf(link->leader, sizeof link->leader, "%s", fault->hint);
}

static void on_welcome(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct agent_link *link = data;
    const Godwit__AgentWelcome *welcome = (const Godwit__AgentWelcome *)reply;

    if (!welcome) {
        if (fault && fault->code == ERR_NOT_LEADER)
            follow_leader(link, fault);
        link_lost(link, fault ? fault->text : "no welcome");
        return;
    }
    if (welcome->has_version &&
        (welcome->version < PROTOCOL_VERSION_MIN || welcome->version > PROTOCOL_VERSION)) {
        log_error("agent_link", "the coordinator speaks version %u, this agent %d to %d",
                  welcome->version, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
        link_lost(link, "no common version");
        return;
    }
    if (welcome->quarantine && link->config.on_quarantine) {
        log_warn("agent_link", "this life of the host was fenced: %zu VMs have to end",
                 welcome->n_superseded);
        link->welcome = false;
        link->rpc = rpc_close(link->rpc);
        link->config.on_quarantine(link->config.quarantine_data, welcome);
        return;
    }
    link->welcome = true;
    link->was_told = false;
    link->backoff_ms = BACKOFF_MS_MIN;
    uint64_t every_ms =
        welcome->has_heartbeat_ms && welcome->heartbeat_ms >= 100 && welcome->heartbeat_ms <= 60000
            ? welcome->heartbeat_ms
            : HEARTBEAT_MS;
    loop_timer_start(link->heartbeat_timer, every_ms, every_ms);
    log_info("agent_link", "the coordinator at %s knows this host", link->address);
    if (link->config.on_welcome)
        link->config.on_welcome(link->config.quarantine_data);
}

static void say_hello(struct agent_link *link)
{
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    struct fault fault = {0};
    size_t count = vm_table_count(link->config.table);
    AUTO_FREE Godwit__VmStatus **vms = calloc(count + 1, sizeof *vms);
    AUTO_FREE Godwit__VmStatus *unknown = calloc(count + 1, sizeof *unknown);
    struct start_list starts = {0};
    size_t at = 0;

    if (!vms || !unknown ||
        start_list_make(&starts, link->config.table, link->config.held, link->config.awaits,
                        host_facts_incarnation(link->config.facts), &fault) < 0) {
        link_lost(link, "no memory for the list of VMs");
        return;
    }
    for (struct vm_entry *entry = vm_table_first(link->config.table); entry; entry = entry->next) {
        Godwit__VmStatus *word = vm_word_list(entry, &unknown[at++]);
        if (word)
            vms[hello.n_vms++] = word;
    }
    hello.vms = vms;
    hello.starting = starts.list;
    hello.n_starting = starts.count;
    hello.has_version_min = hello.has_version_max = true;
    hello.version_min = PROTOCOL_VERSION_MIN;
    hello.version_max = PROTOCOL_VERSION;
    hello.has_ends_starts = hello.ends_starts = true;
    hello.facts = (Godwit__HostFacts *)host_facts_read(link->config.facts);
    if (rpc_call(link->rpc, METHOD_AGENT_HELLO, &hello.base, &godwit__agent_welcome__descriptor,
                 HELLO_MS_MAX, on_welcome, link, &fault) < 0)
        link_lost(link, fault.text);
    /* What happens from here on goes out after the hello, on the same connection: in order. */
    else
        link->welcome = true;
    start_list_deinit(&starts);
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct agent_link *link = data;
    (void)rpc;

    if (fault)
        link_lost(link, fault->text);
    else
        say_hello(link);
}

static void choose_address(struct agent_link *link)
{
    size_t count = address_list_count(link->config.address);

    if (link->leader[0])
        memcpy(link->address, link->leader, sizeof link->address);
    else if (!address_list_get(link->config.address, link->next++ % (count ? count : 1),
                               link->address, sizeof link->address))
        link->address[0] = '\0'; /* connecting says that it is none */
    link->leader[0] = '\0';
}

static void connect_now(void *data)
{
    struct agent_link *link = data;
    struct fault fault = {0};

    assert(!link->rpc);
    choose_address(link);
    if (rpc_connect(&link->rpc, link->config.loop, link->address, link->config.context,
                    "coordinator", &link->service, link, on_opened, &fault) < 0)
        retry_later(link, fault.text);
}

static void heartbeat(void *data)
{
    struct agent_link *link = data;
    Godwit__AgentHeartbeat beat = GODWIT__AGENT_HEARTBEAT__INIT;

    beat.has_memory_free_bytes = true;
    beat.memory_free_bytes = host_facts_memory_free();
    beat.has_load1 = true;
    beat.load1 = host_facts_load1();
    beat.has_tells_bridges = beat.tells_bridges = true;
    beat.bridges = host_facts_bridges(link->config.facts, &beat.n_bridges);
    if (link->load)
        host_load_read(link->load, &beat);
    agent_link_send(link, METHOD_AGENT_HEARTBEAT, &beat.base);
}

/* ---- the link ---- */
int agent_link_new(struct agent_link **ret_link, const struct agent_link_config *config,
                   struct fault *fault)
{
    struct agent_link *link = calloc(1, sizeof *link);
    if (!link)
        return fault_set(fault, ERR_NOMEM, "no memory for the link to the coordinator");
    link->config = *config;
    link->load = host_load_new(config->table);
    link->service = (struct rpc_service){
        .methods = config->methods, .method_count = config->method_count, .on_closed = on_closed};
    link->backoff_ms = BACKOFF_MS_MIN;
    int r = loop_timer_new(&link->retry_timer, config->loop, connect_now, link, fault);
    if (r == 0)
        r = loop_timer_new(&link->heartbeat_timer, config->loop, heartbeat, link, fault);
    if (r < 0) {
        (void)agent_link_free(link);
        return r;
    }
    *ret_link = link;
    return 0;
}

struct agent_link *agent_link_free(struct agent_link *link)
{
    if (!link)
        return NULL;
    (void)rpc_close(link->rpc);
    if (link->retry_timer)
        (void)loop_timer_free(link->retry_timer);
    if (link->heartbeat_timer)
        (void)loop_timer_free(link->heartbeat_timer);
    link->load = host_load_free(link->load);
    free(link);
    return NULL;
}

void agent_link_start(struct agent_link *link)
{
    connect_now(link);
}

void agent_link_again(struct agent_link *link)
{
    link->welcome = false;
    loop_timer_stop(link->heartbeat_timer);
    link->rpc = rpc_close(link->rpc);
    loop_timer_start(link->retry_timer, 1, 0);
}

bool agent_link_is_welcome(const struct agent_link *link)
{
    return link->welcome;
}

void *agent_link_data(const struct agent_link *link)
{
    return link->config.data;
}

void agent_link_send(struct agent_link *link, uint16_t method, const ProtobufCMessage *event)
{
    struct fault fault = {0};

    if (link->rpc && link->welcome && rpc_send_event(link->rpc, method, event, &fault) < 0)
        log_debug("agent_link", "an event was not sent: %s", fault.text);
}

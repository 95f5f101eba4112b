#include "cli/cmd_host.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { NAMES_MAX = 1000 };

static void cell_state(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__HostInfo *host = (const Godwit__HostInfo *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s%s", host->state ? host->state : "",
                   host->policy && host->policy->cordoned ? ", cordoned" : "");
}

static void cell_labels(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__HostInfo *host = (const Godwit__HostInfo *)row;
    struct words words;
    words_init(&words, ret_cell, RENDER_CELL_SIZE);
    for (size_t i = 0; host->policy && i < host->policy->n_labels; i++)
        words_say(&words, "%s%s", i ? "," : "", host->policy->labels[i]);
}

static const struct render_column columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "state", .head = "STATE", .cell = cell_state},
    {.field = "vms", .head = "VMS"},
    {.field = "cpus", .head = "CPUS"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "memory_free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "baseline", .head = "BASELINE"},
    {.field = "seen_unix_ms", .head = "SEEN", .unit = RENDER_AGO},
    {.field = "address", .head = "ADDRESS", .wide = true},
    {.field = "version", .head = "VERSION", .wide = true},
    {.field = "policy.labels", .head = "LABELS", .wide = true, .cell = cell_labels},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

static const struct render_column page_columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "state", .head = "STATE", .cell = cell_state},
    {.field = "policy.reason", .head = "BECAUSE"},
    {.field = "policy.labels", .head = "LABELS", .cell = cell_labels},
    {.field = "seen_unix_ms", .head = "SEEN", .unit = RENDER_AGO},
    {.field = "vms", .head = "VMS"},
    {.field = "cpus", .head = "CPUS"},
    {.field = "facts.load1", .head = "LOAD"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "memory_free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "baseline", .head = "BASELINE"},
    {.field = "address", .head = "ADDRESS"},
    {.field = "facts.move_address", .head = "MOVES ARRIVE AT"},
    {.field = "facts.kvm", .head = "KVM", .unit = RENDER_YES_NO},
    {.field = "facts.kvm_missing", .head = "KVM LACKS"},
    {.field = "facts.kernel", .head = "KERNEL"},
    {.field = "facts.machine_name", .head = "MACHINE"},
    {.field = "version", .head = "VERSION"},
    {.field = "facts.incarnation", .head = "INCARNATION"},
};
static const struct render_view page_view = {
    .columns = page_columns, .count = ARRAY_COUNT(page_columns), .name_field = "name"};

static int fetch_hosts(struct context *context, ProtobufCMessage **ret_reply,
                       const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                       struct fault *fault)
{
    Godwit__HostListRequest request = GODWIT__HOST_LIST_REQUEST__INIT;
    Godwit__HostList *list = NULL;
    struct client *client;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_HOST_LIST, &request.base, &godwit__host_list__descriptor,
                        CLIENT_CALL_MS, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->hosts;
    *ret_count = list->n_hosts;
    return 0;
}

int cmd_host_ls(struct context *context)
{
    static const struct listing listing = {.view = &view,
                                           .nothing =
                                               "The pool has no hosts yet: godwit token create",
                                           .fetch = fetch_hosts};
    return listing_run(context, &listing);
}

/* By name or by a prefix that only one host has. */
static int find_host(const Godwit__HostList *list, const char *word,
                     const Godwit__HostInfo **ret_host, struct fault *fault)
{
    const char *names[NAMES_MAX];
    size_t count = 0, begins = 0;
    for (size_t i = 0; i < list->n_hosts && count < NAMES_MAX; i++) {
        const char *name = list->hosts[i]->name;
        if (!name)
            continue;
        names[count++] = name;
        if (strncmp(name, word, strlen(word)) != 0)
            continue;
        *ret_host = list->hosts[i];
        if (strcmp(name, word) == 0)
            return 0;
        begins++;
    }
    if (begins == 1)
        return 0;
    if (begins > 1)
        return fault_set(fault, ERR_INVALID, "%zu hosts begin with '%.63s'; write one letter more",
                         begins, word);
    const char *nearest = id_nearest(word, names, count);
    int r = fault_set(fault, ERR_NOT_FOUND, "the pool has no host '%.63s'", word);
    fault_hint(fault, nearest ? "godwit host show %s" : "godwit host ls", nearest);
    return r;
}

static void print_baselines(struct context *context, const Godwit__HostFacts *facts)
{
    for (size_t i = 0; facts && i < facts->n_baselines; i++) {
        const Godwit__BaselineFact *baseline = facts->baselines[i];
        bool lacks = !baseline->given && baseline->missing && baseline->missing[0];
        (void)fprintf(context->out, "%-14s %s %s%s%s\n", i == 0 ? "GIVES" : "",
                      baseline->given ? "✔" : "✖", baseline->name ? baseline->name : "-",
                      lacks ? ", lacks " : "", lacks ? baseline->missing : "");
    }
}

int cmd_host_show(struct context *context)
{
    AUTO_FREE char *text = NULL;
    ProtobufCMessage *reply = NULL;
    const ProtobufCMessage *const *rows;
    const Godwit__HostInfo *host = NULL;
    size_t count;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    int r = fetch_hosts(context, &reply, &rows, &count, &fault);
    if (r == 0)
        r = find_host((const Godwit__HostList *)reply, context->line->operands[0], &host, &fault);
    if (r == 0)
        r = render_page(&options, &page_view, &host->base, &text, &fault);
    if (r == 0) {
        (void)fputs(text, context->out);
        if (!context_is_machine(context) && context->output != OUTPUT_NAME)
            print_baselines(context, host->facts);
    }
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

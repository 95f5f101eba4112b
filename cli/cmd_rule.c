#include "cli/cmd_rule.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
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

static void say_list(char ret_cell[static RENDER_CELL_SIZE], char *const *texts, size_t count)
{
    struct words words;
    words_init(&words, ret_cell, RENDER_CELL_SIZE);
    for (size_t i = 0; i < count; i++)
        words_say(&words, "%s%s", i ? "," : "", texts[i]);
}

static void cell_vms(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__Rule *rule = (const Godwit__Rule *)row;
    say_list(ret_cell, rule->vms, rule->n_vms);
}

static void cell_hosts(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__Rule *rule = (const Godwit__Rule *)row;
    say_list(ret_cell, rule->hosts, rule->n_hosts);
}

static void cell_broken(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__Rule *rule = (const Godwit__Rule *)row;
    say_list(ret_cell, rule->broken_by, rule->n_broken_by);
}

static void cell_force(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__Rule *rule = (const Godwit__Rule *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", rule->soft ? "soft" : "hard");
}

static const struct render_column columns[] = {
    {.field = "id", .head = "RULE"},
    {.field = "kind", .head = "KIND"},
    {.field = "soft", .head = "FORCE", .cell = cell_force},
    {.field = "vms", .head = "VMS", .cell = cell_vms},
    {.field = "hosts", .head = "HOSTS", .cell = cell_hosts},
    {.field = "most", .head = "MOST"},
    {.field = "members", .head = "MEMBERS"},
    {.field = "state", .head = "STATE"},
    {.field = "broken_by", .head = "BROKEN BY", .cell = cell_broken},
    {.field = "created_unix_ms", .head = "ADDED", .unit = RENDER_AGO, .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "id"};

static int fetch_rules(struct context *context, ProtobufCMessage **ret_reply,
                       const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                       struct fault *fault)
{
    Godwit__RuleListRequest request = GODWIT__RULE_LIST_REQUEST__INIT;
    Godwit__RuleList *list = NULL;
    struct client *client;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_RULE_LIST, &request.base, &godwit__rule_list__descriptor,
                        CLIENT_CALL_MS, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->rules;
    *ret_count = list->n_rules;
    return 0;
}

int cmd_rule_ls(struct context *context)
{
    static const struct listing listing = {
        .view = &view, .nothing = "The pool has no rules: godwit rule add", .fetch = fetch_rules};
    return listing_run(context, &listing);
}

static int tell_rule(struct context *context, const Godwit__Rule *rule)
{
    if (context_is_machine(context)) {
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &view, &rule->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    (void)fprintf(context->out, "rule %s added: %u members, %s\n", words_or_dash(rule->id),
                  rule->members, words_or_dash(rule->state));
    if (rule->n_broken_by > 0)
        (void)fprintf(context->talk, "%zu VMs break it now: godwit rule repair --dry-run\n",
                      rule->n_broken_by);
    return EXIT_CODE_DONE;
}

int cmd_rule_add(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__RuleAddRequest request = GODWIT__RULE_ADD_REQUEST__INIT;
    Godwit__Rule rule = GODWIT__RULE__INIT;
    Godwit__RuleReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    char *hosts[COMMAND_OPERANDS_MAX];
    AUTO_FREE char *copy = NULL;
    rule.kind = (char *)line->operands[0]; /* texts are only read */
    rule.id = (char *)line->operands[1];
    rule.vms = (char **)(uintptr_t)&line->operands[2];
    rule.n_vms = line->operand_count - 2;
    rule.has_soft = command_flag(line, "soft");
    rule.soft = command_flag(line, "soft");
    rule.has_most = command_given(line, "most");
    rule.most = (uint32_t)command_number(line, "most");
    const char *named = command_text(line, "hosts");
    copy = named ? strdup(named) : NULL;
    for (char *word = copy, *next; word && rule.n_hosts < COMMAND_OPERANDS_MAX; word = next) {
        next = strchr(word, ',');
        if (next)
            *next++ = '\0';
        if (word[0])
            hosts[rule.n_hosts++] = word;
    }
    rule.hosts = hosts;
    request.rule = &rule;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_RULE_ADD, &request.base, &godwit__rule_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error  ? error_print(context, reply->error)
                    : reply->rule ? tell_rule(context, reply->rule)
                                  : EXIT_CODE_FAILED;
    godwit__rule_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_rule_rm(struct context *context)
{
    const struct command_line *line = context->line;
    int exit_code = EXIT_CODE_DONE;
    for (size_t i = 0; i < line->operand_count && exit_code == EXIT_CODE_DONE; i++) {
        Godwit__RuleRemoveRequest request = GODWIT__RULE_REMOVE_REQUEST__INIT;
        Godwit__RuleReply *reply = NULL;
        struct client *client;
        struct fault fault = {0};
        request.id = (char *)line->operands[i]; /* only read */
        int r = client_of(context, &client, &fault);
        if (r == 0)
            r = client_call(client, METHOD_RULE_REMOVE, &request.base,
                            &godwit__rule_reply__descriptor, CLIENT_CALL_MS, &reply, &fault);
        if (r < 0)
            return error_print_fault(context, &fault);
        if (reply->error)
            exit_code = error_print(context, reply->error);
        else if (!context_is_machine(context))
            (void)fprintf(context->talk, "rule %s removed\n", line->operands[i]);
        godwit__rule_reply__free_unpacked(reply, NULL);
    }
    return exit_code;
}

/* ---- hosts ---- */

static int set_host(struct context *context, Godwit__HostSetRequest *request, const char *done)
{
    Godwit__HostReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_HOST_SET, &request->base, &godwit__host_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    if (reply->error) {
        exit_code = error_print(context, reply->error);
    } else if (!context_is_machine(context) && reply->host) {
        char labels[RENDER_CELL_SIZE] = "";
        const Godwit__HostPolicy *policy = reply->host->policy;
        if (policy)
            say_list(labels, policy->labels, policy->n_labels);
        (void)fprintf(context->talk, "%s %s%s%s\n", words_or_dash(reply->host->name), done,
                      labels[0] ? "; labels " : "", labels);
    }
    godwit__host_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_host_cordon(struct context *context)
{
    Godwit__HostSetRequest request = GODWIT__HOST_SET_REQUEST__INIT;
    request.host = (char *)context->line->operands[0]; /* texts are only read */
    request.has_cordoned = true;
    request.cordoned = true;
    request.reason = (char *)command_text(context->line, "reason");
    return set_host(context, &request, "takes no more VMs");
}

int cmd_host_uncordon(struct context *context)
{
    Godwit__HostSetRequest request = GODWIT__HOST_SET_REQUEST__INIT;
    request.host = (char *)context->line->operands[0]; /* only read */
    request.has_cordoned = true;
    request.cordoned = false;
    return set_host(context, &request, "takes VMs again");
}

int cmd_host_label(struct context *context)
{
    Godwit__HostSetRequest request = GODWIT__HOST_SET_REQUEST__INIT;
    request.host = (char *)context->line->operands[0]; /* texts are only read */
    request.labels = (char **)(uintptr_t)&context->line->operands[1];
    request.n_labels = context->line->operand_count - 1;
    return set_host(context, &request, "labeled");
}

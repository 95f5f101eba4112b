#include "cli/cmd_upgrade.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { UPGRADE_MS = 200000 }; /* above what the coordinator gives an agent */

static const struct render_column columns[] = {
    {.field = "vm", .head = "VM"},
    {.field = "host", .head = "HOST"},
    {.field = "outcome", .head = "OUTCOME"},
    {.field = "version", .head = "VERSION"},
    {.field = "pause_ns", .head = "PAUSE", .unit = RENDER_DURATION},
    {.field = "total_ns", .head = "TOTAL", .unit = RENDER_DURATION},
    {.field = "memory_bytes", .head = "HANDED OVER", .unit = RENDER_BYTES},
    {.field = "reason", .head = "REASON"},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "vm"};

struct upgrading {
    struct context *context;
    struct client *client;
    const char **words; /* what was asked for: names, borrowed */
    size_t count, done, failed;
    int exit_code; /* of the first that failed: it says most */
    Godwit__UpgradeOutcome *outcomes; /* one a word */
    Godwit__ActionReply **replies;    /* owned: what the outcomes point into */
};

static void tell_progress(const struct upgrading *upgrading, size_t index)
{
    if (isatty(STDERR_FILENO) && !context_is_machine(upgrading->context))
        (void)fprintf(stderr, "%zu of %zu: %s\n", index + 1, upgrading->count,
                      upgrading->words[index]);
}

static void take_reply(struct upgrading *upgrading, size_t index, Godwit__ActionReply *reply)
{
    Godwit__UpgradeOutcome *outcome = &upgrading->outcomes[index];
    static char done[] = "upgraded", failed[] = "not upgraded";

    upgrading->replies[index] = reply;
    outcome->outcome = reply->error ? failed : done;
    if (reply->vm) {
        outcome->vm = reply->vm->name;
        outcome->host = reply->vm->host;
        outcome->version = reply->vm->version;
    }
    if (reply->receipt) {
        const Godwit__MoveReceipt *receipt = reply->receipt;
        outcome->receipt = reply->receipt;
        outcome->has_pause_ns = outcome->has_total_ns = outcome->has_memory_bytes = true;
        outcome->pause_ns = receipt->downtime_ns;
        outcome->total_ns = receipt->total_ns;
        outcome->memory_bytes = receipt->populated_bytes;
    }
    if (reply->error) {
        outcome->reason = reply->error->message;
        int exit_code = error_print(upgrading->context, reply->error);
        upgrading->exit_code = upgrading->failed++ ? upgrading->exit_code : exit_code;
    }
}

static int upgrade_one(struct upgrading *upgrading, size_t index, struct fault *fault)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;

    godwit__upgrade_outcome__init(&upgrading->outcomes[index]);
    upgrading->outcomes[index].vm = (char *)(uintptr_t)upgrading->words[index]; /* only read */
    request.vm = upgrading->outcomes[index].vm;
    request.has_verb = true;
    request.verb = GODWIT__VM_VERB__VM_VERB_UPGRADE;
    tell_progress(upgrading, index);
    int r = client_call(upgrading->client, METHOD_VM_ACTION, &request.base,
                        &godwit__action_reply__descriptor, UPGRADE_MS, &reply, fault);
    if (r < 0)
        return r;
    take_reply(upgrading, index, reply);
    upgrading->done++;
    return 0;
}

static int print_outcomes(const struct upgrading *upgrading, struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    AUTO_FREE const ProtobufCMessage **rows = calloc(upgrading->done + 1, sizeof *rows);

    if (!rows)
        return fault_set(fault, ERR_NOMEM, "no memory to print what was done");
    for (size_t i = 0; i < upgrading->done; i++)
        rows[i] = &upgrading->outcomes[i].base;
    render_options_of(upgrading->context, &options);
    int r = render_list(&options, &view, (const ProtobufCMessage *const *)rows, upgrading->done,
                        &text, fault);
    if (r == 0)
        (void)fputs(text, upgrading->context->out);
    return r;
}

/* All of the words, one after the other; a lost coordinator ends it, and what was done is told. */
static int upgrade_all(struct context *context, struct client *client, const char **words,
                       size_t count)
{
    struct fault fault = {0}, words_of_print = {0};
    AUTO_FREE Godwit__UpgradeOutcome *outcomes = calloc(count + 1, sizeof *outcomes);
    AUTO_FREE Godwit__ActionReply **replies = calloc(count + 1, sizeof *replies);
    struct upgrading upgrading = {.context = context,
                                  .client = client,
                                  .words = words,
                                  .count = count,
                                  .outcomes = outcomes,
                                  .replies = replies};
    int r = outcomes && replies ? 0 : fault_set(&fault, ERR_NOMEM, "no memory to upgrade VMs");

    for (size_t i = 0; r == 0 && i < count; i++)
        r = upgrade_one(&upgrading, i, &fault);
    if (upgrading.done > 0 && print_outcomes(&upgrading, &words_of_print) < 0)
        (void)error_print_fault(context, &words_of_print);
    for (size_t i = 0; i < upgrading.done; i++)
        godwit__action_reply__free_unpacked(replies[i], NULL);
    if (r < 0)
        return error_print_fault(context, &fault);
    return upgrading.failed > 0 && upgrading.failed < count ? EXIT_CODE_PARTLY : upgrading.exit_code;
}

int cmd_vm_upgrade(struct context *context)
{
    const struct command_line *line = context->line;
    struct client *client;
    struct fault fault = {0};

    if (client_of(context, &client, &fault) < 0)
        return error_print_fault(context, &fault);
    AUTO_FREE const char **words = calloc(line->operand_count + 1, sizeof *words);
    if (!words)
        return error_print_fault(context, (fault_set(&fault, ERR_NOMEM, "no memory"), &fault));
    for (size_t i = 0; i < line->operand_count; i++)
        words[i] = line->operands[i];
    return upgrade_all(context, client, words, line->operand_count);
}

static bool runs_on(const Godwit__VmInfo *vm, const char *host)
{
    return vm->name && vm->host && vm->state && strcmp(vm->host, host) == 0 &&
           (strcmp(vm->state, "running") == 0 || strcmp(vm->state, "paused") == 0);
}

static bool is_host(struct client *client, const char *name, struct fault *fault, int *ret_r)
{
    Godwit__HostListRequest request = GODWIT__HOST_LIST_REQUEST__INIT;
    Godwit__HostList *list = NULL;
    bool found = false;

    *ret_r = client_call(client, METHOD_HOST_LIST, &request.base, &godwit__host_list__descriptor,
                         CLIENT_CALL_MS, &list, fault);
    if (*ret_r < 0)
        return false;
    for (size_t i = 0; i < list->n_hosts; i++)
        found = found || (list->hosts[i]->name && strcmp(list->hosts[i]->name, name) == 0);
    godwit__host_list__free_unpacked(list, NULL);
    return found;
}

int cmd_host_upgrade(struct context *context)
{
    const char *host = context->line->operands[0];
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct client *client;
    struct fault fault = {0};

    int r = client_of(context, &client, &fault);
    if (r == 0 && !is_host(client, host, &fault, &r) && r == 0) {
        r = fault_set(&fault, ERR_NOT_FOUND, "the pool has no host '%.63s'", host);
        fault_hint(&fault, "godwit host ls");
    }
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    AUTO_FREE const char **words = calloc(list->n_vms + 1, sizeof *words);
    size_t count = 0;
    for (size_t i = 0; words && i < list->n_vms; i++) {
        if (runs_on(list->vms[i], host))
            words[count++] = list->vms[i]->name;
    }
    int exit_code = EXIT_CODE_DONE;
    if (!words)
        exit_code = error_print_fault(context, (fault_set(&fault, ERR_NOMEM, "no memory"), &fault));
    else if (count == 0 && !context_is_machine(context))
        (void)fprintf(context->out, "No VM runs on %s: nothing to upgrade.\n", host);
    else
        exit_code = upgrade_all(context, client, words, count);
    godwit__vm_list__free_unpacked(list, NULL);
    return exit_code;
}

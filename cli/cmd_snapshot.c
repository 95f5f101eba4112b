#include "cli/cmd_snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "cli/client.h"
#include "cli/cmd_vm.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"
#include "proto/snapshot.pb-c.h"

enum { FILE_MS = 3600000, STOP_MS = 90000 }; /* as long as a large memory takes to a slow disk */

/* ---- how one looks ---- */
static const Godwit__SnapshotInfo *info_of(const ProtobufCMessage *row)
{
    return (const Godwit__SnapshotInfo *)row;
}

static void cell_what(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__SnapshotInfo *info = info_of(row);
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s%zu disk%s%s%s",
                   info->with_memory ? "memory, " : "", info->n_disks,
                   info->n_disks == 1 ? "" : "s", info->was_stopped ? ", at rest" : "",
                   info->is_external ? ", in files beside" : "");
}

static void cell_disks(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__SnapshotInfo *info = info_of(row);
    struct words words;
    words_init(&words, ret_cell, RENDER_CELL_SIZE);
    for (size_t i = 0; info->is_libvirt && i < info->n_disks; i++)
        words_say(&words, "%s%s", i ? ", " : "", words_or_dash(info->disks[i]->name));
    for (size_t i = 0; !info->is_libvirt && i < info->n_disks; i++)
        words_say(&words, "%s%s: %s/%s", i ? ", " : "", words_or_dash(info->disks[i]->name),
                  words_or_dash(info->disks[i]->folder), words_or_dash(info->disks[i]->clone));
}

static const struct render_column columns[] = {
    {.field = "name", .head = "SNAPSHOT"},
    {.field = "vm_name", .head = "VM"},
    {.field = "host", .head = "HOST"},
    {.field = "with_memory", .head = "HOLDS", .cell = cell_what},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "pause_ns", .head = "PAUSE", .unit = RENDER_DURATION},
    {.field = "created_unix_ms", .head = "TAKEN", .unit = RENDER_AGO},
    {.field = "took_ns", .head = "TOOK", .unit = RENDER_DURATION, .wide = true},
    {.field = "put_aside_pages", .head = "PUT ASIDE", .wide = true},
    {.field = "generation", .head = "GENERATION", .wide = true},
    {.field = "disks", .head = "DISKS", .cell = cell_disks, .wide = true},
    {.field = "libvirt_name", .head = "LIBVIRT'S NAME", .wide = true},
    {.field = "id", .head = "ID", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

static int show(struct context *context, const Godwit__SnapshotInfo *info)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    if (render_page(&options, &view, &info->base, &text, &fault) < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

/* ---- asking ---- */
static int call(struct context *context, Godwit__SnapshotRequest *request,
                Godwit__SnapshotVerb verb, Godwit__SnapshotReply **ret_reply, struct fault *fault)
{
    struct client *client;
    request->has_verb = true;
    request->verb = verb;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_SNAPSHOT, &request->base,
                        &godwit__snapshot_reply__descriptor, FILE_MS, ret_reply, fault);
    return r;
}

/* Gives the reply when the exit code is DONE. */
static int ask(struct context *context, const char *vm, const char *name, Godwit__SnapshotVerb verb,
               Godwit__SnapshotReply **ret_reply)
{
    Godwit__SnapshotRequest request = GODWIT__SNAPSHOT_REQUEST__INIT;
    Godwit__SnapshotReply *reply = NULL;
    struct fault fault = {0};
    request.vm = (char *)(uintptr_t)vm; /* only read, as the next */
    request.name = (char *)(uintptr_t)name;
    request.has_disks_only = request.has_with_memory = true;
    bool restores = strcmp(context->line->command->words, "vm snapshot restore") == 0;
    request.has_shallow = request.shallow = verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_CHECK &&
                                            restores && command_flag(context->line, "lazy");
    request.disks_only = verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_CREATE &&
                         strcmp(context->line->command->words, "vm snapshot create") == 0 &&
                         command_flag(context->line, "disks-only");
    request.with_memory = verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_CREATE &&
                          strcmp(context->line->command->words, "vm snapshot create") == 0 &&
                          command_flag(context->line, "ram");
    if (call(context, &request, verb, &reply, &fault) < 0)
        return error_print_fault(context, &fault);
    if (reply->error) {
        int exit_code = error_print(context, reply->error);
        godwit__snapshot_reply__free_unpacked(reply, NULL);
        return exit_code;
    }
    *ret_reply = reply;
    return EXIT_CODE_DONE;
}

static int tell_taken(struct context *context, const Godwit__SnapshotInfo *info)
{
    char pause[UNITS_TEXT_SIZE], took[UNITS_TEXT_SIZE], bytes[UNITS_TEXT_SIZE];
    units_print_duration(info->pause_ns, pause);
    units_print_duration(info->took_ns, took);
    units_print_bytes(info->memory_bytes, bytes);
    if (context_is_machine(context))
        return show(context, info);
    if (info->was_stopped)
        (void)fprintf(context->out, "snapshot %s of %s on %s: %zu disks, at rest\n", info->name,
                      info->vm_name, info->host, info->n_disks);
    else if (info->is_libvirt)
        (void)fprintf(context->out,
                      "snapshot %s of %s on %s: memory and %zu disks, in its disks, in %s, while the guest stood "
                      "still\n",
                      info->name, info->vm_name, info->host, info->n_disks, took);
    else if (info->with_memory)
        (void)fprintf(context->out,
                      "snapshot %s of %s on %s: %s of memory, %zu disks, in %s; the guest stood "
                      "still for %s\n",
                      info->name, info->vm_name, info->host, bytes, info->n_disks, took, pause);
    else
        (void)fprintf(context->out,
                      "snapshot %s of %s on %s: %zu disks as after a loss of power; the guest "
                      "stood still for %s\n",
                      info->name, info->vm_name, info->host, info->n_disks, pause);
    return EXIT_CODE_DONE;
}

static int take(struct context *context, const char *vm, const char *name)
{
    Godwit__SnapshotReply *reply = NULL;
    int exit_code = ask(context, vm, name, GODWIT__SNAPSHOT_VERB__SNAPSHOT_CREATE, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (reply->n_snapshots == 1)
        exit_code = tell_taken(context, reply->snapshots[0]);
    godwit__snapshot_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_snapshot_create(struct context *context)
{
    const struct command_line *line = context->line;
    return take(context, line->operands[0], line->operand_count > 1 ? line->operands[1] : NULL);
}

/* ---- looking ---- */
static int fetch(struct context *context, ProtobufCMessage **ret_reply,
                 const ProtobufCMessage *const **ret_rows, size_t *ret_count, struct fault *fault)
{
    const struct command_line *line = context->line;
    Godwit__SnapshotRequest request = GODWIT__SNAPSHOT_REQUEST__INIT;
    Godwit__SnapshotReply *reply = NULL;
    if (line->operand_count > 0)
        request.vm = (char *)(uintptr_t)line->operands[0]; /* only read */
    int r = call(context, &request, GODWIT__SNAPSHOT_VERB__SNAPSHOT_LIST, &reply, fault);
    if (r == 0 && reply->error) {
        r = fault_set(fault, ERR_NOT_FOUND, "%s",
                      reply->error->message ? reply->error->message : "no such VM");
        if (reply->error->hint)
            fault_hint(fault, "%s", reply->error->hint);
        godwit__snapshot_reply__free_unpacked(reply, NULL);
    }
    if (r < 0)
        return r;
    *ret_reply = &reply->base;
    *ret_rows = (const ProtobufCMessage *const *)reply->snapshots;
    *ret_count = reply->n_snapshots;
    return 0;
}

int cmd_snapshot_ls(struct context *context)
{
    static const struct listing listing = {.view = &view,
                                           .nothing = "No snapshots: godwit vm snapshot create VM",
                                           .fetch = fetch};
    return listing_run(context, &listing);
}

int cmd_snapshot_show(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__SnapshotReply *reply = NULL;
    int exit_code = ask(context, line->operands[0], line->operands[1],
                        GODWIT__SNAPSHOT_VERB__SNAPSHOT_LIST, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (reply->n_snapshots == 1)
        exit_code = show(context, reply->snapshots[0]);
    godwit__snapshot_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_snapshot_check(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__SnapshotReply *reply = NULL;
    int exit_code = ask(context, line->operands[0], line->operands[1],
                        GODWIT__SNAPSHOT_VERB__SNAPSHOT_CHECK, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    godwit__snapshot_reply__free_unpacked(reply, NULL);
    if (!context_is_machine(context))
        (void)fprintf(context->out, "snapshot %s of %s is whole\n", line->operands[1],
                      line->operands[0]);
    return EXIT_CODE_DONE;
}

/* ---- going back ---- */
static int act(struct context *context, const char *vm, Godwit__VmVerb verb, const char *snapshot,
               Godwit__ActionReply **ret_reply)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)(uintptr_t)vm; /* only read, as the snapshot */
    request.has_verb = true;
    request.verb = verb;
    request.snapshot = (char *)(uintptr_t)snapshot;
    request.has_lazy = request.lazy =
        verb == GODWIT__VM_VERB__VM_VERB_RESTORE && command_flag(context->line, "lazy");
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_ACTION, &request.base, &godwit__action_reply__descriptor,
                        snapshot ? FILE_MS : STOP_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    if (reply->error) {
        int exit_code = error_print(context, reply->error);
        godwit__action_reply__free_unpacked(reply, NULL);
        return exit_code;
    }
    *ret_reply = reply;
    return EXIT_CODE_DONE;
}

enum rest { RUNS, RESTS, RESTS_IN_FILE };

static int ask_rest(struct context *context, const char *vm, enum rest *ret_rest)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)(uintptr_t)vm; /* only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    const char *state = list->n_vms == 1 && list->vms[0]->state ? list->vms[0]->state : "";
    *ret_rest = strcmp(state, "stopped") == 0 || strcmp(state, "crashed") == 0 ? RESTS
                : strcmp(state, "suspended") == 0                             ? RESTS_IN_FILE
                                                                              : RUNS;
    godwit__vm_list__free_unpacked(list, NULL);
    return EXIT_CODE_DONE;
}

static int confirm(struct context *context, const char *vm, const char *name, const char *keep)
{
    char question[256];
    struct fault fault = {0};
    (void)snprintf(question, sizeof question, "%s goes back to snapshot %s; what it is now %s%s. Go on?",
                   vm, name, keep ? "is kept as " : "is lost (--keep NAME keeps it)",
                   keep ? keep : "");
    if (context_confirm(context, question))
        return EXIT_CODE_DONE;
    (void)fault_set(&fault, ERR_REFUSED, "nobody said yes; nothing was changed");
    fault_hint(&fault, "godwit vm snapshot restore -y %s %s", vm, name);
    return error_print_fault(context, &fault);
}

/* Everything that can be known before is asked before: the guest is stopped when it is sure. */
int cmd_snapshot_restore(struct context *context)
{
    const char *vm = context->line->operands[0], *name = context->line->operands[1];
    const char *keep = command_text(context->line, "keep");
    Godwit__SnapshotReply *checked = NULL;
    Godwit__ActionReply *stopped = NULL, *restored = NULL;
    enum rest rest = RUNS;
    bool lazy;

    int exit_code = cmd_vm_read_lazy(context, &lazy);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = ask(context, vm, name, GODWIT__SNAPSHOT_VERB__SNAPSHOT_CHECK, &checked);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = confirm(context, vm, name, keep);
    if (exit_code == EXIT_CODE_DONE && keep)
        exit_code = take(context, vm, keep);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = ask_rest(context, vm, &rest);
    if (exit_code == EXIT_CODE_DONE && rest != RESTS)
        exit_code = act(context, vm, GODWIT__VM_VERB__VM_VERB_STOP, NULL, &stopped);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = act(context, vm, GODWIT__VM_VERB__VM_VERB_RESTORE, name, &restored);
    if (exit_code == EXIT_CODE_DONE && !context_is_machine(context))
        (void)fprintf(context->out, "%s is back at snapshot %s, as generation %llu\n", vm, name,
                      (unsigned long long)(restored->vm ? restored->vm->generation : 0));
    if (checked)
        godwit__snapshot_reply__free_unpacked(checked, NULL);
    if (stopped)
        godwit__action_reply__free_unpacked(stopped, NULL);
    if (restored)
        godwit__action_reply__free_unpacked(restored, NULL);
    return exit_code;
}

/* ---- a VM of its own ---- */
static int tell_clone(struct context *context, const Godwit__VmInfo *vm)
{
    const struct command_line *line = context->line;
    const char *bridge = command_text(line, "nic-bridge");
    size_t nics = vm && vm->spec ? vm->spec->n_nics : 0;

    if (context_is_machine(context))
        return vm ? cmd_vm_tell(context, vm, NULL) : EXIT_CODE_DONE;
    (void)fprintf(context->out, "%s runs on %s, from snapshot %s of %s%s", line->operands[2],
                  vm && vm->host ? vm->host : "its host", line->operands[1], line->operands[0],
                  vm && vm->state && strcmp(vm->state, "paused") == 0 ? ", paused as that was" : "");
    if (nics > 0)
        (void)fprintf(context->out, "; its %zu nic%s %s%s", nics, nics == 1 ? " is" : "s are",
                      bridge ? "on " : "unplugged", bridge ? bridge : "");
    (void)fputc('\n', context->out);
    return EXIT_CODE_DONE;
}

int cmd_snapshot_clone(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__SnapshotCloneRequest request = GODWIT__SNAPSHOT_CLONE_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};

    request.vm = (char *)(uintptr_t)line->operands[0]; /* only read, as the next */
    request.snapshot = (char *)(uintptr_t)line->operands[1];
    request.name = (char *)(uintptr_t)line->operands[2];
    request.bridge = (char *)(uintptr_t)command_text(line, "nic-bridge");
    request.has_cold = true;
    request.cold = command_flag(line, "cold");
    bool lazy;
    int exit_code = cmd_vm_read_lazy(context, &lazy);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    request.has_lazy = request.lazy = lazy;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_SNAPSHOT_CLONE, &request.base,
                        &godwit__action_reply__descriptor, FILE_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    exit_code = reply->error ? error_print(context, reply->error) : tell_clone(context, reply->vm);
    godwit__action_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* ---- removing ---- */
static int remove_one(struct context *context, const char *vm, const char *name)
{
    Godwit__SnapshotReply *reply = NULL;
    int exit_code = ask(context, vm, name, GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    godwit__snapshot_reply__free_unpacked(reply, NULL);
    if (!context_is_machine(context))
        (void)fprintf(context->out, "snapshot %s of %s is removed\n", name, vm);
    return EXIT_CODE_DONE;
}

int cmd_snapshot_rm(struct context *context)
{
    const struct command_line *line = context->line;
    struct fault fault = {0};
    if (!context_confirm(context, "Remove the snapshot for good?")) {
        (void)fault_set(&fault, ERR_REFUSED, "nobody said yes; nothing was changed");
        fault_hint(&fault, "godwit vm snapshot rm -y %s %s", line->operands[0], line->operands[1]);
        return error_print_fault(context, &fault);
    }
    int exit_code = EXIT_CODE_DONE;
    for (size_t i = 1; i < line->operand_count && exit_code == EXIT_CODE_DONE; i++)
        exit_code = remove_one(context, line->operands[0], line->operands[i]);
    return exit_code;
}

static int make_stopped(struct context *context, const char *vm, bool and_stop)
{
    Godwit__ActionReply *stopped = NULL;
    struct fault fault = {0};
    enum rest rest = RUNS;
    int exit_code = ask_rest(context, vm, &rest);
    if (exit_code != EXIT_CODE_DONE || rest != RUNS)
        return exit_code;
    if (!and_stop) {
        (void)fault_set(&fault, ERR_STATE, "%s is not stopped; it and its snapshots stay", vm);
        fault_hint(&fault, "godwit vm rm %s --stop --with-snapshots", vm);
        return error_print_fault(context, &fault);
    }
    exit_code = act(context, vm, GODWIT__VM_VERB__VM_VERB_STOP, NULL, &stopped);
    if (stopped)
        godwit__action_reply__free_unpacked(stopped, NULL);
    return exit_code;
}

/* Before anything is stopped: one that stays would have stopped its VM for nothing. */
static int judge_rm_all(struct context *context, const char *vm)
{
    Godwit__SnapshotReply *all = NULL;
    int exit_code = ask(context, vm, NULL, GODWIT__SNAPSHOT_VERB__SNAPSHOT_LIST, &all);
    for (size_t i = 0; exit_code == EXIT_CODE_DONE && i < all->n_snapshots; i++) {
        Godwit__SnapshotReply *reply = NULL;
        exit_code = ask(context, vm, all->snapshots[i]->name,
                        GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE_CHECK, &reply);
        if (reply)
            godwit__snapshot_reply__free_unpacked(reply, NULL);
    }
    if (all)
        godwit__snapshot_reply__free_unpacked(all, NULL);
    return exit_code;
}

int cmd_snapshot_rm_all(struct context *context, const char *vm, bool and_stop)
{
    Godwit__SnapshotReply *reply = NULL;
    int exit_code = judge_rm_all(context, vm);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = make_stopped(context, vm, and_stop);
    if (exit_code == EXIT_CODE_DONE)
        exit_code = ask(context, vm, NULL, GODWIT__SNAPSHOT_VERB__SNAPSHOT_LIST, &reply);
    for (size_t i = 0; exit_code == EXIT_CODE_DONE && i < reply->n_snapshots; i++)
        exit_code = remove_one(context, vm, reply->snapshots[i]->name);
    if (reply)
        godwit__snapshot_reply__free_unpacked(reply, NULL);
    return exit_code;
}

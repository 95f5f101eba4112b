#include "cli/cmd_up.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/transfer_bar.h"
#include "cli/up_core.h"
#include "cli/up_file.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { ACTION_MS = 60000, DISKS_MS = 2400000 };

struct up { /* one run */
    struct context *context;
    struct client *client;
    struct transfer_bar bar;
    struct up_file file;
    struct up_step *steps; /* owned; one for each spec */
    Godwit__VmList *lists[UP_VMS_MAX]; /* owned: what the pool told of each that is there */
    const Godwit__VmInfo *present[UP_VMS_MAX];
    size_t present_count;
};

static void up_deinit(struct up *up)
{
    for (size_t i = 0; i < up->present_count; i++)
        godwit__vm_list__free_unpacked(up->lists[i], NULL);
    up_file_deinit(&up->file);
    free(up->steps);
}

/* ---- what is there ---- */
static bool is_declared(const struct up *up, const char *name)
{
    for (size_t i = 0; i < up->file.count; i++) {
        if (name && strcmp(up->file.specs[i]->name, name) == 0)
            return true;
    }
    return false;
}

static int list_vms(struct up *up, const char *vm, Godwit__VmList **ret_list, struct fault *fault)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;

    request.vm = (char *)(uintptr_t)vm; /* only read */
    request.has_brief = request.brief = !vm;
    return client_call(up->client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                       CLIENT_CALL_MS, ret_list, fault);
}

/* By their ids: a name that is not there could be the beginning of another. */
static int look(struct up *up, struct fault *fault)
{
    Godwit__VmList *all = NULL;

    int r = list_vms(up, NULL, &all, fault);
    for (size_t i = 0; r == 0 && i < all->n_vms; i++) {
        const Godwit__VmInfo *vm = all->vms[i];
        Godwit__VmList *one = NULL;
        if (vm->unadopted || !vm->name || !is_declared(up, vm->name) ||
            up->present_count == UP_VMS_MAX)
            continue;
        r = list_vms(up, vm->id && vm->id[0] ? vm->id : vm->name, &one, fault);
        if (r == ERR_NOT_FOUND) { /* removed meanwhile */
            *fault = (struct fault){0};
            r = 0;
        } else if (r == 0 && one->n_vms != 1) {
            godwit__vm_list__free_unpacked(one, NULL);
        } else if (r == 0) {
            up->lists[up->present_count] = one;
            up->present[up->present_count++] = one->vms[0];
        }
    }
    if (all)
        godwit__vm_list__free_unpacked(all, NULL);
    return r;
}

static int begin(struct up *up, struct context *context, bool destroys, struct fault *fault)
{
    const char *path = command_text(context->line, "file");

    up->context = context;
    transfer_bar_init(&up->bar, context);
    int r = up_file_read(path ? path : "godwit.yaml", &up->file, fault);
    if (r == ERR_NOT_FOUND && !path)
        fault_hint(fault, "godwit up -f FILE");
    if (r == 0)
        r = client_of(context, &up->client, fault);
    if (r == 0)
        r = look(up, fault);
    if (r < 0)
        return r;
    up->steps = calloc(up->file.count, sizeof *up->steps);
    if (!up->steps)
        return fault_set(fault, ERR_NOMEM, "no memory for what is to be done");
    const Godwit__VmSpec *const *declared = (const Godwit__VmSpec *const *)up->file.specs;
    if (destroys)
        up_core_plan_destroy(declared, up->file.count, up->present, up->present_count, up->steps);
    else
        up_core_plan(declared, up->file.count, up->present, up->present_count, up->steps);
    return 0;
}

/* ---- telling ---- */
static void tell_diff(const struct up *up, const struct up_step *step)
{
    for (const char *line = step->diff; *line;) {
        size_t length = strcspn(line, "\n");
        (void)fprintf(up->context->out, "    %.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
}

static void tell_kept(const struct up *up, const struct up_step *step)
{
    if (step->diff[0])
        (void)fprintf(up->context->out,
                      "%s is %s and differs from the file; it is left as it is\n", step->name,
                      step->state);
    else
        (void)fprintf(up->context->out, "%s is %s, as declared\n", step->name, step->state);
    tell_diff(up, step);
}

static int tell_reply(struct up *up, const struct up_step *step, Godwit__ActionReply *reply,
                      const char *did)
{
    const Godwit__VmInfo *vm = reply->vm;
    int exit_code = reply->error ? error_print(up->context, reply->error) : EXIT_CODE_DONE;

    if (exit_code == EXIT_CODE_DONE)
        (void)fprintf(up->context->out, "%s %s%s%s%s%s\n", step->name, did, vm ? ", " : "",
                      vm && vm->state ? vm->state : "", vm && vm->host && vm->host[0] ? " on " : "",
                      vm && vm->host ? vm->host : "");
    (void)fflush(up->context->out);
    godwit__action_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* ---- doing ---- */
static int call(struct up *up, uint16_t method, const ProtobufCMessage *request, bool makes_disks,
                const struct up_step *step, const char *did)
{
    Godwit__ActionReply *reply = NULL;
    struct fault fault = {0};

    transfer_bar_listen(&up->bar, up->client);
    int r = client_call(up->client, method, request, &godwit__action_reply__descriptor,
                        makes_disks ? DISKS_MS : ACTION_MS, &reply, &fault);
    client_listen(up->client, NULL);
    transfer_bar_clear(&up->bar);
    return r < 0 ? error_print_fault(up->context, &fault) : tell_reply(up, step, reply, did);
}

static int act(struct up *up, const struct up_step *step, Godwit__VmVerb verb, const char *did)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    bool starts = verb == GODWIT__VM_VERB__VM_VERB_START;

    /* What was looked at and told, or nothing: a name that is gone meanwhile may begin another's. */
    request.vm = (char *)(uintptr_t)(step->vm_id ? step->vm_id : step->name); /* only read */
    request.has_verb = true;
    request.verb = verb;
    request.has_and_stop = request.and_stop = !starts;
    return call(up, METHOD_VM_ACTION, &request.base,
                starts && vm_spec_has_clones(up->file.specs[step->declared]), step, did);
}

static int take(struct up *up, const struct up_step *step)
{
    Godwit__VmCreateRequest request = GODWIT__VM_CREATE_REQUEST__INIT;

    switch (step->action) {
    case UP_CREATE:
        request.spec = up->file.specs[step->declared];
        return call(up, METHOD_VM_CREATE_IN_POOL, &request.base, vm_spec_has_clones(request.spec),
                    step, "is created");
    case UP_START: {
        int exit_code = act(up, step, GODWIT__VM_VERB__VM_VERB_START, "is started");
        if (step->diff[0])
            (void)fprintf(up->context->out, "%s differs from the file; it is left as it is\n",
                          step->name);
        tell_diff(up, step);
        return exit_code;
    }
    case UP_KEEP:
        tell_kept(up, step);
        return EXIT_CODE_DONE;
    case UP_REMOVE:
        return act(up, step, GODWIT__VM_VERB__VM_VERB_RM, "is removed");
    case UP_ABSENT:
        return EXIT_CODE_DONE;
    }
    return EXIT_CODE_FAILED;
}

/* One that fails does not keep the others from being done. */
static int take_all(struct up *up)
{
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0, done = 0;

    for (size_t i = 0; i < up->file.count; i++) {
        int exit_code = take(up, &up->steps[i]);
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        } else {
            done++;
        }
    }
    return failed > 0 && done > 0 ? EXIT_CODE_PARTLY : failed_with;
}

static size_t count_of(const struct up *up, enum up_action action)
{
    size_t count = 0;

    for (size_t i = 0; i < up->file.count; i++)
        count += up->steps[i].action == action;
    return count;
}

/* ---- the commands ---- */
static int run(struct context *context, bool destroys, int (*go_on)(struct up *up))
{
    struct up *up = calloc(1, sizeof *up);
    struct fault fault = {0};

    if (!up)
        return error_print_fault(context, (fault_set(&fault, ERR_NOMEM, "no memory"), &fault));
    int r = begin(up, context, destroys, &fault);
    int exit_code = r < 0 ? error_print_fault(context, &fault) : go_on(up);
    up_deinit(up);
    free(up);
    return exit_code;
}

int cmd_up(struct context *context)
{
    return run(context, false, take_all);
}

static int show_diff(struct up *up)
{
    size_t differs = 0;

    for (size_t i = 0; i < up->file.count; i++) {
        const struct up_step *step = &up->steps[i];
        const char *would = step->action == UP_CREATE  ? "is not there; up creates it"
                            : step->action == UP_START ? "is down; up starts it"
                                                       : "differs; up leaves it as it is";
        if (step->action == UP_KEEP && !step->diff[0])
            continue;
        differs++;
        (void)fprintf(up->context->out, "%s %s\n", step->name, would);
        tell_diff(up, step);
    }
    if (differs == 0)
        (void)fprintf(up->context->talk, "%zu VMs are as declared\n", up->file.count);
    return differs ? EXIT_CODE_FAILED : EXIT_CODE_DONE;
}

int cmd_diff(struct context *context)
{
    return run(context, false, show_diff);
}

static int destroy_all(struct up *up)
{
    size_t count = count_of(up, UP_REMOVE);
    char question[160];
    struct fault fault = {0};

    if (count == 0) {
        (void)fputs("none of the VMs of the file is there\n", up->context->talk);
        return EXIT_CODE_DONE;
    }
    for (size_t i = 0; i < up->file.count; i++) {
        if (up->steps[i].action == UP_REMOVE)
            (void)fprintf(up->context->talk, "%s is %s\n", up->steps[i].name, up->steps[i].state);
    }
    (void)snprintf(question, sizeof question,
                   "Stop and remove these %zu VMs for good, with the disks made for them?", count);
    if (!context_confirm(up->context, question)) {
        (void)fault_set(&fault, ERR_REFUSED, "nobody said yes; nothing was changed");
        fault_hint(&fault, "godwit destroy -y");
        return error_print_fault(up->context, &fault);
    }
    return take_all(up);
}

int cmd_destroy(struct context *context)
{
    return run(context, true, destroy_all);
}

#include "cli/cmd_build.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/build_core.h"
#include "cli/build_file.h"
#include "cli/build_output.h"
#include "cli/build_script.h"
#include "cli/build_seal.h"
#include "cli/client.h"
#include "cli/cmd_image.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/transfer_bar.h"
#include "proto/agent.pb-c.h"
#include "proto/gw_code.h"
#include "proto/image.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum {
    TICK_MS = 250,
    LOOK_MS = 1000, /* how often the VM's state is asked for */
    TRY_MS = 500,
    AWAY_MS = 60000, /* the coordinator may be away for that long */
    MAKE_MS = 3600000,
    REMOVE_MS = 120000,
    TIMEOUT_MS_DEFAULT = 3600000,
    SEAL_MS = 3600000, /* a seal goes on for that long after its line broke */
    MARK_LETTERS = 6,
};

#define MEMORY_DEFAULT GIB(1)

struct build {
    struct context *context;
    struct client *client;
    const Godwit__BuildFile *file;
    struct build_core core;
    struct build_output output;
    char name[ID_NAME_MAX + 1]; /* of the VM */
    char vm[ID_NAME_MAX + 1];   /* its id once it is known: nobody else's */
    char meta_data[ID_NAME_MAX + 32];
    uint64_t session, looked_ms, step_ms;
    bool is_silent, is_broken, is_canceled, is_off;
    bool is_unknown; /* whether its image is there, and whose: its VM is the only other copy */
    struct loop_timer *timer;
    struct loop_signal *interrupt, *terminate;
};

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text; /* only read, of messages that are only sent */
}

/* ---- what the guest says ---- */
__attribute__((format(printf, 2, 3))) static void say(struct build *build, const char *format, ...)
{
    va_list args;

    if (build->is_silent)
        return;
    va_start(args, format);
    (void)vfprintf(build->context->talk, format, args);
    va_end(args);
    (void)fflush(build->context->talk);
}

static void tell_begin(struct build *build, unsigned step)
{
    char title[BUILD_TITLE_SIZE], shown[BUILD_TITLE_SIZE];

    build_file_title(build->file->steps[step - 1], title);
    build_output_clean(title, shown, sizeof shown);
    build_output_begin(&build->output);
    build->step_ms = world_now_ms();
    say(build, "==> step %u of %zu: %s\n", step, build->file->n_steps, shown);
}

static void tell(struct build *build, const struct build_todo *todo)
{
    char took[UNITS_TEXT_SIZE];

    switch (todo->news) {
    case BUILD_NEWS_HELLO:
        say(build, "==> %s is up\n", build->name);
        break;
    case BUILD_NEWS_BEGIN:
        tell_begin(build, todo->step);
        break;
    case BUILD_NEWS_OUTPUT:
        build_output_line(&build->output, todo->text, todo->lost);
        (void)fflush(build->context->talk);
        break;
    case BUILD_NEWS_END:
        units_print_duration((world_now_ms() - build->step_ms) * NS_PER_MS, took);
        say(build, "    done in %s\n", took);
        break;
    case BUILD_NEWS_UNTRIMMED:
        say(build, "==> fstrim cannot be done on its /: free blocks may hold what was deleted\n");
        break;
    case BUILD_NEWS_DONE:
        say(build, "==> all steps are done; it switches itself off\n");
        break;
    case BUILD_NEWS_OVER:
    case BUILD_NEWS_FAILED:
    case BUILD_NEWS_NONE:
        break;
    }
}

static void take(struct build *build, const uint8_t *bytes, size_t count)
{
    struct build_todo todo;

    for (size_t at = 0; at < count;) {
        at += build_core_take(&build->core, bytes + at, count - at, &todo);
        tell(build, &todo);
    }
}

static void on_event(void *data, uint16_t method, const ProtobufCMessage *message)
{
    struct build *build = data;
    const Godwit__VmConsoleData *event = (const Godwit__VmConsoleData *)message;

    /* Data may overtake the reply that names the session. */
    if (method != METHOD_VM_CONSOLE_DATA || (build->session && event->session != build->session))
        return;
    if (event->has_data)
        take(build, event->data.data, event->data.len);
    if (event->ended)
        build->looked_ms = 0; /* see what became of it now */
}

static void on_closed(void *data, const struct fault *fault)
{
    struct build *build = data;
    (void)fault;

    build->is_broken = true;
}

/* The next one is nobody's, so it ends the command at once. */
static void on_interrupt(void *data, int number)
{
    struct build *build = data;
    (void)number;

    build->is_canceled = true;
    build->interrupt = loop_signal_free(build->interrupt);
    build->terminate = loop_signal_free(build->terminate);
    (void)fprintf(build->context->talk,
                  "\ninterrupted: %s %s; once more leaves it: godwit vm rm --stop %s\n",
                  build->name,
                  command_flag(build->context->line, "keep") ? "stays" : "is being removed",
                  build->name);
}

static void on_tick(void *data)
{
    (void)data; /* that the loop turns */
}

/* ---- the coordinator ---- */
/* Waits until it answers; what is to be done then can be asked for again. */
static int reach(struct build *build, struct fault *fault)
{
    uint64_t began_ms = world_now_ms(), tried_ms = 0;
    int r = client_is_connected(build->client) ? 0 : ERR_UNREACHABLE;

    if (r < 0)
        say(build, "[the coordinator is away; trying again for %d s]\n", AWAY_MS / 1000);
    while (r < 0 && world_now_ms() - began_ms < AWAY_MS) {
        if (tried_ms == 0 || world_now_ms() - tried_ms >= TRY_MS) {
            tried_ms = world_now_ms();
            r = client_reconnect(build->client, fault);
        } else {
            client_turn(build->client);
        }
    }
    return r;
}

static void pause_a_moment(struct build *build)
{
    uint64_t began_ms = world_now_ms();

    while (world_now_ms() - began_ms < TRY_MS)
        client_turn(build->client); /* the timer turns it */
}

/* ---- the VM ---- */
static void describe(const struct build *build, const char *script, Godwit__VmSpec *spec,
                     Godwit__DiskSpec *root, Godwit__MemorySpec *memory,
                     Godwit__CloudInitSpec *seed)
{
    const Godwit__BuildFile *file = build->file;

    seed->user_data = text_of(script);
    seed->meta_data = text_of(build->meta_data);
    root->name = text_of("root");
    root->image = file->image;
    root->store = file->store;
    root->has_size = file->has_size;
    root->size = file->size;
    if (file->memory)
        *memory = *file->memory;
    if (!memory->has_size) {
        memory->has_size = true;
        memory->size = MEMORY_DEFAULT;
    }
    spec->has_version = spec->has_rng = spec->rng = true;
    spec->version = 1;
    spec->name = text_of(build->name);
    spec->host = file->host;
    spec->cpu = file->cpu;
    spec->memory = memory;
    spec->nics = file->nics;
    spec->n_nics = file->n_nics;
    spec->cmdline = file->cmdline;
    spec->cloud_init = seed;
}

static bool is_named(const Godwit__OperatorError *error, const char *name)
{
    return error && error->name && strcmp(error->name, name) == 0;
}

/* What was refused may be gone again, or stand there stopped. */
static bool is_there(struct build *build)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;

    request.vm = build->vm;
    int r = client_call(build->client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, NULL);
    if (list)
        godwit__vm_list__free_unpacked(list, NULL);
    return r != ERR_NOT_FOUND;
}

/* 0, a failure, or the exit code of what was refused and told. `ret_is_made`: there is something to
 * remove. */
static int make_vm(struct build *build, const char *script, bool *ret_is_made, struct fault *fault)
{
    Godwit__VmCreateRequest request = GODWIT__VM_CREATE_REQUEST__INIT;
    Godwit__CloudInitSpec seed = GODWIT__CLOUD_INIT_SPEC__INIT;
    Godwit__DiskSpec root = GODWIT__DISK_SPEC__INIT, *disks[] = {&root};
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__ActionReply *reply = NULL;
    struct transfer_bar bar;

    describe(build, script, &spec, &root, &memory, &seed);
    spec.disks = disks;
    spec.n_disks = 1;
    request.spec = &spec;
    transfer_bar_init(&bar, build->context);
    transfer_bar_listen(&bar, build->client);
    int r = client_call(build->client, METHOD_VM_CREATE_IN_POOL, &request.base,
                        &godwit__action_reply__descriptor, MAKE_MS, &reply, fault);
    client_listen(build->client, NULL);
    transfer_bar_clear(&bar);
    *ret_is_made = true;
    if (r < 0)
        return r;
    if (reply->error)
        *ret_is_made = !is_named(reply->error, "name-taken") && /* then it is another's */
                       is_there(build);
    if (reply->vm && reply->vm->id)
        (void)snprintf(build->vm, sizeof build->vm, "%s", reply->vm->id);
    int exit_code = reply->error ? error_print(build->context, reply->error) : EXIT_CODE_DONE;
    if (exit_code == EXIT_CODE_DONE)
        say(build, "==> %s boots from %s on %s\n", build->name, build->file->image,
            reply->vm && reply->vm->host ? reply->vm->host : "its host");
    godwit__action_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* Once. 0: it is gone, with its disk; else the words why not. */
static int remove_once(struct build *build, bool *ret_is_busy, struct fault *fault)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;

    request.vm = build->vm;
    request.has_verb = request.has_and_stop = request.and_stop = true;
    request.verb = GODWIT__VM_VERB__VM_VERB_RM;
    int r = reach(build, fault);
    if (r == 0)
        r = client_call(build->client, METHOD_VM_ACTION, &request.base,
                        &godwit__action_reply__descriptor, REMOVE_MS, &reply, fault);
    *ret_is_busy = r == 0 ? reply->error && reply->error->retryable : r == ERR_CLOSED;
    if (r == 0 && reply->error && !is_named(reply->error, "vm-unknown"))
        r = fault_set(fault, ERR_STATE, "%.300s",
                      reply->error->message ? reply->error->message : "");
    if (reply)
        godwit__action_reply__free_unpacked(reply, NULL);
    return r;
}

static void remove_vm(struct build *build)
{
    uint64_t began_ms = world_now_ms();
    struct fault fault = {0};
    bool is_busy = true;
    int r = ERR_BUSY;

    while (r < 0 && is_busy && world_now_ms() - began_ms < REMOVE_MS) {
        if (fault.code)
            pause_a_moment(build);
        r = remove_once(build, &is_busy, &fault);
    }
    if (r < 0)
        (void)fprintf(
            build->context->talk,
            "%s, which built it, could not be removed: %s\nhint: godwit vm rm --stop %s\n",
            build->name, fault.text, build->name);
}

/* ---- names ---- */
/* Of the image of that name; NULL: there is none. Gives the list it is in. */
static int find_image(struct build *build, const char *name, Godwit__ImageList **ret_list,
                      const Godwit__ImageInfo **ret_image, struct fault *fault)
{
    Godwit__ImageListRequest request = GODWIT__IMAGE_LIST_REQUEST__INIT;

    *ret_image = NULL;
    int r = client_call(build->client, METHOD_IMAGE_LIST, &request.base,
                        &godwit__image_list__descriptor, CLIENT_CALL_MS, ret_list, fault);
    for (size_t i = 0; r == 0 && i < (*ret_list)->n_images; i++) {
        const Godwit__ImageInfo *image = (*ret_list)->images[i];
        if (image->name && strcmp(image->name, name) == 0)
            *ret_image = image;
    }
    return r;
}

static int has_image(struct build *build, const char *name, bool *ret_has, struct fault *fault)
{
    Godwit__ImageList *list = NULL;
    const Godwit__ImageInfo *image = NULL;

    int r = find_image(build, name, &list, &image, fault);
    *ret_has = image != NULL;
    if (list)
        godwit__image_list__free_unpacked(list, NULL);
    return r;
}

static int name_taken(const struct build *build, struct fault *fault)
{
    int r = fault_set(fault, ERR_EXISTS, "there already is an image %s (%s %s)", build->file->name,
                      gw_code_row(GW_NAME_TAKEN)->label, gw_code_row(GW_NAME_TAKEN)->name);
    fault_hint(fault, "godwit image ls");
    return r;
}

/* Judged before a guest works for an hour. */
static int check_names(struct build *build, struct fault *fault)
{
    bool has_base = false, has_name = false;

    int r = has_image(build, build->file->image, &has_base, fault);
    if (r == 0)
        r = has_image(build, build->file->name, &has_name, fault);
    if (r < 0 || (has_base && !has_name))
        return r;
    if (has_name)
        return name_taken(build, fault);
    r = fault_set(fault, ERR_NOT_FOUND, "there is no image %s to build from (%s %s)",
                  build->file->image, gw_code_row(GW_IMAGE_UNKNOWN)->label,
                  gw_code_row(GW_IMAGE_UNKNOWN)->name);
    fault_hint(fault, "godwit image ls");
    return r;
}

/* ---- listening ---- */
static int open_session(struct build *build, struct fault *fault)
{
    Godwit__VmConsoleRequest request = GODWIT__VM_CONSOLE_REQUEST__INIT;
    Godwit__VmConsoleReply *reply = NULL;

    request.vm = build->vm;
    build->session = 0;
    build_core_attached(&build->core);
    int r = client_call(build->client, METHOD_VM_CONSOLE, &request.base,
                        &godwit__vm_console_reply__descriptor, CLIENT_CALL_MS, &reply, fault);
    if (r == ERR_STATE) /* it is off by now, and its log tells; or its host is away */
        return 0;
    if (r < 0)
        return r;
    build->session = reply->session;
    godwit__vm_console_reply__free_unpacked(reply, NULL);
    return 0;
}

/* What did not come by the console, because its session ended first. */
static void read_log(struct build *build)
{
    Godwit__VmLogsRequest request = GODWIT__VM_LOGS_REQUEST__INIT;
    Godwit__LogsReply *reply = NULL;

    request.vm = build->vm;
    request.has_tail_bytes = true;
    request.tail_bytes = LOG_TAIL_MAX;
    if (client_call(build->client, METHOD_VM_LOGS, &request.base, &godwit__logs_reply__descriptor,
                    CLIENT_CALL_MS, &reply, NULL) < 0)
        return;
    build_core_attached(&build->core);
    take(build, reply->data.data, reply->data.len);
    godwit__logs_reply__free_unpacked(reply, NULL);
}

static void ended(struct build *build, bool is_crash, const char *reason)
{
    struct build_todo todo;

    build->is_off = true;
    if (build->core.state == BUILD_BOOTS || build->core.state == BUILD_STEPS)
        read_log(build);
    build_core_ended(&build->core, is_crash, reason, &todo);
}

/* Is it off? What cannot be asked now is asked again. */
static void look(struct build *build)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct fault fault = {0};

    build->looked_ms = world_now_ms();
    request.vm = build->vm;
    int r = client_call(build->client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
    if (r == ERR_NOT_FOUND)
        ended(build, true, "its VM was removed");
    if (r < 0)
        return;
    const Godwit__VmInfo *vm = list->n_vms == 1 ? list->vms[0] : NULL;
    const char *state = vm && vm->state ? vm->state : "";
    bool is_crash = strcmp(state, "crashed") == 0;
    if (is_crash || strcmp(state, "stopped") == 0)
        ended(build, is_crash, vm->reason);
    godwit__vm_list__free_unpacked(list, NULL);
}

static int hear(struct build *build, struct fault *fault)
{
    struct build_todo todo;
    int r = 0;

    while (r == 0 && build->core.state != BUILD_OVER && build->core.state != BUILD_FAILED) {
        client_turn(build->client);
        if (build->is_canceled)
            return fault_set(fault, ERR_CANCELED, "interrupted");
        if (build->is_broken) {
            r = reach(build, fault);
            build->is_broken = false;
            if (r == 0)
                r = open_session(build, fault);
            if (r == ERR_CLOSED)
                r = 0; /* on_closed said so too */
        } else if (world_now_ms() - build->looked_ms >= LOOK_MS) {
            look(build);
            if (!build->session && build->core.state <= BUILD_ENDS && !build->is_broken)
                (void)open_session(build, NULL); /* its host was away */
        }
        build_core_tick(&build->core, world_now_ms(), &todo);
    }
    return r;
}

static int listen_on(struct build *build, struct fault *fault)
{
    const struct client_listener listener = {.event = on_event, .closed = on_closed, .data = build};

    client_listen(build->client, &listener);
    int r = open_session(build, fault);
    if (r == 0)
        r = hear(build, fault);
    client_listen(build->client, NULL);
    return r;
}

/* ---- sealing ---- */
static void remove_image(struct build *build, char *name)
{
    Godwit__ImageRemoveRequest request = GODWIT__IMAGE_REMOVE_REQUEST__INIT;
    Godwit__ImageReply *reply = NULL;
    struct fault fault = {0};

    request.name = name;
    int r = client_call(build->client, METHOD_IMAGE_REMOVE, &request.base,
                        &godwit__image_reply__descriptor, REMOVE_MS, &reply, &fault);
    if (r < 0 || reply->error)
        (void)fprintf(build->context->talk, "image %s is there: %s\nhint: godwit image rm %s\n",
                      name, r < 0 ? fault.text : reply->error->message, name);
    if (reply)
        godwit__image_reply__free_unpacked(reply, NULL);
}

static void drop_reply(Godwit__ImageReply **reply)
{
    if (*reply)
        godwit__image_reply__free_unpacked(*reply, NULL);
    *reply = NULL;
}

/* What is there, and what is to be done about it. The probe's name is the VM's. */
static int look_at_images(struct build *build, enum build_seal_next *ret_next, bool *ret_has_probe,
                          struct fault *fault)
{
    Godwit__ImageList *list = NULL;
    const Godwit__ImageInfo *image = NULL;

    int r = reach(build, fault);
    if (r == 0)
        r = find_image(build, build->file->name, &list, &image, fault);
    if (r == 0)
        *ret_next = build_seal_look(list, build->file->name, build->name, ret_has_probe);
    if (list)
        godwit__image_list__free_unpacked(list, NULL);
    return r;
}

/* Once: says what is next. A reply is left where it tells, or tells why it will not be known. */
static enum build_seal_answer seal_again(struct build *build, enum build_seal_next *ret_next,
                                         bool *ret_has_probe, Godwit__ImageReply **reply,
                                         struct fault *fault)
{
    int r = look_at_images(build, ret_next, ret_has_probe, fault);
    if (r < 0)
        return r == ERR_CLOSED ? BUILD_SEAL_LOOK : BUILD_SEAL_FAILED;
    if (*ret_next == BUILD_SEAL_OURS || *ret_next == BUILD_SEAL_OTHERS)
        return BUILD_SEAL_TOLD;
    r = cmd_image_seal_disk(build->context, build->vm, "root",
                            *ret_next == BUILD_SEAL_NAME ? build->file->name : build->name, reply,
                            fault);
    return build_seal_answered(*ret_next, r, *reply);
}

/* The line broke while it was sealed. 0: `next` says whose the image is, or NAME: the reply does. */
static int find_out(struct build *build, enum build_seal_next *ret_next, Godwit__ImageReply **reply,
                    struct fault *fault)
{
    uint64_t began_ms = world_now_ms(), away_ms = 0;
    enum build_seal_answer answer = BUILD_SEAL_LOOK;
    bool has_probe = false;

    say(build, "[the line broke while the disk became an image; looking what came of it]\n");
    while (answer != BUILD_SEAL_TOLD && answer != BUILD_SEAL_FAILED) {
        drop_reply(reply);
        *fault = (struct fault){0};
        answer = seal_again(build, ret_next, &has_probe, reply, fault);
        if (answer == BUILD_SEAL_TOLD || answer == BUILD_SEAL_FAILED)
            break;
        if (answer != BUILD_SEAL_AWAY)
            away_ms = 0;
        else if (away_ms == 0)
            away_ms = world_now_ms();
        if (world_now_ms() - began_ms >= SEAL_MS ||
            (away_ms && world_now_ms() - away_ms >= AWAY_MS))
            answer = BUILD_SEAL_FAILED;
        else
            pause_a_moment(build);
    }
    if (has_probe)
        remove_image(build, build->name);
    if (answer == BUILD_SEAL_TOLD)
        return 0;
    if (*reply && (*reply)->error && (*reply)->error->message)
        (void)fault_set(fault, ERR_STATE, "%.300s", (*reply)->error->message);
    else if (!fault->code)
        (void)fault_set(fault, ERR_TIMEOUT, "it was not known in time");
    drop_reply(reply);
    return fault_wrap(fault, fault->code, "whether %s became image %s is not known", build->name,
                      build->file->name);
}

/* An exit code. Where the line breaks meanwhile nobody knows what came of it: that is found out, for
 * an image of that name may be somebody else's. */
static int seal(struct build *build)
{
    enum build_seal_next next = BUILD_SEAL_NAME;
    Godwit__ImageReply *reply = NULL;
    struct fault fault = {0};

    int r =
        cmd_image_seal_disk(build->context, build->vm, "root", build->file->name, &reply, &fault);
    if (r == ERR_CLOSED || r == ERR_UNREACHABLE) {
        r = find_out(build, &next, &reply, &fault);
        build->is_unknown = r < 0;
    }
    if (r == 0 && next == BUILD_SEAL_OTHERS)
        r = name_taken(build, &fault);
    if (r < 0)
        return error_print_fault(build->context, &fault);
    bool is_refused = reply && reply->error;
    if (build->is_canceled && !is_refused) {
        remove_image(build, build->file->name);
        drop_reply(&reply);
        (void)fault_set(&fault, ERR_CANCELED, "interrupted");
        (void)error_print_fault(build->context, &fault);
        return EXIT_CODE_DETACHED;
    }
    if (reply)
        return cmd_image_tell(build->context, reply);
    say(build, "==> image %s is made\n", build->file->name);
    return EXIT_CODE_DONE;
}

/* ---- all of it ---- */
static int start(struct build *build, struct fault *fault)
{
    struct loop *loop = client_loop(build->client);

    int r = loop_timer_new(&build->timer, loop, on_tick, build, fault);
    if (r == 0)
        r = loop_signal_new(&build->interrupt, loop, SIGINT, on_interrupt, build, fault);
    if (r == 0)
        r = loop_signal_new(&build->terminate, loop, SIGTERM, on_interrupt, build, fault);
    if (r == 0)
        loop_timer_start(build->timer, TICK_MS, TICK_MS);
    return r;
}

static void stop(struct build *build)
{
    if (build->timer)
        build->timer = loop_timer_free(build->timer);
    build->interrupt = loop_signal_free(build->interrupt);
    build->terminate = loop_signal_free(build->terminate);
}

/* The guest's last words stand above it, or are told with it where nothing was shown. */
static int tell_failed(struct build *build, const struct fault *fault, bool is_kept)
{
    Godwit__OperatorError error = GODWIT__OPERATOR_ERROR__INIT;
    const struct gw_code_row *row = gw_code_row(GW_BUILD_FAILED);
    char *lines[BUILD_TAIL_LINES], state[2 * ID_NAME_MAX], hint[2 * ID_NAME_MAX];

    if (!build->output.out || context_is_machine(build->context)) {
        error.n_details = build_output_tail(&build->output, lines);
        error.details = lines;
    }
    (void)snprintf(hint, sizeof hint, "godwit vm %s %s", build->is_off ? "logs" : "console",
                   build->name);
    (void)snprintf(state, sizeof state, "%s",
                   !is_kept        ? "removed, with its disk"
                   : build->is_off ? "off, kept"
                                   : "running, kept");
    error.code = text_of(row->label);
    error.name = text_of(row->name);
    error.message = text_of(fault->text);
    error.vm_state = state;
    error.hint = is_kept ? hint : NULL;
    error.has_retryable = true;
    return error_print(build->context, &error);
}

/* An exit code. */
static int run(struct build *build, const char *script)
{
    struct fault fault = {0};
    bool keep = command_flag(build->context->line, "keep"), is_made = false;

    int r = start(build, &fault);
    if (r == 0)
        r = check_names(build, &fault);
    if (r < 0)
        return error_print_fault(build->context, &fault);
    r = make_vm(build, script, &is_made, &fault);
    int exit_code = r > 0 ? r : EXIT_CODE_DONE; /* refused, and told */
    if (r == 0)
        r = listen_on(build, &fault);
    if (r == 0 && build->core.state == BUILD_OVER)
        exit_code = seal(build);
    bool is_failed = r != 0 || exit_code != EXIT_CODE_DONE || build->core.state == BUILD_FAILED;
    bool is_kept = (keep && is_failed && is_made) || build->is_unknown;
    if (is_made && !is_kept)
        remove_vm(build);
    if (r == 0 && build->core.state == BUILD_FAILED)
        return tell_failed(build, &build->core.fault, is_kept);
    if (r < 0)
        exit_code = error_print_fault(build->context, &fault);
    if (is_kept)
        (void)fprintf(build->context->talk,
                      "%s is kept: godwit vm show %s, godwit vm rm --stop %s\n", build->name,
                      build->name, build->name);
    return r == ERR_CANCELED ? EXIT_CODE_DETACHED : exit_code;
}

static void prepare(struct build *build, const Godwit__BuildFile *file, const char *token)
{
    const char *how = command_text(build->context->line, "progress");
    char mark[ID_TEXT_SIZE];

    id_random(mark); /* its own: names are no secret, the token is one */
    (void)snprintf(build->name, sizeof build->name, "build-%.*s-%.*s",
                   ID_NAME_MAX - MARK_LETTERS - (int)sizeof "build--", file->name, MARK_LETTERS,
                   mark);
    memcpy(build->vm, build->name, sizeof build->vm);
    /* No local-hostname: the image keeps its own name, cloud-init would leave the VM's in it. */
    (void)snprintf(build->meta_data, sizeof build->meta_data, "instance-id: %s\n", build->name);
    build->file = file;
    build->is_silent = how && (strcmp(how, "none") == 0 || strcmp(how, "json") == 0);
    build->output.out = build->is_silent ? NULL : build->context->talk;
    build_core_init(&build->core, token, (unsigned)file->n_steps, world_now_ms(),
                    file->has_timeout_ms ? file->timeout_ms : TIMEOUT_MS_DEFAULT);
}

int cmd_build(struct context *context)
{
    Godwit__BuildFile *file = NULL;
    struct build build = {.context = context};
    AUTO_FREE char *script = NULL;
    const char *path = command_text(context->line, "file");
    char token[ID_TEXT_SIZE];
    struct fault fault = {0};
    int exit_code = EXIT_CODE_DONE;

    id_random(token);
    int r = path ? build_file_read(path, &file, &fault)
                 : fault_set(&fault, ERR_INVALID, "say what is to be built: -f build.yaml");
    if (r == 0)
        r = build_script_make(file, token, &script, &fault);
    if (r == 0)
        r = client_of(context, &build.client, &fault);
    if (r == 0) {
        prepare(&build, file, token);
        exit_code = run(&build, script);
        stop(&build);
    } else {
        exit_code = error_print_fault(context, &fault);
    }
    if (file)
        godwit__build_file__free_unpacked(file, NULL);
    return exit_code;
}

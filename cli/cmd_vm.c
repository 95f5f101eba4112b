#include "cli/cmd_vm.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/cmd_snapshot.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "cli/transfer_bar.h"
#include "cli/vm_spec_file.h"
#include "cli/vm_spec_schema.h"
#include "proto/gw_code.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"
#include "proto/vm_spec.h"

enum { ACTION_MS = 60000, FILE_MS = 2400000, STOP_LOOK_MS = 250 };

static const struct render_column columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "state", .head = "STATE"},
    {.field = "host", .head = "HOST"},
    {.field = "vcpus", .head = "VCPUS"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "backend", .head = "BACKEND"},
    {.field = "memory_populated", .head = "IN USE", .unit = RENDER_BYTES, .wide = true},
    {.field = "baseline", .head = "BASELINE", .wide = true},
    {.field = "job", .head = "JOB"},
    {.field = "generation", .head = "GENERATION", .wide = true},
    {.field = "record_phase", .head = "RECORD", .wide = true},
    {.field = "vcpu_cpu_ns", .head = "CPU TIME", .unit = RENDER_DURATION, .wide = true},
    {.field = "unadopted", .head = "UNADOPTED", .wide = true},
    {.field = "pid", .head = "PID", .wide = true},
    {.field = "id", .head = "ID", .wide = true},
    {.field = "reason", .head = "REASON", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

static const struct render_column page_columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "state", .head = "STATE"},
    {.field = "reason", .head = "REASON"},
    {.field = "host", .head = "HOST"},
    {.field = "vcpus", .head = "VCPUS"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "memory_populated", .head = "IN USE", .unit = RENDER_BYTES},
    {.field = "backend", .head = "BACKEND"},
    {.field = "baseline", .head = "BASELINE"},
    {.field = "spec.kernel", .head = "KERNEL"},
    {.field = "spec.initrd", .head = "INITRD"},
    {.field = "spec.cmdline", .head = "CMDLINE"},
    {.field = "job", .head = "JOB"},
    {.field = "generation", .head = "GENERATION"},
    {.field = "record_phase", .head = "RECORD"},
    {.field = "vcpu_cpu_ns", .head = "CPU TIME", .unit = RENDER_DURATION},
    {.field = "pid", .head = "PID"},
    {.field = "version", .head = "VERSION"},
    {.field = "id", .head = "ID"},
};
static const struct render_view page_view = {
    .columns = page_columns, .count = ARRAY_COUNT(page_columns), .name_field = "name"};

static int fetch(struct context *context, bool with_counters, ProtobufCMessage **ret_reply,
                 const ProtobufCMessage *const **ret_rows, size_t *ret_count, struct fault *fault)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct client *client;
    const struct command_line *line = context->line;
    if (line->operand_count > 0)
        request.vm = (char *)line->operands[0]; /* only read */
    request.has_with_counters = request.with_counters = with_counters;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->vms;
    *ret_count = list->n_vms;
    return 0;
}

static int fetch_vms(struct context *context, ProtobufCMessage **ret_reply,
                     const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                     struct fault *fault)
{
    return fetch(context, false, ret_reply, ret_rows, ret_count, fault);
}

int cmd_vm_ls(struct context *context)
{
    static const struct listing listing = {.view = &view,
                                           .nothing =
                                               "The pool has no VMs yet: godwit vm create --help",
                                           .fetch = fetch_vms};
    return listing_run(context, &listing);
}

/* Texts of a spec as they are, but for letters that would do something to a terminal. */
static void put_words(FILE *out, const char *words)
{
    for (const char *at = words ? words : ""; *at; at++)
        (void)fputc((unsigned char)*at < ' ' || *at == 0x7f ? '?' : *at, out);
}

static void print_disk(FILE *out, const Godwit__DiskSpec *disk)
{
    bool in_store = disk->store && disk->store[0];
    put_words(out, disk->name);
    (void)fputs(": ", out);
    put_words(out, in_store ? disk->file : disk->path);
    if (in_store) {
        (void)fputs(" in ", out);
        put_words(out, disk->pool_store && disk->pool_store[0] ? disk->pool_store : disk->store);
    }
    if (vm_spec_disk_is_clone(disk)) {
        (void)fputs(", from image ", out);
        put_words(out, disk->image);
    }
    (void)fprintf(out, "%s%s%s\n", disk->shared ? ", shared" : "",
                  disk->read_only ? ", read only" : "",
                  vm_spec_disk_waits(disk) ? ", an error pauses" : "");
}

static void print_nic(FILE *out, const Godwit__NicSpec *nic)
{
    put_words(out, nic->mac);
    (void)fputs(nic->unplugged ? ", unplugged" : " on ", out);
    put_words(out, nic->unplugged ? "" : nic->bridge);
    if (nic->queues > 1)
        (void)fprintf(out, ", %u queues", nic->queues);
    (void)fputc('\n', out);
}

/* "12,034 reads (47 MiB)". */
static void print_count(FILE *out, uint64_t count, const char *what, uint64_t bytes)
{
    char number[UNITS_TEXT_SIZE], size[UNITS_TEXT_SIZE];
    units_print_count(count, number);
    units_print_bytes(bytes, size);
    (void)fprintf(out, "%s %s (%s)", number, what, size);
}

static void print_disk_counters(FILE *out, const Godwit__DiskCounters *disk)
{
    char flushes[UNITS_TEXT_SIZE], errors[UNITS_TEXT_SIZE];
    units_print_count(disk->flushes, flushes);
    units_print_count(disk->errors + disk->refused, errors);
    (void)fputs("      ", out);
    print_count(out, disk->reads, "reads", disk->read_bytes);
    (void)fputs(", ", out);
    print_count(out, disk->writes, "writes", disk->written_bytes);
    (void)fprintf(out, ", %s flushes, %s failed\n", flushes, errors);
}

static void print_nic_counters(FILE *out, const Godwit__NicCounters *nic)
{
    char lost_in[UNITS_TEXT_SIZE], lost_out[UNITS_TEXT_SIZE];
    units_print_count(nic->receive_drops, lost_in);
    units_print_count(nic->send_drops, lost_out);
    (void)fputs("      received ", out);
    print_count(out, nic->received_frames, "packets", nic->received_bytes);
    (void)fprintf(out, ", %s dropped; sent ", lost_in);
    print_count(out, nic->sent_frames, "packets", nic->sent_bytes);
    (void)fprintf(out, ", %s dropped\n", lost_out);
}

static void print_balloon(FILE *out, const Godwit__BalloonCounters *balloon)
{
    char lent[UNITS_TEXT_SIZE], reported[UNITS_TEXT_SIZE];
    units_print_bytes(balloon->lent_bytes, lent);
    units_print_bytes(balloon->reported_bytes, reported);
    (void)fprintf(out, "BALLOON  %s lent to the host; %s reported free so far\n", lent, reported);
    if (!balloon->has_free_bytes)
        return;
    char unused[UNITS_TEXT_SIZE], available[UNITS_TEXT_SIZE], total[UNITS_TEXT_SIZE];
    units_print_bytes(balloon->free_bytes, unused);
    units_print_bytes(balloon->available_bytes, available);
    units_print_bytes(balloon->total_bytes, total);
    (void)fprintf(out, "         the guest says: %s free, %s available, of %s\n", unused, available,
                  total);
}

/* Lists have no cell on a page: a line each below it, and one of what was done with it. */
static void print_lists(FILE *out, const Godwit__VmInfo *vm)
{
    const Godwit__VmSpec *spec = vm->spec;
    const Godwit__VmCounters *counters = vm->counters;
    size_t disk_count = spec ? spec->n_disks + (spec->cloud_init ? 1 : 0) : 0;
    for (size_t i = 0; i < disk_count; i++) {
        (void)fputs("DISK  ", out);
        if (i < spec->n_disks)
            print_disk(out, spec->disks[i]);
        else
            (void)fputs("cidata: made for cloud-init, read only\n", out);
        if (counters && i < counters->n_disks)
            print_disk_counters(out, counters->disks[i]);
    }
    for (size_t i = 0; spec && i < spec->n_nics; i++) {
        (void)fputs("NIC   ", out);
        print_nic(out, spec->nics[i]);
        if (counters && i < counters->n_nics)
            print_nic_counters(out, counters->nics[i]);
    }
    if (counters && counters->balloon)
        print_balloon(out, counters->balloon);
    if (vm->counters_fault && spec && spec->n_disks + spec->n_nics > 0) {
        (void)fputs("What its devices did is not told: ", out);
        put_words(out, vm->counters_fault);
        (void)fputc('\n', out);
    }
}

int cmd_vm_show(struct context *context)
{
    AUTO_FREE char *text = NULL;
    ProtobufCMessage *reply = NULL;
    const ProtobufCMessage *const *rows;
    size_t count;
    struct render_options options;
    struct fault fault = {0};
    render_options_of(context, &options);
    int r = fetch(context, true, &reply, &rows, &count, &fault);
    if (r == 0 && count == 0) {
        r = fault_set(&fault, ERR_NOT_FOUND, "the pool has no VM '%.63s'",
                      context->line->operands[0]);
        fault_hint(&fault, "godwit vm ls");
    }
    if (r == 0)
        r = render_page(&options, &page_view, rows[0], &text, &fault);
    if (r == 0)
        (void)fputs(text, context->out);
    if (r == 0 && !context_is_machine(context) && context->output != OUTPUT_NAME)
        print_lists(context->out, (const Godwit__VmInfo *)rows[0]);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

/* ---- create ---- */

/* A text field takes over a copy of `value`; relative paths become absolute, because the host's
 * agent stands in another folder. */
static int set_text(char **field, const char *value, struct fault *fault)
{
    char *copy = strdup(value);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = copy;
    return 0;
}

static int make_absolute(char **field, struct fault *fault)
{
    char here[PATH_MAX], path[2 * PATH_MAX];
    if (!*field || !(*field)[0] || (*field)[0] == '/')
        return 0;
    if (!getcwd(here, sizeof here))
        return fault_set_errno(fault, ERR_IO, errno, "cannot tell the current folder");
    const char *tail = strncmp(*field, "./", 2) == 0 ? *field + 2 : *field;
    (void)snprintf(path, sizeof path, "%s/%s", here, tail);
    return set_text(field, path, fault);
}

static int set_texts(Godwit__VmSpec *spec, const struct command_line *line, struct fault *fault)
{
    const struct {
        char **field;
        const char *value;
    } texts[] = {
        {&spec->name, line->operand_count ? line->operands[0] : NULL},
        {&spec->kernel, command_text(line, "kernel")},
        {&spec->initrd, command_text(line, "initrd")},
        {&spec->cmdline, command_text(line, "cmdline")},
        {&spec->host, command_text(line, "host")},
        {&spec->cpu->baseline, command_text(line, "baseline")},
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        int r = texts[i].value ? set_text(texts[i].field, texts[i].value, fault) : 0;
        if (r < 0)
            return r;
    }
    int r = make_absolute(&spec->kernel, fault);
    return r < 0 ? r : make_absolute(&spec->initrd, fault);
}

/* What flags say stands before what the file says. */
static int apply_flags(Godwit__VmSpec *spec, const struct command_line *line, struct fault *fault)
{
    if (!spec->cpu) {
        spec->cpu = calloc(1, sizeof *spec->cpu);
        if (!spec->cpu)
            return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
        godwit__cpu_spec__init(spec->cpu);
    }
    if (!spec->memory) {
        spec->memory = calloc(1, sizeof *spec->memory);
        if (!spec->memory)
            return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
        godwit__memory_spec__init(spec->memory);
    }
    if (command_given(line, "memory")) {
        spec->memory->has_size = true;
        spec->memory->size = command_number(line, "memory");
    }
    if (command_given(line, "vcpus")) {
        spec->cpu->has_vcpus = true;
        spec->cpu->vcpus = (uint32_t)command_number(line, "vcpus");
    }
    if (command_flag(line, "hugepages")) {
        spec->memory->has_hugepages = true;
        spec->memory->hugepages = true;
    }
    spec->has_version = true;
    spec->version = 1;
    return set_texts(spec, line, fault);
}

/* --image NAME: the first disk, before those of the file. */
static int apply_image(Godwit__VmSpec *spec, const struct command_line *line, struct fault *fault)
{
    const char *image = command_text(line, "image");
    if (!image && (command_given(line, "disk-size") || command_given(line, "store")))
        return fault_set(fault, ERR_INVALID, "--disk-size and --store belong to --image");
    if (!image)
        return 0;
    Godwit__DiskSpec *disk = vm_spec_put_root(spec);
    if (!disk)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    disk->has_size = command_given(line, "disk-size");
    disk->size = command_number(line, "disk-size");
    int r = set_text(&disk->image, image, fault);
    if (r == 0 && command_text(line, "store"))
        r = set_text(&disk->store, command_text(line, "store"), fault);
    bool is_path = disk->store && strchr(disk->store, '/'); /* else a store's name */
    return r == 0 && is_path ? make_absolute(&disk->store, fault) : r;
}

static int make_spec(const struct command_line *line, Godwit__VmSpec **ret_spec,
                     struct fault *fault)
{
    const char *file = command_text(line, "file");
    Godwit__VmSpec *spec = NULL;
    int r = 0;
    if (file) {
        r = vm_spec_file_read(file, &spec, fault);
    } else {
        spec = calloc(1, sizeof *spec);
        if (spec)
            godwit__vm_spec__init(spec);
        else
            r = fault_set(fault, ERR_NOMEM, "no memory for the VM's description");
    }
    if (r == 0)
        r = apply_flags(spec, line, fault);
    if (r == 0)
        r = apply_image(spec, line, fault);
    if (r == 0)
        r = vm_spec_check(spec, fault);
    if (r < 0) {
        if (spec)
            godwit__vm_spec__free_unpacked(spec, NULL);
        return r;
    }
    *ret_spec = spec;
    return 0;
}

/* Print what an action has made of a VM. */
int cmd_vm_tell(struct context *context, const Godwit__VmInfo *vm, const char *did)
{
    if (context_is_machine(context) || context->output == OUTPUT_NAME) {
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &page_view, &vm->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    const char *name = vm->name ? vm->name : "the VM";
    if (did) {
        (void)fprintf(context->out, "%s %s\n", name, did);
        return EXIT_CODE_DONE;
    }
    bool on_host = vm->host && vm->host[0];
    (void)fprintf(context->out, "%s is %s%s%s\n", name, vm->state ? vm->state : "there",
                  on_host ? " on " : "", on_host ? vm->host : "");
    return EXIT_CODE_DONE;
}

/* `name` as it was typed: a VM that is removed does not come back in the reply. */
static int tell_action(struct context *context, Godwit__ActionReply *reply, const char *name,
                       const char *did)
{
    int exit_code = EXIT_CODE_DONE;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (reply->vm)
        exit_code = cmd_vm_tell(context, reply->vm, did);
    else if (did && !context_is_machine(context))
        (void)fprintf(context->out, "%s%s%s\n", name, context->output == OUTPUT_NAME ? "" : " ",
                      context->output == OUTPUT_NAME ? "" : did);
    godwit__action_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_vm_create(struct context *context)
{
    Godwit__VmCreateRequest request = GODWIT__VM_CREATE_REQUEST__INIT;
    Godwit__VmSpec *spec = NULL;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct transfer_bar bar;
    struct fault fault = {0};
    int r = make_spec(context->line, &spec, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    request.spec = spec;
    request.has_no_start = true;
    request.no_start = command_flag(context->line, "no-start");
    transfer_bar_init(&bar, context);
    r = client_of(context, &client, &fault);
    if (r == 0) {
        transfer_bar_listen(&bar, client);
        r = client_call(client, METHOD_VM_CREATE_IN_POOL, &request.base,
                        &godwit__action_reply__descriptor,
                        vm_spec_has_clones(spec) ? FILE_MS : ACTION_MS, &reply, &fault);
        client_listen(client, NULL);
    }
    transfer_bar_clear(&bar);
    godwit__vm_spec__free_unpacked(spec, NULL);
    return r < 0 ? error_print_fault(context, &fault) : tell_action(context, reply, NULL, NULL);
}

/* ---- actions ---- */

int cmd_vm_read_lazy(struct context *context, bool *ret_lazy)
{
    struct fault fault = {0};
    bool lazy = command_flag(context->line, "lazy");

    if (lazy && command_flag(context->line, "eager")) {
        (void)fault_set(&fault, ERR_INVALID, "--lazy and --eager exclude each other");
        return error_print_fault(context, &fault);
    }
    *ret_lazy = lazy;
    return EXIT_CODE_DONE;
}

static int act_on(struct context *context, const char *vm, Godwit__VmVerb verb, bool and_stop)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct transfer_bar bar;
    struct fault fault = {0};
    request.vm = (char *)vm; /* only read */
    request.has_verb = true;
    request.verb = verb;
    request.has_and_stop = and_stop;
    request.and_stop = and_stop;
    if (verb == GODWIT__VM_VERB__VM_VERB_RESUME) {
        bool lazy = false;
        int exit_code = cmd_vm_read_lazy(context, &lazy);
        if (exit_code != EXIT_CODE_DONE)
            return exit_code;
        request.has_lazy = request.lazy = lazy;
    }
    bool takes_file = verb == GODWIT__VM_VERB__VM_VERB_SUSPEND ||
                      verb == GODWIT__VM_VERB__VM_VERB_RESUME || /* as long as a memory to a disk */
                      verb == GODWIT__VM_VERB__VM_VERB_START; /* the first: as its disks are made */
    transfer_bar_init(&bar, context);
    int r = client_of(context, &client, &fault);
    if (r == 0) {
        transfer_bar_listen(&bar, client);
        r = client_call(client, METHOD_VM_ACTION, &request.base, &godwit__action_reply__descriptor,
                        takes_file ? FILE_MS : ACTION_MS, &reply, &fault);
        client_listen(client, NULL);
    }
    transfer_bar_clear(&bar);
    if (r < 0)
        return error_print_fault(context, &fault);
    return tell_action(context, reply, vm,
                       verb == GODWIT__VM_VERB__VM_VERB_RM ? "is removed" : NULL);
}

static int act(struct context *context, Godwit__VmVerb verb, bool and_stop)
{
    const struct command_line *line = context->line;
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0;
    for (size_t i = 0; i < line->operand_count; i++) {
        int exit_code = act_on(context, line->operands[i], verb, and_stop);
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        }
    }
    return failed > 0 && failed < line->operand_count ? EXIT_CODE_PARTLY : failed_with;
}

static int adopt_one(struct context *context, const char *vm, const char *host)
{
    Godwit__VmAdoptRequest request = GODWIT__VM_ADOPT_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)vm; /* only read */
    request.host = (char *)host;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_ADOPT, &request.base, &godwit__action_reply__descriptor,
                        ACTION_MS, &reply, &fault);
    return r < 0 ? error_print_fault(context, &fault) : tell_action(context, reply, vm, NULL);
}

/* All that `vm ls` shows as unadopted, on one host or on all. */
static int adopt_all(struct context *context, const char *host)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct client *client;
    struct fault fault = {0};
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0, tried = 0;
    for (size_t i = 0; i < list->n_vms; i++) {
        const Godwit__VmInfo *vm = list->vms[i];
        if (!vm->unadopted || !vm->id || !vm->host || (host && strcmp(vm->host, host) != 0))
            continue;
        int exit_code = adopt_one(context, vm->id, vm->host);
        tried++;
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        }
    }
    godwit__vm_list__free_unpacked(list, NULL);
    if (!tried && !context_is_machine(context))
        (void)fputs("no domain is left to adopt\n", context->out);
    return failed > 0 && failed < tried ? EXIT_CODE_PARTLY : failed_with;
}

int cmd_vm_adopt(struct context *context)
{
    const struct command_line *line = context->line;
    const char *host = command_text(line, "host");
    struct fault fault = {0};
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0;
    if (command_flag(line, "all") == (line->operand_count > 0)) {
        (void)fault_set(&fault, ERR_INVALID, "say which domains, or --all");
        fault_hint(&fault, "godwit vm ls");
        return error_print_fault(context, &fault);
    }
    if (command_flag(line, "all"))
        return adopt_all(context, host);
    for (size_t i = 0; i < line->operand_count; i++) {
        int exit_code = adopt_one(context, line->operands[i], host);
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        }
    }
    return failed > 0 && failed < line->operand_count ? EXIT_CODE_PARTLY : failed_with;
}

int cmd_vm_start(struct context *context)
{
    return act(context, GODWIT__VM_VERB__VM_VERB_START, false);
}

/* ---- stop: ask all guests, wait for each, force those that do not ---- */

/* *ret_asked: it listens, so it may switch itself off. A guest that does not is no error. */
static int press_button(struct context *context, const char *vm, bool *ret_asked)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    Godwit__ActionReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)vm; /* only read */
    request.has_verb = true;
    request.verb = GODWIT__VM_VERB__VM_VERB_POWER_BUTTON;
    *ret_asked = false;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_ACTION, &request.base, &godwit__action_reply__descriptor,
                        ACTION_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    const struct gw_code_row *row =
        reply->error && reply->error->name ? gw_code_find(reply->error->name) : NULL;
    *ret_asked = !reply->error;
    if (reply->error && !(row && row->code == GW_GUEST_DEAF))
        exit_code = error_print(context, reply->error);
    godwit__action_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* Look once; *ret_told: it has ended, and the operator knows. */
static int tell_when_ended(struct context *context, const char *vm, bool *ret_told)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)vm; /* only read */
    *ret_told = false;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_DONE;
    const char *state = list->n_vms == 1 ? list->vms[0]->state : NULL;
    if (state && (strcmp(state, "stopped") == 0 || strcmp(state, "crashed") == 0)) {
        exit_code = cmd_vm_tell(context, list->vms[0], NULL);
        *ret_told = true;
    }
    godwit__vm_list__free_unpacked(list, NULL);
    return exit_code;
}

static int stop_one(struct context *context, const char *vm, bool asked, uint64_t until_ns)
{
    static const struct timespec pause = {.tv_nsec = STOP_LOOK_MS * (long)NS_PER_MS};
    while (asked) {
        bool told;
        int exit_code = tell_when_ended(context, vm, &told);
        if (told || exit_code != EXIT_CODE_DONE)
            return exit_code;
        if (world_now_ns() >= until_ns)
            break;
        (void)nanosleep(&pause, NULL); /* Ctrl-C ends the command here */
    }
    return act_on(context, vm, GODWIT__VM_VERB__VM_VERB_STOP, false);
}

int cmd_vm_stop(struct context *context)
{
    const struct command_line *line = context->line;
    bool force = command_flag(line, "force");
    uint64_t until_ns = world_now_ns() + command_number(line, "timeout");
    AUTO_FREE bool *asked = calloc(line->operand_count, sizeof *asked);
    AUTO_FREE int *exit_codes = calloc(line->operand_count, sizeof *exit_codes);
    struct fault fault = {0};
    if (!asked || !exit_codes)
        return error_print_fault(context, (fault_set(&fault, ERR_NOMEM, "no memory"), &fault));
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0;
    for (size_t i = 0; i < line->operand_count && !force; i++)
        exit_codes[i] = press_button(context, line->operands[i], &asked[i]);
    for (size_t i = 0; i < line->operand_count; i++) {
        if (exit_codes[i] == EXIT_CODE_DONE)
            exit_codes[i] = stop_one(context, line->operands[i], asked[i], until_ns);
        if (exit_codes[i] != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_codes[i]; /* the first says most */
            failed++;
        }
    }
    return failed > 0 && failed < line->operand_count ? EXIT_CODE_PARTLY : failed_with;
}

int cmd_vm_reboot(struct context *context)
{
    return act(context,
               command_flag(context->line, "force") ? GODWIT__VM_VERB__VM_VERB_RESET
                                                    : GODWIT__VM_VERB__VM_VERB_REBOOT,
               false);
}

int cmd_vm_pause(struct context *context)
{
    return act(context, GODWIT__VM_VERB__VM_VERB_PAUSE, false);
}

int cmd_vm_suspend(struct context *context)
{
    return act(context, GODWIT__VM_VERB__VM_VERB_SUSPEND, false);
}

int cmd_vm_resume(struct context *context)
{
    return act(context, GODWIT__VM_VERB__VM_VERB_RESUME, false);
}

int cmd_vm_rm(struct context *context)
{
    struct fault fault = {0};
    if (!context_confirm(context, "Remove for good, console log and all?")) {
        (void)fault_set(&fault, ERR_REFUSED, "nobody said yes; nothing was changed");
        fault_hint(&fault, "godwit vm rm -y %s", context->line->operands[0]);
        return error_print_fault(context, &fault);
    }
    bool and_stop = command_flag(context->line, "stop");
    for (size_t i = 0;
         command_flag(context->line, "with-snapshots") && i < context->line->operand_count; i++) {
        int exit_code = cmd_snapshot_rm_all(context, context->line->operands[i], and_stop);
        if (exit_code != EXIT_CODE_DONE)
            return exit_code;
    }
    return act(context, GODWIT__VM_VERB__VM_VERB_RM, and_stop);
}

/* ---- logs ---- */

/* Where the last `lines` lines of the text begin. */
static size_t tail_start(const uint8_t *bytes, size_t count, uint64_t lines)
{
    size_t at = count;
    if (at > 0 && bytes[at - 1] == '\n')
        at--; /* the end of the last line opens no new one */
    while (at > 0) {
        if (bytes[at - 1] == '\n' && --lines == 0)
            return at;
        at--;
    }
    return 0;
}

int cmd_vm_logs(struct context *context)
{
    Godwit__VmLogsRequest request = GODWIT__VM_LOGS_REQUEST__INIT;
    Godwit__LogsReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)context->line->operands[0]; /* only read */
    request.has_tail_bytes = true;
    request.tail_bytes = LOG_TAIL_MAX;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LOGS, &request.base, &godwit__logs_reply__descriptor,
                        CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    const ProtobufCBinaryData *data = &reply->data;
    size_t start = 0;
    if (command_given(context->line, "tail"))
        start = tail_start(data->data, data->len, command_number(context->line, "tail"));
    (void)fwrite(data->data + start, 1, data->len - start, context->out);
    if (data->len > start && data->data[data->len - 1] != '\n')
        (void)fputc('\n', context->out);
    godwit__logs_reply__free_unpacked(reply, NULL);
    return EXIT_CODE_DONE;
}

int cmd_vm_schema(struct context *context)
{
    AUTO_FREE char *text = NULL;
    struct fault fault = {0};
    int r = command_flag(context->line, "up") ? vm_spec_schema_print_up(&text, &fault)
                                              : vm_spec_schema_print(&text, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

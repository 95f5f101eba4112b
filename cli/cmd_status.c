#include "cli/cmd_status.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { VMS_SHOWN_MAX = 200 }; /* of more, only those that need a look */

static const struct render_column host_columns[] = {
    {.field = "name", .head = "HOST"},
    {.field = "state", .head = "STATE"},
    {.field = "vms", .head = "VMS"},
    {.field = "cpus", .head = "CPUS"},
    {.field = "memory_free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "memory_bytes", .head = "OF", .unit = RENDER_BYTES},
    {.field = "seen_unix_ms", .head = "SEEN", .unit = RENDER_AGO},
};
static const struct render_column vm_columns[] = {
    {.field = "name", .head = "VM"},
    {.field = "state", .head = "STATE"},
    {.field = "host", .head = "HOST"},
    {.field = "vcpus", .head = "VCPUS"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "job", .head = "JOB"},
    {.field = "reason", .head = "REASON", .wide = true},
};
static const struct render_column job_columns[] = {
    {.field = "id", .head = "JOB"},
    {.field = "vm", .head = "VM"},
    {.field = "source", .head = "FROM"},
    {.field = "target", .head = "TO"},
    {.field = "state", .head = "STATE"},
    {.field = "progress.phase", .head = "PHASE"},
    {.field = "progress.round", .head = "ROUND"},
    {.field = "progress.wire_bytes_per_s", .head = "RATE", .unit = RENDER_RATE},
};
static const struct render_view host_view = {host_columns, ARRAY_COUNT(host_columns), "name"};
static const struct render_view vm_view = {vm_columns, ARRAY_COUNT(vm_columns), "name"};
static const struct render_view job_view = {job_columns, ARRAY_COUNT(job_columns), "id"};

struct pool_picture {
    Godwit__PoolStatus *pool;
    Godwit__HostList *hosts;
    Godwit__VmList *vms;
    Godwit__JobList *jobs;
};

static int fetch(struct context *context, struct pool_picture *picture, struct fault *fault)
{
    Godwit__PoolStatusRequest pool = GODWIT__POOL_STATUS_REQUEST__INIT;
    Godwit__HostListRequest hosts = GODWIT__HOST_LIST_REQUEST__INIT;
    Godwit__VmListRequest vms = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__JobListRequest jobs = GODWIT__JOB_LIST_REQUEST__INIT;
    struct client *client;
    hosts.has_brief = hosts.brief = vms.has_brief = vms.brief = vms.has_most = true;
    vms.most = VMS_SHOWN_MAX;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_POOL_STATUS, &pool.base, &godwit__pool_status__descriptor,
                        CLIENT_CALL_MS, &picture->pool, fault);
    if (r == 0)
        r = client_call(client, METHOD_HOST_LIST, &hosts.base, &godwit__host_list__descriptor,
                        CLIENT_CALL_MS, &picture->hosts, fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &vms.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, &picture->vms, fault);
    if (r == 0)
        r = client_call(client, METHOD_JOB_LIST, &jobs.base, &godwit__job_list__descriptor,
                        CLIENT_CALL_MS, &picture->jobs, fault);
    return r;
}

static void free_picture(struct pool_picture *picture)
{
    if (picture->pool)
        godwit__pool_status__free_unpacked(picture->pool, NULL);
    if (picture->hosts)
        godwit__host_list__free_unpacked(picture->hosts, NULL);
    if (picture->vms)
        godwit__vm_list__free_unpacked(picture->vms, NULL);
    if (picture->jobs)
        godwit__job_list__free_unpacked(picture->jobs, NULL);
}

static int print_rows(struct context *context, const struct render_options *options,
                      const struct render_view *view, const void *rows, size_t count,
                      struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    if (count == 0)
        return 0;
    int r = render_list(options, view, (const ProtobufCMessage *const *)rows, count, &text, fault);
    if (r == 0)
        (void)fprintf(context->out, "\n%s", text);
    return r;
}

static void print_head(struct context *context, const Godwit__PoolStatus *pool)
{
    char memory[UNITS_TEXT_SIZE], room[UNITS_TEXT_SIZE];
    units_print_bytes(pool->memory_bytes, memory);
    units_print_bytes(pool->memory_free_bytes, room);
    (void)fprintf(
        context->out, "pool %s: %u of %u hosts up, %u of %u VMs running, %u %s, %s of %s free\n",
        pool->name ? pool->name : "-", pool->hosts_up, pool->hosts, pool->vms_running, pool->vms,
        pool->jobs_active, pool->jobs_active == 1 ? "job" : "jobs", room, memory);
    for (size_t i = 0; i < pool->n_warnings; i++)
        (void)fprintf(context->out, "warning: %s\n", pool->warnings[i]);
}

static int print_picture(struct context *context, const struct pool_picture *picture,
                         struct fault *fault)
{
    struct render_options options;
    AUTO_FREE char *text = NULL;
    render_options_of(context, &options);
    if (context_is_machine(context) || options.form == OUTPUT_NAME) {
        static const struct render_view pool_view = {.name_field = "name"};
        int r = render_page(&options, &pool_view, &picture->pool->base, &text, fault);
        if (r == 0)
            (void)fputs(text, context->out);
        return r;
    }
    print_head(context, picture->pool);
    int r = print_rows(context, &options, &host_view, picture->hosts->hosts,
                       picture->hosts->n_hosts, fault);
    if (r == 0)
        r = print_rows(context, &options, &vm_view, picture->vms->vms, picture->vms->n_vms, fault);
    if (r == 0 && picture->vms->left_out > 0)
        (void)fprintf(context->out, "\n%u VMs more run, or are stopped: godwit vm ls\n",
                      picture->vms->left_out);
    if (r == 0)
        r = print_rows(context, &options, &job_view, picture->jobs->jobs, picture->jobs->n_jobs,
                       fault);
    return r;
}

static int show(struct context *context, const void *data)
{
    struct pool_picture picture = {0};
    struct fault fault = {0};
    (void)data;
    int r = fetch(context, &picture, &fault);
    if (r == 0)
        r = print_picture(context, &picture, &fault);
    free_picture(&picture);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

int cmd_status(struct context *context)
{
    return listing_watch(context, show, NULL);
}

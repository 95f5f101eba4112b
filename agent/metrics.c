#include "agent/metrics.h"

#include <stddef.h>

#include "agent/host_facts.h"
#include "agent/vm_counters.h"
#include "agent/vm_table.h"
#include "base/own.h"
#include "base/world.h"

static void number(FILE *out, const char *name, const char *kind, const char *help, double value)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, kind, name,
                  value);
}

/* ---- what devices of VMs have done ---- */
enum family_of { OF_DISK, OF_NIC, OF_BALLOON };

/* One name with a row for each device; `has` and `at` are in its message. */
struct family {
    enum family_of of;
    size_t has, at;
    const char *name, *kind, *help;
};

#define DISK(field)                                                                                \
    OF_DISK, offsetof(Godwit__DiskCounters, has_##field), offsetof(Godwit__DiskCounters, field)
#define NIC(field)                                                                                 \
    OF_NIC, offsetof(Godwit__NicCounters, has_##field), offsetof(Godwit__NicCounters, field)
#define BALLOON(field)                                                                             \
    OF_BALLOON, offsetof(Godwit__BalloonCounters, has_##field),                                    \
        offsetof(Godwit__BalloonCounters, field)

static const struct family families[] = {
    {DISK(reads), "disk_reads_total", "counter", "Reads of a VM's disk."},
    {DISK(read_bytes), "disk_read_bytes_total", "counter", "Bytes read from a VM's disk."},
    {DISK(writes), "disk_writes_total", "counter", "Writes, discards and write-zeroes."},
    {DISK(written_bytes), "disk_written_bytes_total", "counter", "Bytes written to a VM's disk."},
    {DISK(flushes), "disk_flushes_total", "counter", "Flushes of a VM's disk."},
    {DISK(errors), "disk_errors_total", "counter", "Requests that failed below the VM."},
    {DISK(refused), "disk_refused_total", "counter", "Requests for what the disk cannot have."},
    {NIC(received_frames), "nic_received_frames_total", "counter", "Frames that a guest got."},
    {NIC(received_bytes), "nic_received_bytes_total", "counter", "Bytes that a guest got."},
    {NIC(receive_drops), "nic_receive_drops_total", "counter", "Frames a guest had no room for."},
    {NIC(sent_frames), "nic_sent_frames_total", "counter", "Frames that a guest sent."},
    {NIC(sent_bytes), "nic_sent_bytes_total", "counter", "Bytes that a guest sent."},
    {NIC(send_drops), "nic_send_drops_total", "counter", "Frames that the host would not have."},
    {BALLOON(lent_bytes), "balloon_lent_bytes", "gauge", "Memory a guest does without."},
    {BALLOON(reported_bytes), "balloon_reported_bytes_total", "counter",
     "Memory that a guest reported as free, all that it ever did."},
    {BALLOON(free_bytes), "guest_memory_free_bytes", "gauge", "Free in the guest, as it says."},
    {BALLOON(available_bytes), "guest_memory_available_bytes", "gauge",
     "Available in the guest, as it says."},
};

/* A label's value; what would end it is escaped. */
static void put_label(FILE *out, const char *name, const char *value)
{
    (void)fprintf(out, "%s=\"", name);
    for (const char *at = value ? value : ""; *at; at++) {
        if (*at == '"' || *at == '\\')
            (void)fputc('\\', out);
        (void)fputc((unsigned char)*at < ' ' ? '?' : *at, out);
    }
    (void)fputc('"', out);
}

static void put_row(FILE *out, const struct family *family, const char *vm_id, const char *label,
                    const char *device, const void *message)
{
    const char *bytes = message;
    if (!*(const protobuf_c_boolean *)(const void *)(bytes + family->has))
        return;
    (void)fprintf(out, "godwit_agent_vm_%s{", family->name);
    put_label(out, "vm", vm_id);
    if (label) {
        (void)fputc(',', out);
        put_label(out, label, device);
    }
    (void)fprintf(out, "} %llu\n",
                  (unsigned long long)*(const uint64_t *)(const void *)(bytes + family->at));
}

static void put_rows(FILE *out, const struct family *family, const char *vm_id,
                     const Godwit__VmCounters *counters)
{
    switch (family->of) {
    case OF_DISK:
        for (size_t i = 0; i < counters->n_disks; i++)
            put_row(out, family, vm_id, "disk", counters->disks[i]->name, counters->disks[i]);
        break;
    case OF_NIC:
        for (size_t i = 0; i < counters->n_nics; i++)
            put_row(out, family, vm_id, "nic", counters->nics[i]->mac, counters->nics[i]);
        break;
    case OF_BALLOON:
        if (counters->balloon)
            put_row(out, family, vm_id, NULL, NULL, counters->balloon);
        break;
    }
}

static void put_families(FILE *out, struct vm_table *table, const struct vm_counters *counters)
{
    for (size_t i = 0; i < ARRAY_COUNT(families); i++) {
        const struct family *family = &families[i];
        (void)fprintf(out, "# HELP godwit_agent_vm_%s %s\n# TYPE godwit_agent_vm_%s %s\n",
                      family->name, family->help, family->name, family->kind);
        for (struct vm_entry *entry = vm_table_first(table); entry; entry = entry->next) {
            const Godwit__VmCounters *told = vm_counters_find(counters, entry);
            if (entry->process && told)
                put_rows(out, family, entry->id, told);
        }
    }
}

void metrics_write(struct vm_table *table, const struct vm_counters *counters, bool is_connected,
                   FILE *out)
{
    number(out, "godwit_agent_connected", "gauge", "1 when the coordinator knows this agent.",
           is_connected);
    number(out, "godwit_agent_vms", "gauge", "VMs that this host knows.",
           (double)vm_table_count(table));
    number(out, "godwit_agent_vms_with_process", "gauge", "VMs that have a process here.",
           (double)vm_table_running(table));
    number(out, "godwit_agent_memory_free_bytes", "gauge", "Memory that this host has free.",
           (double)host_facts_memory_free());
    number(out, "godwit_agent_load1", "gauge", "The host's load of the last minute.",
           host_facts_load1());
    number(out, "godwit_process_cpu_seconds_total", "counter", "CPU time of the agent.",
           (double)world_process_cpu_ns() / 1e9);
    (void)fputs("# HELP godwit_agent_vm_cpu_seconds_total CPU time that a VM's vCPUs have got.\n"
                "# TYPE godwit_agent_vm_cpu_seconds_total counter\n",
                out);
    for (struct vm_entry *entry = vm_table_first(table); entry; entry = entry->next) {
        if (entry->process)
            (void)fprintf(out, "godwit_agent_vm_cpu_seconds_total{vm=\"%s\"} %.3f\n", entry->id,
                          (double)entry->status->vcpu_cpu_ns / 1e9);
    }
    if (counters)
        put_families(out, table, counters);
}

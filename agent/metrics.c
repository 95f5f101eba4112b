#include "agent/metrics.h"

#include "agent/host_facts.h"
#include "agent/vm_table.h"
#include "base/world.h"

static void number(FILE *out, const char *name, const char *kind, const char *help, double value)
{
    (void)fprintf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, kind, name,
                  value);
}

void metrics_write(struct vm_table *table, bool is_connected, FILE *out)
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
}

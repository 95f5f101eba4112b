#include "agent/start_mark.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/vm_bin.h"
#include "agent/vm_table.h"
#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"

int start_mark_keep(const struct vm_entry *entry, const Godwit__VmSpec *spec, uint64_t generation,
                    struct fault *fault)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    char path[VM_PATH_SIZE];
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;

    status.vm_id = (char *)(uintptr_t)entry->id; /* protobuf-c knows no const */
    status.name = spec->name;
    status.spec = (Godwit__VmSpec *)(uintptr_t)spec;
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    status.generation = generation;
    int r = vm_entry_run_path(entry, START_MARK_NAME, path, fault);
    if (r == 0 && vm_bin_encode(&status, &bytes, &count) < 0)
        r = fault_set(fault, ERR_NOMEM, "no memory to note a start");
    if (r == 0)
        r = file_write_atomic(path, 0600, bytes, count, fault);
    return r < 0 ? fault_wrap(fault, r, "noting that libvirt is asked for a start") : 0;
}

Godwit__VmStatus *start_mark_read(const struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];
    AUTO_FREE char *text = NULL;
    size_t count = 0;
    Godwit__VmStatus *status = NULL;
    struct fault fault = {0};

    int r = vm_entry_run_path(entry, START_MARK_NAME, path, &fault);
    if (r == 0)
        r = file_read(path, &text, &count, &fault);
    if (r == 0)
        r = vm_bin_decode((const uint8_t *)text, count, &status, &fault);
    if (r < 0 && r != ERR_NOT_FOUND)
        log_error("start_mark", "vm=%s: %s", entry->id, fault.text);
    return r == 0 ? status : NULL;
}

uint64_t start_mark_generation(const struct vm_entry *entry)
{
    Godwit__VmStatus *status = start_mark_read(entry);
    uint64_t generation = status ? status->generation : 0;

    if (status)
        godwit__vm_status__free_unpacked(status, NULL);
    return generation;
}

void start_mark_drop(const struct vm_entry *entry)
{
    char path[VM_PATH_SIZE];

    if (vm_entry_run_path(entry, START_MARK_NAME, path, NULL) == 0)
        (void)unlink(path); /* absent is as good */
}

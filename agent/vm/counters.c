#include "agent/vm/counters.h"

#include <assert.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"

static void add_disk(struct vm_disk_stats *sum, const struct vm_disk_stats *more)
{
    sum->reads += more->reads;
    sum->read_bytes += more->read_bytes;
    sum->writes += more->writes;
    sum->written_bytes += more->written_bytes;
    sum->flushes += more->flushes;
    sum->refused += more->refused;
    sum->errors += more->errors;
}

static void add_nic(struct vm_nic_stats *sum, const struct vm_nic_stats *more)
{
    sum->received_frames += more->received_frames;
    sum->received_bytes += more->received_bytes;
    sum->receive_drops += more->receive_drops;
    sum->sent_frames += more->sent_frames;
    sum->sent_bytes += more->sent_bytes;
    sum->send_drops += more->send_drops;
}

static void add_balloon(struct vm_balloon_stats *sum, const struct vm_balloon_stats *more)
{
    uint64_t discarded = sum->discarded_pages, reported = sum->reported_pages;

    *sum = *more;
    sum->discarded_pages += discarded;
    sum->reported_pages += reported;
}

void counters_add(struct counters *counters, struct vm *vm, bool ask)
{
    assert(counters->disk_count <= DISKS_MAX + 1 && counters->nic_count <= NICS_MAX);
    for (unsigned i = 0; i < counters->disk_count; i++) {
        struct vm_disk_stats disk;
        vm_disk_stats(vm, i, &disk);
        add_disk(&counters->disks[i], &disk);
    }
    for (unsigned i = 0; i < counters->nic_count; i++) {
        struct vm_nic_stats nic;
        vm_nic_stats(vm, i, &nic);
        add_nic(&counters->nics[i], &nic);
    }
    struct vm_balloon_stats balloon;
    counters->has_balloon = vm_balloon_stats(vm, ask, &balloon);
    if (counters->has_balloon)
        add_balloon(&counters->balloon, &balloon);
}

#define FILL(message, field, value) ((message)->has_##field = true, (message)->field = (value))

static void fill_disk(const struct vm_disk_stats *disk, Godwit__DiskCounters *ret_message)
{
    godwit__disk_counters__init(ret_message);
    FILL(ret_message, reads, disk->reads);
    FILL(ret_message, read_bytes, disk->read_bytes);
    FILL(ret_message, writes, disk->writes);
    FILL(ret_message, written_bytes, disk->written_bytes);
    FILL(ret_message, flushes, disk->flushes);
    FILL(ret_message, refused, disk->refused);
    FILL(ret_message, errors, disk->errors);
}

static void fill_nic(const struct vm_nic_stats *nic, Godwit__NicCounters *ret_message)
{
    godwit__nic_counters__init(ret_message);
    FILL(ret_message, received_frames, nic->received_frames);
    FILL(ret_message, received_bytes, nic->received_bytes);
    FILL(ret_message, receive_drops, nic->receive_drops);
    FILL(ret_message, sent_frames, nic->sent_frames);
    FILL(ret_message, sent_bytes, nic->sent_bytes);
    FILL(ret_message, send_drops, nic->send_drops);
}

static void fill_balloon(const struct vm_balloon_stats *balloon,
                         Godwit__BalloonCounters *ret_message)
{
    godwit__balloon_counters__init(ret_message);
    FILL(ret_message, lent_bytes, balloon->actual_bytes);
    FILL(ret_message, wanted_bytes, balloon->target_bytes);
    FILL(ret_message, discarded_bytes, balloon->discarded_pages << PAGE_SHIFT);
    FILL(ret_message, reported_bytes, balloon->reported_pages << PAGE_SHIFT);
    if (!balloon->told)
        return;
    FILL(ret_message, free_bytes, balloon->free_bytes);
    FILL(ret_message, available_bytes, balloon->available_bytes);
    FILL(ret_message, total_bytes, balloon->total_bytes);
    FILL(ret_message, cache_bytes, balloon->cache_bytes);
    FILL(ret_message, swapped_in_bytes, balloon->swapped_in_bytes);
    FILL(ret_message, swapped_out_bytes, balloon->swapped_out_bytes);
    FILL(ret_message, major_faults, balloon->major_faults);
}

void counters_fill(const struct counters *counters, struct counters_message *ret_message)
{
    godwit__vm_counters__init(&ret_message->all);
    for (unsigned i = 0; i < counters->disk_count; i++) {
        fill_disk(&counters->disks[i], &ret_message->disks[i]);
        ret_message->disk_list[i] = &ret_message->disks[i];
    }
    for (unsigned i = 0; i < counters->nic_count; i++) {
        fill_nic(&counters->nics[i], &ret_message->nics[i]);
        ret_message->nic_list[i] = &ret_message->nics[i];
    }
    ret_message->all.disks = ret_message->disk_list;
    ret_message->all.n_disks = counters->disk_count;
    ret_message->all.nics = ret_message->nic_list;
    ret_message->all.n_nics = counters->nic_count;
    if (counters->has_balloon) {
        fill_balloon(&counters->balloon, &ret_message->balloon);
        ret_message->all.balloon = &ret_message->balloon;
    }
}

/* ---- as they travel ---- */
int counters_save(const struct counters *counters, uint8_t **ret_bytes, size_t *ret_count,
                  struct fault *fault)
{
    struct counters_message message;

    counters_fill(counters, &message);
    size_t count = godwit__vm_counters__get_packed_size(&message.all);
    assert(count <= COUNTERS_BYTES_MAX);
    uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for what the devices have counted");
    (void)godwit__vm_counters__pack(&message.all, bytes);
    *ret_bytes = bytes;
    *ret_count = count;
    return 0;
}

static void free_message(Godwit__VmCounters **message)
{
    if (*message)
        godwit__vm_counters__free_unpacked(*message, NULL);
}

int counters_load(struct counters *counters, const uint8_t *bytes, size_t count,
                  struct fault *fault)
{
    AUTO(free_message)
    Godwit__VmCounters *message =
        count <= COUNTERS_BYTES_MAX ? godwit__vm_counters__unpack(NULL, count, bytes) : NULL;
    if (!message)
        return fault_set(fault, ERR_CORRUPT, "what the devices have counted cannot be read");
    if (message->n_disks != counters->disk_count || message->n_nics != counters->nic_count)
        return fault_set(
            fault, ERR_CORRUPT, "%zu disks and %zu nics have counted, the machine has %u and %u",
            message->n_disks, message->n_nics, counters->disk_count, counters->nic_count);

    struct counters loaded = {.disk_count = counters->disk_count, .nic_count = counters->nic_count};
    for (unsigned i = 0; i < loaded.disk_count; i++) {
        const Godwit__DiskCounters *disk = message->disks[i];
        loaded.disks[i] = (struct vm_disk_stats){.reads = disk->reads,
                                                 .read_bytes = disk->read_bytes,
                                                 .writes = disk->writes,
                                                 .written_bytes = disk->written_bytes,
                                                 .flushes = disk->flushes,
                                                 .refused = disk->refused,
                                                 .errors = disk->errors};
    }
    for (unsigned i = 0; i < loaded.nic_count; i++) {
        const Godwit__NicCounters *nic = message->nics[i];
        loaded.nics[i] = (struct vm_nic_stats){.received_frames = nic->received_frames,
                                               .received_bytes = nic->received_bytes,
                                               .receive_drops = nic->receive_drops,
                                               .sent_frames = nic->sent_frames,
                                               .sent_bytes = nic->sent_bytes,
                                               .send_drops = nic->send_drops};
    }
    if (message->balloon) {
        loaded.balloon.discarded_pages = message->balloon->discarded_bytes >> PAGE_SHIFT;
        loaded.balloon.reported_pages = message->balloon->reported_bytes >> PAGE_SHIFT;
    }
    *counters = loaded; /* judged whole, published whole */
    return 0;
}

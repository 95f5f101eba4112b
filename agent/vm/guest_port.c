#include "agent/vm/guest_port.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "agent/vm/boot_files.h"
#include "agent/vm/counters.h"
#include "agent/vm/disk_region.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "vmm-core/dirty_tracker.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    PORT_MAGIC = 0x50475747, /* "GWGP" */
    PORT_VERSION = 1,
    PORT_HEADER_BYTES = 16,
    FIXED_REGIONS = GUEST_PORT_DISKS_AT,
    PORT_FLAG_PAUSED = 1,   /* by an operator */
    PORT_FLAG_CMDLINE = 2,  /* the command line that its own disk gave it follows the header */
    PORT_FLAG_COUNTERS = 4, /* then what its devices have counted */
    PORT_FLAGS = PORT_FLAG_PAUSED | PORT_FLAG_CMDLINE | PORT_FLAG_COUNTERS,
    COUNTERS_HEAD_BYTES = 4, /* how many bytes they take */
};

struct guest_port {
    struct vm *vm; /* borrowed */
    struct guest guest;
    struct region regions[FIXED_REGIONS + DISKS_MAX];
    struct disk_region *disks[DISKS_MAX]; /* of a move that brings them */
    unsigned disk_count;
    struct boot_files *files;      /* borrowed */
    bool is_handing_over;          /* move's thread: between track_start and track_stop in place */
    struct dirty_tracker *tracker; /* between track_start and track_stop */
    const Godwit__VmSpec *spec;    /* borrowed */
    char *cmdline;                 /* that came with a load; as the next one */
    bool stays_paused;             /* move's thread, then the loop's after the move's end */
    const struct counters *before; /* borrowed */
    struct counters loaded;        /* that came with a load; as stays_paused */
    bool has_loaded;
    uint64_t paused_ns, loaded_ns; /* as it came, and when; as stays_paused. 0: not known */
    uint64_t pause_ns;             /* all of it, once resumed; 0: not known */
    atomic_bool ended;

    pthread_mutex_t gate_mutex;
    bool gate_open; /* under the mutex: input may enter */
};

static void gate_set(struct guest_port *port, bool open)
{
    pthread_mutex_lock(&port->gate_mutex);
    port->gate_open = open;
    pthread_mutex_unlock(&port->gate_mutex);
}

/* ---- the guest ---- */
static void on_pause(void *owner)
{
    guest_port_pause(owner);
}

static int on_resume(void *owner, struct fault *fault)
{
    struct guest_port *port = owner;

    /* Nothing to let run: the machine is rebuilt or ends as soon as its owner is told. */
    if (port->stays_paused || atomic_load(&port->ended))
        return 0;
    int r = guest_port_resume(port, fault);
    if (r == 0 && port->paused_ns)
        port->pause_ns = port->paused_ns + world_now_ns() - port->loaded_ns;
    port->paused_ns = 0;
    return r;
}

/* What stands in front of the machine's own state. */
struct port_head {
    bool paused;
    size_t cmdline_bytes;
    const uint8_t *counters; /* NULL: none */
    size_t counters_bytes;
    size_t bytes; /* of all this */
};

static void header_encode(const struct port_head *head, const char *cmdline, uint8_t *bytes)
{
    bytes_put_u32(bytes, PORT_MAGIC);
    bytes_put_u32(bytes + 4, PORT_VERSION);
    bytes_put_u32(bytes + 8, (head->paused ? PORT_FLAG_PAUSED : 0) |
                                 (head->cmdline_bytes ? PORT_FLAG_CMDLINE : 0) |
                                 (head->counters ? PORT_FLAG_COUNTERS : 0));
    bytes_put_u32(bytes + 12, (uint32_t)head->cmdline_bytes);
    uint8_t *at = bytes + PORT_HEADER_BYTES;
    memcpy(at, cmdline ? cmdline : "", head->cmdline_bytes);
    at += head->cmdline_bytes;
    if (head->counters) {
        bytes_put_u32(at, (uint32_t)head->counters_bytes);
        memcpy(at + COUNTERS_HEAD_BYTES, head->counters, head->counters_bytes);
    }
}

static int header_decode(const uint8_t *bytes, size_t count, struct port_head *ret_head,
                         struct fault *fault)
{
    if (count < PORT_HEADER_BYTES || bytes_get_u32(bytes) != PORT_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "machine state without its header");
    if (bytes_get_u32(bytes + 4) != PORT_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "machine state of version %u, this host knows %d",
                         bytes_get_u32(bytes + 4), PORT_VERSION);
    uint32_t flags = bytes_get_u32(bytes + 8);
    uint32_t cmdline_bytes = bytes_get_u32(bytes + 12);
    if (flags & ~(uint32_t)PORT_FLAGS || !(flags & PORT_FLAG_CMDLINE) != !cmdline_bytes)
        return fault_set(fault, ERR_CORRUPT, "machine state with unknown flags %#x", flags);
    if (cmdline_bytes > CMDLINE_MAX || cmdline_bytes > count - PORT_HEADER_BYTES ||
        memchr(bytes + PORT_HEADER_BYTES, 0, cmdline_bytes))
        return fault_set(fault, ERR_CORRUPT, "machine state with a command line of %u bytes",
                         cmdline_bytes);
    struct port_head head = {.paused = flags & PORT_FLAG_PAUSED,
                             .cmdline_bytes = cmdline_bytes,
                             .bytes = PORT_HEADER_BYTES + cmdline_bytes};
    if (flags & PORT_FLAG_COUNTERS) {
        size_t left = count - head.bytes;
        head.counters_bytes =
            left < COUNTERS_HEAD_BYTES ? SIZE_MAX : bytes_get_u32(bytes + head.bytes);
        if (head.counters_bytes > COUNTERS_BYTES_MAX ||
            head.counters_bytes > left - COUNTERS_HEAD_BYTES)
            return fault_set(fault, ERR_CORRUPT, "machine state whose counters leave it");
        head.counters = bytes + head.bytes + COUNTERS_HEAD_BYTES;
        head.bytes += COUNTERS_HEAD_BYTES + head.counters_bytes;
    }
    *ret_head = head;
    return 0;
}

static int on_throttle(void *owner, unsigned permille, uint64_t *ret_held_ns, struct fault *fault)
{
    struct guest_port *port = owner;

    int r = vm_brake(port->vm, permille, fault);
    *ret_held_ns = vm_held_ns(port->vm);
    return r;
}

static int on_save(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    struct guest_port *port = owner;

    assert(!vm_is_running(port->vm));
    if (atomic_load(&port->ended))
        return fault_set(fault, ERR_STATE, "the guest reset or ended itself while it moved");
    for (unsigned i = 0; i < port->disk_count; i++) {
        int broken = disk_region_check(port->disks[i], fault);
        if (broken < 0)
            return broken;
    }

    enum failpoint_action wrong = failpoint(FAILPOINT_VM_SAVE);
    if (wrong == FAILPOINT_ERROR)
        return failpoint_fail(FAILPOINT_VM_SAVE, fault);
    AUTO_FREE uint8_t *machine = NULL;
    size_t count = 0;
    int r = vm_save(port->vm, &machine, &count, fault);
    if (r < 0)
        return r;
    AUTO_FREE uint8_t *counted = NULL;
    struct port_head head = {.paused = !port->guest.was_running};
    if (port->guest.takes_counters) {
        struct counters counters = *port->before;
        counters_add(&counters, port->vm, false); /* its memory is sent already */
        r = counters_save(&counters, &counted, &head.counters_bytes, fault);
        if (r < 0)
            return r;
        head.counters = counted;
    }
    const char *cmdline = vm_spec_boots_from_disk(port->spec) ? port->spec->cmdline : NULL;
    head.cmdline_bytes = cmdline ? strlen(cmdline) : 0;
    head.bytes = PORT_HEADER_BYTES + head.cmdline_bytes +
                 (counted ? COUNTERS_HEAD_BYTES + head.counters_bytes : 0);
    uint8_t *bytes = malloc(head.bytes + count);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for %zu bytes of machine state", count);
    header_encode(&head, cmdline, bytes);
    memcpy(bytes + head.bytes, machine, count);
    *ret_bytes = bytes;
    *ret_count = wrong == FAILPOINT_TRUNCATE ? (head.bytes + count) / 2 : head.bytes + count;
    return 0;
}

static int on_load(void *owner, const uint8_t *bytes, size_t count, uint64_t paused_ns,
                   struct fault *fault)
{
    struct guest_port *port = owner;
    struct port_head head = {0};
    struct counters loaded = *port->before; /* how many of which */

    int r = header_decode(bytes, count, &head, fault);
    if (r == 0 && head.counters)
        r = counters_load(&loaded, head.counters, head.counters_bytes, fault);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < port->disk_count; i++) {
        r = disk_region_settle(port->disks[i], fault);
        if (r < 0)
            return r;
    }
    port->loaded_ns = world_now_ns();
    port->paused_ns = paused_ns;
    enum failpoint_action wrong = failpoint(FAILPOINT_VM_LOAD);
    if (wrong == FAILPOINT_ERROR)
        return failpoint_fail(FAILPOINT_VM_LOAD, fault);
    if (wrong == FAILPOINT_TRUNCATE)
        count = head.bytes + (count - head.bytes) / 2;
    r = vm_load(port->vm, bytes + head.bytes, count - head.bytes, paused_ns, fault);
    if (r < 0)
        return r;
    if (head.cmdline_bytes) /* without memory for it a reset stops the VM, visibly */
        port->cmdline = strndup((const char *)bytes + PORT_HEADER_BYTES, head.cmdline_bytes);
    port->stays_paused = head.paused;
    port->loaded = loaded;
    port->has_loaded = head.counters;
    return 0;
}

static const struct guest_ops port_guest_ops = {
    .pause = on_pause,
    .resume = on_resume,
    .throttle = on_throttle,
    .save = on_save,
    .load = on_load,
};

/* ---- its RAM ---- */
static int ram_track_start(struct region *region, struct fault *fault)
{
    struct guest_port *port = region->owner;

    assert(!port->tracker);
    return dirty_tracker_new(&port->tracker, port->vm, fault);
}

static void ram_track_stop(struct region *region, bool goes_on)
{
    struct guest_port *port = region->owner;

    port->tracker =
        goes_on ? dirty_tracker_free(port->tracker) : dirty_tracker_leave(port->tracker);
}

static int ram_collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    struct guest_port *port = region->owner;

    assert(port->tracker);
    int r = dirty_tracker_collect(port->tracker, dirty, fault);
    if (r == DIRTY_TRACKER_E_LOST) {
        bitmap_set_all(dirty);
        return 0;
    }
    return r;
}

static int ram_clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                     struct fault *fault)
{
    struct guest_port *port = region->owner;

    assert(port->tracker);
    return dirty_tracker_clear(port->tracker, first_page, mask, fault);
}

static int ram_clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    struct guest_port *port = region->owner;

    assert(port->tracker);
    return dirty_tracker_clear_many(port->tracker, pages, fault);
}

static int ram_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    struct guest_port *port = region->owner;

    return guest_memory_populated(vm_memory(port->vm), ret_populated, fault);
}

static int ram_populate(struct region *region, uint64_t first_page, uint64_t pages,
                        struct fault *fault)
{
    struct guest_port *port = region->owner;

    return guest_memory_populate(vm_memory(port->vm), first_page, pages, fault);
}

/* A hugetlb page is 2 MiB: of those none is given up in parts. */
static int ram_discard(struct region *region, uint64_t first_page, uint64_t pages,
                       struct fault *fault)
{
    struct guest_port *port = region->owner;

    if (guest_memory_discard_host(vm_memory(port->vm), region->base + first_page * PAGE_BYTES,
                                  pages * PAGE_BYTES) != pages)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "this host does not take memory from a guest page by page");
    return 0;
}

static const struct region_ops port_ram_ops = {
    .track_start = ram_track_start,
    .track_stop = ram_track_stop,
    .collect = ram_collect,
    .clear = ram_clear,
    .clear_many = ram_clear_many,
    .populated = ram_populated,
    .populate = ram_populate,
    .discard = ram_discard,
};

/* ---- both, where they change hands without travelling ---- */
static int hand_track_start(struct region *region, struct fault *fault)
{
    struct guest_port *port = region->owner;
    (void)fault;
    port->is_handing_over = true;
    return 0;
}

static void hand_track_stop(struct region *region, bool goes_on)
{
    struct guest_port *port = region->owner;
    (void)goes_on;
    port->is_handing_over = false;
}

static int hand_collect(struct region *region, struct bitmap *dirty, struct fault *fault)
{
    (void)region;
    (void)dirty;
    (void)fault;
    return 0; /* whatever was written, the other end has it */
}

static int hand_clear(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                      struct fault *fault)
{
    (void)region;
    (void)first_page;
    (void)mask;
    (void)fault;
    return 0;
}

static int hand_clear_many(struct region *region, const struct bitmap *pages, struct fault *fault)
{
    (void)region;
    (void)pages;
    (void)fault;
    return 0;
}

/* Asked before, so that the other end maps what is there. What comes later needs no telling, and a
 * page that were told of now would be sent. */
static int hand_populated(struct region *region, struct bitmap *ret_populated, struct fault *fault)
{
    struct guest_port *port = region->owner;

    if (port->is_handing_over || region->id != 0) {
        bitmap_clear_all(ret_populated);
        return 0;
    }
    return guest_memory_populated(vm_memory(port->vm), ret_populated, fault);
}

static int hand_populate(struct region *region, uint64_t first_page, uint64_t pages,
                         struct fault *fault)
{
    struct guest_port *port = region->owner;

    return region->id == 0 ? guest_memory_populate(vm_memory(port->vm), first_page, pages, fault)
                           : 0;
}

static const struct region_ops port_hand_ops = {
    .track_start = hand_track_start,
    .track_stop = hand_track_stop,
    .collect = hand_collect,
    .clear = hand_clear,
    .clear_many = hand_clear_many,
    .populated = hand_populated,
    .populate = hand_populate,
};

/* ---- the port ---- */
static void set_regions(struct guest_port *port)
{
    port->regions[0] = (struct region){
        .ops = &port_ram_ops,
        .owner = port,
        .name = "ram",
        .id = 0,
        .pages = guest_memory_pages(vm_memory(port->vm)),
        .base = guest_memory_base(vm_memory(port->vm)),
    };
    boot_files_region(port->files, 1, &port->regions[1]);
}

void guest_port_set_in_place(struct guest_port *port, bool in_place)
{
    set_regions(port);
    for (size_t i = 0; in_place && i < FIXED_REGIONS; i++) {
        port->regions[i].ops = &port_hand_ops;
        port->regions[i].owner = port;
        port->regions[i].shared_id = guest_memory_id(vm_memory(port->vm));
    }
}

int guest_port_new(struct guest_port **ret_port, struct vm *vm, struct boot_files *files,
                   const Godwit__VmSpec *spec, const char *vm_id, const struct counters *before,
                   struct fault *fault)
{
    struct guest_port *port = calloc(1, sizeof *port);
    if (!port)
        return fault_set(fault, ERR_NOMEM, "no memory for a guest's port");

    pthread_mutex_init(&port->gate_mutex, NULL);
    port->vm = vm;
    port->spec = spec;
    port->files = files;
    port->before = before;
    set_regions(port);
    port->guest = (struct guest){
        .ops = &port_guest_ops,
        .owner = port,
        .vm_id = vm_id,
        .name = spec->name,
        .machine = "godwit-1",
        .baseline = spec->cpu->baseline,
        .vcpus = vm_vcpus(vm),
        .regions = port->regions,
        .region_count = FIXED_REGIONS,
    };
    *ret_port = port;
    return 0;
}

struct guest_port *guest_port_free(struct guest_port *port)
{
    if (port) {
        guest_port_drop_disks(port);
        (void)dirty_tracker_free(port->tracker);
        pthread_mutex_destroy(&port->gate_mutex);
        free(port->cmdline);
        free(port);
    }
    return NULL;
}

char *guest_port_take_cmdline(struct guest_port *port)
{
    return TAKE(port->cmdline);
}

bool guest_port_take_counters(struct guest_port *port, struct counters *ret_counters)
{
    if (!port->has_loaded)
        return false;
    *ret_counters = port->loaded;
    port->has_loaded = false;
    return true;
}

bool guest_port_pause_ns(const struct guest_port *port, uint64_t *ret_ns)
{
    if (!port->pause_ns)
        return false;
    *ret_ns = port->pause_ns;
    return true;
}

struct guest *guest_port_guest(struct guest_port *port)
{
    return &port->guest;
}

int guest_port_add_disk(struct guest_port *port, unsigned index, int fd, uint64_t bytes,
                        bool incoming, struct fault *fault)
{
    assert(port->disk_count < DISKS_MAX && index < port->spec->n_disks);
    int r = disk_region_new(&port->disks[port->disk_count], incoming ? NULL : port->vm, index,
                            port->spec->disks[index]->name, fd, bytes, fault);
    if (r < 0)
        return r;
    disk_region_fill(port->disks[port->disk_count], FIXED_REGIONS + index,
                     &port->regions[port->guest.region_count]);
    port->guest.region_count++;
    port->disk_count++;
    return 0;
}

void guest_port_drop_disks(struct guest_port *port)
{
    while (port->disk_count > 0) {
        port->disk_count--;
        port->disks[port->disk_count] = disk_region_free(port->disks[port->disk_count]);
    }
    port->guest.region_count = FIXED_REGIONS;
}

void guest_port_set_ended(struct guest_port *port)
{
    atomic_store(&port->ended, true);
}

int guest_port_resume(struct guest_port *port, struct fault *fault)
{
    int r = vm_resume(port->vm, fault);
    if (r < 0)
        return r;
    port->stays_paused = false;
    gate_set(port, true);
    return 0;
}

void guest_port_pause(struct guest_port *port)
{
    gate_set(port, false);
    vm_pause(port->vm);
}

bool guest_port_stays_paused(const struct guest_port *port)
{
    return port->stays_paused;
}

size_t guest_port_input(struct guest_port *port, const uint8_t *bytes, size_t count)
{
    size_t taken = 0;

    pthread_mutex_lock(&port->gate_mutex);
    if (port->gate_open)
        taken = vm_serial_input(port->vm, bytes, count);
    pthread_mutex_unlock(&port->gate_mutex);
    return taken;
}

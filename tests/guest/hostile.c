/* Pure noise is refused at the first look, so three kinds of attack alternate: noise; a device set
 * up as the book says, but with an arena of noise for its queues; and single wrong steps on a
 * device that works. */
#include "hostile.h"

#include <stdbool.h>

#include "boot.h"
#include "machine.h"
#include "mix.h"
#include "pci.h"

enum {
    VENDOR = 0x1af4,
    FUNCTIONS_MAX = 16,
    BAR_BYTES = 0x4000,
    COMMON_BYTES = 0x40,
    ATTACKS_PER_STEP = 16,

    OFFERED_SELECT = 0x00,
    OFFERED = 0x04,
    FEATURE_SELECT = 0x08,
    FEATURE = 0x0c,
    DEVICE_STATUS = 0x14,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    QUEUE_ADDRESSES = 0x20,
    STATUS_ALL = 0x0f,

    WINDOW_COMMON = 1,
    WINDOW_NOTIFY = 2,
    WINDOW_DEVICE = 4,
    WINDOWS = 5,
    CAPABILITY_VENDOR = 0x09,
    CAPABILITY_MSIX = 0x11,

    QUEUES = 6,
    ARENA_BYTES = 256 << 10,
    ARENA_TAIL_BYTES = 32 << 10, /* of queues that begin at the arena's end */
    RING_DESCRIPTORS_MAX = 256,
};

struct victim {
    struct pci_place place;
    uint64_t bar;
    uint64_t windows[WINDOWS]; /* 0: none */
    uint64_t msix_table;
    uint64_t queues[QUEUES][3]; /* where they were set up last; any vCPU, any order */
    uint32_t back_door;         /* the capability by which configuration space reaches the BAR */
};

static uint8_t arena[ARENA_BYTES + ARENA_TAIL_BYTES] __attribute__((aligned(65536)));
static struct victim victims[FUNCTIONS_MAX];
static uint32_t victim_count;
static uint64_t seed_now;

/* atomic */
static uint64_t attacks, rounds; /* `rounds` counts starts */
static uint32_t active;          /* vCPUs that attack just now */
static bool wanted;

/* Chance of each vCPU. */
static struct chance {
    uint64_t state, round;
    bool has_ports; /* vCPU 0 only: 0xCF8 and 0xCFC are one pair for all */
} chances[BOOT_VCPUS_MAX];

static uint64_t draw(struct chance *chance)
{
    return mix64(++chance->state);
}

static uint64_t below(struct chance *chance, uint64_t limit)
{
    return draw(chance) % limit;
}

static void poke(uint64_t address, uint32_t bytes, uint64_t value)
{
    switch (bytes) {
    case 1:
        *(volatile uint8_t *)address = (uint8_t)value;
        break;
    case 2:
        *(volatile uint16_t *)address = (uint16_t)value;
        break;
    case 4:
        *(volatile uint32_t *)address = (uint32_t)value;
        break;
    default:
        *(volatile uint64_t *)address = value;
        break;
    }
}

static void peek(uint64_t address, uint32_t bytes)
{
    switch (bytes) {
    case 1:
        (void)*(volatile uint8_t *)address;
        break;
    case 2:
        (void)*(volatile uint16_t *)address;
        break;
    case 4:
        (void)*(volatile uint32_t *)address;
        break;
    default:
        (void)*(volatile uint64_t *)address;
        break;
    }
}

static uint64_t arena_place(struct chance *chance, uint64_t align)
{
    return (uint64_t)arena + below(chance, ARENA_BYTES / align) * align;
}

/* In the arena, at its very end, over it, behind all RAM, wrapping, or in the hole. */
static uint64_t bad_address(struct chance *chance)
{
    switch (below(chance, 8)) {
    case 0:
        return ~below(chance, 4096);
    case 1:
        return UINT64_C(0xc0000000) + below(chance, UINT64_C(0x3ec00000));
    case 2:
        return UINT64_C(1) << (33 + below(chance, 31)) | below(chance, UINT64_C(1) << 33);
    case 3:
        return arena_place(chance, 1);
    default:
        return arena_place(chance, 16);
    }
}

/* A length that stays in the arena, mostly; one that does not begins where there is no memory. */
static uint32_t bad_length(struct chance *chance, uint64_t address)
{
    uint64_t start = (uint64_t)arena;
    if (address < start || address >= start + ARENA_BYTES)
        return (uint32_t)draw(chance);
    return (uint32_t)below(chance, start + ARENA_BYTES - address + 1);
}

/* A descriptor of either kind of ring: both begin with an address and a length. */
static void scribble_descriptor(struct chance *chance, uint64_t at)
{
    uint64_t address = bad_address(chance);

    poke(at, 8, address);
    poke(at + 8, 4, bad_length(chance, address));
    poke(at + 12, 2,
         below(chance, 4) ? below(chance, 8) : draw(chance)); /* split: flags. packed: the id */
    poke(at + 14, 2, below(chance, 2) ? below(chance, RING_DESCRIPTORS_MAX) : draw(chance));
}

/* Indirect tables lie in the arena as well, so descriptors are all over it. */
static void scribble_arena(struct chance *chance)
{
    for (uint64_t i = 1 + below(chance, 64); i-- > 0;)
        scribble_descriptor(chance, arena_place(chance, 16));
    for (uint64_t i = below(chance, 32); i-- > 0;) /* indices, requests, headers */
        poke(arena_place(chance, 2), 2,
             below(chance, 2) ? below(chance, RING_DESCRIPTORS_MAX) : draw(chance));
}

static bool is_in_arena(uint64_t address)
{
    return address >= (uint64_t)arena && address < (uint64_t)arena + ARENA_BYTES;
}

/* What a driver offers, nearly: a chain that leads into the arena, a header that some device knows,
 * indices that went on by one. Each part may be wrong. */
static void offer(struct chance *chance, const struct victim *victim)
{
    uint32_t queue = (uint32_t)below(chance, below(chance, 2) ? 2 : QUEUES);
    uint64_t descriptors = victim->queues[queue][0], driver = victim->queues[queue][1];
    bool packed = below(chance, 2);
    uint32_t first = (uint32_t)below(chance, packed ? 4 : 64);
    uint32_t parts = 2 + (uint32_t)below(chance, 3);

    if (!is_in_arena(descriptors) || !is_in_arena(driver))
        return;
    for (uint32_t i = 0; i < parts; i++) {
        uint64_t at = descriptors + (first + i) * 16, part = arena_place(chance, 16);
        bool next = i + 1 < parts, writable = !next || below(chance, 4) == 0;
        uint64_t flags = (next ? 1U : 0U) | (writable ? 2U : 0U);

        if (below(chance, 32) == 0) {
            scribble_descriptor(chance, at);
            continue;
        }
        poke(at, 8, part);
        poke(at + 8, 4, i == 0 ? 16 : i + 1 == parts ? 1 + below(chance, 32) : 512);
        poke(at + 12, 2, packed ? first : flags);
        poke(at + 14, 2, packed ? flags | 1U << 7 : first + i + 1);
        if (i == 0) { /* a disk's request, or anything */
            poke(part, 4, below(chance, 5));
            poke(part + 8, 8, below(chance, 8) ? below(chance, 9000) : draw(chance));
        }
    }
    if (packed)
        return;

    uint16_t index = *(volatile uint16_t *)(volatile void *)(uint64_t)(driver + 2);

    for (uint32_t i = 0; i < 256; i++) /* the ring's size is not remembered: all the same */
        poke(driver + 4 + i * 2, 2, first);
    poke(driver + 2, 2, below(chance, 64) ? index + 1U : draw(chance));
}

static void write_common(struct victim *victim, uint32_t offset, uint32_t bytes, uint64_t value)
{
    if (victim->windows[WINDOW_COMMON])
        poke(victim->windows[WINDOW_COMMON] + offset, bytes, value);
}

static void set_up_queue(struct chance *chance, struct victim *victim, uint16_t queue)
{
    write_common(victim, QUEUE_SELECT, 2, queue);
    write_common(victim, QUEUE_SIZE, 2, UINT64_C(1) << below(chance, 9));
    write_common(victim, QUEUE_VECTOR, 2, below(chance, 2) ? below(chance, 4) : 0xffff);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t address = below(chance, 16) ? arena_place(chance, 16) : bad_address(chance);

        if (queue < QUEUES)
            victim->queues[queue][i] = address;
        write_common(victim, QUEUE_ADDRESSES + i * 8, 4, (uint32_t)address);
        write_common(victim, QUEUE_ADDRESSES + i * 8 + 4, 4, address >> 32);
    }
    write_common(victim, QUEUE_ENABLE, 2, 1);
}

static void ring_doorbells(struct chance *chance, struct victim *victim)
{
    for (uint64_t i = 1 + below(chance, 8); i-- > 0 && victim->windows[WINDOW_NOTIFY];)
        poke(victim->windows[WINDOW_NOTIFY] + below(chance, 16) * 4,
             below(chance, 4) ? 2 : UINT32_C(1) << below(chance, 4), below(chance, 8));
}

static uint32_t offered(struct victim *victim, uint32_t half)
{
    volatile uint8_t *common = (volatile uint8_t *)victim->windows[WINDOW_COMMON];

    if (!common)
        return 0;
    write_common(victim, OFFERED_SELECT, 4, half);
    return *(volatile uint32_t *)(volatile void *)(common + OFFERED);
}

/* As the book says, but for what it finds. */
static void set_up(struct chance *chance, struct victim *victim)
{
    if (chance->has_ports)
        pci_write16(victim->place, 0x04, 0x0006);
    write_common(victim, DEVICE_STATUS, 1, 0);
    write_common(victim, DEVICE_STATUS, 1, 3);
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t chosen = (uint32_t)draw(chance);

        if (below(chance, 16)) /* some of what is offered, and of the second half VERSION_1 */
            chosen = (chosen & offered(victim, half)) | half;
        write_common(victim, FEATURE_SELECT, 4, half);
        write_common(victim, FEATURE, 4, chosen);
    }
    write_common(victim, DEVICE_STATUS, 1, 0x0b);
    scribble_arena(chance);
    for (uint16_t queue = 0; queue < QUEUES; queue++)
        set_up_queue(chance, victim, queue);
    write_common(victim, DEVICE_STATUS, 1, STATUS_ALL);
    ring_doorbells(chance, victim);
}

/* A message that is sent reaches nobody: the address names a CPU that is not there. */
static void scribble_msix(struct chance *chance, struct victim *victim)
{
    uint64_t entry = victim->msix_table + below(chance, 40) * 16;

    if (!victim->msix_table)
        return;
    poke(entry, 4, UINT32_C(0xfee00000) | (uint32_t)(0x40 + below(chance, 0x80)) << 12);
    poke(entry + 4, 4, below(chance, 4) ? 0 : draw(chance));
    poke(entry + 8, 4, draw(chance));
    poke(entry + 12, 4, draw(chance));
}

static bool port_ends_the_attack(uint16_t port)
{
    return (port >= 0x3f5 && port <= 0x3ff) || (port >= 0x601 && port <= 0x605) || port == 0x64 ||
           (port >= 0x61 && port <= 0x63) || (port >= 0xcf6 && port <= 0xcf9) || port == 0x92;
}

static void scribble_ports(struct chance *chance)
{
    static const uint16_t favourites[] = {0x70,  0x71,  0x600, 0x606, 0x608, 0xcfa,
                                          0xcfc, 0xcfd, 0xcfe, 0xcff, 0x40,  0x43};
    uint16_t port = below(chance, 4)
                        ? favourites[below(chance, sizeof favourites / sizeof favourites[0])]
                        : (uint16_t)below(chance, BOOT_IO_PORTS - 4);

    if (port_ends_the_attack(port))
        return;
    switch (below(chance, 4)) {
    case 0:
        machine_out8(port, (uint8_t)draw(chance));
        break;
    case 1:
        machine_out16(port, (uint16_t)draw(chance));
        break;
    case 2:
        (void)machine_in8(port);
        break;
    default:
        (void)machine_in32(port);
        break;
    }
}

/* Commands, BARs moved onto each other, capabilities, bytes that nobody owns. */
static void scribble_configuration(struct chance *chance, struct victim *victim)
{
    uint32_t offset = (uint32_t)below(chance, 256);

    if (offset >= victim->back_door && offset < victim->back_door + 20)
        return; /* noise there finds queues' addresses, and soon the guest is dead */
    if (below(chance, 2)) {
        pci_write16(victim->place, offset & 0xfe, (uint16_t)draw(chance));
    } else {
        uint64_t ecam = UINT64_C(0xe0000000) + ((uint64_t)victim->place.slot << 15);

        poke(ecam + (below(chance, 4) ? offset & 0xfc : below(chance, 4096) & 0xffc),
             UINT32_C(1) << below(chance, 3), draw(chance));
    }
    if (below(chance, 4)) { /* and back, or nothing below would be heard any more */
        pci_write16(victim->place, 0x10, (uint16_t)victim->bar);
        pci_write16(victim->place, 0x12, (uint16_t)(victim->bar >> 16));
        pci_write16(victim->place, 0x14, (uint16_t)(victim->bar >> 32));
        pci_write16(victim->place, 0x16, 0);
        pci_write16(victim->place, 0x04, 0x0006);
    }
}

static void scribble_window(struct chance *chance, struct victim *victim)
{
    uint32_t bytes = UINT32_C(1) << below(chance, 4);
    uint64_t offset = below(chance, 4) ? below(chance, COMMON_BYTES) : below(chance, BAR_BYTES);
    uint64_t at = victim->bar + offset;

    /* Addresses of queues lead into the arena or nowhere; entries of MSI-X have their own attack.
     */
    bool addresses = offset + bytes > QUEUE_ADDRESSES && offset < COMMON_BYTES;
    bool table =
        victim->msix_table && at + bytes > victim->msix_table && at < victim->msix_table + 2048;
    bool status = offset <= DEVICE_STATUS && offset + bytes > DEVICE_STATUS && below(chance, 8);

    if (below(chance, 3) == 0 || addresses || table || status)
        peek(at, bytes);
    else
        poke(at, bytes, draw(chance));
}

static void attack(struct chance *chance)
{
    struct victim *victim = &victims[below(chance, victim_count)];

    switch (below(chance, chance->has_ports ? 12 : 10)) {
    case 0:
        if (below(chance, 4) == 0) /* it ends what works */
            set_up(chance, victim);
        break;
    case 1:
        scribble_msix(chance, victim);
        break;
    case 2:
    case 3:
        scribble_window(chance, victim);
        break;
    case 4:
        peek(UINT64_C(0xc0000000) + below(chance, UINT64_C(0x3ec00000)), UINT32_C(1)
                                                                             << below(chance, 4));
        break;
    case 5:
        if (below(chance, 4) == 0)
            set_up_queue(chance, victim,
                         (uint16_t)(below(chance, 4) ? below(chance, 8) : draw(chance)));
        break;
    case 10:
        scribble_configuration(chance, victim);
        break;
    case 11:
        scribble_ports(chance);
        break;
    case 6:
        scribble_arena(chance);
        ring_doorbells(chance, victim);
        break;
    default:
        for (uint64_t i = 1 + below(chance, 4); i-- > 0;)
            offer(chance, victim);
        ring_doorbells(chance, victim);
        break;
    }
}

static void find_windows(struct victim *victim)
{
    for (uint32_t at = pci_next_capability(victim->place, 0); at;
         at = pci_next_capability(victim->place, at)) {
        uint32_t id = pci_read(victim->place, at, 1);
        uint32_t kind = pci_read(victim->place, at + 3, 1);

        if (id == CAPABILITY_MSIX)
            victim->msix_table = victim->bar + (pci_read(victim->place, at + 4, 4) & ~UINT32_C(7));
        else if (id == CAPABILITY_VENDOR && kind == WINDOWS)
            victim->back_door = at;
        else if (id == CAPABILITY_VENDOR && kind < WINDOWS)
            victim->windows[kind] = victim->bar + pci_read(victim->place, at + 8, 4);
    }
}

static void find_victims(void)
{
    for (uint8_t slot = 0; slot < 32 && victim_count < FUNCTIONS_MAX; slot++) {
        struct victim *victim = &victims[victim_count]; /* in place: there is no memcpy here */

        victim->place.slot = slot;
        if (pci_read(victim->place, 0, 2) != VENDOR)
            continue;
        victim->bar = pci_bar(victim->place, 0);
        if (!victim->bar)
            continue;
        find_windows(victim);
        victim_count++;
    }
}

void hostile_start(uint64_t seed)
{
    hostile_stop();
    if (!victim_count)
        find_victims();
    seed_now = seed;
    __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&wanted, victim_count > 0, __ATOMIC_SEQ_CST);
}

void hostile_stop(void)
{
    __atomic_store_n(&wanted, false, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&active, __ATOMIC_SEQ_CST))
        machine_pause();
}

uint64_t hostile_attacks(void)
{
    return __atomic_load_n(&attacks, __ATOMIC_RELAXED);
}

void hostile_step(uint32_t index)
{
    struct chance *chance = &chances[index];

    if (!__atomic_load_n(&wanted, __ATOMIC_RELAXED))
        return;
    __atomic_add_fetch(&active, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&wanted, __ATOMIC_SEQ_CST)) {
        uint64_t round = __atomic_load_n(&rounds, __ATOMIC_RELAXED);

        if (chance->round != round)
            *chance = (struct chance){mix64(seed_now << 8 | index), round, index == 0};
        for (uint32_t i = 0; i < ATTACKS_PER_STEP; i++)
            attack(chance);
        __atomic_add_fetch(&attacks, ATTACKS_PER_STEP, __ATOMIC_RELAXED);
    }
    __atomic_sub_fetch(&active, 1, __ATOMIC_SEQ_CST);
}

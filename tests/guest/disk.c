/* A block has at most one write on its way, so what must be on the disk is always known: the last
 * acknowledged counter, or, while a write is on its way, one of two. Every so many writes a flush goes
 * out between them. */
#include "disk.h"

#include "clock.h"
#include "interrupt.h"
#include "latency.h"
#include "machine.h"
#include "mix.h"
#include "option.h"
#include "record.h"
#include "vcpu.h"
#include "virtio.h"

enum {
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    HEADER_BYTES = 16,
    SECTORS = DISK_BLOCK_BYTES / 512,
    DEPTH = 32, /* requests at once */
    CONFIG_CAPACITY = 0,
    VECTOR = INTERRUPT_VECTOR_FIRST,
    STEP_TAKES_MAX = 16,
};

#define F_READ_ONLY (UINT64_C(1) << 5)
#define F_FLUSH (UINT64_C(1) << 9)
#define ANSWER_NS UINT64_C(60000000000)

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
    bool busy;
    uint32_t block;
    uint64_t counter, sent_tsc;
} __attribute__((aligned(16)));

static struct {
    bool there, on;
    struct virtio device;
    struct virtio_ring ring;
    struct request requests[DEPTH];
    uint64_t data[DEPTH][DISK_WORDS] __attribute__((aligned(4096)));
    uint64_t acknowledged[DISK_BLOCKS_MAX]; /* counter of each block; 0: never written */
    bool pending[DISK_BLOCKS_MAX];
    uint32_t blocks;
    uint64_t seed, random, counter;
    uint64_t interval_ticks, next_tsc;
    uint64_t seen_interrupts;
    uint32_t depth, busy;
    uint64_t flush_every, since_flush;
    bool in_order;
    uint32_t next_block; /* in order */
    struct disk_numbers numbers;
    struct latency writes, flushes; /* since disk_mark */
    struct disk_verdict *verdict; /* while verifying */
} disk;

static uint64_t block_word(uint32_t block, uint64_t counter, uint32_t word)
{
    return mix64(disk.seed ^ mix64(counter) ^ ((uint64_t)block << 32 | word));
}

static uint64_t block_sum(const uint64_t *words)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < DISK_WORDS - 1; i++)
        sum = (sum << 7 | sum >> 57) ^ words[i];
    return mix64(sum);
}

static void make_block(uint64_t *words, uint32_t block, uint64_t counter)
{
    words[0] = DISK_MAGIC;
    words[1] = block;
    words[2] = counter;
    words[3] = disk.seed;
    for (uint32_t i = 4; i < DISK_WORDS - 1; i++)
        words[i] = block_word(block, counter, i);
    words[DISK_WORDS - 1] = block_sum(words);
}

static const char *blame_block(const uint64_t *words, uint32_t block, uint64_t want)
{
    if (words[0] != DISK_MAGIC)
        return words[0] == 0 ? "zero" : "torn";
    if (words[DISK_WORDS - 1] != block_sum(words))
        return "torn";
    if (words[1] != block || words[3] != disk.seed)
        return "swapped";
    if (words[2] != want)
        return words[2] < want ? "stale" : "newer";
    for (uint32_t i = 4; i < DISK_WORDS - 1; i++) {
        if (words[i] != block_word(block, want, i))
            return "torn";
    }
    return 0;
}

static void complain(const char *what)
{
    struct record record;

    record_begin(&record, "error");
    record_text(&record, "disk", what);
    record_end(&record);
}

void disk_init(const struct options *options)
{
    if (!options->disk_mib)
        return;

    uint64_t wanted = F_FLUSH | F_READ_ONLY | options->ring_features;

    if (!virtio_begin(&disk.device, VIRTIO_DEVICE_BLOCK, 0, wanted,
                      options->use_interrupts ? VECTOR : 0) ||
        !virtio_add_ring(&disk.device, &disk.ring, 0, true)) {
        complain("none");
        return;
    }

    uint64_t sectors = virtio_config_read(&disk.device, CONFIG_CAPACITY, 4) |
                       (uint64_t)virtio_config_read(&disk.device, CONFIG_CAPACITY + 4, 4) << 32;
    uint64_t blocks = sectors / SECTORS;

    if (blocks > options->disk_mib * (1 << 20) / DISK_BLOCK_BYTES)
        blocks = options->disk_mib * (1 << 20) / DISK_BLOCK_BYTES;
    if (blocks > DISK_BLOCKS_MAX)
        blocks = DISK_BLOCKS_MAX;
    if (blocks < DEPTH || disk.device.features & F_READ_ONLY) {
        complain(blocks < DEPTH ? "too_small" : "read_only");
        return;
    }
    disk.blocks = (uint32_t)blocks;
    disk.seed = options->seed;
    disk.random = mix64(options->seed ^ UINT64_C(0x6469736b));
    disk.depth = disk.ring.requests < DEPTH ? disk.ring.requests : DEPTH;
    virtio_go(&disk.device);
    disk.there = true;
    disk_set_rate(options->disk_rate);
    disk_set_flush_every(options->disk_flush);
    disk_set_in_order(options->disk_in_order);
    disk.on = true;
    (void)virtio_rearm(&disk.ring);
}

bool disk_is_there(void)
{
    return disk.there;
}

static int32_t free_request(void)
{
    for (uint32_t i = 0; i < disk.depth; i++) {
        if (!disk.requests[i].busy)
            return (int32_t)i;
    }
    return -1;
}

static void send(uint32_t index, uint32_t type, uint32_t block)
{
    struct request *request = &disk.requests[index];
    struct virtio_part parts[3];
    uint32_t count = 0;

    request->header.type = type;
    request->header.sector = type == TYPE_FLUSH ? 0 : (uint64_t)block * SECTORS;
    request->status = 0xff;
    request->busy = true;
    request->block = block;
    request->sent_tsc = machine_tsc();
    disk.busy++;
    parts[count++] = (struct virtio_part){&request->header, HEADER_BYTES, false};
    if (type != TYPE_FLUSH)
        parts[count++] = (struct virtio_part){disk.data[index], DISK_BLOCK_BYTES, type == TYPE_IN};
    parts[count++] = (struct virtio_part){&request->status, 1, true};
    virtio_offer(&disk.ring, (uint16_t)index, parts, count);
}

static void judge(const struct request *request, const uint64_t *words)
{
    struct disk_verdict *verdict = disk.verdict;
    const char *why = blame_block(words, request->block, request->counter);

    disk.numbers.read++;
    verdict->blocks++;
    if (!why)
        return;
    if (verdict->bad++ == 0) {
        verdict->first = request->block;
        verdict->want = request->counter;
        verdict->found = words[2];
        verdict->why = why;
    }
}

static void finish(uint32_t index)
{
    struct request *request = &disk.requests[index];

    request->busy = false;
    disk.busy--;
    if (request->status != 0)
        disk.numbers.errors++;
    switch (request->header.type) {
    case TYPE_OUT:
        latency_add(&disk.writes, machine_tsc() - request->sent_tsc);
        disk.pending[request->block] = false;
        if (request->status != 0) {
            disk.acknowledged[request->block] = 0; /* it may hold anything until it is written again */
            return;
        }
        disk.acknowledged[request->block] = request->counter;
        disk.numbers.written++;
        break;
    case TYPE_FLUSH:
        latency_add(&disk.flushes, machine_tsc() - request->sent_tsc);
        disk.numbers.flushes += request->status == 0;
        break;
    case TYPE_IN:
        if (request->status == 0 && disk.verdict)
            judge(request, disk.data[index]);
        break;
    }
}

/* With interrupts the ring is looked at only when one came: a lost one shows as a device that does
 * not answer. */
static void take_all(uint32_t most)
{
    if (disk.ring.vector) {
        uint64_t count = interrupt_count(disk.ring.vector);

        if (count == disk.seen_interrupts)
            return;
        disk.seen_interrupts = count;
        most = UINT32_MAX;
    }
    do {
        uint16_t index;
        uint32_t bytes;

        while (most && virtio_take(&disk.ring, &index, &bytes)) {
            if (index >= disk.depth || !disk.requests[index].busy) {
                disk.numbers.errors++; /* never asked for */
                continue;
            }
            finish(index);
            most--;
        }
    } while (most && disk.ring.vector && virtio_rearm(&disk.ring));
}

static uint32_t choose_block(void)
{
    uint32_t block;

    do {
        if (disk.in_order) {
            block = disk.next_block;
            disk.next_block = (disk.next_block + 1) % disk.blocks;
        } else {
            disk.random = mix64(disk.random);
            block = (uint32_t)((unsigned __int128)disk.random * disk.blocks >> 64);
        }
    } while (disk.pending[block]);
    return block;
}

static bool is_due(uint64_t now)
{
    if (!disk.interval_ticks)
        return true;
    if ((int64_t)(now - disk.next_tsc) < 0 && disk.next_tsc - now <= disk.interval_ticks)
        return false;
    /* No memory of what was late: a hole is lost work, not a burst behind it. */
    disk.next_tsc = now + disk.interval_ticks;
    return true;
}

void disk_step(uint64_t now_tsc)
{
    if (!disk.there)
        return;
    take_all(STEP_TAKES_MAX);
    if (!disk.on || !is_due(now_tsc))
        return;

    int32_t index = free_request();

    if (index < 0)
        return;
    if (disk.since_flush >= disk.flush_every) {
        disk.since_flush = 0;
        send((uint32_t)index, TYPE_FLUSH, 0);
    } else {
        uint32_t block = choose_block();

        disk.pending[block] = true;
        disk.requests[index].counter = ++disk.counter;
        make_block(disk.data[index], block, disk.counter);
        send((uint32_t)index, TYPE_OUT, block);
        disk.since_flush++;
    }
    virtio_kick(&disk.ring);
}

void disk_set_on(bool now_on)
{
    disk.on = now_on;
}

void disk_set_rate(uint64_t blocks_per_s)
{
    disk.interval_ticks = blocks_per_s ? clock_tsc_khz() * 1000 / blocks_per_s : 0;
}

void disk_set_in_order(bool in_order)
{
    disk.in_order = in_order;
}

void disk_set_flush_every(uint64_t writes)
{
    disk.flush_every = writes ? writes : 1;
}

void disk_mark(void)
{
    latency_forget(&disk.writes);
    latency_forget(&disk.flushes);
}

const struct latency *disk_writes(void)
{
    return &disk.writes;
}

const struct latency *disk_flushes(void)
{
    return &disk.flushes;
}

/* Until at most `left` requests are on their way. */
static bool wait_below(uint32_t left)
{
    uint64_t begin = machine_tsc();

    while (disk.busy > left) {
        uint64_t now = vcpu_beat(vcpu_get(0));

        take_all(UINT32_MAX);
        if (now - begin > clock_ticks(ANSWER_NS))
            return false;
    }
    return true;
}

bool disk_flush(void)
{
    if (!wait_below(0))
        return false;
    send(0, TYPE_FLUSH, 0);
    virtio_kick(&disk.ring);
    return wait_below(0);
}

bool disk_verify(struct disk_verdict *ret_verdict)
{
    *ret_verdict = (struct disk_verdict){0};
    if (!wait_below(0))
        return false;
    disk.verdict = ret_verdict;

    bool answered = true;

    for (uint32_t block = 0; answered && block < disk.blocks; block++) {
        if (!disk.acknowledged[block])
            continue;
        answered = wait_below(disk.depth - 1);

        int32_t index = free_request();

        if (index < 0)
            break;
        disk.requests[index].counter = disk.acknowledged[block];
        disk.data[index][0] = ~UINT64_C(0); /* what was there before is no answer */
        send((uint32_t)index, TYPE_IN, block);
        virtio_kick(&disk.ring);
    }
    answered = wait_below(0) && answered;
    disk.verdict = 0;
    return answered;
}

void disk_numbers(struct disk_numbers *ret_numbers)
{
    *ret_numbers = disk.numbers;
    ret_numbers->blocks = disk.blocks;
    ret_numbers->on_their_way = disk.busy;
    ret_numbers->interrupts = disk.ring.vector ? interrupt_count(disk.ring.vector) : 0;
    ret_numbers->is_well = virtio_is_well(&disk.device);
}

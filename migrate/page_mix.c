#include "migrate/page_mix.h"

#include <assert.h>

/* Measured here on 64 KiB groups: 32: 1.2 GB/s, ratio 1.3; 8: 0.6 GB/s, 1.55; 1: 0.35, 1.85. Of words of a small
 * vocabulary: 32: 1.1 GB/s, 2.0; 1: 1.0, 2.6; zstd's level 1: 0.4, 5.1, and out of it 1.1. */
static const int accelerations[PAGE_MIX_ARM_COUNT] = {0, 32, 8, 1, 0};

enum { NOTE_BYTES_MIN = 32 << 10, SHARE_NEW = 8 /* a new figure counts an eighth */ };

#define WIRE_LOOK_NS 4e6     /* acknowledgements come in lumps: over less than this the pace is noise */
#define WIRE_AGE_NS_MAX 2000000000 /* of a pace that a pause may be packed by; see is_fresh */
#define RESERVE_NS_MAX 6e6   /* what must be left in the queue: others' turns on our core */
#define RESERVE_SHARE 0.25   /* of a short queue */
#define RESERVE_FIRST 0.25   /* of that, for the first step away from raw pages */
#define FURTHER_COST 0.4     /* ns a byte: sealing this frame, copying and hashing the next one */
#define OUTPACES 1.3         /* the wire, by so much: it is not left dry for more than a frame */
#define SIZE_GAIN_MIN 0.02   /* less is noise */
#define UNPACK_SHARE 0.5     /* of the time to pack; measured: a quarter to two fifths */
#define COST_UNTRIED 3.0     /* ns a byte, until it is known */

int page_mix_acceleration(enum page_mix_arm arm)
{
    assert(arm < PAGE_MIX_ARM_COUNT);
    return accelerations[arm];
}

void page_mix_init(struct page_mix *mix)
{
    *mix = (struct page_mix){0};
    for (unsigned i = 0; i < PAGE_MIX_ARM_COUNT; i++) {
        mix->arms[i].cost = COST_UNTRIED;
        mix->arms[i].age = PAGE_MIX_AGE_MAX;
    }
    mix->arms[PAGE_MIX_RAW].cost = 0;
    mix->arms[PAGE_MIX_RAW].size = 1;
}

static bool is_known(const struct page_mix *mix, enum page_mix_arm arm)
{
    return mix->arms[arm].size > 0;
}

void page_mix_note(struct page_mix *mix, enum page_mix_arm arm, uint64_t bytes, uint64_t packed_bytes,
                   uint64_t took_ns)
{
    if (arm == PAGE_MIX_RAW || bytes < NOTE_BYTES_MIN)
        return;
    double cost = (double)took_ns / (double)bytes, size = (double)packed_bytes / (double)bytes;
    double *known_cost = &mix->arms[arm].cost, *known_size = &mix->arms[arm].size;
    bool is_anew = mix->arms[arm].age >= PAGE_MIX_AGE_MAX;
    mix->arms[arm].age = 0;
    if (!is_known(mix, arm)) {
        *known_cost = cost;
        *known_size = size;
        return;
    }
    if (cost > 4 * *known_cost + 0.1)
        cost = 4 * *known_cost + 0.1; /* somebody else had the core */
    *known_cost += (cost - *known_cost) / SHARE_NEW;
    *known_size = is_anew ? size : *known_size + (size - *known_size) / SHARE_NEW;
}

void page_mix_idle(struct page_mix *mix)
{
    mix->has_looked = false;
    mix->busy_bytes = mix->busy_ns = 0;
}

static double most_lately(double most, double now)
{
    return now > most ? now : most * (1 - 1.0 / 256);
}

void page_mix_look(struct page_mix *mix, const struct page_mix_look *look)
{
    struct page_mix_look last = mix->last;
    bool has_looked = mix->has_looked;
    mix->last = *look;
    mix->has_looked = true;
    if (!has_looked || look->now_ns <= last.now_ns || look->wire_bytes < last.wire_bytes)
        return;
    double written = (double)(look->wire_bytes - last.wire_bytes);
    if (look->blocked_ns > last.blocked_ns)
        mix->full_bytes = most_lately(mix->full_bytes, (double)look->queued_bytes);
    /* Less was written since than is waiting: the queue was never empty, the wire never idle. Or most of the time went by
     * in waits for room in a queue that holds little. */
    bool is_blocked = 2 * (look->blocked_ns - last.blocked_ns) >= look->now_ns - last.now_ns;
    if ((double)look->queued_bytes <= written && !is_blocked)
        return;
    double gone = (double)last.queued_bytes + written - (double)look->queued_bytes;
    mix->busy_bytes += gone > 0 ? gone : 0;
    mix->busy_ns += (double)(look->now_ns - last.now_ns);
    if (mix->busy_ns < WIRE_LOOK_NS)
        return;
    double wire = mix->busy_bytes / mix->busy_ns;
    mix->wire = mix->wire > 0 ? mix->wire + (wire - mix->wire) / 4 : wire;
    mix->wire_seen_ns = look->now_ns;
    mix->busy_bytes = mix->busy_ns = 0;
}

double page_mix_limit(const struct page_mix *mix, enum page_mix_arm arm)
{
    return is_known(mix, arm) ? mix->wire / mix->arms[arm].size : 0;
}

/* How long the wire has enough to do without us. */
static double slack_ns(const struct page_mix *mix, const struct page_mix_road *road)
{
    double slack = 0;
    if (mix->wire > 0)
        slack = (double)road->queued_bytes / mix->wire - (double)road->round_trip_ns;
    return slack > (double)road->allowed_ns ? slack : (double)road->allowed_ns;
}

/* The next point of the hull: what saves most a ns more. PAGE_MIX_RAW: there is none. */
static enum page_mix_arm tighter(const struct page_mix *mix, enum page_mix_arm at, enum page_mix_arm most)
{
    enum page_mix_arm found = PAGE_MIX_RAW;
    double best = 0;
    for (enum page_mix_arm arm = PAGE_MIX_LZ4_FAST; arm <= most; arm++) {
        double gain = mix->arms[at].size - mix->arms[arm].size;
        if (!is_known(mix, arm) || gain < SIZE_GAIN_MIN)
            continue;
        double more = mix->arms[arm].cost - mix->arms[at].cost;
        double slope = gain / (more > 1e-3 ? more : 1e-3);
        if (slope > best) {
            best = slope;
            found = arm;
        }
    }
    return found;
}

/* Packed by nothing else, does more come than the wire takes? */
static bool outpaces(const struct page_mix *mix, enum page_mix_arm arm)
{
    return mix->wire > 0 &&
           mix->arms[arm].size > OUTPACES * mix->wire * (mix->arms[arm].cost + FURTHER_COST);
}

/* One after the other: packed, on the wire; `after`: then unpacked, which takes so much of the time to pack. */
static enum page_mix_arm soonest(const struct page_mix *mix, enum page_mix_arm most, double after)
{
    enum page_mix_arm found = PAGE_MIX_RAW;
    double least = mix->wire > 0 ? 1 / mix->wire : 0;
    for (enum page_mix_arm arm = PAGE_MIX_LZ4_FAST; mix->wire > 0 && arm <= most; arm++) {
        double takes = mix->arms[arm].cost * (1 + after) + mix->arms[arm].size / mix->wire;
        if (is_known(mix, arm) && takes < least) {
            least = takes;
            found = arm;
        }
    }
    return found;
}

/* One that has not been seen for long, the tightest first; content changes. */
static enum page_mix_arm stale(const struct page_mix *mix, enum page_mix_arm most, bool gains)
{
    if (!gains && is_known(mix, most))
        return mix->arms[most].age >= PAGE_MIX_AGE_IDLE_MAX ? most : PAGE_MIX_RAW;
    enum page_mix_arm arm = most;
    while (arm > PAGE_MIX_RAW && mix->arms[arm].age < PAGE_MIX_AGE_MAX)
        arm--;
    return arm;
}

/* The wire may carry more or less by now. Where no round since kept it busy for long enough to see, each was of a few ms of
 * it, and so is what the pause has to send: not packing that costs little, packing it for a wire of long ago may cost more. */
static bool is_fresh(const struct page_mix *mix, uint64_t now_ns)
{
    return now_ns < mix->wire_seen_ns || now_ns - mix->wire_seen_ns < WIRE_AGE_NS_MAX;
}

/* The socket holds less than a frame: what waits there never lasts while one is packed, though the wire is slow. */
static bool is_shallow(const struct page_mix *mix, uint64_t bytes, const struct page_mix_road *road)
{
    return mix->wire > 0 && mix->full_bytes > 0 && mix->full_bytes < (double)bytes &&
           road->allowed_ns == 0;
}

static enum page_mix_arm choose_shallow(const struct page_mix *mix, enum page_mix_arm most)
{
    enum page_mix_arm best = soonest(mix, most, 0), arm = stale(mix, most, best != PAGE_MIX_RAW);

    return arm != PAGE_MIX_RAW && mix->arms[arm].cost < 1 / mix->wire ? arm : best;
}

enum page_mix_arm page_mix_choose(struct page_mix *mix, enum page_mix_arm most, uint64_t bytes,
                                  const struct page_mix_road *road)
{
    assert(most < PAGE_MIX_ARM_COUNT);
    if (most == PAGE_MIX_RAW)
        return PAGE_MIX_RAW;
    if (road->in_pause)
        return is_fresh(mix, road->now_ns) ? soonest(mix, most, UNPACK_SHARE) : PAGE_MIX_RAW;

    double slack = slack_ns(mix, road);
    mix->room_ns = most_lately(mix->room_ns, slack);
    double reserve = mix->room_ns * RESERVE_SHARE;
    reserve = reserve < RESERVE_NS_MAX ? reserve : RESERVE_NS_MAX;
    slack -= FURTHER_COST * (double)bytes;
    for (enum page_mix_arm arm = PAGE_MIX_LZ4_FAST; arm <= most; arm++)
        mix->arms[arm].age += mix->arms[arm].age < PAGE_MIX_AGE_MAX;
    if (is_shallow(mix, bytes, road))
        return choose_shallow(mix, most);

    enum page_mix_arm next = tighter(mix, PAGE_MIX_RAW, most), arm = stale(mix, most, next != PAGE_MIX_RAW);
    if (arm != PAGE_MIX_RAW && mix->arms[arm].cost * (double)bytes + reserve <= slack)
        return arm;
    arm = PAGE_MIX_RAW;
    double kept = reserve * RESERVE_FIRST;
    while (next != PAGE_MIX_RAW &&
           (outpaces(mix, next) || mix->arms[next].cost * (double)bytes + kept <= slack)) {
        arm = next;
        next = tighter(mix, arm, most);
        kept = reserve;
    }
    return arm;
}

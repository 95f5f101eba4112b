/* By which codec does this one frame go? By the tightest that is packed before the wire runs dry.
 *
 * Flow:   lane_source's road, page_codec's clock -> [page_mix] -> page_tuner -> page_codec
 * Thread: one lane's; pure.
 *
 * What waits in this host's socket goes out by itself: so long the lane may pack tightly and the wire loses nothing.
 * When little waits, the next frame goes by a lighter codec, or as it is. So the CPU and the wire are both busy,
 * whatever the wire carries, and a lane that the wire never makes wait packs nothing. Only codecs that gain more for
 * their time than a mixture of two others would are taken: the lower hull of what each was measured to cost and to
 * leave. A socket that holds less than a frame (SO_SNDBUF) never has enough to do: there a frame goes by what is sooner on
 * the wire, packing and all. In the pause nothing waits in the socket and the guest stands still: there a frame is packed only where
 * packing and unpacking it take less than the wire would need for what they save, by a pace that was seen lately.
 */
#ifndef GODWIT_MIGRATE_PAGE_MIX_H
#define GODWIT_MIGRATE_PAGE_MIX_H

#include <stdbool.h>
#include <stdint.h>

/* From light to tight. */
enum page_mix_arm {
    PAGE_MIX_RAW,
    PAGE_MIX_LZ4_FAST,
    PAGE_MIX_LZ4,
    PAGE_MIX_LZ4_TIGHT,
    PAGE_MIX_ZSTD, /* only where the target takes it */
    PAGE_MIX_ARM_COUNT
};

/* Between the lane and its peer, just now. */
struct page_mix_road {
    uint64_t now_ns;
    bool in_pause;
    uint64_t queued_bytes;  /* written, and not yet known to be there */
    uint64_t round_trip_ns; /* least that was seen: what is under way, and no longer waits */
    uint64_t allowed_ns;    /* what a bandwidth limit lets out at once lasts so long */
};

/* What the lane saw after a frame. */
struct page_mix_look {
    uint64_t now_ns;
    uint64_t waited_ns;    /* all waits for the wire so far, and for what stands for it */
    uint64_t blocked_ns;   /* of those, for room in this host's socket */
    uint64_t wire_bytes;   /* that all of it took, so far */
    uint64_t queued_bytes; /* of those, what is still in this host's socket */
};

struct page_mix {
    struct {
        double cost, size; /* ns a byte to pack it; bytes that are left of one */
        unsigned age;      /* frames since; of one that was never tried: PAGE_MIX_AGE_MAX */
    } arms[PAGE_MIX_ARM_COUNT];
    double wire;    /* bytes a ns that the wire took while more was waiting; 0: it never made us wait */
    uint64_t wire_seen_ns; /* when that was seen last */
    double room_ns;    /* about the longest that the queue lasted lately */
    double full_bytes; /* and the most that was in it just after there was no room; 0: there always was */
    bool has_looked;
    struct page_mix_look last;
    double busy_bytes, busy_ns; /* of the wire's, not yet told to `wire` */
};

enum { PAGE_MIX_AGE_MAX = 128, PAGE_MIX_AGE_IDLE_MAX = 8 /* where no codec gained anything */ };

void page_mix_init(struct page_mix *mix);
/* A frame of so much data took so long to pack, and became so much. */
void page_mix_note(struct page_mix *mix, enum page_mix_arm arm, uint64_t bytes, uint64_t packed_bytes,
                   uint64_t took_ns);
void page_mix_look(struct page_mix *mix, const struct page_mix_look *look);
/* The lane has nothing to do: what it sees next must not contain that. */
void page_mix_idle(struct page_mix *mix);
/* For `bytes` of data; none tighter than `most`. */
enum page_mix_arm page_mix_choose(struct page_mix *mix, enum page_mix_arm most, uint64_t bytes,
                                  const struct page_mix_road *road);
/* Guest bytes a ns that the wire would let through were all packed by `arm`; 0: not known. */
double page_mix_limit(const struct page_mix *mix, enum page_mix_arm arm);
int page_mix_acceleration(enum page_mix_arm arm); /* of LZ4; 0: another codec */

#endif

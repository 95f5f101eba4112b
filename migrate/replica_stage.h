/* What arrives of a checkpoint, kept aside until all of it is there and judged.
 *
 * Flow:   stream -> [replica_stage] -> page_frame, page_place -> guest RAM; replica_journal ->
 * disks Thread: the replica's.
 *
 * RAM of the next checkpoint lies in memory beside the guest's, page by page at the same place, so
 * that a page that comes twice counts once. A disk's pages go to the journal. While nothing is held
 * there is nothing to keep: then pages go where they belong at once, and a guest's first copy takes
 * its memory once. `sum` is over every page of the image (migrate/page_digest.h).
 */
#ifndef GODWIT_MIGRATE_REPLICA_STAGE_H
#define GODWIT_MIGRATE_REPLICA_STAGE_H

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct fault;
struct region;
struct replica_blocks;
struct replica_commit;
struct replica_disk;
struct replica_id;
struct replica_journal;
struct replica_journal_held;
struct replica_stage;
struct stream;

struct replica_stage_config {
    struct region *regions; /* of RAM: borrowed, must outlive the stage */
    unsigned region_count;
    const struct replica_disk *disks; /* copied */
    unsigned disk_count;
    struct replica_journal *journal; /* borrowed; NULL without disks */
};

int replica_stage_new(struct replica_stage **ret_stage, const struct replica_stage_config *config,
                      struct fault *fault);
struct replica_stage *replica_stage_free(struct replica_stage *stage);

/* What a page of a disk that a journal was kept of holds. Before anything arrives. */
void replica_stage_known(struct replica_stage *stage, unsigned disk, uint64_t page,
                         const uint8_t *bytes);
uint64_t replica_stage_sum(const struct replica_stage *stage); /* of the image now */

/* The next checkpoint begins; what was staged is forgotten. `holds`: something is there to lose. */
int replica_stage_begin(struct replica_stage *stage, const struct replica_id *id, bool holds,
                        struct fault *fault);
/* Read the body of a PAGES segment, `bytes` long, and stage it. */
int replica_stage_frame(struct replica_stage *stage, uint32_t bytes, struct stream *stream,
                        struct fault *fault);
/* Is it what the source says, and is there memory for it? A failure leaves what is held as it is.
 * *ret_held gets the sums. */
int replica_stage_judge(struct replica_stage *stage, const struct replica_commit *commit,
                        struct replica_journal_held *ret_held, struct fault *fault);
/* Make what was judged the image. The disks' part is the journal's. */
void replica_stage_apply(struct replica_stage *stage);

/* Pages of a region that apply would change; NULL: none. */
const struct bitmap *replica_stage_named(const struct replica_stage *stage, unsigned region);

uint64_t replica_stage_pages(const struct replica_stage *stage); /* staged of the one arriving */

/* ---- blocks of disks that need not be sent ---- */
/* What a block of a disk is, read just now: `pages` pages at `bytes`. True: it is what the image says, or,
 * while nothing is held (`holds`), says from now on. No checkpoint is arriving. */
bool replica_stage_see(struct replica_stage *stage, unsigned disk, uint64_t first_page, unsigned pages,
                       const uint8_t *bytes, bool holds);
/* The checkpoint that arrives has these blocks as they are. ERR_CORRUPT: of no disk, beyond its end, or
 * sent already. */
int replica_stage_keep(struct replica_stage *stage, const struct replica_blocks *blocks,
                       struct fault *fault);
uint64_t replica_stage_kept_pages(const struct replica_stage *stage); /* of the one arriving */

#endif

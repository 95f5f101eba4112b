/* A disk's file as a region of a move: the blocks travel as RAM does, and are proven as RAM is.
 *
 * Flow:   backend_set, MOVE_IN's descriptors -> [disk_region] -> guest_port -> migrate
 * Thread: new, free on the loop's; the region's ops as region.h says.
 *
 * The file is mapped. A source's tracker is the disk itself (disk_track): a page is dirty once a
 * request that may have changed it is done, and after vm_pause none is under way. Holes are never
 * read. A target's file is new and empty; blocks get their space by fallocate before they are
 * written, so that a full store is an error and no signal, and go out to the medium meanwhile (disk_outflow). A read error or a file that somebody cut
 * short does signal (SIGBUS): the page is then replaced by an empty one and the region has failed,
 * which disk_region_check tells before anything is believed.
 */
#ifndef GODWIT_AGENT_VM_DISK_REGION_H
#define GODWIT_AGENT_VM_DISK_REGION_H

#include <stdbool.h>
#include <stdint.h>

struct disk_region;
struct fault;
struct region;
struct vm;

/* Takes `fd` when it returns 0. `vm`: whose disk `index` is tracked, at a source; NULL: a target. */
int disk_region_new(struct disk_region **ret_disk, struct vm *vm, unsigned index, const char *name,
                    int fd, uint64_t bytes, struct fault *fault);
struct disk_region *disk_region_free(struct disk_region *disk);

void disk_region_fill(struct disk_region *disk, unsigned id, struct region *ret_region);
/* Has every page been what the file holds? The last word before a source lets go. */
int disk_region_check(const struct disk_region *disk, struct fault *fault);
/* The same, and everything is on the medium: before a target may take over. */
int disk_region_settle(struct disk_region *disk, struct fault *fault);

#endif

/* What arrives of a disk goes out to the medium meanwhile, in small steps, and its lanes wait for it.
 *
 * Flow:   lane -> disk_region -> [disk_outflow] -> file
 * Thread: one of its own writes out; arrived from any lane.
 *
 * Left to itself the kernel would hold what arrives until there is much of it, and write that out at once: all who
 * flush on that medium stand behind it for as long.
 *
 * A medium may hang for good: then it keeps the thread and what that uses, and nobody else.
 */
#ifndef GODWIT_AGENT_VM_DISK_OUTFLOW_H
#define GODWIT_AGENT_VM_DISK_OUTFLOW_H

#include <stdint.h>

struct disk_outflow;

/* Takes `fd` when it returns 0, else ERR_NOMEM; it may be used until the free. */
int disk_outflow_new(struct disk_outflow **ret_outflow, int fd, uint64_t pages);
/* At once. Its thread ends, and closes the descriptor, when the medium lets it. */
struct disk_outflow *disk_outflow_free(struct disk_outflow *outflow);

/* The pages of the 512-page block at first_page that are set in `mask` were written into the file. Waits while the
 * medium is behind, HOLD_MS at most: a medium that does not answer is no reason to deafen a lane. */
void disk_outflow_arrived(struct disk_outflow *outflow, uint64_t first_page,
                          const uint64_t mask[static 8]);
/* Everything is on the medium; nothing may arrive any more. Returns 0 or the errno of the first write that
 * failed, whenever that was; ETIMEDOUT: the medium did not answer for so long. */
int disk_outflow_settle(struct disk_outflow *outflow, unsigned ms_max);

#endif

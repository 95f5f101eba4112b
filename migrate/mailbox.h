/* What a move's threads tell its own thread: small items by value, taken with a deadline.
 *
 * Flow:   lanes, control lane, opener -> [mailbox] -> source, target
 * Thread: one mutex; any thread may put, poke, close; one takes.
 *
 * base/handoff passes ownership of bytes and waits for ever; this one wakes for deadlines too.
 */
#ifndef GODWIT_MIGRATE_MAILBOX_H
#define GODWIT_MIGRATE_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mailbox;

enum { MAILBOX_E_CLOSED = 1 };

int mailbox_new(struct mailbox **ret_mailbox, size_t slots, size_t item_bytes);
struct mailbox *mailbox_free(struct mailbox *mailbox);
/* Copies the item; waits while full. MAILBOX_E_CLOSED: nobody will take it. */
int mailbox_put(struct mailbox *mailbox, const void *item);
/* Make a waiting take return; never waits itself. */
void mailbox_poke(struct mailbox *mailbox);
/* True with an item; false at until_ns or after a poke. Until spin_until_ns it gives its core to
 * others instead of sleeping: a wake-up inside the pause costs 50 us and more. */
bool mailbox_take(struct mailbox *mailbox, void *ret_item, uint64_t until_ns,
                  uint64_t spin_until_ns);
bool mailbox_try_take(struct mailbox *mailbox, void *ret_item); /* after the close too */
void mailbox_close(struct mailbox *mailbox);

#endif

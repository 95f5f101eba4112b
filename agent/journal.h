/* What happened to VMs on this host, for reconciliation: append-only lines, each with a checksum.
 *
 * Flow:   vm_table -> [journal] -> STATE/agent/journal;  at start -> [journal] -> vm_table
 * Thread: the loop's; write and fsync on a worker, in order.
 *
 * A line: XXH3 of the rest as 16 hex digits, then words:
 *   <sum> <unix ms> <event> vm=<id> generation=<n> move=<id or -> latch=<NAME> incarnation=<id>
 * A torn last line is cut off at the start; a line that is damaged elsewhere is counted and
 * skipped. A journal above JOURNAL_BYTES_MAX at the start becomes journal.old.
 */
#ifndef GODWIT_AGENT_JOURNAL_H
#define GODWIT_AGENT_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

struct fault;
struct journal;
struct loop;

enum { JOURNAL_LINE_MAX = 384, JOURNAL_WORD_SIZE = 64, JOURNAL_BYTES_MAX = 16 << 20 };

struct journal_entry {
    uint64_t unix_ms;              /* filled by journal_put */
    char event[JOURNAL_WORD_SIZE]; /* "start", "stop", "end", "refuse", "latch", "adopt" */
    char vm_id[JOURNAL_WORD_SIZE];
    uint64_t generation;
    char move_id[JOURNAL_WORD_SIZE]; /* empty: none */
    char latch[JOURNAL_WORD_SIZE];   /* "GAVE"; empty: none */
    char incarnation[JOURNAL_WORD_SIZE];
};

/* Reads the file back, giving every good line to `on_entry`, then opens it for more. */
int journal_new(struct journal **ret_journal, struct loop *loop, const char *path,
                void (*on_entry)(void *data, const struct journal_entry *entry), void *data,
                struct fault *fault);
/* Waits until what is left is written and synced. */
struct journal *journal_free(struct journal *journal);

/* Queue an entry; a failure to write it is logged once, and again when it heals. */
void journal_put(struct journal *journal, const struct journal_entry *entry);

/* One line of text (without its end) <-> an entry. Returns the length, or a negative ERR_*. */
int journal_entry_encode(const struct journal_entry *entry, char ret_line[static JOURNAL_LINE_MAX]);
int journal_entry_decode(const char *line, size_t count, struct journal_entry *ret_entry);

/* Lines that were damaged, and bytes of a torn tail that were cut off, when it was read. */
void journal_damage(const struct journal *journal, unsigned *ret_lines, size_t *ret_tail_bytes);

#endif

/* An audit entry as the bytes that its hash covers.
 *
 * Flow:   coordinator/audit, cli/cmd_record -> [audit_line] -> SHA-256
 * Thread: any; pure.
 *
 * The hash of the entry before, then every field with its length in front, so that no two different
 * entries have the same bytes.
 */
#ifndef GODWIT_PROTO_AUDIT_LINE_H
#define GODWIT_PROTO_AUDIT_LINE_H

#include <stddef.h>

#include "proto/record.pb-c.h"

enum { AUDIT_LINE_SIZE = 2048, AUDIT_SUBJECT_MAX = 600, AUDIT_WORD_MAX = 200 };

/* Returns the count, 0 when a field is longer than any that we write. */
size_t audit_line(const char *hash_before, const Godwit__AuditEntry *entry,
                  char ret_line[static AUDIT_LINE_SIZE]);

#endif

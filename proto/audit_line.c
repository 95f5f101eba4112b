#include "proto/audit_line.h"

#include <stdio.h>
#include <string.h>

size_t audit_line(const char *hash_before, const Godwit__AuditEntry *entry,
                  char ret_line[static AUDIT_LINE_SIZE])
{
    const char *const words[] = {hash_before, entry->who, entry->what, entry->subject,
                                 entry->outcome};
    size_t used = (size_t)snprintf(
        ret_line, AUDIT_LINE_SIZE, "%llu %llu %llu", (unsigned long long)entry->number,
        (unsigned long long)entry->unix_ms, (unsigned long long)entry->begins);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *word = words[i] ? words[i] : "";
        if (strlen(word) > AUDIT_SUBJECT_MAX)
            return 0;
        int n = snprintf(ret_line + used, AUDIT_LINE_SIZE - used, " %zu:%s", strlen(word), word);
        if (n < 0 || (size_t)n >= AUDIT_LINE_SIZE - used)
            return 0;
        used += (size_t)n;
    }
    return used;
}

/* One answer on the serial line: `gw <kind> key=value ...\n`.
 *
 * Flow:   command, main -> [record] -> serial
 * Thread: vCPU 0.
 */
#ifndef GUEST_RECORD_H
#define GUEST_RECORD_H

#include <stdint.h>

enum { RECORD_BYTES_MAX = 512 };

struct record {
    char text[RECORD_BYTES_MAX];
    uint32_t length;
};

void record_begin(struct record *record, const char *kind);
void record_word(struct record *record, const char *word);
void record_text(struct record *record, const char *key, const char *value);
void record_number(struct record *record, const char *key, uint64_t value);
/* A further number of the list that record_number() began. */
void record_more(struct record *record, uint64_t value);
void record_hex(struct record *record, const char *key, uint64_t value);
void record_end(struct record *record);

#endif

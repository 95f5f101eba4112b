/* See fake_disk.c. */
#ifndef GODWIT_TESTS_SUPPORT_FAKE_DISK_H
#define GODWIT_TESTS_SUPPORT_FAKE_DISK_H

enum { FAKE_DISK_BYTES = 64 << 10 };

/* So many requests from now on fail. */
extern unsigned fake_disk_fail_next;

struct disk;

/* No byte of it is zero, nor what its neighbour is. */
void fake_disk_fill(struct disk *disk);

#endif

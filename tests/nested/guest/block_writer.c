/* Numbered, checksummed blocks into a ring in one file; each is acknowledged after its fsync and told to the
 * peer. Now and then a small file is made, renamed and removed, so that the journal has work. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = BLOCK_BYTES / 8, FIRST_WORD = 3, FILES_EVERY = 32 };
#define BLOCK_MAGIC UINT64_C(0x6b636f6c42776747)

static uint64_t checksum(const uint64_t *words)
{
    uint64_t sum = words[1];
    for (unsigned i = FIRST_WORD; i < WORDS; i++)
        sum = mix(sum ^ words[i]);
    return sum;
}

void block_fill(void *block, uint64_t number)
{
    uint64_t *words = block;
    words[0] = BLOCK_MAGIC;
    words[1] = number;
    for (unsigned i = FIRST_WORD; i < WORDS; i++)
        words[i] = mix(number << 16 ^ i);
    words[2] = checksum(words);
}

bool block_is_whole(const void *block, uint64_t *ret_number)
{
    uint64_t wanted[WORDS];
    const uint64_t *words = block;
    *ret_number = words[1];
    block_fill(wanted, words[1]);
    return memcmp(wanted, block, BLOCK_BYTES) == 0;
}

static void make_and_remove_files(const char *path, uint64_t number)
{
    char name[256], other[256];
    (void)snprintf(name, sizeof name, "%s.new", path);
    (void)snprintf(other, sizeof other, "%s.kept", path);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return;
    (void)dprintf(fd, "%llu\n", (unsigned long long)number);
    (void)fsync(fd);
    (void)close(fd);
    (void)rename(name, other);
    if (number / FILES_EVERY % 4 == 0)
        (void)unlink(other);
}

static void *run(void *data)
{
    struct block_writer *writer = data;
    static uint64_t block[WORDS];
    int fd = open(writer->path, O_RDWR | O_CREAT, 0644);
    for (uint64_t number = 1; fd >= 0 && !writer->stop; number++) {
        block_fill(block, number);
        writer->next = number;
        ssize_t n = pwrite(fd, block, sizeof block, (off_t)(number % BLOCK_RING) * BLOCK_BYTES);
        if (n != (ssize_t)sizeof block || fsync(fd) < 0) {
            writer->error = errno ? errno : ENOSPC;
            break;
        }
        writer->acked = number;
        if (writer->acks_fd >= 0 && !send_all(writer->acks_fd, &number, sizeof number))
            writer->error = EPIPE;
        if (number % FILES_EVERY == 0)
            make_and_remove_files(writer->path, number);
    }
    if (fd < 0)
        writer->error = errno;
    else
        (void)close(fd);
    writer->stopped = true;
    return NULL;
}

void block_writer_start(struct block_writer *writer, const char *path, int acks_fd)
{
    writer->path = path;
    writer->acks_fd = acks_fd;
    start_thread(run, writer);
}

/* What may stand in a slot: the newest acknowledged number that belongs there, or one not acknowledged yet. */
static bool slot_is_right(const void *block, uint64_t slot, uint64_t acked)
{
    uint64_t newest = acked - (acked + BLOCK_RING - slot) % BLOCK_RING;
    uint64_t number;
    if (acked < slot || newest == 0)
        return true; /* never acknowledged: anything may be there */
    return block_is_whole(block, &number) && number % BLOCK_RING == slot && number >= newest &&
           number <= newest + BLOCK_RING;
}

static uint64_t check_slots(int fd, uint64_t acked, uint64_t *ret_checked)
{
    uint64_t wrong = 0, checked = 0;
    static _Alignas(4096) unsigned char block[BLOCK_BYTES];
    for (uint64_t slot = 0; slot < BLOCK_RING; slot++) {
        if (acked < slot || (slot == 0 && acked < BLOCK_RING))
            continue;
        checked++;
        ssize_t n = pread(fd, block, sizeof block, (off_t)slot * BLOCK_BYTES);
        if (n != (ssize_t)sizeof block || !slot_is_right(block, slot, acked))
            wrong++;
    }
    *ret_checked = checked;
    return wrong;
}

uint64_t block_writer_verify(const struct block_writer *writer, uint64_t *ret_checked)
{
    int fd = open(writer->path, O_RDONLY | O_DIRECT);
    *ret_checked = 0;
    if (fd < 0)
        return 1;
    uint64_t wrong = check_slots(fd, writer->acked, ret_checked);
    (void)close(fd);
    return wrong;
}

bool block_file_check(const char *path, uint64_t acked)
{
    int fd = open(path, O_RDONLY);
    uint64_t checked = 0;
    uint64_t wrong = fd < 0 ? 1 : check_slots(fd, acked, &checked);
    (void)printf("gw blocks %s acked=%llu checked=%llu wrong=%llu\n", wrong ? "BAD" : "ok",
                 (unsigned long long)acked, (unsigned long long)checked, (unsigned long long)wrong);
    return wrong == 0;
}

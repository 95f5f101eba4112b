/* Two slots and a sequence number: a put never touches the slot that holds the present record, and
 * a slot counts only with its checksum, which is stored last. A machine's page cache is coherent,
 * so what a dead process stored is there for the next reader; only a boot takes it away. */
#include "agent/vm/latch_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "proto/migration.pb-c.h"

enum {
    SLOT_MAGIC = 0x414c5747, /* "GWLA" */
    SLOT_VERSION = 1,
    AT_VERSION = 4,
    AT_SEQUENCE = 8,
    AT_GENERATION = 16,
    AT_MOVE_GENERATION = 24,
    AT_MOVE_ID = 32,
    AT_LATCH = 72,
    AT_ENDING = 73,
    AT_REASON = 80,
    AT_CHECKSUM = LATCH_FILE_SLOT_BYTES - 8,
};

static_assert(AT_CHECKSUM % 8 == 0, "a slot's checksum is stored at once");
static_assert(AT_MOVE_ID + LATCH_FILE_MOVE_ID_SIZE <= AT_LATCH, "a move id must fit its field");
static_assert(AT_REASON + LATCH_FILE_REASON_SIZE <= AT_CHECKSUM, "a reason must fit its field");

struct latch_file {
    pthread_mutex_t mutex;
    uint8_t *bytes;    /* mapped */
    uint64_t sequence; /* of the present record */
    unsigned next;     /* slot that the next put writes */
};

/* ---- the format: encode and decode of one slot ---- */
static void slot_encode(uint8_t *slot, const struct latch_record *record)
{
    uint8_t bytes[LATCH_FILE_SLOT_BYTES] = {0};

    bytes_put_u32(bytes, SLOT_MAGIC);
    bytes_put_u32(bytes + AT_VERSION, SLOT_VERSION);
    bytes_put_u64(bytes + AT_SEQUENCE, record->sequence);
    bytes_put_u64(bytes + AT_GENERATION, record->generation);
    bytes_put_u64(bytes + AT_MOVE_GENERATION, record->move_generation);
    memcpy(bytes + AT_MOVE_ID, record->move_id,
           strnlen(record->move_id, LATCH_FILE_MOVE_ID_SIZE - 1));
    bytes[AT_LATCH] = record->latch;
    bytes[AT_ENDING] = record->ending;
    memcpy(bytes + AT_REASON, record->reason, strnlen(record->reason, LATCH_FILE_REASON_SIZE - 1));

    /* A process may die between any two stores. The exchanges are full barriers, so that the stores
     * stay in this order: void, body, whole. */
    uint64_t *checksum = (uint64_t *)(void *)(slot + AT_CHECKSUM);
    (void)__atomic_exchange_n(checksum, 0, __ATOMIC_SEQ_CST);
    memcpy(slot, bytes, AT_CHECKSUM / 2);
    (void)failpoint(FAILPOINT_VM_LATCH_TORN);
    memcpy(slot + AT_CHECKSUM / 2, bytes + AT_CHECKSUM / 2, AT_CHECKSUM - AT_CHECKSUM / 2);
    (void)__atomic_exchange_n(checksum, htole64(XXH3_64bits(bytes, AT_CHECKSUM)), __ATOMIC_SEQ_CST);
}

static bool slot_decode(const uint8_t *slot, struct latch_record *ret_record)
{
    struct latch_record record = {0};

    if (bytes_get_u32(slot) != SLOT_MAGIC || bytes_get_u32(slot + AT_VERSION) != SLOT_VERSION)
        return false;
    if (bytes_get_u64(slot + AT_CHECKSUM) != XXH3_64bits(slot, AT_CHECKSUM))
        return false;
    record.sequence = bytes_get_u64(slot + AT_SEQUENCE);
    record.generation = bytes_get_u64(slot + AT_GENERATION);
    record.move_generation = bytes_get_u64(slot + AT_MOVE_GENERATION);
    memcpy(record.move_id, slot + AT_MOVE_ID, LATCH_FILE_MOVE_ID_SIZE);
    record.latch = slot[AT_LATCH];
    record.ending = slot[AT_ENDING];
    memcpy(record.reason, slot + AT_REASON, LATCH_FILE_REASON_SIZE);
    if (record.move_id[LATCH_FILE_MOVE_ID_SIZE - 1] || record.reason[LATCH_FILE_REASON_SIZE - 1] ||
        record.ending >= LATCH_ENDING_COUNT ||
        strcmp(latch_file_latch_name(record.latch), "?") == 0)
        return false;
    *ret_record = record;
    return true;
}

/* The newest whole record of both slots; returns its slot, -1 when none is whole. */
static int slots_decode(const uint8_t *bytes, struct latch_record *ret_record)
{
    int newest = -1;

    for (int i = 0; i < 2; i++) {
        struct latch_record record;
        if (slot_decode(bytes + i * LATCH_FILE_SLOT_BYTES, &record) &&
            (newest < 0 || record.sequence > ret_record->sequence)) {
            *ret_record = record;
            newest = i;
        }
    }
    return newest;
}

/* ---- the file ---- */
int latch_file_create(const char *path, int *ret_fd, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making latch file %s", path);

    static const uint8_t zeros[LATCH_FILE_BYTES];
    if (pwrite(fd, zeros, sizeof zeros, 0) != (ssize_t)sizeof zeros)
        return fault_set_errno(fault, ERR_IO, errno, "filling latch file %s", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int latch_file_open(struct latch_file **ret_file, int fd, struct fault *fault)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at the latch file");
    if (!S_ISREG(status.st_mode) || status.st_size != LATCH_FILE_BYTES)
        return fault_set(fault, ERR_INVALID, "latch file: %lld bytes where %d were expected",
                         (long long)status.st_size, LATCH_FILE_BYTES);

    struct latch_file *file = calloc(1, sizeof *file);
    if (!file)
        return fault_set(fault, ERR_NOMEM, "no memory for a latch file");
    void *bytes = mmap(NULL, LATCH_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        int r = fault_set_errno(fault, err_from_errno(errno), errno, "mapping the latch file");
        free(file);
        return r;
    }
    pthread_mutex_init(&file->mutex, NULL);
    file->bytes = bytes;

    struct latch_record record;
    int newest = slots_decode(file->bytes, &record);
    if (newest >= 0) {
        file->sequence = record.sequence;
        file->next = newest == 0;
    }
    (void)close(fd); /* the mapping holds the file */
    *ret_file = file;
    return 0;
}

struct latch_file *latch_file_free(struct latch_file *file)
{
    if (file) {
        (void)munmap(file->bytes, LATCH_FILE_BYTES); /* cannot fail: it is our own mapping */
        pthread_mutex_destroy(&file->mutex);
        free(file);
    }
    return NULL;
}

void latch_file_put(struct latch_file *file, const struct latch_record *record)
{
    assert(record->ending < LATCH_ENDING_COUNT);

    pthread_mutex_lock(&file->mutex);
    struct latch_record numbered = *record;
    numbered.sequence = ++file->sequence;
    slot_encode(file->bytes + file->next * LATCH_FILE_SLOT_BYTES, &numbered);
    file->next = !file->next;
    pthread_mutex_unlock(&file->mutex);
}

int latch_file_read(const char *path, struct latch_record *ret_record, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return fault_set(fault, ERR_NOT_FOUND, "there is no latch file %s", path);
    if (fd < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening latch file %s", path);

    uint8_t bytes[LATCH_FILE_BYTES] = {0};
    ssize_t count = pread(fd, bytes, sizeof bytes, 0);
    if (count < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading latch file %s", path);

    struct latch_record record = {0};
    if (slots_decode(bytes, &record) >= 0) {
        *ret_record = record;
        return 0;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (bytes[i])
            return fault_set(fault, ERR_CORRUPT, "latch file %s: neither of its records is whole",
                             path);
    }
    return fault_set(fault, ERR_NOT_FOUND, "latch file %s: nothing was put yet", path);
}

const char *latch_file_latch_name(unsigned latch)
{
    switch (latch) {
    case GODWIT__LATCH__LATCH_NONE:
        return "NONE";
    case GODWIT__LATCH__LATCH_OUT:
        return "OUT";
    case GODWIT__LATCH__LATCH_GAVE:
        return "GAVE";
    case GODWIT__LATCH__LATCH_ABORTED:
        return "ABORTED";
    case GODWIT__LATCH__LATCH_RELEASED:
        return "RELEASED";
    case GODWIT__LATCH__LATCH_IN:
        return "IN";
    case GODWIT__LATCH__LATCH_READY:
        return "READY";
    case GODWIT__LATCH__LATCH_TOOK:
        return "TOOK";
    case GODWIT__LATCH__LATCH_ABANDONED:
        return "ABANDONED";
    }
    return "?";
}

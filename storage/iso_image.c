/*   sector  0 - 15   unused
 *          16        primary volume descriptor: label, sizes, where the root folder is
 *          17        end of descriptors
 *          18, 19    path tables (the root alone), little and big endian
 *          20        the root folder: ".", "..", then a record a file with its Rock Ridge name
 *          21        what did not fit the record of ".": which extension this is
 *          22 ...    the files
 *
 * ECMA-119 writes its numbers twice, once in each byte order. */
#include "storage/iso_image.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    SECTOR = 2048,
    SECTOR_VOLUME = 16,
    SECTOR_END = 17,
    SECTOR_PATHS_LITTLE = 18,
    SECTOR_PATHS_BIG = 19,
    SECTOR_ROOT = 20,
    SECTOR_MORE = 21,
    SECTOR_FILES = 22,
    PATHS_BYTES = 10,
    RECORD_BYTES = 33, /* before its name */
    RECORD_MAX = 254,
    RR_MODE_FILE = 0100444,
    RR_MODE_FOLDER = 040555,
};

/* 2026-01-01 00:00 UTC, in the two spellings of the format. */
static const uint8_t date_short[7] = {126, 1, 1, 0, 0, 0, 0};
static const char date_long[17] = "2026010100000000"; /* and a zero: UTC */

struct record { /* of the root folder, being put together */
    uint8_t bytes[RECORD_MAX];
    size_t used;
};

static void put_both_16(uint8_t *at, uint16_t value)
{
    bytes_put_u16(at, value);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static void put_big_32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void put_both_32(uint8_t *at, uint32_t value)
{
    bytes_put_u32(at, value);
    put_big_32(at + 4, value);
}

static void put_padded(uint8_t *at, size_t room, const char *text)
{
    memset(at, ' ', room);
    memcpy(at, text, strnlen(text, room));
}

/* ---- records ---- */
static void record_begin(struct record *record, const void *name, size_t name_count,
                         uint32_t sector, uint32_t bytes, bool is_folder)
{
    uint8_t *at = record->bytes;

    *record = (struct record){0};
    put_both_32(at + 2, sector);
    put_both_32(at + 10, bytes);
    memcpy(at + 18, date_short, sizeof date_short);
    at[25] = is_folder ? 2 : 0;
    put_both_16(at + 28, 1);
    at[32] = (uint8_t)name_count;
    memcpy(at + RECORD_BYTES, name, name_count);
    record->used = RECORD_BYTES + name_count;
    record->used += record->used & 1;
}

static uint8_t *record_entry(struct record *record, const char *kind, size_t count)
{
    uint8_t *at = record->bytes + record->used;

    assert(record->used + count <= RECORD_MAX);
    memcpy(at, kind, 2);
    at[2] = (uint8_t)count;
    at[3] = 1;
    record->used += count;
    return at;
}

static void record_mode(struct record *record, uint32_t mode, uint32_t links)
{
    uint8_t *at = record_entry(record, "PX", 36); /* owner and group are root, number 0 */

    put_both_32(at + 4, mode);
    put_both_32(at + 12, links);
    put_both_32(at + 20, 0);
    put_both_32(at + 28, 0);
}

static size_t record_put(struct record *record, uint8_t *sector, size_t used)
{
    record->used += record->used & 1;
    record->bytes[0] = (uint8_t)record->used;
    assert(used + record->used <= SECTOR);
    memcpy(sector + used, record->bytes, record->used);
    return used + record->used;
}

/* ---- the parts ---- */
/* "ER": says that the other entries are Rock Ridge's. */
static size_t put_extension(uint8_t *sector)
{
    static const char id[] = "RRIP_1991A";
    static const char description[] =
        "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    static const char source[] =
        "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN "
        "PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";
    const size_t counts[] = {sizeof id - 1, sizeof description - 1, sizeof source - 1};
    size_t used = 8;

    memcpy(sector, "ER", 2);
    sector[3] = 1;
    for (size_t i = 0; i < 3; i++)
        sector[4 + i] = (uint8_t)counts[i];
    sector[7] = 1;
    memcpy(sector + used, id, counts[0]);
    used += counts[0];
    memcpy(sector + used, description, counts[1]);
    used += counts[1];
    memcpy(sector + used, source, counts[2]);
    used += counts[2];
    sector[2] = (uint8_t)used;
    return used;
}

static void put_root(uint8_t *image, const struct iso_image_file *files, size_t count)
{
    uint8_t *sector = image + SECTOR_ROOT * SECTOR;
    struct record record;
    uint32_t at = SECTOR_FILES;
    size_t more = put_extension(image + SECTOR_MORE * SECTOR);

    record_begin(&record, "\0", 1, SECTOR_ROOT, SECTOR, true);
    uint8_t *entry = record_entry(&record, "SP", 7);
    entry[4] = 0xbe;
    entry[5] = 0xef;
    record_mode(&record, RR_MODE_FOLDER, 2);
    entry = record_entry(&record, "CE", 28);
    put_both_32(entry + 4, SECTOR_MORE);
    put_both_32(entry + 12, 0);
    put_both_32(entry + 20, (uint32_t)more);
    size_t used = record_put(&record, sector, 0);

    record_begin(&record, "\1", 1, SECTOR_ROOT, SECTOR, true);
    record_mode(&record, RR_MODE_FOLDER, 2);
    used = record_put(&record, sector, used);

    for (size_t i = 0; i < count; i++) {
        char plain[32]; /* for who does not know Rock Ridge */
        size_t length = strlen(files[i].name);
        (void)snprintf(plain, sizeof plain, "FILE%zu.;1", i);
        record_begin(&record, plain, strlen(plain), at, (uint32_t)files[i].count, false);
        record_mode(&record, RR_MODE_FILE, 1);
        entry = record_entry(&record, "NM", 5 + length);
        memcpy(entry + 5, files[i].name, length);
        used = record_put(&record, sector, used);
        memcpy(image + (size_t)at * SECTOR, files[i].text, files[i].count);
        at += (uint32_t)((files[i].count + SECTOR - 1) / SECTOR);
    }
}

static void put_volume(uint8_t *image, const char *label, uint32_t sectors)
{
    uint8_t *volume = image + SECTOR_VOLUME * SECTOR, *end = image + SECTOR_END * SECTOR;
    struct record root;

    volume[0] = 1;
    memcpy(volume + 1, "CD001", 5);
    volume[6] = 1;
    memset(volume + 8, ' ', 32);
    put_padded(volume + 40, 32, label);
    put_both_32(volume + 80, sectors);
    put_both_16(volume + 120, 1);
    put_both_16(volume + 124, 1);
    put_both_16(volume + 128, SECTOR);
    put_both_32(volume + 132, PATHS_BYTES);
    bytes_put_u32(volume + 140, SECTOR_PATHS_LITTLE);
    put_big_32(volume + 148, SECTOR_PATHS_BIG);
    record_begin(&root, "\0", 1, SECTOR_ROOT, SECTOR, true);
    (void)record_put(&root, volume, 156);
    memset(volume + 190, ' ', 623); /* sets, publisher, preparer, files: none */
    for (size_t i = 0; i < 2; i++)
        memcpy(volume + 813 + 17 * i, date_long, sizeof date_long);
    for (size_t i = 2; i < 4; i++) /* it never expires */
        memset(volume + 813 + 17 * i, '0', 16);
    volume[881] = 1;

    end[0] = 255;
    memcpy(end + 1, "CD001", 5);
    end[6] = 1;

    uint8_t *little = image + SECTOR_PATHS_LITTLE * SECTOR, *big = image + SECTOR_PATHS_BIG * SECTOR;
    little[0] = big[0] = 1;
    bytes_put_u32(little + 2, SECTOR_ROOT);
    put_big_32(big + 2, SECTOR_ROOT);
    little[6] = big[7] = 1;
}

int iso_image_build(const char *label, const struct iso_image_file *files, size_t file_count,
                    uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    size_t sectors = SECTOR_FILES;

    assert(file_count <= ISO_IMAGE_FILES_MAX && strlen(label) <= 32);
    for (size_t i = 0; i < file_count; i++) {
        assert(strlen(files[i].name) <= ISO_IMAGE_NAME_MAX);
        if (files[i].count > ISO_IMAGE_BYTES_MAX)
            return fault_set(fault, ERR_LIMIT, "%s has %zu bytes, %d would fit an image",
                             files[i].name, files[i].count, ISO_IMAGE_BYTES_MAX);
        sectors += (files[i].count + SECTOR - 1) / SECTOR;
    }
    sectors += sectors & 1; /* whole pages */
    uint8_t *image = calloc(sectors, SECTOR);
    if (!image)
        return fault_set(fault, ERR_NOMEM, "no memory for an image");
    put_volume(image, label, (uint32_t)sectors);
    put_root(image, files, file_count);
    *ret_bytes = image;
    *ret_count = sectors * SECTOR;
    return 0;
}

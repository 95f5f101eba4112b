#include "test_memory.h"

#include "boot.h"
#include "mix.h"
#include "vcpu.h"

#define GIB (UINT64_C(1) << 30)
#define LARGE_PAGE (UINT64_C(2) << 20)
#define GUEST_END (UINT64_C(16) << 20)

enum {
    RANGES_MAX = BOOT_INFO_RANGES_MAX,
    GIBS_MAX = 66,                         /* 64 GiB of RAM and the hole below 4 GiB */
    PAGE_USER_2M = 0xe7,                   /* as in boot.S */
    PAGE_USER_TABLE = 0x27,
    PAGE_ACCESSED_DIRTY = 0x60,
    /* SeaBIOS works at the top of RAM below 4 GiB and leaves things there */
    FIRMWARE_BYTES = 16 << 20,
    BODY_MAX = (1 << 28) - 1,
};

static struct {
    uint64_t address, pages;
} ranges[RANGES_MAX];
static uint32_t range_count;
static uint64_t page_count;
static uint64_t gib_count;

/* counter in bits 0-31, body in 32-59, kind in 60-63. Set once, then borrowed by all. */
static uint64_t *table;

static uint64_t page_directories[GIBS_MAX][512] __attribute__((aligned(4096)));
static uint64_t constant_sum;

static uint64_t sum_constant(void)
{
    uint64_t sum = 0;

    for (const uint64_t *word = (const void *)guest_image_start;
         word < (const uint64_t *)(const void *)guest_constant_end; word++)
        sum = mix64(sum ^ *word);
    return sum;
}

/* Below 1 GiB and from 3 to 4 GiB boot.S has mapped already. A directory is filled before it is
 * linked: from then on the host write-protects it. */
static void map_gibs(uint64_t end)
{
    gib_count = (end + GIB - 1) / GIB;
    if (gib_count < 4)
        gib_count = 4;
    if (gib_count > GIBS_MAX)
        gib_count = GIBS_MAX;
    for (uint64_t gib = 1; gib < gib_count; gib++) {
        if (gib == 3)
            continue;
        for (uint64_t i = 0; i < 512; i++)
            page_directories[gib][i] = (gib * GIB + i * LARGE_PAGE) | PAGE_USER_2M;
        boot_pdpt[gib] = (uint64_t)page_directories[gib] | PAGE_USER_TABLE;
    }
}

static bool page_tables_hold(void)
{
    for (uint64_t gib = 1; gib < gib_count; gib++) {
        if (gib == 3)
            continue;
        if ((boot_pdpt[gib] | PAGE_ACCESSED_DIRTY) !=
            ((uint64_t)page_directories[gib] | PAGE_USER_TABLE | PAGE_ACCESSED_DIRTY))
            return false;
        for (uint64_t i = 0; i < 512; i++) {
            if ((page_directories[gib][i] | PAGE_ACCESSED_DIRTY) !=
                ((gib * GIB + i * LARGE_PAGE) | PAGE_USER_2M))
                return false;
        }
    }
    return true;
}

static void clear_page(uint64_t *page, int64_t *cleaned)
{
    static const struct page_identity zero = {.kind = PAGE_ZERO};

    if (page_content_is_zero(page))
        return;
    page_content_write(page, &zero);
    ++*cleaned;
}

/* Test memory starts out as zero, except where others have been. Reading all of it would cost more
 * than a benchmark can bear, so only the likely places are looked at. */
static int64_t clean(const struct boot_info *info)
{
    int64_t cleaned = 0;

    for (uint32_t i = 0; i < range_count; i++) {
        uint64_t end = ranges[i].address + ranges[i].pages * PAGE_BYTES;
        uint64_t from = end - ranges[i].address > FIRMWARE_BYTES ? end - FIRMWARE_BYTES
                                                                 : ranges[i].address;

        for (uint64_t at = from; end <= 4 * GIB && at < end; at += PAGE_BYTES)
            clear_page((uint64_t *)at, &cleaned);
        for (uint32_t j = 0; j < sizeof(info->left) / sizeof(info->left[0]); j++) {
            uint64_t first = info->left[j].address / PAGE_BYTES * PAGE_BYTES;

            for (uint64_t at = first; at < info->left[j].address + info->left[j].bytes;
                 at += PAGE_BYTES) {
                if (at >= ranges[i].address && at < end)
                    clear_page((uint64_t *)at, &cleaned);
            }
        }
    }
    return cleaned;
}

static void add_ranges(const struct boot_info *info)
{
    for (uint32_t i = 0; i < info->rams; i++) {
        uint64_t begin = info->ram[i].address, end = begin + info->ram[i].bytes;

        if (end > GIBS_MAX * GIB)
            end = GIBS_MAX * GIB;
        if (begin < GUEST_END)
            begin = GUEST_END;
        begin = (begin + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);
        if (begin + PAGE_BYTES > end)
            continue;
        ranges[range_count].address = begin;
        ranges[range_count++].pages = (end - begin) / PAGE_BYTES;
        page_count += (end - begin) / PAGE_BYTES;
    }
}

int64_t test_memory_init(const struct boot_info *info)
{
    uint64_t end = 0;

    add_ranges(info);
    for (uint32_t i = 0; i < range_count; i++) {
        if (ranges[i].address + ranges[i].pages * PAGE_BYTES > end)
            end = ranges[i].address + ranges[i].pages * PAGE_BYTES;
    }
    map_gibs(end);

    uint64_t table_bytes = (page_count * sizeof(*table) + LARGE_PAGE - 1) & ~(LARGE_PAGE - 1);

    if (!range_count || ranges[0].pages <= table_bytes / PAGE_BYTES)
        return -1;
    table = (uint64_t *)ranges[0].address;
    ranges[0].address += table_bytes;
    ranges[0].pages -= table_bytes / PAGE_BYTES;
    page_count -= table_bytes / PAGE_BYTES;
    constant_sum = sum_constant();
    return clean(info);
}

bool test_memory_guest_holds(void)
{
    return constant_sum == sum_constant() && page_tables_hold();
}

uint64_t test_memory_pages(void)
{
    return page_count;
}

uint64_t *test_memory_page(uint64_t index)
{
    uint32_t i = 0;

    while (index >= ranges[i].pages && i < range_count - 1)
        index -= ranges[i++].pages;
    return (uint64_t *)(ranges[i].address + index * PAGE_BYTES);
}

struct page_identity test_memory_identity(uint64_t index)
{
    uint64_t entry = table[index];

    return (struct page_identity){
        .index = index,
        .counter = (uint32_t)entry,
        .body = (uint32_t)(entry >> 32 & BODY_MAX),
        .kind = (enum page_kind)(entry >> 60),
    };
}

static uint64_t sum_of(uint64_t index, uint64_t entry)
{
    return entry ? mix64(mix64(index) ^ entry) : 0;
}

uint64_t test_memory_sum(uint64_t index)
{
    return sum_of(index, table[index]);
}

static uint64_t entry_of(const struct page_identity *identity)
{
    return (uint64_t)identity->kind << 60 | (uint64_t)identity->body << 32 | identity->counter;
}

static void set_entry(struct vcpu *vcpu, const struct page_identity *identity)
{
    uint64_t entry = entry_of(identity);

    vcpu->table_sum += sum_of(identity->index, entry) - test_memory_sum(identity->index);
    table[identity->index] = entry;
}

void test_memory_write(struct vcpu *vcpu, uint64_t index, enum page_kind kind)
{
    struct page_identity identity = test_memory_identity(index);

    identity.counter++;
    identity.body = identity.counter & BODY_MAX;
    identity.kind = kind;
    page_content_write(test_memory_page(index), &identity);
    set_entry(vcpu, &identity);
}

void test_memory_write_sparse(struct vcpu *vcpu, uint64_t index)
{
    struct page_identity identity = test_memory_identity(index);

    identity.counter++;
    page_content_stamp(test_memory_page(index), &identity);
    set_entry(vcpu, &identity);
}

bool test_memory_roll_back(uint64_t index)
{
    struct page_identity identity = test_memory_identity(index);

    if (identity.counter < 2)
        return false;
    identity.counter--;
    if (identity.body > identity.counter)
        identity.body = identity.counter;
    page_content_write(test_memory_page(index), &identity);
    table[index] = entry_of(&identity);
    return true;
}

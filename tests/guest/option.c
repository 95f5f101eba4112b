#include "option.h"

#include <stddef.h>

#include "boot.h"
#include "record.h"
#include "virtio.h"

struct number_key {
    const char *name;
    size_t offset;
    uint64_t max;
};

static const struct number_key number_keys[] = {
    {"vcpus", offsetof(struct options, vcpus), BOOT_VCPUS_MAX},
    {"writers", offsetof(struct options, writers), WRITER_MAX},
    {"rate", offsetof(struct options, rate_mib), 1 << 20},
    {"ws", offsetof(struct options, working_set_mib), 1 << 20},
    {"fillmb", offsetof(struct options, fill_mib), 1 << 20},
    {"seed", offsetof(struct options, seed), UINT64_MAX},
    {"fpu", offsetof(struct options, fpu), 2},
    {"tick", offsetof(struct options, tick_ms), 1 << 30},
    {"poll_us", offsetof(struct options, poll_us), 1 << 30},
    {"lag_us", offsetof(struct options, lag_us), 1 << 30},
    {"disk", offsetof(struct options, disk_mib), 1 << 20},
    {"diskrate", offsetof(struct options, disk_rate), 1 << 30},
    {"diskflush", offsetof(struct options, disk_flush), 1 << 30},
    {"nicrate", offsetof(struct options, nic_rate), 1 << 30},
    {"vsock", offsetof(struct options, vsock_port), UINT32_MAX - 1},
};

static const char *const pattern_names[] = {"random", "seq", "hotcold", "sparse"};

static const struct {
    const char *name;
    enum page_kind kind;
} fills[] = {
    {"none", PAGE_UNTOUCHED}, {"random", PAGE_RANDOM}, {"text", PAGE_TEXT},
    {"dup", PAGE_DUP},        {"zero", PAGE_ZERO},
};

bool option_equal(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

bool option_number(const char *text, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || number > (UINT64_MAX - 9) / 10)
            return false;
        number = number * 10 + (uint64_t)(*text - '0');
    }
    *ret_number = number;
    return true;
}

bool option_pattern(const char *text, enum writer_pattern *ret_pattern)
{
    for (uint32_t i = 0; i < sizeof(pattern_names) / sizeof(pattern_names[0]); i++) {
        if (option_equal(text, pattern_names[i])) {
            *ret_pattern = (enum writer_pattern)i;
            return true;
        }
    }
    return false;
}

static bool option_fill(const char *text, enum page_kind *ret_kind)
{
    for (uint32_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
        if (option_equal(text, fills[i].name)) {
            *ret_kind = fills[i].kind;
            return true;
        }
    }
    return false;
}

static bool option_ring(const char *text, uint64_t *ret_features)
{
    static const struct {
        const char *name;
        uint64_t features;
    } rings[] = {
        {"split", 0},
        {"packed", VIRTIO_F_RING_PACKED},
        {"split+event", VIRTIO_F_EVENT_IDX},
        {"packed+event", VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX},
    };

    for (uint32_t i = 0; i < sizeof(rings) / sizeof(rings[0]); i++) {
        if (option_equal(text, rings[i].name)) {
            *ret_features = rings[i].features;
            return true;
        }
    }
    return false;
}

static bool parse_pair(struct options *options, const char *key, const char *value)
{
    uint64_t number;

    if (option_equal(key, "pattern"))
        return option_pattern(value, &options->pattern);
    if (option_equal(key, "fill"))
        return option_fill(value, &options->fill);
    if (option_equal(key, "ring"))
        return option_ring(value, &options->ring_features);
    if (!option_number(value, &number))
        return false;
    if (option_equal(key, "idle")) {
        options->idle = number != 0;
        return true;
    }
    if (option_equal(key, "diskseq")) {
        options->disk_in_order = number != 0;
        return true;
    }
    if (option_equal(key, "nic")) {
        options->nic = number != 0;
        return true;
    }
    if (option_equal(key, "irq")) {
        options->use_interrupts = number != 0;
        return true;
    }
    for (uint32_t i = 0; i < sizeof(number_keys) / sizeof(number_keys[0]); i++) {
        if (option_equal(key, number_keys[i].name) && number <= number_keys[i].max) {
            *(uint64_t *)((char *)options + number_keys[i].offset) = number;
            return true;
        }
    }
    return false;
}

void option_parse(struct options *ret_options, char *cmdline)
{
    *ret_options = (struct options){
        .vcpus = 1,
        .working_set_mib = 64,
        .seed = 1,
        .fpu = 1,
        .poll_us = 1000,
        .lag_us = 1000,
        .disk_flush = 64,
    };
    for (char *word = cmdline; *word;) {
        while (*word == ' ')
            word++;
        if (!*word)
            break;

        char *end = word, *equals = NULL;

        for (; *end && *end != ' '; end++) {
            if (*end == '=' && !equals)
                equals = end;
        }

        char *next = *end ? end + 1 : end;

        *end = 0;
        if (equals)
            *equals = 0;
        if (!equals || !parse_pair(ret_options, word, equals + 1)) {
            struct record record;

            record_begin(&record, "error");
            record_text(&record, "option", word);
            if (equals)
                record_text(&record, "value", equals + 1);
            record_end(&record);
        }
        word = next;
    }
    if (!ret_options->vcpus)
        ret_options->vcpus = 1;
}

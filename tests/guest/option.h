/* The keys of the command line.
 *
 * Flow:   boot_info -> [option] -> every module's init
 * Thread: vCPU 0 at boot; `writer` keeps its own copies of what commands can change.
 */
#ifndef GUEST_OPTION_H
#define GUEST_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "page_content.h"
#include "writer.h"

struct options {
    uint64_t vcpus, writers, rate_mib, working_set_mib, fill_mib, seed, fpu;
    uint64_t tick_ms, poll_us, lag_us;
    enum writer_pattern pattern;
    enum page_kind fill; /* PAGE_UNTOUCHED: none */
    bool idle;
    uint64_t disk_mib, disk_rate; /* 0 MiB: no disk */
    uint64_t disk_flush;          /* writes between two flushes */
    bool disk_in_order;
    uint64_t nic_rate;
    uint64_t vsock_port;    /* 0: no vsock */
    uint64_t ring_features; /* VIRTIO_F_* beyond the least */
    bool nic, use_interrupts;
};

/* Unknown keys and values are reported as records and skipped. */
void option_parse(struct options *ret_options, char *cmdline);

/* Decimal; false when `text` is anything else. */
bool option_number(const char *text, uint64_t *ret_number);
bool option_equal(const char *a, const char *b);
bool option_pattern(const char *text, enum writer_pattern *ret_pattern);

#endif

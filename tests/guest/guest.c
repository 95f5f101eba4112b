#include "guest.h"

#include "boot.h"
#include "boot_info.h"
#include "clock.h"
#include "command.h"
#include "disk.h"
#include "machine.h"
#include "nic.h"
#include "option.h"
#include "page_content.h"
#include "record.h"
#include "serial.h"
#include "sweep.h"
#include "test_memory.h"
#include "trap.h"
#include "vcpu.h"
#include "vsock.h"
#include "writer.h"

enum { PAGES_PER_MIB = 256 };

/* Too big for a ring-3 stack of 16 KiB and needed once. */
static struct boot_info info;
static struct options options;

__attribute__((noreturn)) static void give_up(const char *why)
{
    struct record record;

    record_begin(&record, "fatal");
    record_text(&record, "why", why);
    record_end(&record);
    for (;;)
        machine_pause();
}

static uint64_t clamp_mib(const char *key, uint64_t mib)
{
    uint64_t most = test_memory_pages() / PAGES_PER_MIB;

    if (mib <= most)
        return mib;

    struct record record;

    record_begin(&record, "error");
    record_text(&record, "too_big", key);
    record_number(&record, "most", most);
    record_end(&record);
    return most;
}

static void report_ready(uint32_t vcpus, int64_t cleaned, uint64_t fill_ms, uint64_t boot_ms,
                         bool kvmclock)
{
    struct record record;

    record_begin(&record, "ready");
    record_number(&record, "vcpus", vcpus);
    record_number(&record, "mem_mib", info.ram_bytes >> 20);
    record_number(&record, "test_pages", test_memory_pages());
    record_number(&record, "fill_pages", options.fill_mib * PAGES_PER_MIB);
    record_number(&record, "tsc_khz", clock_tsc_khz());
    record_number(&record, "fill_ms", fill_ms);
    record_number(&record, "boot_ms", boot_ms);
    record_number(&record, "cleaned", (uint64_t)cleaned);
    record_number(&record, "kvmclock", kvmclock);
    record_text(&record, "fpu", !options.fpu ? "off" : vcpu_get(0)->registers.avx ? "avx" : "sse");
    record_end(&record);
}

void guest_init(const struct clock_page *page)
{
    uint64_t entered = machine_tsc();
    uint64_t ns, tsc;

    trap_init();
    serial_init();
    clock_init(page);
    if (!boot_info_read(&info, boot_start_info))
        give_up("no_start_info_with_memory_map");
    option_parse(&options, info.cmdline);
    page_content_init(options.seed);

    int64_t cleaned = test_memory_init(&info);

    if (cleaned < 0)
        give_up("too_little_memory");
    options.fill_mib = options.fill == PAGE_UNTOUCHED ? 0 : clamp_mib("fillmb", options.fill_mib);
    options.working_set_mib = clamp_mib("ws", options.working_set_mib);

    uint32_t vcpus =
        vcpu_start_all((uint32_t)options.vcpus, (enum vcpu_pin)options.fpu, options.seed);

    writer_init(&options);

    uint64_t begin = machine_tsc();

    sweep_fill(options.fill_mib * PAGES_PER_MIB, options.fill);

    uint64_t fill_ms = clock_ns(machine_tsc() - begin) / 1000000;
    uint64_t boot_ms = clock_ns(begin - entered) / 1000000;

    disk_init(&options);
    nic_init(&options);
    vsock_init(&options);
    report_ready(vcpus, cleaned, fill_ms, boot_ms, clock_read(page, &ns, &tsc));
    command_init(&options);
    writer_set_on(options.writers > 0);
}

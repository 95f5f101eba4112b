"""The machine that a benchmark runs on: its memory made warm, its other load waited for, what it lacks said."""
import mmap
import os
import pathlib
import platform
import time

SETTLE_S = 3  # what was freed has been reported to a hypervisor by then
STOLEN_MS_MAX = 10  # of one run: the clock of stolen time ticks so coarsely
MEMORY_WAIT_S = 30
SPARE_MIB = 1024  # for the machine itself: nothing here may ever make it swap


class Lacking(Exception):
    """Something that a measurement needs is not here."""


def meminfo_mib(field):
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) // 1024
    raise Lacking(f"/proc/meminfo does not tell {field}")


def available_mib():
    return meminfo_mib("MemAvailable")


def need_memory(what, mib):
    """Refused before it begins rather than swapped, or killed, in the middle. What a process had comes back a
    while after it ended."""
    may_come = mib < meminfo_mib("MemTotal") - SPARE_MIB
    end = time.monotonic() + (MEMORY_WAIT_S if may_come else 0)
    while (left := available_mib() - SPARE_MIB) < mib and time.monotonic() < end:
        time.sleep(0.2)
    if mib > left:
        raise Lacking(f"{what} needs {mib} MiB of memory and {left} are to be had (MemAvailable less {SPARE_MIB})")


def warm(mib):
    """Make the machine give and keep memory, so that no contender pays for the first touch of it: a
    hypervisor below us takes back what lies free. In huge pages, as both contenders' targets ask for."""
    MADV_POPULATE_WRITE = 23
    area = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    area.madvise(MADV_POPULATE_WRITE)
    area.close()


def settle_and_warm(since, mib):
    """Nothing that was freed before `since` is still to be reported, and what this frees is so after the move only."""
    time.sleep(max(0.0, since + SETTLE_S - time.monotonic()))
    warm(mib)


def _busy_ticks(own_pids):
    """CPU ticks since boot that somebody used, or a hypervisor below took, without those of these processes."""
    words = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]  # guests are in user time, too
    values = list(map(int, words))
    ticks = sum(values) - values[3] - values[4]
    for pid in own_pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks -= int(fields[11]) + int(fields[12])
    return ticks


def wait_quiet(seconds=20, own_pids=()):
    """Until others use less than 5 % of a CPU for a second. Tells whether it became quiet. A guest of ours that
    never rests is named by its process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = _busy_ticks(own_pids)
        time.sleep(1)
        if (_busy_ticks(own_pids) - before) / os.sysconf("SC_CLK_TCK") < 0.05 * os.cpu_count():
            return True
    return False


def describe():
    """One line that names it."""
    model = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"Linux {platform.release()}, {os.cpu_count()} CPUs ({model}), {total:.0f} GiB"

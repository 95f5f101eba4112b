"""scripts/bench move: Godwit (always TLS) beside QEMU (plain and TLS), interleaved, medians and JSON."""
import argparse
import copy
import json
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench_goals  # noqa: E402
import bench_link  # noqa: E402
import bench_machine  # noqa: E402
import bench_qemu  # noqa: E402
import cpu_group  # noqa: E402
import pool as pools  # noqa: E402


class Workload:
    """`configs` are those of QEMU that may be its best here: the default where none are named."""

    def __init__(self, name, memory_mib, cmdline, what, configs, prealloc=True, vcpus=1):
        self.name, self.memory_mib, self.vcpus, self.configs = name, memory_mib, vcpus, configs
        self.cmdline, self.what, self.prealloc = f"vcpus={vcpus} {cmdline}".strip(), what, prealloc
        self.writes = "writers=" in cmdline
        fill = [w for w in cmdline.split() if w.startswith("fillmb=")]
        self.fill_mib = int(fill[0].split("=")[1]) if fill else 0
        self.fill_pages = self.fill_mib * 256
        self.link = bench_link.LOOPBACK
        self.limit_s = 60  # QEMU that has not moved it by then could not
        self.policy = None  # else what Godwit does by itself, in its own time

    def over(self, link):
        other = copy.copy(self)
        other.name, other.link = f"{self.name}@{link.name}", link
        other.what += f", over {link.what}"
        return other

    def memory_need_mib(self):
        """What both ends hold at once, and warming before them takes."""
        if self.prealloc:
            return 2 * self.memory_mib + 600
        return max(2 * 1024, self.memory_mib) + 600  # a host takes only what it has room for, touched or not


EMPTY = ["plain-single-20ms", "plain-multifd2-20ms", "tls-single-20ms"]
IDLE = ["plain-single-20ms", "plain-multifd2-20ms", "tls-multifd2-20ms"]
TEXT = ["plain-multifd2-20ms", "plain-zstd2-20ms", "tls-multifd2-20ms"]
WRITES = ["plain-single-20ms", "plain-multifd2-20ms", "tls-multifd2-20ms"]
WILD = ["plain-single-20ms", "plain-multifd2-20ms", "plain-autoconverge-20ms"]  # over TLS it does not end
SPARSE = ["plain-xbzrle64-20ms", "plain-xbzrle512-20ms"]
RANDOM = "fill=random fillmb=512"


def writer(name, rate, ws, what, pattern="", configs=WRITES):
    return Workload(name, 1024, f"{RANDOM} writers=1 rate={rate} ws={ws} {pattern}".strip(), f"512 MiB random, {what}", configs)


WORKLOADS = {w.name: w for w in [
    Workload("Z1", 1024, "", "1 GiB, never touched", EMPTY, prealloc=False),
    Workload("Z4", 4096, "", "4 GiB, never touched", EMPTY, prealloc=False),
    Workload("Z16", 16384, "", "16 GiB, never touched", EMPTY, prealloc=False),
    Workload("I1", 1024, RANDOM, "1 GiB, 512 MiB random, idle", IDLE),
    Workload("I4", 4096, "fill=random fillmb=2048", "4 GiB, 2 GiB random, idle", IDLE),
    Workload("C1", 1024, "fill=text fillmb=512", "1 GiB, 512 MiB compressible, idle", TEXT),
    writer("W25", 25, 64, "25 MiB/s over 64 MiB"),
    writer("W50", 50, 64, "50 MiB/s over 64 MiB"),
    writer("W100", 100, 64, "100 MiB/s over 64 MiB"),
    writer("W400", 400, 256, "400 MiB/s over 256 MiB"),
    writer("W1000", 1000, 512, "1000 MiB/s over 512 MiB", configs=WILD),
    writer("S100", 100, 256, "100 MiB/s swept over 256 MiB", "pattern=seq"),
    writer("H100", 100, 256, "100 MiB/s over 256 MiB, nine tenths of it in 32", "pattern=hotcold"),
    Workload("T200", 1024, "fill=text fillmb=512 writers=1 rate=200 ws=256", "512 MiB compressible, 200 MiB/s over 256 MiB", TEXT),
    writer("P50", 50, 256, "8 bytes a page, 12800 pages/s over 256 MiB", "pattern=sparse", SPARSE),
]}
# A writer that outruns its link: no pre-copy that leaves writers alone can catch up with it.
OUTRUN = writer("O400", 400, 256, "400 MiB/s over 256 MiB: faster than its link",
                configs=["plain-single-300ms", "plain-autoconverge-300ms"])
OUTRUN.policy = "finish"  # up to 99 % of the writers' time, as QEMU's auto-converge; 80 % may leave it faster than the link
WORKLOADS["O400"] = OUTRUN
TABLE = "I1,I4,Z16,W50,W400,W1000,C1@1gbit,P50@1gbit,O400@500mbit"  # what docs/performance.md tells of


def workload_named(name):
    """'W50', or 'C1@1gbit' over a link of that rate. None: there is none."""
    base, _, rate = name.partition("@")
    workload = WORKLOADS.get(base)
    if not workload or not rate:
        return workload if not name.endswith("@") else None
    link = bench_link.shaped(rate)
    return workload.over(link) if link else None


CONFIGS = {
    f"{'tls' if tls else 'plain'}-{f'multifd{m}' if m else 'single'}-{d}ms": {
        "tls": tls, "multifd": m, "downtime_ms": d}
    for tls in (False, True) for m in (0, 2, 4) for d in (300, 20)}
# QEMU's own delta codec knows one sender only. Its cache is 64 MiB unless told; 512 hold every page written here.
CONFIGS |= {f"{'tls' if tls else 'plain'}-xbzrle{mib}-20ms": {"tls": tls, "multifd": 0, "downtime_ms": 20, "xbzrle_mib": mib}
            for tls in (False, True) for mib in (64, 512)}
# It compresses where it has several senders, each with zstd's fastest level.
CONFIGS |= {f"{'tls' if tls else 'plain'}-zstd{m}-20ms": {"tls": tls, "multifd": m, "downtime_ms": 20, "zstd": True}
            for tls in (False, True) for m in (2, 4)}
CONFIGS |= {f"{'tls' if tls else 'plain'}-autoconverge-{d}ms": {"tls": tls, "multifd": 0, "downtime_ms": d, "auto_converge": True}
            for tls in (False, True) for d in (300, 20)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def godwit_words(workload, extra):
    held = ["--policy", workload.policy, "--deadline", f"{workload.limit_s}s"] if workload.policy else []
    return [*extra, *held]


def run_godwit(pool, workload, extra, since):
    pool.create_guest("bench", workload.cmdline, memory=f"{workload.memory_mib}MiB", vcpus=workload.vcpus)
    try:
        pool.ask("bench", "stats", "gw stats")
        time.sleep(1.0)  # the window in which the writers' own rate is measured
        rate = pool.ask("bench", "stats", "gw stats")
        # A look of a second, which the forecast is made of. It may say that there is no end to it.
        pool.godwit("migrate", "bench", "--to", "node2", "--dry-run", *godwit_words(workload, extra), check=False)
        bench_machine.settle_and_warm(since, workload.memory_mib + 600 if workload.prealloc else 600)
        stolen, reported = bench_qemu.stolen_ms(), bench_qemu.reported_mib()
        marked = time.monotonic()
        pool.ask("bench", "mark", "gw ok")
        started = time.monotonic()
        done = pool.godwit("migrate", "bench", "--to", "node2", "--progress", "none",
                           *godwit_words(workload, extra), timeout=300, check=not workload.policy)
        moved = time.monotonic()
        wall = moved - started
        if done.returncode:
            return {"moved": False, "total_ms": None, "wall_ms": wall * 1000, "why": done.stderr.strip()}
        stolen = bench_qemu.stolen_ms() - stolen
        time.sleep(bench_qemu.AFTER_S)
        reported = bench_qemu.reported_mib() - reported
        stats = pool.ask("bench", "stats", "gw stats")
        holes = pool.ask("bench", "holes", "gw holes")
        pool.verify("bench")
        job = [j for j in pool.ls("job") if j["vm"] == "bench"][-1]
        shown = pool.json("job", "show", job["id"])
        receipt = shown["receipt"]
        total_ms = receipt["total_ns"] / 1e6
        return {
            "total_ms": total_ms, "wall_ms": wall * 1000, "downtime_ms": receipt["downtime_ns"] / 1e6,
            "gap_ms": bench_qemu.longest_hole_ms(holes, (moved - marked) * 1000), "wire_bytes": receipt["wire_bytes"],
            "source_cpu_s": receipt.get("source_cpu_ns", 0) / 1e9,
            "target_cpu_s": receipt.get("target_cpu_ns", 0) / 1e9,
            **bench_qemu.work_retained(rate, stats, total_ms),
            "predicted_total_ms": receipt.get("predicted_total_ns", 0) / 1e6,
            "predicted_downtime_ms": receipt.get("predicted_downtime_ns", 0) / 1e6,
            "populate_ms": receipt.get("populate_ns", 0) / 1e6,
            "moved": True, "goal_ms": receipt.get("downtime_goal_ns", 0) / 1e6,
            "held_back": receipt.get("throttle_permille_peak", 0) / 1000,
            "rounds": len(receipt.get("rounds", [])), "receipt": receipt, "forecast": shown.get("forecast"),
            "resent_bytes": sum(r.get("wire_bytes", 0) for r in receipt.get("rounds", [])[1:]),
            "stolen_ms": stolen, "reported_mib": reported, "holes_us": holes["us"], "hole_ends_us": holes["end_us"],
        }
    finally:
        pool.godwit("vm", "rm", "bench", "--stop", "-y", check=False)


def run_qemu(program, elf, workload, config, bandwidth_mib, since, pool):
    qemu = bench_qemu.Qemu(program, elf, workload, config, bandwidth_mib, workload.link.hosts(pool))
    try:
        return qemu.migrate(workload.link.qemu_address(pool, free_port()), lambda: bench_machine.settle_and_warm(
            since, workload.memory_mib + 600 if workload.prealloc else 600))
    finally:
        qemu.close()


def median(runs, key):
    values = [r[key] for r in calm(runs, key) if r.get(key) is not None]
    return statistics.median(values) if values else None


def spread(runs, key):
    values = [r[key] for r in calm(runs, key) if r.get(key) is not None]
    if not values:
        return None
    middle = statistics.median(values)
    return statistics.median(abs(v - middle) for v in values)


# A hypervisor that takes CPUs away makes holes that are nobody's here: whole runs are set aside for the gap.
CALM = ("gap_ms",)


def is_calm(run):
    return run.get("stolen_ms", 0) <= bench_machine.STOLEN_MS_MAX and not run.get("reported_mib")


def calm(runs, key):
    left = [r for r in runs if is_calm(r)]
    return left if key in CALM and left else runs


COLUMNS = [("total", "total_ms", "{:.0f}"), ("gap", "gap_ms", "{:.1f}"), ("down", "downtime_ms", "{:.1f}"),
           ("wire MiB", "wire_bytes", None), ("again MiB", "resent_bytes", None), ("cpu src", "source_cpu_s", "{:.2f}"),
           ("cpu tgt", "target_cpu_s", "{:.2f}"), ("work kept", "work_retained", None),
           ("lost ms", "lost_work_ms", "{:.0f}"), ("clock lag", "clock_lag_ms", "{:.1f}")]


def cell(runs, key, form):
    value = median(runs, key)
    if value is None:
        return "-"
    if key in ("wire_bytes", "resent_bytes"):
        return f"{value / 2**20:.2f}"
    if key == "work_retained":
        return f"{value * 100:.0f} %"
    text = form.format(value)
    if key in ("total_ms", "gap_ms"):
        text += " ±" + form.format(spread(runs, key))
    return text


def table(results):
    lines = []
    for name, contenders in results.items():
        lines.append(f"\n{name}: {workload_named(name).what}")
        lines.append("  {:34}".format("contender (runs)") + "".join(f"{c[0]:>14}" for c in COLUMNS))
        for contender, runs in contenders.items():
            if runs:
                lines.append("  {:34}".format(f"{contender} ({len(runs)})") + "".join(
                    f"{cell(runs, key, form):>14}" for _, key, form in COLUMNS))
        lines += verdicts(contenders)
    return "\n".join(lines)


def verdicts(contenders):
    """Ratios of Godwit (TLS) to the best QEMU of each kind; below 1 Godwit is better."""
    ours = contenders.get("godwit")
    if not ours:
        return []
    lines = []
    moved = [r for r in ours if r["moved"]]
    for label, key in (("total", "total_ms"), ("guest gap", "gap_ms")):
        mine = median(ours, key)
        if mine is None:
            continue
        for kind in ("plain", "tls"):
            theirs, who = bench_goals.best(contenders, key, kind, median)
            if theirs:
                lines.append(f"  {label}: Godwit over TLS {mine:.1f} ms, QEMU's best {kind.replace('tls', 'TLS')} {theirs:.1f} ms "
                             f"({who}): ratio {mine / theirs:.3f} ({theirs / mine:.1f} x)")
    for name, runs in contenders.items():
        if any(not r.get("moved", True) for r in runs):
            left = median(runs, "left_mib")
            lines.append(f"  {name}: not moved within {max(r['wall_ms'] for r in runs) / 1000:.0f} s"
                         + (f", {left:.0f} MiB left then" if left is not None else ""))
    # As `migrate --dry-run` told it, after a look of a second. Before the first move nobody knows the link: left out.
    told = [(r["forecast"], r) for r in moved if (r.get("forecast") or {}).get("link_moves")]
    if told:
        totals = [abs(f["total_ns"] / 1e6 - r["total_ms"]) / r["total_ms"] for f, r in told]
        pauses = [abs(f["pause_ns"] / 1e6 - r["downtime_ms"]) for f, r in told]
        lines.append(f"  forecast before it began ({len(told)} of {len(moved)} runs; the others knew no link): median error of "
                     f"the total {statistics.median(totals) * 100:.0f} %, of the pause {statistics.median(pauses):.1f} ms")
    return lines


def need(workloads):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise bench_machine.Lacking("/dev/kvm cannot be opened here: no guest can run")
    for workload in workloads:
        bench_machine.need_memory(workload.name, workload.memory_need_mib())
        workload.link.need()


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench move", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Move the same guest with Godwit (TLS, its only mode) and with QEMU, interleaved A B A B,
warmed memory, and print medians, spreads and ratios against QEMU's best configuration.
QEMU=/path/to/qemu-system-x86_64 adds a second QEMU beside Debian's.""",
        epilog="""examples:
  scripts/bench move
  scripts/bench move --workloads I1,W100 --runs 5 --configs plain-multifd2-20ms --json /tmp/out.json
  scripts/bench move --workloads C1@1gbit,P50@1gbit
  scripts/bench move --workloads table --runs 3 --json /tmp/table.json
  QEMU=/opt/qemu/bin/qemu-system-x86_64 scripts/bench move --workloads Z4""")
    parser.add_argument("--workloads", default="Z1,Z4,I1,C1,W25,W100,W400", help="of " + ",".join(WORKLOADS) +
                        "; WORKLOAD@RATE (1gbit, 500mbit) over a link of that rate (tbf, needs root); 'table': " + TABLE)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--configs", help="of QEMU, else those that may be its best at each workload: " + ", ".join(CONFIGS))
    parser.add_argument("--json", type=pathlib.Path, help="write everything here")
    parser.add_argument("--godwit-options", default="", help="more words for godwit migrate, e.g. '--streams 2'")
    parser.add_argument("--bandwidth", type=int, metavar="MIB", help="of both contenders, MiB/s; else unlimited")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--no-quiet-wait", action="store_true", help="do not wait for other load to end")
    options = parser.parse_args()
    workloads = []
    for name in (TABLE if options.workloads == "table" else options.workloads).split(","):
        workload = workload_named(name)
        if not workload:
            parser.error(f"no workload '{name}'; there are {', '.join(WORKLOADS)}, each also as NAME@RATE")
        workloads.append(workload)
    configs = options.configs.split(",") if options.configs else []
    for name in configs:
        if name not in CONFIGS:
            parser.error(f"no configuration '{name}'; there are {', '.join(CONFIGS)}")
    try:
        need(workloads)
    except bench_machine.Lacking as lacking:
        sys.exit(f"scripts/bench move: {lacking}")
    programs = {"qemu": "qemu-system-x86_64"}
    if os.environ.get("QEMU"):
        programs["qemu-given"] = os.environ["QEMU"]
    versions = {label: subprocess.run([path, "--version"], capture_output=True, text=True,
                                      check=True).stdout.splitlines()[0]
                for label, path in programs.items()} if not options.no_qemu else {}

    extra = options.godwit_options.split()
    if options.bandwidth:
        extra += ["--bandwidth", f"{options.bandwidth}MiB/s"]
    pools.end_on_signals()
    results, notes = {}, []

    def measure(pool, elf, workload):
        own = [] if options.no_qemu else configs or workload.configs
        contenders = results.setdefault(workload.name, {"godwit": []})
        for run in range(options.runs):
            turns = [("godwit", None, None)] + [
                (f"{label} {config}", path, CONFIGS[config])
                for label, path in programs.items() for config in own]
            for contender, path, config in turns:
                if any(not r.get("moved", True) for r in contenders.get(contender, [])):
                    continue  # once tells that it cannot
                bench_machine.need_memory(workload.name, workload.memory_need_mib())
                bench_machine.warm(2 * workload.memory_mib + 600 if workload.prealloc else 2 * 1024 + 600)
                since = time.monotonic()
                quiet = None if options.no_quiet_wait else bench_machine.wait_quiet()
                print(f"\r{workload.name} run {run + 1}/{options.runs} {contender:40}", end="", file=sys.stderr)
                try:
                    if config is None:
                        result = run_godwit(pool, workload, extra, since)
                    else:
                        result = run_qemu(path, elf, workload, config, options.bandwidth, since, pool)
                    result["quiet"] = quiet
                    contenders.setdefault(contender, []).append(result)
                except pools.PoolError as error:
                    notes.append(f"{workload.name} {contender} run {run + 1}: {error}")
                    print(f"\n{notes[-1]}", file=sys.stderr)

    try:
        with cpu_group.CpuGroup(os.getpid()) as group:
            for link in dict.fromkeys(w.link for w in workloads):
                with link.pool() as pool:
                    elf = pool.guest_elf()
                    for workload in (w for w in workloads if w.link == link):
                        measure(pool, elf, workload)
    except bench_machine.Lacking as lacking:
        sys.exit(f"scripts/bench move: {lacking}")
    print(file=sys.stderr)
    print(f"{bench_machine.describe()}, both ends on this machine, over loopback where no link is named; "
          f"medians ± median deviation, times in ms")
    for label, version in versions.items():
        print(f"{label}: {version}")
    print("Godwit's total counts from the order at the source's process, with greeting, TLS and populating the\n"
          "target's memory inside; QEMU's from `migrate`, its target started and preallocated before.")
    if group.made:
        print("Everything measured ran in one CPU group of its own, before all else on the machine.")
    print(table(results))
    print("\n" + bench_goals.table(results, median, {w.name: w.fill_mib for w in workloads}))
    runs = [r for c in results.values() for contender in c.values() for r in contender]
    print(f"\n{sum(not is_calm(r) for r in runs)} of {len(runs)} runs were disturbed by a hypervisor below (it took CPU time, or was "
          f"told of free memory);\nthe gap is the median of the others, where there are any")
    every = [r["quiet"] for c in results.values() for runs in c.values() for r in runs]
    print(f"{every.count(False)} of {len(every)} runs on a machine that did not become quiet, "
          f"{every.count(None)} not checked for it; {len(notes)} runs failed")
    for note in notes:
        print("  " + note)
    if options.json:
        options.json.write_text(json.dumps(
            {"versions": versions, "kernel": platform.release(), "results": results, "notes": notes}, indent=1))
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())

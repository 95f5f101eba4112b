"""scripts/bench move: Godwit (always TLS) beside QEMU (plain and TLS), interleaved, medians and JSON."""
import argparse
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
import bench_machine  # noqa: E402
import bench_qemu  # noqa: E402
import cpu_group  # noqa: E402
import pool as pools  # noqa: E402


class Workload:
    def __init__(self, name, memory_mib, cmdline, what, prealloc=True, vcpus=1):
        self.name, self.memory_mib, self.vcpus = name, memory_mib, vcpus
        self.cmdline, self.what, self.prealloc = f"vcpus={vcpus} {cmdline}".strip(), what, prealloc
        self.writes = "writers=" in cmdline
        fill = [w for w in cmdline.split() if w.startswith("fillmb=")]
        self.fill_pages = int(fill[0].split("=")[1]) * 256 if fill else 0


WORKLOADS = {w.name: w for w in [
    Workload("Z1", 1024, "", "1 GiB, never touched", prealloc=False),
    Workload("Z4", 4096, "", "4 GiB, never touched", prealloc=False),
    Workload("I1", 1024, "fill=random fillmb=512", "1 GiB, 512 MiB random, idle"),
    Workload("C1", 1024, "fill=text fillmb=512", "1 GiB, 512 MiB compressible, idle"),
    Workload("W25", 1024, "fill=random fillmb=512 writers=1 rate=25 ws=64", "512 MiB random, 25 MiB/s over 64 MiB"),
    Workload("W100", 1024, "fill=random fillmb=512 writers=1 rate=100 ws=64", "512 MiB random, 100 MiB/s over 64 MiB"),
    Workload("W400", 1024, "fill=random fillmb=512 writers=1 rate=400 ws=256", "512 MiB random, 400 MiB/s over 256 MiB"),
    Workload("W1000", 1024, "fill=random fillmb=512 writers=1 rate=1000 ws=512", "512 MiB random, 1000 MiB/s over 512 MiB"),
    Workload("S100", 1024, "fill=random fillmb=512 writers=1 rate=100 ws=256 pattern=seq", "512 MiB random, 100 MiB/s swept over 256 MiB"),
    Workload("H100", 1024, "fill=random fillmb=512 writers=1 rate=100 ws=256 pattern=hotcold", "512 MiB random, 100 MiB/s over 256 MiB, nine tenths of it in 32"),
    Workload("P50", 1024, "fill=random fillmb=512 writers=1 rate=50 ws=256 pattern=sparse", "512 MiB random, 8 bytes a page, 12800 pages/s over 256 MiB"),
]}

CONFIGS = {
    f"{'tls' if tls else 'plain'}-{f'multifd{m}' if m else 'single'}-{d}ms": {
        "tls": tls, "multifd": m, "downtime_ms": d}
    for tls in (False, True) for m in (0, 2, 4) for d in (300, 20)}
# QEMU's own delta codec knows one sender only. Its cache is 64 MiB unless told; 512 hold every page written here.
CONFIGS |= {f"{'tls' if tls else 'plain'}-xbzrle{mib}-20ms": {"tls": tls, "multifd": 0, "downtime_ms": 20, "xbzrle_mib": mib}
            for tls in (False, True) for mib in (64, 512)}
DEFAULT_CONFIGS = ["plain-single-300ms", "plain-single-20ms", "plain-multifd2-300ms", "plain-multifd2-20ms",
                   "plain-multifd4-20ms", "tls-single-20ms", "tls-multifd2-20ms"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_godwit(pool, workload, extra, since):
    pool.create_guest("bench", workload.cmdline, memory=f"{workload.memory_mib}MiB", vcpus=workload.vcpus)
    try:
        pool.ask("bench", "stats", "gw stats")
        time.sleep(1.0)  # the window in which the writers' own rate is measured
        rate = pool.ask("bench", "stats", "gw stats")
        bench_machine.settle_and_warm(since, workload.memory_mib + 600 if workload.prealloc else 600)
        stolen, reported = bench_qemu.stolen_ms(), bench_qemu.reported_mib()
        marked = time.monotonic()
        pool.ask("bench", "mark", "gw ok")
        started = time.monotonic()
        pool.godwit("migrate", "bench", "--to", "node2", "--progress", "none", *extra)
        moved = time.monotonic()
        wall = moved - started
        stolen = bench_qemu.stolen_ms() - stolen
        time.sleep(bench_qemu.AFTER_S)
        reported = bench_qemu.reported_mib() - reported
        stats = pool.ask("bench", "stats", "gw stats")
        holes = pool.ask("bench", "holes", "gw holes")
        pool.verify("bench")
        job = [j for j in pool.ls("job") if j["vm"] == "bench"][-1]
        receipt = pool.json("job", "show", job["id"])["receipt"]
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
            "rounds": len(receipt.get("rounds", [])), "receipt": receipt,
            "resent_bytes": sum(r.get("wire_bytes", 0) for r in receipt.get("rounds", [])[1:]),
            "stolen_ms": stolen, "reported_mib": reported, "holes_us": holes["us"], "hole_ends_us": holes["end_us"],
        }
    finally:
        pool.godwit("vm", "rm", "bench", "--stop", "-y", check=False)


def run_qemu(program, elf, workload, config, bandwidth_mib, since):
    qemu = bench_qemu.Qemu(program, elf, workload, config, bandwidth_mib)
    try:
        return qemu.migrate(free_port(), lambda: bench_machine.settle_and_warm(
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
STOLEN_MS_MAX = 10  # the clock of stolen time ticks so coarsely


def is_calm(run):
    return run.get("stolen_ms", 0) <= STOLEN_MS_MAX and not run.get("reported_mib")


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
        lines.append(f"\n{name}: {WORKLOADS[name].what}")
        lines.append("  {:34}".format("contender (runs)") + "".join(f"{c[0]:>14}" for c in COLUMNS))
        for contender, runs in contenders.items():
            if runs:
                lines.append("  {:34}".format(f"{contender} ({len(runs)})") + "".join(
                    f"{cell(runs, key, form):>14}" for _, key, form in COLUMNS))
        lines += verdicts(contenders)
    return "\n".join(lines)


def best(contenders, key, tls):
    found = [(median(runs, key), name) for name, runs in contenders.items() if runs and name != "godwit"
             and ("tls-" in name) == tls and median(runs, key) is not None]
    return min(found) if found else (None, None)


def verdicts(contenders):
    """Ratios of Godwit (TLS) to the best QEMU of each kind; below 1 Godwit is better."""
    ours = contenders.get("godwit")
    if not ours:
        return []
    lines = []
    for label, key in (("total", "total_ms"), ("guest gap", "gap_ms")):
        mine = median(ours, key)
        for kind, tls in (("plain", False), ("TLS", True)):
            theirs, who = best(contenders, key, tls)
            if theirs:
                lines.append(f"  {label}: Godwit over TLS {mine:.1f} ms, QEMU's best {kind} {theirs:.1f} ms "
                             f"({who}): ratio {mine / theirs:.3f} ({theirs / mine:.1f} x)")
    errors = [abs(r["predicted_total_ms"] - r["total_ms"]) / r["total_ms"] for r in ours
              if r.get("predicted_total_ms")]
    if errors:
        lines.append(f"  forecast of the total: median error {statistics.median(errors) * 100:.0f} %")
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench move", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Move the same guest with Godwit (TLS, its only mode) and with QEMU, interleaved A B A B,
warmed memory, and print medians, spreads and ratios against QEMU's best configuration.
QEMU=/path/to/qemu-system-x86_64 adds a second QEMU beside Debian's.""",
        epilog="""examples:
  scripts/bench move
  scripts/bench move --workloads I1,W100 --runs 5 --configs plain-multifd2-20ms --json /tmp/out.json
  QEMU=/opt/qemu/bin/qemu-system-x86_64 scripts/bench move --workloads Z4""")
    parser.add_argument("--workloads", default="Z1,Z4,I1,C1,W25,W100,W400", help="of " + ",".join(WORKLOADS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--configs", default=",".join(DEFAULT_CONFIGS), help="of QEMU: " + ", ".join(CONFIGS))
    parser.add_argument("--json", type=pathlib.Path, help="write everything here")
    parser.add_argument("--godwit-options", default="", help="more words for godwit migrate, e.g. '--streams 2'")
    parser.add_argument("--bandwidth", type=int, metavar="MIB", help="of both contenders, MiB/s; else unlimited")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--no-quiet-wait", action="store_true", help="do not wait for other load to end")
    options = parser.parse_args()
    for name in options.workloads.split(","):
        if name not in WORKLOADS:
            parser.error(f"no workload '{name}'; there are {', '.join(WORKLOADS)}")
    configs = [] if options.no_qemu else options.configs.split(",")
    for name in configs:
        if name not in CONFIGS:
            parser.error(f"no configuration '{name}'; there are {', '.join(CONFIGS)}")
    programs = {"qemu": "qemu-system-x86_64"}
    if os.environ.get("QEMU"):
        programs["qemu-given"] = os.environ["QEMU"]
    versions = {label: subprocess.run([path, "--version"], capture_output=True, text=True,
                                      check=True).stdout.splitlines()[0]
                for label, path in programs.items()} if configs else {}

    extra = options.godwit_options.split()
    if options.bandwidth:
        extra += ["--bandwidth", f"{options.bandwidth}MiB/s"]
    pools.end_on_signals()
    results, notes = {}, []
    # QEMU's ends talk over the loopback device; a bridge between namespaces would cost ours more.
    os.environ.setdefault("GODWIT_LOOPBACK", "1")
    with cpu_group.CpuGroup(os.getpid()) as group, pools.Pool(hosts=2, log_level="warn") as pool:
        elf = pool.guest_elf()
        for name in options.workloads.split(","):
            workload = WORKLOADS[name]
            contenders = results.setdefault(name, {"godwit": []})
            for run in range(options.runs):
                turns = [("godwit", None, None)] + [
                    (f"{label} {config}", path, CONFIGS[config])
                    for label, path in programs.items() for config in configs]
                for contender, path, config in turns:
                    bench_machine.warm(min(2 * workload.memory_mib, 2 * 1024 if not workload.prealloc else 1 << 20) + 600)
                    since = time.monotonic()
                    quiet = None if options.no_quiet_wait else bench_machine.wait_quiet()
                    print(f"\r{name} run {run + 1}/{options.runs} {contender:40}", end="", file=sys.stderr)
                    try:
                        if config is None:
                            result = run_godwit(pool, workload, extra, since)
                        else:
                            result = run_qemu(path, elf, workload, config, options.bandwidth, since)
                        result["quiet"] = quiet
                        contenders.setdefault(contender, []).append(result)
                    except pools.PoolError as error:
                        notes.append(f"{name} {contender} run {run + 1}: {error}")
                        print(f"\n{notes[-1]}", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{platform.release()}, {os.cpu_count()} CPUs, both ends on this machine, loopback; "
          f"medians ± median deviation, times in ms")
    for label, version in versions.items():
        print(f"{label}: {version}")
    print("Godwit's total counts from the order at the source's process, with greeting, TLS and populating the\n"
          "target's memory inside; QEMU's from `migrate`, its target started and preallocated before.")
    if group.made:
        print("Everything measured ran in one CPU group of its own, before all else on the machine.")
    print(table(results))
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

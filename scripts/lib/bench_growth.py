"""scripts/bench growth: how time and CPU of a move grow with memory and with lanes; a table, a plot, fitted exponents."""
import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench_machine  # noqa: E402
import cpu_group  # noqa: E402
import plot  # noqa: E402
import pool as pools  # noqa: E402

# RAM in GiB, and MiB of it that the guest fills with what does not compress; both ends hold those at once.
FILLED = [(gib, gib * 256) for gib in (1, 2, 4, 8, 16)]  # a quarter: a host takes a guest only with room for all of its RAM
UNTOUCHED = [1, 2, 4, 8, 16]
LANES = [1, 2, 3, 4, 5, 6, 7, 8]
LANES_RAM, LANES_FILL = 1, 896
AROUND_MIB = 600  # processes, sockets, what a guest has beside its fill
SLOPE_MOST = 1.05


# ---- figures ---------------------------------------------------------------------------------------

def median(values):
    return statistics.median(values)


def spread(values):
    """Median distance from the median."""
    middle = median(values)
    return median([abs(v - middle) for v in values])


def exponent(points):
    """Least squares of log y by log x, and its standard error; (x, y, spread) each. 1 is linear."""
    xs, ys = [math.log(x) for x, _, _ in points], [math.log(y) for _, y, _ in points]
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    square = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / square
    if len(points) < 3:
        return slope, last_step(points)[1]
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys))
    return slope, math.sqrt(rest / (len(points) - 2) / square)


def last_step(points):
    """The exponent between the two largest, where a fixed part hides least, and what their spreads leave open of it."""
    (x0, y0, s0), (x1, y1, s1) = sorted(points)[-2:]
    width = math.log(x1 / x0)
    return math.log(y1 / y0) / width, math.hypot(s0 / y0, s1 / y1) / width


def is_worse_than_linear(points):
    return any(slope - 2 * error > SLOPE_MOST for slope, error in (exponent(points), last_step(points)))


def verdict(name, points):
    (slope, error), (last, last_error) = exponent(points), last_step(points)
    return (f"{name:42} exponent {slope:5.2f} ±{error:.2f}, last step {last:5.2f} ±{last_error:.2f}: "
            f"{'WORSE than linear' if is_worse_than_linear(points) else 'not worse than linear'}")


# ---- runs ------------------------------------------------------------------------------------------

class Guest:
    """One guest that goes to and fro; every move is a run."""

    def __init__(self, pool, ram_gib, fill_mib):
        self.pool, self.fill_mib = pool, fill_mib
        what = f"{ram_gib} GiB with {fill_mib} MiB filled, at both ends,"
        bench_machine.need_memory(what, 2 * fill_mib + AROUND_MIB)
        bench_machine.warm(fill_mib + AROUND_MIB)
        self.freed = time.monotonic()
        fill = f"fill=random fillmb={fill_mib}" if fill_mib else ""
        pools.wait_for("the host to see memory as free again", 60, lambda: self.has_room(
            lambda: pool.create_guest("growth", fill, memory=f"{ram_gib}GiB", wait=False)), 0.5)
        pools.wait_for("the guest to be ready", 300,
                       lambda: "gw ready" in pool.godwit("vm", "logs", "growth", check=False).stdout, 0.2)

    @staticmethod
    def has_room(ask):
        """False while a host counts memory that was given back since its last report."""
        try:
            ask()
        except pools.PoolError as error:
            if "GW-2105" not in str(error):
                raise
            return False
        return True

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.pool.godwit("vm", "rm", "growth", "--stop", "-y", check=False)

    def move(self, lanes, quiet_wait):
        bench_machine.need_memory("the target", self.fill_mib + AROUND_MIB)
        bench_machine.settle_and_warm(self.freed, self.fill_mib + AROUND_MIB)
        pids = [pid for host in self.pool.hosts for pid in host.vm_pids()]
        quiet = bench_machine.wait_quiet(own_pids=pids) if quiet_wait else None
        to = "node2" if self.pool.vm("growth")["host"] == "node1" else "node1"
        words = ["--streams", str(lanes)] if lanes else []
        pools.wait_for("the host to see memory as free again", 60, lambda: self.has_room(
            lambda: self.pool.godwit("migrate", "growth", "--to", to, "--progress", "none", *words, timeout=300)), 0.5)
        self.freed = time.monotonic()
        receipt = [j for j in self.pool.ls("job") if j["vm"] == "growth"][-1]["receipt"]
        return {"total_s": receipt["total_ns"] / 1e9,
                "cpu_s": (receipt.get("source_cpu_ns", 0) + receipt.get("target_cpu_ns", 0)) / 1e9,
                "downtime_ms": receipt["downtime_ns"] / 1e6, "wire_bytes": receipt["wire_bytes"],
                "populated_bytes": receipt["populated_bytes"], "lanes": receipt["lanes"], "quiet": quiet}

    def verify(self):
        record = self.pool.ask("growth", "verify", "gw verify", timeout="300s")
        if " ok " not in record["_"] + " ":
            raise pools.PoolError(f"the guest after its moves: {record['_']}")


def against_ram(pool, rams, runs, quiet_wait, told):
    points = []
    for ram_gib, fill_mib in rams:
        with Guest(pool, ram_gib, fill_mib) as guest:
            guest.move(0, False)  # the first is the one that meets cold memory of its own process
            found = []
            for run in range(runs):
                found.append(guest.move(0, quiet_wait))
                told(f"{ram_gib} GiB, {fill_mib} MiB filled, run {run + 1}/{runs}: {found[-1]['total_s']:.2f} s")
            guest.verify()
            points.append({"ram_gib": ram_gib, "fill_mib": fill_mib, "runs": found})
    return points


def against_lanes(pool, lanes, runs, quiet_wait, told):
    points = [{"lanes": n, "ram_gib": LANES_RAM, "fill_mib": LANES_FILL, "runs": []} for n in lanes]
    with Guest(pool, LANES_RAM, LANES_FILL) as guest:
        guest.move(0, False)
        for run in range(runs):  # in turns: what the machine does in between hits all alike
            for point in points:
                point["runs"].append(guest.move(point["lanes"], quiet_wait))
                told(f"{point['lanes']} lanes, run {run + 1}/{runs}: {point['runs'][-1]['total_s']:.2f} s")
        guest.verify()
    return points


# ---- telling ---------------------------------------------------------------------------------------

def line_of(points, x, key):
    return [(x(p), median([r[key] for r in p["runs"]]), spread([r[key] for r in p["runs"]])) for p in points]


def ram(point):
    return point["ram_gib"]


def lanes_of(point):
    return point["lanes"]


def table(points, lanes=False):
    first = "lanes" if lanes else "RAM GiB"
    rows = [f"{first:>8} {'filled MiB':>11} {'runs':>5} {'total s':>16} {'CPU s, both ends':>18} {'CPU s/GiB':>10} {'wire MiB':>10}"]
    for p in points:
        total, cpu = [r["total_s"] for r in p["runs"]], [r["cpu_s"] for r in p["runs"]]
        a_gib = f"{median(cpu) / (p['fill_mib'] / 1024):.2f}" if p["fill_mib"] else "-"
        rows.append(f"{p['lanes'] if lanes else p['ram_gib']:8} {p['fill_mib']:11} {len(total):5} "
                    f"{f'{median(total):.3f} ±{spread(total):.3f}':>16} {f'{median(cpu):.3f} ±{spread(cpu):.3f}':>18} "
                    f"{a_gib:>10} {median([r['wire_bytes'] for r in p['runs']]) / 2**20:10.1f}")
    return "\n".join(rows)


def draw(found, note):
    filled, untouched, lanes = found["filled"], found["untouched"], found["lanes"]
    total, cpu = line_of(filled, ram, "total_s"), line_of(filled, ram, "cpu_s")
    x0, y0, _ = total[0]
    panels = [plot.Panel(
        "Against RAM", "RAM, GiB (a quarter filled with random)",
        [plot.Line("filled: total", total, plot.COLOURS[0]),
         plot.Line("filled: CPU, both ends", cpu, plot.COLOURS[1]),
         plot.Line("untouched: total", line_of(untouched, ram, "total_s"), plot.COLOURS[2]),
         plot.Line("untouched: CPU, both ends", line_of(untouched, ram, "cpu_s"), plot.COLOURS[3]),
         plot.Line("linear", [(x0, y0, 0), (total[-1][0], y0 * total[-1][0] / x0, 0)], "#999", dashed=True)],
        [p["ram_gib"] for p in untouched], log=True)]
    panels.append(plot.Panel(
        "Against lanes", f"lanes ({LANES_RAM} GiB, {LANES_FILL} MiB of it random)",
        [plot.Line("total", line_of(lanes, lanes_of, "total_s"), plot.COLOURS[0]),
         plot.Line("CPU, both ends", line_of(lanes, lanes_of, "cpu_s"), plot.COLOURS[1])],
        [p["lanes"] for p in lanes], log=False))
    return plot.svg(panels, note)


def say(found):
    for title, points, lanes in (("Filled with random", found["filled"], False),
                                 ("Never touched", found["untouched"], False), ("Lanes", found["lanes"], True)):
        print(f"\n{title}\n{table(points, lanes)}")
    print()
    for name, points, x in (("total by RAM, filled", found["filled"], ram),
                            ("total by RAM, untouched", found["untouched"], ram),
                            ("total by lanes", found["lanes"], lanes_of)):
        for key, word in (("total_s", ""), ("cpu_s", ", CPU")):
            print(verdict(name.replace("total", "CPU") if word else name, line_of(points, x, key)))


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench growth", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Moves guests of 1 to 16 GiB, filled and untouched, and one guest over 1 to 8 lanes, to and fro between two
hosts on this machine, over TLS; prints medians with their median deviation and the exponents of growth, and draws
them. Refuses where what both ends hold does not fit MemAvailable.""",
        epilog="""examples:
  scripts/bench growth --quick
  scripts/bench growth --svg docs/growth.svg --json growth.json""")
    parser.add_argument("--runs", type=int, help="of each point (3; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="1 and 2 GiB, 1, 2 and 4 lanes")
    parser.add_argument("--svg", type=pathlib.Path, default=pools.ROOT / "build" / "growth.svg", help="the plot (build/growth.svg)")
    parser.add_argument("--json", type=pathlib.Path, help="write every run here")
    parser.add_argument("--no-quiet-wait", action="store_true", help="do not wait for other load to end")
    options = parser.parse_args()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        sys.exit("scripts/bench growth: /dev/kvm cannot be opened here: no guest can run")
    rams = FILLED[:2] if options.quick else FILLED
    untouched = UNTOUCHED[:2] if options.quick else UNTOUCHED
    lanes = [1, 2, 4] if options.quick else LANES
    runs = options.runs or (2 if options.quick else 3)
    quiet = not options.no_quiet_wait

    def told(words):
        print(words, file=sys.stderr, flush=True)
    pools.end_on_signals()
    os.environ.setdefault("GODWIT_LOOPBACK", "1")
    found = {"machine": bench_machine.describe()}
    try:
        bench_machine.need_memory("this series", 2 * max(fill for _, fill in rams) + AROUND_MIB)
        with cpu_group.CpuGroup(os.getpid()), pools.Pool(hosts=2, log_level="warn") as pool:
            found["filled"] = against_ram(pool, rams, runs, quiet, told)
            found["untouched"] = against_ram(pool, [(gib, 0) for gib in untouched], runs, quiet, told)
            found["lanes"] = against_lanes(pool, lanes, runs, quiet, told)
    except bench_machine.Lacking as lacking:
        sys.exit(f"scripts/bench growth: {lacking}")
    every = [r["quiet"] for key in ("filled", "untouched", "lanes") for p in found[key] for r in p["runs"]]
    print(f"{found['machine']}; Godwit over TLS, both ends here, loopback; medians ± median deviation")
    print(f"{every.count(False)} of {len(every)} runs on a machine that did not become quiet, {every.count(None)} not checked for it")
    say(found)
    options.svg.parent.mkdir(parents=True, exist_ok=True)
    options.svg.write_text(draw(found, f"{found['machine']}; Godwit over TLS, loopback, both ends here; medians of {runs}, "
                                       "bars: median deviation"))
    print(f"\nplot: {options.svg}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

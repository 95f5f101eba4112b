"""How far forecasts are from what comes: guests of several kinds move back and forth, each looked at before
each move. See scripts/bench forecast --help."""
import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool as pools  # noqa: E402

GUESTS = {
    "idle": "fill=random fillmb=128",
    "zero": "fill=zero fillmb=160",
    "text": "writers=1 rate=10 ws=16 fill=text fillmb=128",
    "random": "writers=1 rate=40 ws=32 fill=random fillmb=128",
    "sweep": "writers=1 rate=40 ws=64 pattern=seq fill=random fillmb=128",
    "hot": "writers=1 rate=80 ws=64 pattern=hotcold fill=random fillmb=128",
}


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0


class Series:
    def __init__(self):
        self.total, self.pause, self.above_total, self.above_pause, self.moves = [], [], 0, 0, 0

    def add(self, told, came):
        self.moves += 1
        self.total.append(abs(told["total_ns"] - came["total_ns"]) / came["total_ns"])
        self.pause.append(abs(told["pause_ns"] - came["downtime_ns"]) / 1e6)
        self.above_total += came["total_ns"] > told["total_high_ns"]
        self.above_pause += came["downtime_ns"] > told["pause_high_ns"]

    def line(self, name):
        return (f"{name:8} {self.moves:5}   {100 * median(self.total):6.1f} %   {median(self.pause):7.2f} ms   "
                f"{self.above_total:3} of {self.moves:3}   {self.above_pause:3} of {self.moves:3}")


def one_move(pool, name, number, series, details):
    vm = pool.vm(name)
    target = "node2" if vm["host"] == "node1" else "node1"
    pool.json("migrate", name, "--to", target, "--dry-run")
    pool.godwit("migrate", name, "--to", target, "--progress", "none")
    job = [j for j in pool.ls("job") if j["vm"] == name][-1]
    told, came = job["forecast"], job["receipt"]
    series.add(told, came)
    if details:
        print(f"  {name} {number}: told {told['total_ns'] / 1e6:.0f} ms (below {told['total_high_ns'] / 1e6:.0f}), came "
              f"{came['total_ns'] / 1e6:.0f}; pause told {told['pause_ns'] / 1e6:.2f} ms, came "
              f"{came['downtime_ns'] / 1e6:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench forecast", description="Moves guests of several kinds between two hosts on this machine, "
        "after looking at each with migrate --dry-run, and prints how far the forecasts were off: the median of the "
        "total's error, of the pause's, and how many came above the high end, which is to hold 19 of 20. The first "
        "moves of a guest teach, so they are left out.")
    parser.add_argument("--moves", type=int, default=12, help="of each guest (12)")
    parser.add_argument("--learn", type=int, default=4, help="of them left out (4)")
    parser.add_argument("--only", action="append", choices=sorted(GUESTS), help="this kind only; repeatable")
    parser.add_argument("--details", action="store_true", help="one line a move")
    options = parser.parse_args()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("bench: /dev/kvm cannot be opened here: no guest can run")
        return 1
    pools.end_on_signals()
    with pools.Pool(hosts=2) as pool:
        print("guest    moves   total off   pause off    above total   above pause", flush=True)
        everything = Series()
        for name in options.only or GUESTS:
            pool.create_guest(name, GUESTS[name], memory="256MiB")
            series = Series()
            for number in range(options.moves):
                learns = number < options.learn
                one_move(pool, name, number, Series() if learns else series, options.details)
            print(series.line(name), flush=True)
            for field in ("total", "pause"):
                getattr(everything, field).extend(getattr(series, field))
            for field in ("above_total", "above_pause", "moves"):
                setattr(everything, field, getattr(everything, field) + getattr(series, field))
            pool.verify(name)
            pool.godwit("vm", "rm", name, "--stop", "-y")
        print(everything.line("all"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

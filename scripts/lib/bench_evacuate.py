"""Twelve writing guests leave one of four hosts, one at a time and by a plan, in one run. See scripts/bench
evacuate --help."""
import argparse
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool as pools  # noqa: E402

WORDS = "writers=1 rate=4 ws=8 fill=random fillmb=24"


def copying_of(pool, job):
    """Bytes of a move, seconds of copying, seconds in all."""
    receipt = pool.json("job", "show", job)["receipt"]
    copied = sum(r["pages"] for r in receipt["rounds"]) * 4096
    copying = sum(p["duration_ns"] for p in receipt["phases"] if p["phase"] in ("precopy", "drain")) / 1e9
    return copied, copying, receipt["total_ns"] / 1e9


def rate_of(move):
    return move[0] / max(move[1], 1e-3)


def last_move(pool, name):
    return copying_of(pool, [j for j in pool.ls("job") if j["vm"] == name][-1]["id"])


class Bound:
    """The least that an evacuation can take over one link: all bytes that it copied, at the median rate of
    moves that had the link alone in this run; and no less than its longest move."""

    def __init__(self, pool, plan, alone):
        moves = [copying_of(pool, step["job"]) for step in plan["steps"]]
        self.alone = sorted(rate_of(move) for move in alone)[len(alone) // 2]
        self.total = sum(copied for copied, _, _ in moves)
        self.sum_s = sum(took for _, _, took in moves)
        self.makespan_s = (plan["ended_unix_ms"] - plan["began_unix_ms"]) / 1000
        self.lower_s = max(self.total / self.alone, max(took for _, _, took in moves))
        self.times = self.makespan_s / self.lower_s

    def lines(self, one_by_one_s):
        return (f"makespan {self.makespan_s:.1f} s; one at a time by command {one_by_one_s:.1f} s; "
                f"{self.total >> 20} MiB copied",
                f"lower bound {self.lower_s:.1f} s at {self.alone / 2**20:.0f} MiB/s, the median of moves alone "
                f"(x {self.times:.2f}); sum of the moves' own times {self.sum_s:.1f} s")


def plan_of(pool, plan):
    found = pool.json("plan", "show", plan)
    return found[0] if isinstance(found, list) else found


def gather(pool, names, host="node1"):
    for there in pool.json("host", "ls"):
        pool.godwit("host", "uncordon", there["name"])
    for vm in pool.ls("vm"):
        if vm["name"] in names and vm.get("host") != host:
            pool.godwit("migrate", vm["name"], "--to", host)


def one_round(pool, names):
    gather(pool, names)
    began = time.monotonic()
    for name in names:
        pool.godwit("migrate", name)
    one_by_one = time.monotonic() - began
    alone = [last_move(pool, name) for name in names]
    gather(pool, names)
    done = pool.godwit("host", "evacuate", "node1", "--progress", "plain", timeout=600)
    plan = plan_of(pool, done.stdout.split("godwit plan show ")[1].split()[0])
    for name in names:
        pool.verify(name)
    return Bound(pool, plan, alone), one_by_one, plan


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench evacuate", description="Twelve writing guests (64 MiB, 24 MiB of it random, 4 MiB/s over "
        "8 MiB) leave one of four hosts in network namespaces on this machine: first one at a time by command, then, "
        "brought back, by one evacuation. Prints its makespan, the time of the former, and the lower bound of one "
        "link at the median rate of the former's moves. Every guest verifies its memory after each.")
    parser.add_argument("--rounds", type=int, default=3, help="how often (3)")
    parser.add_argument("--guests", type=int, default=12, help="how many (12)")
    options = parser.parse_args()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("bench: /dev/kvm cannot be opened here: no guest can run")
        return 1
    pools.end_on_signals()
    names = [f"web-{i}" for i in range(1, options.guests + 1)]
    with pools.Pool(hosts=4) as pool:
        for name in names:
            pool.create_guest(name, WORDS, memory="64MiB", host="node1")
        for number in range(options.rounds):
            bound, one_by_one, plan = one_round(pool, names)
            print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}: {plan['state']}, {plan['verdict']}")
            for line in bound.lines(one_by_one):
                print("  " + line, flush=True)
            print(f"  {one_by_one / bound.makespan_s:.1f} times as fast as one at a time", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

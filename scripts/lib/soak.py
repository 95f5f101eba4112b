"""Many moves of a verifying guest between real hosts, some of them with a fault inside. See scripts/soak --help."""
import argparse
import collections
import json
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import faults  # noqa: E402
import pool as pools  # noqa: E402

GUEST = "writers=1 rate=10 ws=2 fill=random fillmb=4"


class Counts:
    def __init__(self):
        self.moves = self.faults = self.missed = self.ended = 0
        self.lost = self.doubled = self.corrupt = self.stuck = 0
        self.unasked = 0  # ended otherwise than moved though nothing was armed: a very busy machine's deadlines
        self.outcomes, self.by_name, self.by_action = (collections.Counter() for _ in range(3))
        self.seconds = []

    def add(self, outcome, point, action):
        self.moves += 1
        self.outcomes[outcome.word] += 1
        self.seconds.append(outcome.seconds)
        if not point:
            self.unasked += outcome.word != "moved"
            return
        if outcome.reached:
            self.faults += 1
            self.by_name[point.name] += 1
            self.by_action[action] += 1
        else:
            self.missed += 1

    def bad(self):
        return self.lost + self.doubled + self.corrupt + self.stuck

    def line(self):
        ends = ", ".join(f"{word} {count}" for word, count in sorted(self.outcomes.items()))
        return (f"{self.moves} moves ({ends}), {self.faults} with a fault inside ({self.missed} armed and not "
                f"reached; {self.unasked} did not move unasked): lost {self.lost}, doubled {self.doubled}, corrupt {self.corrupt}, "
                f"stuck {self.stuck}")

    def report(self):
        lines = [self.line()]
        if self.by_action:
            lines.append("by action: " + ", ".join(f"{n} {c}" for n, c in self.by_action.most_common()))
            lines.append("by name:   " + ", ".join(f"{n} {c}" for n, c in sorted(self.by_name.items())))
        if self.seconds:
            middle = sorted(self.seconds)[len(self.seconds) // 2]
            lines.append(f"a move as its operator waits for it: median {middle * 1000:.0f} ms")
        return "\n".join(lines)


def judge(counts, error):
    """What kind of loss it is, for the counts."""
    words = str(error)
    if "exactly one process" in words:
        counts.doubled += 1
    elif "gw verify" in words and "BAD" in words:
        counts.corrupt += 1
    elif "does not end" in words:
        counts.stuck += 1
    else:
        counts.lost += 1


class Chooser:
    """Every move's fault comes from the seed and the move's number alone, so that one can be played again."""

    def __init__(self, pool, seed, share, only):
        self.seed, self.share = seed, share
        self.choices = [(p, a, e) for p in faults.table(pool) for a in p.actions for e in p.ends()
                        if p.spares(a, e) and (not only or any(w in f"{p.name}={a}" for w in only))]

    def choose(self, number):
        chance = random.Random(f"{self.seed}/{number}")
        if chance.random() >= self.share or not self.choices:
            return (None, None, None, 1)
        point, action, end = chance.choice(self.choices)
        return (point, action, end, 1)


def resume_from(path, seed):
    """Moves that an earlier run of the same seed made, as its log says."""
    if not path or not path.exists():
        return 0
    first = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["seed"] == seed:
            first = record["number"] + 1
    return first


def soak(pool, options, counts):
    chooser = Chooser(pool, options.seed, options.faults, options.only)
    log = open(options.log, "a", encoding="utf-8") if options.log else None
    first = resume_from(options.log, options.seed)
    if first:
        print(f"going on at move {first} of seed {options.seed}", flush=True)
    pool.create_guest("soak", GUEST, memory="32MiB")
    where, sequence = "node1", 0
    console = faults.Console(pool, "soak")
    end = time.monotonic() + options.seconds if options.seconds else None
    told = time.monotonic()
    for number in range(first, options.moves):
        if pool.coordinator.poll() is not None:
            raise pools.PoolError("the coordinator ended")
        if end and time.monotonic() > end:
            break
        point, action, at, nth = chooser.choose(number)
        target = "node2" if where == "node1" else "node1"
        fault = f"{point.name}={action} at the {at}" if point else "no fault"
        try:
            outcome = faults.move(pool, "soak", where, target, point, action, at, nth, console)
            where = pool.vm("soak")["host"] if point or outcome.word != "moved" else target
            seen = int(outcome.verdict["seq"])
            if seen <= sequence:
                raise pools.PoolError(f"the guest began anew: verified {seen} times, {sequence} before")
            sequence = seen
            counts.add(outcome, point, action)
        except pools.PoolError as error:
            judge(counts, error)
            print(f"MOVE {number} of seed {options.seed} ({fault}): {error}", flush=True)
            raise
        if log:
            log.write(json.dumps({"seed": options.seed, "number": number, "fault": fault if point else None,
                                  "reached": outcome.reached, "end": outcome.word,
                                  "ms": round(outcome.seconds * 1000)}) + "\n")
            log.flush()
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(counts.line(), flush=True)


def parse(words):
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="Moves a guest that verifies its memory back and forth between two real "
        "hosts on this machine; a share of the moves gets a fault at a random failpoint of either end (kill, error, "
        "delay, drop, duplicate, truncate). After every move the guest must run exactly once with its memory whole. "
        "Kills are kept to places where the guest must survive them. Ctrl-C ends it with the counts; with --log the "
        "next run of the same seed goes on where this one ended.",
        epilog="examples: scripts/soak --moves 10000 --faults 0.1 --seed 7 --log soak.log    "
        "scripts/soak --moves 50 --faults 1 --only target.ready")
    parser.add_argument("--moves", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--faults", type=float, default=0.1, help="share of moves with a fault, 0 to 1 (0.1)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (1)")
    parser.add_argument("--seconds", type=float, help="end after so long, whatever --moves says")
    parser.add_argument("--only", action="append", help="only faults whose NAME=ACTION contains this; repeatable")
    parser.add_argument("--log", type=pathlib.Path, help="append one JSON line a move; go on from it")
    return parser.parse_args(words)


def main():
    options = parse(sys.argv[1:])
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("soak: /dev/kvm cannot be opened here: no guest can run")
        return 77
    pools.end_on_signals()
    counts, failed = Counts(), False
    pool = pools.Pool(hosts=2, failpoints=True)
    try:
        with pool:
            soak(pool, options, counts)
    except KeyboardInterrupt:
        print("interrupted")
    except pools.PoolError as error:
        failed = True
        print(f"ended by: {error}")
    left = pools.leftovers(pool.tag)
    print(f"seed {options.seed}: {counts.report()}")
    for what in left:
        print(f"left behind: {what}")
    return 1 if failed or counts.bad() or left else 0


if __name__ == "__main__":
    sys.exit(main())

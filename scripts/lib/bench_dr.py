"""scripts/bench dr: what a replica costs its guest, and what the loss of its host would cost, minute by minute.

One guest on one of two hosts writes memory and disk at a steady pace. It is left alone and replicated in turns: how much less
of its work it does then is what the replica takes from it. Each checkpoint tells what a loss just before it would have cost."""
import argparse
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench_disks  # noqa: E402
import bench_machine  # noqa: E402
import cpu_group  # noqa: E402
import pool as pools  # noqa: E402

MEMORY_MIB, DISK_MIB, FILL_MIB, SET_MIB = 256, 64, 128, 64
LOSS_MOST = 10  # per cent of the guest's work
SETTLE_S = 3
BLOCKS_A_MIB = 256
FIELDS = ("rpo_us", "ship_us", "pause_us", "stop_us", "save_us", "copy_us", "pages")


class DrPool(bench_disks.DiskPool):
    def __init__(self, disks):
        super().__init__(disks, log_level="debug")  # checkpoints are told so

    def checkpoints(self):
        """All that were held so far, oldest first."""
        found = []
        for log in sorted(self.hosts[0].dir.rglob("vm.log")):
            for line in log.read_text(errors="replace").splitlines():
                if " checkpoint vm=" in line:
                    words = dict(re.findall(r"(\w+)=(\d+)", line))
                    found.append({key: int(words[key]) for key in FIELDS})
        return found


def work(pool):
    """Pages and blocks that the guest has written, and when it said so."""
    stats = pool.ask("dr", "stats", "gw stats")
    disk = pool.ask("dr", "disk", "gw disk ")
    return {"at": time.monotonic(), "pages": int(stats["work"]), "blocks": int(disk["written"])}


def window(pool, seconds):
    before = work(pool)
    time.sleep(seconds)  # the window that is measured
    after = work(pool)
    took = after["at"] - before["at"]
    return {key: (after[key] - before[key]) / took / BLOCKS_A_MIB for key in ("pages", "blocks")}


def protected(pool, options):
    pool.godwit("dr", "protect", "dr", "--to", "node2", "--rpo", options.rpo, *(["--disks-only"] if options.disks_only else []))
    pools.wait_for("it to be protected", 120, lambda: pool.json("dr", "status", "dr")[0]["state"] == "protected", 0.1)
    time.sleep(SETTLE_S)  # the first checkpoints carry what was written under the first image
    first = len(pool.checkpoints())
    found = window(pool, options.seconds)
    found["checkpoints"] = pool.checkpoints()[first:]
    found["status"] = pool.json("dr", "status", "dr")[0]
    pool.godwit("dr", "unprotect", "dr")
    pools.wait_for("no record of it", 60, lambda: not pool.json("dr", "status", "dr"), 0.1)
    return found


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def say(options, goal_ms, alone, kept):
    cuts = [c for w in kept for c in w["checkpoints"]]
    if not cuts:
        print("  no checkpoint was held")
        return
    rpo = [c["rpo_us"] / 1000 for c in cuts]
    pause = [c["pause_us"] / 1000 for c in cuts]
    seconds = options.seconds * len(kept)
    print(f"  RPO of {len(cuts)} checkpoints: worst {max(rpo):.0f} ms, p95 {quantile(rpo, 0.95):.0f}, median "
          f"{statistics.median(rpo):.0f}; goal {goal_ms:.0f}: {sum(r <= goal_ms for r in rpo)} of {len(rpo)} within it")
    print(f"  pause: median {statistics.median(pause):.1f} ms, p95 {quantile(pause, 0.95):.1f}, worst {max(pause):.1f} ("
          + ", ".join(f"{part} {statistics.median(c[f'{part}_us'] for c in cuts) / 1000:.1f}" for part in ("stop", "save", "copy"))
          + f" in the median); stood still {sum(pause) / seconds / 10:.1f} % of the time")
    print(f"  shipped in: median {statistics.median(c['ship_us'] for c in cuts) / 1000:.0f} ms, p95 "
          f"{quantile([c['ship_us'] / 1000 for c in cuts], 0.95):.0f}; {statistics.median(c['pages'] for c in cuts):.0f} pages each")
    for key, what in (("pages", "memory"), ("blocks", "disk")):
        base, now = statistics.median(w[key] for w in alone), statistics.median(w[key] for w in kept)
        lost = 100 * (1 - now / base) if base else 0
        print(f"  {what}: {now:.2f} MiB/s written, {base:.2f} alone: {lost:.1f} % lost (at most {LOSS_MOST}: "
              f"{'reached' if lost <= LOSS_MOST else 'MISSED'})")


def milliseconds(text):
    found = re.fullmatch(r"(\d+)(ms|s)", text)
    if not found:
        raise argparse.ArgumentTypeError("a goal is a number of ms or s")
    return int(found[1]) * (1000 if found[2] == "s" else 1)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench dr", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="""examples:
  scripts/bench dr
  scripts/bench dr --rpo 500ms --rounds 1 --seconds 20 --no-quiet-wait""")
    parser.add_argument("--rpo", default="1s", help="the goal (1s)")
    parser.add_argument("--rate", type=int, default=5, help="MiB/s that the guest writes, to memory and as much to its disk (5)")
    parser.add_argument("--seconds", type=int, default=60, help="of each window (60)")
    parser.add_argument("--rounds", type=int, default=3, help="windows alone and replicated (3)")
    parser.add_argument("--disks-only", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, default="/var/tmp", help="where disks lie; must know O_DIRECT")
    parser.add_argument("--json", type=pathlib.Path, help="write everything here")
    parser.add_argument("--no-quiet-wait", action="store_true", help="do not wait for other load to end")
    options = parser.parse_args()
    try:
        goal_ms = milliseconds(options.rpo)
    except argparse.ArgumentTypeError as wrong:
        parser.error(f"--rpo: {wrong}")
    pools.end_on_signals()
    try:
        if os.geteuid() != 0 or not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise bench_machine.Lacking("hosts with networks and folders of their own need root, their guest /dev/kvm")
        bench_machine.need_memory("a guest at both ends", 3 * MEMORY_MIB + 600)
    except bench_machine.Lacking as lacking:
        sys.exit(f"scripts/bench dr: {lacking}")
    alone, kept = [], []
    with tempfile.TemporaryDirectory(prefix="godwit-bench-dr-", dir=options.folder) as folder, \
            cpu_group.CpuGroup(os.getpid()), DrPool(pathlib.Path(folder)) as pool:
        quiet = None if options.no_quiet_wait else bench_machine.wait_quiet()
        path = pool.dir / "dr.yaml"
        path.write_text("\n".join([
            "name: dr", f"kernel: {pool.guest_elf()}",
            f"cmdline: vcpus=1 idle=1 writers=1 rate={options.rate} ws={SET_MIB} fill=random fillmb={FILL_MIB} disk={DISK_MIB} "
            f"diskrate={options.rate * BLOCKS_A_MIB}",
            "cpu: {vcpus: 1}", f"memory: {{size: {MEMORY_MIB}MiB}}", "host: node1", "disks:",
            f"  - {{name: root, store: {pool.store_path}, file: dr.raw, size: {DISK_MIB}MiB}}"]) + "\n")
        pool.godwit("vm", "create", "-f", path)
        pools.wait_for("the guest", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "dr", check=False).stdout)
        time.sleep(SETTLE_S)
        for number in range(options.rounds):
            print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr)
            alone.append(window(pool, options.seconds))
            kept.append(protected(pool, options))
        pool.verify("dr")
    print(file=sys.stderr)
    print(f"{bench_machine.describe()}; a guest of {MEMORY_MIB} MiB that writes {options.rate} MiB/s to memory and as much to a disk "
          f"of {DISK_MIB} MiB, both hosts on this machine, disks in {options.folder};\n{options.rounds} x {options.seconds} s each way in "
          f"turns; the machine was {'not looked at' if quiet is None else 'quiet' if quiet else 'NOT quiet'} at the beginning")
    print(f"goal {options.rpo}{', disks only' if options.disks_only else ''}:")
    say(options, goal_ms, alone, kept)
    if options.json:
        options.json.write_text(json.dumps({"machine": bench_machine.describe(), "alone": alone, "replicated": kept}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Godwit's move of a libvirt domain beside plain `virsh migrate --live --p2p` of the same guest between the same two
libvirtd, taken in turns. Total: as the command that waits sees it, in memory that was warmed. Gap: what the guest itself lost, by its heartbeat."""
import argparse
import statistics
import sys
import time

import bench_machine
import pool as pools
import virt_pool


def gap_ms(pool, host):
    """The longest time that the guest did not run since `gap reset`."""
    record = pool.say(host, "bench", "stats", "gw stats")
    return int(dict(w.split("=", 1) for w in record.split() if "=" in w)["gap_ns"]) / 1e6


def plain(pool, source, target):
    source.virsh("migrate", "--live", "--p2p", "--persistent", "--undefinesource", "bench",
                 f"qemu+tcp://{target.address}/system", f"tcp://{target.address}", timeout=300)


def ours(pool, source, target):
    pool.godwit("migrate", "bench", "--to", target.name, "--progress", "none", timeout=300)


def one(pool, how, memory_mib, since):
    source = next(h for h in pool.hosts if h.domain_state("bench") == "running")
    target = next(h for h in pool.hosts if h is not source)
    # The record follows a move by hand a moment later; both begin from a pool at rest.
    pools.wait_for("the pool to be at rest", 60, lambda: (
        lambda vm: vm["state"] == "running" and vm.get("host") == source.name)(pool.vm("bench")), 0.1)
    # A target's libvirtd runs the guest a moment before it has ended its own job.
    pools.wait_for("libvirt's job to end", 60, lambda: "None" in source.virsh("domjobinfo", "bench").stdout, 0.1)
    # As in the other benchmarks: whose turn comes sooner after another's would find the memory that it left.
    bench_machine.settle_and_warm(since, memory_mib + 600)
    pool.say(source, "bench", "gap reset", "gw ok")
    began = time.monotonic()
    how(pool, source, target)
    total = time.monotonic() - began
    return total, gap_ms(pool, target)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench libvirt", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of moves (5)")
    parser.add_argument("--memory", type=int, default=512, help="MiB (512)")
    parser.add_argument("--load", default="writers=1 rate=20 ws=16 fill=random fillmb=256", help="the guest's work")
    words = parser.parse_args()
    why_not = virt_pool.missing()
    if why_not:
        sys.exit(f"scripts/bench libvirt: {why_not}")
    pools.end_on_signals()
    seen = {"virsh": [], "godwit": []}
    with virt_pool.VirtPool(hosts=2) as pool:
        pool.define(pool.hosts[0], "bench", words.load, memory_mib=words.memory)
        pools.wait_for("the domain", 60, lambda: any(v["name"] == "bench" for v in pool.ls("vm")), 0.1)
        pool.godwit("vm", "adopt", "bench")
        pool.verify_domain(pool.hosts[0], "bench")
        since = time.monotonic()
        for run in range(words.runs):
            # Each goes both ways as often: first, then second.
            for name, how in (("virsh", plain), ("godwit", ours))[::-1 if run % 2 else 1]:
                total, gap = one(pool, how, words.memory, since)
                since = time.monotonic()
                seen[name].append((total, gap))
                print(f"{run + 1} {name:7} total {total:6.2f} s   gap {gap:7.1f} ms", flush=True)
    for name, pairs in seen.items():
        totals, gaps = zip(*pairs)
        print(f"{name:7} median total {statistics.median(totals):.2f} s, gap {statistics.median(gaps):.1f} ms "
              f"({min(gaps):.1f} to {max(gaps):.1f})")
    ratio = [statistics.median(p[i] for p in seen["godwit"]) / statistics.median(p[i] for p in seen["virsh"])
             for i in (0, 1)]
    print(f"godwit/virsh: total x{ratio[0]:.2f}, gap x{ratio[1]:.2f}")


if __name__ == "__main__":
    main()

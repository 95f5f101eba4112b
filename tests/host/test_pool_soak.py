#!/usr/bin/env python3
"""Back and forth under load, many times: memory whole after each move, nothing leaks on any host."""
import os
import pathlib
import subprocess

from pool_case import expect, expect_host, pools, run

MOVES = int(os.environ.get("GODWIT_SOAK_MOVES", "200"))


def vm_counts(pool):
    processes = sum(len(h.vm_pids()) for h in pool.hosts)
    folders = sum(len(list((h.run_dir / "vms").iterdir())) for h in pool.hosts if (h.run_dir / "vms").exists())
    return processes, folders


def usage(pool):
    """What must not grow: fds, memory and threads of the programs; VM processes; namespaces."""
    found = {}
    programs = {"coordinator": pool.coordinator.pid} | {h.name: h.agent.pid for h in pool.hosts}
    for name, pid in programs.items():
        pid = program_pid(pid)
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(l.split(":", 1) for l in status.splitlines() if ":" in l)
        found[f"{name} fds"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"{name} threads"] = int(fields["Threads"])
        found[f"{name} KiB"] = int(fields["VmRSS"].split()[0])
    found["vm processes"], found["run folders"] = vm_counts(pool)
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    found["namespaces"] = len([n for n in names.splitlines() if n.startswith(pool.tag)])
    return found


def sources_end(pool):
    """A move is over when its guest runs; the process that it came from ends after that."""
    pools.wait_for("the one guest to have one process", 30, lambda: vm_counts(pool) == (1, 1), 0.1)


def program_pid(pid):
    """`ip netns exec` execs the program, so the pid is the program's own."""
    return pid


def moves_back_and_forth_without_a_loss_or_a_leak(pool):
    pool.create_guest("soak", "writers=1 rate=40 ws=16 fill=random fillmb=24", memory="64MiB", vcpus=2)
    targets = ("node2", "node1")
    for i in range(10):  # caches and pools fill first
        move(pool, targets[i % 2])
    sources_end(pool)
    before = usage(pool)
    for i in range(10, MOVES):
        move(pool, targets[i % 2])
    sources_end(pool)
    after = usage(pool)
    print(f"        before {before}\n        after  {after}")
    for name, value in after.items():
        slack = 16384 if name.endswith("KiB") else 4 if name.endswith("fds") else 0
        if name.endswith("threads"):
            slack = 4  # libuv's pool starts its workers when they are first wanted
        expect(value <= before[name] + slack, f"{name} grew from {before[name]} to {value}")
    stats = pool.ask("soak", "stats", "gw stats")
    expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0,
           f"a clock stepped back: {stats['_']}")
    print(f"        {MOVES} moves, {stats['_']}")


def move(pool, target):
    pool.godwit("migrate", "soak", "--to", target, "--progress", "none")
    expect_host(pool, "soak", target)
    pool.verify("soak")


run([moves_back_and_forth_without_a_loss_or_a_leak])

#!/usr/bin/env python3
"""Three coordinators on an etcd of three members, under running moves: the leader is killed, an etcd
member is killed, the leader of etcd is stopped. No VM is affected, and soon (the goal, 10 s, is printed) the
record is what is real. GODWIT_ROUNDS says how many faults (default 3; 100 with scripts/test --full)."""
import os
import random
import shutil
import signal
import sys
import time

import pool_case
from pool_case import pools

ROUNDS = int(os.environ.get("GODWIT_ROUNDS", "3"))
GUESTS = ("alpha", "beta")


def process_host(pool):
    """{pid: host name} of every godwit-vm there is."""
    return {pid: host.name for host in pool.hosts for pid in host.vm_pids()}


def settled(pool, expected_jobs_ended=True):
    """The record equals reality: every guest RUN where its one process is, no job active."""
    done = pool.godwit("vm", "ls", "-o", "json", check=False, timeout=30)
    if done.returncode != 0:
        return None
    listed = pool.ls("vm")
    real = process_host(pool)
    if len(listed) != len(GUESTS) or len(real) != len(GUESTS):
        return None
    for vm in listed:
        if vm.get("state") != "running" or real.get(vm.get("pid")) != vm.get("host"):
            return None
    return listed


def start_moves(pool):
    for name in GUESTS:
        host = pool.vm(name)["host"]
        others = [h.name for h in pool.hosts if h.name != host]
        pool.godwit("migrate", name, "--to", random.choice(others), "--bandwidth", "30MiB/s",
                    "--no-wait", check=False)


def leader_killed(pool):
    pools.wait_for("a leader", 20, lambda: pool.leader() is not None)
    i = pool.leader()
    pool.end(pool.coordinators[i], signal.SIGKILL)
    yield f"coordinator {i} killed"
    pool.coordinators[i] = pool.spawn_coordinator(i)


def member_killed(pool):
    i = random.randrange(len(pool.etcds))
    pool.end(pool.etcds[i], signal.SIGKILL)
    yield f"etcd member {i} killed"
    pool.etcds[i] = pool.spawn_etcd(i)


def etcd_leader_stopped(pool):
    pools.wait_for("etcd to have a leader", 20, lambda: pool.etcd_leader() is not None)
    i = pool.etcd_leader()
    pool.etcds[i].send_signal(signal.SIGSTOP)
    try:
        yield f"etcd's leader, member {i}, stopped"
    finally:
        pool.etcds[i].send_signal(signal.SIGCONT)


FAULTS = (leader_killed, member_killed, etcd_leader_stopped)


def coordinators_and_etcd_fail_under_running_moves(pool):
    for i, name in enumerate(GUESTS):
        pool.create_guest(name, "writers=1 rate=10 ws=16 fill=random fillmb=64", memory="128MiB",
                          vcpus=2, host=pool.hosts[i].name)
    slowest = 0.0
    for turn in range(ROUNDS):
        for name in GUESTS:
            pool.ask(name, "gap reset", "gw ok")
        start_moves(pool)
        begun = time.monotonic()
        fault = FAULTS[turn % len(FAULTS)](pool)
        what = next(fault)
        # from here on: moves end by themselves; then the record has 10 s to be right
        pools.wait_for("the moves to end at the hosts", 60, lambda: len(process_host(pool)) == len(GUESTS))
        ended = time.monotonic()
        pools.wait_for(f"record and reality to agree ({what})", 90, lambda: settled(pool), 0.2)
        took = time.monotonic() - max(ended, begun)
        slowest = max(slowest, took)
        print(f"        {turn + 1}/{ROUNDS} {what}: moves over after {ended - begun:.1f} s, "
              f"record right {took:.1f} s later", flush=True)
        next(fault, None)
        for name in GUESTS:
            pool.verify(name)
        pools.wait_for("jobs to end", 30, lambda: all(
            j["state"] not in ("queued", "running") for j in pool.ls("job")))
    print(f"        slowest: {slowest:.1f} s (goal 10)")


if not shutil.which("etcd") or not shutil.which("curl"):
    print("skipped: no etcd or curl (packages etcd-server, curl)")
    sys.exit(77)
pool_case.run([coordinators_and_etcd_fail_under_running_moves], hosts=3, coordinators=3)

#!/usr/bin/env python3
"""Moves of a libvirt domain between two real libvirtd, held at a place by a failpoint of the agent while something
breaks: kill -9 of the coordinator. The domain never runs twice, it is never nowhere without a word, and its memory is
whole. With --full: at every place."""
import sys
import threading

from pool_case import expect, pools, run

import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)

FULL = "--full" in sys.argv
LOAD = "writers=1 rate=10 ws=8 fill=random fillmb=16"
HELD_MS = 3000  # how long an agent stands still at a place; its link is not taken for dead so soon
SOURCE = ["domain.before_out", "domain.migrate", "domain.stopped", "domain.before_gave", "domain.after_gave",
          "domain.before_released"]
TARGET = ["domain.before_in", "domain.before_ready", "domain.before_took", "domain.after_took"]
QUICK = ["domain.stopped", "domain.after_gave", "domain.before_took"]


def places():
    return SOURCE + TARGET if FULL else QUICK


class Judge(threading.Thread):
    """Looks all the time whether two hosts run the domain."""

    def __init__(self, pool):
        super().__init__(daemon=True)
        self.pool, self.over, self.twice, self.looks = pool, threading.Event(), False, 0

    def run(self):
        while not self.over.wait(0.02):
            self.looks += 1
            self.twice = self.twice or self.pool.runs_twice("dom")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def host_of(pool):
    return next(h for h in pool.hosts if h.name == pool.vm("dom")["host"])


def other(pool, host):
    return next(h for h in pool.hosts if h is not host)


def need_domain(pool):
    if not any(vm["name"] == "dom" for vm in pool.ls("vm")):
        pool.define(pool.hosts[0], "dom", LOAD, memory_mib=64)
        pools.wait_for("dom to be found", 90, lambda: any(v["name"] == "dom" for v in pool.ls("vm")), 0.1)
    vm = pool.vm("dom")
    if vm.get("unadopted"):
        pool.godwit("vm", "adopt", "dom")
    elif vm["state"] in ("stopped", "crashed"):
        pool.godwit("vm", "start", "dom")
    pools.wait_for("dom to run", 90, lambda: pool.vm("dom")["state"] == "running" and pool.runs_on("dom"), 0.1)


def was_hit(host, point):
    return f"hit {point} " in host.failpoints.read_text()


def last_job(pool):
    return [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]


def answers(pool):
    return pool.godwit("pool", "status", check=False).returncode == 0


def at(pool, point, breaks, mends, action="delay"):
    """Move, and let `breaks(source, target)` happen while the agent of that end stands at the point; then
    `mends(source, target)`. What is left is one running domain, or none and the pool says so."""
    need_domain(pool)
    source = host_of(pool)
    target = other(pool, source)
    end = source if point in SOURCE else target
    end.failpoints.write_text(f"{point}={action}" + (f":{HELD_MS}\n" if action == "delay" else "\n"))
    with Judge(pool) as judge:
        pool.godwit("migrate", "dom", "--to", target.name, "--no-wait")
        job = last_job(pool)
        pools.wait_for(f"{point} to be reached", 120, lambda: was_hit(end, point), 0.01)
        breaks(source, target)
        mends(source, target)
        pools.wait_for("the coordinator", 90, lambda: answers(pool), 0.1)
        pool.wait_hosts_up(90)
        for host in pool.hosts:
            host.failpoints.write_text("")
        word = pools.wait_for("the move to be over", 300, lambda: (
            lambda j: j["state"] if j["state"] in ("done", "failed", "rolled-back", "canceled", "attention") else None)(
                pool.json("job", "show", job)), 0.2)
        vm = pools.wait_for("a state that stays", 120, lambda: (
            lambda v: v if v["state"] in ("running", "stopped", "crashed") else None)(pool.vm("dom")), 0.2)
    expect(not judge.twice, f"at {point} the domain ran twice")
    expect(judge.looks > 3, "nobody looked")
    if vm["state"] == "running":
        pools.wait_for("one copy", 120, lambda: pool.runs_on("dom") == [host_of(pool).name], 0.2)
        pool.verify_domain(host_of(pool), "dom")
    else:
        expect(not pool.runs_on("dom"), f"it is {vm['state']} and runs on {pool.runs_on('dom')}")
        expect(vm.get("reason"), f"it is nowhere, and nobody says why: {vm}")
    print(f"        {point}: job {word}, {vm['state']} on {vm.get('host')}", flush=True)
    return vm


def a_killed_coordinator_is_missed_by_no_move(pool):
    for point in places():
        vm = at(pool, point, lambda *_: pool.kill_coordinator(), lambda *_: pool.start_coordinator())
        expect(vm["state"] == "running", f"the death of a coordinator ended the domain: {vm}")


why_not = virt_pool.missing()
if why_not:
    print(f"skipped: {why_not}")
    sys.exit(77)
if FULL:
    sys.argv.remove("--full")
run([
    a_killed_coordinator_is_missed_by_no_move,
], kind=virt_pool.VirtPool, failpoints=True)

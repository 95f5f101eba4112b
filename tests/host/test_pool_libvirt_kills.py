#!/usr/bin/env python3
"""Moves of a libvirt domain between two real libvirtd while something breaks: kill -9 of the libvirtd, the agent or the
QEMU at either end or of the coordinator, the link between the two hosts, or either host's link. A place of the move is
held by a failpoint of an agent, the copying by its bandwidth. The domain never runs twice, it is never nowhere without a
word, and its memory is whole: the guest that goes on is the one that was there before. GODWIT_VIRT_KILLS=all: each of
them at each place (about 20 minutes); =NAME,..: these, at each place."""
import collections
import os
import signal
import subprocess
import sys
import time

from pool_case import expect, pools, run

import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)
import virt_witness  # noqa: E402

WHICH = os.environ.get("GODWIT_VIRT_KILLS", "")
LOAD = "writers=1 rate=10 ws=8 fill=random fillmb=16"
HELD_MS = 3000  # how long an agent stands still at a place; its link is not taken for dead so soon
OVER = ("done", "failed", "rolled-back", "canceled", "attention")
COPYING = "precopy"  # no failpoint: libvirt is at it, slowly
PLACES = {  # place: (which agent stands there, phase of the move)
    "domain.before_out": ("source", "prepare"),
    "domain.before_in": ("target", "prepare"),
    "domain.migrate": ("source", "prepare"),
    COPYING: ("source", "precopy"),
    "domain.stopped": ("source", "pause"),
    "domain.before_ready": ("target", "pause"),
    "domain.before_gave": ("source", "handover"),
    "domain.after_gave": ("source", "handover"),
    "domain.before_took": ("target", "handover"),
    "domain.after_took": ("target", "done"),
    "domain.before_released": ("source", "done"),
}
QUICK = [
    ("source-agent", "domain.before_out"),
    ("source-qemu", "domain.migrate"),
    ("target-libvirtd", "domain.before_ready"),
    ("target-agent", "domain.before_took"),
    ("coordinator", "domain.after_gave"),
]
counts = collections.Counter()


class KillPool(virt_pool.VirtPool):
    """The first host has the coordinator and no libvirt, so that the link between the other two can be cut alone."""

    def make_host(self, name, number):
        host = virt_pool.VirtHost(self, name, number)
        if number == 1:
            host.drives = False
            return host
        with open(host.dir / "libvirt/etc/qemu.conf", "a", encoding="utf-8") as conf:
            conf.write("keepalive_interval = 1\nkeepalive_count = 5\n")  # of a migration's connection to the target's
        host.start_libvirtd()
        return host

    def domain_xml(self, name, *words, **more):
        return virt_witness.monitored(super().domain_xml(name, *words, **more), name)


class Move:
    """What a break is given: the two ends, and the job."""

    def __init__(self, pool, witness):
        self.pool, self.witness = pool, witness
        self.source = next(h for h in pool.hosts if h.name == pool.vm("dom")["host"])
        self.target = next(h for h in pool.hosts[1:] if h is not self.source)
        self.job = None

    def state(self):
        return self.pool.json("job", "show", self.job)

    def is_over(self):
        return self.state()["state"] in OVER


def kill_libvirtd(host):
    host.kill_libvirtd()
    host.start_libvirtd()


def kill_agent(host):
    host.kill_agent()
    host.start_agent()


def kill_coordinator(pool):
    pool.kill_coordinator()
    pool.start_coordinator()


def kill_qemus(host):
    """False: it has none just now."""
    pids = host.qemu_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return bool(pids)


def switch(pool, *words):
    subprocess.run(["ip", "netns", "exec", f"{pool.tag}-sw", *words], check=True)


def isolate(move, on):
    for host in (move.source, move.target):
        switch(move.pool, "bridge", "link", "set", "dev", f"p{host.number}", "isolated", "on" if on else "off")


def cut_between(move):
    """The two hosts do not reach each other, the coordinator reaches both: till the move is over, or held."""
    isolate(move, True)
    try:
        pools.wait_for("the move to be over, or a word that it is held", 180, lambda: (
            lambda j: j["state"] in OVER or j.get("progress", {}).get("phase") == "parked")(move.state()), 0.2)
    finally:
        isolate(move, False)


def cut_host(move, host):
    """Nobody reaches the host, till the pool says so."""
    switch(move.pool, "ip", "link", "set", f"p{host.number}", "down")
    try:
        pools.wait_for(f"{host.name} to be missed", 90, lambda: next(
            h for h in move.pool.ls("host") if h["name"] == host.name)["state"] != "up", 0.2)
    finally:
        switch(move.pool, "ip", "link", "set", f"p{host.number}", "up")


BREAKS = {
    "source-libvirtd": lambda move: kill_libvirtd(move.source),
    "target-libvirtd": lambda move: kill_libvirtd(move.target),
    "source-agent": lambda move: kill_agent(move.source),
    "target-agent": lambda move: kill_agent(move.target),
    "coordinator": lambda move: kill_coordinator(move.pool),
    "source-qemu": lambda move: kill_qemus(move.source),
    "target-qemu": lambda move: kill_qemus(move.target),
    "link": cut_between,
    "source-cut": lambda move: cut_host(move, move.source),
    "target-cut": lambda move: cut_host(move, move.target),
}


def may_end(broken, place, was_there):
    """Where the domain may be afterwards, by the fault matrix: on the source, on the target, crashed and told so."""
    phase = PLACES[place][1]
    if broken.endswith("-qemu") and not was_there:
        return {"target"} if phase in ("handover", "done") else {"source", "target"}
    if broken == "source-qemu":
        return {"crashed"} if phase in ("prepare", "precopy") else {"crashed", "target"}
    if broken == "target-qemu":
        if phase in ("prepare", "precopy"):
            return {"source"}
        return {"source", "crashed"} if phase == "pause" else {"crashed"}
    if phase in ("handover", "done"):  # only forward from here
        return {"target"}
    return {"source", "target"}


def need_domain(pool):
    """Running, adopted; the count of its verifications since it booted."""
    if not any(vm["name"] == "dom" for vm in pool.ls("vm")):
        pool.define(pool.hosts[1], "dom", LOAD, memory_mib=64)
        pools.wait_for("dom to be found", 90, lambda: any(v["name"] == "dom" for v in pool.ls("vm")), 0.1)
    vm = pool.vm("dom")
    if vm.get("unadopted"):
        pool.godwit("vm", "adopt", "dom")
    elif vm["state"] in ("stopped", "crashed"):
        pool.godwit("vm", "start", "dom")
    pools.wait_for("dom to run", 90, lambda: pool.vm("dom")["state"] == "running" and pool.runs_on("dom"), 0.1)
    host = next(h for h in pool.hosts if h.name == pool.vm("dom")["host"])
    for _ in range(2):  # more than a guest that was started anew has
        seq = int(pool.verify_domain(host, "dom")["seq"])
    return seq


def was_hit(host, point):
    return f"hit {point} " in host.failpoints.read_text()


def hold_at(move, place):
    """Begin the move, and come back when it stands at the place."""
    pool, slow = move.pool, place == COPYING
    end = getattr(move, PLACES[place][0])
    if not slow:
        end.failpoints.write_text(f"{place}=delay:{HELD_MS}\n")
    pool.godwit("migrate", "dom", "--to", move.target.name, "--no-wait", *(["--bandwidth", "1MiB/s"] if slow else []))
    move.job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]
    if slow:
        pools.wait_for("libvirt to copy", 120, lambda: move.state().get("progress", {}).get("phase") == "precopy", 0.05)
    else:
        pools.wait_for(f"{place} to be reached", 120, lambda: was_hit(end, place), 0.01)


def settled(move, seq):
    """What became of it, once all is up again and nothing more changes: where it is, and the job's last word."""
    pool, witness = move.pool, move.witness
    pools.wait_for("the coordinator", 90, lambda: pool.godwit("pool", "status", check=False).returncode == 0, 0.1)
    pool.wait_hosts_up(90)
    for host in pool.hosts:
        host.failpoints.write_text("")
    pool.godwit("job", "set", move.job, "--bandwidth", "1GiB/s", check=False)  # if it still copies, then soon
    pools.wait_for("the move to be over", 300, move.is_over, 0.1)
    vm = pools.wait_for("a state that stays", 120, lambda: (
        lambda v: v if v["state"] in ("running", "stopped", "crashed") else None)(pool.vm("dom")), 0.1)
    where = vm["state"]
    if where == "running":
        where = "source" if vm["host"] == move.source.name else "target"
        pools.wait_for("one copy", 60, lambda: witness.count() == 1 and witness.running() == [vm["host"]], 0.1)
        pools.wait_for("libvirt to say so", 60, lambda: pool.runs_on("dom") == [vm["host"]], 0.1)
        count = int(pool.verify_domain(next(h for h in pool.hosts if h.name == vm["host"]), "dom")["seq"])
        expect(count > seq, f"it was started anew: {count} verifications after {seq}")
    else:
        pools.wait_for("no copy", 60, lambda: witness.count() == 0 and not pool.runs_on("dom"), 0.1)
        expect(vm.get("reason"), f"it is nowhere, and nobody says why: {vm}")
    doubles = witness.doubles()
    expect(not doubles, f"it ran twice: {doubles}")
    return where, move.state()["state"]


def breaks_at(pool, broken, place):
    """One cell of the matrix."""
    begun = time.monotonic()
    seq = need_domain(pool)
    with virt_witness.Witness(pool.hosts[1:], "dom") as witness:
        move = Move(pool, witness)
        pools.wait_for("the witness to see it", 30, lambda: witness.running() == [move.source.name], 0.01)
        hold_at(move, place)
        was_there = BREAKS[broken](move)
        where, word = settled(move, seq)
    expect(where in may_end(broken, place, was_there), f"it is {where}, job {word}; wanted {may_end(broken, place, was_there)}")
    missed = " (none there)" if was_there is False else ""
    counts[f"{broken}: {where}{missed}"] += 1
    print(f"        {broken} at {place}: job {word}, {where}{missed}, {time.monotonic() - begun:.1f} s", flush=True)


def lose_the_source_libvirtd_while_the_target_finishes(move):
    """The source stands still, QEMU has sent all of it, and its libvirtd is dead before the target's answers."""
    pool, witness = move.pool, move.witness
    hold_at(move, COPYING)
    move.target.libvirtd.send_signal(signal.SIGSTOP)
    try:
        pool.godwit("job", "set", move.job, "--bandwidth", "1GiB/s")
        pools.wait_for("the source to stand still", 60, lambda: not witness.running(), 0.01)
        pools.wait_for("the end of QEMU's migration", 60, lambda: witness.has_migrated(move.source.name), 0.01)
        move.source.kill_libvirtd()
    finally:
        move.target.libvirtd.send_signal(signal.SIGCONT)


def a_source_libvirtd_that_dies_while_the_target_finishes(pool):
    """Then libvirt itself does not know who has the guest, and leaves the source standing."""
    seq = need_domain(pool)
    with virt_witness.Witness(pool.hosts[1:], "dom") as witness:
        move = Move(pool, witness)
        pools.wait_for("the witness to see it", 30, lambda: witness.running() == [move.source.name], 0.01)
        lose_the_source_libvirtd_while_the_target_finishes(move)
        move.source.start_libvirtd()
        where, word = settled(move, seq)
    print(f"        job {word}, {where}", flush=True)


def what_stands_at_the_source_asks_before_it_goes_on(pool):
    """Somebody lets the arrival run by hand meanwhile, and no coordinator is there to tell the source."""
    seq = need_domain(pool)
    with virt_witness.Witness(pool.hosts[1:], "dom") as witness:
        move = Move(pool, witness)
        pools.wait_for("the witness to see it", 30, lambda: witness.running() == [move.source.name], 0.01)
        lose_the_source_libvirtd_while_the_target_finishes(move)
        pools.wait_for("the arrival", 60, lambda: move.target.domain_state("dom") == "paused", 0.05)
        pool.kill_coordinator()
        move.target.virsh("resume", "dom")
        pools.wait_for("it to run at the target", 60, lambda: witness.running() == [move.target.name], 0.01)
        move.source.start_libvirtd()
        log = pool.dir / f"agent-{move.source.name}.log"
        pools.wait_for("the source to be told", 90, lambda: witness.doubles() or "the target runs it" in log.read_text(), 0.1)
        expect(not witness.doubles(), f"it ran twice: {witness.doubles()}")
        pool.start_coordinator()
        pool.wait_hosts_up(90)
        move.source.virsh("destroy", "dom")  # what stands there is its operator's to end
        where, word = settled(move, seq)
    expect(where == "target", f"it is {where}, job {word}")
    print(f"        job {word}, {where}", flush=True)


def cells():
    if WHICH == "all":
        return [(broken, place) for broken in BREAKS for place in PLACES]
    if WHICH:
        wanted = WHICH.split(",")
        return [(broken, place) for broken in BREAKS for place in PLACES
                if broken in wanted or place in wanted or f"{broken}@{place}" in wanted]
    return QUICK


def case_of(broken, place):
    def case(pool):
        breaks_at(pool, broken, place)
    case.__name__ = f"{broken}_at_{place}".replace("-", "_").replace(".", "_")
    return case


if __name__ == "__main__":
    why_not = virt_pool.missing()
    if why_not:
        print(f"skipped: {why_not}")
        sys.exit(77)
    try:
        run([*(case_of(*cell) for cell in cells()), a_source_libvirtd_that_dies_while_the_target_finishes,
             what_stands_at_the_source_asks_before_it_goes_on],
            hosts=3, kind=KillPool, failpoints=True)
    finally:
        for outcome, count in sorted(counts.items()):
            print(f"{count:4} {outcome}")

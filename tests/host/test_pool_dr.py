#!/usr/bin/env python3
"""Replicas in a real pool: a guest that writes memory and disk is lost with its host and runs on from its replica, comes back
by what differs, goes over planned without a loss; a coordinator that is killed in the middle of each goes on. Every page and
every block is judged by the guest itself. GODWIT_DR_KILLS says how often its host dies (2)."""
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

import pool_case
from pool_case import expect, expect_host, pools
from test_pool_ha import HaPool, ha_host, with_fence_agent

DISK_MIB = 64
KILLS = int(os.environ.get("GODWIT_DR_KILLS", "2"))
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-dr-", dir="/var/tmp")


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def bind_store(pool, host):
    """The folder that every host names alike is each one's own."""
    own = pathlib.Path(DISKS.name) / host.name
    own.mkdir(exist_ok=True)
    subprocess.run([*host.enter_mounts(), "mount", "--bind", own, pool.dir / "store"], check=True)


def need_guest(pool):
    """~5 MiB/s, half of it memory and half of it disk."""
    folder = pool.dir / "store"
    if folder.exists():
        return
    folder.mkdir()
    for host in pool.hosts:
        bind_store(pool, host)
    for host in pool.hosts[1:]:
        with_fence_agent(pool, host)
    path = pool.dir / "web.yaml"
    path.write_text("\n".join([
        "name: web", f"kernel: {pool.guest_elf()}",
        f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=640 writers=1 rate=2 ws=16 fill=random fillmb=48",
        "cpu: {vcpus: 1}", "memory: {size: 128MiB}", "host: node2", "disks:",
        f"  - {{name: root, store: {folder}, file: web.raw, size: {DISK_MIB}MiB}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("web ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "web", check=False).stdout)


def status(pool):
    found = pool.json("dr", "status", "web")
    return found[0] if found else None


def need_protection(pool, source="node2", target="node3", rpo="3s"):
    need_guest(pool)
    expect_host(pool, "web", source)
    if status(pool) is None:
        pool.godwit("dr", "protect", "web", "--to", target, "--rpo", rpo)
    return wait_state(pool, "protected")


def wait_state(pool, state, seconds=90):
    return pools.wait_for(f"web to be {state}", seconds,
                          lambda: (lambda s: s if s and s["state"] == state else None)(status(pool)), 0.1)


def written(pool):
    return int(pool.ask("web", "disk", "gw disk ")["written"])


def is_whole(pool, host):
    """On `host`, alone, every page and every acknowledged block what it must be, and it goes on."""
    expect_host(pool, "web", host)
    pool.verify("web")
    before = written(pool)
    pools.wait_for("more blocks to be written", 60, lambda: written(pool) > before + 20)
    record = pool.ask("web", "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])


def die(pool, host):
    """As a host dies: its agent and all its VMs at one instant."""
    for pid in host.vm_pids():
        os.kill(pid, signal.SIGKILL)
    host.kill_agent()


def come_back(pool, host):
    host.start_agent()
    bind_store(pool, host)
    pools.wait_for(f"{host.name} to be well again", 60, lambda: ha_host(pool, host.name)["state"] == "well")


def told(done, *words):
    text = done.stdout + done.stderr
    for word in words:
        expect(word in text, f"no '{word}' in: {text}")
    for line in done.stdout.splitlines():
        print(f"        {line}")
    return text


def a_replica_is_made_and_keeps_its_goal(pool):
    need_guest(pool)
    pool.godwit("dr", "protect", "web", "--to", "node3", "--rpo", "3s")
    first = wait_state(pool, "protected")
    later = pools.wait_for("5 more checkpoints", 60, lambda: (
        lambda s: s if s["checkpoints"] >= first["checkpoints"] + 5 else None)(status(pool)), 0.2)
    expect(later["is_linked"], str(later))
    print(f"        RPO now {later['rpo_ms']} ms, worst {later['rpo_worst_ms']} ms of {later['rpo_goal_ms']}; the guest "
          f"stood still for {later['pause_all_ms']} ms in {later['checkpoints']} checkpoints")
    is_whole(pool, "node2")


def what_may_still_run_is_not_taken(pool):
    need_protection(pool)
    refused = pool.godwit("dr", "failover", "web", check=False)
    expect(refused.returncode == 5 and "GW-2803" in refused.stderr, refused.stderr)
    refused = pool.godwit("dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "node2", check=False)
    expect(refused.returncode == 5 and "answers" in refused.stderr, refused.stderr)
    refused = pool.godwit("vm", "rm", "web", "--stop", "-y", check=False)
    expect(refused.returncode == 5 and "dr unprotect" in refused.stderr, refused.stderr)
    refused = pool.godwit("migrate", "web", "--to", "node3", "--with-local-disks", check=False)
    expect(refused.returncode == 5 and "has the replica" in refused.stderr, refused.stderr)


def a_dead_hosts_vm_runs_on_from_its_replica_and_comes_back(pool):
    """As often as GODWIT_DR_KILLS says, each time at another instant of a checkpoint."""
    ended = []
    for number in range(KILLS):
        need_protection(pool)
        source = host_of(pool, "node2")
        is_whole(pool, "node2")
        first = status(pool)["checkpoints"]
        pools.wait_for("checkpoints to go on", 60, lambda: status(pool)["checkpoints"] > first, 0.05)
        time.sleep(random.uniform(0, 1))  # any instant will do: the case is about all of them
        since = time.monotonic()
        die(pool, source)
        pools.wait_for("node2 to be fenced", 60, lambda: ha_host(pool, "node2")["state"] == "fenced")
        fenced = time.monotonic() - since
        done = pool.godwit("dr", "failover", "web")
        print(f"        {number + 1} of {KILLS}: fenced {fenced:.1f} s after its death, running after "
              f"{time.monotonic() - since:.1f} s")
        told(done, "RPO", "RTO")
        is_whole(pool, "node3")
        ended.append(status(pool))
        expect(ended[-1]["state"] == "away", str(ended[-1]))
        come_back(pool, source)
        expect(not source.vm_pids(), "the old host started it again")
        done = pool.godwit("dr", "failback", "web", timeout=180)
        told(done, "nothing was lost", "received", "lay there and were equal")
        is_whole(pool, "node2")
        wait_state(pool, "protected")
    tell_series(ended)


def tell_series(ended):
    """Printed only: how long anything takes passes or fails nothing."""
    rpo = sorted(s["last_rpo_ms"] for s in ended if "last_rpo_ms" in s) or [0]
    rto = sorted(s["last_rto_ms"] for s in ended)
    goal = ended[-1]["rpo_goal_ms"]
    print(f"        {len(ended)} deaths: RPO of {len(rpo)} known, median {rpo[len(rpo) // 2]} ms, worst {rpo[-1]}, {sum(r <= 2 * goal for r in rpo)} "
          f"within twice the goal of {goal}; RTO median {rto[len(rto) // 2]} ms, worst {rto[-1]}")


def a_planned_failover_loses_nothing(pool):
    need_protection(pool)
    before = written(pool)
    told(pool.godwit("dr", "failover", "web", "--planned", timeout=180), "nothing was lost")
    expect(written(pool) >= before, "what it had written is not there")
    is_whole(pool, "node3")
    pools.wait_for("its source to end", 30, lambda: not host_of(pool, "node2").vm_pids())
    told(pool.godwit("dr", "failback", "web", timeout=180), "nothing was lost")
    is_whole(pool, "node2")


def coordinator_dies_in(pool, *words):
    """Killed as soon as the order is recorded; the command waits for the next one and ends well."""
    run = pool.start_godwit(*words)
    pools.wait_for("it to begin", 60, lambda: (status(pool) or {}).get("last_state") == "running", 0.005)
    pool.kill_coordinator()
    pool.start_coordinator()
    out, err = run.communicate(timeout=180)
    expect(run.returncode == 0, f"{words}: {run.returncode}: {out} {err}")
    for line in out.splitlines():
        print(f"        {line}")


def a_coordinator_that_is_killed_in_the_middle_goes_on(pool):
    need_protection(pool)
    coordinator_dies_in(pool, "dr", "failover", "web", "--planned")
    is_whole(pool, "node3")
    coordinator_dies_in(pool, "dr", "failback", "web")
    is_whole(pool, "node2")
    wait_state(pool, "protected")
    source = host_of(pool, "node2")
    die(pool, source)
    pools.wait_for("node2 to be fenced", 60, lambda: ha_host(pool, "node2")["state"] == "fenced")
    coordinator_dies_in(pool, "dr", "failover", "web")
    is_whole(pool, "node3")
    come_back(pool, source)
    expect(not source.vm_pids(), "the old host started it again")


def unprotect_leaves_the_vm_and_takes_the_replica(pool):
    need_guest(pool)
    if status(pool)["state"] == "away":
        pool.godwit("dr", "failback", "web", timeout=180)
    wait_state(pool, "protected")
    pool.godwit("dr", "unprotect", "web")
    pools.wait_for("no record of it", 60, lambda: status(pool) is None)
    pools.wait_for("no process of it at node3", 60, lambda: not host_of(pool, "node3").vm_pids())
    is_whole(pool, "node2")


if __name__ == "__main__":
    pool_case.run([
        a_replica_is_made_and_keeps_its_goal,
        what_may_still_run_is_not_taken,
        a_dead_hosts_vm_runs_on_from_its_replica_and_comes_back,
        a_planned_failover_loses_nothing,
        a_coordinator_that_is_killed_in_the_middle_goes_on,
        unprotect_leaves_the_vm_and_takes_the_replica,
    ], hosts=3, kind=HaPool)

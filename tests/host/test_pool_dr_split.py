#!/usr/bin/env python3
"""What an operator's word alone decides, and what nobody is asked for, in a real pool: a VM is taken although its host may
live, and its old copy is ended when that host is heard again; a group goes over in its order; disks alone are taken by
themselves when their host is fenced, and their VM boots from them."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile

import pool_case
from guest_disk import judge
from pool_case import clean_vms, expect, expect_host, pools
from test_pool_ha import HaPool, ha_host, with_fence_agent

GUEST = "vcpus=1 writers=1 rate=5 ws=16 fill=random fillmb=24"
DISK_MIB = 16
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-split-", dir="/var/tmp")


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def status(pool, name):
    found = pool.json("dr", "status", name)
    return found[0] if found else None


def wait_state(pool, name, state):
    return pools.wait_for(f"{name} to be {state}", 90,
                          lambda: (lambda s: s if s and s["state"] == state else None)(status(pool, name)), 0.1)


def protect(pool, name, *words):
    pool.create_guest(name, GUEST, memory="64MiB", host="node1")
    pool.godwit("dr", "protect", name, "--to", "node2", "--rpo", "3s", *words)
    wait_state(pool, name, "protected")


def audited_as_done(pool, what):
    """What its orders were that have ended well."""
    entries = [json.loads(line) for line in pool.godwit("audit", "ls", "-o", "json").stdout.splitlines()]
    subjects = {entry["number"]: entry["subject"] for entry in entries}
    return [subjects[entry["begins"]] for entry in entries if entry["what"] == what and entry["outcome"] == "done"]


def end_all(pool):
    for record in pool.json("dr", "status"):
        pool.godwit("dr", "unprotect", record["vm"])
    pools.wait_for("no record", 60, lambda: not pool.json("dr", "status"), 0.1)
    clean_vms(pool)


def a_split_is_taken_on_the_word_typed_and_its_old_copy_ends_when_its_host_is_heard(pool):
    protect(pool, "web")
    source, target = host_of(pool, "node1"), host_of(pool, "node2")
    source.kill_agent()  # the guest lives, and nobody can tell
    pools.wait_for("node1 to be down", 60, lambda: next(
        h for h in pool.ls("host") if h["name"] == "node1")["state"] == "down", 0.2)
    refused = pool.godwit("dr", "failover", "web", check=False)
    expect(refused.returncode == 5 and "--accept-split" in refused.stderr, refused.stderr)
    refused = pool.godwit("dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "node2", check=False)
    expect(refused.returncode != 0, "another host's name will do")
    expect(source.vm_pids() and status(pool, "web")["state"] != "away", "a refusal has done something")
    expect(not audited_as_done(pool, "dr-failover-split"), "a refusal is told as done")
    done = pool.godwit("dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "node1")
    expect("RPO" in done.stdout and "RTO" in done.stdout, done.stdout)
    print("        " + done.stdout.strip())
    expect(len(source.vm_pids()) == 1 and len(target.vm_pids()) == 1, "this is what was accepted")
    expect_host(pool, "web", "node2")
    pool.verify("web")
    told = audited_as_done(pool, "dr-failover-split")
    expect(len(told) == 1 and '"vm":"web"' in told[0] and '"confirm":"node1"' in told[0], f"the audit tells: {told}")
    source.start_agent()
    pools.wait_for("the old copy to end", 60, lambda: not source.vm_pids(), 0.1)
    expect(len(target.vm_pids()) == 1, "and only that")
    expect_host(pool, "web", "node2")
    pool.verify("web")
    end_all(pool)


def a_group_goes_over_in_its_order_and_back(pool):
    protect(pool, "front", "--group", "shop", "--order", "2")
    protect(pool, "store", "--group", "shop", "--order", "1", "--delay", "1s")
    pool.godwit("dr", "failover", "--group", "shop", "--planned", timeout=180)
    ended = {name: status(pool, name)["ended_unix_ms"] for name in ("front", "store")}
    expect(ended["store"] < ended["front"], f"not in their order: {ended}")
    for name in ended:
        expect_host(pool, name, "node2")
        pool.verify(name)
    pools.wait_for("their source to end them", 30, lambda: not host_of(pool, "node1").vm_pids())
    pool.godwit("dr", "failback", "--group", "shop", timeout=180)
    for name in ended:
        expect_host(pool, name, "node1")
        pool.verify(name)
        wait_state(pool, name, "protected")
    end_all(pool)


def bind_store(pool, host):
    """The folder that every host names alike is each one's own."""
    own = pathlib.Path(DISKS.name) / host.name
    own.mkdir(exist_ok=True)
    subprocess.run([*host.enter_mounts(), "mount", "--bind", own, pool.dir / "store"], check=True)


def written(pool):
    return int(pool.ask("db", "disk", "gw disk ")["written"])


def disks_alone_are_taken_by_themselves_once_their_host_is_fenced_and_their_vm_boots(pool):
    source, target = host_of(pool, "node2"), host_of(pool, "node1")
    with_fence_agent(pool, source)
    folder = pool.dir / "store"
    folder.mkdir()
    for host in pool.hosts:
        bind_store(pool, host)
    path = pool.dir / "db.yaml"
    path.write_text("\n".join([
        "name: db", f"kernel: {pool.guest_elf()}", f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=300",
        "cpu: {vcpus: 1}", "memory: {size: 64MiB}", "host: node2", "disks:",
        f"  - {{name: root, store: {folder}, file: db.raw, size: {DISK_MIB}MiB}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("db ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "db", check=False).stdout)
    pool.godwit("dr", "protect", "db", "--to", "node1", "--rpo", "1s", "--disks-only", "--auto")
    first = wait_state(pool, "db", "protected")
    pools.wait_for("some blocks", 60, lambda: written(pool) > 600)
    before = written(pool)
    pools.wait_for("two more checkpoints", 60, lambda: status(pool, "db")["checkpoints"] >= first["checkpoints"] + 2, 0.1)
    first = status(pool, "db")["checkpoints"]  # one that was cut after those blocks is held with the second from here
    pools.wait_for("they to be held", 60, lambda: status(pool, "db")["checkpoints"] >= first + 2, 0.1)
    for pid in source.vm_pids():
        os.kill(pid, signal.SIGKILL)
    source.kill_agent()
    wait_state(pool, "db", "away")  # nobody was asked
    expect_host(pool, "db", "node1")
    expect(ha_host(pool, "node2")["fenced_by"] == "F2", str(ha_host(pool, "node2")))
    done = status(pool, "db")
    expect(done["last_op"] == "failover" and done["last_state"] == "done", str(done))
    print(f"        taken by itself: RPO at most {done.get('last_rpo_ms')} ms, RTO {done.get('last_rto_ms')} ms")
    pools.wait_for("it to write again", 60, lambda: written(pool) > 0)  # by its new life
    pool.godwit("vm", "stop", "db", "--force")
    pools.wait_for("it to be stopped", 60, lambda: pool.vm("db")["state"] == "stopped")
    found = judge(pathlib.Path(DISKS.name) / target.name / "db.raw", DISK_MIB)
    expect(max(found.values()) >= before, f"the newest of {len(found)} blocks is older than {before}")
    source.start_agent()
    bind_store(pool, source)
    pools.wait_for("node2 to be well again", 60, lambda: ha_host(pool, "node2")["state"] == "well")
    expect(not source.vm_pids(), "the old host started it again")
    end_all(pool)


if __name__ == "__main__":
    pool_case.run([
        a_split_is_taken_on_the_word_typed_and_its_old_copy_ends_when_its_host_is_heard,
        a_group_goes_over_in_its_order_and_back,
        disks_alone_are_taken_by_themselves_once_their_host_is_fenced_and_their_vm_boots,
    ], hosts=2, kind=HaPool)

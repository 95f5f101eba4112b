#!/usr/bin/env python3
"""A real pool: new VMs that go on from a snapshot's memory and disks, or boot from its disks, beside the VM that it was
taken of, which runs on; what is refused or killed in the middle leaves nothing, or a clone that is whole."""
import pathlib
import shutil
import subprocess
import sys

import test_pool_snapshot as base
from pool_case import expect, expect_host, pools, run

SPEC = """name: writer
kernel: {kernel}
cmdline: vcpus=2 disk={disk} diskrate=100 writers=1 rate=5 ws=8 fill=random fillmb=16{nic}
cpu: {{vcpus: 2}}
memory: {{size: 64MiB}}
host: node1
disks:
  - {{name: root, store: {store}, file: vms/writer.raw, size: {disk}MiB}}
{nics}"""


def folder_of(pool):
    """The store, as it is seen by node1's agent now."""
    return pathlib.Path(f"/proc/{pool.hosts[0].agent.pid}/root{pool.dir}/xfs")


def bridges(pool):
    host = pool.hosts[0]
    if not host.namespace:
        return False
    links = subprocess.run(["ip", "-n", host.namespace, "link", "show", "type", "bridge"], check=True,
                           capture_output=True, text=True).stdout
    for name in ("vmbr0", "testbr0"):
        if name not in links:
            subprocess.run(["ip", "-n", host.namespace, "link", "add", name, "type", "bridge"], check=True)
            subprocess.run(["ip", "-n", host.namespace, "link", "set", name, "up"], check=True)
    pools.wait_for("bridges to be told", 10, lambda: "testbr0" in pool.json("host", "show", "node1")["facts"].get(
        "bridges", []))
    return True


def need_snapshot(pool):
    """A guest that writes memory and disk, and its snapshot "first"."""
    if any(vm["name"] == "writer" for vm in pool.ls("vm")):
        return
    store = base.mounted(pool, "xfs", "xfs")
    (folder_of(pool) / "vms").mkdir(exist_ok=True)
    has_nic = bridges(pool)
    path = pool.dir / "writer.yaml"
    path.write_text(SPEC.format(kernel=pool.guest_elf(), disk=base.DISK_MIB, store=store,
                                nic=" nic=1" if has_nic else "",
                                nics="nics:\n  - {bridge: vmbr0, queues: 1}\n" if has_nic else ""))
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("writer ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "writer", check=False).stdout)
    base.goes_on(pool)
    base.take(pool, "first")


def written(pool, name):
    return int(pool.ask(name, "disk", "gw disk ")["written"])


def is_whole(pool, name):
    """It runs, its memory and its disk verify, and it writes on."""
    expect_host(pool, name, "node1")
    pool.verify(name)
    before = written(pool, name)
    pools.wait_for(f"{name} to write on", 60, lambda: written(pool, name) > before)
    record = pool.ask(name, "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " ", f"{name}: {record['_']}")


def disks(pool):
    return sorted(str(p.relative_to(folder_of(pool))) for p in folder_of(pool).rglob("*")
                  if p.is_file() and ".godwit" not in str(p))


def made_for(pool, vm_id):
    folder = folder_of(pool) / ".godwit" / vm_id
    return sorted(str(p) for p in folder.rglob("*")) if folder.exists() else []


def clone(pool, name, *words, **more):
    return pool.godwit("vm", "snapshot", "clone", "writer", "first", name, *words, **more)


def remove(pool, name):
    vm_id = pool.vm(name)["id"]
    pool.godwit("vm", "rm", name, "--stop", "-y")
    expect(f"vms/{name}-root.raw" not in disks(pool) and made_for(pool, vm_id) == [], f"left of {name}: {disks(pool)}")


def settled(pool, name):
    """RUN or STOPPED, as the record says it."""
    return pools.wait_for(f"{name} to be settled", 90, lambda: (
        lambda s: s if s in ("RUN", "STOPPED") else None)(pool.json("vm", "show", name)["record_phase"]))


def names(pool):
    return sorted(vm["name"] for vm in pool.ls("vm"))


def a_clone_goes_on_from_the_instant_beside_its_original(pool):
    need_snapshot(pool)
    before = pool.vm("writer")
    at = written(pool, "writer")
    clone(pool, "twin")
    mine = pool.vm("twin")
    expect(mine["id"] != before["id"] and mine["generation"] == "1" or mine["generation"] == 1, str(mine))
    for name in ("twin", "writer"):
        is_whole(pool, name)
    now = pool.vm("writer")
    expect((now["pid"], now["generation"]) == (before["pid"], before["generation"]), "the original was touched")
    expect(written(pool, "writer") > at, "the original stood still")
    spec = pool.json("vm", "show", "twin")
    if "nics" in spec["spec"]:
        nic, old = spec["spec"]["nics"][0], pool.json("vm", "show", "writer")["spec"]["nics"][0]
        expect(nic.get("unplugged") and not nic.get("bridge") and nic["mac"] != old["mac"], f"{nic} of {old}")
        told = pools.wait_for("its frames to be dropped", 30, lambda: (
            lambda n: n if int(n.get("send_drops", 0)) > 0 else None)(pool.json("vm", "show", "twin")["counters"]["nics"][0]))
        expect(int(told.get("sent_frames", 0)) == 0, f"it reached somebody: {told}")
    pool.godwit("vm", "snapshot", "check", "writer", "first")
    pool.godwit("vm", "stop", "--force", "twin")  # from here on it is a VM as any other: it boots from its disk
    pool.godwit("vm", "start", "twin")
    is_whole(pool, "twin")
    pool.godwit("vm", "snapshot", "create", "twin", "own")
    pool.godwit("vm", "snapshot", "restore", "-y", "twin", "own")
    is_whole(pool, "twin")
    pool.godwit("vm", "snapshot", "rm", "-y", "twin", "own")
    pool.godwit("vm", "snapshot", "restore", "-y", "writer", "first")
    for name in ("twin", "writer"):
        is_whole(pool, name)
    remove(pool, "twin")
    is_whole(pool, "writer")


def a_cold_one_boots_from_its_disks_on_the_bridge_that_is_named(pool):
    need_snapshot(pool)
    has_nic = "nics" in pool.json("vm", "show", "writer")["spec"]
    clone(pool, "cold", "--cold", *(["--nic-bridge", "testbr0"] if has_nic else []))
    is_whole(pool, "cold")
    logs = pool.godwit("vm", "logs", "cold").stdout
    expect("gw ready" in logs, f"it did not boot: {logs}")
    if has_nic:
        told = pools.wait_for("its frames to be sent", 30, lambda: (
            lambda n: n if int(n.get("sent_frames", 0)) > 0 else None)(
                pool.json("vm", "show", "cold")["counters"]["nics"][0]))
        expect(told["mac"] == pool.json("vm", "show", "cold")["spec"]["nics"][0]["mac"], str(told))
    remove(pool, "cold")


def ten_of_one_snapshot_at_once(pool):
    need_snapshot(pool)
    started = [pool.start_godwit("vm", "snapshot", "clone", "writer", "first", f"many{i}") for i in range(10)]
    for i, process in enumerate(started):
        out, err = process.communicate(timeout=120)
        expect(process.returncode == 0, f"many{i}: exit {process.returncode} {out}{err}")
    ids = {pool.vm(f"many{i}")["id"] for i in range(10)}
    expect(len(ids) == 10, str(ids))
    for i in range(10):
        expect_host(pool, f"many{i}", "node1")
        pool.verify(f"many{i}")
    for i in (0, 9):
        is_whole(pool, f"many{i}")
    is_whole(pool, "writer")
    for i in range(10):
        remove(pool, f"many{i}")


def what_is_refused_leaves_nothing(pool):
    need_snapshot(pool)
    before = disks(pool)
    taken = clone(pool, "writer", check=False)
    expect(taken.returncode == 5 and "already is a VM writer" in taken.stderr, taken.stderr)
    unknown = pool.godwit("vm", "snapshot", "clone", "writer", "none", "x", check=False)
    expect(unknown.returncode == 3, unknown.stderr)
    lacks = clone(pool, "x", "--nic-bridge", "nobridge0", check=False)
    if "nics" in pool.json("vm", "show", "writer")["spec"]:
        expect(lacks.returncode == 5 and "no bridge nobridge0" in lacks.stderr, lacks.stderr)
    elif lacks.returncode == 0:
        remove(pool, "x")
    theirs = folder_of(pool) / "vms" / "x-root.raw"
    theirs.write_bytes(b"somebody's")
    refused = clone(pool, "x", check=False)
    expect(refused.returncode != 0 and "nothing is written over" in refused.stderr, refused.stderr)
    expect(theirs.read_bytes() == b"somebody's", "somebody's file was written over")
    theirs.unlink()
    info = next(s for s in base.snapshots(pool, "writer") if s["name"] == "first")
    path = pathlib.Path(pool.hosts[0].dir, "agent", "snapshots", info["id"], "memory")
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    refused = clone(pool, "x", check=False)
    expect(refused.returncode != 0 and "not created" in refused.stderr, refused.stderr)
    path.write_bytes(whole)
    path.chmod(0o600)
    pools.wait_for("what was made for them to be gone", 30, lambda: (names(pool), disks(pool)) == (["writer"], before))
    expect([p.name for p in (folder_of(pool) / ".godwit").iterdir()] == [pool.vm("writer")["id"]], "folders are left")
    is_whole(pool, "writer")


def start_agent(pool):
    base.start_agent(pool)
    pools.wait_for("its store to be there", 30, lambda: (folder_of(pool) / "vms").exists())


def an_agent_killed_in_the_middle_leaves_a_whole_one_or_nothing(pool):
    need_snapshot(pool)
    host = pool.hosts[0]
    caught = {"disks": 0, "start": 0}
    for number in range(1, 9):
        name = f"k{number}"
        disk = folder_of(pool) / "vms" / f"{name}-root.raw"
        seen = set(host.run_dir.rglob("latch"))
        started = pool.start_godwit("vm", "snapshot", "clone", "writer", "first", name)
        if number % 2:  # as its disk appears; else as its process does
            pools.wait_for("its disk", 60, lambda: disk.exists() or started.poll() is not None, pause=0)
        else:
            pools.wait_for("its start", 60, lambda: set(host.run_dir.rglob("latch")) - seen or started.poll() is not None, pause=0)
        host.kill_agent()
        started.communicate(timeout=120)
        if started.returncode != 0:
            caught["disks" if number % 2 else "start"] += 1
        start_agent(pool)
        listed = names(pool)
        if name not in listed:
            expect(f"vms/{name}-root.raw" not in disks(pool), f"{name}: {disks(pool)}")
            continue
        state = settled(pool, name)
        if state == "STOPPED":
            pool.godwit("vm", "start", name)
        is_whole(pool, name)
        remove(pool, name)
        if min(caught.values()) >= 1:
            break
    print(f"        killed in the middle: {caught} of {number}", flush=True)
    expect(sum(caught.values()) >= 2, "no kill came in the middle of a clone: nothing was tried")
    is_whole(pool, "writer")


def a_coordinator_killed_in_the_middle_leaves_one_that_can_be_finished_or_removed(pool):
    need_snapshot(pool)
    for name, finish in (("c1", True), ("c2", False)):
        started = pool.start_godwit("vm", "snapshot", "clone", "writer", "first", name)
        disk = folder_of(pool) / "vms" / f"{name}-root.raw"
        pools.wait_for("its disk", 60, lambda: disk.exists() or started.poll() is not None, pause=0)
        pool.kill_coordinator()
        started.communicate(timeout=60)
        pool.start_coordinator()
        pool.wait_hosts_up()
        state = settled(pool, name)
        print(f"        {name} is {state}", flush=True)
        if state == "STOPPED" and finish:
            pool.godwit("vm", "start", name)
        if finish:
            is_whole(pool, name)
        remove(pool, name)
    pool.godwit("vm", "snapshot", "rm", "-y", "writer", "first")
    is_whole(pool, "writer")
    pool.godwit("vm", "rm", "writer", "--stop", "-y")
    expect(disks(pool) == [], f"left: {disks(pool)}")


if __name__ == "__main__":
    if not shutil.which("mkfs.xfs"):
        print("skipped: no mkfs.xfs (package xfsprogs)")
        sys.exit(77)
    try:
        run([a_clone_goes_on_from_the_instant_beside_its_original,
             a_cold_one_boots_from_its_disks_on_the_bridge_that_is_named,
             ten_of_one_snapshot_at_once,
             what_is_refused_leaves_nothing,
             an_agent_killed_in_the_middle_leaves_a_whole_one_or_nothing,
             a_coordinator_killed_in_the_middle_leaves_one_that_can_be_finished_or_removed])
    finally:
        base.IMAGES.cleanup()

#!/usr/bin/env python3
"""Snapshots of a libvirt domain, by libvirt: a guest that writes its memory and a qcow2 disk goes back to an instant of
both, whole; those that virsh made are seen and used like the pool's own; what libvirt cannot do is refused with its
reason, before anything is lost; a domain that has snapshots does not move until they are gone."""
import os
import pathlib
import subprocess
import sys
import tempfile

from pool_case import expect, pools, run

import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)

LOAD = "writers=1 rate=20 ws=8 fill=random fillmb=16 disk=16 diskrate=300"
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-virt-snapshot-", dir="/var/tmp")
loops = []


def make_disk(name, kind):
    path = pathlib.Path(DISKS.name) / f"{name}.img"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    loops.append(virt_pool.LoopDisk(path))
    device = loops[-1].device
    if kind == "qcow2":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", device, "16M"], check=True)
    return device, kind


def host_of(pool, name="dom"):
    return next(h for h in pool.hosts if h.name == pool.vm(name)["host"])


def adopt(pool, name, disk):
    pool.define(pool.hosts[0], name, LOAD, memory_mib=64, disk=disk)
    pools.wait_for(f"{name} to be found", 90, lambda: any(v["name"] == name for v in pool.ls("vm")), 0.1)
    pool.godwit("vm", "adopt", name)
    running(pool, name)


def running(pool, name):
    pools.wait_for(f"{name} to run", 90, lambda: pool.vm(name)["state"] == "running" and pool.runs_on(name), 0.1)


def need_domain(pool):
    """Running on a qcow2 disk, without a snapshot."""
    if not any(vm["name"] == "dom" for vm in pool.ls("vm")):
        adopt(pool, "dom", make_disk("dom", "qcow2"))
    elif pool.vm("dom")["state"] != "running":
        pool.godwit("vm", "start", "dom")
    running(pool, "dom")
    for row in snapshots(pool):
        pool.godwit("vm", "snapshot", "rm", "-y", "dom", row["name"])
    expect(virsh_names(pool) == [] and snapshots(pool) == [], f"left: {virsh_names(pool)} {snapshots(pool)}")
    ask(pool, "disk on", "gw ok")


def snapshots(pool, name="dom"):
    return pool.json("vm", "snapshot", "ls", name)


def virsh_names(pool, name="dom"):
    return sorted(host_of(pool, name).virsh("snapshot-list", name, "--name").stdout.split("\n")[:-2])


def ask(pool, word, answer, name="dom"):
    record = pool.say(host_of(pool, name), name, word, answer)
    return {k: v for k, v in (w.split("=", 1) for w in record.split() if "=" in w)} | {"_": record}


def written(pool, name="dom"):
    return int(ask(pool, "disk", "gw disk ", name)["written"])


def goes_on(pool, name="dom"):
    before = written(pool, name)
    pools.wait_for("more blocks to be written", 60, lambda: written(pool, name) > before + 50, 0.1)


def rest(pool):
    """It writes no more blocks until it is told to: how many it has written, and its count of verifications."""
    ask(pool, "disk off", "gw ok")
    ask(pool, "disk flush", "gw ok")
    return written(pool), is_whole(pool)


def is_whole(pool, name="dom"):
    seq = int(pool.verify_domain(host_of(pool, name), name)["seq"])
    record = ask(pool, "disk verify", "gw diskverify", name)
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])
    return seq


def refused(pool, *words, because):
    done = pool.godwit(*words, check=False)
    text = done.stdout + done.stderr
    expect(done.returncode != 0, f"not refused: {words}: {text}")
    expect(because in text, f"{words}: refused without '{because}': {text}")
    return text


def restore(pool, name):
    """It is back at it, whole, as a new generation."""
    generation = pool.vm("dom")["generation"]
    pool.godwit("vm", "snapshot", "restore", "-y", "dom", name)
    running(pool, "dom")
    expect(pool.vm("dom")["generation"] > generation, str(pool.vm("dom")))


def goes_back_to_an_instant_of_memory_and_disk(pool):
    need_domain(pool)
    pools.wait_for("blocks to be written", 60, lambda: written(pool) > 200, 0.1)
    blocks, seq = rest(pool)
    pool.godwit("vm", "snapshot", "create", "dom", "first")
    row, = snapshots(pool)
    expect(row["name"] == "first" and row["with_memory"] and row["is_libvirt"] and row["host"] == host_of(pool).name, str(row))
    expect(virsh_names(pool) == ["first"], f"libvirt has {virsh_names(pool)}")
    ask(pool, "disk on", "gw ok")
    for _ in range(2):
        goes_on(pool)
        is_whole(pool)
    for _ in range(2):  # as often as one likes
        restore(pool, "first")
        expect(written(pool) == blocks, f"{written(pool)} blocks written, then it was {blocks}")
        again = is_whole(pool)
        expect(seq < again <= seq + 2, f"{again} verifications since it booted, then it was {seq}")
        ask(pool, "disk on", "gw ok")
        goes_on(pool)
    taken = refused(pool, "vm", "snapshot", "create", "dom", "first", because="already")
    expect("GW-2109" in taken, taken)
    pool.godwit("vm", "snapshot", "rm", "-y", "dom", "first")
    expect(snapshots(pool) == [] and virsh_names(pool) == [], "it is still there")
    is_whole(pool)


def what_it_is_now_can_be_kept_and_what_rests_is_taken_at_rest(pool):
    need_domain(pool)
    blocks, _ = rest(pool)
    pool.godwit("vm", "snapshot", "create", "dom", "first")
    ask(pool, "disk on", "gw ok")
    goes_on(pool)
    later, _ = rest(pool)
    pool.godwit("vm", "snapshot", "restore", "-y", "--keep", "second", "dom", "first")
    running(pool, "dom")
    expect(written(pool) == blocks, f"{written(pool)} blocks, then it was {blocks}")
    pool.godwit("vm", "stop", "--force", "dom")
    pool.godwit("vm", "snapshot", "create", "dom", "third")
    row = next(r for r in snapshots(pool) if r["name"] == "third")
    expect(row.get("was_stopped") and not row.get("with_memory"), str(row))
    restore(pool, "second")  # of one that is stopped
    expect(written(pool) == later, f"{written(pool)} blocks, then it was {later}")
    is_whole(pool)
    restore(pool, "third")  # it boots
    is_whole(pool)
    expect(len(virsh_names(pool)) == 3, str(virsh_names(pool)))


def those_that_virsh_made_are_seen_used_and_never_fought(pool):
    need_domain(pool)
    host = host_of(pool)
    blocks, _ = rest(pool)
    host.virsh("snapshot-create-as", "dom", "by hand (1)")
    row = pools.wait_for("it to be seen", 60, lambda: next(iter(snapshots(pool)), None), 0.1)
    expect(row["libvirt_name"] == "by hand (1)" and row["with_memory"], str(row))
    ask(pool, "disk on", "gw ok")
    goes_on(pool)
    restore(pool, "by hand (1)")
    expect(written(pool) == blocks, f"{written(pool)} blocks, then it was {blocks}")
    is_whole(pool)
    host.kill_libvirtd()  # nobody knows now: that is no word that it is gone
    refused(pool, "vm", "snapshot", "create", "dom", "next", because="libvirtd")
    refused(pool, "vm", "snapshot", "rm", "-y", "dom", "by hand (1)", because="libvirt")
    expect([r["id"] for r in snapshots(pool)] == [row["id"]], str(snapshots(pool)))
    host.start_libvirtd()
    pools.wait_for("libvirtd to be driven again", 60, lambda: pool.godwit(
        "vm", "snapshot", "check", "dom", "by hand (1)", check=False).returncode == 0, 0.2)
    expect([r["id"] for r in snapshots(pool)] == [row["id"]], str(snapshots(pool)))
    host.virsh("snapshot-delete", "dom", "by hand (1)")
    pools.wait_for("its end to be seen", 60, lambda: not snapshots(pool), 0.1)
    host.virsh("snapshot-create-as", "dom", "by-hand")
    pools.wait_for("it to be seen", 60, lambda: [r["name"] for r in snapshots(pool)] == ["by-hand"], 0.1)
    pool.godwit("vm", "snapshot", "rm", "-y", "dom", "by-hand")
    expect(virsh_names(pool) == [], str(virsh_names(pool)))


def a_domain_with_snapshots_does_not_move_until_they_are_gone(pool):
    need_domain(pool)
    source = host_of(pool)
    target = next(h for h in pool.hosts if h is not source)
    source.virsh("snapshot-create-as", "dom", "unseen")
    # Before the pool has seen it the source is asked; afterwards the record says so.
    refused(pool, "migrate", "dom", "--to", target.name, because="libvirt moves no domain that has snapshots")
    pools.wait_for("it to be seen", 60, lambda: snapshots(pool), 0.1)
    refused(pool, "migrate", "dom", "--to", target.name, "--dry-run", because="libvirt moves no domain that has snapshots")
    by_hand = source.virsh("migrate", "--live", "--p2p", "--persistent", "--undefinesource", "dom",
                           f"qemu+tcp://{target.address}/system", f"tcp://{target.address}", check=False)
    expect(by_hand.returncode != 0 and "snapshot" in by_hand.stderr, f"libvirt moved it: {by_hand.stdout}{by_hand.stderr}")
    expect(virsh_names(pool) == ["unseen"] and pool.runs_on("dom") == [source.name], "it is not as it was")
    pool.godwit("vm", "snapshot", "rm", "-y", "dom", "unseen")
    pool.godwit("migrate", "dom", "--to", target.name, "--bandwidth", "1MiB/s", "--no-wait")
    job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]
    pools.wait_for("libvirt to copy", 60, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy", 0.1)
    refused(pool, "vm", "snapshot", "create", "dom", "moving", because="GW-2103")
    pool.godwit("job", "set", job, "--bandwidth", "1GiB/s")
    pool.godwit("job", "watch", job, timeout=300)
    pools.wait_for("it to run there", 60, lambda: pool.runs_on("dom") == [target.name] and
                   pool.vm("dom")["host"] == target.name, 0.1)
    is_whole(pool)


def what_libvirt_cannot_do_is_refused_with_its_reason(pool):
    need_domain(pool)
    pool.godwit("vm", "snapshot", "create", "dom", "one")
    refused(pool, "vm", "snapshot", "create", "dom", "two", "--disks-only", because="libvirt domain that runs")
    refused(pool, "vm", "snapshot", "clone", "dom", "one", "other", because="libvirt makes no other domain")
    refused(pool, "vm", "snapshot", "restore", "-y", "--lazy", "dom", "one", because="--lazy")
    refused(pool, "vm", "snapshot", "restore", "-y", "dom", "none", because="no snapshot")
    host = host_of(pool)
    adopt(pool, "raw", make_disk("raw", "raw"))
    raw_host = host_of(pool, "raw")
    refused(pool, "vm", "snapshot", "create", "raw", because="raw")  # libvirt's own word
    goes_on(pool, "raw")
    is_whole(pool, "raw")
    overlay = pathlib.Path(DISKS.name) / "overlay.qcow2"
    raw_host.virsh("snapshot-create-as", "raw", "beside", "--disk-only", "--diskspec", f"vda,file={overlay}")
    row = pools.wait_for("it to be seen", 60, lambda: next(iter(snapshots(pool, "raw")), None), 0.1)
    expect(row["is_external"] and not row.get("with_memory"), str(row))
    pools.wait_for("the record to name the new file", 60, lambda: f"the definition of raw was changed on {raw_host.name}"
                   in pool.godwit("events").stdout, 0.2)
    for verb in (["check"], ["restore", "-y"]):  # before anything is stopped
        refused(pool, "vm", "snapshot", *verb, "raw", "beside", because="the definition that HA starts elsewhere")
    is_whole(pool, "raw")
    if libvirt_version(raw_host) >= (9, 0):
        pool.godwit("vm", "snapshot", "rm", "-y", "raw", "beside")
    else:
        refused(pool, "vm", "snapshot", "rm", "-y", "raw", "beside", because="libvirt")
        raw_host.virsh("snapshot-delete", "raw", "beside", "--metadata")
    goes_on(pool, "raw")
    is_whole(pool, "raw")
    pool.godwit("vm", "rm", "raw", "--stop", "-y")
    pool.godwit("vm", "rm", "dom", "--stop", "-y")  # let go: libvirt keeps it, and its snapshot
    expect(host.virsh("snapshot-list", "dom", "--name").stdout.split() == ["one"], "its snapshot is gone")


def libvirt_version(host):
    words = host.virsh("version", "--daemon").stdout.split("Running against daemon: ")[1]
    return tuple(int(n) for n in words.split()[0].split(".")[:2])


why_not = virt_pool.missing() or (None if os.path.exists("/dev/loop-control") else "no loop devices here")
if why_not:
    print(f"skipped: {why_not}")
    sys.exit(77)
try:
    run([
        goes_back_to_an_instant_of_memory_and_disk,
        what_it_is_now_can_be_kept_and_what_rests_is_taken_at_rest,
        those_that_virsh_made_are_seen_used_and_never_fought,
        a_domain_with_snapshots_does_not_move_until_they_are_gone,
        what_libvirt_cannot_do_is_refused_with_its_reason,
    ], kind=virt_pool.VirtPool)
finally:
    for loop in loops:
        loop.__exit__()

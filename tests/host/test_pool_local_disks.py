#!/usr/bin/env python3
"""A real pool whose hosts have a folder of the same name, each its own: a guest that writes its disk moves with it; what
was made is removed where it was, what was there is put aside; a move that fails leaves the disk where it is."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from pool_case import expect, expect_host, pools, run

DISK_MIB = 16
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-disks-", dir="/var/tmp")


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def other(pool, name):
    return "node1" if pool.vm(name)["host"] == "node2" else "node2"


def store(pool, host=None):
    """The store's path as every host names it; or where a host's own files really are."""
    folder = pool.dir / "store"
    if not folder.exists():
        folder.mkdir()
        for h in pool.hosts:
            own = pathlib.Path(DISKS.name) / h.name
            own.mkdir()
            subprocess.run([*h.enter_mounts(), "mount", "--bind", own, folder], check=True)
    return folder if host is None else pathlib.Path(DISKS.name) / host


def create(pool, name, file, **more):
    words = {"name": "root", "store": store(pool), "file": file, **more}
    disk = "{" + ", ".join(f"{k}: {v}" for k, v in words.items()) + "}"
    path = pool.dir / f"{name}.yaml"
    path.write_text("\n".join([
        f"name: {name}", f"kernel: {pool.guest_elf()}",
        f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=300 writers=1 rate=5 ws=8 fill=random fillmb=48",
        "cpu: {vcpus: 1}", "memory: {size: 128MiB}", "host: node1", "disks:", f"  - {disk}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for(f"{name} ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", name, check=False).stdout)


def need_writer(pool):
    store(pool)
    if not any(vm["name"] == "writer" for vm in pool.ls("vm")):
        create(pool, "writer", "writer.raw", size=f"{DISK_MIB}MiB")


def goes_on_writing(pool, name):
    before = int(pool.ask(name, "disk", "gw disk ")["written"])
    pools.wait_for("more blocks to be written", 60,
                   lambda: int(pool.ask(name, "disk", "gw disk ")["written"]) > before + 20)
    record = pool.ask(name, "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])


def files(pool, host):
    return sorted(str(p.relative_to(store(pool, host))) for p in store(pool, host).rglob("*") if p.is_file())


def last_job(pool, vm):
    return [j for j in pool.ls("job") if j["vm"] == vm][-1]


def is_whole_at(pool, name, host):
    expect_host(pool, name, host)
    goes_on_writing(pool, name)
    pool.verify(name)


def a_disk_that_only_its_host_has_moves_when_it_is_asked_to(pool):
    need_writer(pool)
    refused = pool.godwit("migrate", "writer", "--to", "node2", check=False)
    expect(refused.returncode == 5 and "--with-local-disks" in refused.stderr, refused.stderr)
    for _ in range(4):
        source, target = pool.vm("writer")["host"], other(pool, "writer")
        pool.godwit("migrate", "writer", "--to", target, "--with-local-disks")
        is_whole_at(pool, "writer", target)
        expect("writer.raw" in files(pool, target), f"at the target: {files(pool, target)}")
        pools.wait_for("the disk to be gone where it was", 60, lambda: not files(pool, source))


def a_target_that_is_killed_leaves_the_disk_where_it_is(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--with-local-disks", "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 60, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    expect(any(f.endswith(".landing") for f in files(pool, target)), f"nothing lands: {files(pool, target)}")
    os.kill(host_of(pool, target).vm_pids()[0], signal.SIGKILL)
    expect(pool.godwit("job", "watch", job, check=False).returncode == 6, "the move did not roll back")
    is_whole_at(pool, "writer", source)
    pools.wait_for("what landed to be gone", 60, lambda: not files(pool, target))


def a_canceled_move_leaves_the_disk_where_it_is_and_the_next_one_moves(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--with-local-disks", "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 60, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    pool.godwit("job", "cancel", job)
    pools.wait_for("the move to end", 60, lambda: pool.json("job", "show", job)["state"] not in ("running", "queued"))
    is_whole_at(pool, "writer", source)
    pools.wait_for("what landed to be gone", 60, lambda: not files(pool, target))
    pool.godwit("migrate", "writer", "--to", target, "--with-local-disks")
    is_whole_at(pool, "writer", target)


def a_target_that_dies_before_it_named_the_disk_starts_again_on_what_landed(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--with-local-disks", "--bandwidth", "20MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 60, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    host = host_of(pool, target)
    os.kill(host.agent.pid, signal.SIGSTOP)
    pools.wait_for("the source to be rid of it", 60, lambda: not host_of(pool, source).vm_pids())
    landed = [p for p in store(pool, target).rglob("*.landing")]
    expect(len(landed) == 1 and not (store(pool, target) / "writer.raw").exists(), f"{files(pool, target)}")
    inode = landed[0].stat().st_ino
    os.kill(host.vm_pids()[0], signal.SIGKILL)
    host.kill_agent()
    host.start_agent()
    subprocess.run([*host.enter_mounts(), "mount", "--bind", store(pool, target), store(pool)], check=True)
    pools.wait_for("its end to be known", 60, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
    pool.godwit("job", "watch", job, check=False)
    pool.godwit("vm", "start", "writer")
    is_whole_at(pool, "writer", target)
    expect((store(pool, target) / "writer.raw").stat().st_ino == inode, "it runs on another disk than the one that came")


def nothing_is_written_over_at_the_target(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    precious = store(pool, target) / "writer.raw"
    precious.write_bytes(b"precious")
    for words in (["--dry-run"], []):
        refused = pool.godwit("migrate", "writer", "--to", target, "--with-local-disks", *words, check=False)
        expect(refused.returncode == 5 and "is there already" in refused.stderr, f"{words}: {refused.stderr}")
    expect(precious.read_bytes() == b"precious", "it was written over")
    precious.unlink()
    is_whole_at(pool, "writer", source)


def a_store_without_room_is_told_and_the_guest_runs_on(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    inside = host_of(pool, target).enter_mounts()
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "size=256k", "none", store(pool)], check=True)
    try:
        refused = pool.godwit("migrate", "writer", "--to", target, "--with-local-disks", check=False)
        expect(refused.returncode in (5, 6) and "disk root" in refused.stderr and "space" in refused.stderr,
               f"exit {refused.returncode}: {refused.stderr}")
        is_whole_at(pool, "writer", source)
    finally:
        subprocess.run([*inside, "umount", store(pool)], check=True)


def a_disk_that_was_there_before_its_vm_is_put_aside_when_it_moves(pool):
    given = store(pool, "node1") / "given.raw"
    given.write_bytes(b"\0" * (DISK_MIB << 20))
    create(pool, "keeper", "given.raw")
    goes_on_writing(pool, "keeper")
    pool.godwit("migrate", "keeper", "--to", "node2", "--with-local-disks")
    is_whole_at(pool, "keeper", "node2")
    pools.wait_for("the old one to be put aside", 60, lambda: not given.exists())
    aside = [f for f in files(pool, "node1") if f.startswith("given.raw.moved-")]
    expect(len(aside) == 1, f"what was there is not put aside: {files(pool, 'node1')}")
    (store(pool, "node1") / aside[0]).unlink()
    pool.godwit("vm", "rm", "keeper", "--stop", "-y")


def removing_the_vm_removes_its_disk_where_it_is_now(pool):
    need_writer(pool)
    pool.godwit("vm", "rm", "writer", "--stop", "-y")
    for host in ("node1", "node2"):
        left = [str(p) for p in pathlib.Path(store(pool, host)).rglob("*")]
        expect(not left, f"left in the store of {host}: {left}")


if os.geteuid() != 0 or not shutil.which("nsenter"):
    print("skipped: hosts with folders of their own need root and nsenter (package util-linux)")
    raise SystemExit(77)
run([
    a_disk_that_only_its_host_has_moves_when_it_is_asked_to,
    a_target_that_is_killed_leaves_the_disk_where_it_is,
    a_canceled_move_leaves_the_disk_where_it_is_and_the_next_one_moves,
    a_target_that_dies_before_it_named_the_disk_starts_again_on_what_landed,
    nothing_is_written_over_at_the_target,
    a_store_without_room_is_told_and_the_guest_runs_on,
    a_disk_that_was_there_before_its_vm_is_put_aside_when_it_moves,
    removing_the_vm_removes_its_disk_where_it_is_now,
])

#!/usr/bin/env python3
"""A real pool with disks on XFS: a guest that writes memory and disk goes back to an instant of both, whole; what is
damaged, full or killed in the middle leaves a running guest and either a whole snapshot or nothing."""
import functools
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from pool_case import expect, expect_host, pools, run

DISK_MIB = 16
# The pool's own folder may be a tmpfs, which has no loop devices under it.
IMAGES = tempfile.TemporaryDirectory(prefix="godwit-xfs-", dir="/var/tmp")


def image_of(name):
    return pathlib.Path(IMAGES.name) / f"{name}.img"


def mounted(pool, name, kind):
    """A folder that is a file system of its own for node1's agent."""
    folder = pool.dir / name
    if folder.exists():
        return folder
    folder.mkdir()
    enter = pool.hosts[0].enter_mounts()
    if kind == "tmpfs":
        subprocess.run([*enter, "mount", "-t", "tmpfs", pool.tag, folder], check=True)
        return folder
    with image_of(name).open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image_of(name)], check=True)
    subprocess.run([*enter, "mount", "-o", "loop", image_of(name), folder], check=True)
    return folder


def start_agent(pool):
    """An agent that is started again gets mounts of its own: its store has to be there before it looks."""
    pool.hosts[0].start_agent(prefix=["sh", "-c", 'mount -o loop "$0" "$1" && shift && exec "$@"',
                                      image_of("xfs"), pool.dir / "xfs"])
    pool.wait_hosts_up()


def create(pool, name, folder, cmdline=""):
    path = pool.dir / f"{name}.yaml"
    path.write_text("\n".join([
        f"name: {name}", f"kernel: {pool.guest_elf()}",
        f"cmdline: vcpus=2 disk={DISK_MIB} diskrate=300 writers=1 rate=200 ws=32 fill=random fillmb=48 {cmdline}",
        "cpu: {vcpus: 2}", "memory: {size: 256MiB}", "host: node1", "disks:",
        "  - {name: root, store: %s, file: %s.raw, size: %dMiB}" % (folder, name, DISK_MIB)]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for(f"{name} ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", name, check=False).stdout)


def alone(case):
    """The case has a pool without VMs and snapshots, whatever became of the case before it."""
    @functools.wraps(case)
    def begin_anew(pool):
        for vm in pool.ls("vm"):
            pool.godwit("vm", "rm", vm["name"], "--stop", "--with-snapshots", "-y")
        nothing_is_left(pool)
        case(pool)
    return begin_anew


def need_writer(pool):
    create(pool, "writer", mounted(pool, "xfs", "xfs"))


def snapshots(pool, *vm):
    return pool.json("vm", "snapshot", "ls", *vm)


def take(pool, name, *words):
    pool.godwit("vm", "snapshot", "create", "writer", name, *words)
    return next(s for s in snapshots(pool, "writer") if s["name"] == name)


def written(pool):
    return int(pool.ask("writer", "disk", "gw disk ")["written"])


def goes_on(pool):
    before = written(pool)
    pools.wait_for("more blocks to be written", 60, lambda: written(pool) > before + 20)


def quiet(pool):
    """The guest writes no more blocks until it is told to: how many it has written."""
    pool.ask("writer", "disk off", "gw ok")
    pool.ask("writer", "disk flush", "gw ok")
    return written(pool)


def is_whole(pool):
    expect_host(pool, "writer", "node1")
    pool.verify("writer")
    record = pool.ask("writer", "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])


def state_files(pool):
    root = pathlib.Path(pool.hosts[0].dir, "agent", "snapshots")
    return sorted(str(p.relative_to(root)) for p in root.rglob("*")) if root.exists() else []


def clones(pool):
    if not (pool.dir / "xfs").exists():
        return []
    listed = subprocess.run([*pool.hosts[0].enter_mounts(), "ls", pool.dir / "xfs"], check=True, capture_output=True,
                            text=True).stdout.split()
    return [name for name in listed if ".snapshot-" in name]


def nothing_is_left(pool):
    expect(state_files(pool) == [] and clones(pool) == [], f"left: {state_files(pool)} {clones(pool)}")


def a_writing_guest_goes_back_to_an_instant_of_memory_and_disk(pool):
    need_writer(pool)
    goes_on(pool)
    at = written(pool)
    info = take(pool, "first")
    print(f"        paused {int(info['pause_ns']) / 1e6:.2f} ms, took {int(info['took_ns']) / 1e6:.0f} ms, "
          f"{int(info['memory_bytes']) >> 20} MiB, {info['put_aside_pages']} pages put aside", flush=True)
    is_whole(pool)
    goes_on(pool)
    still = quiet(pool)
    take(pool, "still")
    pool.ask("writer", "disk on", "gw ok")
    goes_on(pool)
    later, generation = quiet(pool), pool.vm("writer")["generation"]
    pool.godwit("vm", "snapshot", "check", "writer", "first")
    pool.godwit("vm", "snapshot", "restore", "-y", "writer", "first", "--keep", "second")
    expect(pool.vm("writer")["generation"] > generation, "it runs as an old generation")
    goes_on(pool)  # nobody told it to since: it is what it was before it was told to be quiet
    back = quiet(pool)
    expect(back >= at, f"blocks written: {at} before, {back} now")
    is_whole(pool)
    for name, blocks in (("second", later), ("still", still), ("second", later)):
        pool.godwit("vm", "snapshot", "restore", "-y", "writer", name)
        expect(written(pool) == blocks, f"blocks written: {blocks} in {name}, {written(pool)} now")
        is_whole(pool)
    for _ in range(2):  # as often as one likes
        pool.godwit("vm", "snapshot", "restore", "-y", "writer", "first")
        goes_on(pool)
        is_whole(pool)
    pool.godwit("vm", "snapshot", "rm", "-y", "writer", "first", "second", "still")
    nothing_is_left(pool)
    is_whole(pool)


def disks_alone_are_kept_running_and_stopped(pool):
    need_writer(pool)
    goes_on(pool)
    info = take(pool, "crash", "--disks-only")
    expect(not info.get("with_memory") and len(info["disks"]) == 1, str(info))
    pool.godwit("vm", "stop", "--force", "writer")
    refused = pool.godwit("vm", "snapshot", "create", "writer", "x", "--ram", check=False)
    expect(refused.returncode == 5 and "no memory to keep" in refused.stderr, refused.stderr)
    info = take(pool, "rest")
    expect(info.get("was_stopped"), str(info))
    for name in ("crash", "rest"):
        pool.godwit("vm", "snapshot", "restore", "-y", "writer", name)
        expect_host(pool, "writer", "node1")
        goes_on(pool)  # it answers, so it has booted
    refused = pool.godwit("vm", "rm", "writer", "--stop", "-y", check=False)
    expect(refused.returncode == 5 and "2 snapshots" in refused.stderr, refused.stderr)
    refused = pool.godwit("vm", "rm", "writer", "--with-snapshots", "-y", check=False)
    expect(refused.returncode == 5 and "is not stopped; it and its snapshots stay" in refused.stderr, refused.stderr)
    expect(len(pool.json("vm", "snapshot", "ls", "writer")) == 2, "a snapshot went for a VM that stays")
    pool.godwit("vm", "rm", "writer", "--stop", "--with-snapshots", "-y")
    nothing_is_left(pool)


def a_store_that_cannot_clone_is_named_and_the_guest_runs_on(pool):
    folder = mounted(pool, "plain", "tmpfs")
    create(pool, "other", folder)
    refused = pool.godwit("vm", "snapshot", "create", "other", check=False)
    expect(refused.returncode == 1 and str(folder) in refused.stderr and "reflink" in refused.stderr, refused.stderr)
    expect(snapshots(pool, "other") == [] and state_files(pool) == [], "something is left")
    expect_host(pool, "other", "node1")
    pool.verify("other")
    pool.godwit("vm", "rm", "other", "--stop", "-y")


def a_damaged_memory_is_refused_before_anything_is_touched(pool):
    need_writer(pool)
    info = take(pool, "first")
    path = pathlib.Path(pool.hosts[0].dir, "agent", "snapshots", info["id"], "memory")
    whole = path.read_bytes()
    pid = pool.vm("writer")["pid"]
    for bad in (whole[:-1], whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1:],
                whole + b"\0", b""):
        path.write_bytes(bad)
        for words in (["check"], ["restore", "-y"]):
            refused = pool.godwit("vm", "snapshot", words[0], *words[1:], "writer", "first", check=False)
            expect(refused.returncode != 0 and "cannot be restored" in refused.stderr, f"{words}: {refused.stderr}")
    expect(pool.vm("writer")["pid"] == pid, "it was touched")
    path.write_bytes(whole)
    pool.godwit("vm", "snapshot", "restore", "-y", "writer", "first")
    is_whole(pool)
    pool.godwit("vm", "snapshot", "rm", "-y", "writer", "first")


def too_little_room_is_told_before_and_leaves_nothing(pool):
    need_writer(pool)
    root = pathlib.Path(pool.hosts[0].dir, "agent", "snapshots")
    root.mkdir(exist_ok=True)
    enter = pool.hosts[0].enter_mounts()
    subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "size=32m", pool.tag, root], check=True)
    try:
        refused = pool.godwit("vm", "snapshot", "create", "writer", check=False)
        expect(refused.returncode == 1 and "room" in refused.stderr, refused.stderr)
        left = subprocess.run([*enter, "ls", "-A", root], check=True, capture_output=True, text=True).stdout
        expect(left == "" and clones(pool) == [], f"left: {left} {clones(pool)}")
    finally:
        subprocess.run([*enter, "umount", "-l", root], check=True)
    is_whole(pool)


def begin(pool, name):
    """A snapshot whose files are just being written."""
    started = pool.start_godwit("vm", "snapshot", "create", "writer", name)
    pools.wait_for("its files to be there", 60, lambda: any(
        p.endswith(".tmp/memory") for p in state_files(pool)) or started.poll() is not None, pause=0)
    return started


def an_agent_killed_in_the_middle_leaves_a_whole_one_or_nothing(pool):
    need_writer(pool)
    host = pool.hosts[0]
    caught = 0
    for number in range(1, 11):
        name = f"s{number}"
        started = begin(pool, name)
        host.kill_agent()
        started.communicate(timeout=60)
        half = any(p.endswith(".tmp") for p in state_files(pool))
        caught += half
        if half and caught == 2:
            host.start_agent()  # before its store is mounted: who knows of the clone stays
            pool.wait_hosts_up()
            left = [p.split("/")[-1] for p in state_files(pool) if ".tmp/" in p]
            expect(left == ["manifest"], f"left: {left}")
            host.kill_agent()
        start_agent(pool)
        expect_host(pool, "writer", "node1")
        expect(not any(".tmp" in p for p in state_files(pool)), f"left: {state_files(pool)}")
        listed = [s["name"] for s in snapshots(pool, "writer")]
        expect(len(clones(pool)) == len(listed), f"{clones(pool)} of {listed}")
        if name in listed:
            pool.godwit("vm", "snapshot", "check", "writer", name)
            pool.godwit("vm", "snapshot", "rm", "-y", "writer", name)
        is_whole(pool)
        if caught >= 3:
            break
    print(f"        {caught} of {number} killed in the middle", flush=True)
    expect(caught >= 2, "no kill came in the middle of a snapshot: nothing was tried")
    pools.wait_for("the guest to be free for the next", 60, lambda: pool.godwit(
        "vm", "snapshot", "create", "writer", "after", check=False).returncode == 0)
    pool.godwit("vm", "snapshot", "restore", "-y", "writer", "after")
    is_whole(pool)
    pool.godwit("vm", "snapshot", "rm", "-y", "writer", "after")
    nothing_is_left(pool)


def a_guest_killed_in_the_middle_leaves_nothing(pool):
    need_writer(pool)
    started = begin(pool, "gone")
    subprocess.run(["kill", "-9", str(pool.vm("writer")["pid"])], check=False)
    started.communicate(timeout=60)
    print(f"        the snapshot ended with exit {started.returncode}", flush=True)
    listed = [s["name"] for s in snapshots(pool, "writer")]
    expect((started.returncode == 0) == ("gone" in listed), f"exit {started.returncode}, but {listed}")
    if "gone" in listed:
        pool.godwit("vm", "snapshot", "rm", "-y", "writer", "gone")
    pools.wait_for("what was begun to be deleted", 60, lambda: state_files(pool) == [] and clones(pool) == [])
    pools.wait_for("its end to be known", 60, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
    pool.godwit("vm", "start", "writer")
    expect_host(pool, "writer", "node1")
    pool.godwit("vm", "rm", "writer", "--stop", "-y")


def the_record_follows_the_host_over_a_coordinator_s_death(pool):
    need_writer(pool)
    take(pool, "kept")
    started = begin(pool, "during")
    pool.kill_coordinator(signal.SIGKILL)
    started.communicate(timeout=60)
    pools.wait_for("its files to be done or gone", 60, lambda: not any(".tmp" in p for p in state_files(pool)))
    pool.start_coordinator()
    pool.wait_hosts_up()
    on_disk = sorted({p.split("/")[0] for p in state_files(pool)})
    pools.wait_for("the record to follow", 30,
                   lambda: sorted(s["id"] for s in snapshots(pool, "writer")) == on_disk)
    for info in snapshots(pool, "writer"):
        pool.godwit("vm", "snapshot", "restore", "-y", "writer", info["name"])
        is_whole(pool)
        pool.godwit("vm", "snapshot", "rm", "-y", "writer", info["name"])
    nothing_is_left(pool)


def a_guest_that_moved_away_is_restored_where_its_snapshot_lies(pool):
    pool.create_guest("mover", "writers=1 rate=50 ws=16 fill=random fillmb=32", memory="128MiB")
    pool.godwit("vm", "snapshot", "create", "mover", "here")
    pool.godwit("migrate", "mover", "--to", "node2")
    expect_host(pool, "mover", "node2")
    refused = pool.godwit("vm", "snapshot", "restore", "-y", "mover", "here", check=False)
    expect(refused.returncode == 5 and "lies on node1" in refused.stderr, refused.stderr)
    expect_host(pool, "mover", "node2")
    pool.hosts[0].kill_agent()  # what cannot be removed there stops nothing here
    pools.wait_for("node1 to be missed", 30, lambda: any(
        h["name"] == "node1" and h["state"] == "down" for h in pool.ls("host")))
    refused = pool.godwit("vm", "rm", "mover", "--stop", "--with-snapshots", "-y", check=False)
    expect(refused.returncode != 0 and "node1" in refused.stderr, refused.stderr)
    expect_host(pool, "mover", "node2")
    pool.hosts[0].start_agent()
    pool.wait_hosts_up()
    pool.godwit("migrate", "mover", "--to", "node1")
    pool.godwit("vm", "snapshot", "restore", "-y", "mover", "here")
    expect_host(pool, "mover", "node1")
    pool.verify("mover")
    pool.godwit("vm", "rm", "mover", "--stop", "--with-snapshots", "-y")


if __name__ == "__main__":
    if not shutil.which("mkfs.xfs"):
        print("skipped: no mkfs.xfs (package xfsprogs)")
        sys.exit(77)
    try:
        run([alone(case) for case in (
            a_writing_guest_goes_back_to_an_instant_of_memory_and_disk,
            disks_alone_are_kept_running_and_stopped,
            a_store_that_cannot_clone_is_named_and_the_guest_runs_on,
            a_damaged_memory_is_refused_before_anything_is_touched,
            too_little_room_is_told_before_and_leaves_nothing,
            an_agent_killed_in_the_middle_leaves_a_whole_one_or_nothing,
            a_guest_killed_in_the_middle_leaves_nothing,
            the_record_follows_the_host_over_a_coordinator_s_death,
            a_guest_that_moved_away_is_restored_where_its_snapshot_lies)])
    finally:
        IMAGES.cleanup()

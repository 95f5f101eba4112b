#!/usr/bin/env python3
"""A real pool whose guest writes its disk while the disk goes from store to store of its host: no acknowledged block is
lost or torn, the file that the record names is the disk whatever dies in between, and what was made goes again.
GODWIT_DISK_MOVES: how many moves under writes (6), GODWIT_DISK_KILLS: how many killed processes at random moments (6)."""
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile

from guest_disk import judge
from pool_case import expect, expect_host, pools, run

DISK_MIB = 16
MOVES = int(os.environ.get("GODWIT_DISK_MOVES", "6"))
KILLS = int(os.environ.get("GODWIT_DISK_KILLS", "6"))
SEED = int(os.environ.get("GODWIT_SEED", "0")) or random.randrange(1 << 32)
CHANCE = random.Random(SEED)
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-disk-moves-", dir="/var/tmp")


def folder(name):
    path = pathlib.Path(DISKS.name) / name
    path.mkdir(exist_ok=True)
    return path


def need_stores(pool):
    if pool.ls("store"):
        return
    pool.godwit("store", "add", "one", folder("one"), "--hosts", "node1")
    pool.godwit("store", "add", "two", folder("two"), "--hosts", "node1")
    pool.godwit("store", "add", "far", folder("far"), "--hosts", "node2")
    pool.godwit("store", "add", "nfs", folder("nfs"), "--hosts", "node1,node2", "--shared")


def need_writer(pool, rate=0):
    need_stores(pool)
    if any(vm["name"] == "writer" for vm in pool.ls("vm")):
        return
    path = pool.dir / "writer.yaml"
    path.write_text("\n".join([
        "name: writer", f"kernel: {pool.guest_elf()}",
        f"cmdline: vcpus=1 disk={DISK_MIB} diskrate={rate or 400}", "cpu: {vcpus: 1}", "memory: {size: 64MiB}",
        "host: node1", "disks:", f"  - {{name: root, store: one, file: writer.raw, size: {DISK_MIB}MiB}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    ready(pool)


def ready(pool):
    pools.wait_for("the guest to be ready", 60,
                   lambda: "gw ready" in pool.godwit("vm", "logs", "writer", check=False).stdout)
    pools.wait_for("its first blocks", 60, lambda: int(pool.ask("writer", "disk", "gw disk ")["written"]) > 100)


def spec_disk(pool):
    return pool.json("vm", "show", "writer")["spec"]["disks"][0]


def named(pool):
    """The file that the record names."""
    disk = spec_disk(pool)
    return pathlib.Path(disk["store"]) / disk["file"]


def files(store):
    return sorted(str(p.relative_to(folder(store))) for p in folder(store).rglob("*") if p.is_file())


def goes_on_writing(pool):
    before = int(pool.ask("writer", "disk", "gw disk ")["written"])
    pools.wait_for("more blocks to be written", 60,
                   lambda: int(pool.ask("writer", "disk", "gw disk ")["written"]) > before + 20)
    record = pool.ask("writer", "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])


def other_store(pool):
    return "two" if spec_disk(pool)["pool_store"] == "one" else "one"


def only_in(pool, store):
    expect(spec_disk(pool)["pool_store"] == store, f"the record names {spec_disk(pool)}")
    disk = named(pool)
    expect(disk.parent == folder(store) and disk.stat().st_size == DISK_MIB << 20, f"{disk}")
    for other in ("one", "two", "nfs"):
        raws = [f for f in files(other) if not f.startswith(".godwit")]
        if other != store:
            pools.wait_for(f"nothing to be left in {other}", 60, lambda: not files(other))
        else:
            expect(raws == [disk.name], f"in {other}: {files(other)}")


def start_move(pool, *words):
    pool.godwit("vm", "disk", "move", "writer", "root", "--no-wait", *words)
    return [j for j in pool.ls("job") if j["kind"] == "disk-move"][-1]["id"]


def job_of(pool, job):
    done = pool.godwit("job", "show", job, "-o", "json", check=False)
    return pools.json.loads(done.stdout) if done.returncode == 0 else {}


def await_end(pool, job):
    return pools.wait_for(f"job {job} to end", 120, lambda: (
        lambda j: j if j.get("state") in ("done", "rolled-back", "canceled") else None)(job_of(pool, job)))


def await_copy(pool, job):
    pools.wait_for("something to be copied", 60,
                   lambda: int(job_of(pool, job).get("disk", {}).get("copied_bytes", 0)) > 0)


# ---- cases ----
def refuses_what_cannot_be(pool):
    need_writer(pool)
    for words, code, exit_code in ((["root", "--to", "none"], "GW-2701", 3), (["rood", "--to", "two"], "did you mean 'root'", 2),
                                   (["root", "--to", "one"], "already", 5),
                                   (["root", "--to", "far"], "--with-local-disks", 5),
                                   (["root", "--to", "two:../x"], "GW-2110", 2)):
        refused = pool.godwit("vm", "disk", "move", "writer", *words, check=False)
        expect(refused.returncode == exit_code and code in refused.stderr, f"{words}: {refused.returncode} {refused.stderr}")
    told = pool.godwit("vm", "disk", "move", "writer", "root", "--to", "two", "--dry-run").stdout
    expect("one:writer.raw to two:writer-root.raw" in told, told)
    precious = folder("two") / "writer-root.raw"
    precious.write_bytes(b"precious")
    refused = pool.godwit("vm", "disk", "move", "writer", "root", "--to", "two", check=False)
    expect(refused.returncode == 6 and "is there already" in refused.stderr, f"{refused.returncode} {refused.stderr}")
    expect(precious.read_bytes() == b"precious", "it was written over")
    precious.unlink()
    only_in(pool, "one")
    goes_on_writing(pool)


def moves_between_stores_while_the_guest_writes(pool):
    need_writer(pool)
    for i in range(MOVES):
        target = other_store(pool)
        rate = CHANCE.choice((0, 200, 1000, 3000))
        pool.ask("writer", f"disk {rate}", "gw ok")
        done = pool.godwit("vm", "disk", "move", "writer", "root", "--to", target, *CHANCE.choice(([], ["--bandwidth", "20MiB/s"])))
        expect("digests equal" in done.stdout, done.stdout + done.stderr)
        pool.ask("writer", "disk 400", "gw ok")
        goes_on_writing(pool)
        only_in(pool, target)
    print(f"        {MOVES} moves, seed {SEED}", flush=True)


def to_a_shared_store_and_then_the_vm_moves(pool):
    need_writer(pool)
    home = spec_disk(pool)["pool_store"]
    pool.godwit("vm", "disk", "move", "writer", "root", "--to", "nfs:w.raw")
    only_in_shared = files("nfs")
    expect("w.raw" in only_in_shared and any("stamp" in f for f in only_in_shared), f"{only_in_shared}")
    pools.wait_for("the old store to be empty", 60, lambda: not files(home))
    for target in ("node2", "node1"):
        pool.godwit("migrate", "writer", "--to", target)
        expect_host(pool, "writer", target)
        goes_on_writing(pool)
    pool.godwit("vm", "disk", "move", "writer", "root", "--to", "one")
    goes_on_writing(pool)
    only_in(pool, "one")


def is_busy_meanwhile_and_canceled_stays_where_it_is(pool):
    need_writer(pool)
    home = spec_disk(pool)["pool_store"]
    job = start_move(pool, "--to", other_store(pool), "--bandwidth", "2MiB/s")
    await_copy(pool, job)
    busy = pool.godwit("vm", "stop", "writer", check=False)
    expect(busy.returncode == 9 and job in busy.stderr, busy.stderr)
    pool.godwit("job", "cancel", job)
    expect(await_end(pool, job)["state"] == "canceled", "it was not canceled")
    goes_on_writing(pool)
    only_in(pool, home)


def a_coordinator_that_is_killed_goes_on_from_its_record(pool):
    need_writer(pool)
    for wait in (0.0, 0.5, 1.5):
        target = other_store(pool)
        job = start_move(pool, "--to", target, "--bandwidth", "12MiB/s")
        if wait:
            await_copy(pool, job)
        pool.kill_coordinator()
        pool.start_coordinator()
        pools.wait_for("the pool to answer", 60, lambda: pool.godwit("job", "show", job, check=False).returncode == 0)
        expect(await_end(pool, job)["state"] == "done", f"{job_of(pool, job)}")
        goes_on_writing(pool)
        only_in(pool, target)


def an_agent_that_is_killed_finds_it_again(pool):
    need_writer(pool)
    target = other_store(pool)
    job = start_move(pool, "--to", target, "--bandwidth", "6MiB/s")
    await_copy(pool, job)
    pool.hosts[0].kill_agent()
    pool.hosts[0].start_agent()
    expect(await_end(pool, job)["state"] == "done", f"{job_of(pool, job)}")
    goes_on_writing(pool)
    only_in(pool, target)


def killed_at_any_moment_the_named_file_is_the_disk(pool):
    """The VM's process dies somewhere in its disk's move, and starts again."""
    ended = {}
    for i in range(KILLS):
        if any(vm["name"] == "writer" for vm in pool.ls("vm")):  # a guest that starts again counts from one again
            pool.godwit("vm", "rm", "writer", "--stop", "-y")
        need_writer(pool)
        old, target = named(pool), other_store(pool)
        written = int(pool.ask("writer", "disk", "gw disk ")["written"])
        job = start_move(pool, "--to", target, "--bandwidth", f"{CHANCE.choice((8, 32, 512))}MiB/s")
        state = CHANCE.choice(("copying", "closing", "equal", "promised", "settled"))
        pools.wait_for("that moment, or the end", 60, lambda: (
            job_of(pool, job).get("disk", {}).get("state") == state or job_of(pool, job).get("state") != "running"), 0.02)
        for pid in pool.hosts[0].vm_pids():
            os.kill(pid, signal.SIGKILL)
        both = {p: judge(p, DISK_MIB) for p in (old, folder(target) / "writer-root.raw") if p.exists()}
        end = await_end(pool, job)["state"]
        ended[end] = ended.get(end, 0) + 1
        disk = named(pool)
        expect((disk == old) == (end == "rolled-back"), f"{end}, but the record names {disk}")
        mine = judge(disk, DISK_MIB)
        expect(max(mine.values()) >= written, f"the newest block of {disk} is older than {written}")
        for path, theirs in both.items():
            older = [b for b in theirs if path != disk and disk in both and mine.get(b, 0) < theirs[b]]
            expect(len(older) <= 32, f"{len(older)} blocks of {disk} are older than those of {path}")
        pools.wait_for("its end to be known", 60, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
        only_in(pool, spec_disk(pool)["pool_store"])
        pool.godwit("vm", "start", "writer")
        ready(pool)
        goes_on_writing(pool)
    print(f"        {KILLS} kills: {ended}, seed {SEED}", flush=True)


def removing_the_vm_removes_its_disk_where_it_is_now(pool):
    need_writer(pool)
    pool.godwit("vm", "rm", "writer", "--stop", "-y")
    for name in ("one", "two", "nfs"):
        expect(not list(folder(name).rglob("*")), f"left in {name}: {files(name)}")


if os.geteuid() != 0 or not shutil.which("nsenter"):
    print("skipped: hosts of their own need root and nsenter (package util-linux)")
    raise SystemExit(77)
run([
    refuses_what_cannot_be,
    moves_between_stores_while_the_guest_writes,
    to_a_shared_store_and_then_the_vm_moves,
    is_busy_meanwhile_and_canceled_stays_where_it_is,
    a_coordinator_that_is_killed_goes_on_from_its_record,
    an_agent_that_is_killed_finds_it_again,
    killed_at_any_moment_the_named_file_is_the_disk,
    removing_the_vm_removes_its_disk_where_it_is_now,
])

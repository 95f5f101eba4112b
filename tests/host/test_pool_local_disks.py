#!/usr/bin/env python3
"""A real pool whose hosts have a folder of the same name, each its own: a guest that writes its disk moves with it; what
was made is removed where it was, what was there is put aside; a move that fails leaves the disk where it is. Kills and cut links in every phase of a move lose
no acknowledged block, tear none, and never leave two writers.
GODWIT_LOCAL_MOVES: how many moves under writes (3), GODWIT_LOCAL_KILLS: how many with a kill or a cut link (4)."""
import dataclasses
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

from guest_disk import judge, older_blocks
from pool_case import LeftOut, expect, expect_host, pools, run

DISK_MIB = 8
MOVES = int(os.environ.get("GODWIT_LOCAL_MOVES", "3"))
KILLS = int(os.environ.get("GODWIT_LOCAL_KILLS", "4"))
SEED = int(os.environ.get("GODWIT_SEED", "0")) or random.randrange(1 << 32)
CHANCE = random.Random(SEED)
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


def restart_agent(pool, host):
    """It sees its own store from its first moment on, as it would by fstab."""
    if host.agent:
        host.kill_agent()
    host.start_agent(["sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', store(pool, host.name), store(pool)])


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
    restart_agent(pool, host)
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


# ---- under writes, with faults ----
WRITES = (["disk seq", "disk every 64", "disk 1500"], ["disk random", "disk every 64", "disk 1500"],
          ["disk random", "disk every 1", "disk 600"])
# A place inside of a move where one end stands still for a moment, so that something can happen to the rest of it.
PHASES = {
    "greeting": (("source", "source.hello"), ("target", "target.welcome"), ("target", "target.prepared")),
    "copying": (("source", "source.frame"), ("target", "target.place"), ("source", "source.collect"),
                ("source", "source.fence")),
    "pausing": (("source", "source.pause"), ("source", "source.save"), ("source", "source.state")),
    "handing over": (("target", "target.load"), ("target", "target.before_ready"), ("target", "target.ready"),
                     ("source", "source.before_gave")),
    "deciding": (("source", "source.after_gave"), ("source", "source.transfer"), ("target", "target.before_took")),
    "over": (("target", "target.after_took"), ("target", "target.resume"), ("target", "target.started"),
             ("source", "source.before_released")),
}
STILL_MS = 1500
TOOK = ("deciding", "over")  # from here on the guest may live at the target only
DEEDS = ("kill the target's process", "kill the source's agent", "kill the target's agent", "kill the coordinator",
         "cut the link", "take the source's agent away")
CUT_S = (0.5, 3, 12)


@dataclasses.dataclass
class Round:
    """One move and what stayed of both ends' files: links, so that who still writes to what is no disk any more is seen."""
    source: str
    target: str
    written: int
    kept: dict = dataclasses.field(default_factory=dict)

    def keep(self, pool, host):
        for file in store(pool, host).iterdir():
            link = pathlib.Path(DISKS.name) / f"kept-{host}"
            if host not in self.kept and file.name.startswith("writer.raw"):
                try:
                    os.link(file, link)
                except FileNotFoundError:
                    continue
                self.kept[host] = link

    def forget(self):
        for link in self.kept.values():
            link.unlink()


def written(pool, name):
    """A line that stood still half printed counts as answered: the last word says that it is whole."""
    found = pools.wait_for("a whole answer", 60, lambda: (
        lambda f: f if f.get("device") in ("ok", "BAD") else None)(pool.ask(name, "disk", "gw disk ")))
    return int(found["written"])


def fresh_writer(pool):
    """One whose blocks are all its own: a guest that started again counts from one again."""
    if any(vm["name"] == "writer" for vm in pool.ls("vm")):
        pool.godwit("vm", "rm", "writer", "--stop", "-y")
    pools.wait_for("nothing to be left", 60, lambda: not files(pool, "node1") and not files(pool, "node2"))
    need_writer(pool)


def begin_round(pool):
    need_writer(pool)
    for line in CHANCE.choice(WRITES):
        pool.ask("writer", line, "gw ok")
    source = pool.vm("writer")["host"]
    before = written(pool, "writer")
    pools.wait_for("blocks of this manner", 60, lambda: written(pool, "writer") > before + 50)
    round_ = Round(source, other(pool, "writer"), written(pool, "writer"))
    round_.keep(pool, source)
    return round_


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def nothing_is_lost(pool, round_):
    """The guest's disk, from inside and from outside; of any other file that was one, that nobody writes to it any more."""
    home = pool.vm("writer")["host"]
    disk = store(pool, home) / "writer.raw"
    away = {host: link for host, link in round_.kept.items() if link.stat().st_ino != disk.stat().st_ino}
    before = {host: digest(link) for host, link in away.items()}
    goes_on_writing(pool, "writer")
    pool.verify("writer")
    pool.ask("writer", "disk off", "gw ok")
    pool.ask("writer", "disk flush", "gw ok")
    mine = judge(disk, DISK_MIB)
    expect(written(pool, "writer") >= round_.written, "it forgot writes")
    for host, link in away.items():
        expect(digest(link) == before[host], f"somebody writes to {host}'s file, and the disk is {home}'s")
    if home == round_.target:
        expect(round_.source in away, "the source's file is the target's")
        older = older_blocks(mine, judge(away[round_.source], DISK_MIB))
        expect(not older, f"blocks {older[:8]} are older than where the disk came from")
    pool.ask("writer", "disk on", "gw ok")
    pools.wait_for("exactly one process", 60, lambda: [len(host_of(pool, h).vm_pids()) for h in (
        home, other(pool, "writer"))] == [1, 0])
    away = other(pool, "writer")
    try:
        pools.wait_for("the one disk to be all there is", 60, lambda: (
            [f for f in files(pool, home) if not f.startswith(".godwit")] == ["writer.raw"] and not files(pool, away)))
    except pools.PoolError as error:
        raise pools.PoolError(f"{error}: {home} has {files(pool, home)}, {away} has {files(pool, away)}") from error
    round_.forget()


def moves_under_writes_lose_nothing(pool):
    fresh_writer(pool)
    for _ in range(MOVES):
        round_ = begin_round(pool)
        words = CHANCE.choice(([], ["--bandwidth", "60MiB/s"], ["--streams", "2"]))
        pool.godwit("migrate", "writer", "--to", round_.target, "--with-local-disks", *words)
        expect_host(pool, "writer", round_.target)
        nothing_is_lost(pool, round_)
    print(f"        {MOVES} moves, seed {SEED}", flush=True)


def set_link(pool, host, state):
    subprocess.run(["ip", "-n", f"{pool.tag}-sw", "link", "set", f"p{host.number}", state], check=True)


def job_of(pool, job):
    done = pool.godwit("job", "show", job, "-o", "json", check=False)
    return pools.json.loads(done.stdout) if done.returncode == 0 else {}


def is_over(pool, job):
    return job_of(pool, job).get("state") in ("done", "rolled-back", "canceled", "failed")


def do(pool, deed, round_, job):
    source, target = host_of(pool, round_.source), host_of(pool, round_.target)
    if deed == "kill the target's process":
        for pid in target.vm_pids():
            os.kill(pid, signal.SIGKILL)
    elif deed == "kill the coordinator":
        pool.kill_coordinator()
        pool.start_coordinator()
    elif deed == "cut the link":
        seconds = CHANCE.choice(CUT_S)
        end = time.monotonic() + seconds
        set_link(pool, target, "down")
        try:
            while time.monotonic() < end and not is_over(pool, job):
                time.sleep(0.1)
        finally:
            set_link(pool, target, "up")
        return f"{deed} for {seconds} s"
    elif deed == "take the source's agent away":
        source.kill_agent()
        pools.wait_for("the move to be over without it", 60, lambda: not source.vm_pids() or not target.vm_pids())
        restart_agent(pool, source)
    else:
        restart_agent(pool, source if "source" in deed else target)
    return deed


def starts_again_on_what_it_wrote(pool, round_):
    """The guest died with its process: its disk is where the record says, and has all that it was told is there."""
    pools.wait_for("its end to be known", 60, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
    home = pool.vm("writer")["host"]
    expect(home == round_.target, f"it died at {round_.target}, and the record says {home}")
    landed = [p for p in store(pool, home).iterdir() if p.name.startswith("writer.raw")]
    expect(len(landed) == 1, f"{landed} at {home}")
    mine = judge(landed[0], DISK_MIB)
    older = older_blocks(mine, judge(round_.kept[round_.source], DISK_MIB))
    expect(not older, f"blocks {older[:8]} are older than where the disk came from")
    expect(max(mine.values()) >= round_.written, f"the newest block is older than {round_.written}")
    inode = landed[0].stat().st_ino
    pool.godwit("vm", "start", "writer")
    goes_on_writing(pool, "writer")
    expect((store(pool, home) / "writer.raw").stat().st_ino == inode, "it runs on another disk than the one that came")
    round_.forget()
    fresh_writer(pool)


def one_fault(pool, phase, end, point, deed):
    round_ = begin_round(pool)
    at = host_of(pool, round_.source if end == "source" else round_.target)
    at.failpoints.write_text(f"{point}=delay:{STILL_MS}\n")
    try:
        pool.godwit("migrate", "writer", "--to", round_.target, "--with-local-disks", "--no-wait")
        job = last_job(pool, "writer")["id"]
        pools.wait_for(f"{point} to be reached", 60, lambda: (
            f"hit {point} delay" in at.failpoints.read_text() or is_over(pool, job)), 0.005)
        expect(f"hit {point} delay" in at.failpoints.read_text(), f"{point} was not reached: {job_of(pool, job)}")
    finally:
        at.failpoints.write_text("")
    round_.keep(pool, round_.target)
    done = do(pool, deed, round_, job)
    pool.wait_hosts_up(60)
    pools.wait_for(f"job {job} to end", 120, lambda: is_over(pool, job), 0.1)
    ended = job_of(pool, job)["state"]
    state = pools.wait_for("the guest to run, or to be told as ended", 60, lambda: (
        lambda s: s if s in ("running", "crashed", "stopped") else None)(pool.vm("writer")["state"]))
    print(f"        {phase}, at {point}: {done}: {ended}, {state} on {pool.vm('writer')['host']}", flush=True)
    if state != "running":
        expect(deed == "kill the target's process" and phase in TOOK, f"the guest did not survive: {pool.vm('writer')}")
        starts_again_on_what_it_wrote(pool, round_)
        return ended
    expect_host(pool, "writer", round_.target if ended == "done" else round_.source)
    nothing_is_lost(pool, round_)
    return ended


def kills_and_cut_links_in_every_phase_lose_nothing(pool):
    if not pool.namespaces:
        raise LeftOut("needs network namespaces")
    points = [(phase, end, point) for phase, places in PHASES.items() for end, point in places]
    every = [(*place, deed) for place in points for deed in DEEDS]
    CHANCE.shuffle(every)
    fresh_writer(pool)
    # A phase each in turn, and a deed each in turn, as long as there are any.
    order, turns = [], itertools.cycle(PHASES)
    while every:
        phase = next(turns)
        mine = [e for e in every if e[0] == phase]
        counts = {deed: sum(o[3] == deed for o in order) for deed in DEEDS}
        if mine:
            order.append(min(mine, key=lambda e: counts[e[3]]))
            every.remove(order[-1])
    ended, started = {}, time.monotonic()
    for place in itertools.islice(itertools.cycle(order), KILLS):
        end = one_fault(pool, *place)
        ended[end] = ended.get(end, 0) + 1
    print(f"        {KILLS} faults in {time.monotonic() - started:.0f} s: {ended}, seed {SEED}", flush=True)


def an_agent_that_is_started_anew_meanwhile_puts_the_old_disk_away(pool):
    fresh_writer(pool)
    for end, point, deed in (("source", "source.state", "kill the source's agent"),
                             ("source", "source.after_gave", "take the source's agent away")):
        expect(one_fault(pool, "pausing", end, point, deed) == "done", "it did not move")


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
    moves_under_writes_lose_nothing,
    an_agent_that_is_started_anew_meanwhile_puts_the_old_disk_away,
    kills_and_cut_links_in_every_phase_lose_nothing,
    removing_the_vm_removes_its_disk_where_it_is_now,
], failpoints=True)

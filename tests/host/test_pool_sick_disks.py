#!/usr/bin/env python3
"""A real pool whose disks lie on media that fail, fill up, stall or go away: ext4 on a loop device on nbdkit, whose filters
do it when they are told to. The guest is told, or waits; nothing that it was told is there is lost once the medium is well
again; a move that meets such a medium ends as if it had not been, and says why."""
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

from guest_disk import judge
from pool_case import expect, expect_host, pools, run

DISK_MIB, STORE_MIB = 8, 32
DISKS = tempfile.TemporaryDirectory(prefix="godwit-sick-", dir="/var/tmp")
WHERE = pathlib.Path(DISKS.name)


class Medium:
    """A file system that fails as it is told; its bytes outlive it."""
    all = []

    def __init__(self, name):
        self.dir = WHERE / name
        self.dir.mkdir()
        self.folder = WHERE / f"{name}-folder"
        self.folder.mkdir()
        self.bytes = self.dir / "bytes"
        with open(self.bytes, "wb") as file:
            file.truncate(STORE_MIB << 20)
        self.processes, self.device = [], None
        Medium.all.append(self)
        self.attach()
        # Without a journal a failed write is that write's failure, and not the whole file system's.
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", self.device], check=True)
        self.mount()

    # -- life --
    def attach(self):
        sock, fuse = self.dir / "nbd", self.dir / "fuse"
        fuse.mkdir(exist_ok=True)
        for path in (sock, self.dir / "control", self.dir / "pid"):
            path.unlink(missing_ok=True)
        self.server = self._spawn(
            ["nbdkit", "-f", "-P", self.dir / "pid", "-U", sock, "--filter=pause", "--filter=rate", "--filter=error", "file", self.bytes,
             f"pause-control={self.dir / 'control'}", f"rate-file={self.dir / 'rate'}",
             "error=EIO", "error-pread-rate=100%", f"error-pread-file={self.dir / 'bad-reads'}",
             "error-pwrite-rate=100%", f"error-pwrite-file={self.dir / 'bad-writes'}",
             "error-zero-rate=100%", f"error-zero-file={self.dir / 'bad-writes'}",
             "error-trim-rate=100%", f"error-trim-file={self.dir / 'bad-writes'}"])
        pools.wait_for("nbdkit to listen", 20, lambda: (self.dir / "pid").exists())
        self._spawn(["nbdfuse", fuse / "disk", f"nbd+unix:///?socket={sock}"])
        pools.wait_for("nbdfuse", 20, lambda: (fuse / "disk").exists())
        self.device = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", fuse / "disk"], check=True,
                                     capture_output=True, text=True).stdout.strip()

    def _spawn(self, words):
        with open(self.dir / "log", "ab") as log:
            process = subprocess.Popen([str(w) for w in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def mount(self):
        subprocess.run(["mount", "-t", "ext4", "-o", "noatime,lazytime,errors=continue", self.device, self.folder], check=True)

    def detach(self):
        """Lazily: whoever has a file of it open keeps it, dead or alive."""
        subprocess.run(["umount", "--lazy", self.folder], check=False, stderr=subprocess.DEVNULL)
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "--lazy", self.dir / "fuse"], check=False, stderr=subprocess.DEVNULL)
        for process in reversed(self.processes):
            process.terminate()
            process.wait()
        self.processes, self.device = [], None

    # -- sick --
    @contextlib.contextmanager
    def failing(self, *what):
        """`what`: reads, writes."""
        marks = [self.dir / f"bad-{word}" for word in what]
        for mark in marks:
            mark.touch()
        try:
            yield
        finally:
            for mark in marks:
                mark.unlink()

    @contextlib.contextmanager
    def standing_still(self):
        control = socket.socket(socket.AF_UNIX)
        control.connect(str(self.dir / "control"))
        control.sendall(b"p")
        expect(control.recv(1) == b"P", "nbdkit did not pause")
        try:
            yield
        finally:
            control.sendall(b"r")
            expect(control.recv(1) == b"R", "nbdkit did not go on")
            control.close()

    @contextlib.contextmanager
    def slow(self, rate):
        (self.dir / "rate").write_text(f"{rate}\n")
        try:
            yield
        finally:
            (self.dir / "rate").unlink()

    @contextlib.contextmanager
    def full(self):
        ballast = self.folder / "ballast"
        with open(ballast, "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                pass
        try:
            yield
        finally:
            ballast.unlink()

    def forget_pages(self, file):
        """What is read next comes from the medium."""
        with open(self.folder / file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


MEDIA = {}


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def other(pool):
    return "node1" if pool.vm("writer")["host"] == "node2" else "node2"


def medium(pool, host):
    need_stores(pool)
    return MEDIA[host]


def show(pool, host):
    """The medium, as its host has it: the same file system as here."""
    subprocess.run([*host_of(pool, host).enter_mounts(), "mount", "-t", "ext4", "-o", "noatime,lazytime,errors=continue",
                    MEDIA[host].device, WHERE / "sick"], check=True)


def need_stores(pool):
    """`sick`: both hosts, a medium of ours on each. `well`: on both, too, a folder each. """
    if MEDIA:
        return
    for name in ("sick", "well"):
        (WHERE / name).mkdir()
    for host in ("node1", "node2"):
        MEDIA[host] = Medium(f"medium-{host}")
        own = WHERE / f"well-{host}"
        own.mkdir()
        show(pool, host)
        subprocess.run([*host_of(pool, host).enter_mounts(), "mount", "--bind", own, WHERE / "well"], check=True)
    for name in ("sick", "well"):
        pool.godwit("store", "add", name, WHERE / name, "--hosts", "node1,node2")


def new_writer(pool, store="sick", content=os.urandom, on_error="report"):
    """A guest on its own disk on node1, which is full of `content`: writing needs no more room, moving takes its time.
    None: a hole."""
    need_stores(pool)
    if any(vm["name"] == "writer" for vm in pool.ls("vm")):
        pool.godwit("vm", "rm", "writer", "--stop", "-y")
    for folder in (MEDIA["node1"].folder, MEDIA["node2"].folder, WHERE / "well-node1", WHERE / "well-node2"):
        for left in folder.glob("writer*"):
            left.unlink()
    folder = MEDIA["node1"].folder if store == "sick" else WHERE / "well-node1"
    with open(folder / "writer.raw", "wb") as file:
        if content:
            file.write(content(DISK_MIB << 20))
        file.truncate(DISK_MIB << 20)
        os.fsync(file.fileno())
    path = pool.dir / "writer.yaml"
    path.write_text("\n".join([
        "name: writer", f"kernel: {pool.guest_elf()}", f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=300",
        "cpu: {vcpus: 1}", "memory: {size: 64MiB}", "host: node1", "disks:",
        f"  - {{name: root, store: {store}, file: writer.raw, on_error: {on_error}}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("the guest to be ready", 60,
                   lambda: "gw ready" in pool.godwit("vm", "logs", "writer", check=False).stdout)
    pools.wait_for("its first blocks", 60, lambda: numbers(pool)["written"] > 200)


def numbers(pool):
    """A line that stood still half printed counts as answered: the last word says that it is whole."""
    found = pools.wait_for("a whole answer", 60, lambda: (
        lambda f: f if f.get("device") in ("ok", "BAD") else None)(pool.ask("writer", "disk", "gw disk ")))
    return {key: int(found[key]) for key in ("written", "flushes", "errors", "busy")}


def writes_and_has_all(pool, flushes=True):
    """It goes on writing without another error, and every block that it was told is there, is."""
    before = numbers(pool)
    pools.wait_for("more blocks to be written", 60, lambda: numbers(pool)["written"] > before["written"] + 100)
    if flushes:
        pools.wait_for("a flush", 60, lambda: numbers(pool)["flushes"] > before["flushes"])
        expect(numbers(pool)["errors"] == before["errors"], f"errors went on: {before}, {numbers(pool)}")
    record = pool.ask("writer", "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])
    pool.verify("writer")


def told_in_log(pool, words):
    """In the VM's own log."""
    def found():
        logs = (pool.dir / pool.vm("writer")["host"]).rglob("vm.log")
        return any(words in line for log in logs for line in log.read_text(errors="replace").splitlines()
                   if "a disk failed the guest" in line)
    pools.wait_for(f"'{words}' to be told", 20, found)


# ---- a guest that runs ----
def a_medium_that_fails_is_told_to_guest_and_operator_and_loses_nothing(pool):
    new_writer(pool)
    sick = medium(pool, "node1")
    pool.ask("writer", "disk every 1000000", "gw ok")  # no flush: one that failed stays failed
    with sick.failing("writes"):
        pools.wait_for("the guest to be told", 60, lambda: numbers(pool)["errors"] > 20)
        told_in_log(pool, "Input/output error")
        shown = pool.godwit("vm", "show", "writer").stdout
        expect(" failed" in shown and " 0 failed" not in shown, shown)
        expect(pool.vm("writer")["state"] == "running", "the VM did not survive its disk")
    writes_and_has_all(pool, flushes=False)
    before = numbers(pool)
    pools.wait_for("writes without an error", 60, lambda: numbers(pool)["written"] > before["written"] + 300)
    expect(numbers(pool)["errors"] == before["errors"], "errors went on when the medium was well")
    with sick.failing("reads"):
        record = pool.ask("writer", "disk verify", "gw diskverify")
        expect(numbers(pool)["errors"] > before["errors"], f"no read failed: {record['_']}")
    writes_and_has_all(pool, flushes=False)


def a_full_store_is_told_and_loses_nothing(pool):
    new_writer(pool, content=None)  # every first write of a block needs room
    sick = medium(pool, "node1")
    pool.ask("writer", "disk every 1000000", "gw ok")
    with sick.full():
        pools.wait_for("the guest to be told", 60, lambda: numbers(pool)["errors"] > 20)
        told_in_log(pool, "No space left on device")
    before = numbers(pool)["errors"]
    writes_and_has_all(pool, flushes=False)
    expect(numbers(pool)["errors"] == before, "errors went on when there was room")


def a_medium_that_stands_still_holds_the_guests_writes_and_fails_none(pool):
    new_writer(pool)
    sick = medium(pool, "node1")
    with sick.standing_still():
        pools.wait_for("every request to wait", 60, lambda: numbers(pool)["busy"] >= 32)
        held = numbers(pool)
        pool.verify("writer")  # the rest of it runs
        expect(numbers(pool)["written"] == held["written"], "a write ended that cannot have")
    writes_and_has_all(pool)
    expect(numbers(pool)["errors"] == 0, f"{numbers(pool)}")


def a_slow_medium_slows_the_guest_and_fails_nothing(pool):
    new_writer(pool)
    with medium(pool, "node1").slow("2M"):  # bits
        before = numbers(pool)["written"]
        pools.wait_for("some blocks", 60, lambda: numbers(pool)["written"] > before + 50)
    writes_and_has_all(pool)
    expect(numbers(pool)["errors"] == 0, f"{numbers(pool)}")


def a_medium_that_goes_away_is_told_and_its_disk_is_whole_when_it_is_back(pool):
    new_writer(pool, content=bytes)  # no journal: what is not yet in its place may not be found again
    sick = medium(pool, "node1")
    written = numbers(pool)["written"]
    sick.server.kill()
    pools.wait_for("the guest to be told", 60, lambda: numbers(pool)["errors"] > 20)
    expect(pool.vm("writer")["state"] == "running", "the VM did not survive its disk")
    refused = pool.godwit("migrate", "writer", "--to", "node2", "--with-local-disks", check=False)
    expect(refused.returncode in (5, 6) and "running on node1" in refused.stderr, f"{refused.returncode}: {refused.stderr}")
    pool.godwit("vm", "stop", "writer", "--force")
    pools.wait_for("it to be stopped", 60, lambda: pool.vm("writer")["state"] == "stopped")
    subprocess.run([*host_of(pool, "node1").enter_mounts(), "umount", "--lazy", WHERE / "sick"], check=True)
    refused = pool.godwit("vm", "start", "writer", check=False)
    expect(refused.returncode != 0 and "writer.raw" in refused.stderr, f"{refused.returncode}: {refused.stderr}")
    sick.detach()
    sick.attach()
    sick.mount()
    show(pool, "node1")
    found = judge(sick.folder / "writer.raw", DISK_MIB)
    expect(len(found) > 0 and max(found.values()) >= written, f"the newest of {len(found)} blocks is older than {written}")
    pool.godwit("vm", "start", "writer")
    writes_and_has_all(pool)


def stands_still(pool, *words):
    pools.wait_for("the VM to stand still", 60, lambda: pool.vm("writer")["state"] == "paused")
    shown = pool.godwit("vm", "show", "writer").stdout
    for word in ("disk root failed it", "vm resume", *words):
        expect(word in shown, f"'{word}' is not shown: {shown}")


def a_disk_that_is_to_pause_stands_its_guest_still_untold_until_a_resume_that_helps(pool):
    new_writer(pool, content=None, on_error="pause")  # every first write of a block needs room
    sick = medium(pool, "node1")
    pool.ask("writer", "disk every 1000000", "gw ok")  # no flush: one that failed is told in any case
    with sick.failing("writes"):
        stands_still(pool, "Input/output error")
        events = pool.godwit("events", "--vm", "writer").stdout
        expect("VM writer is paused on node1: disk root failed it" in events, events)
        pool.godwit("vm", "resume", "writer")  # nothing is better
        stands_still(pool, "Input/output error")
        refused = pool.godwit("vm", "suspend", "writer", check=False)
        expect(refused.returncode != 0 and "requests of the guest wait" in refused.stderr, refused.stderr)
        stands_still(pool, "Input/output error")
    pool.godwit("vm", "resume", "writer")
    writes_and_has_all(pool, flushes=False)
    expect("failed it" not in pool.godwit("vm", "show", "writer").stdout, "the reason stays")
    with sick.full():
        stands_still(pool, "No space left on device")
    pool.godwit("vm", "resume", "writer")
    writes_and_has_all(pool, flushes=False)
    expect(numbers(pool)["errors"] == 0, f"the guest was told: {numbers(pool)}")


# ---- a move with its local disk ----
def rolls_back(pool, refused, source, *words):
    expect(refused.returncode in (5, 6), f"exit {refused.returncode}: {refused.stdout}{refused.stderr}")
    expect(f"running on {source}" in refused.stderr, refused.stderr)
    for word in words:
        expect(word in refused.stderr, f"'{word}' is not told: {refused.stderr}")
    expect_host(pool, "writer", source)


def moves(pool):
    target = other(pool)
    pool.godwit("migrate", "writer", "--to", target, "--with-local-disks")
    expect_host(pool, "writer", target)
    writes_and_has_all(pool)


def landed_in(host):
    return [p.name for glob in ("writer*", "*.landing") for p in MEDIA[host].folder.rglob(glob)]


def a_source_that_cannot_be_read_rolls_its_move_back(pool):
    new_writer(pool, content=lambda _: os.urandom(1 << 20))
    sick = medium(pool, "node1")
    sick.forget_pages("writer.raw")
    with sick.failing("reads"):
        refused = pool.godwit("migrate", "writer", "--to", "node2", "--with-local-disks", check=False)
        rolls_back(pool, refused, "node1", "disk root", "cannot be read")
    writes_and_has_all(pool)
    pools.wait_for("nothing to be left at the target", 60, lambda: not landed_in("node2"))
    moves(pool)


def start_slow_move(pool):
    """Into the middle of it: something has landed, and more is to come."""
    pool.godwit("migrate", "writer", "--to", "node2", "--with-local-disks", "--bandwidth", "3MiB/s", "--no-wait")
    job = [j for j in pool.ls("job") if j["vm"] == "writer"][-1]["id"]
    pools.wait_for("the move to copy", 60, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy" and landed_in("node2"))
    return job


def a_target_that_cannot_be_written_rolls_its_move_back(pool):
    new_writer(pool)
    sick = medium(pool, "node2")
    with sick.failing("writes"):  # from the start on
        refused = pool.godwit("migrate", "writer", "--to", "node2", "--with-local-disks", check=False)
        rolls_back(pool, refused, "node1", "disk root", "Input/output error")
    writes_and_has_all(pool)
    job = start_slow_move(pool)
    with sick.failing("writes"):  # in the middle
        ended = pool.godwit("job", "watch", job, check=False)
        rolls_back(pool, ended, "node1", "root")
    writes_and_has_all(pool)
    pools.wait_for("nothing to be left at the target", 60, lambda: not landed_in("node2"))
    moves(pool)


def a_target_that_fills_up_is_told_before_or_does_not_matter(pool):
    new_writer(pool)
    sick = medium(pool, "node2")
    with sick.full():
        refused = pool.godwit("migrate", "writer", "--to", "node2", "--with-local-disks", check=False)
        rolls_back(pool, refused, "node1", "room")
    writes_and_has_all(pool)
    job = start_slow_move(pool)
    with sick.full():  # its place is its own already
        ended = pool.godwit("job", "watch", job, check=False)
    expect(ended.returncode == 0, f"exit {ended.returncode}: {ended.stderr}")
    expect_host(pool, "writer", "node2")
    writes_and_has_all(pool)


def slow_media_do_not_stop_a_move(pool):
    new_writer(pool)
    with medium(pool, "node2").slow("100M"):
        moves(pool)


def a_target_that_stands_still_does_not_hold_the_guest(pool):
    new_writer(pool)
    job = start_slow_move(pool)
    with medium(pool, "node2").standing_still():
        for _ in range(3):  # well into the time in which it would have paused
            before = numbers(pool)["written"]
            pools.wait_for("the guest to write on", 60, lambda: numbers(pool)["written"] > before + 300)
    ended = pool.godwit("job", "watch", job, check=False)
    expect(ended.returncode in (0, 6), f"exit {ended.returncode}: {ended.stderr}")
    expect_host(pool, "writer", "node2" if ended.returncode == 0 else "node1")
    writes_and_has_all(pool)


# ---- a disk that goes to another store ----
def disk_store(pool):
    return pool.json("vm", "show", "writer")["spec"]["disks"][0]["pool_store"]


def disk_move(pool, target, *words):
    return pool.godwit("vm", "disk", "move", "writer", "root", "--to", f"{target}:writer-2.raw", *words, check=False)


def stays(pool, done, store, *words):
    expect(done.returncode == 6, f"exit {done.returncode}: {done.stdout}{done.stderr}")
    for word in words:
        expect(word in done.stdout + done.stderr, f"'{word}' is not told: {done.stdout}{done.stderr}")
    expect(disk_store(pool) == store, f"the record names {disk_store(pool)}")
    writes_and_has_all(pool)
    expect(numbers(pool)["errors"] == 0, "the guest was told of what is no disk of it")


def a_copy_that_cannot_be_written_is_given_up_and_the_guest_notices_nothing(pool):
    new_writer(pool, store="well")
    with medium(pool, "node1").failing("writes"):
        done = disk_move(pool, "sick")
    stays(pool, done, "well", "Input/output error")
    done = disk_move(pool, "sick")
    expect(done.returncode == 0 and disk_store(pool) == "sick", done.stdout + done.stderr)
    writes_and_has_all(pool)


def a_copy_for_which_there_is_no_room_is_given_up_and_the_guest_notices_nothing(pool):
    new_writer(pool, store="well")
    sick = medium(pool, "node1")
    with sick.full():
        done = disk_move(pool, "sick")
    expect(done.returncode in (5, 6), f"exit {done.returncode}: {done.stdout}{done.stderr}")
    expect("room" in done.stderr or "space" in done.stdout + done.stderr, done.stdout + done.stderr)
    expect(disk_store(pool) == "well", f"the record names {disk_store(pool)}")
    writes_and_has_all(pool)
    expect(not list(sick.folder.glob("writer*")), "the copy stays")


def a_disk_that_cannot_be_read_is_not_copied(pool):
    new_writer(pool)
    sick = medium(pool, "node1")
    with sick.failing("reads"):
        done = disk_move(pool, "well")
        expect(done.returncode == 6 and "cannot be read" in done.stdout + done.stderr, done.stdout + done.stderr)
    expect(disk_store(pool) == "sick", f"the record names {disk_store(pool)}")
    writes_and_has_all(pool)
    done = disk_move(pool, "well")
    expect(done.returncode == 0 and disk_store(pool) == "well", done.stdout + done.stderr)
    writes_and_has_all(pool)


def a_copy_whose_medium_stands_still_does_not_hold_the_guest(pool):
    new_writer(pool, store="well")
    sick = medium(pool, "node1")
    done = disk_move(pool, "sick", "--bandwidth", "2MiB/s", "--no-wait")
    expect(done.returncode == 0, done.stderr)
    job = [j for j in pool.ls("job") if j["kind"] == "disk-move"][-1]["id"]
    pools.wait_for("something to be copied", 60, lambda: int(
        pool.json("job", "show", job).get("disk", {}).get("copied_bytes", 0)) > 0)
    with sick.standing_still():
        before = numbers(pool)["written"]
        pools.wait_for("the guest to write on", 60, lambda: numbers(pool)["written"] > before + 200)
    done = pool.godwit("job", "watch", job, check=False)
    expect(done.returncode == 0 and disk_store(pool) == "sick", f"exit {done.returncode}: {done.stdout}{done.stderr}")
    writes_and_has_all(pool)


def nothing_is_left(pool):
    pool.godwit("vm", "rm", "writer", "--stop", "-y")
    for host in MEDIA.values():
        left = [p.name for p in host.folder.rglob("*") if p.is_file() and p.name != "writer.raw"]
        expect(not left, f"left: {left}")


def missing():
    if os.geteuid() != 0:
        return "loop devices and mounts need root"
    for tool, package in (("nbdkit", "nbdkit"), ("nbdfuse", "libnbd-bin"), ("losetup", "mount"), ("mkfs.ext4", "e2fsprogs"),
                          ("nsenter", "util-linux")):
        if not shutil.which(tool):
            return f"no {tool} (package {package})"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.R_OK | os.W_OK):
            return f"{device} cannot be opened here"
    return None


if missing():
    print(f"skipped: {missing()}")
    raise SystemExit(77)
try:
    run([
        a_medium_that_fails_is_told_to_guest_and_operator_and_loses_nothing,
        a_full_store_is_told_and_loses_nothing,
        a_disk_that_is_to_pause_stands_its_guest_still_untold_until_a_resume_that_helps,
        a_medium_that_stands_still_holds_the_guests_writes_and_fails_none,
        a_slow_medium_slows_the_guest_and_fails_nothing,
        a_medium_that_goes_away_is_told_and_its_disk_is_whole_when_it_is_back,
        a_source_that_cannot_be_read_rolls_its_move_back,
        a_target_that_cannot_be_written_rolls_its_move_back,
        a_target_that_fills_up_is_told_before_or_does_not_matter,
        slow_media_do_not_stop_a_move,
        a_target_that_stands_still_does_not_hold_the_guest,
        a_copy_that_cannot_be_written_is_given_up_and_the_guest_notices_nothing,
        a_copy_for_which_there_is_no_room_is_given_up_and_the_guest_notices_nothing,
        a_disk_that_cannot_be_read_is_not_copied,
        a_copy_whose_medium_stands_still_does_not_hold_the_guest,
        nothing_is_left,
    ])
finally:
    for each in Medium.all:
        each.detach()

#!/usr/bin/env python3
"""The test guest under stock QEMU with KVM: it boots, writes, verifies, tells damage, migrates.

Exits 77 when this machine has no /dev/kvm, no QEMU or no C compiler.
Usage: test_guest_qemu.py [-v] [NAME...]   runs all tests, or those whose name contains NAME
"""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(HERE, "..", "guest", "build.sh")
QEMU = shutil.which("qemu-system-x86_64")
RECORD_TIMEOUT_S = 60
SKIP = 77

verbose = False
work_dir = None
elf = None


class Lines:
    """Lines from a non-blocking reader, each awaited with a deadline."""

    def __init__(self, sock):
        self.sock = sock
        self.bytes = b""

    def next(self, deadline):
        while b"\n" not in self.bytes:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("no line in time; so far: %r" % self.bytes)
            got = self.sock.recv(65536)
            if not got:
                raise EOFError("the other end has closed; so far: %r" % self.bytes)
            self.bytes += got
        line, self.bytes = self.bytes.split(b"\n", 1)
        return line.decode("ascii", "replace").strip()


class Record(dict):
    """`gw <kind> word key=value ...`; numbers become int."""

    def __init__(self, line):
        super().__init__()
        self.line = line
        self.words = []
        parts = line.split()
        assert len(parts) >= 2 and parts[0] == "gw", "not a record: %r" % line
        self.kind = parts[1]
        for part in parts[2:]:
            key, equals, value = part.partition("=")
            if not equals:
                self.words.append(part)
            else:
                self[key] = int(value, 0) if value[:1].isdigit() and "," not in value else value


def connect(path, process, timeout_s=20):
    """The socket QEMU is about to listen on."""
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            select.select([], [], [], 0.01)  # until it listens there is nothing to wait on


class Guest:
    """One QEMU with the guest in it; as a context manager it never outlives its test."""

    count = 0

    def __init__(self, mem_mib, vcpus, append="", machine="pc", incoming=None, devices=(),
                 fds=()):
        Guest.count += 1
        base = os.path.join(work_dir, "q%d" % Guest.count)
        self.vcpus = vcpus
        command = [QEMU, "-accel", "kvm", "-cpu", "host,arch-capabilities=off", "-M", machine, "-m", str(mem_mib),
                   "-smp", str(vcpus), "-kernel", elf, "-append",
                   "vcpus=%d %s" % (vcpus, append), "-display", "none", "-nodefaults",
                   "-no-reboot", "-serial", "unix:%s.serial,server=on,wait=on" % base,
                   "-qmp", "unix:%s.qmp,server=on,wait=off" % base]
        if incoming:
            command += ["-incoming", incoming]
        command += devices
        self.log = open(base + ".log", "w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, pass_fds=fds)
        try:
            self.serial = connect(base + ".serial", self.process)
            self.lines = Lines(self.serial)
            self.qmp_socket = connect(base + ".qmp", self.process)
            self.qmp_lines = Lines(self.qmp_socket)
            self.qmp_lines.next(time.monotonic() + 20)
            self.qmp("qmp_capabilities")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def qmp(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.qmp_socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = json.loads(self.qmp_lines.next(time.monotonic() + 20))
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, "%s: %s" % (command, answer)

    def wait(self, kind, timeout_s=RECORD_TIMEOUT_S):
        """The next record of this kind; what comes before it is kept in `skipped`."""
        deadline = time.monotonic() + timeout_s
        self.skipped = []
        while True:
            line = self.lines.next(deadline)
            if verbose:
                print("    " + line)
            if not line.startswith("gw "):
                continue
            record = Record(line)
            assert record.kind == kind or record.kind not in ("fault", "fatal"), line
            if record.kind == kind:
                return record
            self.skipped.append(record)

    def ready(self):
        record = self.wait("ready")
        assert record["vcpus"] == self.vcpus, record.line
        assert not self.skipped, self.skipped[0].line
        return record

    def ask(self, command, kind="ok", timeout_s=RECORD_TIMEOUT_S):
        self.serial.sendall(command.encode() + b"\n")
        return self.wait(kind, timeout_s)

    def verify(self, what="verify"):
        return self.ask(what, "verify", 120)

    def work_on(self, pages):
        """Returns the stats of the moment when that many pages more have been written."""
        stats = self.ask("stats", "stats")
        end = stats["work"] + pages
        deadline = time.monotonic() + RECORD_TIMEOUT_S
        while stats["work"] < end:
            assert time.monotonic() < deadline, "writers too slow: " + stats.line
            stats = self.ask("stats", "stats")
        return stats

    def all_alive(self):
        """Each vCPU gets on; on a busy host one may wait its turn for some time."""
        deadline = time.monotonic() + RECORD_TIMEOUT_S
        while self.ask("stats", "stats")["alive"] < self.vcpus:
            assert time.monotonic() < deadline, "a vCPU stands still"


def assert_ok(record):
    assert record.words[:1] == ["ok"] and record["bad"] == 0, record.line
    assert record["sum"] == record["guest"] == record["fpu"] == "ok", record.line


def assert_sane(stats):
    """What must hold on any machine, however busy."""
    assert stats["fpu"] == "ok", stats.line
    assert stats["gap_ns"] > 0 and stats["p99_ns"] <= stats["gap_ns"] * 2, stats.line
    assert stats["back_tsc_ns"] == stats["back_kvmclock_ns"] == 0, stats.line
    assert stats["cross_tsc_ns"] == stats["cross_kvmclock_ns"] == 0, stats.line


def boots_on_each_machine_with_one_and_four_vcpus():
    for machine in ("pc", "q35", "microvm"):
        for vcpus in (1, 4):
            with Guest(256, vcpus, machine=machine) as guest:
                ready = guest.ready()
                assert 254 <= ready["mem_mib"] <= 256 and ready["kvmclock"] == 1, ready.line
                guest.ask("ping", "pong")
                assert_ok(guest.verify("verify all"))
                guest.ask("poweroff")
                guest.process.wait(20)


def each_fill_verifies():
    for fill in ("none", "random", "text", "dup", "zero"):
        with Guest(512, 2, "fill=%s fillmb=200 seed=7" % fill) as guest:
            ready = guest.ready()
            pages = 0 if fill == "none" else 200 * 256
            assert ready["fill_pages"] == pages, ready.line
            verified = guest.verify()
            assert_ok(verified)
            assert verified["pages"] == pages and verified["zero"] == 0, verified.line
            verified = guest.verify("verify all")
            assert_ok(verified)
            assert verified["pages"] + verified["zero"] == ready["test_pages"], verified.line


def each_pattern_writes_and_verifies():
    for pattern in ("random", "seq", "hotcold", "sparse"):
        for vcpus, writers in ((1, 1), (4, 3), (2, 5)):
            options = "writers=%d pattern=%s ws=32 rate=400" % (writers, pattern)
            options += " fill=text fillmb=16"
            with Guest(256, vcpus, options) as guest:
                guest.ready()
                stats = guest.work_on(10000)
                assert_sane(stats)
                assert stats["writing"] == 1 and stats["rate"] > 0, stats.line
                for _ in range(5):  # writers go on in between
                    assert_ok(guest.verify())
                verified = guest.verify("verify all")
                assert_ok(verified)
                assert 16 * 256 <= verified["pages"] <= 32 * 256, verified.line
                guest.work_on(1000)


def memory_sizes_up_to_above_4_gib():
    for mem_mib, vcpus in ((64, 1), (2048, 4), (3072, 2), (5120, 1), (5120, 4)):
        with Guest(mem_mib, vcpus, "writers=2 rate=100 ws=4500 fill=random fillmb=32") as guest:
            ready = guest.wait("ready")  # a record says that `ws` was cut
            assert mem_mib - 2 <= ready["mem_mib"] <= mem_mib, ready.line
            assert ready["test_pages"] * 4096 > (mem_mib - 32) << 20, ready.line
            guest.work_on(5000)
            # The last page is the far end: above 4 GiB for the largest.
            last = ready["test_pages"] - 1
            assert_ok(guest.verify("verify all"))
            guest.ask("writers off")
            guest.ask("flip %d" % last)
            verified = guest.verify("verify all")
            assert verified.words == ["BAD"] and verified["first"] == last, verified.line
            guest.ask("flip %d" % last)
            assert_ok(guest.verify("verify all"))
            if mem_mib == 5120:
                assert verified["address"] >= 1 << 32, verified.line


def damage_is_detected():
    with Guest(256, 2, "fill=random fillmb=32 writers=1 ws=32 rate=0") as guest:
        guest.ready()
        guest.work_on(32 * 256 * 20)  # by then each page was written twice with certainty
        guest.ask("writers off")
        assert_ok(guest.verify())
        guest.ask("flip 77")
        verified = guest.verify()
        assert verified.words == ["BAD"], verified.line
        found = (verified["bad"], verified["first"], verified["why"])
        assert found == (1, 77, "torn"), verified.line
        guest.ask("flip 77")
        assert_ok(guest.verify())

        guest.ask("flip 20000")  # untouched: only `verify all` looks there
        assert_ok(guest.verify())
        verified = guest.verify("verify all")
        assert (verified["bad"], verified["first"], verified["why"]) == (1, 20000, "notzero")
        guest.ask("flip 20000")
        assert_ok(guest.verify("verify all"))

        guest.ask("stale 5")  # page and table agree with each other; the sums do not
        verified = guest.verify()
        assert verified.words == ["BAD"] and verified["bad"] == 0, verified.line
        assert verified["sum"] == "BAD", verified.line

        guest.ask("flip fpu")
        guest.ask("ping", "pong")
        deadline = time.monotonic() + 10
        while guest.ask("stats", "stats")["fpu"] != "BAD":
            assert time.monotonic() < deadline, "a wrong register went unseen"


def errors_are_told_and_survived():
    with Guest(256, 1, "bogus=1 pattern=zigzag loose ws=100000") as guest:
        guest.wait("ready")
        assert [record.kind for record in guest.skipped] == ["error"] * 4, guest.skipped
        assert guest.ask("frobnicate", "error")["command"] == "frobnicate"
        guest.ask("verify some", "error")
        guest.ask("flip 99999999", "error")
        guest.ask("rate fast", "error")
        guest.ask("ping", "pong")


def a_fault_is_told():
    with Guest(256, 2) as guest:
        guest.ready()
        fault = guest.ask("trap", "fault")
        assert fault["vector"] == 6 and fault["cs"] == 0x33, fault.line


def avx_is_used_when_asked_for():
    with Guest(256, 2, "fpu=2 writers=2") as guest:
        ready = guest.ready()
        assert ready["fpu"] in ("avx", "sse"), ready.line
        guest.work_on(5000)
        assert_ok(guest.verify())
    with Guest(256, 1, "fpu=0") as guest:
        assert guest.ready()["fpu"] == "off"
        assert_ok(guest.verify())


def the_pace_is_kept():
    with Guest(256, 2, "writers=1 rate=40 ws=64") as guest:
        guest.ready()
        guest.work_on(64 * 256)  # first touches are slow
        guest.ask("mark")
        guest.work_on(40 * 256)
        stats = guest.ask("stats", "stats")
        rate = stats["mark_work"] * 1000 / stats["mark_ms"]
        assert 40 * 256 * 0.1 < rate < 40 * 256 * 1.05, stats.line
        guest.all_alive()
        timeline = guest.ask("timeline", "timeline")
        assert len(timeline["work"].split(",")) == 50, timeline.line
        guest.ask("rate 80")
        guest.ask("writers off")
        before = guest.ask("stats", "stats")["work"]
        assert_ok(guest.verify())
        assert guest.ask("stats", "stats")["work"] == before


def commands_change_the_load():
    with Guest(256, 2, "writers=2 rate=50 ws=16 tick=20 idle=1") as guest:
        guest.ready()
        first = guest.wait("tick")
        assert guest.wait("tick")["n"] == first["n"] + 1
        guest.ask("tick 0")
        for command in ("idle off", "idle on", "spin", "gap reset", "ws 32", "pattern sparse",
                        "rate 200", "writers off", "writers on"):
            guest.ask(command)
        guest.work_on(2000)
        assert_ok(guest.verify("verify all"))
        guest.ask("vcpus", "vcpu")
        guest.wait("vcpu")


def reset_leaves_the_guest():
    for machine in ("pc", "microvm"):  # microvm has no keyboard controller: triple fault
        with Guest(256, 1, machine=machine) as guest:
            guest.ready()
            guest.ask("reset")
            guest.process.wait(20)


def migrate(source, target, path, **parameters):
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 10 << 30, "downtime-limit": 300},
               **parameters)
    begin = time.monotonic()
    source.qmp("migrate", uri="unix:" + path)
    while True:
        state = source.qmp("query-migrate")
        if state.get("status") in ("completed", "failed", "cancelled"):
            break
        assert time.monotonic() - begin < 60, "migration does not end: %s" % state
        select.select([], [], [], 0.02)
    assert state["status"] == "completed", state
    while not target.qmp("query-status")["running"]:
        assert time.monotonic() - begin < 60, "the target does not run"
    return time.monotonic() - begin, state


def moves_live_between_two_qemus():
    for vcpus, options in ((1, "writers=1 rate=100 ws=64"),
                           (2, "writers=1 rate=200 ws=128 pattern=hotcold"),
                           (4, "writers=3 rate=100 ws=64 pattern=sparse")):
        path = os.path.join(work_dir, "migrate%d" % vcpus)
        options += " fill=random fillmb=128"
        with Guest(512, vcpus, options) as source, \
                Guest(512, vcpus, options, incoming="unix:" + path) as target:
            source.ready()
            source.work_on(2000)
            before = source.ask("stats", "stats")["work"]
            source.ask("mark")
            seconds, state = migrate(source, target, path)
            stats = target.ask("stats", "stats")
            if stats["fpu"] != "ok":
                print("  " + target.ask("vcpus", "vcpu").line)
            assert stats["work"] > before and stats["fpu"] == "ok", stats.line
            assert_ok(target.verify())
            assert_ok(target.verify("verify all"))
            after = target.work_on(1000)
            assert after["fpu"] == "ok", after.line
            target.all_alive()
            print("  %d vCPU: %.2f s, QEMU says down %d ms; guest: gap %.1f ms, kvmclock jump %.1f"
                  " ms, steps back: tsc %d ns, kvmclock %d ns (across vCPUs %d, %d);"
                  " kept %d pages in %d ms"
                  % (vcpus, seconds, state["downtime"], stats["gap_ns"] / 1e6,
                     stats["fwd_kvmclock_ns"] / 1e6, stats["back_tsc_ns"],
                     stats["back_kvmclock_ns"], stats["cross_tsc_ns"],
                     stats["cross_kvmclock_ns"], stats["mark_work"], stats["mark_ms"]))


class Echo:
    """The far end of a QEMU nic: every frame goes back with its MACs swapped."""

    def __init__(self):
        self.qemu, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ours.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.ours.close()
        self.qemu.close()

    def run(self):
        while True:
            try:
                frame = self.ours.recv(65536)
                if not frame:
                    return
                self.ours.send(frame[6:12] + frame[0:6] + frame[12:])
            except OSError:
                return  # shut down, or QEMU is gone


def reach(guest, command, key, value):
    """Ask until that number has been reached."""
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    while True:
        record = guest.ask(command, command)
        if record[key] >= value:
            return record
        assert time.monotonic() < deadline, "too slow: " + record.line


def drives_virtio_disk_and_nic_by_each_ring():
    """Our own driver against a second implementation of the devices."""
    disk = os.path.join(work_dir, "disk.raw")
    for ring, irq in (("split", 1), ("packed", 0), ("split+event", 0), ("packed+event", 1)):
        with open(disk, "wb") as file:
            file.truncate(16 << 20)
        packed = ",packed=on" if ring.startswith("packed") else ""
        with Echo() as echo, Guest(
                256, 1, "disk=16 nic=1 ring=%s irq=%d" % (ring, irq), machine="q35",
                fds=(echo.qemu.fileno(),), devices=[
                    "-drive", "if=none,id=d,format=raw,file=" + disk,
                    "-device", "virtio-blk-pci,drive=d,disable-legacy=on" + packed,
                    "-netdev", "dgram,id=n,local.type=fd,local.str=%d" % echo.qemu.fileno(),
                    "-device", "virtio-net-pci,netdev=n,disable-legacy=on,romfile=" + packed,
                ]) as guest:
            guest.ready()
            reach(guest, "disk", "written", 1000)
            reach(guest, "nic", "echoed", 1000)
            guest.ask("disk off")
            guest.ask("disk flush")
            verified = guest.ask("disk verify", "diskverify")
            assert verified.words == ["ok"] and verified["blocks"] > 500, verified.line
            numbers = guest.ask("disk", "disk")
            assert numbers["errors"] == 0 and numbers["device"] == "ok", numbers.line
            assert (numbers["interrupts"] > 0) == (irq == 1), numbers.line
            numbers = guest.ask("nic drain", "nic")
            for key in ("lost", "corrupt", "doubled", "foreign", "busy"):
                assert numbers[key] == 0, numbers.line
            assert numbers["device"] == "ok" and numbers["link"] == "up", numbers.line
            assert (numbers["interrupts"] > 0) == (irq == 1), numbers.line
            assert_ok(guest.verify("verify all"))


def a_torn_block_is_told():
    disk = os.path.join(work_dir, "disk.raw")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    with Guest(256, 1, "disk=1", machine="q35", devices=[
            "-drive", "if=none,id=d,format=raw,file=%s,file.locking=off" % disk,
            "-device", "virtio-blk-pci,drive=d,disable-legacy=on"]) as guest:
        guest.ready()
        reach(guest, "disk", "written", 5000)
        guest.ask("disk off")
        guest.ask("disk flush")
        assert guest.ask("disk verify", "diskverify").words == ["ok"]
        with open(disk, "r+b") as file:
            file.seek(7 * 4096 + 300)
            byte = file.read(1)
            file.seek(7 * 4096 + 300)
            file.write(bytes([byte[0] ^ 1]))
        verified = guest.ask("disk verify", "diskverify")
        found = (verified.words, verified["bad"], verified["first"], verified["why"])
        assert found == (["BAD"], 1, 7, "torn"), verified.line


TESTS = [
    boots_on_each_machine_with_one_and_four_vcpus,
    each_fill_verifies,
    each_pattern_writes_and_verifies,
    memory_sizes_up_to_above_4_gib,
    damage_is_detected,
    errors_are_told_and_survived,
    a_fault_is_told,
    avx_is_used_when_asked_for,
    the_pace_is_kept,
    commands_change_the_load,
    reset_leaves_the_guest,
    moves_live_between_two_qemus,
    drives_virtio_disk_and_nic_by_each_ring,
    a_torn_block_is_told,
]


def run_all(names):
    failed = 0
    for test in TESTS:
        if names and not any(name in test.__name__ for name in names):
            continue
        begin = time.monotonic()
        try:
            test()
            result = "ok"
        except Exception:
            traceback.print_exc()
            result = "FAILED"
            failed += 1
        print("%-50s %s (%.1f s)" % (test.__name__, result, time.monotonic() - begin), flush=True)
    return 1 if failed else 0


def main():
    global verbose, work_dir, elf
    arguments = sys.argv[1:]
    verbose = "-v" in arguments
    compilers = [cc for cc in ("gcc", "clang") if shutil.which(cc)]
    if not QEMU or not os.access("/dev/kvm", os.R_OK | os.W_OK) or not compilers:
        print("no /dev/kvm, no qemu-system-x86_64 or no C compiler here")
        return SKIP
    work_dir = tempfile.mkdtemp(prefix="godwit-guest-")
    try:
        for compiler in compilers:
            subprocess.run([BUILD, os.path.join(work_dir, compiler), compiler], check=True)
        elf = os.path.join(work_dir, compilers[0], "guest.elf")
        return run_all([name for name in arguments if name != "-v"])
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

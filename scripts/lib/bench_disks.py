"""scripts/bench disks: a VM with a disk that only its host has, moved by Godwit and by QEMU, in turns.

QEMU's way is that of `virsh migrate --copy-storage-all`: blockdev-mirror into the target's NBD server until it is
ready, then the migration of memory, held before its switchover until the mirror has ended."""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench_machine  # noqa: E402
import bench_move  # noqa: E402
import bench_qemu  # noqa: E402
import cpu_group  # noqa: E402
import pool as pools  # noqa: E402

MEMORY_MIB = 512
FILL_MIB = 128
WRITTEN_MIB = 64  # of the disk: what the guest writes
TOTAL_GOAL, P99_GOAL = 0.8, 1.0
BLOCKS = "fill=random fillmb=%d disk=%d" % (FILL_MIB, WRITTEN_MIB)


class Writes:
    """`cmdline` of the guest; the rest is what bench_qemu.Qemu wants of a workload."""
    memory_mib, vcpus, prealloc, limit_s = MEMORY_MIB, 1, False, 300

    def __init__(self, name, words, what):
        self.name, self.what = name, what
        self.cmdline = f"vcpus=1 {BLOCKS} {words}"


WRITES = {w.name: w for w in [
    Writes("random", "diskrate=500", "500 writes/s of 4 KiB over 64 MiB, any order, a flush after 64"),
    Writes("seq", "diskrate=1000 diskseq=1", "1000 writes/s of 4 KiB over 64 MiB, in order, a flush after 64"),
    Writes("fsync", "diskrate=200 diskflush=1", "200 writes/s of 4 KiB over 64 MiB, any order, a flush after each"),
]}
# `blocking`: a write is told to be done when it is on both disks (copy-mode write-blocking), so that the mirror becomes ready
# however much is written; else what was written is copied again until there is nothing left for a moment.
CONFIGS = {f"{'tls' if tls else 'plain'}{'-blocking' if blocking else ''}": {
    "tls": tls, "multifd": 0, "downtime_ms": 20, "blocking": blocking} for tls in (False, True) for blocking in (False, True)}
READY_S = 60  # a mirror that is not ready by then never will be


# ---- disks ----
def make_disk(path, size_mib, data_mib):
    """Random data behind what the guest writes, with holes between; the rest is a hole."""
    with open(path, "wb") as file:
        file.truncate(size_mib << 20)
        room = size_mib - WRITTEN_MIB
        for i in range(data_mib):
            file.seek((WRITTEN_MIB + i * room // data_mib) << 20)
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())


def lay(base, path):
    """A copy of its own, on the medium, its source and itself out of the page cache."""
    subprocess.run(["cp", "--sparse=always", "--reflink=never", base, path], check=True)
    for each in (path, base):
        with open(each, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def latency(record):
    found = bench_qemu.fields(record) if isinstance(record, str) else record
    return {key: int(found[key]) for key in (
        "writes", "p50_ns", "p99_ns", "p999_ns", "max_ns", "flushes", "flush_p50_ns", "flush_p99_ns", "flush_max_ns")}


def told(total_ms, wall_ms, downtime_ms, quiet_latency, latency_):
    return {"moved": True, "total_ms": total_ms, "wall_ms": wall_ms, "downtime_ms": downtime_ms, "before": quiet_latency,
            "during": latency_, "p50_ms": latency_["p50_ns"] / 1e6, "p99_ms": latency_["p99_ns"] / 1e6,
            "max_ms": latency_["max_ns"] / 1e6, "flush_p99_ms": latency_["flush_p99_ns"] / 1e6,
            "before_p99_ms": quiet_latency["p99_ns"] / 1e6}


# ---- Godwit ----
class DiskHost(pools.Host):
    """Its agent sees a folder of its own where all have the store."""

    def start_agent(self, prefix=()):
        own = self.pool.disks / self.name
        own.mkdir(exist_ok=True)
        super().start_agent([*prefix, "unshare", "--mount", "sh", "-c",
                             'mount --bind "$0" "$1" && shift && exec "$@"', own, self.pool.store_path])


class DiskPool(pools.Pool):
    def __init__(self, disks, log_level="warn"):
        self.disks, self.store_path = disks, disks / "store"
        self.store_path.mkdir()
        super().__init__(hosts=2, log_level=log_level)

    def make_host(self, name, number):
        return DiskHost(self, name, number)


def run_godwit(pool, base, writes, since):
    disk = pool.disks / "node1" / "bench.raw"
    lay(base, disk)
    path = pool.dir / "bench.yaml"
    path.write_text("\n".join([
        "name: bench", f"kernel: {pool.guest_elf()}", f"cmdline: {writes.cmdline}", "cpu: {vcpus: 1}",
        f"memory: {{size: {MEMORY_MIB}MiB}}", "host: node1", "disks:",
        f"  - {{name: root, store: {pool.store_path}, file: bench.raw}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    try:
        pools.wait_for("the guest", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "bench", check=False).stdout)
        bench_machine.settle_and_warm(since, MEMORY_MIB + 600)
        pool.ask("bench", "disk mark", "gw ok")
        time.sleep(1.0)  # the window in which its own latency is measured
        before = latency(pool.ask("bench", "disk latency", "gw disklatency"))
        pool.ask("bench", "disk mark", "gw ok")
        started = time.monotonic()
        pool.godwit("migrate", "bench", "--to", "node2", "--with-local-disks", "--progress", "none", timeout=300)
        wall_ms = (time.monotonic() - started) * 1000
        during = latency(pool.ask("bench", "disk latency", "gw disklatency"))
        pool.verify("bench")
        record = pool.ask("bench", "disk verify", "gw diskverify")
        if " ok " not in record["_"] + " ":
            raise pools.PoolError(f"Godwit's guest after the move: {record['_']}")
        job = [j for j in pool.ls("job") if j["vm"] == "bench"][-1]
        receipt = pool.json("job", "show", job["id"])["receipt"]
        return told(receipt["total_ns"] / 1e6, wall_ms, receipt["downtime_ns"] / 1e6, before, during) | {"receipt": receipt}
    finally:
        pool.godwit("vm", "rm", "bench", "--stop", "-y", check=False)
        for left in [*(pool.disks / "node1").glob("bench.raw*"), *(pool.disks / "node2").glob("bench.raw*")]:
            left.unlink()


# ---- QEMU ----
class DiskQemu(bench_qemu.Qemu):
    def __init__(self, program, elf, writes, config, disks):
        self.disk_of = {role: disks / f"qemu-{role}.raw" for role in ("source", "target")}
        super().__init__(program, elf, writes, config)

    def role_words(self, role):
        words = ["-blockdev", f"driver=file,node-name=file,filename={self.disk_of[role]},cache.direct=on,aio=io_uring",
                 "-blockdev", "driver=raw,node-name=disk,file=file", "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]
        # As libvirt does: the guest runs at the target once nobody else has its disk open.
        return [*words, "-S"] if role == "target" else words

    def _mirror(self, port):
        address = {"host": "127.0.0.1", "port": str(port)}
        tls = {"tls-creds": "tls0"} if self.config["tls"] else {}
        self.target_qmp.call("nbd-server-start", addr={"type": "inet", "data": address}, **tls)
        self.target_qmp.call("block-export-add", **{"type": "nbd", "id": "export", "node-name": "disk", "name": "disk",
                                                   "writable": True})
        self.source_qmp.call("blockdev-add", **{"driver": "nbd", "node-name": "copy", "export": "disk",
                                                "server": {"type": "inet", **address}, **tls})
        self.source_qmp.call("blockdev-mirror", **{"job-id": "mirror", "device": "disk", "target": "copy", "sync": "full",
                                                    "copy-mode": "write-blocking" if self.config["blocking"] else "background"})
        return self._await_job("ready")

    def _await_job(self, wanted):
        """Until the mirror is `wanted`, or, None, until there is none any more. False: it does not come to it."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            jobs = [j for j in self.source_qmp.call("query-jobs") if j["id"] == "mirror"]
            if (jobs[0]["status"] if jobs else None) == wanted:
                return True
            if not jobs or jobs[0].get("error"):
                raise pools.PoolError(f"QEMU's mirror ended: {jobs}")
            time.sleep(0.005)
        return False

    def _set(self):
        for qmp in (self.source_qmp, self.target_qmp):
            qmp.call("migrate-set-parameters", **{"max-bandwidth": self.bandwidth, "downtime-limit": self.config["downtime_ms"],
                                                  **({"tls-creds": "tls0"} if self.config["tls"] else {})})
        self.source_qmp.call("migrate-set-capabilities", capabilities=[
            {"capability": "pause-before-switchover", "state": True}])

    def _await_migration(self, wanted):
        while True:
            info = self.source_qmp.call("query-migrate")
            if info.get("status") == wanted:
                return info
            if info.get("status") in ("failed", "cancelled"):
                raise pools.PoolError(f"QEMU's migration {info['status']}: {info.get('error-desc', '')}")
            time.sleep(0.002)

    def move(self, since):
        self._set()
        self.serial.ask("disk mark", "gw ok")
        time.sleep(1.0)  # as for Godwit
        before = latency(self.serial.ask("disk latency", "gw disklatency"))
        bench_machine.settle_and_warm(since, MEMORY_MIB + 600)
        port, migration_port = bench_move.free_port(), bench_move.free_port()
        self.serial.ask("disk mark", "gw ok")
        started = time.monotonic()
        if not self._mirror(port):
            return {"moved": False}
        mirrored = time.monotonic()
        self.target_qmp.call("migrate-incoming", uri=f"tcp:127.0.0.1:{migration_port}")
        self.source_qmp.call("migrate", uri=f"tcp:127.0.0.1:{migration_port}")
        self._await_migration("pre-switchover")
        self.source_qmp.call("block-job-cancel", device="mirror")
        if not self._await_job(None):
            raise pools.PoolError("QEMU's mirror does not end")
        self.source_qmp.call("blockdev-del", **{"node-name": "copy"})
        self.source_qmp.call("migrate-continue", state="pre-switchover")
        info = self._await_migration("completed")
        pools.wait_for("QEMU's target to have it", 20, lambda: self.target_qmp.call(
            "query-status")["status"] != "inmigrate", 0.002)
        self.target_qmp.call("nbd-server-stop")
        self.target_qmp.call("cont")
        wall_ms = (time.monotonic() - started) * 1000
        serial = bench_qemu.Serial(str(self.dir / "target.serial"))
        during = latency(serial.ask("disk latency", "gw disklatency"))
        for line, answer in (("verify", "gw verify"), ("disk verify", "gw diskverify")):
            record = serial.ask(line, answer)
            if " ok " not in record + " ":
                raise pools.PoolError(f"QEMU's guest after the move: {record}")
        return told(wall_ms, wall_ms, info.get("downtime", 0), before, during) | {"mirror_ms": (mirrored - started) * 1000}


def run_qemu(program, elf, base, writes, config, disks, size_mib, since):
    source, target = disks / "qemu-source.raw", disks / "qemu-target.raw"
    lay(base, source)
    with open(target, "wb") as file:
        file.truncate(size_mib << 20)
    try:
        qemu = DiskQemu(program, elf, writes, config, disks)
        try:
            return qemu.move(since)
        finally:
            qemu.close()
    finally:
        source.unlink()
        target.unlink()


# ---- what it says ----
COLUMNS = [("total", "total_ms", "{:.0f}"), ("wall", "wall_ms", "{:.0f}"), ("down", "downtime_ms", "{:.1f}"),
           ("p50", "p50_ms", "{:.2f}"), ("p99", "p99_ms", "{:.2f}"), ("max", "max_ms", "{:.1f}"),
           ("flush p99", "flush_p99_ms", "{:.2f}"), ("p99 before", "before_p99_ms", "{:.2f}")]


def median(runs, key):
    values = [r[key] for r in runs if r.get(key) is not None]
    return statistics.median(values) if values else None


def spread(runs, key):
    middle = median(runs, key)
    return statistics.median(abs(r[key] - middle) for r in runs if r.get(key) is not None)


def verdicts(contenders):
    """Godwit's wall time, as who waits for the command sees it, beside QEMU's; and its guest's 99th percentile."""
    lines, ours = [], contenders.get("godwit")
    for name, runs in contenders.items() if ours else ():
        if name == "godwit" or not runs:
            continue
        if not all(r["moved"] for r in runs):
            lines.append(f"  {name}: its mirror was not ready within {READY_S} s in {sum(not r['moved'] for r in runs)} of {len(runs)} runs")
        if not any(r["moved"] for r in runs):
            continue
        for what, key, goal in (("total", "wall_ms", TOTAL_GOAL), ("p99 of a write", "p99_ms", P99_GOAL)):
            ratio = median(ours, key) / max(median(runs, key), 1e-9)
            lines.append(f"  {what} beside {name}: {ratio:.2f} x (goal {goal:.1f}): {'reached' if ratio <= goal else 'MISSED'}")
    return lines


def table(results):
    lines = []
    for name, contenders in results.items():
        lines.append(f"\n{name}: {WRITES[name].what}")
        lines.append("  {:24}".format("contender (runs)") + "".join(f"{c[0]:>14}" for c in COLUMNS))
        for contender, runs in contenders.items():
            cells = [form.format(median(runs, key)) + (" ±" + form.format(spread(runs, key)) if key in ("wall_ms", "p99_ms") else "")
                     for _, key, form in COLUMNS] if any(r["moved"] for r in runs) else []
            lines.append("  {:24}".format(f"{contender} ({len(runs)})") + "".join(f"{c:>14}" for c in cells))
        lines += verdicts(contenders)
    return "\n".join(lines)


def need(options):
    if os.geteuid() != 0 or not shutil.which("unshare"):
        raise bench_machine.Lacking("hosts with folders of their own need root and unshare (package util-linux)")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise bench_machine.Lacking("/dev/kvm cannot be opened here: no guest can run")
    bench_machine.need_memory("a guest at both ends", 2 * MEMORY_MIB + 600)
    free_mib = shutil.disk_usage(options.folder).free >> 20
    if free_mib < 4 * options.data + 1024:
        raise bench_machine.Lacking(f"three copies of {options.data} MiB need more than the {free_mib} MiB of {options.folder}")


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench disks", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="""examples:
  scripts/bench disks
  scripts/bench disks --writes random --runs 1 --size 256 --data 128 --no-quiet-wait""")
    parser.add_argument("--writes", default="random", help="what the guest does, of " + ",".join(WRITES) + " (random)")
    parser.add_argument("--configs", default="plain,plain-blocking,tls", help="of QEMU: " + ",".join(CONFIGS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="of the disk, MiB (2048)")
    parser.add_argument("--data", type=int, default=1024, help="of it, MiB (1024)")
    parser.add_argument("--folder", type=pathlib.Path, default="/var/tmp", help="where disks lie; must know O_DIRECT")
    parser.add_argument("--json", type=pathlib.Path, help="write everything here")
    parser.add_argument("--no-quiet-wait", action="store_true", help="do not wait for other load to end")
    options = parser.parse_args()
    for given, known in ((options.writes, WRITES), (options.configs, CONFIGS)):
        for name in given.split(","):
            if name not in known:
                parser.error(f"no '{name}'; there are {', '.join(known)}")
    if options.data > options.size - WRITTEN_MIB:
        parser.error(f"--data: at most {options.size - WRITTEN_MIB} of a disk of {options.size} MiB")
    try:
        need(options)
    except bench_machine.Lacking as lacking:
        sys.exit(f"scripts/bench disks: {lacking}")
    os.environ.setdefault("GODWIT_LOOPBACK", "1")
    program = os.environ.get("QEMU", "qemu-system-x86_64")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    pools.end_on_signals()
    results, notes, unquiet = {}, [], 0
    with tempfile.TemporaryDirectory(prefix="godwit-bench-disks-", dir=options.folder) as folder, \
            cpu_group.CpuGroup(os.getpid(), cpu_group.FAIR) as group:
        disks = pathlib.Path(folder)
        base = disks / "base.raw"
        make_disk(base, options.size, options.data)
        with DiskPool(disks) as pool:
            elf = pool.guest_elf()
            turns = [("godwit", None), *((f"qemu {name}", CONFIGS[name]) for name in options.configs.split(","))]
            for writes in (WRITES[name] for name in options.writes.split(",")):
                contenders = results.setdefault(writes.name, {name: [] for name, _ in turns})
                for run in range(options.runs):
                    for contender, config in turns:
                        if any(not r["moved"] for r in contenders[contender]):
                            continue  # once tells that it cannot
                        since = time.monotonic()
                        if not options.no_quiet_wait and not bench_machine.wait_quiet():
                            unquiet += 1
                        print(f"\r{writes.name} run {run + 1}/{options.runs} {contender:16}", end="", file=sys.stderr)
                        try:
                            contenders[contender].append(
                                run_qemu(program, elf, base, writes, config, disks, options.size, since) if config
                                else run_godwit(pool, base, writes, since))
                        except pools.PoolError as error:
                            notes.append(f"{writes.name} {contender} run {run + 1}: {error}")
                            print(f"\n{notes[-1]}", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{bench_machine.describe()}, both ends on this machine, over loopback; a disk of {options.size} MiB with {options.data} MiB "
          f"of data in {options.folder};\n{version}; medians ± median deviation, times in ms")
    print("Wall: from the order until the guest runs at the target and its disk is there. Godwit's guest sees its pause, QEMU's does\n"
          "not (its clock stands still meanwhile).")
    if group.made:
        print("Everything measured ran in one CPU group of its own, which has as much to say as one task outside.")
    print(table(results))
    print(f"\n{unquiet} runs on a machine that did not become quiet; {len(notes)} runs failed")
    for note in notes:
        print("  " + note)
    if options.json:
        options.json.write_text(json.dumps({"version": version, "results": results, "notes": notes}, indent=1))
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())

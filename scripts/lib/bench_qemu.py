"""QEMU as a contender: the same guest ELF, live-migrated between two processes over loopback TCP."""
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time

import pool as pools

AFTER_S = 0.1  # what a move leaves behind shows in the guest's first steps, too


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        pools.wait_for("QEMU's monitor", 20, lambda: self._connect(path))
        self.file = self.socket.makefile("rw")
        self._read()
        self.call("qmp_capabilities")

    def _connect(self, path):
        try:
            self.socket.connect(path)
            return True
        except OSError:
            return False

    def _read(self):
        line = self.file.readline()
        if not line:
            raise pools.PoolError("QEMU's monitor closed")
        return json.loads(line)

    def call(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise pools.PoolError(f"QEMU {command}: {answer['error']['desc']}")


class Serial:
    """The guest's serial port as a Unix socket; records are lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.buffer = b""

    def await_line(self, start, seconds):
        end = time.monotonic() + seconds
        while True:
            *lines, self.buffer = self.buffer.split(b"\n")
            for i, line in enumerate(lines):
                text = line.decode(errors="replace").strip()
                if text.startswith(start):
                    self.buffer = b"\n".join([*lines[i + 1:], self.buffer])
                    return text
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                got = self.socket.recv(65536)
            except TimeoutError as error:
                raise pools.PoolError(f"QEMU's guest did not say '{start}' within {seconds} s") from error
            if not got:
                raise pools.PoolError("QEMU's serial port closed")
            self.buffer += got

    def ask(self, line, start, seconds=60):
        self.socket.sendall(line.encode() + b"\n")
        return self.await_line(start, seconds)


def _ticks(path):
    """Name and CPU ticks (user and system) of a stat file; a process's count ended threads too."""
    name, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
    fields = rest.split()
    return name, int(fields[11]) + int(fields[12])


def cpu_seconds(pid):
    """CPU of a process without the threads that run the guest."""
    _, ticks = _ticks(pathlib.Path(f"/proc/{pid}/stat"))
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name, guest = _ticks(task / "stat")
        except OSError:
            continue
        if name.startswith("CPU ") or name.startswith("vcpu"):
            ticks -= guest
    return ticks / os.sysconf("SC_CLK_TCK")


class Qemu:
    """One run: a warm source with a guest that is ready, and a target that waits."""

    def __init__(self, program, elf, workload, config, bandwidth_mib=None, hosts=None):
        """`hosts`: a pair whose networks its ends live in, else both in this one."""
        self.bandwidth = bandwidth_mib << 20 if bandwidth_mib else 1 << 40
        self.program, self.workload, self.config = program, workload, config
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="gwq-"))
        self.processes = []
        self.enter = {role: host.enter() for role, host in zip(("source", "target"), hosts)} if hosts else {}
        common = [
            program, "-name", "bench,debug-threads=on", "-accel", "kvm", "-cpu", "host,arch-capabilities=off", "-machine", "q35", "-nodefaults", "-display", "none",
            "-no-user-config", "-m", str(workload.memory_mib), "-smp", str(workload.vcpus),
            "-kernel", str(elf), "-append", workload.cmdline,
        ]
        if config["tls"]:
            key = os.urandom(32).hex()
            (self.dir / "keys.psk").write_text(f"qemu:{key}\n")
        try:
            self._start_both(common)
        except BaseException:
            self.close()
            raise

    def _start_both(self, common):
        self.source = self._start("source", common, False)
        self.source_qmp = Qmp(str(self.dir / "source.qmp"))
        self.serial = Serial(str(self.dir / "source.serial"))
        self.serial.await_line("gw ready", 60)
        self.target = self._start("target", common, True)
        self.target_qmp = Qmp(str(self.dir / "target.qmp"))

    def role_words(self, role):
        """What only this end has."""
        del role
        return []

    def _start(self, role, common, incoming):
        words = [*self.enter.get(role, []), *common, *self.role_words(role),
                 "-chardev", f"socket,id=s,path={self.dir}/{role}.serial,server=on,wait=off", "-serial", "chardev:s",
                 "-qmp", f"unix:{self.dir}/{role}.qmp,server=on,wait=off"]
        if incoming:
            words += ["-incoming", "defer"]
            if self.workload.prealloc:
                # memory of the target is ready before the clock starts: QEMU's best case
                words += ["-object", f"memory-backend-ram,id=m,size={self.workload.memory_mib}M,prealloc=on"]
        elif self.workload.prealloc:
            words += ["-object", f"memory-backend-ram,id=m,size={self.workload.memory_mib}M"]
        if self.workload.prealloc:
            words += ["-machine", "memory-backend=m"]
        if self.config["tls"]:
            end = "endpoint=server" if incoming else "endpoint=client,username=qemu"
            words += ["-object", f"tls-creds-psk,id=tls0,dir={self.dir},{end}"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=open(self.dir / f"{role}.err", "wb"))
        self.processes.append(process)
        return process

    def migrate(self, address, warm=lambda: None):
        """`address` is that of the target, HOST:PORT."""
        streams = self.config["multifd"]
        for qmp in (self.source_qmp, self.target_qmp):
            capabilities = [{"capability": "multifd", "state": streams > 0},
                            {"capability": "xbzrle", "state": bool(self.config.get("xbzrle_mib"))},
                            {"capability": "auto-converge", "state": bool(self.config.get("auto_converge"))}]
            qmp.call("migrate-set-capabilities", capabilities=capabilities)
            parameters = {"max-bandwidth": self.bandwidth, "downtime-limit": self.config["downtime_ms"]}
            if self.config.get("xbzrle_mib"):
                parameters["xbzrle-cache-size"] = self.config["xbzrle_mib"] << 20
            if streams:
                parameters["multifd-channels"] = streams
            if self.config.get("zstd"):
                parameters["multifd-compression"] = "zstd"
            if self.config["tls"]:
                parameters["tls-creds"] = "tls0"
            qmp.call("migrate-set-parameters", **parameters)
        self.target_qmp.call("migrate-incoming", uri=f"tcp:{address}")
        self.serial.ask("stats", "gw stats")
        time.sleep(1.0)  # the window in which the writers' own rate is measured
        rate = fields(self.serial.ask("stats", "gw stats"))
        warm()  # as for Godwit, whose target's memory is populated inside the clock
        stolen, reported = stolen_ms(), reported_mib()
        self.serial.ask("mark", "gw ok")
        marked = time.monotonic()
        lag_before_ms = clock_lag_ms(marked, fields(self.serial.ask("holes", "gw holes")))
        before = cpu_seconds(self.source.pid), cpu_seconds(self.target.pid)
        started = time.monotonic()
        self.source_qmp.call("migrate", uri=f"tcp:{address}")
        while True:
            info = self.source_qmp.call("query-migrate")
            if info.get("status") in ("completed", "failed", "cancelled"):
                break
            if time.monotonic() - started > self.workload.limit_s:
                return self._call_off(started, info, rate)
            time.sleep(0.002)
        wall = time.monotonic() - started
        if info["status"] != "completed":
            raise pools.PoolError(f"QEMU's migration {info['status']}: {info.get('error-desc', '')}")
        pools.wait_for("QEMU's target to run", 20, lambda: self.target_qmp.call(
            "query-status")["status"] == "running", 0.002)
        moved = time.monotonic()
        stolen = stolen_ms() - stolen
        after = cpu_seconds(self.source.pid), cpu_seconds(self.target.pid)
        serial = Serial(str(self.dir / "target.serial"))
        time.sleep(AFTER_S)
        reported = reported_mib() - reported
        holes = fields(serial.ask("holes", "gw holes"))
        lag_ms = clock_lag_ms(marked, holes) - lag_before_ms
        stats = fields(serial.ask("stats", "gw stats"))
        verify = serial.ask("verify", "gw verify")
        if " ok " not in verify + " ":
            raise pools.PoolError(f"QEMU's guest after the move: {verify}")
        ram = info["ram"]
        again = max(0, ram["normal"] - self.workload.fill_pages)  # every filled page once is no repetition
        return {
            "moved": True, "total_ms": info.get("total-time") or wall * 1000, "wall_ms": wall * 1000,
            "downtime_ms": info.get("downtime", 0), "gap_ms": longest_hole_ms(holes, (moved - marked) * 1000),
            "wire_bytes": ram["transferred"] + (ram.get("multifd-bytes", 0) if ram["transferred"] < ram.get(
                "multifd-bytes", 0) else 0),
            "resent_bytes": again * (4096 + 8) + info.get("xbzrle-cache", {}).get("bytes", 0),
            "source_cpu_s": after[0] - before[0], "target_cpu_s": after[1] - before[1],
            # QEMU's target continues the TSC where the source stopped it, so its guest does not see the pause
            "stolen_ms": stolen, "reported_mib": reported, "clock_lag_ms": lag_ms, "holes_us": holes["us"], "hole_ends_us": holes["end_us"],
            **work_retained(rate, stats, info.get("total-time") or wall * 1000),
            "expected_downtime_ms": info.get("expected-downtime"),
        }

    def _call_off(self, started, info, rate):
        """It could not: what it had sent, what was left, and what the guest had kept of its work until then."""
        wall_ms = (time.monotonic() - started) * 1000
        self.source_qmp.call("migrate_cancel")
        pools.wait_for("QEMU to call it off", 20, lambda: self.source_qmp.call(
            "query-migrate").get("status") in ("cancelled", "failed", "completed"), 0.02)
        stats = fields(self.serial.ask("stats", "gw stats"))
        return {"moved": False, "total_ms": None, "wall_ms": wall_ms, "wire_bytes": info["ram"]["transferred"],
                "left_mib": info["ram"]["remaining"] / 2**20, "held_back": info.get("cpu-throttle-percentage", 0) / 100,
                **work_retained(rate, stats, wall_ms)}

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for path in self.dir.iterdir():
            path.unlink()
        self.dir.rmdir()


def fields(record):
    return dict(w.split("=", 1) for w in record.split() if "=" in w)


def stolen_ms():
    """CPU time that a hypervisor below us has kept from this machine's CPUs since they began."""
    words = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    return int(words[8]) * 1000 / os.sysconf("SC_CLK_TCK")


REPORTED = pathlib.Path("/sys/module/page_reporting/parameters/reported_kib")


def reported_mib():
    """Free memory that this machine has told its hypervisor of, where the kernel counts it. Two seconds after
    much was freed it does, and stands still for 11 to 32 ms at a time meanwhile, all CPUs at once."""
    return int(REPORTED.read_text()) / 1024 if REPORTED.exists() else 0.0


def longest_hole_ms(holes, moved_ms):
    """The longest hole in its time that a guest saw until AFTER_S behind the end of its move. Who is asked
    later has more of the machine's own holes to tell of."""
    until_us = (moved_ms / 1000 + AFTER_S) * 1e6
    return max((int(us) / 1000 for end, us in zip(holes["end_us"].split(","), holes["us"].split(","))
                if int(end) <= until_us), default=0.0)


def clock_lag_ms(marked, holes):
    """How far a guest's TSC is behind the time that went by since its mark."""
    return (time.monotonic() - marked) * 1000 - int(holes["now_us"]) / 1000


def work_retained(rate, stats, total_ms):
    """How much of the writers' work of the moving time was done, by their own rate before it."""
    per_ms = int(rate["rate"]) / 1000
    if per_ms == 0:
        return {"work_retained": None, "lost_work_ms": None}
    lost_ms = max(0.0, int(stats["mark_ms"]) - int(stats["mark_work"]) / per_ms)
    return {"lost_work_ms": lost_ms, "work_retained": max(0.0, 1 - lost_ms / max(total_ms, 1))}

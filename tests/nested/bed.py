"""Emulated hosts, each with a genuine /dev/kvm (AMD SVM, emulated by QEMU), on one bridge inside a network
namespace of this test: Linux guests run in them under real KVM on machines whose own KVM cannot run Linux.

with Bed(hosts=2) as bed: bed.hosts[0].run("uname", "-r")

Whatever is started here is ended here, by pid; QEMU processes also end when this process is killed."""
import ctypes
import json
import mmap
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import debian
from initramfs import Initramfs

sys.path.insert(0, str(debian.ROOT / "scripts/lib"))
import pool as pools  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
CPU = "max,+svm,+npt,-la57"
# One processor a host. With two, a host's own kernel once reported lock-ups in the middle of a move, as hosts of one do
# when other work starves them; more is not known. GODWIT_NESTED_CPUS=2 brings them back.
HOST_CPUS = int(os.environ.get("GODWIT_NESTED_CPUS", "1"))
SHARED = "/srv/shared"  # where a host sees the folder that all hosts share
NETWORK = "10.78.0"
OWN_ADDRESS = f"{NETWORK}.254"  # this machine's end of the bridge
NET_MASK = 24
HOST_MODULES = ("virtio_pci", "virtio_net", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay",
                "bridge", "tun", "ccp", "kvm", "kvm-amd", "ext4", "loop")
HOST_OWN = ("/tmp", "/var/tmp", "/run", "/dev")  # see host_init.sh; the rest is this machine's, read-only
KERNEL_HZ = 250
BOOT_S_MAX = 600
_libc = ctypes.CDLL(None, use_errno=True)


def missing():
    """Why a bed cannot be made here, or None."""
    if os.geteuid() != 0:
        return "the nested bed needs root (network namespace, taps)"
    here = pathlib.Path(__file__).resolve()
    for folder in HOST_OWN:
        if here.is_relative_to(folder):
            return f"this checkout lies under {folder}, and emulated hosts have a {folder} of their own"
    for program, package in ((QEMU, "qemu-system-x86"), ("ip", "iproute2"), ("busybox", "busybox-static")):
        if not shutil.which(program):
            return f"no {program} (package {package})"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun cannot be opened"
    done = subprocess.run([QEMU, "-accel", "help"], capture_output=True, text=True, check=False)
    if "tcg" not in done.stdout.split():
        return "this QEMU has no TCG"
    models = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=False)
    if "svm" not in models.stdout.split():
        return "this QEMU does not emulate SVM"
    return None


def _die_with_parent():
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def measure_tsc_khz():
    """Emulated processors count this machine's TSC. Hosts are told its frequency: by themselves they measure it
    against an emulated timer and, when this machine is busy, find half of it."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl $32,%rdx; or %rdx,%rax; ret
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def pair():
        tries = []
        for _ in range(50):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            tries.append((after - before, before, ticks))
        return min(tries)
    _, ns, ticks = pair()
    time.sleep(0.3)
    _, ns_later, ticks_later = pair()
    return round((ticks_later - ticks) * 1_000_000 / (ns_later - ns))


class HostError(pools.PoolError):
    pass


class EmulatedHost:
    """One QEMU process; its console in NAME.console, its commands over a virtio port."""

    def __init__(self, bed, number, memory_mib, cpus):
        self.bed, self.number, self.name = bed, number, f"node{number}"
        self.address = f"{NETWORK}.{number}"
        self.memory_mib, self.cpus = memory_mib, cpus
        self.console = bed.dir / f"{self.name}.console"
        self.tap = f"tap{number}"
        self.process = None
        self._socket = None
        self._answers, self._changed, self._next = {}, threading.Condition(), 1
        self._end_reason = None

    def start(self):
        kernel, initramfs = self.bed.kernel, self.bed.initramfs
        command_path = self.bed.dir / f"{self.name}.command"
        self._socket = None
        self._end_reason = None
        words = [
            *self.bed.enter(), QEMU, "-name", f"{self.bed.tag}-{self.name}", "-machine", "q35,usb=off",
            "-accel", "tcg,thread=multi,tb-size=256", "-cpu", CPU, "-smp", self.cpus, "-m", self.memory_mib,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel.image, "-initrd", initramfs, "-append",
            # Nothing that a busy machine's emulated timers can get wrong is measured or checked at boot.
            f"console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
            f"tsc_early_khz={self.bed.tsc_khz} lpj={self.bed.tsc_khz * 1000 // KERNEL_HZ} "
            f"gw.name={self.name} gw.address={self.address}",
            "-serial", f"file:{self.console}",
            "-virtfs", "local,path=/,security_model=none,readonly=on,mount_tag=root,multidevs=remap",
            "-virtfs", f"local,path={self.bed.shared},security_model=none,mount_tag=shared",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=command,path={command_path},server=on,wait=off",
            "-device", "virtserialport,chardev=command,name=godwit.command",
            "-netdev", f"tap,id=net,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:78:00:{self.number:02x}"]
        with open(self.bed.dir / f"{self.name}.qemu", "ab") as log:
            self.process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=_die_with_parent)
        self._connect(command_path)

    def _connect(self, path):
        def attempt():
            if self.process.poll() is not None:
                raise HostError(f"{self.name}: QEMU ended with {self.process.returncode}: {self.words()}")
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(path))
                return link
            except OSError:
                link.close()
                return None
        self._socket = pools.wait_for(f"QEMU of {self.name}", 20, attempt)
        self._answers = {}
        threading.Thread(target=self._read, args=(self._socket,), daemon=True).start()

    def _read(self, link):
        pending = b""
        while True:
            try:
                got = link.recv(65536)
            except OSError:
                got = b""
            if not got:
                break
            *lines, pending = (pending + got).split(b"\n")
            with self._changed:
                for line in lines:
                    answer = json.loads(line)
                    self._answers[answer["id"]] = answer
                self._changed.notify_all()
        with self._changed:
            self._end_reason = "its command channel is closed"
            self._changed.notify_all()

    def wait_up(self):
        with self._changed:
            if not self._changed.wait_for(lambda: 0 in self._answers or self._end_reason, BOOT_S_MAX):
                raise HostError(f"{self.name} did not come up in {BOOT_S_MAX} s: {self.words()}")
            if 0 not in self._answers:
                raise HostError(f"{self.name} did not come up, {self._end_reason}: {self.words()}")

    def words(self):
        """The last words of QEMU and of the console."""
        found = []
        for path in (self.bed.dir / f"{self.name}.qemu", self.console):
            if path.exists():
                found += path.read_text(errors="replace").splitlines()[-12:]
        return " | ".join(found)

    def request(self, timeout=60, **request):
        with self._changed:
            number, self._next = self._next, self._next + 1
        line = json.dumps({"id": number, "timeout": timeout, **request}) + "\n"
        try:
            self._socket.sendall(line.encode())
        except OSError as error:
            raise HostError(f"{self.name}: {error}") from error
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._answers or self._end_reason, timeout + 30):
                raise HostError(f"{self.name} did not answer in {timeout + 30} s: {line.strip()[:200]}")
            if number not in self._answers:
                raise HostError(f"{self.name}: {self._end_reason}: {self.words()}")
            answer = self._answers.pop(number)
        if "error" in answer:
            raise HostError(f"{self.name}: {answer['error']} ({line.strip()[:200]})")
        return answer

    def run(self, *words, check=True, stdin="", timeout=60, env=None):
        """Run a command in the host; what it wrote to stdout, or the whole answer without `check`."""
        answer = self.request(run=list(map(str, words)), stdin=stdin, timeout=timeout, env=env or {})
        if not check:
            return answer
        if answer["rc"] != 0:
            raise HostError(f"{self.name}: {' '.join(map(str, words))}: exit {answer['rc']}\n"
                            f"{answer['out']}{answer['err']}")
        return answer["out"]

    def start_program(self, *words, log, env=None):
        return self.request(start=list(map(str, words)), log=str(log), env=env or {})["pid"]

    def end_program(self, pid, number=signal.SIGTERM, timeout=60):
        return self.request(signal=pid, number=int(number), wait=True, timeout=timeout)["rc"]

    def crash(self):
        """The host loses power: nothing is flushed, nobody is told."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._socket:
            self._socket.close()

    def set_link(self, up):
        """Plug or pull the host's network cable."""
        self.bed.ip("link", "set", self.tap, "up" if up else "down")


class Bed:
    def __init__(self, hosts=2, memory_mib=1536, cpus=None):
        self.tag = f"nested-{os.getpid()}"
        self.kernel = debian.Kernel("amd64")
        self.initramfs = self._make_initramfs()
        self.tsc_khz = measure_tsc_khz()
        self.namespace = None
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        self.shared = self.dir / "shared"
        self.shared.mkdir()
        self.hosts = [EmulatedHost(self, n, memory_mib, cpus or HOST_CPUS) for n in range(1, hosts + 1)]

    def __enter__(self):
        try:
            self._make_network()
            for host in self.hosts:
                host.start()
            for host in self.hosts:
                host.wait_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def enter(self):
        return ["ip", "netns", "exec", self.namespace]

    def ip(self, *words):
        subprocess.run(["ip", "-n", self.namespace, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def host(self, name):
        return next(h for h in self.hosts if h.name == name)

    def close(self):
        for host in self.hosts:
            host.crash()
        if self.namespace:
            subprocess.run(["ip", "netns", "del", self.namespace], stderr=subprocess.DEVNULL, check=False)
            self.namespace = None
        shutil.rmtree(self.dir, ignore_errors=True)

    def _make_network(self):
        subprocess.run(["ip", "netns", "add", self.tag], check=True)
        self.namespace = self.tag
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("addr", "add", f"{OWN_ADDRESS}/{NET_MASK}", "dev", "br0")
        self.ip("link", "set", "br0", "up")
        for host in self.hosts:
            self.ip("tuntap", "add", host.tap, "mode", "tap")
            self.ip("link", "set", host.tap, "master", "br0", "up")

    def _make_initramfs(self):
        image = Initramfs()
        image.add_folder("proc", "sys", "dev", "lower", "upper", "root", "etc", "bin")
        image.add_program("bin/busybox", debian.busybox())
        image.add_program("init", HERE / "host_init.sh")
        image.add("etc/inittab", HERE / "host_inittab")
        image.add("host_server.py", HERE / "host_server.py")
        image.add_modules(self.kernel, *HOST_MODULES)
        return image.path("host")


def leftovers(tag):
    """What a bed of this tag left behind; empty when all is clean."""
    return pools.leftovers(tag.rstrip("-")) + [
        f"namespace {line.split()[0]}" for line in subprocess.run(
            ["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout.splitlines()
        if line.split()[0] == tag]

"""A pool whose hosts have a real libvirtd each, in network, mount and UTS namespaces of their own, and agents
that drive it. For tests and bench. libvirtd, QEMU and agents that are started here are ended here, by pid."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid

import pool as pools

PLACES = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "cache": "/var/cache/libvirt", "log": "/var/log/libvirt",
          "run": "/run/libvirt"}
URI = "qemu:///system"


def missing():
    """Why this cannot run here; None when it can."""
    if os.geteuid() != 0:
        return "namespaces take root"
    for program in ("libvirtd", "virsh", "qemu-system-x86_64", "unshare", "ip"):
        if not shutil.which(program) and not os.path.exists(f"/usr/sbin/{program}"):
            return f"no {program} here"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm cannot be opened here"
    return None


class Reaper(threading.Thread):
    """QEMUs of libvirtd are orphans, so they are ours, and libvirtd waits until they are quite gone."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over = threading.Event()

    def run(self):
        children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children")
        while not self.over.wait(0.02):
            for word in children.read_text().split():
                try:
                    if pathlib.Path(f"/proc/{word}/comm").read_text().startswith("qemu-system"):
                        os.waitpid(int(word), os.WNOHANG)
                except (OSError, ChildProcessError):
                    continue


class OwnTime(threading.Thread):
    """Hosts of one machine see all that it does. With this each sees, as its /proc/stat, the CPU time of its own
    guests and no other, as a machine of its own would."""

    def __init__(self, pool):
        super().__init__(daemon=True)
        self.pool, self.over, self.seen, self.total = pool, threading.Event(), {}, {}

    @staticmethod
    def ticks(pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    @staticmethod
    def write(path, ticks):
        """In place, of one length: who reads it meanwhile reads either."""
        rest = pathlib.Path("/proc/stat").read_text().partition("\n")[2]
        idle = int(time.monotonic() * os.sysconf("SC_CLK_TCK"))
        text = f"cpu  {ticks:020} 0 0 {idle:020} 0 0 0 0 0 0\n".encode()
        if not path.exists():
            path.write_bytes(text + rest.encode())
            return
        with open(path, "r+b") as file:
            file.write(text)

    def run(self):
        while not self.over.wait(0.5):
            for host in list(self.pool.hosts):
                for pid in host.qemu_pids() + host.vm_pids():
                    now, key = self.ticks(pid), (host.name, pid)
                    self.total[host.name] = self.total.get(host.name, 0) + max(0, now - self.seen.get(key, 0))
                    self.seen[key] = now
                self.write(host.dir / "stat", self.total.get(host.name, 0))


class LoopDisk:
    """A file as a block device, which both hosts see: they are one machine. libvirt moves no file of a local file system."""

    def __init__(self, path):
        self.path = path
        self.device = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", path], check=True, text=True,
                                     capture_output=True).stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["losetup", "--detach", self.device], check=True)


class VirtHost(pools.Host):
    """Everything of this host runs behind `enter`: its libvirtd, its agent, virsh."""

    def __init__(self, pool, name, number):
        super().__init__(pool, name, number)
        self.libvirtd = None
        self.drives = True
        for place in PLACES:
            (self.dir / "libvirt" / place).mkdir(parents=True)
        etc = self.dir / "libvirt" / "etc"
        (etc / "libvirtd.conf").write_text(
            'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
            f'unix_sock_group = "root"\nlisten_addr = "{self.address}"\nhost_uuid = "{uuid.uuid4()}"\n'
            "log_level = 3\n")
        (etc / "qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n'
            'stdio_handler = "file"\ndynamic_ownership = 0\nremember_owner = 0\n' +
            (f'migrate_tls_x509_cert_dir = "{self.make_certificates()}"\nmigrate_tls_x509_verify = 1\n'
             if pool.tls else ""))
        # libvirt's own user, which the package that would start a libvirtd of the machine's makes, is here only.
        for file in ("passwd", "group"):
            more = "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n" if file == "passwd" else "libvirt-qemu:x:64055:\n"
            (self.dir / file).write_text(pathlib.Path(f"/etc/{file}").read_text() + more)
            (self.dir / file).chmod(0o644)
        binds = " && ".join([f"mount --bind {self.dir}/libvirt/{place} {where}" for place, where in PLACES.items()] +
                            [f"mount --bind {self.dir}/{file} /etc/{file}" for file in ("passwd", "group")])
        if pool.own_time:
            OwnTime.write(self.dir / "stat", 0)
            binds += f" && mount --bind {self.dir}/stat /proc/stat"
        self.script = f"{binds} && echo {name} >/proc/sys/kernel/hostname && exec \"$@\""

    def make_certificates(self):
        """What QEMU's TLS wants of a host: it is server and client with one name, its address, of the pool's QEMU CA."""
        ca, own = self.pool.dir / "qemu-ca", self.dir / "qemu-tls"
        own.mkdir()

        def openssl(*words):
            subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
        if not ca.exists():
            ca.mkdir()
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca / "key.pem", "-out", ca / "cert.pem",
                    "-subj", "/CN=qemu test", "-days", "2")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", own / "server-key.pem", "-out", own / "request.pem",
                "-subj", f"/CN={self.address}")
        (own / "names").write_text(f"subjectAltName=IP:{self.address}\nbasicConstraints=CA:FALSE\n"
                                   "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl("x509", "-req", "-in", own / "request.pem", "-CA", ca / "cert.pem", "-CAkey", ca / "key.pem",
                "-CAcreateserial", "-out", own / "server-cert.pem", "-days", "2", "-extfile", own / "names")
        shutil.copy(ca / "cert.pem", own / "ca-cert.pem")
        for word in ("cert", "key"):
            shutil.copy(own / f"server-{word}.pem", own / f"client-{word}.pem")
        return own

    def enter(self):
        return ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "sh", "-c", self.script, "sh"]

    def start_agent(self, prefix=()):
        words = ["--libvirt", URI, *([] if self.pool.tls else ["--libvirt-plain"]),
                 "--libvirt-peer", f"qemu+tcp://{self.address}/system"]
        if self.pool.failpoints:
            self.failpoints.touch()
            prefix = ["env", f"GODWIT_FAILPOINTS={self.failpoints}", *prefix]
        self.agent = self.pool.spawn(
            f"agent-{self.name}", self,
            [*prefix, self.pool.bin / "godwit-agent", "--dir", self.dir / "agent", "--run-dir", self.run_dir,
             *(words if self.drives else [])])

    def start_libvirtd(self):
        self.libvirtd = self.pool.spawn_as_is(
            f"libvirtd-{self.name}", self,
            ["/usr/sbin/libvirtd", "--listen", "--pid-file", self.dir / "libvirtd.pid"])
        pools.wait_for(f"libvirtd of {self.name}", 60, lambda: self.virsh("version", check=False).returncode == 0, 0.1)

    def kill_libvirtd(self, number=signal.SIGKILL):
        self.pool.end(self.libvirtd, number)
        self.libvirtd = None

    def virsh(self, *words, check=True, timeout=120, stdin=None):
        done = subprocess.run([*self.enter(), "virsh", "-c", URI, *map(str, words)], capture_output=True, text=True,
                              timeout=timeout, input=stdin or "")
        if check and done.returncode != 0:
            raise pools.PoolError(f"{self.name}: virsh {' '.join(map(str, words))}: {done.stdout}{done.stderr}")
        return done

    def domain_state(self, name):
        """"running", "paused", "shut off", or None: no such domain."""
        done = self.virsh("domstate", name, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def qemu_pids(self):
        """Processes of QEMU whose libvirt is this host's."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"qemu-system" not in words[0]:
                    continue
                mounts = (entry / "mountinfo").read_text()
            except OSError:
                continue
            if f"/{self.dir.relative_to(self.dir.parent.parent.parent)}/libvirt/run" in mounts or \
                    f"{self.pool.dir.name}/{self.name}/libvirt/run" in mounts:
                pids.append(int(entry.name))
        return pids


class VirtPool(pools.Pool):
    """VirtPool(hosts=2): every host has a libvirtd that runs, and an agent that drives it."""
    host_kind = VirtHost
    tls = False  # memory travels in QEMU's TLS, with certificates made here
    clock = None
    own_time = False  # each host sees the CPU time of its own guests only

    def _start(self):
        for where in PLACES.values():
            pathlib.Path(where).mkdir(parents=True, exist_ok=True)  # to be mounted over; stays empty
        self.reaper = Reaper()
        self.reaper.start()
        super()._start()
        if self.own_time:
            self.clock = OwnTime(self)
            self.clock.start()

    def make_host(self, name, number):
        host = VirtHost(self, name, number)
        host.start_libvirtd()
        return host

    def close(self):
        if self.clock:
            self.clock.over.set()
            self.clock.join()
        for host in self.hosts:
            for pid in host.qemu_pids():
                self._end_pid(pid)
        super().close()
        self.reaper.over.set()

    # -- domains ---------------------------------------------------------------------------------
    def domain_xml(self, name, cmdline="", memory_mib=256, vcpus=1, terminal=False, disk=None):
        """`terminal`: its serial line is a pty, which libvirt relays; else a socket, for `say`. `disk`: a block device
        and its format."""
        disk = disk and (f"<disk type='block' device='disk' model='virtio-non-transitional'>"
                         f"<driver name='qemu' type='{disk[1]}' cache='none'/><source dev='{disk[0]}'/><target dev='vda'/>"
                         "<address type='pci' domain='0' bus='0' slot='3' function='0'/></disk>")  # the guest knows bus 0
        serial = "<serial type='pty'>" if terminal else (
            f"<serial type='unix'><source mode='bind' path='/run/libvirt/{name}.serial'/>")
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.tag}-{name}")
        return f"""<domain type='kvm'>
  <name>{name}</name><uuid>{identity}</uuid>
  <memory unit='MiB'>{memory_mib}</memory><vcpu>{vcpus}</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><kernel>{self.guest_elf()}</kernel>
    <cmdline>vcpus={vcpus} {cmdline}</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough' check='none' migratable='on'><feature policy='disable' name='arch-capabilities'/></cpu>
  <on_crash>destroy</on_crash>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    {disk or ""}
    {serial}<target type='isa-serial' port='0'/></serial>
  </devices>
</domain>
"""

    def define(self, host, name, *words, start=True, **more):
        file = self.dir / f"{name}.xml"
        file.write_text(self.domain_xml(name, *words, **more))
        host.virsh("define", file)
        if start:
            host.virsh("start", name)

    def line(self, host, name):
        """The guest's serial line on that host, as a connected socket."""
        path = f"{host.dir}/libvirt/run/{name}.serial"
        end = time.monotonic() + 60
        while True:
            line = socket.socket(socket.AF_UNIX)
            line.settimeout(60)
            try:
                short = f"/proc/self/fd/{os.open(os.path.dirname(path), os.O_RDONLY)}/{name}.serial"
                line.connect(short)
                return line
            except OSError as error:
                line.close()
                if time.monotonic() > end:
                    raise pools.PoolError(f"{name}: no serial line on {host.name}: {error}") from error
                time.sleep(0.05)
            finally:
                os.close(int(short.split("/")[4]))

    def say(self, host, name, words, answer):
        """Type a line, give back the first line of the answer that begins so."""
        line = self.line(host, name)
        with line:
            text = b""
            end = time.monotonic() + 180
            again = 0
            while time.monotonic() < end:
                if time.monotonic() >= again:  # a guest that still boots does not read
                    line.sendall(words.encode() + b"\n")
                    again = time.monotonic() + 10
                line.settimeout(max(0.01, again - time.monotonic()))
                try:
                    part = line.recv(4096)
                except TimeoutError:
                    continue
                if not part:
                    break
                text += part
                for record in re.split(rb"[\r\n]+", text)[:-1]:
                    if record.startswith(answer.encode()):
                        return record.decode()
        raise pools.PoolError(f"{name} on {host.name} did not answer '{words}': {text!r}")

    def verify_domain(self, host, name):
        record = self.say(host, name, "verify", "gw verify")
        if " ok " not in record + " ":
            raise pools.PoolError(f"{name} on {host.name}: {record}")
        return dict(w.split("=", 1) for w in record.split() if "=" in w)

    def runs_twice(self, name):
        """Do two hosts run it at one instant? The first is looked at again after the second, so that a copy that
        moved on between two looks does not count."""
        up = [h for h in self.hosts if h.libvirtd]
        for first in up:
            for second in up:
                if first is not second and all(
                        h.domain_state(name) == "running" for h in (first, second, first)):
                    return True
        return False

    def runs_on(self, name):
        """Names of the hosts whose libvirt runs the domain: more than one is the end of the world."""
        return [h.name for h in self.hosts if h.libvirtd and h.domain_state(name) == "running"]


class ApartPool(VirtPool):
    """For what hosts make of their loads."""
    own_time = True

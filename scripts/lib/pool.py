"""A Godwit pool on this machine for demo, tests and bench: hosts with their agents, a coordinator, and
the godwit command. As root every host is a network namespace of its own on one bridge inside one
more namespace; otherwise every host is a loopback address. Whatever is started here is ended here,
by pid, whatever happens in between."""
import ctypes
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PORT = 7411
_libc = ctypes.CDLL(None, use_errno=True)


class PoolError(Exception):
    pass


def wait_for(what, seconds, check, pause=0.02):
    """Ask `check` until it gives something true; say `what` was awaited when time is over."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise PoolError(f"waited {seconds} s for {what}")
        time.sleep(pause)


def end_on_signals():
    """SIGTERM and SIGHUP take the same way out as Ctrl-C, so that what was started is ended."""
    def stop(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _become_subreaper():
    """VM processes that outlive their agent become our children, so that we can end and reap them."""
    PR_SET_CHILD_SUBREAPER = 36
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Host:
    def __init__(self, pool, name, number):
        self.pool, self.name, self.number = pool, name, number
        self.dir = pool.dir / name
        self.run_dir = self.dir / "run"
        self.namespace = f"{pool.tag}-{name}" if pool.namespaces else None
        self.address = f"10.77.0.{number}" if pool.namespaces else f"127.0.0.{number + 1}"
        self.agent = None
        self.failpoints = self.dir / "failpoints"  # what may go wrong in its VMs' processes
        self.vm_program = None  # instead of the build's godwit-vm
        self.agent_words = []
        self.dir.mkdir(parents=True)
        self.run_dir.mkdir()

    def enter(self):
        return ["ip", "netns", "exec", self.namespace] if self.namespace else []

    def enter_mounts(self):
        """Words before a command that is to see the agent's mounts. Right after its start it still has everybody's."""
        mounts = f"/proc/{self.agent.pid}/ns/mnt"
        if self.namespace:
            wait_for(f"{self.name}'s agent to have mounts of its own", 30,
                     lambda: os.readlink(mounts) != os.readlink("/proc/self/ns/mnt"), 0.01)
        return ["nsenter", "-t", str(self.agent.pid), "-m"]

    def start_agent(self, prefix=()):
        """`prefix` runs the agent, and so its VMs, under another command (prlimit, nice)."""
        if self.pool.failpoints:
            self.failpoints.touch()
            prefix = ["env", f"GODWIT_FAILPOINTS={self.failpoints}", *prefix]
        self.agent = self.pool.spawn(
            f"agent-{self.name}", self,
            [*prefix, self.pool.bin / "godwit-agent", "--dir", self.dir / "agent", "--run-dir", self.run_dir,
             *(["--vm-program", self.vm_program] if self.vm_program else []), *self.agent_words])

    def kill_agent(self, number=signal.SIGKILL):
        self.pool.end(self.agent, number)
        self.agent = None

    def vm_pids(self):
        """Process ids of the godwit-vm processes of this host: those with a file of its folder open (both
        ends of a move carry the same VM id)."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if not (entry / "cmdline").read_bytes().split(b"\0")[0].endswith(b"godwit-vm"):
                    continue
                maps = (entry / "maps").read_text()
                links = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            mine = f"{self.dir}/"
            if mine in maps or any(link.startswith(mine) for link in links):
                pids.append(int(entry.name))
        return pids


class Pool:
    """with Pool(hosts=3) as pool: pool.godwit("host", "ls")"""

    def __init__(self, hosts=3, build=None, keep=False, log_level="info", coordinators=1,
                 failpoints=False):
        """With several coordinators they share an etcd of as many members: one of each on the first hosts."""
        self.build = pathlib.Path(build or os.environ.get("GODWIT_BUILD", ROOT / "build/release"))
        self.bin = self.build / "bin"
        self.tag = f"gw{os.getpid()}"
        self.keep, self.log_level = keep, log_level
        self.failpoints = failpoints  # agents in test mode: see base/failpoint.h
        self.namespaces = os.geteuid() == 0 and os.environ.get("GODWIT_LOOPBACK") is None
        # /dev/shm when there is room: the run folder belongs on tmpfs, as /run is
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.tag}-", dir=base))
        self.processes = []
        self.coordinator = None  # the only one, or the first
        self.coordinator_words = []
        self.pool_name = "demo"
        self.init_words = []  # more of `godwit pool init`
        self.coordinators, self.etcds = [], []
        self._coordinator_count = coordinators
        self._netns = []
        self.hosts = []
        self._count = hosts
        _become_subreaper()

    # -- life ------------------------------------------------------------------------------------
    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind and issubclass(kind, Exception) and os.environ.get("GODWIT_SHOW_LOGS"):
            for log in sorted(self.dir.glob("*.log")):
                print(f"--- {log.name}", file=sys.stderr)
                print("".join(log.read_text(errors="replace").splitlines(True)[-80:]), file=sys.stderr)
        self.close()

    def _start(self):
        if self.namespaces:
            self._make_network()
        for i in range(self._count):
            self.hosts.append(self.make_host(f"node{i + 1}", i + 1))
        first = self.hosts[0]
        self.state = first.dir
        self.address = ",".join(f"{h.address}:{PORT}" for h in self.hosts[:self._coordinator_count])
        self.run_tool("pool", "init", "--dir", self.state, "--name", self.pool_name,
                      "--listen", f"{first.address}:{PORT}", "--address", self.address, *self.init_words)
        if self._coordinator_count > 1:
            self._start_etcds()
            for i, host in enumerate(self.hosts[1:self._coordinator_count], 1):
                self.run_tool("pool", "add-coordinator", host.dir / "coordinator", "--dir", self.state,
                              "--listen", f"{host.address}:{PORT}", "--address", f"{host.address}:{PORT}")
            self.coordinators = [self.spawn_coordinator(i) for i in range(self._coordinator_count)]
            wait_for("a leader", 30, lambda: self.godwit("pool", "status", check=False).returncode == 0)
        else:
            self.start_coordinator()
        for host in self.hosts:
            token = self.json("token", "create")["token"]
            self.run_tool("pool", "join", token, "--dir", host.dir, "--name", host.name,
                          "--move-address", host.address, host=host)
            host.start_agent()
        self.wait_hosts_up()

    def make_host(self, name, number):
        return Host(self, name, number)

    def wait_hosts_up(self, seconds=20):
        wait_for("all hosts up", seconds, lambda: all(
            h.get("state") == "up" for h in self.ls("host")) and len(self.ls("host")) == self._count)

    # -- several coordinators ----------------------------------------------------------------------
    def etcd_command(self, i):
        host, name = self.hosts[i], f"etcd{i}"
        cluster = ",".join(f"etcd{n}=http://{h.address}:2380" for n, h in
                           enumerate(self.hosts[:self._coordinator_count]))
        return ["etcd", "--name", name, "--data-dir", host.dir / name, "--initial-cluster", cluster,
                "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error",
                "--listen-client-urls", f"http://{host.address}:2379",
                "--advertise-client-urls", f"http://{host.address}:2379",
                "--listen-peer-urls", f"http://{host.address}:2380",
                "--initial-advertise-peer-urls", f"http://{host.address}:2380"]

    def spawn_etcd(self, i):
        return self.spawn_as_is(f"etcd{i}", self.hosts[i], self.etcd_command(i))

    def _start_etcds(self):
        self.etcds = [self.spawn_etcd(i) for i in range(self._coordinator_count)]
        self.store = "etcd://" + ",".join(
            f"{h.address}:2379" for h in self.hosts[:self._coordinator_count])

    def etcd_leader(self):
        """Index of the member that leads, or None. Asked from inside the pool's network."""
        for i, host in enumerate(self.hosts[:self._coordinator_count]):
            done = subprocess.run(
                [*self.hosts[i].enter(), "curl", "-s", "-m", "1", "-X", "POST", "-d", "{}",
                 f"http://{host.address}:2379/v3/maintenance/status"], capture_output=True, text=True, check=False)
            try:
                status = json.loads(done.stdout)
            except ValueError:
                continue
            if status.get("leader") == status["header"]["member_id"]:
                return i
        return None

    def spawn_coordinator(self, i):
        return self.spawn(f"coordinator{i}", self.hosts[i],
                          [self.bin / "godwit-coordinator", "--dir", self.hosts[i].dir / "coordinator",
                           "--store", self.store])

    def leader(self):
        """Index of the coordinator that leads: the one whose store is open, by its own log."""
        for i, process in enumerate(self.coordinators):
            if process.poll() is None and self.coordinator_leads(i):
                return i
        return None

    def coordinator_leads(self, i):
        log = (self.dir / f"coordinator{i}.log").read_text(errors="replace")
        leads, stands = log.rfind(" ready pool="), max(log.rfind("standing"), log.rfind(" listening pool="))
        return leads > stands

    def start_coordinator(self):
        self.coordinator = self.spawn(
            "coordinator", self.hosts[0],
            [self.bin / "godwit-coordinator", "--dir", self.state / "coordinator", *self.coordinator_words])

        def up():
            if self.coordinator.poll() is not None:
                log = (self.dir / "coordinator.log").read_text(errors="replace")
                raise PoolError(f"the coordinator ended with {self.coordinator.returncode}:\n{log[-2000:]}")
            return self.godwit("pool", "status", check=False).returncode == 0
        wait_for("the coordinator", 20, up, 0.05)

    def kill_coordinator(self, number=signal.SIGKILL):
        self.end(self.coordinator, number)

    def close(self):
        """End processes (programs first, then the VMs they left), namespaces, files."""
        for process in reversed(self.processes):
            self.end(process, signal.SIGTERM)
        self.processes = []
        for host in self.hosts:
            for pid in host.vm_pids():
                self._end_pid(pid)
        self._reap()
        for namespace in reversed(self._netns):
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)
        self._netns = []
        if self.keep:
            print(f"kept: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def _end_pid(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        wait_for(f"process {pid} to end", 10, lambda: self._is_gone(pid))

    def _is_gone(self, pid):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        return not pathlib.Path(f"/proc/{pid}").exists()

    def _reap(self):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _make_network(self):
        def ip(*words):
            subprocess.run(["ip", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        switch = f"{self.tag}-sw"
        ip("netns", "add", switch)
        self._netns.append(switch)
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        for i in range(1, self._count + 1):
            name = f"{self.tag}-node{i}"
            ip("netns", "add", name)
            self._netns.append(name)
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{i}", "netns", switch)
            ip("-n", switch, "link", "set", f"p{i}", "master", "br0", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    # -- processes -------------------------------------------------------------------------------
    def spawn(self, name, host, command):
        return self.spawn_as_is(name, host, [*command, "--log-level", self.log_level])

    def spawn_as_is(self, name, host, command):
        with open(self.dir / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [*host.enter(), *map(str, command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def end(self, process, number):
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process in self.processes:
            self.processes.remove(process)

    # -- the command -----------------------------------------------------------------------------
    def environment(self):
        return {**os.environ, "GODWIT_DIR": str(self.state / "operator"), "LC_ALL": "C.UTF-8"}

    def command(self, *words, host=None):
        return [*(host or self.hosts[0]).enter(), str(self.bin / "godwit"), *map(str, words)]

    def run_tool(self, *words, host=None):
        done = subprocess.run(self.command(*words, host=host), env=self.environment(),
                              capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise PoolError(f"godwit {' '.join(map(str, words))}: exit {done.returncode}\n"
                            f"{done.stdout}{done.stderr}")
        return done

    def godwit(self, *words, check=True, timeout=120, stdin=None):
        done = subprocess.run(self.command(*words), env=self.environment(), capture_output=True,
                              text=True, timeout=timeout, input=stdin if stdin is not None else "")
        if check and done.returncode != 0:
            raise PoolError(f"godwit {' '.join(map(str, words))}: exit {done.returncode}\n"
                            f"{done.stdout}{done.stderr}")
        return done

    def start_godwit(self, *words):
        return subprocess.Popen(self.command(*words), env=self.environment(), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def json(self, *words, **more):
        done = self.godwit(*words, "-o", "json", **more)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise PoolError(f"godwit {words}: no JSON ({error}): {done.stdout!r} {done.stderr!r}") from error

    def ls(self, noun):
        """host ls, vm ls, job ls as a list of objects."""
        found = self.json(noun, "ls", *(["--all"] if noun == "job" else []))
        if isinstance(found, dict):
            found = next((v for v in found.values() if isinstance(v, list)), [])
        return found

    def vm(self, name):
        for vm in self.ls("vm"):
            if vm["name"] == name:
                return vm
        raise PoolError(f"no VM {name}")

    # -- the test guest --------------------------------------------------------------------------
    def guest_elf(self):
        path = self.build / "guest" / "guest.elf"
        sources = [*(ROOT / "tests/guest").iterdir()]
        if not path.exists() or path.stat().st_mtime < max(s.stat().st_mtime for s in sources):
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([ROOT / "tests/guest/build.sh", path.parent], check=True,
                           stdout=subprocess.DEVNULL)
        return path

    def create_guest(self, name, cmdline="", memory="256MiB", vcpus=1, host="node1", wait=True):
        self.godwit("vm", "create", name, "--kernel", self.guest_elf(), "--cmdline",
                    f"vcpus={vcpus} {cmdline}", "--memory", memory, "--vcpus", vcpus,
                    *(["--host", host] if host else []))
        if wait:
            wait_for(f"{name} ready", 60,
                     lambda: "gw ready" in self.godwit("vm", "logs", name, check=False).stdout)

    def ask(self, name, line, answer, timeout="60s"):
        """Type one line at the guest's serial port, give back the record that begins with `answer`."""
        done = self.godwit("vm", "console", name, "--until", answer, "--timeout", timeout,
                           stdin=line + "\n", check=False)
        for record in done.stdout.replace("\r", "").splitlines():
            if record.startswith(answer):
                return dict(w.split("=", 1) for w in record.split() if "=" in w) | {"_": record}
        raise PoolError(f"{name} did not answer '{line}' with '{answer}' (exit {done.returncode}): "
                        f"{done.stdout!r} {done.stderr!r}")

    def verify(self, name):
        record = self.ask(name, "verify", "gw verify")
        if " ok " not in record["_"] + " ":
            raise PoolError(f"{name}: {record['_']}")
        return record


def leftovers(tag):
    """What a pool of this tag left behind: processes, namespaces, folders. Empty when all is clean."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"/{tag}-" in line:
                found.append(f"process {entry.name}: {line}")
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    found += [f"namespace {n.split()[0]}" for n in names.splitlines() if n.startswith(tag + "-")]
    for base in ("/dev/shm", tempfile.gettempdir()):
        found += [f"folder {p}" for p in pathlib.Path(base).glob(f"{tag}-*")]
    return found

"""A Godwit pool over emulated hosts: the coordinator and the godwit command run on this machine inside the
bed's namespace, an agent runs in every host. The words for a pool (godwit, json, vm, ask, verify) are those of
scripts/lib/pool.py."""
import pathlib
import signal

import bed as beds
from bed import pools


class NestedHost:
    def __init__(self, pool, machine):
        self.pool, self.machine = pool, machine
        self.name, self.address = machine.name, machine.address
        self.dir = pathlib.Path("/var/lib/godwit")  # in the host's own memory
        self.run_dir = pathlib.Path("/run/godwit")
        self.log = pathlib.Path("/tmp/agent.log")
        self.agent = None

    def enter(self):
        """The coordinator and the command are at home on the bed's bridge."""
        return self.pool.bed.enter()

    def join(self, token):
        self.machine.run("mkdir", "-p", self.run_dir)
        self.machine.run(self.pool.bin / "godwit", "pool", "join", token, "--dir", self.dir,
                         "--name", self.name, "--move-address", self.address, timeout=300)

    def start_agent(self):
        self.agent = self.machine.start_program(
            self.pool.bin / "godwit-agent", "--dir", self.dir / "agent", "--run-dir", self.run_dir,
            "--log-level", self.pool.log_level, log=self.log)

    def kill_agent(self, number=signal.SIGKILL):
        self.machine.end_program(self.agent, number)
        self.agent = None

    def vm_pids(self):
        done = self.machine.run("pidof", "godwit-vm", check=False)
        return [int(pid) for pid in done["out"].split()]

    def logs(self, lines=60):
        done = self.machine.run("tail", "-n", lines, self.log, check=False)
        return done["out"]


class NestedPool(pools.Pool):
    """with NestedPool(hosts=2) as pool: pool.godwit("host", "ls"); pool.hosts[0].machine.run("ls")"""

    def __init__(self, hosts=2, memory_mib=1536, **more):
        super().__init__(hosts=hosts, **more)
        self.namespaces = False  # the bed has its own
        self.bed = beds.Bed(hosts=hosts, memory_mib=memory_mib)

    def _start(self):
        self.bed.__enter__()
        self.hosts = [NestedHost(self, machine) for machine in self.bed.hosts]
        self.state = self.dir / "coordinator"
        self.address = f"{beds.OWN_ADDRESS}:{pools.PORT}"
        self.run_tool("pool", "init", "--dir", self.state, "--name", "nested",
                      "--listen", self.address, "--address", self.address)
        self.start_coordinator()
        for host in self.hosts:
            host.join(self.json("token", "create")["token"])
            host.start_agent()
        self.wait_hosts_up(300)

    def close(self):
        self.bed.close()
        self.hosts = []
        super().close()

    def show_logs(self):
        for host in self.hosts:
            try:
                print(f"--- agent of {host.name}\n{host.logs()}", flush=True)
            except pools.PoolError as error:
                print(f"--- {host.name}: {error}", flush=True)
            print(f"--- console of {host.name}: {host.machine.words()}", flush=True)

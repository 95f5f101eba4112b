#!/usr/bin/env python3
"""Hosts that die and hosts that are cut off, with real processes: what HA protects runs again, once."""
import os
import pathlib
import signal
import subprocess
import time

import pool_case
from pool_case import LeftOut, expect, pools

FENCE = '''#!/usr/bin/env python3
"""A fence agent for the test: the "power" of a host is all its processes."""
import os, pathlib, signal, sys
words = dict(line.strip().split("=", 1) for line in sys.stdin if "=" in line)
folder = words["plug"] + "/"

def processes():
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\\0", b" ").decode(errors="replace")
            if entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                continue
            if "godwit-agent" in line and folder in line:
                found.append(int(entry.name))
            elif "godwit-vm" in line:
                links = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
                if any(link.startswith(folder) for link in links) or folder in (entry / "maps").read_text():
                    found.append(int(entry.name))
        except OSError:
            continue
    return found

if words["action"] == "off":
    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    sys.exit(0)
sys.exit(0 if processes() else 2)
'''


class HaPool(pools.Pool):
    """Every host has a fence agent; those of `shared` write heartbeats into one folder."""

    def make_fence_dir(self):
        folder = self.dir / "fence"
        folder.mkdir(exist_ok=True)
        script = folder / "fence_test"
        script.write_text(FENCE)
        script.chmod(0o755)
        return folder

    def start_coordinator(self):
        self.coordinator_words = ["--fence-dir", self.make_fence_dir()]
        super().start_coordinator()


def processes_of(pool):
    return {host.name: host.vm_pids() for host in pool.hosts}


def guests_running(pool):
    return sum(len(pids) for pids in processes_of(pool).values())


def ha_host(pool, name):
    return next(h for h in pool.json("ha", "status")["hosts"] if h["host"] == name)


def cut(pool, host, up):
    subprocess.run(["ip", "-n", f"{pool.tag}-sw", "link", "set", f"p{host.number}", "up" if up else "down"],
                   check=True)


def protect(pool, name, host):
    pool_case.need_guest(pool, name, "writers=1 rate=10 ws=16 fill=random fillmb=32", memory="128MiB",
                         vcpus=2, host=host)
    pool.godwit("ha", "add", name)


def with_fence_agent(pool, host):
    pool.godwit("ha", "fence-agent", host.name, "fence_test", "--options", f"plug={host.dir}")


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def runs_again(pool, name, dead, since, most=30):
    def now():
        done = pool.godwit("vm", "ls", "-o", "json", check=False)
        vm = next((v for v in pool.ls("vm") if v["name"] == name), None) if done.returncode == 0 else None
        return vm if vm and vm["state"] == "running" and vm.get("host") != dead else None
    vm = pools.wait_for(f"{name} to run again", most, now)
    return vm, time.monotonic() - since


def a_host_that_dies_is_fenced_and_its_vm_runs_again_elsewhere(pool):
    for host in pool.hosts[1:]:
        with_fence_agent(pool, host)
    protect(pool, "alpha", "node2")
    dead = host_of(pool, "node2")
    before = pool.vm("alpha")["generation"]
    since = time.monotonic()
    for pid in dead.vm_pids():
        os.kill(pid, signal.SIGKILL)
    dead.kill_agent()
    vm, took = runs_again(pool, "alpha", "node2", since)
    print(f"        from death to running again on {vm['host']}: {took:.1f} s (goal 10)")
    expect(vm["generation"] > before, f"generation {vm['generation']} after {before}")
    expect(ha_host(pool, "node2")["fenced_by"] == "F2", str(ha_host(pool, "node2")))
    expect(guests_running(pool) == 1, str(processes_of(pool)))
    pool.verify("alpha")
    dead.start_agent()
    pools.wait_for("node2 to be well again", 20, lambda: ha_host(pool, "node2")["state"] == "well")
    pool.verify("alpha")
    expect(guests_running(pool) == 1, str(processes_of(pool)))


def a_host_that_others_reach_is_left_alone(pool):
    """Only the line to the coordinator is cut: peers say that it lives, so its VM runs on."""
    if not pool.namespaces:
        raise LeftOut("needs network namespaces")
    protect(pool, "beta", "node3")
    host, first = host_of(pool, "node3"), pool.hosts[0]
    pid = pool.vm("beta")["pid"]
    block = ["ip", "-n", host.namespace, "route", "add", "blackhole", f"{first.address}/32"]
    subprocess.run(block, check=True)
    try:
        pools.wait_for("suspicion", 20, lambda: ha_host(pool, "node3")["state"] == "suspect")
        pools.wait_for("word that it is cut off, but alive", 20, lambda: any(
            "alive" in w for w in pool.json("pool", "status").get("warnings", [])))
        os.kill(pid, 0)
    finally:
        subprocess.run(["ip", "-n", host.namespace, "route", "del", "blackhole", f"{first.address}/32"], check=True)
    pools.wait_for("it to be well again", 30, lambda: ha_host(pool, "node3")["state"] == "well")
    pools.wait_for("beta to be shown", 10, lambda: pool.vm("beta").get("pid") == pid)
    pool.verify("beta")


def a_cut_off_host_that_goes_on_running_is_evicted_over_the_store_and_nothing_runs_twice(pool):
    """F1: no network at all, but the shared store. Its agent ends the VM, says so, and only then it is started
    elsewhere. When the host comes back nothing runs twice."""
    if not pool.namespaces:
        raise LeftOut("needs network namespaces")
    store = pool.dir / "shared"
    store.mkdir()
    for host in pool.hosts:
        config = host.dir / "agent" / "agent.json"
        words = pools.json.loads(config.read_text())
        config.write_text(pools.json.dumps({**words, "heartbeat_dir": str(store)}))
        host.kill_agent(signal.SIGTERM)
        host.start_agent()
    pool.wait_hosts_up()
    pool.godwit("ha", "fence-agent", "node3")  # F1 only
    expect(ha_host(pool, "node3")["classes"] == "F1", str(ha_host(pool, "node3")))
    protect(pool, "beta", "node3")
    cut_off = host_of(pool, "node3")
    most = 0
    since = time.monotonic()
    cut(pool, cut_off, False)
    try:
        def look():
            nonlocal most
            most = max(most, guests_of(pool, "beta"))
            vm = next(v for v in pool.ls("vm") if v["name"] == "beta")
            return vm if vm["state"] == "running" and vm["host"] != "node3" else None
        vm = pools.wait_for("beta to run elsewhere", 60, look)
        print(f"        from the cut to running on {vm['host']}: {time.monotonic() - since:.1f} s (goal 10)")
        expect(not cut_off.vm_pids(), "the cut-off host still runs it")
    finally:
        cut(pool, cut_off, True)
    pools.wait_for("node3 to be well again", 30, lambda: ha_host(pool, "node3")["state"] == "well")
    expect(most <= 1, f"{most} processes of beta at once")
    expect(guests_of(pool, "beta") == 1, str(processes_of(pool)))
    pool.verify("beta")


def guests_of(pool, name):
    """Processes of this VM on all hosts: those that hold its console's log."""
    vm_id = pool.vm(name)["id"]
    count = 0
    for host in pool.hosts:
        for pid in host.vm_pids():
            try:
                count += any(vm_id in os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir())
            except OSError:
                pass
    return count


class Frozen:
    """Processes that SIGKILL does not end, as one that hangs inside the kernel: in a frozen cgroup (v1)."""
    ROOT = pathlib.Path("/sys/fs/cgroup/freezer")

    def __init__(self, name, pids):
        self.group = self.ROOT / name
        self.group.mkdir()
        for pid in pids:
            (self.group / "cgroup.procs").write_text(str(pid))
        self._set("FROZEN")

    def _set(self, state):
        (self.group / "freezer.state").write_text(state)
        pools.wait_for(f"its group to be {state}", 30,
                       lambda: (self.group / "freezer.state").read_text().strip() == state)

    def thaw(self):
        if self.group.exists():
            self._set("THAWED")
            pools.wait_for("its group to be empty", 60, lambda: not (self.group / "cgroup.procs").read_text())
            self.group.rmdir()


def a_vm_that_a_kill_does_not_end_is_left_to_the_watchdog(pool):
    """F1 again, but the VM's process does not end: the host's watchdog is patted while there is hope, then let go.
    Nothing is started elsewhere meanwhile. When the process ends after all, the watchdog is put to sleep."""
    if not pool.namespaces or not Frozen.ROOT.is_dir():
        raise LeftOut("needs network namespaces and the freezer of cgroup v1")
    host = host_of(pool, "node3")
    device = pool.dir / "watchdog"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    host.kill_agent(signal.SIGTERM)
    host.agent_words = ["--watchdog", device]
    host.start_agent()
    pool.wait_hosts_up()
    protect(pool, "gamma", "node3")
    expect(os.read(reader, 100) == b"", "the watchdog is awake though nobody must end")
    log = pool.dir / "agent-node3.log"
    frozen = Frozen(pool.tag, host.vm_pids())
    try:
        cut(pool, host, False)
        pools.wait_for("the watchdog to be let go", 90, lambda: "must end has not within" in log.read_text())
        heard = os.read(reader, 100)
        expect(len(heard) >= 2 and set(heard) == set(b"p"), f"the watchdog heard {heard}")
        expect(pool.vm("gamma")["host"] == "node3" and guests_of(pool, "gamma") == 1, str(processes_of(pool)))
        frozen.thaw()
        pools.wait_for("the watchdog to sleep", 30, lambda: "asleep" in log.read_text())
        heard = os.read(reader, 100)
        expect(heard == b"V", f"the watchdog heard {heard} at the end")
    finally:
        frozen.thaw()
        cut(pool, host, True)
        os.close(reader)
        host.kill_agent(signal.SIGTERM)
        host.agent_words = []
        host.start_agent()
    pools.wait_for("node3 to be well again", 60, lambda: ha_host(pool, "node3")["state"] == "well")
    pools.wait_for("gamma to run again", 90, lambda: pool.vm("gamma")["state"] == "running")
    expect(guests_of(pool, "gamma") == 1, str(processes_of(pool)))
    pool.verify("gamma")


def a_fenced_life_that_comes_back_is_quarantined_and_nothing_runs_twice(pool):
    """F0 by a mistaken operator: the agent was only stopped, its VM runs on. As soon as the agent speaks, its old
    life ends, before it may take part again."""
    pool.godwit("ha", "fence-agent", "node3")
    for host in pool.hosts:
        config = host.dir / "agent" / "agent.json"
        words = pools.json.loads(config.read_text())
        words.pop("heartbeat_dir", None)
        config.write_text(pools.json.dumps(words))
        host.kill_agent(signal.SIGTERM)
        host.start_agent()
    pool.wait_hosts_up()
    if pool.vm("beta")["host"] != "node3":
        pool.godwit("migrate", "beta", "--to", "node3")
    host = host_of(pool, "node3")
    old = host.vm_pids()
    host.agent.send_signal(signal.SIGSTOP)
    try:
        refused = pool.godwit("host", "fence", "node3", "--confirm-down", "node2", check=False)
        expect(refused.returncode != 0, "a wrong confirmation was taken")
        pools.wait_for("node3 to be held", 40, lambda: ha_host(pool, "node3")["state"] == "held")
        expect(pool.vm("beta")["host"] == "node3", "it was started without a fence")
        pool.godwit("host", "fence", "node3", "--confirm-down", "node3")
        vm, took = runs_again(pool, "beta", "node3", time.monotonic())
        print(f"        after the operator's word it ran on {vm['host']} within {took:.1f} s")
    finally:
        host.agent.send_signal(signal.SIGCONT)
    pools.wait_for("node3 to be well again", 30, lambda: ha_host(pool, "node3")["state"] == "well")
    pools.wait_for("its old life to be over", 10, lambda: not host.vm_pids())
    expect(all(not pathlib.Path(f"/proc/{pid}").exists() or pool._is_gone(pid) for pid in old), "it lives on")
    expect(guests_of(pool, "beta") == 1, str(processes_of(pool)))
    pool.verify("beta")


def a_vm_that_crashes_is_started_again_and_one_without_protection_is_not(pool):
    vm = pool.vm("beta")
    os.kill(vm["pid"], signal.SIGKILL)
    pools.wait_for("beta to run again", 30, lambda: pool.vm("beta")["state"] == "running" and
                   pool.vm("beta").get("pid") not in (None, vm["pid"]))
    pool.godwit("ha", "rm", "beta")
    os.kill(pool.vm("beta")["pid"], signal.SIGKILL)
    pools.wait_for("beta to be told as crashed", 10, lambda: pool.vm("beta")["state"] == "crashed")


def ha_that_is_disarmed_arms_itself_again(pool):
    pool.godwit("ha", "disarm", "--for", "2s")
    expect(pool.json("ha", "status")["armed"] is False, "it is armed")
    pools.wait_for("HA to be armed again", 10, lambda: pool.json("ha", "status")["armed"] is True)


if __name__ == "__main__":
    pool_case.run([
        a_host_that_dies_is_fenced_and_its_vm_runs_again_elsewhere,
        a_host_that_others_reach_is_left_alone,
        a_cut_off_host_that_goes_on_running_is_evicted_over_the_store_and_nothing_runs_twice,
        a_vm_that_a_kill_does_not_end_is_left_to_the_watchdog,
        a_fenced_life_that_comes_back_is_quarantined_and_nothing_runs_twice,
        a_vm_that_crashes_is_started_again_and_one_without_protection_is_not,
        ha_that_is_disarmed_arms_itself_again,
    ], hosts=3, kind=HaPool)

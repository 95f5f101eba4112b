#!/usr/bin/env python3
"""Three real libvirtd under real agents: hosts that die and hosts that are cut off, with what runs there. A protected
domain runs again elsewhere, once; the host that comes back gives up what was superseded."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from pool_case import expect, pools, run

import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)

LOAD = "writers=1 rate=10 ws=16 fill=random fillmb=32"
FENCE = '''#!/usr/bin/env python3
"""A fence agent for the test: the "power" of a host is its agent, its libvirtd and its QEMUs."""
import os, pathlib, signal, sys
words = dict(line.strip().split("=", 1) for line in sys.stdin if "=" in line)
folder = pathlib.Path(words["plug"])
mounts = "/".join(folder.parts[-2:]) + "/libvirt/run"

def processes():
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().split(b"\\0")
            if entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                continue
            program = os.path.basename(line[0].decode(errors="replace"))
            named = any(w.decode(errors="replace").startswith(str(folder) + "/") for w in line)
            if program in ("godwit-agent", "libvirtd") and named:
                found.append(int(entry.name))
            elif program.startswith("qemu-system") and mounts in (entry / "mountinfo").read_text():
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


class HaVirtPool(virt_pool.VirtPool):
    def start_coordinator(self):
        folder = self.dir / "fence"
        folder.mkdir(exist_ok=True)
        script = folder / "fence_test"
        script.write_text(FENCE)
        script.chmod(0o755)
        self.coordinator_words = ["--fence-dir", folder]
        super().start_coordinator()


class Watch(threading.Thread):
    """The most QEMUs of the domain at once, of all hosts, looked at without libvirt; an incoming one would count, and none
    comes. What a libvirtd starts to learn what a QEMU can (`-machine none`) has no guest."""

    def __init__(self, pool):
        super().__init__(daemon=True)
        self.pool, self.over, self.most, self.seen = pool, threading.Event(), 0, []

    def run(self):
        while not self.over.wait(0.01):
            guests = []
            for host in self.pool.hosts:
                for pid in host.qemu_pids():
                    try:
                        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    except OSError:
                        continue
                    if any(w.startswith(b"guest=dom") for w in words):
                        guests.append((host.name, pid, b" ".join(words)[:300]))
            if len(guests) > self.most:
                self.most, self.seen = len(guests), guests

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def ha_host(pool, name):
    return next(h for h in pool.json("ha", "status")["hosts"] if h["host"] == name)


def host_of(pool, name="dom"):
    return next(h for h in pool.hosts if h.name == pool.vm(name)["host"])


def wait_well(pool, host):
    pools.wait_for(f"{host.name} to be well again", 120, lambda: ha_host(pool, host.name)["state"] == "well", 0.2)


def cut(pool, host, up):
    subprocess.run(["ip", "-n", f"{pool.tag}-sw", "link", "set", f"p{host.number}", "up" if up else "down"], check=True)


def kill_host(host):
    """As a power loss: all at once, as far as signals are."""
    pids = host.qemu_pids()
    host.agent.send_signal(signal.SIGSTOP)  # it must not see the ends and act on them
    host.kill_libvirtd()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    host.kill_agent()
    pools.wait_for(f"QEMUs of {host.name} to be gone", 60, lambda: not host.qemu_pids())


def revive(pool, host):
    host.start_libvirtd()
    host.start_agent()
    wait_well(pool, host)


def need_domain_on(pool, number):
    """Adopted, protected, and running on that host: not the first one, which has the coordinator."""
    host = pool.hosts[number - 1]
    if not any(vm["name"] == "dom" for vm in pool.ls("vm")):
        pool.define(host, "dom", LOAD, memory_mib=128)
        pools.wait_for("dom to be found", 90, lambda: any(v["name"] == "dom" for v in pool.ls("vm")), 0.1)
    if pool.vm("dom").get("unadopted"):
        pool.godwit("vm", "adopt", "dom")
    pools.wait_for("dom to run", 90, lambda: pool.vm("dom")["state"] == "running", 0.1)
    pool.godwit("ha", "add", "dom")
    if pool.vm("dom")["host"] != host.name:
        pool.godwit("migrate", "dom", "--to", host.name, timeout=300)
    pools.wait_for("dom to be there", 90, lambda: pool.runs_on("dom") == [host.name], 0.1)
    return host


def runs_elsewhere(pool, dead, since, seconds=120):
    def look():
        vm = next((v for v in pool.ls("vm") if v["name"] == "dom"), None)
        return vm if vm and vm["state"] == "running" and vm.get("host") != dead.name else None
    vm = pools.wait_for("dom to run elsewhere", seconds, look, 0.1)
    print(f"        it ran on {vm['host']} {time.monotonic() - since:.1f} s later")
    return vm


def expect_one(pool):
    host = host_of(pool)
    pools.wait_for("one copy", 60, lambda: pool.runs_on("dom") == [host.name], 0.2)
    expect(sum(len(h.qemu_pids()) for h in pool.hosts) == 1, str({h.name: h.qemu_pids() for h in pool.hosts}))
    pool.verify_domain(host, "dom")


def a_dead_hosts_domain_runs_again_elsewhere_and_the_host_comes_back_without_it(pool):
    dead = need_domain_on(pool, 2)
    pool.godwit("ha", "fence-agent", dead.name, "fence_test", "--options", f"plug={dead.dir}")
    before = pool.vm("dom")["generation"]
    with Watch(pool) as watch:
        since = time.monotonic()
        kill_host(dead)
        vm = runs_elsewhere(pool, dead, since)
        expect(vm["generation"] > before, f"generation {vm['generation']} after {before}")
        expect(ha_host(pool, dead.name)["fenced_by"] == "F2", str(ha_host(pool, dead.name)))
        expect_one(pool)
        revive(pool, dead)
        expect_one(pool)
    expect(watch.most == 1, f"{watch.most} QEMUs at once: {watch.seen}")
    expect(dead.domain_state("dom") in (None, "shut off"), dead.domain_state("dom"))
    pool.godwit("migrate", "dom", "--to", dead.name, timeout=300)  # what it had of it stands in nobody's way
    expect_one(pool)


def is_in_record(pool, words):
    """The pool's own copy of definitions, as its database has it. Short words: a page of the file may end in long ones."""
    return any(words in file.read_bytes() for file in (pool.state / "coordinator").glob("pool.db*"))


def what_was_changed_in_the_definition_is_what_starts_elsewhere(pool):
    dead = lose_to_another(pool, 3)
    dead.virsh("desc", "dom", "--config", "gwfirst")  # it may be taken with what a move has put in other words
    pools.wait_for("its definition to be read", 60, lambda: is_in_record(pool, b"gwfirst"), 0.2)
    dead.virsh("desc", "dom", "--config", "gwlast")  # a disk of an external snapshot is such a change
    pools.wait_for("the record to follow", 60, lambda: is_in_record(pool, b"gwlast"), 0.2)
    pools.wait_for("that to be told", 60, lambda: f"the definition of dom was changed on {dead.name}" in events(pool), 0.2)
    with Watch(pool) as watch:
        since = time.monotonic()
        kill_host(dead)
        runs_elsewhere(pool, dead, since)
        expect("gwlast" in host_of(pool).virsh("desc", "dom").stdout, "an older definition was started")
        revive(pool, dead)
        expect_one(pool)
    expect(watch.most == 1, f"{watch.most} QEMUs at once: {watch.seen}")


def boot(pool, host):
    """As after a power loss: what was in /run is gone, so libvirt starts what has autostart, as it does once a boot."""
    for place in (host.dir / "libvirt" / "run", host.run_dir):
        for entry in place.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    revive(pool, host)


def has_autostart(host):
    """None: it has no such domain."""
    found = re.search(r"^Autostart: +(\w+)", host.virsh("dominfo", "dom", check=False).stdout, re.M)
    return found and found[1] == "enable"


def events(pool):
    return pool.godwit("events").stdout


def lose_to_another(pool, number):
    """The host dies, and HA starts the domain elsewhere."""
    dead = need_domain_on(pool, number)
    pool.godwit("ha", "fence-agent", dead.name, "fence_test", "--options", f"plug={dead.dir}")
    return dead


def a_host_that_boots_starts_no_second_copy_of_what_ha_protects(pool):
    dead = lose_to_another(pool, 2)
    dead.virsh("autostart", "dom")
    pools.wait_for("autostart to be switched off", 60, lambda: has_autostart(dead) is False, 0.2)
    expect(f"autostart of dom on {dead.name} is switched off" in events(pool), events(pool))
    with Watch(pool) as watch:
        since = time.monotonic()
        kill_host(dead)
        runs_elsewhere(pool, dead, since)
        boot(pool, dead)
        expect_one(pool)
    expect(watch.most == 1, f"{watch.most} QEMUs at once: {watch.seen}")


def a_second_copy_that_libvirt_starts_all_the_same_is_a_conflict(pool):
    dead = lose_to_another(pool, 2)
    since = time.monotonic()
    kill_host(dead)
    runs_elsewhere(pool, dead, since)
    # Switched on by hand while the pool could not see it.
    folder = dead.dir / "libvirt" / "etc" / "qemu" / "autostart"
    folder.mkdir(exist_ok=True)
    (folder / "dom.xml").symlink_to("/etc/libvirt/qemu/dom.xml")
    before = events(pool).count("conflict: dom runs on")
    boot(pool, dead)
    pools.wait_for("the alarm", 60, lambda: events(pool).count("conflict: dom runs on") > before, 0.2)
    expect(sorted(pool.runs_on("dom")) == sorted([host_of(pool).name, dead.name]), "one of them was stopped")
    pools.wait_for("autostart to be switched off", 60, lambda: has_autostart(dead) is False, 0.2)
    dead.virsh("destroy", "dom")
    pools.wait_for("the end of it", 60, lambda: events(pool).rfind("the conflict over dom is over") >
                   events(pool).rfind("conflict: dom runs on"), 0.2)
    expect_one(pool)


def share_heartbeats(pool):
    store = pool.dir / "shared"
    store.mkdir(exist_ok=True)
    for host in pool.hosts:
        config = host.dir / "agent" / "agent.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "heartbeat_dir": str(store)}))
        host.kill_agent(signal.SIGTERM)
        host.start_agent()
    pool.wait_hosts_up(90)


def cut_off(pool, number, first=None):
    """A host that runs on behind a cut, but reaches the store: its domain ends there, then starts elsewhere."""
    host = need_domain_on(pool, number)
    pool.godwit("ha", "fence-agent", host.name)  # F1 only
    if "heartbeat_dir" not in json.loads((host.dir / "agent" / "agent.json").read_text()):
        share_heartbeats(pool)
    pools.wait_for("F1", 60, lambda: ha_host(pool, host.name)["classes"] == "F1", 0.2)
    pools.wait_for("dom to be known", 60, lambda: pool.vm("dom")["state"] == "running", 0.1)
    if first:
        first(host)
    with Watch(pool) as watch:
        since = time.monotonic()
        cut(pool, host, False)
        try:
            runs_elsewhere(pool, host, since)
            expect(not host.qemu_pids(), "the cut-off host still runs it")
        finally:
            cut(pool, host, True)
        if not host.libvirtd:
            host.start_libvirtd()
        wait_well(pool, host)
        expect_one(pool)
    expect(watch.most == 1, f"{watch.most} QEMUs at once: {watch.seen}")


def a_cut_off_hosts_domain_is_ended_there_before_it_starts_elsewhere(pool):
    cut_off(pool, 3)


def a_cut_off_host_whose_libvirtd_is_gone_ends_the_qemu_itself(pool):
    cut_off(pool, 3, first=lambda host: host.kill_libvirtd())


if __name__ == "__main__":
    why_not = virt_pool.missing()
    if why_not:
        print(f"skipped: {why_not}")
        sys.exit(77)
    run([
        a_dead_hosts_domain_runs_again_elsewhere_and_the_host_comes_back_without_it,
        what_was_changed_in_the_definition_is_what_starts_elsewhere,
        a_host_that_boots_starts_no_second_copy_of_what_ha_protects,
        a_second_copy_that_libvirt_starts_all_the_same_is_a_conflict,
        a_cut_off_hosts_domain_is_ended_there_before_it_starts_elsewhere,
        a_cut_off_host_whose_libvirtd_is_gone_ends_the_qemu_itself,
    ], hosts=3, kind=HaVirtPool)

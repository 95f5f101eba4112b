#!/usr/bin/env python3
"""Two real pools, each a host and a coordinator of its own, one of which holds a replica for the other: taken over planned
and without a loss, taken by an operator's word when the other site is dead, and that site comes back and starts nothing.
A copy of what is held runs beside it, and is never the VM. Every page is judged by the guest itself."""
import os
import pathlib
import signal
import socket
import sys
import tempfile

import pool_case
from pool_case import expect, pools
from test_pool_peers import TwoSites, invite, refusal, wait_peer

DISK_MIB = 32
DISKS = tempfile.TemporaryDirectory(prefix="godwit-dr-peers-", dir="/var/tmp")  # a tmpfs knows no O_DIRECT


def need_peers(pool):
    """The second site calls the first; each has a store of one name in a place of its own."""
    if pool.json("pool", "peer", "ls"):
        return
    pool.other.godwit("pool", "peer", "add", invite(pool))
    wait_peer(pool, "site-b", "linked")
    wait_peer(pool.other, "site-a", "linked")
    for site in (pool, pool.other):
        folder = pathlib.Path(DISKS.name) / site.pool_name
        folder.mkdir()
        site.godwit("store", "add", "fast", folder, "--hosts", "node1")
        site.godwit("store", "add", "boot", os.path.abspath(os.path.dirname(site.guest_elf())), "--hosts", "node1")  # a kernel's folder, too


def need_guest(site):
    if any(v["name"] == "web" for v in site.ls("vm")):
        return
    path = site.dir / "web.yaml"
    path.write_text("\n".join([
        "name: web", f"kernel: {site.guest_elf()}",
        f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=64 writers=1 rate=2 ws=8 fill=random fillmb=16",
        "cpu: {vcpus: 1}", "memory: {size: 96MiB}", "disks:",
        f"  - {{name: root, store: fast, file: web.raw, size: {DISK_MIB}MiB}}"]) + "\n")
    site.godwit("vm", "create", "-f", path)
    pools.wait_for("web ready", 60, lambda: "gw ready" in site.godwit("vm", "logs", "web", check=False).stdout)


def status(site):
    found = site.godwit("dr", "status", "web", "-o", "json", check=False)
    if found.returncode != 0:
        return None
    listed = __import__("json").loads(found.stdout or "[]")
    return listed[0] if listed else None


def wait_state(site, *states, seconds=90):
    """One of these; what it was last is told when it does not come."""
    seen = {}

    def look():
        seen["now"] = status(site)
        return seen["now"] if seen["now"] and seen["now"]["state"] in states else None
    try:
        return pools.wait_for(f"web to be {states} in {site.pool_name}", seconds, look, 0.1)
    except pools.PoolError as error:
        raise pools.PoolError(f"{error}: {seen['now']}") from error


def protect(pool, source, holder):
    need_peers(pool)
    need_guest(source)
    if status(source) is None:
        source.godwit("dr", "protect", "web", "--to", holder.pool_name, "--rpo", "2s")
    wait_state(source, "protected")
    return wait_state(holder, "held")


def is_whole(site, name="web"):
    """Running here, every page and every acknowledged block what it must be, and it goes on."""
    pools.wait_for(f"{name} to run", 30, lambda: site.vm(name).get("state") == "running")
    site.verify(name)
    before = int(site.ask(name, "disk", "gw disk ")["written"])
    pools.wait_for("more blocks to be written", 60, lambda: int(
        site.ask(name, "disk", "gw disk ")["written"]) > before)
    record = site.ask(name, "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " ", record["_"])


def comes_to_rest(site):
    """Who has nothing to run any more may take a moment to end."""
    pools.wait_for(f"{site.pool_name} to run nothing", 30, lambda: not site.hosts[0].vm_pids())


def runs_nothing(site):
    expect(not site.hosts[0].vm_pids(), f"{site.pool_name} runs {site.hosts[0].vm_pids()}")


def site_dies(site):
    """As by a loss of power: everything of it at one instant."""
    for pid in site.hosts[0].vm_pids():
        os.kill(pid, signal.SIGKILL)
    site.hosts[0].kill_agent()
    site.kill_coordinator()


def site_comes_back(site):
    site.start_coordinator()
    site.hosts[0].start_agent()
    site.wait_hosts_up(60)


def clear(source, holder):
    """Afterwards: the old copy goes, once that pool has heard where it runs, and the VM too."""
    if status(source):
        pools.wait_for("it was heard of", 60, lambda: "has not heard" not in ((status(holder) or {}).get("reason") or ""))
    if status(source):
        source.godwit("dr", "unprotect", "web", "--force")
        pools.wait_for("no record of it", 60, lambda: status(source) is None)
    source.godwit("vm", "rm", "web", "--stop", "-y")
    if status(holder):
        holder.godwit("dr", "unprotect", "web", "--force")
        pools.wait_for("no record of it there", 60, lambda: status(holder) is None)
    if any(v["name"] == "web" for v in holder.ls("vm")):
        holder.godwit("vm", "rm", "web", "--stop", "-y")
    comes_to_rest(source)
    comes_to_rest(holder)


def a_replica_is_held_by_the_other_pool(pool):
    need_peers(pool)
    need_guest(pool)
    told = refusal(pool, "dr", "protect", "web", "--to", "pool:nowhere")
    expect(told["code"] == "GW-2307", told)
    told = refusal(pool, "dr", "protect", "web", "--to", "site-b", "--auto")
    expect("within one pool" in told["message"], told)
    there = protect(pool, pool, pool.other)
    here = status(pool)
    expect(here["target"] == "pool:site-b" and here["peer_host"] == "node1", here)
    expect(there["source"] == "pool:site-a" and there["target"] == "node1" and there["peer_holds"], there)
    expect("rpo_ms" in here and "rpo_ms" in there, (here, there))
    later = pools.wait_for("3 more checkpoints", 60, lambda: (
        lambda s: s if s["checkpoints"] >= here["checkpoints"] + 3 else None)(status(pool)), 0.2)
    expect(later["is_linked"], later)
    is_whole(pool)


def what_is_held_is_nobodys_to_start(pool):
    protect(pool, pool, pool.other)
    for words in (("vm", "start", "web"), ("vm", "rm", "web", "-y")):
        told = refusal(pool.other, *words)
        expect("held for pool site-a" in told["message"], told)
    told = refusal(pool, "dr", "failover", "web")
    expect("site-b" in told["message"] + told["hint"], told)
    told = refusal(pool.other, "dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "site-a")
    expect("answers" in told["message"], told)
    for site, name in ((pool, "site-b"), (pool.other, "site-a")):
        told = refusal(site, "pool", "peer", "rm", "-y", name)
        expect("replicas" in told["message"], told)
    told = refusal(pool.other, "dr", "unprotect", "web")
    expect("--force" in told["hint"], told)


def whoever_has_not_the_key_is_not_let_in(pool):
    """What a replica listens at takes its one-time key, and nothing else: no certificate of either pool."""
    before = protect(pool, pool, pool.other)["checkpoints"]
    pids = set(pool.other.hosts[0].vm_pids())
    ports = listening_ports(pids)
    expect(ports, "the replica listens nowhere")
    for place in ports:
        with socket.create_connection(place, timeout=20) as line:
            line.sendall(b"\x16\x03\x01\x00\x05hello" + bytes(64))
            line.settimeout(2)  # it may let it wait as long as it has its source
            try:
                while line.recv(4096):
                    pass
            except OSError:
                pass
    pools.wait_for("replication to go on", 60, lambda: status(pool)["checkpoints"] > before + 1, 0.2)
    expect(set(pool.other.hosts[0].vm_pids()) == pids, "the replica's process is another")


def listening_ports(pids):
    inodes = set()
    for pid in pids:
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = os.readlink(fd)
            except OSError:
                continue
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    found = []
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            address, port = words[1].split(":")
            found.append((".".join(str(b) for b in reversed(bytes.fromhex(address))), int(port, 16)))
    return found


def files_of_copy(site, copy_id, name):
    """All that there is of it: disks in the site's store, what its host's agent keeps."""
    folder = pathlib.Path(DISKS.name) / site.pool_name
    return [at for at in folder.rglob("*") if copy_id in at.name or name in at.name] + list(
        site.hosts[0].dir.rglob(f"*{copy_id}*"))


def nothing_is_left(site, copy_id, name):
    pools.wait_for(f"nothing to be left of {name}", 30, lambda: not files_of_copy(site, copy_id, name))
    expect(all(v["name"] != name for v in site.ls("vm")), f"{name} is still a VM")


def let_a_copy_run(holder):
    done = holder.godwit("dr", "test", "web", timeout=180)
    expect("on no network" in done.stdout, done.stdout + done.stderr)
    print(f"        {done.stdout.strip()}")
    test = status(holder)["test"]
    expect(test["step"] == "runs", test)
    expect(files_of_copy(holder, test["copy_id"], "web-test"), "it has no disk of its own")
    is_whole(holder, "web-test")
    return test


def a_copy_of_what_is_held_is_never_the_vm(pool):
    """It runs beside the replica, which goes on; the other pool does not notice."""
    source, holder = pool, pool.other
    protect(pool, source, holder)
    before = status(source)
    told = refusal(source, "dr", "test", "web")
    expect("in pool site-b" in told["message"], told)
    test = let_a_copy_run(holder)
    expect(test["copy_id"] != source.vm("web")["id"] == holder.vm("web")["id"], test)
    expect(len(holder.hosts[0].vm_pids()) == 2, "not two processes there: the replica's and the copy's")
    later = pools.wait_for("3 more checkpoints while it runs", 60, lambda: (
        lambda s: s if s["checkpoints"] >= before["checkpoints"] + 3 else None)(status(source)), 0.2)
    expect(later["state"] == "protected" and later["is_linked"], later)
    expect(later["missed_count"] == before["missed_count"], later)
    is_whole(source)
    expect("test" not in later, later)
    for words in (("vm", "start", "web"), ("dr", "test", "web"), ("ha", "add", "web-test")):
        refusal(holder, *words)
    holder.kill_coordinator()
    holder.start_coordinator()
    wait_state(holder, "held")
    expect(status(holder)["test"]["step"] == "runs", "a new coordinator does not remember it")
    is_whole(holder, "web-test")
    holder.godwit("dr", "test", "web", "--end")
    nothing_is_left(holder, test["copy_id"], "web-test")
    pools.wait_for("the copy's process to end", 30, lambda: len(holder.hosts[0].vm_pids()) == 1)
    wait_state(source, "protected")
    wait_state(holder, "held")
    is_whole(source)


def a_drill_of_what_is_held_finds_out_by_itself(pool):
    holder = pool.other
    protect(pool, pool, holder)
    done = holder.godwit("dr", "drill", "web", "--now", timeout=180)
    expect("RPO" in done.stdout and "ran for" in done.stdout, done.stdout + done.stderr)
    print(f"        {done.stdout.strip()}")
    test = status(holder)["test"]
    expect(test["is_drill"] and test["step"] == "over" and not test.get("error"), test)
    expect(test["ran_ms"] >= 10000 and test["vcpu_ms"] > 0 and test["rto_ms"] > 0, test)
    nothing_is_left(holder, test["copy_id"], "web-drill")
    holder.godwit("dr", "drill", "web", "--every", "24h")
    expect(status(holder)["drill_every_ms"] == 24 * 3600 * 1000, status(holder))
    holder.godwit("dr", "drill", "web", "--off")
    wait_state(pool, "protected")


def it_is_taken_over_while_a_copy_runs(pool):
    source, holder = pool, pool.other
    protect(pool, source, holder)
    test = let_a_copy_run(holder)
    written = int(source.ask("web", "disk", "gw disk ")["written"])
    done = holder.godwit("dr", "failover", "web", timeout=180)
    expect("nothing was lost" in done.stdout, done.stdout + done.stderr)
    expect(int(holder.ask("web", "disk", "gw disk ")["written"]) >= written, "what it had written is not there")
    is_whole(holder)
    is_whole(holder, "web-test")
    wait_state(source, "away")
    comes_to_rest(source)
    holder.godwit("dr", "test", "web", "--end")
    nothing_is_left(holder, test["copy_id"], "web-test")
    is_whole(holder)
    clear(source, holder)


def a_copy_goes_with_what_is_held_when_its_pool_unprotects_it(pool):
    source, holder = pool, pool.other
    protect(pool, source, holder)
    test = let_a_copy_run(holder)
    source.godwit("dr", "unprotect", "web")
    pools.wait_for("no record of it", 60, lambda: status(source) is None and status(holder) is None)
    nothing_is_left(holder, test["copy_id"], "web-test")
    pools.wait_for("no process of it", 60, lambda: not holder.hosts[0].vm_pids())
    expect(not holder.ls("vm"), holder.ls("vm"))
    is_whole(source)


def a_planned_takeover_loses_nothing(pool):
    protect(pool, pool, pool.other)
    before = int(pool.ask("web", "disk", "gw disk ")["written"])
    done = pool.other.godwit("dr", "failover", "web", timeout=180)
    expect("nothing was lost" in done.stdout, done.stdout + done.stderr)
    print(f"        {done.stdout.strip()}")
    expect(int(pool.other.ask("web", "disk", "gw disk ")["written"]) >= before, "what it had written is not there")
    is_whole(pool.other)
    wait_state(pool, "away")
    comes_to_rest(pool)
    told = refusal(pool, "vm", "start", "web")
    expect("taken over by pool site-b" in told["message"], told)
    told = refusal(pool, "dr", "unprotect", "web")
    expect("--force" in told["hint"], told)
    wait_state(pool.other, "away")
    clear(pool, pool.other)


def it_goes_back_by_the_steps_that_failback_lists(pool):
    """As an operator would: word for word, each once the one before is through."""
    source, holder = pool, pool.other
    protect(pool, source, holder)
    holder.godwit("dr", "failover", "web", timeout=180)
    is_whole(holder)
    pools.wait_for("it was heard of", 60, lambda: "has not heard" not in ((status(holder) or {}).get("reason") or ""))
    written = int(holder.ask("web", "disk", "gw disk ")["written"])
    told = refusal(holder, "dr", "failback", "web")
    expect("in the other direction" in told["message"] and len(told["details"]) == 4, told)
    for line in told["details"]:
        place, commands = line.split(". ", 1)[1].split(": ", 1)
        site = holder if place.startswith("here") else source
        if "once it is held" in place:
            wait_state(holder, "protected")
            wait_state(source, "held")
        for command in commands.split(", then "):
            done = site.godwit(*command.split()[1:], "-y", timeout=180)
            if "unprotect" in command:
                pools.wait_for("no record of it", 60, lambda: status(site) is None)
    expect("nothing was lost" in done.stdout, done.stdout + done.stderr)
    expect(int(source.ask("web", "disk", "gw disk ")["written"]) >= written, "what it had written is not there")
    is_whole(source)
    runs_nothing(holder)
    wait_state(holder, "away")
    clear(holder, source)


def a_dead_site_is_taken_by_word_and_starts_nothing_when_it_is_back(pool):
    """The other way round: the site that keeps the line protects, and dies."""
    source, holder = pool.other, pool
    protect(pool, source, holder)
    source.godwit("ha", "add", "web")
    site_dies(source)
    wait_peer(holder, "site-b", "away")
    told = refusal(holder, "dr", "failover", "web")
    expect(told["code"] == "GW-2803", told)
    told = refusal(holder, "dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "node1")
    expect("site-b" in told["message"], told)
    done = holder.godwit("dr", "failover", "web", "--accept-split", "--yes-the-old-host-is-gone", "site-b", timeout=180)
    print(f"        {done.stdout.strip()}")
    is_whole(holder)
    audit = holder.godwit("audit", "ls", "-o", "json").stdout
    expect("dr-failover-split" in audit, "the audit does not tell")
    site_comes_back(source)
    wait_state(source, "away")
    wait_state(holder, "away")
    comes_to_rest(source)
    told = refusal(source, "vm", "start", "web")
    expect("taken over by pool site-a" in told["message"], told)
    runs_nothing(source)
    is_whole(holder)
    clear(source, holder)


def without_the_other_pool_nothing_is_started_and_with_it_it_is(pool):
    protect(pool, pool, pool.other)
    pool.other.kill_coordinator()
    wait_peer(pool, "site-b", "away")
    is_whole(pool)  # what runs is nobody's to stop
    pool.godwit("vm", "stop", "web")
    pools.wait_for("no permit any more", 60, lambda: "does not answer" in pool.godwit(
        "vm", "start", "web", check=False).stderr, 0.5)
    comes_to_rest(pool)
    pool.other.start_coordinator()
    wait_peer(pool, "site-b", "linked")
    pools.wait_for("it to be permitted", 60, lambda: pool.godwit("vm", "start", "web", check=False).returncode == 0, 0.2)
    pools.wait_for("web ready", 60, lambda: pool.vm("web").get("state") == "running")
    wait_state(pool, "protected")
    wait_state(pool.other, "held")


def ha_asks_the_other_pool_too(pool):
    protect(pool, pool, pool.other)
    pool.godwit("ha", "add", "web")
    pool.other.kill_coordinator()
    wait_peer(pool, "site-b", "away")
    for pid in pool.hosts[0].vm_pids():
        os.kill(pid, signal.SIGKILL)
    pools.wait_for("HA to wait", 60, lambda: any(
        "waits to be started again" in e and "site-b" in e for e in pool.godwit("events").stdout.splitlines()), 0.5)
    runs_nothing(pool)
    pool.other.start_coordinator()
    pools.wait_for("HA to start it", 60, lambda: pool.vm("web").get("state") == "running")
    wait_state(pool, "protected")
    wait_state(pool.other, "held")
    is_whole(pool)
    pool.godwit("ha", "rm", "web")


def taken_beside_a_site_that_lives_it_is_told_as_a_conflict(pool):
    """The source's coordinator alone is dead: its guest runs on."""
    protect(pool, pool, pool.other)
    pool.kill_coordinator()
    wait_peer(pool.other, "site-a", "away")
    pool.other.godwit("dr", "failover", "web", "--confirm-down", "site-a", timeout=180)
    is_whole(pool.other)
    expect(pool.hosts[0].vm_pids(), "the case is about one that lives")
    pool.start_coordinator()
    pool.wait_hosts_up(60)
    wait_state(pool, "conflict")
    events = pool.godwit("events", "-o", "json").stdout
    expect("may run here too" in events, events[-2000:])
    expect(pool.hosts[0].vm_pids(), "it was ended, and nobody had said so")
    pool.godwit("vm", "stop", "web")
    wait_state(pool, "away")
    clear(pool, pool.other)


def unprotect_leaves_the_vm_and_takes_the_replica(pool):
    protect(pool, pool, pool.other)
    pool.godwit("dr", "unprotect", "web")
    pools.wait_for("no record of it", 60, lambda: status(pool) is None and status(pool.other) is None)
    pools.wait_for("no process of it", 60, lambda: not pool.other.hosts[0].vm_pids())
    expect(not any(v["name"] == "web" for v in pool.other.ls("vm")), "its VM is still told")
    is_whole(pool)
    protect(pool, pool, pool.other)  # and again
    pool.other.godwit("dr", "unprotect", "web", "--force")
    pools.wait_for("no process of it", 60, lambda: not pool.other.hosts[0].vm_pids())
    wait_state(pool, "late")
    clear(pool, pool.other)
    pool.godwit("pool", "peer", "rm", "-y", "site-b")
    pool.other.godwit("pool", "peer", "rm", "-y", "site-a")


CASES = [
    a_replica_is_held_by_the_other_pool,
    what_is_held_is_nobodys_to_start,
    whoever_has_not_the_key_is_not_let_in,
    a_copy_of_what_is_held_is_never_the_vm,
    a_drill_of_what_is_held_finds_out_by_itself,
    it_is_taken_over_while_a_copy_runs,
    a_copy_goes_with_what_is_held_when_its_pool_unprotects_it,
    a_planned_takeover_loses_nothing,
    it_goes_back_by_the_steps_that_failback_lists,
    a_dead_site_is_taken_by_word_and_starts_nothing_when_it_is_back,
    without_the_other_pool_nothing_is_started_and_with_it_it_is,
    ha_asks_the_other_pool_too,
    taken_beside_a_site_that_lives_it_is_told_as_a_conflict,
    unprotect_leaves_the_vm_and_takes_the_replica,
]

if __name__ == "__main__":
    sys.exit(pool_case.run(CASES, hosts=1, kind=TwoSites))

#!/usr/bin/env python3
"""A real host whose VMs go on in fresh processes of another godwit-vm: memory, disk and nic change hands, no page is
copied; what is killed in the middle leaves exactly one owner, whichever process it is."""
import os
import pathlib
import shutil
import signal
import subprocess

from pool_case import expect, expect_host, need_guest, pools, run


def program(pool):
    """A godwit-vm of our own, to be replaced by a newer one; it stops at its start while `hold` is there."""
    folder = pool.dir / "program"
    host = pool.hosts[0]
    if not host.vm_program:
        folder.mkdir()
        host.vm_program = folder / "godwit-vm"
        install(pool)
        host.kill_agent(signal.SIGTERM)
        host.start_agent()
        pool.wait_hosts_up()
    return folder


def install(pool):
    folder = pool.dir / "program"
    shutil.copy2(pool.bin / "godwit-vm", folder / "fresh")
    os.replace(folder / "fresh", folder / "godwit-vm")


def need_mover(pool):
    program(pool)
    need_guest(pool, "mover", "writers=1 rate=50 ws=64 fill=random fillmb=96", vcpus=2)


def pid_of(pool, name):
    return pool.vm(name)["pid"]


def upgrade(pool, *words):
    return pool.json("vm", "upgrade", *words)


def only_one_process_is_left(pool):
    count = len([v for v in pool.ls("vm") if v["state"] in ("running", "paused")])
    pools.wait_for("the old processes to end", 60, lambda: len(pool.hosts[0].vm_pids()) == count)


def goes_on_in_a_fresh_process_of_what_is_installed_now(pool):
    need_mover(pool)
    before = pid_of(pool, "mover")
    pool.ask("mover", "gap reset", "gw ok")
    install(pool)
    [outcome] = upgrade(pool, "mover")
    receipt = outcome["receipt"]
    expect(outcome["outcome"] == "upgraded" and receipt["moved"] and receipt["in_place"], str(outcome))
    expect(all(r.get("pages", 0) == 0 for r in receipt["rounds"]), f"pages travelled: {receipt['rounds']}")
    expect(receipt["populated_bytes"] > 96 << 20, f"less memory than the guest filled: {receipt}")
    vm = expect_host(pool, "mover", "node1")
    expect(vm["pid"] != before and vm["record_phase"] == "RUN" and vm["generation"] == 1, str(vm))
    link = os.readlink(f"/proc/{vm['pid']}/exe")
    expect(link == str(pool.hosts[0].vm_program), f"it runs {link}")
    pool.verify("mover")
    stats = pool.ask("mover", "stats", "gw stats")
    expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0, f"a clock stepped back: {stats['_']}")
    print(f"        paused {receipt['downtime_ns'] / 1e6:.2f} ms, largest hole of the guest "
          f"{int(stats['gap_ns']) / 1e6:.2f} ms", flush=True)
    only_one_process_is_left(pool)


def moves_and_comes_back_and_upgrades_again(pool):
    need_mover(pool)
    for _ in range(2):
        pool.godwit("migrate", "mover", "--to", "node2")
        expect_host(pool, "mover", "node2")
        pool.godwit("migrate", "mover", "--to", "node1")
        expect_host(pool, "mover", "node1")
        [outcome] = upgrade(pool, "mover")
        expect(outcome["outcome"] == "upgraded", str(outcome))
        pool.verify("mover")
    only_one_process_is_left(pool)


def a_paused_guest_stays_paused(pool):
    need_mover(pool)
    pool.godwit("vm", "pause", "mover")
    upgrade(pool, "mover")
    expect_host(pool, "mover", "node1", "paused")
    pool.godwit("vm", "resume", "mover")
    pool.verify("mover")


def a_guest_that_resets_after_it_boots_again(pool):
    need_mover(pool)
    upgrade(pool, "mover")
    pool.godwit("vm", "console", "mover", "--until", "gw ready", "--timeout", "60s", stdin="reset\n")
    pool.verify("mover")


def hands_over_disk_and_nic_under_the_same_stamp(pool):
    program(pool)
    host = pool.hosts[0]
    nics = []
    if host.namespace:
        subprocess.run(["ip", "-n", host.namespace, "link", "add", "vmbr0", "type", "bridge"], check=True)
        subprocess.run(["ip", "-n", host.namespace, "link", "set", "vmbr0", "up"], check=True)
        pools.wait_for("the bridge to be told", 20,
                       lambda: "vmbr0" in pool.json("host", "show", "node1")["facts"].get("bridges", []))
        nics = ["nics:", "  - {bridge: vmbr0, queues: 1}"]
    (pool.dir / "share").mkdir()
    path = pool.dir / "writer.yaml"
    path.write_text("\n".join([
        "name: writer", f"kernel: {pool.guest_elf()}", "cmdline: vcpus=1 disk=16 diskrate=300 fill=random fillmb=16",
        "cpu: {vcpus: 1}", "memory: {size: 128MiB}", "host: node1", "disks:",
        f"  - {{name: root, store: {pool.dir / 'share'}, file: writer.raw, size: 16MiB, shared: true}}", *nics]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("the writer to be ready", 60,
                   lambda: "gw ready" in pool.godwit("vm", "logs", "writer", check=False).stdout)
    stamps = sorted((pool.dir / "share").glob(".godwit/*/stamp/after-*"))
    for _ in range(3):
        [outcome] = upgrade(pool, "writer")
        expect(outcome["outcome"] == "upgraded", str(outcome))
        written = int(pool.ask("writer", "disk", "gw disk ")["written"])
        pools.wait_for("more blocks to be written", 60,
                       lambda: int(pool.ask("writer", "disk", "gw disk ")["written"]) > written + 20)
        record = pool.ask("writer", "disk verify", "gw diskverify")
        expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])
        pool.verify("writer")
    expect(sorted((pool.dir / "share").glob(".godwit/*/stamp/after-*")) == stamps, "the stamp changed")
    if host.namespace:
        out = subprocess.run(["ip", "-n", host.namespace, "-o", "link"], capture_output=True, text=True, check=True)
        taps = [line for line in out.stdout.splitlines() if line.split(":")[1].strip().startswith("gw")]
        expect(len(taps) == 1, f"taps: {taps}")
    only_one_process_is_left(pool)


def upgrades_all_of_a_host_and_tells_of_each(pool):
    need_mover(pool)
    before = {v["name"]: v["pid"] for v in pool.ls("vm") if v["state"] == "running"}
    outcomes = pool.json("host", "upgrade", "node1")
    expect({o["vm"] for o in outcomes} == set(before) and all(o["outcome"] == "upgraded" for o in outcomes),
           str(outcomes))
    expect(all(pid_of(pool, name) != pid for name, pid in before.items()), "a process is still the old one")
    table = pool.godwit("host", "upgrade", "node1").stdout
    expect("OUTCOME" in table and "PAUSE" in table, table)
    nobody = pool.godwit("host", "upgrade", "node9", check=False)
    expect(nobody.returncode == 3, f"exit {nobody.returncode}: {nobody.stderr}")
    only_one_process_is_left(pool)


def a_program_that_cannot_run_leaves_the_guest_where_it_is(pool):
    need_mover(pool)
    before = pid_of(pool, "mover")
    broken = pool.dir / "program" / "fresh"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    os.replace(broken, pool.hosts[0].vm_program)
    failed = pool.godwit("vm", "upgrade", "mover", check=False)
    expect(failed.returncode == 6 and "not upgraded" in failed.stderr, f"{failed.returncode}: {failed.stderr}")
    install(pool)
    expect(pid_of(pool, "mover") == before, "another process has it")
    expect_host(pool, "mover", "node1")
    pool.verify("mover")
    [outcome] = upgrade(pool, "mover")
    expect(outcome["outcome"] == "upgraded", str(outcome))


def agents_and_processes_killed_in_the_middle_leave_exactly_one_owner(pool):
    """Each time the agent is killed a little later, or the next process is; nothing of it may cost the guest."""
    need_mover(pool)
    host = pool.hosts[0]
    run_dir = next(p.parent for p in pathlib.Path(host.run_dir, "vms").glob("*/control.sock")
                   if p.parent.name == pool.json("vm", "show", "mover")["id"])
    for kills_agent in (True, False, True, False, True):
        started = pool.start_godwit("vm", "upgrade", "mover")
        pools.wait_for("the next process to be there", 60,
                       lambda: (run_dir / "next.latch").exists() or started.poll() is not None, pause=0)
        if kills_agent:
            host.kill_agent()
            host.start_agent()
            pool.wait_hosts_up()
        else:
            old = pool.vm("mover")["pid"]
            for pid in host.vm_pids():
                if pid != old and f"{run_dir}/next.latch" in pathlib.Path(f"/proc/{pid}/maps").read_text():
                    os.kill(pid, signal.SIGKILL)
        started.wait(timeout=120)
        pools.wait_for("the upgrade to have ended, either way", 60, lambda: not (run_dir / "next.latch").exists())
        expect_host(pool, "mover", "node1")
        pool.verify("mover")
        only_one_process_is_left(pool)
    [outcome] = upgrade(pool, "mover")
    expect(outcome["outcome"] == "upgraded", str(outcome))
    pool.godwit("migrate", "mover", "--to", "node2")
    expect_host(pool, "mover", "node2")
    pool.verify("mover")


FAULTS = [  # what happens where, and whether the next process has the guest afterwards
    ("source.save=error", False), ("target.populate=error", False), ("target.load=error", False),
    ("target.before_ready=kill", False), ("target.ready=kill", False), ("target.before_took=kill", False),
    ("source.after_gave=kill", True), ("source.transfer=drop", True), ("target.started=drop", True),
    ("source.before_released=kill", True)]


def whatever_fails_where_one_of_the_two_has_the_guest(pool):
    need_mover(pool)
    host = pool.hosts[0]
    for spec, upgraded in FAULTS:
        before = pid_of(pool, "mover")
        host.failpoints.write_text(spec + "\n")
        done = pool.godwit("vm", "upgrade", "mover", check=False)
        hits = [line for line in host.failpoints.read_text().splitlines() if line.startswith("hit ")]
        host.failpoints.write_text("")
        expect(len(hits) == 1, f"{spec} was not reached once: {hits}, exit {done.returncode}: {done.stderr}")
        expect(done.returncode == (0 if upgraded else 6), f"{spec}: exit {done.returncode}: {done.stdout}{done.stderr}")
        vm = expect_host(pool, "mover", "node1")
        expect((vm["pid"] != before) == upgraded, f"{spec}: pid {before}, then {vm['pid']}")
        pool.verify("mover")
        only_one_process_is_left(pool)


run([goes_on_in_a_fresh_process_of_what_is_installed_now,
     moves_and_comes_back_and_upgrades_again,
     a_paused_guest_stays_paused,
     a_guest_that_resets_after_it_boots_again,
     hands_over_disk_and_nic_under_the_same_stamp,
     upgrades_all_of_a_host_and_tells_of_each,
     a_program_that_cannot_run_leaves_the_guest_where_it_is,
     whatever_fails_where_one_of_the_two_has_the_guest,
     agents_and_processes_killed_in_the_middle_leave_exactly_one_owner], failpoints=True)

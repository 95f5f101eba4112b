#!/usr/bin/env python3
"""A real host whose VMs go into files and come out again: once, whole, or not at all."""
import os
import pathlib
import signal
import subprocess

from pool_case import LeftOut, expect, expect_host, need_guest, pools, run


def need_sleeper(pool, **more):
    need_guest(pool, "sleeper", "writers=1 rate=20 ws=32 fill=random fillmb=64", vcpus=2, **more)


def file_of(pool, name):
    return pathlib.Path(pool.hosts[0].dir, "agent", "vms", pool.vm(name)["id"], "suspended")


def suspend(pool, name="sleeper"):
    pool.godwit("vm", "suspend", name)
    return expect_host(pool, name, "node1", "suspended")


def resume(pool, name="sleeper"):
    pool.godwit("vm", "resume", name)
    return expect_host(pool, name, "node1")


def goes_into_a_file_and_comes_out_whole(pool):
    need_sleeper(pool)
    before = pool.vm("sleeper")
    vm = suspend(pool)
    size = file_of(pool, "sleeper").stat().st_size
    expect(vm["record_phase"] == "STOPPED" and not vm.get("pid"), str(vm))
    expect(64 << 20 < size < 120 << 20, f"the file has {size} bytes")  # of 256 MiB
    pools.wait_for("its process to end", 60, lambda: not pool.hosts[0].vm_pids())
    vm = resume(pool)
    expect(vm["generation"] > before["generation"] and vm["record_phase"] == "RUN", str(vm))
    pool.verify("sleeper")
    stats = pool.ask("sleeper", "stats", "gw stats")
    expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0, f"a clock stepped back: {stats['_']}")
    expect(not file_of(pool, "sleeper").exists(), "the file is still there")


def a_paused_guest_comes_out_paused(pool):
    need_sleeper(pool)
    pool.godwit("vm", "pause", "sleeper")
    suspend(pool)
    pool.godwit("vm", "resume", "sleeper")
    expect_host(pool, "sleeper", "node1", "paused")
    pool.godwit("vm", "resume", "sleeper")
    expect_host(pool, "sleeper", "node1")
    pool.verify("sleeper")


def resets_and_moves_afterwards(pool):
    need_sleeper(pool)
    suspend(pool)
    resume(pool)
    pool.godwit("vm", "console", "sleeper", "--until", "gw ready", "--timeout", "60s", stdin="reset\n")
    pool.verify("sleeper")
    suspend(pool)
    resume(pool)
    pool.godwit("migrate", "sleeper", "--to", "node2")
    expect_host(pool, "sleeper", "node2")
    pool.verify("sleeper")
    pool.godwit("migrate", "sleeper", "--to", "node1")
    expect_host(pool, "sleeper", "node1")


def what_is_suspended_is_not_started_moved_or_suspended_again(pool):
    need_sleeper(pool)
    suspend(pool)
    for words, exit_code in ((["vm", "start", "sleeper"], 5), (["migrate", "sleeper", "--to", "node2"], 5),
                             (["vm", "suspend", "sleeper"], 5), (["vm", "pause", "sleeper"], 5)):
        done = pool.godwit(*words, check=False)
        expect(done.returncode == exit_code, f"{words}: exit {done.returncode}: {done.stderr}")
    resume(pool)
    pool.verify("sleeper")


def survives_the_agent_the_coordinator_and_a_boot(pool):
    need_sleeper(pool)
    suspend(pool)
    host = pool.hosts[0]
    host.kill_agent()
    pool.kill_coordinator()
    pool.start_coordinator()
    for entry in pathlib.Path(host.run_dir, "vms").glob("*/*"):  # a boot takes what is on tmpfs
        entry.unlink()
    host.start_agent()
    pool.wait_hosts_up()
    expect_host(pool, "sleeper", "node1", "suspended")
    resume(pool)
    pool.verify("sleeper")


def a_damaged_or_another_file_is_refused_and_nothing_runs(pool):
    need_sleeper(pool)
    suspend(pool)
    path = file_of(pool, "sleeper")
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 4]) + whole[len(whole) // 2 + 1:])
    done = pool.godwit("vm", "resume", "sleeper", check=False)
    expect(done.returncode != 0, f"a damaged file was resumed: {done.stdout}")
    expect_host(pool, "sleeper", "node1", "suspended")
    path.write_bytes(whole)
    resume(pool)
    pool.verify("sleeper")
    stale = suspend(pool) and file_of(pool, "sleeper").read_bytes()
    resume(pool)
    suspend(pool)
    file_of(pool, "sleeper").write_bytes(stale)  # an older one of the same VM
    done = pool.godwit("vm", "resume", "sleeper", check=False)
    expect(done.returncode != 0, f"a stale file was resumed: {done.stdout}")
    pool.godwit("vm", "stop", "--force", "sleeper")
    expect_host(pool, "sleeper", "node1", "stopped")
    expect(not file_of(pool, "sleeper").exists(), "a stop left the file")
    pool.godwit("vm", "start", "sleeper")
    expect_host(pool, "sleeper", "node1")


def a_full_disk_leaves_it_running(pool):
    need_sleeper(pool)
    folder = file_of(pool, "sleeper").parent
    pool.verify("sleeper")
    enter = pool.hosts[0].enter_mounts()  # where the agent sees it
    small = subprocess.run([*enter, "mount", "-t", "tmpfs", "-o", "size=8m", pool.tag, folder], check=False)
    if small.returncode != 0:
        raise LeftOut("no mount here")
    try:
        done = pool.godwit("vm", "suspend", "sleeper", check=False)
        expect(done.returncode == 1 and "No space left" in done.stderr, f"exit {done.returncode}: {done.stderr}")
        left = subprocess.run([*enter, "ls", folder], check=True, capture_output=True, text=True).stdout.split()
        expect("suspended" not in left and "suspended.tmp" not in left, f"a torso is left: {left}")
    finally:
        subprocess.run([*enter, "umount", "-l", folder], check=True)
    expect_host(pool, "sleeper", "node1")
    pool.verify("sleeper")


def agents_killed_in_the_middle_leave_it_running_or_suspended(pool):
    need_sleeper(pool)
    host = pool.hosts[0]
    for late in (False, True, False):
        path = file_of(pool, "sleeper")
        started = pool.start_godwit("vm", "suspend", "sleeper")
        pools.wait_for("the file to be there", 60, lambda: path.exists() if late else (
            path.with_name("suspended.tmp").exists() or path.exists()), pause=0)
        host.kill_agent()
        host.start_agent()
        pool.wait_hosts_up()
        started.wait(timeout=120)
        vm = pools.wait_for("it to be one or the other", 60, lambda: (
            lambda v: v if v["state"] in ("running", "suspended") and not (
                v["state"] == "running" and path.exists()) else None)(pool.vm("sleeper")))
        if vm["state"] == "suspended":
            resume(pool)
        pools.wait_for("it to answer", 60, lambda: pool.vm("sleeper")["state"] == "running")
        pool.verify("sleeper")


def a_shared_disk_keeps_its_stamp_until_it_goes_on(pool):
    share = pool.dir / "share"
    share.mkdir()
    path = pool.dir / "writer.yaml"
    path.write_text("\n".join([
        "name: writer", f"kernel: {pool.guest_elf()}", "cmdline: vcpus=1 disk=16 diskrate=300 fill=random fillmb=16",
        "cpu: {vcpus: 1}", "memory: {size: 128MiB}", "host: node1", "disks:",
        f"  - {{name: root, store: {share}, file: writer.raw, size: 16MiB, shared: true}}"]) + "\n")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("the writer to be ready", 60,
                   lambda: "gw ready" in pool.godwit("vm", "logs", "writer", check=False).stdout)
    for _ in range(2):
        stamps = sorted(share.glob(".godwit/*/stamp/after-*"))
        suspend(pool, "writer")
        expect(sorted(share.glob(".godwit/*/stamp/after-*")) == stamps, "the stamp changed while it rested")
        resume(pool, "writer")
        expect(len(list(share.glob(".godwit/*/stamp/after-*"))) == len(stamps) + 1, "it goes on under an old stamp")
        record = pool.ask("writer", "disk verify", "gw diskverify")
        expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])
        pool.verify("writer")
    suspend(pool, "writer")
    pool.godwit("vm", "rm", "writer", "--stop", "-y")


run([goes_into_a_file_and_comes_out_whole,
     a_paused_guest_comes_out_paused,
     resets_and_moves_afterwards,
     what_is_suspended_is_not_started_moved_or_suspended_again,
     survives_the_agent_the_coordinator_and_a_boot,
     a_damaged_or_another_file_is_refused_and_nothing_runs,
     a_full_disk_leaves_it_running,
     agents_killed_in_the_middle_leave_it_running_or_suspended,
     a_shared_disk_keeps_its_stamp_until_it_goes_on])

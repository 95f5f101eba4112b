#!/usr/bin/env python3
"""VMs of which an agent does not know what they are, and files that hang: nobody is taken for what it is not, the agent
goes on, and what is silent for good can be ended."""
import os
import pathlib
import shutil
import signal
import threading

from pool_case import expect, expect_host, need_guest, pools, run


def need_quiet(pool):
    need_guest(pool, "quiet", "writers=1 rate=20 ws=16")


def folder_of(pool, name="quiet"):
    return pathlib.Path(pool.hosts[0].dir, "agent", "vms", pool.vm(name)["id"])


def start_agent_anew(pool, between=lambda: None):
    """It finds a process that is silent, and says hello all the same."""
    pid = pool.vm("quiet")["pid"]
    os.kill(pid, signal.SIGSTOP)
    pool.hosts[0].kill_agent()
    between()
    pools.wait_for("the coordinator to miss it", 30, lambda: pool.vm("quiet")["state"] == "unknown")
    pool.hosts[0].start_agent()
    pool.wait_hosts_up()
    return pid


def is_lost(pool):
    return any("crashed" in line or "no longer has" in line
               for line in pool.godwit("events", check=False).stdout.splitlines() if "quiet" in line)


def one_whose_last_start_was_not_kept_is_not_taken_for_stopped(pool):
    need_quiet(pool)
    file = folder_of(pool) / "vm.bin"
    pool.godwit("vm", "stop", "--force", "quiet")
    pools.wait_for("its process to end", 30, lambda: not pool.hosts[0].vm_pids())
    old = file.with_name("vm.bin.old")
    shutil.copy(file, old)
    pool.godwit("vm", "start", "quiet")
    before = pool.vm("quiet")
    pid = start_agent_anew(pool, lambda: old.replace(file))
    now = pool.vm("quiet")
    expect(now["record_phase"] == "RUN" and now["generation"] == before["generation"], str(now))
    expect(not is_lost(pool), pool.godwit("events", check=False).stdout)
    os.kill(pid, signal.SIGCONT)
    expect_host(pool, "quiet", "node1")
    pool.verify("quiet")
    expect(pool.vm("quiet")["pid"] == pid, "it is another process")
    expect(not is_lost(pool), pool.godwit("events", check=False).stdout)


def one_that_ends_unheard_has_crashed_then(pool):
    need_quiet(pool)
    pid = start_agent_anew(pool)
    expect(pool.vm("quiet")["record_phase"] == "RUN", str(pool.vm("quiet")))
    os.kill(pid, signal.SIGKILL)
    expect_host(pool, "quiet", "node1", "crashed")
    pool.godwit("vm", "start", "quiet")
    pool.verify("quiet")


def one_that_is_silent_for_good_is_ended_by_force(pool):
    need_quiet(pool)
    pid = start_agent_anew(pool)
    log = folder_of(pool) / "vm.log"
    kept = log.with_name("vm.log.kept")
    log.rename(kept)  # nothing proves whose process it is
    done = pool.godwit("vm", "stop", "--force", "quiet", check=False)
    expect(done.returncode != 0 and "has not shown that it runs this VM" in done.stderr, done.stderr)
    expect(pid in pool.hosts[0].vm_pids(), "its process is gone")
    kept.rename(log)
    pool.godwit("vm", "stop", "--force", "quiet")
    expect_host(pool, "quiet", "node1", "stopped")
    expect(pid not in pool.hosts[0].vm_pids(), "its process is left over")
    pool.godwit("vm", "start", "quiet")
    pool.verify("quiet")


def a_kernel_that_cannot_be_opened_holds_up_its_own_start_alone(pool):
    path = pool.dir / "kernel"
    shutil.copy(pool.guest_elf(), path)
    pool.godwit("vm", "create", "stuck", "--kernel", path, "--memory", "64MiB", "--vcpus", "1",
                "--host", "node1")
    pool.godwit("vm", "stop", "--force", "stuck")
    path.unlink()
    os.mkfifo(path)  # nobody writes: its open hangs as one on a store does that is away
    asked = pool.start_godwit("vm", "start", "stuck")
    pools.wait_for("its start to be on its way", 30, lambda: any(
        vm["name"] == "stuck" and vm["record_phase"] == "STARTING" for vm in pool.ls("vm")))
    pool.create_guest("beside")  # the agent hears and obeys
    pool.verify("beside")
    expect(asked.poll() is None, "its start is over")
    opened = threading.Thread(target=lambda: os.close(os.open(path, os.O_WRONLY)))
    opened.start()
    out, err = asked.communicate(timeout=60)
    opened.join()
    path.unlink()
    expect(asked.returncode != 0, f"an empty kernel was started: {out} {err}")
    for name in ("stuck", "beside"):
        pool.godwit("vm", "rm", name, "--stop", "-y")


run([one_whose_last_start_was_not_kept_is_not_taken_for_stopped,
     one_that_ends_unheard_has_crashed_then,
     one_that_is_silent_for_good_is_ended_by_force,
     a_kernel_that_cannot_be_opened_holds_up_its_own_start_alone])

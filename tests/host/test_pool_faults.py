#!/usr/bin/env python3
"""A real pool whose programs are killed: no guest is disturbed, the record is right again soon after."""
import os
import signal
import time

from pool_case import LeftOut, expect, expect_host, need_guest, pools, run


def other(pool, name):
    return "node1" if pool.vm(name)["host"] == "node2" else "node2"


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def last_job(pool, vm):
    return [j for j in pool.ls("job") if j["vm"] == vm][-1]


def need_steady(pool):
    need_guest(pool, "steady", "writers=1 rate=30 ws=32 fill=random fillmb=64", vcpus=2)


def start_slow_move(pool, name, bandwidth="20MiB/s"):
    need_steady(pool)
    target = other(pool, name)
    pool.godwit("migrate", name, "--to", target, "--bandwidth", bandwidth, "--no-wait")
    job = last_job(pool, name)["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    return job, target


def job_end(pool, job, seconds=120):
    return pools.wait_for(f"the end of {job}", seconds, lambda: (
        lambda j: j if j["state"] not in ("queued", "running") else None)(pool.json("job", "show", job)))


def a_killed_agent_disturbs_no_guest_and_adopts_it_again(pool):
    need_steady(pool)
    pid = pool.vm("steady")["pid"]
    pool.ask("steady", "gap reset", "gw ok")
    host = host_of(pool, "node1")
    host.kill_agent()
    host.start_agent()
    started = time.monotonic()
    pools.wait_for("the pool's view to be right again", 5, lambda: pool.vm("steady").get(
        "state") == "running" and pool.vm("steady").get("pid") == pid)
    print(f"        the view was right again {time.monotonic() - started:.2f} s after the agent's start")
    os.kill(pid, 0)
    pool.verify("steady")


def a_killed_source_agent_during_a_move_leaves_one_running_guest(pool):
    job, _ = start_slow_move(pool, "steady")
    host = host_of(pool, pool.vm("steady")["host"])
    host.kill_agent()
    host.start_agent()
    ended = job_end(pool, job)
    expect(ended["state"] in ("done", "rolled-back"), str(ended))
    one_guest_runs(pool, "steady")


def a_killed_target_agent_during_a_move_leaves_one_running_guest(pool):
    job, target = start_slow_move(pool, "steady")
    host = host_of(pool, target)
    host.kill_agent()
    host.start_agent()
    ended = job_end(pool, job)
    expect(ended["state"] in ("done", "rolled-back"), str(ended))
    one_guest_runs(pool, "steady")


def one_guest_runs(pool, name):
    pools.wait_for(f"{name} to run", 15, lambda: pool.vm(name)["state"] == "running")
    pool.verify(name)
    pools.wait_for("exactly one process", 15, lambda: sum(len(h.vm_pids()) for h in pool.hosts) == 1)


def a_killed_target_process_rolls_the_move_back(pool):
    need_steady(pool)
    source = pool.vm("steady")["host"]
    job, target = start_slow_move(pool, "steady")
    victim = pools.wait_for("the target's process", 10, lambda: host_of(pool, target).vm_pids())
    os.kill(victim[0], signal.SIGKILL)
    ended = job_end(pool, job)
    expect(ended["state"] == "rolled-back", str(ended))
    expect_host(pool, "steady", source)
    one_guest_runs(pool, "steady")


def a_move_works_after_a_move_that_was_rolled_back(pool):
    need_steady(pool)
    target = other(pool, "steady")
    pool.godwit("migrate", "steady", "--to", target)
    expect_host(pool, "steady", target)
    one_guest_runs(pool, "steady")


def a_coordinator_killed_during_a_move_finds_the_truth_when_it_is_back(pool):
    job, target = start_slow_move(pool, "steady", "40MiB/s")
    pool.kill_coordinator()
    pool.start_coordinator()
    pool.wait_hosts_up()
    ended = job_end(pool, job)
    expect(ended["state"] in ("done", "rolled-back"), str(ended))
    vm = pool.vm("steady")
    expect(ended["state"] != "done" or vm["host"] == target, f"{ended['state']} but runs on {vm['host']}")
    one_guest_runs(pool, "steady")


def a_move_ends_by_itself_while_the_coordinator_is_away(pool):
    job, target = start_slow_move(pool, "steady", "60MiB/s")
    source = pool.vm("steady")["host"]
    pool.kill_coordinator()
    pools.wait_for("the move to end without a coordinator", 60, lambda: (
        len(host_of(pool, source).vm_pids()) + len(host_of(pool, target).vm_pids()) == 1))
    pool.start_coordinator()
    pool.wait_hosts_up()
    ended = job_end(pool, job)
    expect(ended["state"] == "done", str(ended))
    expect_host(pool, "steady", target)
    one_guest_runs(pool, "steady")


def a_link_that_stays_cut_rolls_back_before_the_commit_point(pool):
    if not pool.namespaces:
        raise LeftOut("needs network namespaces")
    need_steady(pool)
    source = pool.vm("steady")["host"]
    job, target = start_slow_move(pool, "steady", "10MiB/s")
    number = host_of(pool, target).number
    switch = f"{pool.tag}-sw"
    pools.subprocess.run(["ip", "-n", switch, "link", "set", f"p{number}", "down"], check=True)
    try:
        if source == "node1":  # the coordinator lives on node1 and sees the source
            ended = job_end(pool, job)
            expect(ended["state"] == "rolled-back", str(ended))
        else:
            pools.wait_for("the target to give up", 120, lambda: not host_of(pool, target).vm_pids())
    finally:
        pools.subprocess.run(["ip", "-n", switch, "link", "set", f"p{number}", "up"], check=True)
    pool.wait_hosts_up(60)
    job_end(pool, job)
    expect_host(pool, "steady", source)
    one_guest_runs(pool, "steady")


def a_target_without_memory_refuses_and_the_guest_runs_on(pool):
    need_steady(pool)
    source, target = pool.vm("steady")["host"], other(pool, "steady")
    host = host_of(pool, target)
    host.kill_agent()
    host.start_agent(["prlimit", f"--as={200 << 20}"])  # less than the guest's 256 MiB
    pool.wait_hosts_up()
    refused = pool.godwit("migrate", "steady", "--to", target, check=False)
    expect(refused.returncode in (5, 6), f"exit {refused.returncode}: {refused.stderr}")
    expect(f"running on {source}" in refused.stderr, refused.stderr)
    host.kill_agent()
    host.start_agent()
    pool.wait_hosts_up()
    expect_host(pool, "steady", source)
    one_guest_runs(pool, "steady")


def a_guest_whose_process_is_killed_is_told_as_crashed(pool):
    need_steady(pool)
    host = host_of(pool, pool.vm("steady")["host"])
    os.kill(host.vm_pids()[0], signal.SIGKILL)
    pools.wait_for("the crash to be told", 10, lambda: pool.vm("steady")["state"] in ("crashed", "stopped"))
    pool.godwit("vm", "start", "steady")
    pools.wait_for("it to run again", 30, lambda: pool.vm("steady")["state"] == "running")
    pool.godwit("vm", "rm", "steady", "--stop", "-y")


run([
    a_killed_agent_disturbs_no_guest_and_adopts_it_again,
    a_killed_source_agent_during_a_move_leaves_one_running_guest,
    a_killed_target_agent_during_a_move_leaves_one_running_guest,
    a_killed_target_process_rolls_the_move_back,
    a_move_works_after_a_move_that_was_rolled_back,
    a_coordinator_killed_during_a_move_finds_the_truth_when_it_is_back,
    a_move_ends_by_itself_while_the_coordinator_is_away,
    a_link_that_stays_cut_rolls_back_before_the_commit_point,
    a_target_without_memory_refuses_and_the_guest_runs_on,
    a_guest_whose_process_is_killed_is_told_as_crashed,
])

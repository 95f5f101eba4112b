#!/usr/bin/env python3
"""A real pool and post-copy: a guest that writes too fast moves at once and its memory follows, over lanes that break, too;
who dies meanwhile takes the guest with it, and it never runs where it was."""
import contextlib
import os
import signal
import subprocess
import time

from pool_case import LeftOut, expect, expect_host, need_guest, pools, run

GUEST = "writers=1 rate=2000 ws=32 fill=random fillmb=8"


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def other(pool, name):
    return "node1" if pool.vm(name)["host"] == "node2" else "node2"


def need_writer(pool):
    need_guest(pool, "writer", GUEST, vcpus=2, memory="256MiB")


def last_job(pool):
    return max((j for j in pool.ls("job") if j["vm"] == "writer"), key=lambda j: int(j["created_unix_ms"]))["id"]


def receipt_of(pool, job):
    shown = pool.json("job", "show", job)
    expect("receipt" in shown, f"no receipt: {shown}")
    return shown["receipt"]


def signal_all(pids, number):
    for pid in pids:
        os.kill(pid, number)


def start(pool, bandwidth):
    """Into a post-copy, the ids of its source's processes last. One that is over before it was seen is followed by another."""
    for _ in range(6):
        need_writer(pool)
        source, target = pool.vm("writer")["host"], other(pool, "writer")
        serving = host_of(pool, source).vm_pids()
        pool.godwit("migrate", "writer", "--to", target, "--postcopy", "--max-downtime", "5ms", "--bandwidth", bandwidth,
                    "--no-wait")
        job = last_job(pool)

        def seen():
            shown = pool.json("job", "show", job)
            if shown["state"] != "running":
                return "over"
            return "post-copy" if shown.get("progress", {}).get("phase") == "post-copy" else None
        if pools.wait_for("post-copy", 60, seen) != "post-copy":
            continue
        try:
            signal_all(serving, signal.SIGSTOP)
        except ProcessLookupError:
            continue
        if pool.json("job", "show", job)["state"] == "running":
            return job, source, target, serving
        signal_all(serving, signal.SIGCONT)
    raise pools.PoolError("no post-copy was seen")


@contextlib.contextmanager
def post_copy(pool, bandwidth):
    """One that stands: its source gives no page until the end of this."""
    job, source, target, serving = start(pool, bandwidth)
    try:
        yield job, source, target
    finally:
        signal_all(serving, signal.SIGCONT)


def a_guest_that_misses_its_goal_runs_at_the_target_and_its_memory_follows(pool):
    need_writer(pool)
    target = other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--postcopy", "--max-downtime", "5ms", "--bandwidth", "100MiB/s")
    expect_host(pool, "writer", target)
    pool.verify("writer")
    receipt = receipt_of(pool, last_job(pool))
    expect(receipt["moved"] and receipt["postcopy_pages"] > 500, str(receipt))
    expect(receipt["digest_pages"] * 4096 == receipt["memory_bytes"], str(receipt))
    expect(receipt["faults"] > 0 and receipt["fault_p99_ns"] >= receipt["fault_p50_ns"] > 0, str(receipt))
    told = pool.godwit("job", "report", last_job(pool)).stdout
    expect("came after the guest" in told, told)
    print(f"        {receipt['postcopy_pages']} pages in {receipt['postcopy_ns'] / 1e6:.0f} ms, "
          f"paused {receipt['downtime_ns'] / 1e6:.1f} ms, {receipt['faults']} faults, "
          f"P50 {receipt['fault_p50_ns'] / 1e3:.0f} us, P99 {receipt['fault_p99_ns'] / 1e3:.0f} us")


def while_it_lasts_nothing_else_is_done_with_the_guest_and_nothing_leads_back(pool):
    with post_copy(pool, "8MiB/s") as (job, _, target):
        asked = [pool.start_godwit(*words) for words in (
            ["migrate", "writer", "--to", other(pool, "writer")], ["vm", "suspend", "writer"],
            ["vm", "upgrade", "writer"], ["vm", "pause", "writer"], ["job", "cancel", job])]
        told = [process.communicate(timeout=60)[1] for process in asked]
    expect(all(process.returncode != 0 for process in asked),
           f"obeyed: {[(p.args[1:], p.returncode) for p in asked]}: {told}")
    expect(pool.godwit("job", "watch", job, check=False).returncode == 0, "it did not move")
    expect_host(pool, "writer", target)
    pool.verify("writer")


def lanes(host, pid):
    """The established connections of this process: local and peer."""
    told = subprocess.run(["nsenter", "-t", str(host.agent.pid), "-n", "ss", "-Htnp", "state", "established"],
                          check=True, capture_output=True, text=True).stdout
    return [line.split()[2:4] for line in told.splitlines() if f"pid={pid}," in line]


def lanes_that_are_cut_come_back_and_the_guest_is_whole(pool):
    if not pool.namespaces:
        raise LeftOut("needs network namespaces")
    with post_copy(pool, "8MiB/s") as (job, source, target):
        host = host_of(pool, source)
        found = lanes(host, host.vm_pids()[0])
        expect(found, "the source has no lanes")
        for ours, theirs in found:
            subprocess.run(["nsenter", "-t", str(host.agent.pid), "-n", "ss", "-K", "src", ours, "dst", theirs],
                           check=True, capture_output=True)
    expect(pool.godwit("job", "watch", job, check=False).returncode == 0, "it did not move")
    receipt = receipt_of(pool, job)
    expect(receipt["reconnects"] >= 1, f"nothing was cut: {receipt}")
    expect_host(pool, "writer", target)
    pool.verify("writer")


def a_coordinator_that_comes_back_before_its_agents_leaves_the_source_to_its_target(pool):
    """Longer than it waits for hosts that no longer matter: what it stored says that this one may."""
    agents = [host.agent.pid for host in pool.hosts]
    with post_copy(pool, "8MiB/s") as (job, source, target):
        pool.kill_coordinator()
        try:
            signal_all(agents, signal.SIGSTOP)
            pool.start_coordinator()
            until = time.monotonic() + 7
            while time.monotonic() < until:
                state = pool.json("job", "show", job)["state"]
                expect(state == "running", f"ended without a word of either host: {state}")
                time.sleep(0.2)
        finally:
            signal_all(agents, signal.SIGCONT)
        pool.wait_hosts_up()
    expect(pool.godwit("job", "watch", job, check=False).returncode == 0, "it did not move")
    expect_host(pool, "writer", target)
    pool.verify("writer")
    pools.wait_for("the source to be rid of it", 30, lambda: not host_of(pool, source).vm_pids())


def a_target_that_dies_leaves_the_guest_cold_and_it_never_runs_where_it_was(pool):
    with post_copy(pool, "8MiB/s") as (job, source, target):
        os.kill(host_of(pool, target).vm_pids()[0], signal.SIGKILL)
    expect(pool.godwit("job", "watch", job, check=False).returncode != 0, "a lost guest was told as moved")
    vm = pools.wait_for("its end to be told", 30, lambda: (
        lambda v: v if v["state"] == "crashed" else None)(pool.vm("writer")))
    expect("post-copy" in pool.json("vm", "show", "writer").get("reason", ""), str(vm))
    pools.wait_for("the source to be rid of it", 30, lambda: not host_of(pool, source).vm_pids())
    pool.godwit("vm", "start", "writer")
    pools.wait_for("the guest to run again", 60, lambda: pool.vm("writer")["state"] == "running")


run([
    a_guest_that_misses_its_goal_runs_at_the_target_and_its_memory_follows,
    while_it_lasts_nothing_else_is_done_with_the_guest_and_nothing_leads_back,
    lanes_that_are_cut_come_back_and_the_guest_is_whole,
    a_coordinator_that_comes_back_before_its_agents_leaves_the_source_to_its_target,
    a_target_that_dies_leaves_the_guest_cold_and_it_never_runs_where_it_was,
])

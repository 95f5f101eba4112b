#!/usr/bin/env python3
"""Three coordinators on an etcd of three members, under running moves: the leader is killed, an etcd
member is killed, the leader of etcd is stopped. No VM is affected, and soon (the goal, 10 s, is printed) the
record is what is real. GODWIT_ROUNDS says how many faults (default 3; 100 with scripts/test --full)."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pool_case
from pool_case import expect, pools

ROUNDS = int(os.environ.get("GODWIT_ROUNDS", "3"))
GUESTS = ("alpha", "beta")


def process_host(pool):
    """{pid: host name} of every godwit-vm there is."""
    return {pid: host.name for host in pool.hosts for pid in host.vm_pids()}


def settled(pool, expected_jobs_ended=True):
    """The record equals reality: every guest RUN where its one process is, no job active."""
    done = pool.godwit("vm", "ls", "-o", "json", check=False, timeout=30)
    if done.returncode != 0:
        return None
    listed = pool.ls("vm")
    real = process_host(pool)
    if len(listed) != len(GUESTS) or len(real) != len(GUESTS):
        return None
    for vm in listed:
        if vm.get("state") != "running" or real.get(vm.get("pid")) != vm.get("host"):
            return None
    return listed


def typed(question):
    """Between two leaders a host may not be back yet: a console is refused then. What is typed is not lost."""
    def ask():
        try:
            return question()
        except pools.PoolError as error:
            if "has no console now" not in str(error):
                raise
            return None
    return pools.wait_for("a console", 60, ask)


def start_moves(pool):
    for name in GUESTS:
        host = pool.vm(name)["host"]
        others = [h.name for h in pool.hosts if h.name != host]
        pool.godwit("migrate", name, "--to", random.choice(others), "--bandwidth", "30MiB/s",
                    "--no-wait", check=False)


def leader_killed(pool):
    pools.wait_for("a leader", 20, lambda: pool.leader() is not None)
    i = pool.leader()
    pool.end(pool.coordinators[i], signal.SIGKILL)
    yield f"coordinator {i} killed"
    pool.coordinators[i] = pool.spawn_coordinator(i)


def member_killed(pool):
    i = random.randrange(len(pool.etcds))
    pool.end(pool.etcds[i], signal.SIGKILL)
    yield f"etcd member {i} killed"
    pool.etcds[i] = pool.spawn_etcd(i)


def etcd_leader_stopped(pool):
    pools.wait_for("etcd to have a leader", 20, lambda: pool.etcd_leader() is not None)
    i = pool.etcd_leader()
    pool.etcds[i].send_signal(signal.SIGSTOP)
    try:
        yield f"etcd's leader, member {i}, stopped"
    finally:
        pool.etcds[i].send_signal(signal.SIGCONT)


FAULTS = (leader_killed, member_killed, etcd_leader_stopped)


def coordinators_and_etcd_fail_under_running_moves(pool):
    for i, name in enumerate(GUESTS):
        pool.create_guest(name, "writers=1 rate=10 ws=16 fill=random fillmb=64", memory="128MiB",
                          vcpus=2, host=pool.hosts[i].name)
    slowest = 0.0
    for turn in range(ROUNDS):
        for name in GUESTS:
            typed(lambda name=name: pool.ask(name, "gap reset", "gw ok"))
        start_moves(pool)
        begun = time.monotonic()
        fault = FAULTS[turn % len(FAULTS)](pool)
        what = next(fault)
        # from here on: moves end by themselves; then the record has 10 s to be right
        pools.wait_for("the moves to end at the hosts", 60, lambda: len(process_host(pool)) == len(GUESTS))
        ended = time.monotonic()
        pools.wait_for(f"record and reality to agree ({what})", 90, lambda: settled(pool), 0.2)
        took = time.monotonic() - max(ended, begun)
        slowest = max(slowest, took)
        print(f"        {turn + 1}/{ROUNDS} {what}: moves over after {ended - begun:.1f} s, "
              f"record right {took:.1f} s later", flush=True)
        next(fault, None)
        for name in GUESTS:
            typed(lambda name=name: pool.verify(name))
        pools.wait_for("jobs to end", 30, lambda: all(
            j["state"] not in ("queued", "running") for j in pool.ls("job")))
    print(f"        slowest: {slowest:.1f} s (goal 10)")


def answers(pool, *words):
    """What the leader says, whoever it is by then."""
    def ask():
        done = pool.godwit(*words, "-o", "json", check=False, timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None
    return pools.wait_for("godwit " + " ".join(words), 90, ask)


def kill_leader(pool):
    fault = leader_killed(pool)
    next(fault)
    next(fault, None)


def rules_and_plans_outlive_their_leader(pool):
    for i, name in enumerate(GUESTS):
        pool_case.need_guest(pool, name, "writers=1 rate=10 ws=16 fill=random fillmb=64", memory="128MiB",
                             vcpus=2, host=pool.hosts[i].name)
    pools.wait_for("record and reality to agree", 90, lambda: settled(pool), 0.2)
    if pool.vm("alpha")["host"] == pool.vm("beta")["host"]:
        free = next(h.name for h in pool.hosts if h.name != pool.vm("beta")["host"])
        pool.godwit("migrate", "alpha", "--to", free)
    pool.godwit("rule", "add", "anti-affinity", "apart", "alpha", "beta")
    source, other = pool.vm("alpha")["host"], pool.vm("beta")["host"]
    dry = pool.json("host", "evacuate", source, "--dry-run")
    expect([s["vm"] for s in dry["steps"]] == ["alpha"], str(dry))
    kill_leader(pool)
    pools.wait_for("the rule at the next leader", 90, lambda: "apart" in str(answers(pool, "rule", "ls")))
    kept = answers(pool, "plan", "show", dry["id"])
    expect(kept["state"] == "ready" and kept["steps"][0]["target"] not in (source, other), str(kept))
    pool.wait_hosts_up()
    pool.godwit("plan", "run", dry["id"], timeout=300)
    ended = answers(pool, "plan", "show", dry["id"])
    expect(ended["state"] == "done", str(ended)[:2000])
    pools.wait_for("record and reality to agree", 90, lambda: settled(pool), 0.2)
    expect(pool.vm("alpha")["host"] not in (source, other), f"alpha is on {pool.vm('alpha')['host']}")
    for name in GUESTS:
        typed(lambda name=name: pool.verify(name))


def answers_of(pool, name):
    return pool.godwit("vm", "logs", name).stdout.count("gw ok")


def lines_typed_while_the_leader_dies_come_once(pool):
    pool_case.need_guest(pool, "alpha", "writers=1 rate=10 ws=16 fill=random fillmb=64", memory="128MiB",
                         vcpus=2, host=pool.hosts[0].name)
    pools.wait_for("record and reality to agree", 90, lambda: pool.vm("alpha")["state"] == "running", 0.2)
    before = pools.wait_for("the guest's log", 60, lambda: answers_of(pool, "alpha") + 1) - 1
    console = subprocess.Popen(pool.command("vm", "console", "alpha"), env=pool.environment(),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = 0

    def type_line():
        nonlocal lines
        console.stdin.write("gap reset\n")
        console.stdin.flush()
        lines += 1

    def all_answered():
        expect(console.poll() is None, f"the console ended: {console.returncode}")
        logs = pool.godwit("vm", "logs", "alpha", check=False)
        return logs.returncode == 0 and logs.stdout.count("gw ok") - before >= lines
    type_line()
    pools.wait_for("the first line to be answered", 60, all_answered)
    deaths = 2 if ROUNDS <= 3 else 10
    for _ in range(deaths):
        for turn in range(20):
            type_line()
            if turn == 10:
                kill_leader(pool)
        pools.wait_for("the lines to be answered", 90, all_answered)
    _, said = console.communicate(timeout=60)
    expect(console.returncode == 0, f"exit {console.returncode}: {said}")
    expect("may not have reached" not in said, said)
    count = answers_of(pool, "alpha") - before
    expect(count == lines, f"{lines} lines were typed, {count} were answered")
    print(f"        {lines} lines over {deaths} deaths of the leader: each answered once")


if not shutil.which("etcd") or not shutil.which("curl"):
    print("skipped: no etcd or curl (packages etcd-server, curl)")
    sys.exit(77)
pool_case.run([coordinators_and_etcd_fail_under_running_moves, rules_and_plans_outlive_their_leader,
               lines_typed_while_the_leader_dies_come_once], hosts=3, coordinators=3)

#!/usr/bin/env python3
"""Four real hosts, twelve writing guests: one host is evacuated, and again while things die around it."""
import json
import os
import signal
import time

from pool_case import expect, pools, run

from bench_evacuate import Bound, last_move  # in scripts/lib, which pool_case put into the path

GUESTS = 12
RECORDS = {}


def names(count=GUESTS):
    return [f"web-{i}" for i in range(1, count + 1)]


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def places(pool):
    return {vm["name"]: vm for vm in pool.ls("vm")}


def need_guests(pool, host="node1"):
    """All guests on one host, running; made when they are not there."""
    there = places(pool)
    new = [name for name in names() if name not in there]
    for name in names():
        if name in new:
            pool.create_guest(name, "writers=1 rate=4 ws=8 fill=random fillmb=24", memory="64MiB", host=host,
                              wait=False)
    pools.wait_for("every guest ready", 120, lambda: all(
        "gw ready" in pool.godwit("vm", "logs", name, check=False).stdout for name in new))
    for name in names():
        RECORDS.setdefault(name, places(pool)[name]["generation"])
    gather(pool, host)


def gather(pool, host):
    """Bring every guest to one host, through plans: restore takes back what was evacuated."""
    for name in pool.json("host", "ls"):
        pool.godwit("host", "uncordon", name["name"])
    for name, vm in places(pool).items():
        if vm.get("host") != host:
            pool.godwit("migrate", name, "--to", host)


def all_run_and_remember(pool, but=()):
    """Every guest runs, exactly once, with its memory whole, and was never started anew."""
    there = places(pool)
    for name in names():
        expect(there[name]["state"] == "running", f"{name} is {there[name]['state']}")
        expect(there[name].get("reason", "") == "", f"{name}: {there[name].get('reason')}")
        pool.verify(name)
    pools.wait_for("one process a guest", 20, lambda: sum(len(h.vm_pids()) for h in pool.hosts) == GUESTS)


def plan_of(pool, plan):
    found = pool.json("plan", "show", plan)
    return found[0] if isinstance(found, list) else found


def steps_of(pool, plan):
    return plan_of(pool, plan)["steps"]


def wait_plan(pool, plan, seconds=180):
    return pools.wait_for(f"the end of plan {plan}", seconds, lambda: (
        lambda p: p if p["state"] in ("done", "partly", "canceled") else None)(plan_of(pool, plan)))


def wait_moving(pool, plan, done=0):
    pools.wait_for("moves under way", 60, lambda: (
        lambda p: p["steps_running"] > 0 and p["steps_done"] >= done)(plan_of(pool, plan)))


def evacuates_a_host_of_twelve_writing_guests_and_stops_none(pool):
    need_guests(pool)
    # one at a time, in the same run: each guest away by itself, and back by a plan
    began = time.monotonic()
    for name in names():
        pool.godwit("migrate", name)
    one_by_one = time.monotonic() - began
    alone = [last_move(pool, name) for name in names()]
    gather(pool, "node1")
    done = pool.godwit("host", "evacuate", "node1", "--progress", "plain", timeout=300)
    plan = done.stdout.split("godwit plan show ")[1].split()[0]
    told = plan_of(pool, plan)
    expect(told["state"] == "done", str(told))
    there = places(pool)
    expect(all(there[n]["host"] != "node1" for n in names()), str({n: there[n]["host"] for n in names()}))
    spread = sorted(sum(1 for n in names() if there[n]["host"] == h.name) for h in pool.hosts)
    expect(spread == [0, 4, 4, 4], f"spread over the hosts: {spread}")
    all_run_and_remember(pool)
    for line in Bound(pool, told, alone).lines(one_by_one):
        print("        " + line)
    refused = pool.godwit("migrate", "web-1", "--to", "node1", check=False)
    expect(refused.returncode == 5 and "cordoned" in refused.stderr, f"{refused.returncode}: {refused.stderr}")


def brings_them_back_and_says_why_each_moved(pool):
    done = pool.godwit("host", "restore", "node1", "--bring-back", "--progress", "plain", timeout=300)
    plan = plan_of(pool, done.stdout.split("godwit plan show ")[1].split()[0])
    expect(plan["state"] == "done" and len(plan["steps"]) == GUESTS, str(plan))
    expect(all(places(pool)[n]["host"] == "node1" for n in names()), "not all came back")
    why = pool.json("why", "web-1")
    expect(any("took it away" in m.get("reason", "") for m in why["moves"]), str(why["moves"]))
    expect(len(why["hosts"]) == 4, str(why))
    all_run_and_remember(pool)


def a_dry_run_changes_nothing_and_is_run_as_it_was_said(pool):
    need_guests(pool)
    dry = pool.json("host", "evacuate", "node1", "--dry-run", "--keep", "web-1,web-2")
    expect(dry["state"] == "ready" and len(dry["steps"]) == GUESTS - 2, str(dry))
    expect(sorted(dry["kept"]) == ["web-1", "web-2"], str(dry["kept"]))
    expect(all(s["reason"] and s["predicted_ns"] for s in dry["steps"]), str(dry["steps"][0]))
    expect(all(vm["host"] == "node1" for vm in places(pool).values()), "a dry run moved something")
    late = pool.godwit("host", "evacuate", "node1", "--by", "1ms", check=False)
    expect(late.returncode == 5 and "given" in late.stderr, f"{late.returncode}: {late.stderr}")
    pool.godwit("plan", "run", dry["id"], timeout=300)
    told = plan_of(pool, dry["id"])
    wanted = {s["vm"]: s["target"] for s in dry["steps"]}
    there = places(pool)
    expect(told["state"] == "done" and all(there[n]["host"] == h for n, h in wanted.items()), str(told))
    expect(there["web-1"]["host"] == there["web-2"]["host"] == "node1", "kept ones moved")


def a_coordinator_killed_in_the_middle_goes_on_from_the_record(pool):
    need_guests(pool)
    plan = pool.godwit("host", "evacuate", "node1", "--no-wait").stdout.strip()
    wait_moving(pool, plan, done=2)
    pool.kill_coordinator()
    pool.start_coordinator()
    pool.wait_hosts_up()
    ended = wait_plan(pool, plan)
    expect(ended["state"] == "done", json.dumps(ended, indent=1)[:3000])
    expect(all(vm["host"] != "node1" for vm in places(pool).values()), "something is left")
    all_run_and_remember(pool)


def a_target_that_dies_in_the_middle_costs_no_guest(pool):
    need_guests(pool)
    plan = pool.godwit("host", "evacuate", "node1", "--no-wait").stdout.strip()
    wait_moving(pool, plan)
    victim = host_of(pool, "node3")
    arrived = [n for n, vm in places(pool).items() if vm["host"] == "node3"]
    victim.kill_agent()
    for pid in victim.vm_pids():
        if not any(places(pool)[n].get("pid") == pid for n in arrived):
            os.kill(pid, signal.SIGKILL)  # the target processes of moves under way die with it
    ended = wait_plan(pool, plan, 240)
    victim.start_agent()
    pool.wait_hosts_up()
    expect(ended["state"] in ("done", "partly"), str(ended))
    pools.wait_for("every guest to run", 30, lambda: all(
        vm["state"] == "running" for vm in places(pool).values()))
    all_run_and_remember(pool)
    print(f"        {ended['state']}: {ended['verdict']}; {len(arrived)} had arrived at the victim before")


def a_canceled_evacuation_leaves_every_guest_running_where_it_is_said_to_be(pool):
    need_guests(pool)
    plan = pool.godwit("host", "evacuate", "node1", "--no-wait").stdout.strip()
    wait_moving(pool, plan, done=1)
    pool.godwit("plan", "cancel", plan)
    ended = wait_plan(pool, plan)
    expect(ended["state"] == "canceled" and ended["error"]["exit_code"] == 8, str(ended))
    watch = pool.godwit("plan", "watch", plan, check=False)
    expect(watch.returncode == 8, f"exit {watch.returncode}, wanted 8: {watch.stderr}")
    states = {s["state"] for s in ended["steps"]}
    expect("canceled" in states and "waiting" not in states and "running" not in states, str(states))
    all_run_and_remember(pool)


def what_a_rule_forbids_is_told_before_the_start_with_what_would_let_it(pool):
    need_guests(pool)
    pool.godwit("rule", "add", "pin", "home", "web-12", "--hosts", "node1")
    pool.godwit("rule", "add", "anti-affinity", "apart", "web-1", "web-2", "web-3")
    rules = {r["id"]: r for r in pool.json("rule", "ls")}
    expect(rules["apart"]["state"] == "broken" and rules["home"]["state"] == "kept", str(rules))
    done = pool.godwit("host", "evacuate", "node1", check=False, timeout=300)
    expect(done.returncode == 8, f"exit {done.returncode}, wanted 8: {done.stdout}{done.stderr}")
    expect("web-12 stays" in done.stderr and "relax rule home" in done.stderr, done.stderr)
    there = places(pool)
    expect(there["web-12"]["host"] == "node1", str(there["web-12"]))
    apart = {there[n]["host"] for n in ("web-1", "web-2", "web-3")}
    expect(len(apart) == 3, f"a rule was broken: {apart}")
    whynot = pool.json("why-not", "web-1", there["web-2"]["host"])
    expect("apart" in whynot["verdict"], str(whynot["verdict"]))
    pool.godwit("rule", "rm", "home", "apart")
    all_run_and_remember(pool)


def what_guests_get_and_wait_for_is_known_and_balance_gives_its_reasons(pool):
    need_guests(pool)
    told = pools.wait_for("the loads of every host's guests", 30, lambda: (
        lambda b: b if any(h.get("load", 0) > 0 for h in b) else None)(pool.json("balance", "auto")))
    print("        " + "; ".join(f"{h['host']} load {h['load']:.2f} waits {h['waits']:.2f} psi {h.get('psi_cpu', 0):.0f}"
                                 for h in told))
    plan = pool.json("balance", "--dry-run")
    expect(plan["verdict"] and all(s["reason"] and s["gain"] > 0 for s in plan["steps"]), str(plan)[:1000])
    print(f"        {plan['verdict']}")
    expect(pool.godwit("balance", "auto", "sometimes", check=False).returncode == 2, "an unknown mode was taken")
    pool.godwit("balance", "auto", "approve")
    pool.kill_coordinator()
    pool.start_coordinator()
    kept = pool.godwit("balance", "auto").stderr
    expect("balance auto approve" in kept, f"the mode is not kept: {kept}")
    pool.godwit("balance", "auto", "off")
    pool.wait_hosts_up()


def balance_moves_guests_off_the_full_host_for_real(pool):
    need_guests(pool)
    dry = pool.json("balance", "--goal", "even", "--dry-run")
    expect(dry["steps"], f"twelve guests on one host of four are even? {dry['verdict']}")
    done = pool.godwit("balance", "--goal", "even", "--progress", "plain", timeout=300)
    plan = plan_of(pool, done.stdout.split("godwit plan show ")[1].split()[0])
    expect(plan["state"] == "done" and plan["steps"], json.dumps(plan, indent=1)[:3000])
    there = places(pool)
    counts = {h.name: sum(vm["host"] == h.name for vm in there.values()) for h in pool.hosts}
    print(f"        {len(plan['steps'])} moves; guests by host now {counts}")
    expect(counts["node1"] < GUESTS and sum(n > 0 for n in counts.values()) == len(pool.hosts), str(counts))
    for step in plan["steps"]:
        expect(there[step["vm"]]["host"] == step["target"], f"{step['vm']} is not where its step says")
    all_run_and_remember(pool)


def hosts_reboot_one_after_another_and_get_their_guests_back(pool):
    need_guests(pool)
    plan = pool.godwit("pool", "reboot", "-y", "node1", "node2", "--no-wait").stdout.strip()
    for name in ("node1", "node2"):
        def turn():
            for step in steps_of(pool, plan):
                if step["kind"] == "reboot" and step["source"] == name and step["state"] == "running":
                    return step
            expect(plan_of(pool, plan)["state"] == "running", str(plan_of(pool, plan))[:2000])
            return None
        pools.wait_for(f"the turn of {name}", 120, turn)
        host = host_of(pool, name)
        there = [vm["name"] for vm in pool.ls("vm") if vm.get("host") == name and vm["state"] != "stopped"]
        expect(not there, f"{name} reboots with {there} on it")
        pools.wait_for("what moved away to end there", 15, lambda: not host.vm_pids())
        host.kill_agent()  # a boot: the agent comes back as another incarnation
        (host.run_dir / "incarnation").unlink()
        host.start_agent()
    ended = wait_plan(pool, plan)
    expect(ended["state"] == "done", json.dumps(ended, indent=1)[:3000])
    expect(all(vm["host"] == "node1" for vm in places(pool).values()), "not all came back to node1")
    all_run_and_remember(pool)


def a_host_shows_its_cordon_and_labels(pool):
    pool.godwit("host", "label", "node2", "domain=rack-b", "ssd=yes")
    pool.godwit("host", "cordon", "node2", "--reason", "bad fan")
    page = pool.godwit("host", "show", "node2").stdout
    expect("cordoned" in page and "bad fan" in page and "domain=rack-b" in page, page)
    pool.godwit("host", "uncordon", "node2")
    pool.godwit("host", "label", "node2", "ssd-", "domain-")
    expect("rack-b" not in pool.godwit("host", "show", "node2").stdout, "a label stayed")


run([
    evacuates_a_host_of_twelve_writing_guests_and_stops_none,
    brings_them_back_and_says_why_each_moved,
    a_dry_run_changes_nothing_and_is_run_as_it_was_said,
    a_coordinator_killed_in_the_middle_goes_on_from_the_record,
    a_target_that_dies_in_the_middle_costs_no_guest,
    a_canceled_evacuation_leaves_every_guest_running_where_it_is_said_to_be,
    what_a_rule_forbids_is_told_before_the_start_with_what_would_let_it,
    what_guests_get_and_wait_for_is_known_and_balance_gives_its_reasons,
    balance_moves_guests_off_the_full_host_for_real,
    hosts_reboot_one_after_another_and_get_their_guests_back,
    a_host_shows_its_cordon_and_labels,
], hosts=4)

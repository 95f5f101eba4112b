#!/usr/bin/env python3
"""Two real hosts, guests that want more than one of them has: what `balance auto` does of its own accord,
what it waits for, and that off is off. Both hosts share this machine, so what else it does counts at both: when
that leaves no host with room, a case says so and counts as skipped."""
import time

from pool_case import LeftOut, clean_vms, expect, pools, run

SEEN_S = 90        # loads are averages of half a minute
PATIENCE_S = 300
LOOKS_EVERY_S = 60  # the balancer


def busy_guests(pool, names):
    """Each wants a whole core, always."""
    for name in names:
        pool.create_guest(name, "writers=1 rate=1 ws=4 fill=random fillmb=8", memory="64MiB", host="node1")


def places(pool):
    return {vm["name"]: vm for vm in pool.ls("vm")}


def whereabouts(pool):
    return {name: (vm["host"], vm["generation"]) for name, vm in places(pool).items()}


def plans_by_itself(pool):
    return {p["id"]: p for p in pool.ls("plan") if p["kind"] == "balance" and p.get("by") == "balance"}


def somebody_should_move(pool):
    """A plan would be made now, were the balancer to look."""
    return bool(pool.json("balance", "--dry-run").get("steps"))


def await_overload(pool):
    try:
        pools.wait_for("an overload", SEEN_S, lambda: somebody_should_move(pool), 5)
    except pools.PoolError as error:
        raise LeftOut("this machine is too busy for either host to have room") from error


def new_plan(pool, known, state):
    """What the balancer made since."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for plan in plans_by_itself(pool).values():
            expect(plan["state"] in ("ready", "running", "done"), str(plan))
            if plan["id"] not in known and plan["state"] == state:
                return pool.json("plan", "show", plan["id"])
        time.sleep(1)
    expect(not somebody_should_move(pool), f"it is overloaded, and {PATIENCE_S} s brought no plan that is {state}")
    raise LeftOut("the overload went before it was looked at")


def expect_moved_as_planned(pool, plan):
    there = places(pool)
    expect(plan["steps"] and all(there[s["vm"]]["host"] == s["target"] == "node2" for s in plan["steps"]),
           str(plan)[:2000])
    for name, vm in there.items():
        expect(vm["state"] == "running", f"{name} is {vm['state']}")
        pool.verify(name)


def auto_off_plans_nothing(pool):
    busy_guests(pool, ["busy-1", "busy-2", "busy-3"])
    await_overload(pool)
    known, before = set(plans_by_itself(pool)), whereabouts(pool)
    end = time.monotonic() + LOOKS_EVERY_S + 10  # who looks, has looked by then
    while time.monotonic() < end:
        expect(set(plans_by_itself(pool)) == known, "it is off, and made a plan")
        time.sleep(2)
    expect(whereabouts(pool) == before, "it is off, and moved a guest")


def auto_approve_plans_and_moves_nobody_until_it_is_told(pool):
    await_overload(pool)
    known, before = set(plans_by_itself(pool)), whereabouts(pool)
    pool.godwit("balance", "auto", "approve")
    try:
        plan = new_plan(pool, known, "ready")
        print(f"        {plan['verdict']}")
        pool.kill_coordinator()  # what waits for a word waits in the record
        pool.start_coordinator()
        pool.wait_hosts_up()
        told = pool.godwit("balance", "auto").stderr
        expect("balance auto approve" in told and f"godwit plan run {plan['id']}" in told, told)
        expect(whereabouts(pool) == before, "somebody moved without a word")
        pool.godwit("plan", "run", plan["id"], timeout=PATIENCE_S)
    finally:
        pool.godwit("balance", "auto", "off")
    done = pool.json("plan", "show", plan["id"])
    expect(done["state"] == "done", str(done)[:2000])
    expect_moved_as_planned(pool, done)


def auto_on_moves_a_guest_off_the_loaded_host_by_itself(pool):
    clean_vms(pool)  # who has just moved stays for ten minutes
    busy_guests(pool, ["late-1", "late-2", "late-3"])
    await_overload(pool)
    known = set(plans_by_itself(pool))
    pool.godwit("balance", "auto", "on")
    try:
        plan = new_plan(pool, known, "done")
    finally:
        pool.godwit("balance", "auto", "off")
    print(f"        {plan['verdict']}")
    expect_moved_as_planned(pool, plan)


run([
    auto_off_plans_nothing,
    auto_approve_plans_and_moves_nobody_until_it_is_told,
    auto_on_moves_a_guest_off_the_loaded_host_by_itself,
], hosts=2)

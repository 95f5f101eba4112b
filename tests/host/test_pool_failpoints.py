#!/usr/bin/env python3
"""Faults inside of real processes: every failpoint of the VM's own process, and kills of either end around the
commit point. After each the guest runs exactly once, its memory is whole, nothing stays behind. What one
process can show of the ends of a move is in tests/flow/test_failpoints.c."""
import os

from pool_case import expect, need_guest, run

import faults

faults.PATIENCE = 60  # a point must be reached, however busy the machine is
ALL = os.environ.get("GODWIT_ROUNDS") is not None  # every action of every point, as with --full
KILLS = ["target.place", "target.before_ready", "target.before_took", "source.after_gave", "source.before_released"]


def play(pool, point, action, end):
    need_guest(pool, "victim", "writers=1 rate=10 ws=2 fill=random fillmb=4", memory="32MiB")
    source = pool.vm("victim")["host"]
    target = "node1" if source == "node2" else "node2"
    outcome = faults.move(pool, "victim", source, target, point, action, end)
    print(f"        {point.name}={action} at the {end}: {outcome.word}, {outcome.seconds:.1f} s", flush=True)
    expect(outcome.reached, f"{point.name}={action} was not reached at the {end}")
    return outcome


def every_point_of_a_vms_process_is_reached_and_does_no_harm(pool):
    points = [p for p in faults.table(pool) if p.name.startswith("vm.")]
    expect(len(points) >= 10, "the table has lost its points")
    for i, point in enumerate(points):
        for j, action in enumerate(point.actions):
            if not ALL and j != i % len(point.actions):
                continue
            ends = [e for e in point.ends() if point.spares(action, e)]
            for end in ends if ALL else ends[:1]:
                play(pool, point, action, end)


def a_kill_around_the_commit_point_leaves_one_guest(pool):
    points = {p.name: p for p in faults.table(pool)}
    for name in [n for n, p in points.items() if "kill" in p.actions] if ALL else KILLS:
        for end in points[name].ends():
            if points[name].spares("kill", end):
                play(pool, points[name], "kill", end)


def a_guest_whose_process_is_killed_is_told_and_starts_again_once(pool):
    points = {p.name: p for p in faults.table(pool)}
    for name in ["source.state", "target.after_took"]:
        outcome = play(pool, points[name], "kill", points[name].ends()[0])
        expect(int(outcome.verdict["seq"]) == 1, f"it did not begin anew: {outcome.verdict['_']}")


run([
    every_point_of_a_vms_process_is_reached_and_does_no_harm,
    a_kill_around_the_commit_point_leaves_one_guest,
    a_guest_whose_process_is_killed_is_told_and_starts_again_once,
], failpoints=True)

#!/usr/bin/env python3
"""What a move will take is told before it, kept beside what came, and learned from."""
from pool_case import expect, expect_host, pools, run

MIB = 1 << 20


def a_guest_is_looked_at_while_it_writes(pool):
    pool.create_guest("seen", "writers=1 rate=40 ws=16 fill=random fillmb=32", memory="128MiB")
    pool.ask("seen", "gap reset", "gw ok")
    told = pools.wait_for("a second in which it writes", 60, lambda: (
        lambda t: t if t["sample"]["written_bytes"][-1] > 0 else None)(pool.json("vm", "dirty-rate", "seen")))
    sample = told["sample"]
    expect(told["host"] == "node1" and len(sample["at_ns"]) == 5, str(told))
    written = sample["written_bytes"]
    expect(written == sorted(written) and 0 < written[-1] < 20 * MIB, f"16 MiB are written to, seen {written}")
    expect(30 * MIB < sample["populated_bytes"] <= 128 * MIB, str(sample))
    expect(sample["packed_permille"] > 800, f"random bytes do not pack: {sample}")
    pool.verify("seen")
    stats = pool.ask("seen", "stats", "gw stats")
    print(f"        {[b // 1024 for b in written]} KiB, {sample['cpu_ns'] / 1e6:.1f} ms of a core; {stats['_']}")
    words = pool.godwit("vm", "dirty-rate", "seen").stdout
    expect("it writes" in words and "of distinct memory" in words, words)


def a_stopped_guest_is_not_looked_at(pool):
    pool.create_guest("still", "", memory="64MiB")
    pool.godwit("vm", "stop", "still", "--force", check=False)
    refused = pool.godwit("vm", "dirty-rate", "still", check=False)
    expect(refused.returncode != 0 and "does not run" in refused.stderr, refused.stderr)
    pool.godwit("vm", "rm", "still", "-y")


def a_dry_run_tells_what_to_expect_and_changes_nothing(pool):
    job = pool.json("migrate", "seen", "--to", "node2", "--dry-run")
    forecast = job["forecast"]
    expect(forecast["sampled"] and forecast["converges"] and forecast["rounds"] >= 1, str(forecast))
    expect(0 < forecast["total_ns"] <= forecast["total_high_ns"], str(forecast))
    expect(0 < forecast["pause_ns"] <= forecast["pause_high_ns"], str(forecast))
    expect_host(pool, "seen", "node1")
    held = pool.json("migrate", "seen", "--to", "node2", "--dry-run", "--bandwidth", "1MiB/s")["forecast"]
    expect(held["total_ns"] > 20 * 10**9, f"32 MiB at 1 MiB/s: {held}")
    words = pool.godwit("migrate", "seen", "--to", "node2", "--dry-run").stdout
    expect("expect " in words and "19 of 20" in words and "converge" in words, words)


def what_was_told_is_kept_beside_what_came_and_is_learned_from(pool):
    for moves, target in enumerate(("node2", "node1")):
        pools.wait_for(f"{moves} moves to have taught", 60, lambda: moves == pool.json(
            "migrate", "seen", "--to", target, "--dry-run")["forecast"]["vm_moves"])
        pool.godwit("migrate", "seen", "--to", target, "--progress", "none")
        expect_host(pool, "seen", target)
    job = [j for j in pool.ls("job") if j["vm"] == "seen"][-1]
    expect(job["forecast"]["total_ns"] > 0 and job["receipt"]["total_ns"] > 0, str(job))
    report = pool.godwit("job", "report", job["id"]).stdout
    expect("forecast" in report and "came" in report, report)
    expect(job["forecast"]["vm_moves"] == 1, f"the first move has taught: {job['forecast']}")
    pools.wait_for("the second to have taught", 60, lambda: 2 == pool.json(
        "migrate", "seen", "--to", "node2", "--dry-run")["forecast"]["vm_moves"])
    pool.kill_coordinator()
    pool.start_coordinator()
    pool.wait_hosts_up(60)
    again = pool.json("migrate", "seen", "--to", "node2", "--dry-run")["forecast"]
    expect(again["vm_moves"] == 2 and again["link_moves"] == 1, f"the store has what was learned: {again}")
    pool.verify("seen")


run([
    a_guest_is_looked_at_while_it_writes,
    a_stopped_guest_is_not_looked_at,
    a_dry_run_tells_what_to_expect_and_changes_nothing,
    what_was_told_is_kept_beside_what_came_and_is_learned_from,
])

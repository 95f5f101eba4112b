#!/usr/bin/env python3
"""A real pool: a guest under load moves, is refused, canceled, limited; its memory is verified each time."""
import json
import signal

from pool_case import clean_vms, expect, expect_host, need_guest, pools, run


def last_job(pool, vm):
    return [j for j in pool.ls("job") if j["vm"] == vm][-1]


def need_mover(pool):
    need_guest(pool, "mover", "writers=1 rate=50 ws=64 fill=random fillmb=96", vcpus=2)


def moves_a_guest_under_write_load_and_its_memory_is_whole(pool):
    need_mover(pool)
    pool.godwit("migrate", "mover", "--to", "node2")
    expect_host(pool, "mover", "node2")
    pool.verify("mover")
    pool.godwit("migrate", "mover", "--to", "node1")
    expect_host(pool, "mover", "node1")
    pool.verify("mover")
    stats = pool.ask("mover", "stats", "gw stats")
    expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0,
           f"a clock stepped back: {stats['_']}")


def rereads_all_memory_inside_the_pause_when_asked_to_prove_it(pool):
    need_mover(pool)
    pool.godwit("migrate", "mover", "--to", "node2", "--verify")
    receipt = last_job_with_receipt(pool, "mover")
    expect(receipt.get("reread_verified"), f"no reread in the receipt: {receipt}")
    pool.verify("mover")


def last_job_with_receipt(pool, vm):
    job = pool.json("job", "show", last_job(pool, vm)["id"])
    expect("receipt" in job, f"no receipt: {job}")
    return job["receipt"]


def tells_phases_rounds_and_pause_in_its_receipt(pool):
    receipt = last_job_with_receipt(pool, "mover")
    names = [p["phase"] for p in receipt["phases"]]
    for phase in ("greet", "prepare", "precopy", "pause", "drain", "state", "handover"):
        expect(phase in names, f"phase {phase} is missing: {names}")
    expect(receipt["moved"] and receipt["downtime_ns"] > 0 and receipt["rounds"], str(receipt))
    memory = pool.json("vm", "show", "mover")["spec"]["memory"]["size"]
    expect(int(receipt["memory_bytes"]) == int(memory) == int(receipt["digest_pages"]) * 4096,
           f"of {memory} bytes of memory: {receipt}")


def moves_a_paused_guest_which_stays_paused(pool):
    need_mover(pool)
    pool.godwit("vm", "pause", "mover")
    source = pool.vm("mover")["host"]
    target = "node1" if source == "node2" else "node2"
    pool.godwit("migrate", "mover", "--to", target)
    expect_host(pool, "mover", target, "paused")
    pool.godwit("vm", "resume", "mover")
    pool.verify("mover")


def refuses_a_move_to_where_it_runs_and_to_nobody(pool):
    need_mover(pool)
    here = pool.vm("mover")["host"]
    same = pool.godwit("migrate", "mover", "--to", here, check=False)
    expect(same.returncode == 5, f"exit {same.returncode}, wanted 5: {same.stderr}")
    expect("running on " + here in same.stderr, f"does not say where the VM is: {same.stderr}")
    nobody = pool.godwit("migrate", "mover", "--to", "nodde2", check=False)
    expect(nobody.returncode == 3 and "node2" in nobody.stderr, f"{nobody.returncode}: {nobody.stderr}")
    unknown = pool.godwit("migrate", "movre", check=False)
    expect(unknown.returncode == 3 and "mover" in unknown.stderr, f"{unknown.returncode}: {unknown.stderr}")


def a_canceled_move_rolls_back_and_the_guest_runs_on_at_its_source(pool):
    need_mover(pool)
    source = expect_host(pool, "mover", pool.vm("mover")["host"])["host"]
    target = "node1" if source == "node2" else "node2"
    pool.godwit("migrate", "mover", "--to", target, "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "mover")["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    busy = pool.godwit("migrate", "mover", "--to", target, check=False)
    expect(busy.returncode == 9, f"a second move: exit {busy.returncode}, wanted 9: {busy.stderr}")
    pool.godwit("job", "cancel", job)
    watch = pool.godwit("job", "watch", job, check=False)
    expect(watch.returncode == 6, f"exit {watch.returncode}, wanted 6: {watch.stdout}{watch.stderr}")
    expect_host(pool, "mover", source)
    pool.verify("mover")
    nothing_left_at(pool, target)


def other_goals_reach_a_move_that_is_under_way(pool):
    need_mover(pool)
    target = "node1" if pool.vm("mover")["host"] == "node2" else "node2"
    pool.godwit("migrate", "mover", "--to", target, "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "mover")["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    nothing = pool.godwit("job", "set", job, check=False)
    expect(nothing.returncode == 2, f"nothing to set: exit {nothing.returncode}: {nothing.stderr}")
    # At 2 MiB/s it would take a minute and more, and never converge.
    pool.godwit("job", "set", job, "--bandwidth", "2GiB/s", "--policy", "finish")
    watch = pool.godwit("job", "watch", job, "--progress", "none", check=False)
    expect(watch.returncode == 0, f"exit {watch.returncode}: {watch.stdout}{watch.stderr}")
    goals = pool.json("job", "show", job)["goals"]
    expect(goals["policy"] == "finish" and goals["bandwidth_bytes_per_s"] == 2 << 30, str(goals))
    expect_host(pool, "mover", target)
    pool.verify("mover")
    late = pool.godwit("job", "set", job, "--policy", "gentle", check=False)
    expect(late.returncode != 0 and "over" in late.stderr, f"{late.returncode}: {late.stderr}")


def nothing_left_at(pool, host_name):
    host = next(h for h in pool.hosts if h.name == host_name)
    pools.wait_for(f"no process left on {host_name}", 15, lambda: not host.vm_pids())


def a_deadline_rolls_back_with_exit_6(pool):
    need_mover(pool)
    source = pool.vm("mover")["host"]
    target = "node1" if source == "node2" else "node2"
    late = pool.godwit("migrate", "mover", "--to", target, "--bandwidth", "2MiB/s", "--deadline", "2s",
                       check=False)
    expect(late.returncode == 6, f"exit {late.returncode}, wanted 6: {late.stdout}{late.stderr}")
    expect("deadline" in late.stderr and f"running on {source}" in late.stderr, late.stderr)
    expect_host(pool, "mover", source)
    pool.verify("mover")
    nothing_left_at(pool, target)


def ctrl_c_detaches_and_the_move_goes_on(pool):
    need_mover(pool)
    source = pool.vm("mover")["host"]
    target = "node1" if source == "node2" else "node2"
    process = pool.start_godwit("migrate", "mover", "--to", target, "--bandwidth", "30MiB/s")
    pools.wait_for("the job", 20, lambda: any(
        j["vm"] == "mover" and j["state"] == "running" for j in pool.ls("job")))
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=30)
    expect(process.returncode == 130, f"exit {process.returncode}, wanted 130: {words}")
    expect("godwit job watch" in words, f"does not say how to watch it: {words}")
    done = pool.godwit("job", "watch", last_job(pool, "mover")["id"], check=False)
    expect(done.returncode == 0, f"exit {done.returncode}: {done.stderr}")
    expect_host(pool, "mover", target)
    pool.verify("mover")


def copies_every_fill_with_every_codec(pool):
    clean_vms(pool)
    for fill in ("zero", "random", "text", "dup"):
        for compress in ("auto", "off", "lz4"):
            if compress != "auto" and fill in ("zero", "dup"):
                continue
            name = f"{fill}-{compress}"
            pool.create_guest(name, f"writers=1 rate=20 ws=32 fill={fill} fillmb=64", memory="128MiB")
            pool.godwit("migrate", name, "--to", "node2", "--compress", compress)
            pool.verify(name)
            pool.godwit("vm", "rm", name, "--stop", "-y")


def sends_again_only_what_changed_in_rounds_and_in_a_stream(pool):
    for mode in ("rounds", "stream"):
        name = f"sparse-{mode}"
        pool.create_guest(name, "writers=1 rate=20 ws=64 pattern=sparse fill=random fillmb=96", memory="192MiB")
        pool.godwit("migrate", name, "--to", "node2", "--mode", mode, "--delta", "always", "--bandwidth", "100MiB/s")
        pool.verify(name)
        rounds = pool.json("job", "show", last_job(pool, name)["id"])["receipt"]["rounds"]
        patches = sum(r.get("patch_pages", 0) for r in rounds)
        as_bytes = sum(r.get("patch_bytes", 0) for r in rounds)
        expect(patches > 0, f"{mode}: no page was sent as a patch: {rounds}")
        expect(as_bytes < patches * 512, f"{mode}: {patches} patches of {as_bytes} bytes")
        pool.godwit("vm", "rm", name, "--stop", "-y")


def moves_a_guest_with_memory_above_the_hole(pool):
    pool.create_guest("big", "vcpus=4 writers=2 rate=40 ws=64 fill=random fillmb=64", memory="5GiB", vcpus=4)
    pool.godwit("migrate", "big", "--to", "node2")
    expect_host(pool, "big", "node2")
    record = pool.verify("big")
    expect(int(record["pages"]) > 0, record["_"])
    stats = pool.ask("big", "stats", "gw stats")
    expect(stats.get("fpu", "ok") == "ok", f"registers changed on the way: {stats['_']}")
    pool.godwit("vm", "rm", "big", "--stop", "-y")


def speaks_json_for_scripts(pool):
    done = pool.godwit("vm", "ls", "-o", "json")
    json.loads(done.stdout)
    status = pool.json("pool", "status")
    expect(status["hosts"] == 2, str(status))


run([
    moves_a_guest_under_write_load_and_its_memory_is_whole,
    rereads_all_memory_inside_the_pause_when_asked_to_prove_it,
    tells_phases_rounds_and_pause_in_its_receipt,
    moves_a_paused_guest_which_stays_paused,
    refuses_a_move_to_where_it_runs_and_to_nobody,
    a_canceled_move_rolls_back_and_the_guest_runs_on_at_its_source,
    other_goals_reach_a_move_that_is_under_way,
    a_deadline_rolls_back_with_exit_6,
    ctrl_c_detaches_and_the_move_goes_on,
    copies_every_fill_with_every_codec,
    sends_again_only_what_changed_in_rounds_and_in_a_stream,
    moves_a_guest_with_memory_above_the_hole,
    speaks_json_for_scripts,
])

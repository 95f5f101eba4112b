#!/usr/bin/env python3
"""Tests of replicas in a real pool: a copy of a guest that writes memory and disk runs beside its replica and verifies every
page and every block, while checkpoints go on arriving; it is taken away and leaves nothing; the real one fails over while
another copy runs. A drill does all of that by itself."""
import pathlib

import pool_case
import test_pool_dr as dr
from pool_case import expect, expect_host, pools
from test_pool_ha import HaPool, ha_host


def disks_of(host):
    """What lies in the folder of disks that is this host's own."""
    folder = pathlib.Path(dr.DISKS.name) / host.name
    return sorted(str(at.relative_to(folder)) for at in folder.rglob("*") if at.is_file())


def of_copy(host, copy_id, name):
    """Everything that there is of a copy on its host."""
    found = [at for at in disks_of(host) if copy_id in at or name in at]
    return found + [str(at) for at in host.dir.rglob(f"*{copy_id}*")]


def nothing_is_left(host, copy_id, name):
    """Files of its agent go when what they say is written out."""
    pools.wait_for(f"nothing to be left of {name}", 30, lambda: not of_copy(host, copy_id, name))


def copy_is_whole(pool, name, host):
    expect_host(pool, name, host)
    pool.verify(name)
    before = int(pool.ask(name, "disk", "gw disk ")["written"])
    pools.wait_for(f"{name} to write more blocks", 60,
                   lambda: int(pool.ask(name, "disk", "gw disk ")["written"]) > before + 20)
    record = pool.ask(name, "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])


def refused(pool, code, *words):
    done = pool.godwit(*words, check=False)
    expect(done.returncode != 0 and code in done.stderr, f"{words}: {done.returncode}: {done.stderr}")


def a_copy_runs_beside_the_replica_and_leaves_replication_untouched(pool):
    first = dr.need_protection(pool)
    missed = first["missed_count"]
    replica = dr.host_of(pool, "node3")
    dr.told(pool.godwit("dr", "test", "web", timeout=180), "RPO", "RTO", "web-test", "on no network")
    test = dr.status(pool)["test"]
    expect(test["step"] == "runs" and test["rpo_ms"] < first["rpo_goal_ms"], str(test))
    copy = pool.vm("web-test")
    expect(copy["id"] == test["copy_id"] != pool.vm("web")["id"], str(copy))
    copy_is_whole(pool, "web-test", "node3")
    later = pools.wait_for("3 more checkpoints while it runs", 60, lambda: (
        lambda s: s if s["checkpoints"] >= first["checkpoints"] + 3 else None)(dr.status(pool)), 0.2)
    expect(later["state"] == "protected" and later["is_linked"] and later["missed_count"] == missed, str(later))
    expect(later["rpo_worst_ms"] <= later["rpo_goal_ms"], f"the goal was not kept: {later}")
    expect(any("web-test" in at for at in of_copy(replica, test["copy_id"], "web-test")), "it has no disk of its own")
    expect(len(replica.vm_pids()) == 2, "not two processes at node3: the replica's and the copy's")
    dr.is_whole(pool, "node2")
    refused(pool, "GW-2802", "dr", "test", "web")
    refused(pool, "test copy", "ha", "add", "web-test")
    refused(pool, "test copy", "dr", "protect", "web-test", "--to", "node2")
    pool.godwit("dr", "test", "web", "--end")
    expect(all(vm["name"] != "web-test" for vm in pool.ls("vm")), "the copy is still a VM")
    pools.wait_for("the copy's process to end", 30, lambda: len(replica.vm_pids()) == 1)
    nothing_is_left(replica, test["copy_id"], "web-test")
    refused(pool, "GW-2802", "dr", "test", "web", "--end")
    dr.wait_state(pool, "protected")


def vm_rm_ends_a_test_too(pool):
    dr.need_protection(pool)
    replica = dr.host_of(pool, "node3")
    pool.godwit("dr", "test", "web", "--as", "probe", timeout=180)
    test = dr.status(pool)["test"]
    pool.godwit("vm", "rm", "probe", "--stop", "-y")
    pools.wait_for("the test to be over", 30, lambda: dr.status(pool)["test"]["step"] == "over")
    nothing_is_left(replica, test["copy_id"], "probe")


def a_drill_finds_out_by_itself(pool):
    dr.need_protection(pool)
    replica = dr.host_of(pool, "node3")
    dr.told(pool.godwit("dr", "drill", "web", "--now", timeout=180), "RPO", "RTO", "ran for")
    test = dr.status(pool)["test"]
    expect(test["is_drill"] and test["step"] == "over" and not test.get("error"), str(test))
    expect(test["ran_ms"] >= 10000 and test["vcpu_ms"] > 0, str(test))
    nothing_is_left(replica, test["copy_id"], "web-drill")
    pool.godwit("dr", "drill", "web", "--every", "24h")
    expect(dr.status(pool)["drill_every_ms"] == 24 * 3600 * 1000, str(dr.status(pool)))
    pool.godwit("dr", "drill", "web", "--off")
    expect("drill_every_ms" not in dr.status(pool), str(dr.status(pool)))


def the_real_one_fails_over_while_a_copy_runs(pool):
    dr.need_protection(pool)
    source = dr.host_of(pool, "node2")
    pool.godwit("dr", "test", "web", timeout=180)
    copy_is_whole(pool, "web-test", "node3")
    dr.die(pool, source)
    pools.wait_for("node2 to be fenced", 60, lambda: ha_host(pool, "node2")["state"] == "fenced")
    dr.told(pool.godwit("dr", "failover", "web"), "RPO", "RTO")
    dr.is_whole(pool, "node3")
    copy_is_whole(pool, "web-test", "node3")
    dr.come_back(pool, source)
    expect(not source.vm_pids(), "its old host started something")
    pool.godwit("dr", "test", "web", "--end")
    dr.is_whole(pool, "node3")


if __name__ == "__main__":
    pool_case.run([
        a_copy_runs_beside_the_replica_and_leaves_replication_untouched,
        vm_rm_ends_a_test_too,
        a_drill_finds_out_by_itself,
        the_real_one_fails_over_while_a_copy_runs,
    ], hosts=3, kind=HaPool)

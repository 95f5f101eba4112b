#!/usr/bin/env python3
"""A pool that is made with --adopt all, of hosts whose libvirt has guests: they are the pool's as soon as their hosts
have joined, once; what is let go or defined later is left alone."""
import subprocess
import sys

from pool_case import expect, pools, run

import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)

LOAD = "writers=1 rate=5 ws=4 fill=random fillmb=8"


class AdoptPool(virt_pool.VirtPool):
    """Every host has a running guest, a stopped one and one whose name no VM can have, before it joins."""

    tls = True

    def __init__(self, **more):
        super().__init__(**more)
        self.init_words = ["--adopt", "all"]

    def make_host(self, name, number):
        host = super().make_host(name, number)
        self.define(host, f"run-{number}", LOAD, memory_mib=64)
        self.define(host, f"rest-{number}", LOAD, memory_mib=64, start=False)
        if number == 1:
            self.define(host, "my database", LOAD, memory_mib=64, start=False)
        return host


def by_name(pool):
    return {vm["name"]: vm for vm in pool.ls("vm")}


def what_hosts_bring_along_is_the_pools_as_it_is(pool):
    names = ["run-1", "run-2", "rest-1", "rest-2"]
    pools.wait_for("all domains to be adopted", 120, lambda: (
        lambda vms: all(n in vms and not vms[n].get("unadopted") for n in names) and
        all(vms[f"run-{i}"]["state"] == "running" for i in (1, 2)))(by_name(pool)), 0.2)
    vms = by_name(pool)
    for i in (1, 2):
        expect(vms[f"rest-{i}"]["state"] == "stopped", str(vms[f"rest-{i}"]))
        expect(vms[f"run-{i}"]["host"] == f"node{i}" and vms[f"run-{i}"]["generation"] == 1, str(vms[f"run-{i}"]))
        pool.verify_domain(pool.hosts[i - 1], f"run-{i}")
    expect(vms["my database"].get("unadopted"), str(vms["my database"]))
    events = pool.godwit("events").stdout
    expect("domain my database of node1 is not adopted" in events, events)


def what_is_let_go_or_comes_later_is_left_alone(pool):
    pool.godwit("vm", "rm", "rest-2", "-y")
    pool.define(pool.hosts[0], "late", LOAD, memory_mib=64, start=False)
    pool.kill_coordinator()
    pool.start_coordinator()
    pool.wait_hosts_up(90)
    pools.wait_for("both to be shown", 90, lambda: {"rest-2", "late"} <= set(by_name(pool)), 0.2)
    pool.hosts[0].virsh("domrename", "late", "later")  # a word of that host comes, and is looked at
    pools.wait_for("the new name", 90, lambda: "later" in by_name(pool), 0.2)
    vms = by_name(pool)
    expect(vms["rest-2"].get("unadopted") and vms["later"].get("unadopted"), str(vms))
    expect(not vms["run-1"].get("unadopted") and vms["run-1"]["state"] == "running", str(vms["run-1"]))


def memory_moves_in_qemus_tls_where_hosts_do_not_agree_on_plain(pool):
    pool.godwit("migrate", "run-1", "--to", "node2", timeout=300)
    pools.wait_for("run-1 to be there alone", 90, lambda: pool.runs_on("run-1") == ["node2"], 0.1)
    pool.verify_domain(pool.hosts[1], "run-1")
    job = [j for j in pool.ls("job") if j["vm"] == "run-1"][-1]
    receipt = pool.json("job", "show", job["id"])["receipt"]
    expect(receipt["moved"] and "TLS" in receipt["cipher"], str(receipt))
    # A certificate of nobody's authority: the move is refused by QEMU, and the guest runs on where it is.
    for word in ("server", "client"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
                        pool.hosts[0].dir / f"qemu-tls/{word}-key.pem", "-out",
                        pool.hosts[0].dir / f"qemu-tls/{word}-cert.pem", "-subj", "/CN=stranger", "-days", "2"],
                       check=True, capture_output=True)
    refused = pool.godwit("migrate", "run-1", "--to", "node1", check=False, timeout=300)
    expect(refused.returncode != 0, "memory went to a host that could not show who it is")
    pools.wait_for("run-1 to run on", 90, lambda: pool.runs_on("run-1") == ["node2"], 0.1)
    pool.verify_domain(pool.hosts[1], "run-1")


why_not = virt_pool.missing()
if why_not:
    print(f"skipped: {why_not}")
    sys.exit(77)
run([
    what_hosts_bring_along_is_the_pools_as_it_is,
    memory_moves_in_qemus_tls_where_hosts_do_not_agree_on_plain,
    what_is_let_go_or_comes_later_is_left_alone,
], kind=AdoptPool)

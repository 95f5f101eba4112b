#!/usr/bin/env python3
"""Two real libvirtd under real agents: QEMU guests are adopted, moved, evacuated, canceled; what virsh does is
followed; what dies is restarted or told. The guest verifies its own memory each time. GODWIT_FULL=1: 50 moves, and
every part killed in the middle of one."""
import os
import signal
import sys
import threading

from pool_case import expect, pools, run

import faults  # noqa: E402  (scripts/lib, found by pool_case)
import virt_pool  # noqa: E402

FULL = bool(os.environ.get("GODWIT_FULL"))
LOAD = "writers=1 rate=20 ws=16 fill=random fillmb=32"


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == pool.vm(name)["host"])


def other(pool, host):
    return next(h for h in pool.hosts if h is not host)


def wait_vm(pool, name, state, host=None, seconds=90):
    return pools.wait_for(f"{name} {state} on {host or 'a host'}", seconds, lambda: (
        lambda v: v if v["state"] == state and (not host or v.get("host") == host) else None)(pool.vm(name)), 0.1)


def need_domain(pool, name="dom", host=0):
    """Adopted, and running."""
    if not any(vm["name"] == name for vm in pool.ls("vm")):
        pool.define(pool.hosts[host], name, LOAD, memory_mib=128)
        pools.wait_for(f"{name} to be found", 90, lambda: any(v["name"] == name for v in pool.ls("vm")), 0.1)
    vm = pool.vm(name)
    if vm.get("unadopted"):
        pool.godwit("vm", "adopt", name)
    elif vm["state"] in ("stopped", "crashed"):
        pool.godwit("vm", "start", name)
    wait_vm(pool, name, "running")


def expect_one_copy(pool, name, host):
    running = pool.runs_on(name)
    expect(running == [host.name], f"{name} runs on {running}, wanted {host.name} alone")


def move(pool, name, *words):
    target = other(pool, host_of(pool, name))
    pool.godwit("migrate", name, "--to", target.name, *words, timeout=300)
    wait_vm(pool, name, "running", target.name)
    expect_one_copy(pool, name, target)
    return target


def shows_a_domain_and_leaves_it_alone_until_it_is_adopted(pool):
    first = pool.hosts[0]
    pool.define(first, "dom", LOAD, memory_mib=128)
    vm = pools.wait_for("the domain to be found", 90, lambda: next(
        (v for v in pool.ls("vm") if v["name"] == "dom"), None), 0.1)
    expect(vm.get("unadopted") and vm["backend"] == "libvirt" and vm["host"] == "node1", str(vm))
    before = first.virsh("dumpxml", "--inactive", "dom").stdout
    pool.godwit("vm", "adopt", "dom")
    vm = wait_vm(pool, "dom", "running", "node1")
    expect(not vm.get("unadopted") and vm["generation"] == 1, str(vm))
    expect(first.virsh("dumpxml", "--inactive", "dom").stdout == before, "the definition was changed")
    again = pool.godwit("vm", "adopt", "dom", check=False)
    expect(again.returncode == 5, f"adopted twice: exit {again.returncode}: {again.stderr}")
    pool.verify_domain(first, "dom")


def pauses_resumes_stops_and_starts_it(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    pool.godwit("vm", "pause", "dom")
    expect(host.domain_state("dom") == "paused", host.domain_state("dom"))
    pool.godwit("vm", "resume", "dom")
    expect(host.domain_state("dom") == "running", host.domain_state("dom"))
    pool.godwit("vm", "stop", "--force", "dom")
    wait_vm(pool, "dom", "stopped")
    expect(host.domain_state("dom") == "shut off", host.domain_state("dom"))
    pool.godwit("vm", "start", "dom")
    wait_vm(pool, "dom", "running", host.name)
    pool.verify_domain(host, "dom")


def moves_to_and_fro_under_load_and_its_memory_is_whole(pool):
    need_domain(pool)
    pool.verify_domain(host_of(pool, "dom"), "dom")
    totals, gaps = [], []
    for _ in range(50 if FULL else 2):
        target = move(pool, "dom")
        pool.verify_domain(target, "dom")
        job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]
        receipt = pool.json("job", "show", job["id"])["receipt"]
        expect(receipt["moved"] and receipt["downtime_ns"] > 0 and receipt["wire_bytes"] > 0, str(receipt))
        expect([p["phase"] for p in receipt["phases"]][:1] == ["greet"], str(receipt))
        totals.append(receipt["total_ns"] / 1e9)
        gaps.append(receipt["downtime_ns"] / 1e6)
    print(f"        {len(totals)} moves, verified after each: {min(totals):.1f} to {max(totals):.1f} s, the guest stood still for "
          f"{min(gaps):.0f} to {max(gaps):.0f} ms", flush=True)


def a_canceled_move_leaves_it_where_it_was(pool):
    need_domain(pool)
    source = host_of(pool, "dom")
    target = other(pool, source)
    pool.godwit("migrate", "dom", "--to", target.name, "--bandwidth", "1MiB/s", "--no-wait")
    job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]
    pools.wait_for("libvirt to copy", 90, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy", 0.1)
    pool.godwit("job", "cancel", job)
    watch = pool.godwit("job", "watch", job, check=False)
    expect(watch.returncode == 6, f"exit {watch.returncode}, wanted 6: {watch.stdout}{watch.stderr}")
    wait_vm(pool, "dom", "running", source.name)
    pools.wait_for("nothing left at the target", 90, lambda: not target.qemu_pids(), 0.1)
    expect_one_copy(pool, "dom", source)
    pool.verify_domain(source, "dom")


def follows_what_virsh_does(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    host.virsh("destroy", "dom")
    vm = wait_vm(pool, "dom", "stopped")
    expect("outside of the pool" in vm.get("reason", ""), str(vm))
    host.virsh("start", "dom")
    wait_vm(pool, "dom", "running", host.name)
    target = other(pool, host)
    host.virsh("migrate", "--live", "--p2p", "--persistent", "--undefinesource", "dom",
               f"qemu+tcp://{target.address}/system", f"tcp://{target.address}")
    wait_vm(pool, "dom", "running", target.name)
    expect_one_copy(pool, "dom", target)
    pool.verify_domain(target, "dom")
    move(pool, "dom")


def a_killed_agent_and_a_killed_libvirtd_lose_nothing(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    generation = pool.vm("dom")["generation"]
    host.kill_agent()
    host.start_agent()
    pool.wait_hosts_up(90)
    vm = wait_vm(pool, "dom", "running", host.name)
    expect(vm["generation"] == generation, str(vm))
    host.kill_libvirtd()
    host.start_libvirtd()
    pools.wait_for("libvirtd to be driven again", 90, lambda: pool.godwit(
        "vm", "pause", "dom", check=False).returncode == 0, 0.2)
    pool.godwit("vm", "resume", "dom")
    expect(pool.vm("dom")["generation"] == generation, "it was started anew")
    pool.verify_domain(host, "dom")


class SlowStart:
    """libvirtd of the domain's host stands in its hook while it starts something, until the block ends."""

    def __init__(self, pool):
        self.pool, self.host = pool, host_of(pool, "dom")
        self.gate, self.seen = self.host.dir / "hook-waits", self.host.dir / "hook-begun"
        self.hook = self.host.dir / "libvirt" / "etc" / "hooks" / "qemu"

    def __enter__(self):
        self.hook.parent.mkdir(exist_ok=True)
        self.hook.write_text(f"""#!/bin/sh
[ "$2" = prepare ] || exit 0
echo begun >>{self.seen}
while [ -e {self.gate} ]; do sleep 0.05; done
""")
        self.hook.chmod(0o755)
        self.pool.godwit("vm", "stop", "--force", "dom")
        wait_vm(self.pool, "dom", "stopped")
        self.again()  # it looks for hooks when it begins
        self.gate.touch()
        self.refusals = self.pool.godwit("events").stdout.count("could not be started")
        self.command = threading.Thread(target=self.start)
        self.command.start()
        self.begins()
        return self

    def start(self):
        self.words = self.pool.godwit("vm", "start", "dom", check=False, timeout=200)

    def again(self):
        log = self.pool.dir / f"agent-{self.host.name}.log"
        before = log.read_text().count("connected to libvirt at")
        self.host.kill_libvirtd()
        self.host.start_libvirtd()
        pools.wait_for("libvirtd to be driven again", 90, lambda: log.read_text().count(
            "connected to libvirt at") > before, 0.1)

    def begins(self, times=1):
        pools.wait_for("libvirt to be at it", 90, lambda: self.seen.exists() and
                       self.seen.read_text().count("begun") >= times, 0.1)
        expect(self.pool.vm("dom")["record_phase"] == "STARTING", str(self.pool.vm("dom")))

    def ends(self):
        self.gate.unlink()
        vm = wait_vm(self.pool, "dom", "running", self.host.name)
        self.command.join()
        expect_one_copy(self.pool, "dom", self.host)
        expect(self.pool.godwit("events").stdout.count("could not be started") == self.refusals, "it was told as refused")
        self.pool.verify_domain(self.host, "dom")
        return vm

    def __exit__(self, *_):
        self.gate.unlink(missing_ok=True)
        self.seen.unlink(missing_ok=True)
        self.hook.unlink()


def a_start_whose_answer_is_lost_with_libvirtd_is_asked_for_again_and_runs(pool):
    need_domain(pool)
    with SlowStart(pool) as slow:
        generation = pool.vm("dom")["generation"]
        slow.again()
        slow.begins(times=2)
        expect(slow.ends()["generation"] == generation, "it was started anew")


def a_start_whose_agent_and_libvirtd_die_is_the_next_agents(pool):
    need_domain(pool)
    with SlowStart(pool) as slow:
        generation = pool.vm("dom")["generation"]
        slow.host.kill_agent()
        slow.host.kill_libvirtd()
        slow.host.start_agent()  # it knows nothing of its domains yet
        pool.wait_hosts_up(90)
        expect(pool.vm("dom")["record_phase"] == "STARTING", str(pool.vm("dom")))
        slow.host.start_libvirtd()
        slow.begins(times=2)
        expect(slow.ends()["generation"] == generation, "it was started anew")


def a_start_that_takes_longer_than_anybody_waits_is_pending_all_the_same(pool):
    need_domain(pool)
    with SlowStart(pool) as slow:
        generation = pool.vm("dom")["generation"]
        slow.command.join()
        expect("gave no answer" in slow.words.stdout + slow.words.stderr, slow.words.stdout + slow.words.stderr)
        expect(pool.vm("dom")["record_phase"] == "STARTING", str(pool.vm("dom")))
        expect(slow.ends()["generation"] == generation, "it was started anew")


def break_in_a_move(pool, breaks):
    """`breaks(source, target)` in the middle of the copying; then one copy runs, and it is whole."""
    need_domain(pool)
    source = host_of(pool, "dom")
    target = other(pool, source)
    pool.godwit("migrate", "dom", "--to", target.name, "--bandwidth", "2MiB/s", "--no-wait")
    job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]
    pools.wait_for("libvirt to copy", 90, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy", 0.1)
    breaks(source, target)
    pool.godwit("job", "set", job, "--bandwidth", "1GiB/s", check=False)  # if it goes on, then soon
    pool.godwit("job", "watch", job, check=False, timeout=300)
    wait_vm(pool, "dom", "running")
    pools.wait_for("one copy", 90, lambda: pool.runs_on("dom") == [host_of(pool, "dom").name], 0.2)
    pool.verify_domain(host_of(pool, "dom"), "dom")


def a_source_agent_that_dies_in_a_move_leaves_one_copy(pool):
    def breaks(source, _target):
        source.kill_agent()
        source.start_agent()
    break_in_a_move(pool, breaks)


def a_target_agent_that_dies_in_a_move_leaves_one_copy(pool):
    def breaks(_source, target):
        target.kill_agent()
        target.start_agent()
    break_in_a_move(pool, breaks)


def a_source_libvirtd_that_dies_in_a_move_leaves_one_copy(pool):
    def breaks(source, _target):
        source.kill_libvirtd()
        source.start_libvirtd()
    break_in_a_move(pool, breaks)


def a_target_libvirtd_that_dies_in_a_move_leaves_one_copy(pool):
    def breaks(_source, target):
        target.kill_libvirtd()
        target.start_libvirtd()
    break_in_a_move(pool, breaks)


def a_target_qemu_that_dies_in_a_move_leaves_one_copy(pool):
    def breaks(_source, target):
        for pid in target.qemu_pids():
            os.kill(pid, signal.SIGKILL)
    break_in_a_move(pool, breaks)


def a_source_qemu_that_dies_in_a_move_is_told(pool):
    need_domain(pool)
    source = host_of(pool, "dom")
    target = other(pool, source)
    pool.godwit("migrate", "dom", "--to", target.name, "--bandwidth", "2MiB/s", "--no-wait")
    job = [j for j in pool.ls("job") if j["vm"] == "dom"][-1]["id"]
    pools.wait_for("libvirt to copy", 90, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy", 0.1)
    for pid in source.qemu_pids():
        os.kill(pid, signal.SIGKILL)
    pool.godwit("job", "watch", job, check=False, timeout=300)
    wait_vm(pool, "dom", "crashed")
    pools.wait_for("nothing to run", 90, lambda: not pool.runs_on("dom"), 0.2)
    pool.godwit("vm", "start", "dom")
    wait_vm(pool, "dom", "running")


def a_killed_qemu_is_told_as_a_crash(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    for pid in host.qemu_pids():
        os.kill(pid, signal.SIGKILL)
    wait_vm(pool, "dom", "crashed")
    pool.godwit("vm", "start", "dom")
    wait_vm(pool, "dom", "running", host.name)


def an_evacuated_host_is_empty(pool):
    need_domain(pool)
    source = host_of(pool, "dom")
    pool.godwit("host", "evacuate", source.name, "-y", timeout=300)
    target = other(pool, source)
    wait_vm(pool, "dom", "running", target.name)
    pool.godwit("host", "uncordon", source.name)
    pool.verify_domain(target, "dom")


def is_told_as_undefined(pool):
    words = pool.godwit("events").stdout
    return words.rfind("dom was undefined on ") > words.rfind("dom is defined on ")


def told_after(pool, text, act):
    """One event more with `text` than there was before `act`: cases before this one may have brought the same."""
    count = lambda: pool.godwit("events").stdout.count(text)  # noqa: E731
    before = count()
    act()
    pools.wait_for(f"another '{text}'", 90, lambda: count() > before, 0.2)


def a_hand_that_undefines_is_told_and_costs_nothing(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    xml = pool.dir / "dom.xml"
    if "dom" not in host.virsh("list", "--all", "--name", "--persistent").stdout.split():  # a case before this one
        pools.wait_for("that to be told", 90, lambda: is_told_as_undefined(pool), 0.2)
        told_after(pool, f"dom is defined on {host.name} again", lambda: host.virsh("define", xml))
    told_after(pool, f"dom was undefined on {host.name}", lambda: host.virsh("undefine", "dom"))
    expect_one_copy(pool, "dom", host)
    host = move(pool, "dom")  # as libvirt has it now: without a definition there either
    pool.verify_domain(host, "dom")
    told_after(pool, f"dom is defined on {host.name} again", lambda: host.virsh("define", xml))
    pool.godwit("vm", "stop", "--force", "dom")
    wait_vm(pool, "dom", "stopped")
    told_after(pool, "it stays stopped", lambda: host.virsh("undefine", "dom"))
    pool.godwit("vm", "start", "dom")
    wait_vm(pool, "dom", "running", host.name)
    expect(host.domain_state("dom") == "running", "it was not defined again")
    pool.verify_domain(host, "dom")


def a_second_copy_started_by_hand_is_a_conflict_and_never_fought(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    second = other(pool, host)
    second.virsh("define", pool.dir / "dom.xml")
    second.virsh("start", "dom")
    pools.wait_for("the alarm", 90, lambda: any("conflict" in e for e in pool.godwit("events").stdout.splitlines()), 0.2)
    warnings = pool.json("pool", "status").get("warnings", [])
    expect(any("does not have them" in w for w in warnings), f"no warning: {warnings}")
    expect(sorted(pool.runs_on("dom")) == sorted([host.name, second.name]), "one of them was stopped")
    refused = pool.godwit("migrate", "dom", "--to", second.name, check=False)
    expect(refused.returncode != 0, "it moved onto its own copy")
    expect(sorted(pool.runs_on("dom")) == sorted([host.name, second.name]), "one of them was stopped")
    second.virsh("destroy", "dom")
    pools.wait_for("the end of it", 90, lambda: "the conflict over dom is over" in pool.godwit("events").stdout, 0.2)
    expect(not any("does not have them" in w for w in pool.json("pool", "status").get("warnings", [])), "the warning stayed")
    expect_one_copy(pool, "dom", host)
    pool.verify_domain(host, "dom")


def times_verified(pool, host, name):
    """How often the guest has verified its memory since it booted. Whether it was whole is another question: QEMU
    leaves memory as it is over a reset, which this guest does not expect."""
    record = pool.say(host, name, "verify", "gw verify")
    return int(next(w for w in record.split() if w.startswith("seq=")).split("=")[1])


def a_reset_boots_the_guest_anew_where_it_is(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    generation, pids = pool.vm("dom")["generation"], host.qemu_pids()
    before = max(times_verified(pool, host, "dom") for _ in range(3))
    pool.godwit("vm", "reboot", "--force", "dom")
    pools.wait_for("a guest that counts from one again", 120, lambda: times_verified(pool, host, "dom") < before, 0.2)
    vm = pool.vm("dom")
    expect(vm["generation"] == generation and vm["state"] == "running" and host.qemu_pids() == pids, str(vm))
    pool.godwit("vm", "pause", "dom")
    refused = pool.godwit("vm", "reboot", "dom", check=False)
    expect(refused.returncode != 0 and "paused" in refused.stdout + refused.stderr, str(refused))
    pool.godwit("vm", "resume", "dom")
    refused = pool.godwit("vm", "suspend", "dom", check=False)
    expect(refused.returncode != 0 and "virsh managedsave" in refused.stdout + refused.stderr, str(refused))
    pool.godwit("vm", "stop", "--force", "dom")  # clean memory for the next case
    pool.godwit("vm", "start", "dom")
    wait_vm(pool, "dom", "running", host.name)
    pool.verify_domain(host, "dom")


def whole(viewer):
    """Typed again until it is answered: a guest that still boots loses the first letter."""
    record = viewer.ask("verify", "gw verify", tries=40)
    expect(" ok " in record["_"] + " ", record["_"])


def its_console_is_relayed_and_follows_it(pool):
    pool.define(pool.hosts[0], "term", LOAD, memory_mib=64, terminal=True)
    pools.wait_for("term to be found", 90, lambda: any(v["name"] == "term" for v in pool.ls("vm")), 0.1)
    pool.godwit("vm", "adopt", "term")
    # A viewer that stays: what it types after a move goes to the guest on the other host.
    viewer = faults.Console(pool, "term")
    try:
        whole(viewer)
        pool.godwit("migrate", "term", "--to", "node2", timeout=300)
        whole(viewer)
        pool.hosts[1].kill_libvirtd()
        pool.hosts[1].start_libvirtd()
        whole(viewer)
    finally:
        viewer.close()
    pool.verify("term")  # the line was free again for the next one
    pool.godwit("vm", "rm", "term", "--stop", "-y")


def a_console_that_libvirt_cannot_give_is_refused_with_its_reason(pool):
    need_domain(pool)
    refused = pool.godwit("vm", "console", "dom", "--until", "never", "--timeout", "120s", check=False, timeout=180)
    expect(refused.returncode not in (0, 7) and "PTY" in refused.stdout + refused.stderr,
           f"exit {refused.returncode}: {refused.stdout}{refused.stderr}")


def await_unevenness(pool):
    """Loads are averages of half a minute."""
    pools.wait_for("steps that make the pool even", 120,
                   lambda: pool.json("balance", "--goal", "even", "--dry-run").get("steps"), 2)


def a_mixed_host_is_evacuated_whole(pool):
    need_domain(pool)
    source = host_of(pool, "dom")
    target = other(pool, source)
    pool.create_guest("native", LOAD, memory="128MiB", host=source.name)
    pool.godwit("host", "evacuate", source.name, "-y", timeout=300)
    wait_vm(pool, "dom", "running", target.name)
    wait_vm(pool, "native", "running", target.name)
    pools.wait_for("the host to be empty", 30, lambda: not source.qemu_pids() and not source.vm_pids())
    pool.godwit("host", "uncordon", source.name)
    pool.verify("native")
    pool.verify_domain(target, "dom")


def a_mixed_pool_is_balanced_and_a_rule_over_both_kinds_repaired(pool):
    need_domain(pool)
    if not any(vm["name"] == "native" for vm in pool.ls("vm")):
        pool.create_guest("native", LOAD, memory="128MiB", host=host_of(pool, "dom").name)
    try:
        balance_and_repair(pool)
    finally:
        pool.godwit("vm", "rm", "native", "--stop", "-y", check=False)


def balance_and_repair(pool):
    await_unevenness(pool)
    pool.godwit("balance", "--goal", "even", "--progress", "none", timeout=300)
    places = {name: wait_vm(pool, name, "running")["host"] for name in ("dom", "native")}
    expect(sorted(places.values()) == [h.name for h in pool.hosts], str(places))
    pool.godwit("rule", "add", "affinity", "near", "dom", "native")
    pool.godwit("rule", "repair", "--progress", "none", timeout=300)
    places = {name: wait_vm(pool, name, "running")["host"] for name in ("dom", "native")}
    expect(places["dom"] == places["native"], f"the rule is not kept: {places}")
    pool.godwit("rule", "rm", "near")
    pool.verify("native")
    pool.verify_domain(host_of(pool, "dom"), "dom")


def letting_go_leaves_the_definition(pool):
    need_domain(pool)
    host = host_of(pool, "dom")
    pool.godwit("vm", "rm", "dom", "--stop", "-y")
    vm = pools.wait_for("the domain to be found again", 90, lambda: next(
        (v for v in pool.ls("vm") if v["name"] == "dom" and v.get("unadopted")), None), 0.1)
    expect(vm["state"] == "stopped" and host.domain_state("dom") == "shut off", str(vm))


why_not = virt_pool.missing()
if why_not:
    print(f"skipped: {why_not}")
    sys.exit(77)
LONG = [
    a_source_agent_that_dies_in_a_move_leaves_one_copy,
    a_target_agent_that_dies_in_a_move_leaves_one_copy,
    a_source_libvirtd_that_dies_in_a_move_leaves_one_copy,
    a_target_libvirtd_that_dies_in_a_move_leaves_one_copy,
    a_target_qemu_that_dies_in_a_move_leaves_one_copy,
    a_source_qemu_that_dies_in_a_move_is_told,
    an_evacuated_host_is_empty,
    a_start_that_takes_longer_than_anybody_waits_is_pending_all_the_same,
]
run([
    shows_a_domain_and_leaves_it_alone_until_it_is_adopted,
    pauses_resumes_stops_and_starts_it,
    moves_to_and_fro_under_load_and_its_memory_is_whole,
    a_canceled_move_leaves_it_where_it_was,
    follows_what_virsh_does,
    a_killed_agent_and_a_killed_libvirtd_lose_nothing,
    a_start_whose_answer_is_lost_with_libvirtd_is_asked_for_again_and_runs,
    a_start_whose_agent_and_libvirtd_die_is_the_next_agents,
    a_hand_that_undefines_is_told_and_costs_nothing,
    a_second_copy_started_by_hand_is_a_conflict_and_never_fought,
    a_reset_boots_the_guest_anew_where_it_is,
    its_console_is_relayed_and_follows_it,
    a_console_that_libvirt_cannot_give_is_refused_with_its_reason,
    a_mixed_host_is_evacuated_whole,
    a_mixed_pool_is_balanced_and_a_rule_over_both_kinds_repaired,
    *(LONG if FULL else []),
    a_killed_qemu_is_told_as_a_crash,
    letting_go_leaves_the_definition,
], kind=virt_pool.ApartPool)

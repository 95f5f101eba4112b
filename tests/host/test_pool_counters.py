#!/usr/bin/env python3
"""What a VM's devices have done is told by `godwit vm show` and in metrics, and goes on over moves, upgrades, resets and
rests in a file: the numbers are the VM's, not its process's."""
import subprocess

from pool_case import expect, expect_host, pools, run

PORT = 9412
DISK_MIB = 8


class CountedPool(pools.Pool):
    def make_host(self, name, number):
        host = super().make_host(name, number)
        host.agent_words = ["--metrics", f"127.0.0.1:{PORT + number}"]
        return host


def need_counted(pool):
    if pool.ls("vm"):
        return
    share = pool.dir / "share"
    share.mkdir()
    nics = ""
    if pool.hosts[0].namespace:
        for host in pool.hosts:
            subprocess.run(["ip", "-n", host.namespace, "link", "add", "vmbr0", "type", "bridge"], check=True)
            subprocess.run(["ip", "-n", host.namespace, "link", "set", "vmbr0", "up"], check=True)
        pools.wait_for("bridges to be told", 10, lambda: all(
            "vmbr0" in h["facts"].get("bridges", []) for h in pool.ls("host")))
        nics = "nics:\n  - {bridge: vmbr0, queues: 1}\n"
    path = pool.dir / "counted.yaml"
    path.write_text(f"name: counted\nkernel: {pool.guest_elf()}\n"
                    f"cmdline: vcpus=1 disk={DISK_MIB} diskrate=300 nic=1 writers=1 rate=5 ws=8\n"
                    "cpu: {vcpus: 1}\nmemory: {size: 128MiB}\nhost: node1\nballoon: true\ndisks:\n"
                    f"  - {{name: root, store: {share}, file: counted.raw, shared: true, size: {DISK_MIB}MiB}}\n{nics}")
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for("the guest", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "counted", check=False).stdout)


def counters(pool):
    info = pool.json("vm", "show", "counted")
    expect("counters" in info, f"nothing is counted: {info.get('counters_fault')}")
    return info["counters"]


def busy(pool, more=50):
    """As it is when its disk has written so much more, and its nic has sent."""
    before = counters(pool)["disks"][0]["writes"]
    return pools.wait_for("the disk to be written", 30, lambda: (
        lambda c: c if c["disks"][0]["writes"] >= before + more else None)(counters(pool)))


def goes_on(before, after):
    for kind in ("disks", "nics"):
        expect(len(before[kind]) == len(after[kind]), f"{kind}: {before} then {after}")
        for old, new in zip(before[kind], after[kind]):
            back = [k for k in old if k not in ("name", "mac") and new[k] < old[k]]
            expect(not back, f"{back} went back: {old} then {new}")


def tells_what_disks_nics_and_balloon_did(pool):
    need_counted(pool)
    told = busy(pool)
    disk = told["disks"][0]
    expect(disk["name"] == "root" and disk["written_bytes"] >= 4096 * 50, str(disk))
    expect(disk["errors"] == 0 and disk["refused"] == 0, str(disk))
    expect(told["balloon"]["lent_bytes"] == 0 and told["balloon"]["reported_bytes"] == 0, str(told["balloon"]))
    page = pool.godwit("vm", "show", "counted").stdout
    expect(" writes (" in page and " flushes, 0 failed" in page and "BALLOON  0 B lent to the host" in page, page)
    if pool.hosts[0].namespace:
        pools.wait_for("frames to be sent", 20, lambda: counters(pool)["nics"][0]["sent_frames"] > 10)
        expect(len(told["nics"][0]["mac"]) == 17 and " packets (" in page, f"{told['nics']}\n{page}")
    expect("counters" not in pool.vm("counted"), "a list asks every host")


def what_was_counted_goes_on_over_moves(pool):
    need_counted(pool)
    for target in ("node2", "node1", "node2"):
        before = busy(pool)
        pool.godwit("migrate", "counted", "--to", target)
        goes_on(before, counters(pool))


def what_was_counted_goes_on_over_an_upgrade(pool):
    need_counted(pool)
    before = busy(pool)
    pool.godwit("vm", "upgrade", "counted")
    goes_on(before, counters(pool))


def what_was_counted_goes_on_over_a_rest_in_a_file(pool):
    need_counted(pool)
    host = pool.vm("counted")["host"]
    before = busy(pool)
    pool.godwit("vm", "suspend", "counted")
    expect("counters" not in pool.json("vm", "show", "counted"), "a VM at rest counts")
    pool.godwit("vm", "resume", "counted")
    expect_host(pool, "counted", host)
    goes_on(before, counters(pool))


def what_was_counted_goes_on_over_a_reset_of_the_guest(pool):
    need_counted(pool)
    before = busy(pool)
    again = pool.godwit("vm", "console", "counted", "--until", "gw ready", "--timeout", "60s", stdin="reset\n",
                        check=False)
    expect(again.returncode == 0, again.stdout + again.stderr)
    goes_on(before, counters(pool))


def a_start_counts_from_zero(pool):
    need_counted(pool)
    before = busy(pool, more=500)
    pool.godwit("vm", "stop", "counted", "--force")
    pool.godwit("vm", "start", "counted")
    expect(counters(pool)["disks"][0]["writes"] < before["disks"][0]["writes"], "the numbers of the time before")


def the_agents_metrics_have_them_too(pool):
    need_counted(pool)
    info = pool.json("vm", "show", "counted")
    host = next(h for h in pool.hosts if h.name == info["host"])
    name = f'godwit_agent_vm_disk_writes_total{{vm="{info["id"]}",disk="root"}} '

    def read():
        text = subprocess.run([*host.enter(), "curl", "-s", "-m", "5", f"http://127.0.0.1:{PORT + host.number}/metrics"],
                              capture_output=True, text=True, check=True).stdout
        return text if name in text else None
    text = pools.wait_for("the agent to have asked", 30, read)
    value = int(next(l for l in text.splitlines() if l.startswith(name)).split()[-1])
    expect(0 < value <= counters(pool)["disks"][0]["writes"], text)
    expect(f'godwit_agent_vm_balloon_lent_bytes{{vm="{info["id"]}"}} 0' in text, text)
    others = [l for l in text.splitlines() if l.startswith("# TYPE godwit_agent_vm_")]
    expect(len(others) == len(set(others)), "a family is there twice")


run([
    tells_what_disks_nics_and_balloon_did,
    what_was_counted_goes_on_over_moves,
    what_was_counted_goes_on_over_an_upgrade,
    what_was_counted_goes_on_over_a_rest_in_a_file,
    what_was_counted_goes_on_over_a_reset_of_the_guest,
    a_start_counts_from_zero,
    the_agents_metrics_have_them_too,
], kind=CountedPool)

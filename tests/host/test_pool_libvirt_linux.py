#!/usr/bin/env python3
"""A Linux guest under libvirt's type='qemu' (TCG, no KVM): Debian's kernel with the load of tests/nested, which writes
numbered blocks to an ext4 disk and watches its clocks and its memory. It is adopted as it runs, moves there and back
under load, switches itself off, and its disk is judged. GODWIT_FULL=1: fifty moves, of two processors."""
import json
import os
import pathlib
import sys
import tempfile

from pool_case import ROOT, expect, pools, run

sys.path.insert(0, str(ROOT / "tests/nested"))
import debian  # noqa: E402
import guest_image  # noqa: E402
import virt_pool  # noqa: E402  (scripts/lib, found by pool_case)

FULL = bool(os.environ.get("GODWIT_FULL"))
VCPUS, MOVES = (2, 50) if FULL else (1, 2)
NEVER = ("hog_bad", "hog_back", "clock_back", "disk_error")
# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-virt-linux-", dir="/var/tmp")


class LinuxPool(virt_pool.VirtPool):
    guest = None  # LinuxGuest

    def linux_xml(self, name, disk):
        return f"""<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>192</memory><vcpu>{VCPUS}</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><kernel>{self.guest.image}</kernel>
    <initrd>{self.guest.initramfs}</initrd><cmdline>{self.guest.cmdline(hog=10)}</cmdline></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='{disk}'/>
      <target dev='vda' bus='virtio'/><shareable/></disk>
    <serial type='unix'><source mode='bind' path='/run/libvirt/{name}.serial'/><target type='isa-serial' port='0'/></serial>
  </devices>
</domain>
"""


def host_of(pool):
    return next(h for h in pool.hosts if h.name == pool.vm("debian")["host"])


def ask(pool, word, answer):
    record = pool.say(host_of(pool), "debian", word, answer)
    return {k: v for k, v in (w.split("=", 1) for w in record.split() if "=" in w)} | {"_": record}


def judge(pool, before=None):
    """What must never be has not been, and what must go on went on."""
    stats = ask(pool, "stats", "gw stats")
    wrong = {k: stats[k] for k in NEVER if int(stats[k])}
    expect(not wrong and int(stats["cpus"]) == VCPUS, f"{wrong}: {stats['_']}")
    if before:
        expect(int(stats["uptime_ms"]) > int(before["uptime_ms"]), f"another guest than before: {stats['_']}")
        for what in ("acked", "turns"):
            pools.wait_for(f"its '{what}' to go on", 120, lambda: went_on(ask(pool, "stats", "gw stats"), before, what), 0.1)
    record = ask(pool, "verify", "gw verify")
    expect(" ok " in record["_"] and int(record["checked"]) > 0, record["_"])
    return stats


def went_on(now, before, what):
    """A number, or one for each processor."""
    return all(int(n) > int(b) for n, b in zip(now[what].split(","), before[what].split(","), strict=True))


def runs_without_kvm(pool):
    answer = host_of(pool).virsh("qemu-monitor-command", "debian", '{"execute":"query-kvm"}').stdout
    return json.loads(answer)["return"]["enabled"] is False


def a_linux_guest_without_kvm_is_adopted_moves_under_load_and_its_disk_is_whole(pool):
    with virt_pool.LoopDisk(guest_image.make_disk(f"{DISKS.name}/debian.raw", 64)) as disk:
        acked = lives_and_ends(pool, disk.device)
    print("        " + "; ".join(guest_image.check_disk(pathlib.Path(disk.path), acked)), flush=True)


def lives_and_ends(pool, device):
    """How many blocks its disk acknowledged."""
    file = pool.dir / "debian.xml"
    file.write_text(pool.linux_xml("debian", device))
    pool.hosts[0].virsh("define", file)
    pool.hosts[0].virsh("start", "debian")
    pools.wait_for("it to be found", 90, lambda: any(v["name"] == "debian" for v in pool.ls("vm")), 0.1)
    pool.godwit("vm", "adopt", "debian")
    expect(runs_without_kvm(pool), "it has KVM: this tests something else")
    pools.wait_for("it to write its disk", 120, lambda: int(ask(pool, "stats", "gw stats")["acked"]) > 0, 0.1)
    stats = judge(pool)
    totals, gaps = [], []
    for _ in range(MOVES):
        target = next(h for h in pool.hosts if h is not host_of(pool))
        pool.godwit("migrate", "debian", "--to", target.name, "--max-downtime", "2s", timeout=600)
        pools.wait_for("it to run there alone", 90, lambda: pool.runs_on("debian") == [target.name] and
                       pool.vm("debian")["host"] == target.name, 0.1)
        stats = judge(pool, stats)
        job = [j for j in pool.ls("job") if j["vm"] == "debian"][-1]
        receipt = pool.json("job", "show", job["id"])["receipt"]
        expect(receipt["moved"], str(receipt))
        totals.append(receipt["total_ns"] / 1e9)
        gaps.append(receipt["downtime_ns"] / 1e6)
    print(f"        {MOVES} moves, each {min(totals):.1f} to {max(totals):.1f} s, the guest stood still for {min(gaps):.0f} to "
          f"{max(gaps):.0f} ms", flush=True)
    acked = int(ask(pool, "poweroff", "gw end")["acked"])
    vm = pools.wait_for("it to be off", 120, lambda: (
        lambda v: v if v["state"] == "stopped" else None)(pool.vm("debian")), 0.2)
    expect("switched itself off" in vm.get("reason", ""), str(vm))
    return acked


why_not = virt_pool.missing() or (None if os.path.exists("/dev/loop-control") else "no loop devices here")
try:
    LinuxPool.guest = None if why_not else guest_image.LinuxGuest("cloud-amd64")
except debian.Unavailable as why:
    why_not = str(why)
if why_not:
    print(f"skipped: {why_not}")
    sys.exit(77)
run([a_linux_guest_without_kvm_is_adopted_moves_under_load_and_its_disk_is_whole], kind=LinuxPool)

#!/usr/bin/env python3
"""Linux guests on emulated hosts with a genuine KVM (AMD SVM): the short form, a few minutes. With GODWIT_FULL=1
every kernel, every count of vCPUs, fifty moves and the comparison with QEMU."""
import os
import time

import bed as beds
import debian
import guest_image
import image_builds
from bed import pools
from linux_vm import LinuxVm, ask_whole
from nested_case import expect, note, run

FULL = bool(os.environ.get("GODWIT_FULL"))
MOVES = int(os.environ.get("GODWIT_MOVES", 50 if FULL else 2))
STARVED_S = 120  # 20 to 40 where nothing else runs
LOAD_ADDRESS = f"{beds.NETWORK}.50"
TIMED = beds.HERE / "host_timed_guest.py"


def hosts_offer_a_genuine_kvm_of_another_maker(pool):
    for host in pool.hosts:
        host.machine.run("test", "-c", "/dev/kvm")
        words = host.machine.run("cat", "/proc/cpuinfo")
        expect("AuthenticAMD" in words and " svm" in words, f"{host.name} has no SVM")
        shown = pool.godwit("host", "show", host.name).stdout
        expect("✔ x86-64-v3" in shown, f"{host.name} does not give x86-64-v3:\n{shown}")


def the_folder_that_hosts_share_is_one_folder(pool):
    """What Godwit needs of a shared store: a file is made by one host only, a rename is whole, links are made
    by one only, and what one host has flushed the other reads."""
    one, other = (host.machine for host in pool.hosts[:2])
    make = "set -C; exec 3>$0 && echo made || echo refused"
    path = f"{beds.SHARED}/once"
    expect(one.run("sh", "-c", make, path).strip() == "made", "could not make a file")
    expect(other.run("sh", "-c", f"({make}) 2>/dev/null || echo refused", path).strip() == "refused",
           "two hosts made the same file")
    one.run("sh", "-c", f"echo first >{path} && sync {path} && mv {path} {path}.moved")
    expect(other.run("sh", "-c", f"cat {path}.moved; ls {path} 2>&1 | grep -c 'No such'").split() == ["first", "1"],
           "a rename was not seen whole")
    one.run("ln", f"{path}.moved", f"{path}.link")
    expect(other.run("ln", f"{path}.moved", f"{path}.link", check=False)["rc"] != 0, "a link was made twice")
    one.run("dd", "if=/dev/zero", f"of={path}.data", "bs=4096", "count=16", "oflag=direct", "conv=fsync")
    for number in range(4):
        one.run("sh", "-c", f"printf {number:04d} | dd of={path}.data bs=4 conv=notrunc,fsync")
        seen = other.run("dd", f"if={path}.data", "bs=4", "count=1")
        expect(seen == f"{number:04d}", f"wrote {number:04d}, the other host reads {seen}")
    one.run("sh", "-c", f"rm -f {path}*")


def pvh_guest_moves_on_svm(pool):
    pool.create_guest("mover", "writers=1 rate=1 ws=8 fill=random fillmb=16", vcpus=2, memory="64MiB")
    for to in ("node2", "node1"):
        pool.godwit("migrate", "mover", "--to", to, "--deadline", "600s", "--max-downtime", "3s", timeout=700)
        pool.verify("mover")
        stats = pool.ask("mover", "stats", "gw stats", timeout="120s")
        expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0,
               f"a clock stepped back: {stats['_']}")
    pool.godwit("vm", "rm", "mover", "--stop", "-y")


def boots_and_powers_off(pool, flavour, vcpus):
    vm = LinuxVm(pool, f"{flavour.split('-')[0]}-{vcpus}", guest_image.LinuxGuest(flavour), vcpus=vcpus)
    words = vm.wait("gw userspace")
    expect(f"cpus={vcpus} " in words, words)
    vm.wait("gw ready")
    vm.judge()
    note(f"{flavour}, {vcpus} vCPU: {words.split(' ', 2)[2]}")
    vm.power_off_and_check()


def the_cloud_kernel_boots_and_powers_off(pool):
    for vcpus in (1, 2, 4):
        boots_and_powers_off(pool, "cloud-amd64", vcpus)


def the_generic_kernel_boots_and_powers_off(pool):
    for vcpus in (1, 2, 4):
        boots_and_powers_off(pool, "amd64", vcpus)


def count_ready(pool, name):
    return pool.godwit("vm", "logs", name, check=False).stdout.count("gw ready")


def reboots(pool, vm):
    before = count_ready(pool, vm.name)
    vm.ask("reboot", "gw end")
    pools.wait_for("another boot", 400, lambda: count_ready(pool, vm.name) == before + 1, 0.5)
    vm.turns = [0] * vm.vcpus
    vm.judge()


def a_guest_reboots_itself_where_it_began_and_where_it_moved(pool):
    """The kernel and its initrd travel along: the other host has read no such files for it."""
    vm = LinuxVm(pool, "again", guest_image.LinuxGuest("cloud-amd64"), vcpus=2)
    vm.wait("gw ready")
    reboots(pool, vm)
    vm.move("node2")
    vm.judge()
    reboots(pool, vm)
    expect(pool.vm("again")["host"] == "node2", "it is not where it moved to")
    vm.move("node1")
    vm.judge()
    vm.power_off_and_check()


def a_linux_guest_moves(pool):
    """Memory, CPUs, timers and the console of a real kernel, without disk and network."""
    vm = LinuxVm(pool, "plain", guest_image.LinuxGuest("cloud-amd64"), vcpus=2, devices=("rng", "balloon"))
    vm.wait("gw ready")
    vm.judge()
    for _ in range(6 if FULL else 2):
        receipt = vm.move()
        stats = vm.judge()
        note(f"paused {receipt['downtime_ns'] / 1e6:.0f} ms; longest step of its clock {stats['clock_step_ms']} ms")
    vm.power_off_and_check()


def a_loaded_guest_with_disk_and_network_moves_to_and_fro(pool):
    """Loads that hosts are too starved to carry say nothing about moves: not then, unless it was asked for."""
    if not FULL and pool.seconds_up > STARVED_S:
        raise debian.Unavailable(f"this machine is too busy: {pool.seconds_up:.0f} s until its hosts were up")
    vm = LinuxVm(pool, "loaded", guest_image.LinuxGuest("cloud-amd64"), vcpus=2, disk_mib=96,
                 address=LOAD_ADDRESS)
    vm.wait("gw ready")
    vm.judge()
    vm.peer.ask("gap")
    gaps, pauses = [], []
    for _ in range(MOVES):
        receipt = vm.move()
        vm.judge()
        gaps.append(vm.peer.ask("gap")["us"] / 1000)
        pauses.append(receipt["downtime_ns"] / 1e6)
        print(f"        move {len(pauses)}: {pauses[-1]:.0f} ms, gap {gaps[-1]:.0f} ms", flush=True)
    verified = vm.ask("verify", "gw verify")
    expect(" ok " in verified["_"], verified["_"])
    seen = vm.judge_peer()
    checks = vm.power_off_and_check()
    note(f"{MOVES} moves: paused {min(pauses):.0f} to {max(pauses):.0f} ms, largest network gap {max(gaps):.0f} ms "
         f"(each: {' '.join(f'{g:.0f}' for g in gaps)})")
    note(f"blocks acknowledged {seen['acked']}; stream bytes out {seen['out_received']} in {seen['in_received']}; "
         f"datagrams {seen['beats']}, lost {seen['beats_lost']}, late {seen['beats_old']}")
    note("; ".join(checks))


def debian_boots_to_a_login(pool, flavour, vcpus):
    guest = guest_image.DebianGuest(flavour)
    name = f"debian-{flavour.split('-')[0]}-{vcpus}"
    disk = pool.bed.shared / f"{name}.raw"
    guest.copy(disk)
    spec = pool.dir / f"{name}.yaml"
    spec.write_text(guest.spec(name, beds.SHARED, disk.name, vcpus=vcpus))
    pool.godwit("vm", "create", "-f", spec)

    def asks_for_a_name():
        if "nested login:" in pool.godwit("vm", "logs", name, check=False).stdout:
            return True
        expect(pool.vm(name)["state"] == "running", "it ended before it asked for a name:\n"
               + pool.godwit("vm", "logs", name).stdout[-800:])
        return False

    pools.wait_for("a login prompt", 900, asks_for_a_name, 1)
    # g''w: what is typed comes back as an echo and must not look like the answer
    record = ask_whole(pool, name, "root\n\necho g''w login=$(id -un) cpus=$(nproc) kernel=$(uname -r) "
                                   "systemd=$(systemctl is-system-running) seconds=$(cut -d' ' -f1 /proc/uptime) end=1",
                       "gw login", "end")
    expect(record["login"] == "root" and int(record["cpus"]) == vcpus, record["_"])
    expect(record["kernel"] == guest.kernel.release, record["_"])
    note(record["_"])
    pool.godwit("vm", "stop", name, "--timeout", "300s", timeout=400)
    expect("Power down" in pool.godwit("vm", "logs", name).stdout, "it did not power off by itself")
    pool.godwit("vm", "rm", name, "-y")
    disk.unlink()


def debian_case(flavour, vcpus):
    def case(pool):
        debian_boots_to_a_login(pool, flavour, vcpus)
    case.__name__ = f"debian_boots_to_a_login_{flavour.replace('-', '_')}_{vcpus}"
    return case


def time_to_user_space_beside_qemu(pool):
    """In one run on one host; figures only."""
    host = pool.hosts[0].machine
    for flavour in ("cloud-amd64", "amd64"):
        guest = guest_image.LinuxGuest(flavour)
        for machine in ("microvm", "q35"):
            words = host.run(
                "python3", "-B", TIMED, "300", "gw userspace", beds.QEMU, "-machine", machine, "-accel", "kvm",
                "-cpu", "host", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-serial", "stdio", "-kernel", guest.image, "-initrd", guest.initramfs,
                "-append", guest.cmdline(then="poweroff"), timeout=400)
            tell_boot(f"QEMU {machine}, {flavour}", words)
        vm = LinuxVm(pool, "timed", guest, host="node1", then="load")
        words = vm.wait("gw userspace")
        tell_boot(f"Godwit, {flavour}", f"{words}\ntimed from the command on ms={(time.monotonic() - vm.began) * 1000:.0f}")
        vm.remove()


def tell_boot(who, words):
    expect("gw userspace" in words, f"{who} did not boot: {words[-800:]}")
    line = next(line for line in words.splitlines() if "gw userspace" in line)
    timed = next((line for line in words.splitlines() if line.startswith("timed ")), "")
    note(f"{who}: {line.split()[2]} s of the guest's own time; {timed}")


SHORT = [
    hosts_offer_a_genuine_kvm_of_another_maker,
    the_folder_that_hosts_share_is_one_folder,
    image_builds.a_small_template_is_built_and_three_vms_come_from_it,
    a_loaded_guest_with_disk_and_network_moves_to_and_fro,
]
LONG = [
    pvh_guest_moves_on_svm,
    the_cloud_kernel_boots_and_powers_off,
    the_generic_kernel_boots_and_powers_off,
    a_guest_reboots_itself_where_it_began_and_where_it_moved,
    a_linux_guest_moves,
    *(debian_case(flavour, vcpus) for flavour in ("cloud-amd64", "amd64") for vcpus in (1, 2, 4)),
    time_to_user_space_beside_qemu,
    image_builds.a_debian_template_is_built_by_cloud_init_and_three_vms_come_from_it,
    image_builds.a_debian_template_is_built_by_the_seed_runner_and_three_vms_come_from_it,
]
if __name__ == "__main__":
    run(SHORT + LONG if FULL else SHORT)

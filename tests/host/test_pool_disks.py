#!/usr/bin/env python3
"""A real pool on one shared folder: a guest that writes its disk and has a nic starts, moves, is rolled back, moves
again; who may write is decided by the stamp; what was made is removed, what was there is not."""
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess

from pool_case import LeftOut, expect, expect_host, pools, run

DISK_MIB = 16


def share(pool):
    folder = pool.dir / "share"
    if not folder.exists():
        folder.mkdir()
        for host in pool.hosts:
            if host.namespace:
                subprocess.run(["ip", "-n", host.namespace, "link", "add", "vmbr0", "type", "bridge"], check=True)
                subprocess.run(["ip", "-n", host.namespace, "link", "set", "vmbr0", "up"], check=True)
        if pool.hosts[0].namespace:
            subprocess.run(["ip", "-n", pool.hosts[0].namespace, "link", "add", "onlyhere", "type", "bridge"],
                           check=True)
            pools.wait_for("bridges to be told", 10, lambda: "onlyhere" in pool.json(
                "host", "show", "node1")["facts"]["bridges"])
    return folder


def spec(pool, name, disks, nics=(), cmdline=""):
    path = pool.dir / f"{name}.yaml"
    lines = [f"name: {name}", f"kernel: {pool.guest_elf()}", f"cmdline: vcpus=1 {cmdline}", "cpu: {vcpus: 1}",
             "memory: {size: 128MiB}", "host: node1", "disks:", *[f"  - {d}" for d in disks]]
    if nics:
        lines += ["nics:", *[f"  - {n}" for n in nics]]
    path.write_text("\n".join(lines) + "\n")
    return path


def create(pool, path, name):
    pool.godwit("vm", "create", "-f", path)
    pools.wait_for(f"{name} ready", 60,
                   lambda: "gw ready" in pool.godwit("vm", "logs", name, check=False).stdout)


def shared_disk(pool, file, **more):
    words = {"name": "root", "store": share(pool), "file": file, "shared": "true", **more}
    return "{" + ", ".join(f"{k}: {v}" for k, v in words.items()) + "}"


def need_writer(pool):
    share(pool)
    if any(vm["name"] == "writer" for vm in pool.ls("vm")):
        return
    nics = ["{bridge: vmbr0, queues: 1}"] if pool.hosts[0].namespace else []
    create(pool, spec(pool, "writer", [shared_disk(pool, "writer.raw", size=f"{DISK_MIB}MiB")], nics,
                      f"disk={DISK_MIB} diskrate=300 writers=1 rate=5 ws=8 fill=random fillmb=48"), "writer")


def taps(host):
    """Taps in the host's namespace; every name of ours begins with gw."""
    if not host.namespace:
        return []
    out = subprocess.run(["ip", "-n", host.namespace, "-o", "link"], capture_output=True, text=True, check=True).stdout
    names = [line.split(":")[1].strip().split("@")[0] for line in out.splitlines()]
    return [n for n in names if n.startswith("gw")]


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def other(pool, name):
    return "node1" if pool.vm(name)["host"] == "node2" else "node2"


def disk_is_whole(pool, name):
    record = pool.ask(name, "disk verify", "gw diskverify")
    expect(" ok " in record["_"] + " " and int(record["blocks"]) > 0, record["_"])
    return int(record["blocks"])


def goes_on_writing(pool, name):
    before = int(pool.ask(name, "disk", "gw disk ")["written"])
    pools.wait_for("more blocks to be written", 20,
                   lambda: int(pool.ask(name, "disk", "gw disk ")["written"]) > before + 20)


def last_job(pool, vm):
    return [j for j in pool.ls("job") if j["vm"] == vm][-1]


def makes_its_disk_and_tap_and_the_guest_writes(pool):
    need_writer(pool)
    expect((share(pool) / "writer.raw").stat().st_size == DISK_MIB << 20, "the disk has another size")
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")
    page = pool.godwit("vm", "show", "writer").stdout
    expect(f"DISK  root: writer.raw in {share(pool)}, shared" in page, page)
    spec_of = pool.json("vm", "show", "writer")["spec"]
    if pool.hosts[0].namespace:
        expect(len(taps(pool.hosts[0])) == 1 and not taps(pool.hosts[1]), "taps are not where they should be")
        expect(len(spec_of["nics"][0]["mac"]) == 17, f"no address was recorded: {spec_of}")


def tells_in_a_dry_run_what_the_target_sees(pool):
    need_writer(pool)
    done = pool.godwit("migrate", "writer", "--to", "node2", "--dry-run")
    expect("sees its 1 disk and has the bridge" in done.stdout + done.stderr, done.stdout + done.stderr)


def moves_with_its_disk_and_nic_back_and_forth(pool):
    need_writer(pool)
    for _ in range(4):
        target = other(pool, "writer")
        pool.godwit("migrate", "writer", "--to", target)
        expect_host(pool, "writer", target)
        goes_on_writing(pool, "writer")
        disk_is_whole(pool, "writer")
        pool.verify("writer")
        if pool.hosts[0].namespace:
            pools.wait_for("one tap, at the target", 10, lambda: len(taps(host_of(pool, target))) == 1 and sum(
                len(taps(h)) for h in pool.hosts) == 1)


def a_rolled_back_move_writes_on_and_the_next_one_moves(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    pool.godwit("job", "cancel", job)
    expect(pool.godwit("job", "watch", job, check=False).returncode == 6, "the canceled move did not roll back")
    expect_host(pool, "writer", source)
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target)
    expect_host(pool, "writer", target)
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")


def an_agent_that_dies_between_took_and_its_stamp_attaches_when_it_is_back(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--bandwidth", "20MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    agent = host_of(pool, target)
    os.kill(agent.agent.pid, signal.SIGSTOP)
    pools.wait_for("the source to be rid of it", 60, lambda: not host_of(pool, source).vm_pids())
    pids = agent.vm_pids()
    expect(len(pids) == 1, "the target's process is gone")
    expect(not any("writer.raw" in os.readlink(fd) for fd in pathlib.Path(f"/proc/{pids[0]}/fd").iterdir()),
           "the target has the disk open before its stamp was taken")
    agent.kill_agent()
    agent.start_agent()
    expect_host(pool, "writer", target)
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")
    pool.godwit("job", "watch", job, check=False)


def a_console_asked_for_while_its_agent_begins_anew_waits_for_it(pool):
    need_writer(pool)
    agent = host_of(pool, pool.vm("writer")["host"])

    def opened():
        return pool.godwit("audit", "ls").stdout.count("vm-console")
    before = opened()
    agent.kill_agent()
    console = subprocess.Popen(pool.command("vm", "console", "writer", "--until", "gw disk "), env=pool.environment(),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    console.stdin.write("disk\n")
    console.stdin.flush()
    pools.wait_for("the console to be asked for", 20, lambda: opened() > before or console.poll() is not None)
    agent.start_agent()
    out, said = console.communicate(timeout=60)
    expect(console.returncode == 0 and "gw disk " in out, f"exit {console.returncode}: {out} {said}")


def stamp(pool, name, *take):
    """(generation, owner) beside the VM's disks; with `take` another host's swap, exactly from that."""
    vm_id = pool.vm(name)["id"]
    tool = next(pool.build.rglob("stamp_tool"))
    words = subprocess.run([tool, share(pool) / ".godwit" / vm_id / "stamp", vm_id, *map(str, take)],
                           capture_output=True, text=True, check=True).stdout.split()
    return int(words[0]), words[1]


def freeze_after_took(pool, name):
    """A move whose target has taken the guest while its agent stands still: nobody has swapped the stamp."""
    source, target = pool.vm(name)["host"], other(pool, name)
    pool.godwit("migrate", name, "--to", target, "--bandwidth", "20MiB/s", "--no-wait")
    job = last_job(pool, name)["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    agent = host_of(pool, target)
    os.kill(agent.agent.pid, signal.SIGSTOP)
    pools.wait_for("the source to be rid of it", 60, lambda: not host_of(pool, source).vm_pids())
    expect(stamp(pool, name)[1] == source, f"the stamp is {stamp(pool, name)}, wanted {source}'s")
    return agent, job


def the_stamp_follows_the_guest(pool):
    need_writer(pool)
    before = stamp(pool, "writer")
    expect(before[1] == pool.vm("writer")["host"], f"{before} beside a VM on {pool.vm('writer')['host']}")
    pool.godwit("migrate", "writer", "--to", other(pool, "writer"))
    pools.wait_for("the target's stamp", 10, lambda: stamp(pool, "writer")[1] == pool.vm("writer")["host"])
    expect(stamp(pool, "writer")[0] > before[0], f"{stamp(pool, 'writer')} after {before}")


def a_target_that_dies_between_took_and_its_stamp_starts_again_from_its_disk(pool):
    need_writer(pool)
    agent, job = freeze_after_took(pool, "writer")
    os.kill(agent.vm_pids()[0], signal.SIGKILL)
    agent.kill_agent()
    agent.start_agent()
    pools.wait_for("its end to be known", 30, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
    pool.godwit("job", "watch", job, check=False)
    pool.godwit("vm", "start", "writer")
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")


def a_store_that_is_away_holds_the_guests_writes_until_it_is_back(pool):
    need_writer(pool)
    agent, job = freeze_after_took(pool, "writer")
    away = pool.dir / "share-away"
    share(pool).rename(away)
    try:
        agent.kill_agent()
        agent.start_agent()
        log = pool.dir / f"agent-{agent.name}.log"
        pools.wait_for("the agent to say so", 20, lambda: "disks and nics wait, trying on" in log.read_text())
        expect(len(agent.vm_pids()) == 1, "the guest did not survive its store")
    finally:
        away.rename(pool.dir / "share")
    expect_host(pool, "writer", agent.name)
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")
    pool.godwit("job", "watch", job, check=False)


def a_target_whose_disks_were_taken_by_another_host_is_killed_unwritten(pool):
    need_writer(pool)
    agent, job = freeze_after_took(pool, "writer")
    stamp(pool, "writer", 900, "thief")
    digest = hashlib.sha256((share(pool) / "writer.raw").read_bytes()).hexdigest()
    agent.kill_agent()
    agent.start_agent()
    pools.wait_for("the loser to be killed", 30, lambda: not agent.vm_pids())
    pools.wait_for("its end to be known", 30, lambda: pool.vm("writer")["state"] in ("crashed", "stopped"))
    expect("are thief's, as generation 900" in pool.vm("writer").get("reason", ""), str(pool.vm("writer")))
    expect(hashlib.sha256((share(pool) / "writer.raw").read_bytes()).hexdigest() == digest, "it wrote all the same")
    pool.godwit("job", "watch", job, check=False)
    refused = pool.godwit("vm", "start", "writer", check=False)
    expect(refused.returncode != 0 and "thief's as generation 900" in refused.stderr, refused.stderr)
    pool.godwit("vm", "rm", "writer", "--stop", "-y")


def a_target_that_is_killed_before_it_took_leaves_the_source_writing(pool):
    need_writer(pool)
    source, target = pool.vm("writer")["host"], other(pool, "writer")
    pool.godwit("migrate", "writer", "--to", target, "--bandwidth", "2MiB/s", "--no-wait")
    job = last_job(pool, "writer")["id"]
    pools.wait_for("the move to copy", 20, lambda: pool.json("job", "show", job).get(
        "progress", {}).get("phase") == "precopy")
    os.kill(host_of(pool, target).vm_pids()[0], signal.SIGKILL)
    expect(pool.godwit("job", "watch", job, check=False).returncode == 6, "the move did not roll back")
    expect_host(pool, "writer", source)
    goes_on_writing(pool, "writer")
    disk_is_whole(pool, "writer")


def a_stopped_vm_starts_again_on_its_disk(pool):
    need_writer(pool)
    pool.godwit("vm", "stop", "writer", "--force", check=False)
    pools.wait_for("writer to be stopped", 20, lambda: pool.vm("writer")["state"] == "stopped")
    expect(not any(taps(h) for h in pool.hosts), "a tap is left of a VM that is stopped")
    pool.godwit("vm", "start", "writer")
    expect(pool.vm("writer")["state"] == "running", "it did not start")
    goes_on_writing(pool, "writer")


def refuses_a_target_that_sees_another_folder(pool):
    need_writer(pool)
    host = host_of(pool, other(pool, "writer"))
    if not host.namespace:
        raise LeftOut("needs network namespaces")
    enter = host.enter_mounts()
    subprocess.run([*enter, "mount", "-t", "tmpfs", "none", share(pool)], check=True)
    try:
        for words in (["--dry-run"], []):
            refused = pool.godwit("migrate", "writer", "--to", host.name, *words, check=False)
            expect(refused.returncode == 5, f"exit {refused.returncode}, wanted 5: {refused.stderr}")
            expect(f"{host.name} does not see {share(pool)}" in refused.stderr, refused.stderr)
            expect("running on" in refused.stderr, f"does not say where the VM is: {refused.stderr}")
    finally:
        subprocess.run([*enter, "umount", share(pool)], check=True)
    goes_on_writing(pool, "writer")


def refuses_a_disk_that_only_its_host_has(pool):
    path = spec(pool, "local", ["{name: data, store: %s, file: local.raw, size: 4MiB}" % share(pool)])
    create(pool, path, "local")
    refused = pool.godwit("migrate", "local", "--to", "node2", check=False)
    expect(refused.returncode == 5 and "disk data" in refused.stderr and "--with-local-disks" in refused.stderr,
           f"exit {refused.returncode}: {refused.stderr}")
    pool.godwit("vm", "rm", "local", "--stop", "-y")
    expect(not (share(pool) / "local.raw").exists(), "the disk that was made is left")


def refuses_a_target_without_its_bridge(pool):
    if not pool.hosts[0].namespace:
        raise LeftOut("needs network namespaces")
    path = spec(pool, "netless", [shared_disk(pool, "netless.raw", size="4MiB")], ["{bridge: onlyhere}"])
    create(pool, path, "netless")
    refused = pool.godwit("migrate", "netless", "--to", "node2", check=False)
    expect(refused.returncode == 5 and "no bridge onlyhere" in refused.stderr,
           f"exit {refused.returncode}: {refused.stderr}")
    pool.godwit("vm", "rm", "netless", "--stop", "-y")


def a_disk_of_one_vm_is_not_given_to_another(pool):
    need_writer(pool)
    path = spec(pool, "thief", [shared_disk(pool, "writer.raw")])
    refused = pool.godwit("vm", "create", "-f", path, check=False)
    expect(refused.returncode == 2 and "of writer already" in refused.stderr,
           f"exit {refused.returncode}: {refused.stderr}")


def boots_from_its_own_disk(pool):
    mke2fs = shutil.which("mke2fs", path="/sbin:/usr/sbin:" + os.environ["PATH"])
    if not mke2fs:
        raise LeftOut("no mke2fs (package e2fsprogs)")
    tree, disk = pool.dir / "tree", share(pool) / "booted.raw"
    (tree / "boot/grub").mkdir(parents=True)
    shutil.copy(pool.guest_elf(), tree / "boot/vmlinuz-1")
    (tree / "boot/grub/grub.cfg").write_text(
        'set default="0"\nmenuentry "The guest" --id guest {\n\tlinux /boot/vmlinuz-1 vcpus=1 writers=1 rate=5\n}\n')
    subprocess.run([mke2fs, "-q", "-t", "ext4", "-d", tree, disk, "32M"], check=True, capture_output=True)
    path = pool.dir / "booted.yaml"
    path.write_text("name: booted\nboot: disk\ncmdline: ws=8\ncpu: {vcpus: 1}\nmemory: {size: 64MiB}\nhost: node1\n"
                    f"disks:\n  - {shared_disk(pool, 'booted.raw')}\n")
    create(pool, path, "booted")
    pool.godwit("migrate", "booted", "--to", "node2")
    pool.verify("booted")
    again = pool.godwit("vm", "console", "booted", "--until", "gw ready", "--timeout", "30s", stdin="reset\n", check=False)
    expect(again.returncode == 0, f"a reset after the move did not boot: {again.stdout}{again.stderr}")
    expect_host(pool, "booted", "node2")
    pool.verify("booted")
    pool.godwit("migrate", "booted", "--to", "node1")
    pool.verify("booted")
    pool.godwit("vm", "rm", "booted", "--stop", "-y")
    expect(disk.exists(), "a disk that was there is deleted")
    disk.write_bytes(os.urandom(1 << 20))
    refused = pool.godwit("vm", "create", "-f", path, check=False)
    expect(refused.returncode != 0 and "nothing to boot" in refused.stderr, refused.stderr)
    pool.godwit("vm", "rm", "booted", "-y", check=False)
    disk.unlink()


def removes_what_was_made_and_nothing_that_was_there(pool):
    precious = share(pool) / "precious.raw"
    precious.write_bytes(b"\0" * (4 << 20))
    create(pool, spec(pool, "keeper", [shared_disk(pool, "precious.raw", size="64MiB")]), "keeper")
    expect(precious.stat().st_size == 4 << 20, "a disk that was there was changed")
    pool.godwit("vm", "rm", "keeper", "--stop", "-y")
    expect(precious.exists(), "a disk that was there is deleted")
    precious.unlink()
    need_writer(pool)
    pool.godwit("vm", "rm", "writer", "--stop", "-y")
    left = [str(p) for p in pathlib.Path(share(pool)).rglob("*")]
    expect(not left, f"left in the store: {left}")
    expect(not any(taps(h) for h in pool.hosts), "a tap is left")


run([
    makes_its_disk_and_tap_and_the_guest_writes,
    tells_in_a_dry_run_what_the_target_sees,
    moves_with_its_disk_and_nic_back_and_forth,
    a_rolled_back_move_writes_on_and_the_next_one_moves,
    an_agent_that_dies_between_took_and_its_stamp_attaches_when_it_is_back,
    a_console_asked_for_while_its_agent_begins_anew_waits_for_it,
    the_stamp_follows_the_guest,
    a_target_that_is_killed_before_it_took_leaves_the_source_writing,
    a_target_that_dies_between_took_and_its_stamp_starts_again_from_its_disk,
    a_store_that_is_away_holds_the_guests_writes_until_it_is_back,
    a_target_whose_disks_were_taken_by_another_host_is_killed_unwritten,
    a_stopped_vm_starts_again_on_its_disk,
    refuses_a_target_that_sees_another_folder,
    refuses_a_disk_that_only_its_host_has,
    refuses_a_target_without_its_bridge,
    a_disk_of_one_vm_is_not_given_to_another,
    boots_from_its_own_disk,
    removes_what_was_made_and_nothing_that_was_there,
])

#!/usr/bin/env python3
"""A real pool and its images: imported by the command, spread from host to host, made into disks of VMs; damaged ones are
refused, full disks and killed agents leave nothing that could be taken for an image."""
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile

from pool_case import LeftOut, expect, pools, run

MIB = 1 << 20
# Where disks and files to import lie: the pool's own folder may be a tmpfs.
FILES = tempfile.TemporaryDirectory(prefix="godwit-images-", dir="/var/tmp")


def host_of(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def folder(pool, host):
    return host_of(pool, host).dir / "agent" / "images"


def drafts(pool, host):
    return [p for p in folder(pool, host).iterdir() if p.name.startswith(".draft-")]


def images_on(pool, host):
    return sorted(p.name for p in folder(pool, host).iterdir() if not p.name.startswith("."))


def make_file(name, mib, seed, hole_mib=0):
    """`mib` of random bytes, the middle of it a hole."""
    path = pathlib.Path(FILES.name) / name
    chance = random.Random(seed)
    with open(path, "wb") as out:
        for i in range(mib):
            if abs(i - mib // 2) * 2 < hole_mib:
                out.seek(MIB, os.SEEK_CUR)
            else:
                out.write(chance.randbytes(MIB))
        out.truncate(mib * MIB)
    return path


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_image(pool, name="base", host="node1"):
    """An image of 24 MiB with a hole of 8; its file and digest."""
    path = pathlib.Path(FILES.name) / f"{name}.raw"
    if not path.exists():
        make_file(path.name, 24, name, hole_mib=8)
    if name not in [i["name"] for i in pool.ls("image")]:
        pool.godwit("image", "import", path, "--name", name, "--host", host)
    return path, sha256(path)


def store(host):
    path = pathlib.Path(FILES.name) / f"store-{host}"
    path.mkdir(exist_ok=True)
    return path


def create(pool, name, image, host, *words, check=True, disk_mib=4):
    return pool.godwit("vm", "create", name, "--image", image, "--host", host, "--store", store(host), "--kernel",
                       pool.guest_elf(), "--cmdline", f"vcpus=1 disk={disk_mib} diskrate=200", "--memory", "64MiB",
                       "--vcpus", "1", *words, check=check)


def files(host):
    return sorted(str(p.relative_to(store(host))) for p in store(host).rglob("*") if p.is_file())


def an_import_brings_a_file_to_a_host_under_its_digest(pool):
    path, digest = need_image(pool)
    image = pool.json("image", "show", "base")
    expect(image["digest"] == digest and image["size"] == 24 * MIB and image["hosts"] == ["node1"], image)
    stored = folder(pool, "node1") / digest
    expect(sha256(stored) == digest and stored.stat().st_mode & 0o777 == 0o400, "the host has something else")
    expect(stored.stat().st_blocks * 512 < 18 * MIB, "the hole was filled")
    again = pool.godwit("image", "import", path, "--name", "base")
    expect("was there already" in again.stdout, again.stdout)
    other = pool.godwit("image", "import", path, "--name", "twin")
    expect("was there already" in other.stdout and not drafts(pool, "node1"), other.stdout)
    pool.godwit("image", "rm", "twin")
    expect(stored.exists(), "another name still stands for it")


def what_is_no_image_is_refused_and_nothing_is_there(pool):
    need_image(pool)
    path = make_file("other.raw", 1, "other")
    odd = pathlib.Path(FILES.name) / "odd.raw"
    odd.write_bytes(b"x" * 5000)
    qcow = pathlib.Path(FILES.name) / "some.qcow2"
    qcow.write_bytes(b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(1 << 16))
    for words, says in (([path, "--name", "../x"], "letters, digits"), ([path], "--name"),
                        ([path, "--name", "base"], "of other content"), ([odd, "--name", "odd"], "sectors"),
                        ([qcow, "--name", "q"], "qemu-img"), ([pathlib.Path("/dev/zero"), "--name", "z"], "no plain"),
                        ([path, "--name", "k", "--kernel", "vmlinuz"], "absolute"),
                        ([path, "--name", "h", "--host", "node9"], "node9")):
        refused = pool.godwit("image", "import", *words, check=False)
        expect(refused.returncode not in (0, 130) and says in refused.stderr, f"{words}: {refused.stderr}")
    expect([i["name"] for i in pool.ls("image")] == ["base"] and not drafts(pool, "node1"), "something came in")


def an_image_goes_from_host_to_host_and_back_out(pool):
    path, digest = need_image(pool)
    pool.godwit("image", "copy", "base", "--to", "node2")
    stored = folder(pool, "node2") / digest
    expect(sha256(stored) == digest and stored.stat().st_blocks * 512 < 18 * MIB, "another content, or the hole filled")
    expect(pool.json("image", "show", "base")["hosts"] == ["node1", "node2"], "the pool does not know")
    out = pathlib.Path(FILES.name) / "out.raw"
    pool.godwit("image", "export", "base", out)
    expect(out.read_bytes() == path.read_bytes(), "what comes out is not what went in")
    again = pool.godwit("image", "export", "base", out, check=False)
    expect(again.returncode != 0 and out.exists(), "it was written over")
    out.unlink()


def a_vm_is_made_from_an_image_that_its_host_fetches_first(pool):
    path, digest = need_image(pool, "fresh")
    expect(images_on(pool, "node2").count(digest) == 0, "it is there already")
    create(pool, "web", "fresh", "node2", "--disk-size", "32MiB")
    pools.wait_for("web ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "web", check=False).stdout)
    expect(sha256(folder(pool, "node2") / digest) == digest, "the host has something else")
    pools.wait_for("the guest to write", 60, lambda: int(pool.ask("web", "disk", "gw disk ")["written"]) > 50)
    verdict = pool.ask("web", "disk verify", "gw diskverify")
    expect(" ok " in verdict["_"] + " " and int(verdict["blocks"]) > 0, verdict["_"])
    clone = (store("node2") / "web-root.raw").read_bytes()
    expect(len(clone) == 32 * MIB and clone[4 * MIB:24 * MIB] == path.read_bytes()[4 * MIB:], "another content")
    refused = pool.godwit("image", "rm", "fresh", check=False)
    expect(refused.returncode == 5 and "web" in refused.stderr and "independent" in refused.stderr, refused.stderr)
    expect(sha256(folder(pool, "node2") / digest) == digest, "the guest wrote into the image")
    pool.godwit("vm", "stop", "--force", "web")
    pool.godwit("vm", "start", "web")
    pool.godwit("vm", "rm", "-y", "--stop", "web")
    expect(not files("node2"), f"left: {files('node2')}")
    pool.godwit("image", "rm", "fresh")
    expect(not any(digest in images_on(pool, h.name) for h in pool.hosts), "its content stayed")


def a_vm_that_is_only_defined_gets_its_disk_with_its_first_start(pool):
    need_image(pool)
    create(pool, "later", "base", "node1", "--no-start")
    expect(pool.vm("later")["state"] == "stopped" and not files("node1"), f"{files('node1')}")
    pool.godwit("vm", "start", "later")
    expect("later-root.raw" in files("node1"), f"{files('node1')}")
    pool.godwit("vm", "stop", "--force", "later")
    (store("node1") / "later-root.raw").rename(store("node1") / "elsewhere")
    lost = pool.godwit("vm", "start", "later", check=False)
    expect(lost.returncode != 0 and not (store("node1") / "later-root.raw").exists(),
           "a disk that was lost came back empty or as it was at first")
    (store("node1") / "elsewhere").rename(store("node1") / "later-root.raw")
    pool.godwit("vm", "start", "later")
    pool.godwit("vm", "rm", "-y", "--stop", "later")
    expect(not files("node1"), f"left: {files('node1')}")


def what_lies_in_the_way_of_a_disk_is_kept(pool):
    need_image(pool)
    precious = store("node1") / "web-root.raw"
    precious.write_bytes(b"precious")
    refused = create(pool, "web", "base", "node1", check=False)
    expect(refused.returncode == 1 and "is there already" in refused.stderr, refused.stderr)
    expect(precious.read_bytes() == b"precious" and not pool.ls("vm"), "it was written over, or the VM stayed")
    precious.unlink()


def a_damaged_image_is_neither_used_nor_spread(pool):
    _, digest = need_image(pool, "bad")
    stored = folder(pool, "node1") / digest
    with open(stored, "r+b") as file:
        file.seek(3 * MIB)
        byte = file.read(1)
        file.seek(3 * MIB)
        file.write(bytes([byte[0] ^ 1]))
    refused = pool.godwit("image", "copy", "bad", "--to", "node2", check=False)
    expect(refused.returncode == 1 and "SHA-256" in refused.stderr, refused.stderr)
    expect(digest not in images_on(pool, "node2") and not drafts(pool, "node2"), "it was published, or a part is left")
    refused = create(pool, "web", "bad", "node1", check=False)
    expect(refused.returncode == 1 and "damaged" in refused.stderr, refused.stderr)
    expect(not pool.ls("vm") and not files("node1"), "something was made of it")
    aside = folder(pool, "node1") / f".damaged-{digest}"
    expect(aside.exists() and digest not in images_on(pool, "node1"), "it is an image still")
    pool.godwit("image", "rm", "bad")
    need_image(pool, "bad")  # whole again, under the same digest
    create(pool, "web", "bad", "node1")
    pool.godwit("vm", "rm", "-y", "--stop", "web")
    pool.godwit("image", "rm", "bad")
    aside.unlink()


def full_disks_are_told_and_nothing_is_left(pool):
    path, digest = need_image(pool)
    host = host_of(pool, "node1")
    subprocess.run([*host.enter_mounts(), "mount", "-t", "tmpfs", "-o", "size=4m", "none", store("node1")], check=True)
    refused = create(pool, "web", "base", "node1", check=False)
    expect(refused.returncode == 1 and "No space left" in refused.stderr, refused.stderr)
    left = subprocess.run([*host.enter_mounts(), "find", store("node1"), "-mindepth", "1"], capture_output=True, text=True)
    expect(not left.stdout and not pool.ls("vm"), f"left: {left.stdout}")
    subprocess.run([*host.enter_mounts(), "umount", store("node1")], check=True)

    full = host_of(pool, "node2")
    if digest in images_on(pool, "node2"):
        (folder(pool, "node2") / digest).unlink()
    full.kill_agent()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder(pool, "node2")], check=True)
    try:
        full.start_agent()
        pool.wait_hosts_up()
        pools.wait_for("the pool to know", 30, lambda: pool.json("image", "show", "base")["hosts"] == ["node1"])
        for words in (["copy", "base", "--to", "node2"],
                      ["import", make_file("big.raw", 8, "big"), "--name", "big", "--host", "node2"]):
            refused = pool.godwit("image", *words, check=False)
            expect(refused.returncode == 1 and "No space left" in refused.stderr, f"{words}: {refused.stderr}")
            expect(not list(folder(pool, "node2").iterdir()), "a part is left")
        expect("big" not in [i["name"] for i in pool.ls("image")], "it counts as imported")
    finally:
        full.kill_agent()
        subprocess.run(["umount", folder(pool, "node2")], check=True)
        full.start_agent()
        pool.wait_hosts_up()


def hold_in_the_middle(pool, host, digest):
    """Stop the other host's agent once a part of the image has come to `host`."""
    draft = folder(pool, host) / f".draft-{digest}"
    pools.wait_for("a part to come", 60, lambda: draft.exists() and draft.stat().st_blocks > 0, 0.002)
    other = next(h for h in pool.hosts if h.name != host).agent
    os.kill(other.pid, signal.SIGSTOP)
    expect(draft.exists(), "it was through already: a larger file would fit")
    return other


def an_agent_that_is_killed_in_the_middle_publishes_nothing(pool):
    path = make_file("large.raw", 384, "large")
    digest = sha256(path)
    pool.godwit("image", "import", path, "--name", "large", "--host", "node1")
    copy = pool.start_godwit("image", "copy", "large", "--to", "node2")
    other = hold_in_the_middle(pool, "node2", digest)
    host_of(pool, "node2").kill_agent()
    os.kill(other.pid, signal.SIGCONT)
    _, said = copy.communicate(timeout=120)
    expect(copy.returncode not in (0, 130) and "node2" in said, f"exit {copy.returncode}: {said}")
    expect(digest not in images_on(pool, "node2"), "a part counts as the image")
    host_of(pool, "node2").start_agent()
    pool.wait_hosts_up()
    pools.wait_for("what is left to be gone", 30, lambda: not drafts(pool, "node2"))
    pool.godwit("image", "copy", "large", "--to", "node2")
    expect(sha256(folder(pool, "node2") / digest) == digest, "another content")
    pool.godwit("image", "rm", "large")


def an_import_that_is_interrupted_leaves_nothing(pool):
    path = make_file("large.raw", 384, "large")
    digest = sha256(path)
    importing = pool.start_godwit("image", "import", path, "--name", "large", "--host", "node1")
    draft = folder(pool, "node1") / f".draft-{digest}"
    pools.wait_for("a part to come", 60, lambda: draft.exists() and draft.stat().st_blocks > 0, 0.002)
    importing.send_signal(signal.SIGINT)
    _, said = importing.communicate(timeout=120)
    expect(importing.returncode == 130 and "interrupted" in said, f"exit {importing.returncode}: {said}")
    expect(not draft.exists() and digest not in images_on(pool, "node1"), "something is left")
    expect("large" not in [i["name"] for i in pool.ls("image")], "it counts as imported")


def an_import_whose_line_broke_goes_on_where_it_was(pool):
    path = make_file("large.raw", 384, "large")
    digest = sha256(path)
    importing = pool.start_godwit("image", "import", path, "--name", "large", "--host", "node1")
    draft = folder(pool, "node1") / f".draft-{digest}"
    pools.wait_for("a part to come", 60, lambda: draft.exists() and draft.stat().st_blocks > 0, 0.002)
    importing.kill()
    importing.communicate()
    expect(draft.exists(), "it was through already: a larger file would fit")
    done = pool.godwit("image", "import", path, "--name", "large", "--host", "node1")
    expect("384 MiB sent" not in done.stdout and sha256(folder(pool, "node1") / digest) == digest, done.stdout)
    pool.godwit("image", "rm", "large")


def declare(pool, name, **more):
    need_image(pool)
    words = {"image": "base", "kernel": pool.guest_elf(), "cmdline": '"vcpus=1 disk=4 diskrate=100"', "cpu": "{vcpus: 1}",
             "memory": "{size: 64MiB}", "host": "node1", **more}
    path = pathlib.Path(FILES.name) / f"{name}.yaml"
    disks = f"    disks: [{{name: root, image: {words.pop('image')}, store: {store('node1')}}}]"
    path.write_text("\n".join(["version: 1", "vms:", f"  - name: {name}", "    count: 3", disks,
                               *(f"    {k}: {v}" for k, v in words.items())]) + "\n")
    return path


def vms_of(pool, name):
    return {vm["name"]: (vm["id"], vm["state"], vm.get("pid"), vm["generation"]) for vm in pool.ls("vm")
            if vm["name"].startswith(f"{name}-")}


def three_vms_come_up_once_and_are_taken_away_whole(pool):
    path = declare(pool, "lab")
    bystander = create(pool, "lab-10", "base", "node1")
    expect(bystander.returncode == 0, bystander.stderr)
    would = pool.godwit("diff", "-f", path, check=False)
    expect(would.returncode == 1 and would.stdout.count("up creates it") == 3, would.stdout)
    pool.godwit("up", "-f", path)
    first = vms_of(pool, "lab")
    expect(sorted(first) == ["lab-1", "lab-10", "lab-2", "lab-3"] and
           all(state == "running" for _, state, _, _ in first.values()), f"{first}")
    again = pool.godwit("up", "-f", path)
    expect(vms_of(pool, "lab") == first and again.stdout.count("as declared") == 3, f"{again.stdout} {vms_of(pool, 'lab')}")
    same = pool.godwit("diff", "-f", path)
    expect(not same.stdout, same.stdout)

    pool.godwit("vm", "stop", "--force", "lab-2")
    path.write_text(path.read_text().replace("vcpus: 1}", "vcpus: 2}"))
    told = pool.godwit("up", "-f", path)
    expect("lab-2 is started" in told.stdout and told.stdout.count("cpu.vcpus: 2 in the file, 1 in the pool") == 3,
           told.stdout)
    after = vms_of(pool, "lab")
    expect({n: v for n, v in after.items() if n != "lab-2"} == {n: v for n, v in first.items() if n != "lab-2"} and
           after["lab-2"][0] == first["lab-2"][0] and pool.vm("lab-1")["vcpus"] == 1, f"{after}")

    asked = pool.godwit("destroy", "-f", path, check=False)
    expect(asked.returncode == 5 and len(vms_of(pool, "lab")) == 4, asked.stderr)
    pool.godwit("destroy", "-f", path, "-y")
    expect(sorted(vms_of(pool, "lab")) == ["lab-10"], f"{vms_of(pool, 'lab')}")
    expect(sorted(f for f in files("node1") if not f.startswith(".godwit")) == ["lab-10-root.raw"], f"{files('node1')}")
    nothing = pool.godwit("destroy", "-f", path, "-y")
    expect("none of the VMs" in nothing.stderr, nothing.stderr)
    pool.godwit("vm", "rm", "-y", "--stop", "lab-10")
    expect(not files("node1"), f"left: {files('node1')}")


def one_vm_that_cannot_be_made_keeps_no_other_from_coming_up(pool):
    path = declare(pool, "part")
    (store("node1") / "part-2-root.raw").write_bytes(b"precious")
    told = pool.godwit("up", "-f", path, check=False)
    expect(told.returncode == 8 and "is there already" in told.stderr, f"exit {told.returncode}: {told.stderr}")
    expect(sorted(vms_of(pool, "part")) == ["part-1", "part-3"], f"{vms_of(pool, 'part')}")
    (store("node1") / "part-2-root.raw").unlink()
    pool.godwit("up", "-f", path)
    expect(sorted(vms_of(pool, "part")) == ["part-1", "part-2", "part-3"], f"{vms_of(pool, 'part')}")
    pool.godwit("destroy", "-f", path, "-y")
    expect(not files("node1") and not vms_of(pool, "part"), f"left: {files('node1')}")


def clones_share_their_blocks_where_the_file_system_can(pool):
    path, digest = need_image(pool)
    if not shutil.which("mkfs.xfs"):
        raise LeftOut("no mkfs.xfs (package xfsprogs)")
    host, disk = host_of(pool, "node2"), pathlib.Path(FILES.name) / "xfs.img"
    subprocess.run(["truncate", "-s", "1G", disk], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    host.kill_agent()
    subprocess.run(["mount", "-o", "loop", disk, folder(pool, "node2")], check=True)
    try:
        host.start_agent()
        pool.wait_hosts_up()
        disks = folder(pool, "node2") / "disks"
        disks.mkdir()
        pool.godwit("image", "copy", "base", "--to", "node2")
        free = shutil.disk_usage(disks).free
        for i in range(10):
            pool.godwit("vm", "create", f"c{i}", "--image", "base", "--host", "node2", "--store", disks, "--kernel",
                        pool.guest_elf(), "--cmdline", "vcpus=1", "--memory", "16MiB", "--vcpus", "1")
        expect((pool.dir / "agent-node2.log").read_text().count("how=reflink copied_bytes=0") == 10, "they were copied")
        expect(free - shutil.disk_usage(disks).free < 10 * MIB, "ten clones take the space of copies")
        expect((disks / "c9-root.raw").read_bytes() == path.read_bytes(), "another content")
        for i in range(10):
            pool.godwit("vm", "rm", "-y", "--stop", f"c{i}")
        expect(not [p for p in disks.rglob("*") if p.is_file()] and sha256(folder(pool, "node2") / digest) == digest,
               f"left: {list(disks.rglob('*'))}")
    finally:
        host.kill_agent()
        subprocess.run(["umount", folder(pool, "node2")], check=True)
        host.start_agent()
        pool.wait_hosts_up()


def names_outlive_the_coordinator(pool):
    _, digest = need_image(pool)
    pool.kill_coordinator()
    pool.start_coordinator()
    pool.wait_hosts_up()
    pools.wait_for("hosts to tell", 30, lambda: pool.json("image", "show", "base").get("hosts") == ["node1"])
    expect(pool.json("image", "show", "base")["digest"] == digest, "it stands for something else")


if __name__ == "__main__":
    run([an_import_brings_a_file_to_a_host_under_its_digest, what_is_no_image_is_refused_and_nothing_is_there,
         an_image_goes_from_host_to_host_and_back_out, a_vm_is_made_from_an_image_that_its_host_fetches_first,
         a_vm_that_is_only_defined_gets_its_disk_with_its_first_start, what_lies_in_the_way_of_a_disk_is_kept,
         a_damaged_image_is_neither_used_nor_spread, full_disks_are_told_and_nothing_is_left,
         an_agent_that_is_killed_in_the_middle_publishes_nothing, an_import_that_is_interrupted_leaves_nothing,
         an_import_whose_line_broke_goes_on_where_it_was, three_vms_come_up_once_and_are_taken_away_whole,
         one_vm_that_cannot_be_made_keeps_no_other_from_coming_up,
         clones_share_their_blocks_where_the_file_system_can, names_outlive_the_coordinator])

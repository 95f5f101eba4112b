#!/usr/bin/env python3
"""Images that are built and sealed in a real pool. The guest cannot run a shell, so this test has its part: it reads the
script in the seed of the VM that builds, and has the guest say on its console what the script would say."""
import base64
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import tempfile

import guest_disk
from pool_case import LeftOut, clean_vms, expect, pools, run

MIB = 1 << 20
DISK_MIB = 8
FILES = tempfile.TemporaryDirectory(prefix="godwit-build-", dir="/var/tmp")
FOLDER = pathlib.Path(FILES.name)
STEPS = """steps:
  - run: apt-get install -y nginx
  - {file: /etc/motd, content: hello}
"""


def store():
    path = FOLDER / "store"
    path.mkdir(exist_ok=True)
    return path


def disks():
    return sorted(p.name for p in store().iterdir() if not p.name.startswith("."))


def images(pool):
    return {i["name"]: i for i in pool.ls("image")}


def content(pool, digest, host="node1"):
    return pool.hosts[int(host[-1]) - 1].dir / "agent/images" / digest


def need_base(pool):
    if "base" in images(pool):
        return
    raw = FOLDER / "base.raw"
    raw.write_bytes(bytes(DISK_MIB * MIB))
    pool.godwit("image", "import", raw, "--name", "base", "--host", "node1", "--kernel", pool.guest_elf(), "--cmdline",
                f"vcpus=1 disk={DISK_MIB} diskrate=100")


def build_file(name, steps=STEPS, image="base", **more):
    path = FOLDER / f"{name}.yaml"
    words = {"name": name, "image": image, "host": "node1", "store": store(), "memory": "{size: 64MiB}", "timeout_ms": "5m",
             **more}
    path.write_text("".join(f"{k}: {v}\n" for k, v in words.items()) + steps)
    return path


class Build:
    """A build that runs, and its guest's mouth."""

    def __init__(self, pool, path, *words):
        self.pool, self.name = pool, path.stem
        self.talk = open(FOLDER / f"{self.name}.talk", "w+b")
        self.command = subprocess.Popen(pool.command("image", "build", "-f", path, *words), env=pool.environment(),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.talk, text=True)
        self.vm = pools.wait_for("its VM", 60, self.find)["name"]
        pools.wait_for("its guest", 60, lambda: "gw ready" in pool.godwit("vm", "logs", self.vm, check=False).stdout)
        shown = pool.json("vm", "show", self.vm)
        self.seed = (shown.get("vms") or [shown])[0]["spec"]["cloud_init"]
        self.script = self.seed["user_data"]
        self.token = re.search(r"^T=(\w+)$", self.script, re.MULTILINE).group(1)

    def find(self):
        if self.command.poll() is not None:
            raise pools.PoolError(f"it ended: {self.command.communicate()[0]}{self.said()}")
        return next((vm for vm in self.pool.ls("vm") if vm["name"].startswith(f"build-{self.name}-")
                     and vm["state"] == "running"), None)

    def said(self):
        return pathlib.Path(self.talk.name).read_text(errors="surrogateescape")

    def say(self, *lines):
        for line in lines:
            self.say_plain(f"@gw {self.token} {line}")

    def say_plain(self, line):
        self.pool.ask(self.vm, f"say {line}", line)

    def await_said(self, words):
        pools.wait_for(f"'{words}'", 60, lambda: words in self.said())

    def power_off(self):
        self.pool.godwit("vm", "console", self.vm, "--until", "gw ok", "--timeout", "60s", stdin="poweroff\n", check=False)

    def write_some(self):
        pools.wait_for("the guest to write", 60, lambda: int(self.pool.ask(self.vm, "disk", "gw disk ")["written"]) > 50)
        self.pool.ask(self.vm, "disk off", "gw ok")
        self.pool.ask(self.vm, "disk flush", "gw ok")

    def end(self):
        out, _ = self.command.communicate(timeout=180)
        self.talk.close()
        return self.command.returncode, out, pathlib.Path(FOLDER / f"{self.name}.talk").read_text(errors="surrogateescape")


def expect_nothing_left(pool, name):
    vms = [vm["name"] for vm in pool.ls("vm") if vm["name"].startswith("build-")]
    expect(not vms and not disks(), f"left: {vms} {disks()}")
    expect(name not in images(pool), f"image {name} is there")
    named = {i["digest"] for i in images(pool).values()}
    for host in pool.hosts:
        there = {p.name for p in (host.dir / "agent/images").iterdir()}
        expect(there <= named, f"{host.name} has {there - named}")


def a_build_runs_its_steps_and_its_disk_becomes_an_image(pool):
    need_base(pool)
    build = Build(pool, build_file("web", size=f"{2 * DISK_MIB}MiB"))
    steps = [base64.b64decode(text).decode() for text in re.findall(r"<<'@gw'\n(.*?)\n@gw\n", build.script, re.DOTALL)]
    expect(steps[0] == "apt-get install -y nginx" and "base64 -d" in steps[1], steps)
    expect(build.seed["meta_data"] == f"instance-id: {build.vm}\n", build.seed)  # the image gets no VM's host name
    build.say("hello", "begin 1", "o 1 1 Setting up nginx")
    build.await_said("    Setting up nginx\n")  # while it runs
    build.say("end 1 0", "begin 2", "end 2 0", "sealed")
    build.write_some()
    build.say("done")
    build.power_off()
    code, out, talk = build.end()
    expect(code == 0 and "web" in out, f"exit {code}: {out}{talk}")
    for words in ("step 1 of 2: apt-get install -y nginx", "step 2 of 2: file /etc/motd", "all steps are done"):
        expect(words in talk, f"'{words}' lacks: {talk}")
    image = images(pool)["web"]
    made = content(pool, image["digest"])
    expect(hashlib.sha256(made.read_bytes()).hexdigest() == image["digest"], "it is named by another content")
    expect(made.stat().st_size == 2 * DISK_MIB * MIB and made.stat().st_mode & 0o777 == 0o400, f"{made.stat()}")
    expect(len(guest_disk.judge(made, DISK_MIB)) > 50, "what the guest wrote is not in it")
    expect(image["kernel"] == str(pool.guest_elf()), image)
    expect(not disks() and not pool.ls("vm"), f"left: {disks()} {pool.ls('vm')}")


def vms_come_from_what_was_built_and_leave_nothing(pool):
    need_image_web(pool)
    up = FOLDER / "up.yaml"
    up.write_text("vms:\n  - name: lab\n    count: 3\n    host: node1\n    memory: {size: 64MiB}\n    cpu: {vcpus: 1}\n"
                  f"    disks: [{{name: root, image: web, store: {store()}}}]\n")
    pool.godwit("up", "-f", up)
    for name in ("lab-1", "lab-2", "lab-3"):
        pools.wait_for(f"{name} ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", name, check=False).stdout)
    pool.godwit("destroy", "-f", up, "-y")
    expect(not disks() and not pool.ls("vm"), f"left: {disks()}")


def need_image_web(pool):
    if "web" not in images(pool):
        a_build_runs_its_steps_and_its_disk_becomes_an_image(pool)


def a_step_that_fails_is_told_with_its_last_words_and_nothing_is_left(pool):
    need_base(pool)
    build = Build(pool, build_file("fails"))
    build.say("hello", "begin 1", "o 1 1 E: no such package", "end 1 100")
    code, out, talk = build.end()
    expect(code == 1 and not out and "step 1 of 2 ended with exit code 100" in talk and "    E: no such package\n" in talk
           and "GW-2784" in talk, f"exit {code}: {out}{talk}")
    expect_nothing_left(pool, "fails")

    quiet = Build(pool, build_file("quiet"), "--progress", "none")
    quiet.say("hello", "begin 1", *(f"o 1 {i} line-{i}." for i in range(1, 24)), "end 1 7")
    code, out, talk = quiet.end()
    expect(code == 1 and "line-3." not in talk and "line-4." in talk and "line-23." in talk and "exit code 7" in talk
           and "==>" not in talk, f"exit {code}: {talk}")

    told = Build(pool, build_file("told"), "-o", "json", "--progress", "none")
    told.say("hello", "begin 1", "o 1 1 why", "end 1 2")
    code, out, talk = told.end()
    expect(code == 1 and '"details":["why"]' in talk.replace(" ", "") and "build-failed" in talk, f"exit {code}: {talk}")
    expect_nothing_left(pool, "told")


def a_failed_build_keeps_its_vm_where_that_was_asked_for(pool):
    need_base(pool)
    build = Build(pool, build_file("kept"), "--keep")
    build.say("hello", "begin 1", "end 1 1")
    code, _, talk = build.end()
    expect(code == 1 and f"godwit vm console {build.vm}" in talk and "running, kept" in talk, f"exit {code}: {talk}")
    expect(pool.vm(build.vm)["state"] == "running" and len(disks()) == 1, f"{pool.ls('vm')} {disks()}")
    pool.godwit("vm", "rm", "--stop", "-y", build.vm)
    expect_nothing_left(pool, "kept")

    build = Build(pool, build_file("kept"), "--keep")
    build.say("hello", "begin 1", "o 1 1 busy")
    build.await_said("busy")
    build.command.send_signal(signal.SIGINT)
    code, _, talk = build.end()
    expect(code == 130 and f"{build.vm} is kept" in talk and "is being removed" not in talk, f"exit {code}: {talk}")
    expect(pool.vm(build.vm)["state"] == "running", f"{pool.ls('vm')}")
    pool.godwit("vm", "rm", "--stop", "-y", build.vm)
    expect_nothing_left(pool, "kept")


def an_interrupted_build_leaves_nothing(pool):
    need_base(pool)
    for number in (signal.SIGINT, signal.SIGTERM):
        build = Build(pool, build_file("stopped"))
        build.say("hello", "begin 1", "o 1 1 busy")
        build.await_said("busy")
        build.command.send_signal(number)
        code, _, talk = build.end()
        expect(code == 130 and "interrupted" in talk, f"exit {code}: {talk}")
        expect_nothing_left(pool, "stopped")


def what_cannot_be_built_is_refused_before_a_guest_works(pool):
    need_base(pool)
    pool.godwit("image", "import", FOLDER / "base.raw", "--name", "taken", "--host", "node1")
    (FOLDER / "secret").write_text("of the operator")
    below = FOLDER / "below"
    below.mkdir(exist_ok=True)
    (below / "link").symlink_to("../secret")
    for words, says, code in (
            ({"name": "taken"}, "already is an image taken", 5), ({"image": "nobody"}, "no image nobody", 3),
            ({"name": "../x"}, "letters, digits", 2), ({"host": "node9"}, "node9", 3),
            ({"steps": "steps: [{file: /x, from: ../secret}]\n"}, "in the folder of the build file", 2),
            ({"steps": "steps: [{file: /x, from: link}]\n"}, "in the folder of the build file", 2),
            ({"steps": "steps: [{file: /x, from: /etc/shadow}]\n"}, "in the folder of the build file", 2),
            ({"steps": "steps: [{file: /x, from: none}]\n"}, "No such file", 3),
            ({"steps": "steps: [{run: x, shell: y}]\n"}, "shell", 2),
            ({"steps": "steps: []\n"}, "steps", 2)):
        path = below / "build.yaml"
        path.write_bytes(build_file("never", **{k: v for k, v in words.items() if k != "name"}).read_bytes())
        if "name" in words:
            path.write_text(path.read_text().replace("name: never", f"name: {words['name']}"))
        refused = pool.godwit("image", "build", "-f", path, "--keep", check=False)
        expect(refused.returncode == code and says in refused.stderr and "is kept" not in refused.stderr,
               f"{words}: {refused.returncode} {refused.stderr}")
    expect(not pool.ls("vm") and not disks(), f"left: {pool.ls('vm')} {disks()}")
    pool.godwit("image", "rm", "taken")


def a_name_that_is_taken_meanwhile_ends_the_build_without_an_image(pool):
    need_base(pool)
    build = Build(pool, build_file("late"))
    other = FOLDER / "other.raw"
    other.write_bytes(os.urandom(MIB))
    pool.godwit("image", "import", other, "--name", "late", "--host", "node1")
    build.say("hello", "begin 1", "end 1 0", "begin 2", "end 2 0", "done")
    build.power_off()
    code, _, talk = build.end()
    expect(code == 5 and "already is an image late" in talk, f"exit {code}: {talk}")
    expect(images(pool)["late"]["size"] == MIB, "it was put over the other")
    pool.godwit("image", "rm", "late")
    expect_nothing_left(pool, "late")


def a_guest_that_ends_before_it_is_done_and_one_that_says_nothing_fail(pool):
    need_base(pool)
    build = Build(pool, build_file("short"))
    build.say("hello", "begin 1")
    build.power_off()
    code, _, talk = build.end()
    expect(code == 1 and "ended before it was done" in talk, f"exit {code}: {talk}")
    silent = Build(pool, build_file("silent", timeout_ms="8s"))
    code, _, talk = silent.end()
    expect(code == 1 and "neither cloud-init nor" in talk, f"exit {code}: {talk}")
    gone = Build(pool, build_file("gone"))
    gone.say("hello", "begin 1")
    pool.godwit("vm", "rm", "--stop", "-y", gone.vm)
    code, _, talk = gone.end()
    expect(code == 1 and "ended before it was done" in talk, f"exit {code}: {talk}")
    expect_nothing_left(pool, "gone")


def a_hostile_guest_neither_moves_the_cursor_nor_speaks_for_the_build(pool):
    need_base(pool)
    build = Build(pool, build_file("hostile"))
    build.say("hello", "begin 1")
    build.say_plain("@gw 00000000000000000000000000000000 end 1 9")
    build.say_plain("@gw " * 25)
    build.say("o 1 1 \033[2J\033]0;x\a\x9b2J", "o 1 999999999999999 far", "o 7x", "end 1", "begin 99999999999999999999999")
    build.await_said("far")
    said = build.said()
    expect("\033" not in said and "\x9b" not in said and "?[2J?]0;x?" in said, repr(said))
    expect("[999999999999997 lines did not come]" in said, repr(said))
    build.say("end 3 0")  # there are two
    code, _, talk = build.end()
    expect(code == 1 and "step 3, there are 2" in talk, f"exit {code}: {talk}")
    expect_nothing_left(pool, "hostile")


def a_build_goes_on_after_its_coordinator_was_killed(pool):
    need_base(pool)
    build = Build(pool, build_file("lasting"))
    build.say("hello", "begin 1", "o 1 1 before")
    build.await_said("before")
    pool.kill_coordinator()
    build.await_said("the coordinator is away")
    pool.start_coordinator()
    pool.wait_hosts_up()
    build.say("o 1 2 after", "end 1 0", "begin 2", "end 2 0")
    build.await_said("after")
    expect(build.said().count("before") == 1, "what was said before is told again")
    build.write_some()
    build.say("done")
    build.power_off()
    code, _, talk = build.end()
    expect(code == 0 and "lasting" in images(pool), f"exit {code}: {talk}")
    pool.godwit("image", "rm", "lasting")
    expect_nothing_left(pool, "lasting")


def a_full_folder_of_images_makes_no_image_and_leaves_nothing(pool):
    need_base(pool)
    if os.geteuid() != 0:
        raise LeftOut("mounting needs root")
    host = pool.hosts[1]
    folder = host.dir / "agent/images"
    host.kill_agent()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder], check=True)
    try:
        host.start_agent()
        pool.wait_hosts_up()
        build = Build(pool, build_file("full", host="node2"))
        build.write_some()  # 50 blocks of 4 KiB
        build.say("hello", "begin 1", "end 1 0", "begin 2", "end 2 0", "done")
        build.power_off()
        code, out, talk = build.end()
        expect(code == 1 and not out and "No space left" in talk, f"exit {code}: {out}{talk}")
        expect_nothing_left(pool, "full")
    finally:
        host.kill_agent()
        subprocess.run(["umount", folder], check=True)
        host.start_agent()
        pool.wait_hosts_up()


def a_disk_of_a_stopped_vm_is_sealed_and_a_running_one_is_not(pool):
    need_base(pool)
    pool.godwit("vm", "create", "db", "--image", "base", "--host", "node1", "--store", store(), "--memory", "64MiB",
                "--vcpus", "1")
    pools.wait_for("db ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "db", check=False).stdout)
    refused = pool.godwit("image", "seal", "db", "db-1", check=False)
    expect(refused.returncode == 5 and "is not stopped" in refused.stderr, refused.stderr)
    pools.wait_for("the guest to write", 60, lambda: int(pool.ask("db", "disk", "gw disk ")["written"]) > 50)
    pool.godwit("vm", "stop", "--force", "db")
    for words, says in ((["db", "base"], "already is an image base"), (["db", "x/y"], "no name for an image"),
                        (["db", "ok", "--disk", "data"], "no disk data"), (["nobody", "ok"], "nobody")):
        refused = pool.godwit("image", "seal", *words, check=False)
        expect(refused.returncode not in (0, 130) and says in refused.stderr, f"{words}: {refused.stderr}")
    disk = next(store().glob("db-*"))
    want = hashlib.sha256(disk.read_bytes()).hexdigest()
    sealed = pool.json("image", "seal", "db", "db-1")
    expect((sealed.get("images") or [sealed])[0]["digest"] == want, sealed)
    expect(content(pool, want).read_bytes() == disk.read_bytes(), "another content")
    pool.godwit("image", "seal", "db", "db-2", "--disk", "root")  # the same content under a second name
    pool.godwit("image", "rm", "db-1")
    expect(content(pool, want).exists(), "another name still stands for it")
    pool.godwit("vm", "start", "db")
    pool.godwit("vm", "rm", "--stop", "-y", "db")
    pool.godwit("image", "rm", "db-2")
    raw = pool.godwit("vm", "create", "raw", "--image", "base", "--host", "node1", "--store", store(), "--memory", "64MiB",
                      "--vcpus", "1", "--no-start")
    expect(raw.returncode == 0, raw.stderr)
    refused = pool.godwit("image", "seal", "raw", "raw-1", check=False)
    expect(refused.returncode == 5 and "never run" in refused.stderr, refused.stderr)
    clean_vms(pool)
    expect_nothing_left(pool, "raw-1")


if __name__ == "__main__":
    run([a_build_runs_its_steps_and_its_disk_becomes_an_image, vms_come_from_what_was_built_and_leave_nothing,
         a_step_that_fails_is_told_with_its_last_words_and_nothing_is_left,
         a_failed_build_keeps_its_vm_where_that_was_asked_for, an_interrupted_build_leaves_nothing,
         what_cannot_be_built_is_refused_before_a_guest_works,
         a_name_that_is_taken_meanwhile_ends_the_build_without_an_image,
         a_guest_that_ends_before_it_is_done_and_one_that_says_nothing_fail,
         a_hostile_guest_neither_moves_the_cursor_nor_speaks_for_the_build,
         a_build_goes_on_after_its_coordinator_was_killed, a_full_folder_of_images_makes_no_image_and_leaves_nothing,
         a_disk_of_a_stopped_vm_is_sealed_and_a_running_one_is_not])

"""godwit image build on Linux guests: a small one of busybox in the short form, Debians of Debian's packages in the long one.
What was built boots as VMs of their own, and nothing of it is left after them."""
import re
import time

import bed as beds
import guest_image
from bed import pools
from nested_case import expect, note

BUILD = """name: built
image: base
store: {store}
host: node1
memory: {{size: {memory}}}
timeout_ms: 30m
steps:
{steps}"""
UP = """vms:
  - name: web
    count: 3
    cpu: {{vcpus: 1}}
    memory: {{size: {memory}}}
    disks: [{{name: root, image: built, store: {store}}}]
{more}"""
WEB = ("web-1", "web-2", "web-3")
STEPS = """  - file: /etc/motd
    content: "gw made by a build, 'quoted' $HOME\\n"
  - run: |
      echo provisioned >/etc/provisioned
      uname -sr
"""
DEBIAN_STEPS = STEPS + """  - run: |
      systemctl --version | head -n 1
      cat /etc/hostname
"""
INSTALLS = """  - run: apt-get install -y /srv/hello_*.deb
"""
FAILS = """  - run: |
      echo before
      cat /etc/nothing-here
      echo never
"""
# A VM tells on its console who it is, by the user-data of its own seed, and what it has from the build.
TELL = ("machine=$(cat /etc/machine-id) by=$(cat /etc/provisioned) motd=$(cut -d' ' -f2 /etc/motd) root=$(df -m / | awk 'END"
        " { print $2 }') end=1")
CLOUD_UP = f"""    cloud_init:
      user_data: |
        #cloud-config
        runcmd:
          - |
            echo "gw told name=$(hostname) id=$(cat /run/cloud-init/.instance-id) hello=$(hello -g yes) {TELL}" >/dev/console
"""
SCRIPT_UP = f"""    cloud_init:
      user_data: |
        #!/bin/sh
        hostname $(sed -n 's/^local-hostname: *//p' meta-data)
        echo "gw told name=$(hostname) id=$(sed -n 's/^instance-id: *//p' meta-data) {TELL}" >/dev/console
"""


class Builder:
    """Folders for images and disks on these hosts, a base image on the first, and the file that builds from it."""

    def __init__(self, pool, base, memory, hosts=1):
        self.pool, self.memory = pool, memory
        self.store = f"{beds.SHARED}/disks"
        self.file = pool.dir / "build.yaml"
        self.up_file = pool.dir / "up.yaml"
        self.hosts = pool.hosts[:hosts]
        self._use_shared_folders()
        raw = pool.dir / "base.raw"
        base.copy(raw)
        started = time.monotonic()
        boots = ("--kernel", base.image, "--initrd", base.initramfs, "--cmdline", "console=ttyS0 panic=-1 quiet")
        pool.godwit("image", "import", raw, "--name", "base", "--host", "node1", *(boots if base.image else ()), timeout=1800)
        raw.unlink()
        note(f"imported in {time.monotonic() - started:.0f} s")

    def _use_shared_folders(self):
        """A host of the bed has its own files in memory; what is large lies on the shared folder, which is a disk."""
        for host in self.hosts:
            images = f"{beds.SHARED}/images-{host.name}"
            host.kill_agent()
            host.machine.run("sh", "-c", f"mkdir -p {images} {self.store} && rm -rf {host.dir}/agent/images "
                             f"&& ln -s {images} {host.dir}/agent/images")
            host.start_agent()
        self.pool.wait_hosts_up(300)

    def build(self, steps, check=True):
        started = time.monotonic()
        self.file.write_text(BUILD.format(store=self.store, memory=self.memory, steps=steps))
        done = self.pool.godwit("image", "build", "-f", self.file, timeout=2400, check=check)
        for line in done.stderr.splitlines():
            print(f"        {line}", flush=True)
        note(f"exit {done.returncode} in {time.monotonic() - started:.0f} s")
        left = [vm["name"] for vm in self.pool.ls("vm") if vm["name"].startswith("build-")]
        expect(left == [], f"left: {left}")
        return done

    def files(self):
        shared = self.pool.bed.shared
        return [str(p.relative_to(shared)) for folder in (shared / "disks", *shared.glob("images-*"))
                for p in folder.rglob("*") if p.is_file()]

    def up(self, said, more):
        """Three VMs, each of which has said this on its console; what it said first of this kind, by its name."""
        started = time.monotonic()
        self.up_file.write_text(UP.format(store=self.store, memory=self.memory, more=more))
        self.pool.godwit("up", "-y", "-f", self.up_file, timeout=2400)
        note(f"they are up after {time.monotonic() - started:.0f} s")
        told = {name: pools.wait_for(f"{name} to say '{said}'", 1500, lambda: re.search(
            said, self.pool.godwit("vm", "logs", name, check=False).stdout), 1)[0] for name in WEB}
        note(f"three VMs from it in {time.monotonic() - started:.0f} s")
        return told

    def records(self, ids):
        """What the hosts have under the names of these VMs: folders, sockets, logs."""
        names = " -o ".join(f"-name *{i}*" for i in ids).split()
        return [f"{host.name}:{path}" for host in self.pool.hosts
                for path in host.machine.run("find", host.dir, host.run_dir, *names).splitlines()]

    def destroy(self):
        ids = [self.pool.vm(name)["id"] for name in WEB]
        expect(all(any(i in path for path in self.records(ids)) for i in ids), "VMs that run have no records: the test is blind")
        self.pool.godwit("destroy", "-y", "-f", self.up_file, timeout=900)
        left = [vm["name"] for vm in self.pool.ls("vm") if vm["name"].startswith("web-")] + self.records(ids)
        left += [f"{host.name}: process {pid}" for host in self.pool.hosts for pid in host.vm_pids()]
        expect(left == [], f"left: {left}")
        self.pool.godwit("image", "rm", "built", "base", timeout=300)
        expect(self.files() == [], f"left: {self.files()}")


def a_small_template_is_built_and_three_vms_come_from_it(pool):
    """The script runs in a real shell, on a real disk: a busybox with the seed runner that a Debian has, too."""
    builder = Builder(pool, guest_image.BusyboxGuest(), "96MiB")
    done = builder.build(STEPS)
    expect("    Linux 6." in done.stderr and "step 2 of 2: echo provisioned" in done.stderr, done.stderr)
    builder.up(re.escape("gw made by a build, 'quoted' $HOME provisioned"), "    host: node1\n")
    builder.destroy()


def a_debian_template_is_built_by_cloud_init_and_three_vms_come_from_it(pool):
    builder = Builder(pool, guest_image.CloudDebian(), "384MiB", hosts=2)
    for record in three_vms_of_a_built_debian(builder, DEBIAN_STEPS + INSTALLS, CLOUD_UP):
        expect(record["hello"] == "yes", f"the package that the build installed is not there: {record}")


def a_debian_template_is_built_by_the_seed_runner_and_three_vms_come_from_it(pool):
    builder = Builder(pool, guest_image.SeedRunnerDebian("cloud-amd64"), "384MiB", hosts=2)
    failed = builder.build(FAILS, check=False)
    expect(failed.returncode == 1 and "    before\n" in failed.stderr and "nothing-here" in failed.stderr and
           "    never\n" not in failed.stderr and "step 1 of 1 ended with exit code 1" in failed.stderr, failed.stderr)
    three_vms_of_a_built_debian(builder, DEBIAN_STEPS, SCRIPT_UP)


def three_vms_of_a_built_debian(builder, steps, up):
    """Gives what they told of themselves."""
    pool = builder.pool
    done = builder.build(steps)
    expect("all steps are done" in done.stderr and "    systemd 2" in done.stderr, done.stderr)
    expect("\n    nested\n" in done.stderr, f"it has another host name than its base: {done.stderr}")
    expect("free blocks may" not in done.stderr, f"it was not trimmed: {done.stderr}")
    expect(sorted(i["name"] for i in pool.ls("image")) == ["base", "built"], str(pool.ls("image")))
    records = []
    for name, told in builder.up("gw told .* end=1", up).items():
        note(told)
        record = dict(word.split("=", 1) for word in told.split() if "=" in word)
        expect(record["by"] == "provisioned" and record["motd"] == "made", f"{name} is not of the build: {told}")
        expect(record["name"] == name and record["id"] == pool.vm(name)["id"], f"{name} is another: {told}")
        expect(re.fullmatch("[0-9a-f]{32}", record["machine"]), told)
        records.append(record)
    expect(len({record["machine"] for record in records}) == len(WEB), f"they are one machine: {records}")
    note(f"on hosts {' '.join(pool.vm(name)['host'] for name in WEB)}")
    builder.destroy()
    return records

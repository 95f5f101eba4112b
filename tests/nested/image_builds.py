"""godwit image build on a Linux guest, a small one of busybox: what was built boots as VMs, and nothing of it is left."""
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
    host: node1
    cpu: {{vcpus: 1}}
    memory: {{size: {memory}}}
    disks: [{{name: root, image: built, store: {store}}}]
"""
STEPS = """  - file: /etc/motd
    content: "gw made by a build, 'quoted' $HOME\\n"
  - run: |
      echo provisioned >/etc/provisioned
      uname -sr
"""


class Builder:
    """Folders for images and disks on node1, a base image, and the file that builds from it."""

    def __init__(self, pool, base, memory):
        self.pool, self.memory = pool, memory
        self.store = f"{beds.SHARED}/disks"
        self.file = pool.dir / "build.yaml"
        self.up_file = pool.dir / "up.yaml"
        self._use_shared_folders()
        raw = pool.dir / "base.raw"
        base.copy(raw)
        started = time.monotonic()
        pool.godwit("image", "import", raw, "--name", "base", "--host", "node1", "--kernel", base.image, "--initrd",
                    base.initramfs, "--cmdline", "console=ttyS0 panic=-1 quiet", timeout=1800)
        raw.unlink()
        note(f"imported in {time.monotonic() - started:.0f} s")

    def _use_shared_folders(self):
        """A host of the bed has its own files in memory; what is large lies on the shared folder, which is a disk."""
        host = self.pool.hosts[0]
        host.kill_agent()
        host.machine.run("sh", "-c", f"mkdir -p {beds.SHARED}/images {self.store} && rm -rf {host.dir}/agent/images "
                         f"&& ln -s {beds.SHARED}/images {host.dir}/agent/images")
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
        return [str(p.relative_to(self.pool.bed.shared)) for folder in ("disks", "images")
                for p in (self.pool.bed.shared / folder).rglob("*") if p.is_file()]

    def up(self, said):
        """Three VMs, each of which has said this on its console."""
        started = time.monotonic()
        self.up_file.write_text(UP.format(store=self.store, memory=self.memory))
        self.pool.godwit("up", "-y", "-f", self.up_file, timeout=2400)
        for name in ("web-1", "web-2", "web-3"):
            pools.wait_for(f"{name} to say '{said}'", 1500, lambda: said in self.pool.godwit(
                "vm", "logs", name, check=False).stdout, 1)
        note(f"three VMs from it in {time.monotonic() - started:.0f} s")

    def destroy(self):
        self.pool.godwit("destroy", "-y", "-f", self.up_file, timeout=900)
        left = [vm["name"] for vm in self.pool.ls("vm") if vm["name"].startswith("web-")]
        expect(left == [], f"left: {left}")
        self.pool.godwit("image", "rm", "built", "base", timeout=300)
        expect(self.files() == [], f"left: {self.files()}")


def a_small_template_is_built_and_three_vms_come_from_it(pool):
    """The script runs in a real shell, on a real disk: a busybox with the seed runner that a Debian has, too."""
    builder = Builder(pool, guest_image.BusyboxGuest(), "96MiB")
    done = builder.build(STEPS)
    expect("    Linux 6." in done.stderr and "step 2 of 2: echo provisioned" in done.stderr, done.stderr)
    builder.up("gw made by a build, 'quoted' $HOME provisioned")
    builder.destroy()

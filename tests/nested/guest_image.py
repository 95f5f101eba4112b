"""Linux guests: Debian's kernels with an initramfs of busybox and our load, ext4 disks, and a whole Debian."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import debian
from initramfs import Initramfs

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# ext4 asks for crc32c by a name that is no module's: without it a generic kernel mounts nothing.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "crc32c_generic",
           "ext4")
DEBIAN_PACKAGES = "systemd-sysv,udev,dbus,kmod,iproute2"
DEBIAN_SIZE = "1200M"


def load_program():
    """Our static program, built when one of its sources is newer in content than what the cache has."""
    sources = sorted((HERE / "guest").iterdir())
    key = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
    folder = debian.CACHE / f"load-{key}"
    if not (folder / "load").exists():
        for old in debian.CACHE.glob("load-*"):
            shutil.rmtree(old, ignore_errors=True)
        subprocess.run([HERE / "guest/build.sh", folder], check=True)
    return folder / "load"


class LinuxGuest:
    """Kernel and initramfs of a guest that carries our load. `flavour` as in debian.Kernel."""

    def __init__(self, flavour):
        self.kernel = debian.Kernel(flavour)
        image = Initramfs()
        image.add_folder("proc", "sys", "dev", "etc", "bin", "tmp", "run", "data")
        image.add_program("bin/busybox", debian.busybox())
        image.add_program("bin/load", load_program())
        image.add_program("init", HERE / "guest_init.sh")
        image.add_modules(self.kernel, *MODULES)
        self.initramfs = image.path(f"guest-{flavour}")
        self.image = self.kernel.image

    def cmdline(self, **options):
        """Options by name are gw.NAME=VALUE in the guest."""
        return " ".join(["console=ttyS0 panic=-1 quiet", *(f"gw.{k}={v}" for k, v in options.items())])


def make_disk(path, mib=128):
    """An ext4 disk in a raw file."""
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "metadata_csum", path], check=True)
    return path


def check_disk(path, acked):
    """Judge a disk whose guest has ended: its file system is clean and every acknowledged block is there.
    Gives the words of both checks; raises AssertionError with them."""
    words = []
    fsck = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    words.append((fsck.stdout.strip().splitlines() or [fsck.stderr])[-1])
    assert fsck.returncode == 0, f"e2fsck -fn {path}: exit {fsck.returncode}\n{fsck.stdout}{fsck.stderr}"
    blocks = pathlib.Path(f"{path}.blocks")
    try:
        subprocess.run(["debugfs", "-R", f"dump /blocks {blocks}", path], check=True, capture_output=True)
        done = subprocess.run([load_program(), "check", blocks, str(acked)], capture_output=True, text=True,
                              check=False)
    finally:
        blocks.unlink(missing_ok=True)
    words.append(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return words


def make_debian(disk, packages, options=(), add=None):
    """A Debian of these packages on an ext4 disk; root has no password. `add` may put more into its folder."""
    if not shutil.which("mmdebstrap"):
        raise debian.Unavailable("no mmdebstrap (package mmdebstrap)")
    work, folder = debian.CACHE / f"{disk.name}.work", debian.CACHE / f"{disk.name}.files"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        done = subprocess.run(
            ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={packages}", *options,
             "--customize-hook=chroot \"$1\" passwd -d root",
             "--customize-hook=echo nested >\"$1/etc/hostname\"",
             "bookworm", folder], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise debian.Unavailable(f"mmdebstrap: {done.stderr.strip()[-400:]}")
        if add:
            add(folder)
        with open(work, "wb") as file:
            file.truncate(int(DEBIAN_SIZE[:-1]) << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", folder, work], check=True)
        work.rename(disk)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        work.unlink(missing_ok=True)


class DebianGuest:
    """A Debian with systemd and a login on the serial port, on an ext4 disk, with the modules of a kernel of the flavour.
    Made once and kept; a test takes a copy."""

    def __init__(self, flavour):
        self.kernel = debian.Kernel(flavour)
        self.image = self.kernel.image
        init = (HERE / "disk_init.sh").read_text()
        key = hashlib.sha256(
            f"{self.kernel.release} {DEBIAN_PACKAGES} {DEBIAN_SIZE} {MODULES} {init} 1".encode()).hexdigest()[:12]
        self.disk = debian.CACHE / f"debian-{flavour}-{key}.raw"
        self.initramfs = debian.CACHE / f"debian-{flavour}-{key}.initrd"
        if not self.disk.exists():
            self._make()

    def copy(self, path):
        subprocess.run(["cp", "--sparse=always", self.disk, path], check=True)

    def spec(self, name, store, file, vcpus=2, memory="512MiB"):
        return json.dumps({
            "version": 1, "name": name, "cpu": {"vcpus": vcpus}, "memory": {"size": memory}, "host": "node1",
            "kernel": str(self.image), "initrd": str(self.initramfs), "cmdline": "console=ttyS0 panic=-1 quiet",
            "disks": [{"name": "root", "store": store, "file": file, "shared": True}]})

    def _make(self):
        image = Initramfs()
        image.add_folder("proc", "sys", "dev", "root", "bin")
        image.add_program("bin/busybox", debian.busybox())
        image.add_program("init", HERE / "disk_init.sh")
        image.add_modules(self.kernel, *MODULES)
        shutil.copyfile(image.path(f"disk-{self.kernel.flavour}"), self.initramfs)

        def add_modules(folder):
            modules = f"lib/modules/{self.kernel.release}"
            shutil.copytree(self.kernel.root / modules, folder / "usr" / modules)
            subprocess.run(["chroot", folder, "depmod", self.kernel.release], check=True)
        make_debian(self.disk, DEBIAN_PACKAGES, add=add_modules)


SEED_RUNNER = ROOT / "packaging/seed-runner"


class SeedRunnerDebian(DebianGuest):
    """A Debian without cloud-init, which packaging/seed-runner makes fit for seeds: its script and its unit, enabled."""

    def copy(self, path):
        super().copy(path)
        units = "/etc/systemd/system"
        link = f"{units}/multi-user.target.wants/godwit-seed.service"
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", path], check=True, text=True, capture_output=True,
            input=f"cd /usr/local/sbin\nwrite {SEED_RUNNER}/godwit-seed godwit-seed\n"  # its names are no paths
                  f"cd {units}\nwrite {SEED_RUNNER}/godwit-seed.service godwit-seed.service\n"
                  f"symlink {link} {units}/godwit-seed.service\n")
        for name, kind in (("/usr/local/sbin/godwit-seed", "regular    Mode:  0755"),
                           (f"{units}/godwit-seed.service", "regular    Mode:  0644"), (link, "symlink")):
            shown = subprocess.run(["debugfs", "-R", f"stat {name}", path], check=True, text=True, capture_output=True).stdout
            assert f"Type: {kind}" in shown, f"{name} is not in it: {shown}{done.stdout}{done.stderr}"  # debugfs exits 0


class CloudDebian:
    """A Debian that boots Debian's kernel from its own /boot, with cloud-init as its package sets it up; /srv has a package
    that is not installed yet, for want of a network in the guest."""
    image = initramfs = None  # no host needs to have them
    packages = f"{DEBIAN_PACKAGES},linux-image-cloud-amd64,initramfs-tools,zstd,cloud-init"
    options = (
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),  # less to carry
        "--customize-hook=mkdir -p \"$1/boot/loader/entries\" && cd \"$1/boot\" && for k in vmlinuz-*; do printf "
        "'title Debian\\nversion %s\\nlinux /boot/%s\\ninitrd /boot/%s\\noptions root=/dev/vda rw console=ttyS0 panic=-1 quiet\\n'"
        " \"${k#*-}\" \"$k\" \"initrd.img-${k#*-}\" >\"loader/entries/${k#*-}.conf\"; done",
        "--customize-hook=cd \"$1/srv\" && apt-get -qq download hello")

    def __init__(self):
        key = hashlib.sha256(f"{self.packages} {self.options} {DEBIAN_SIZE} 1".encode()).hexdigest()[:12]
        self.disk = debian.CACHE / f"debian-cloud-init-{key}.raw"
        if not self.disk.exists():
            for old in debian.CACHE.glob("debian-cloud-init-*.raw"):
                old.unlink(missing_ok=True)
            make_debian(self.disk, self.packages, self.options)

    def copy(self, path):
        subprocess.run(["cp", "--sparse=always", self.disk, path], check=True)


class BusyboxGuest:
    """A busybox with its own init on an ext4 disk; it runs the user-data of a seed, and tells what it was provisioned with."""

    def __init__(self):
        self.kernel = debian.Kernel("cloud-amd64")
        self.image = self.kernel.image
        initramfs = Initramfs()
        initramfs.add_folder("proc", "sys", "dev", "root", "bin")
        initramfs.add_program("bin/busybox", debian.busybox())
        initramfs.add_program("init", HERE / "disk_init.sh")
        initramfs.add_modules(self.kernel, "virtio_pci", "virtio_blk", "virtio_rng", "crc32c_generic", "ext4", "isofs")
        self.initramfs = initramfs.path("small-cloud-amd64")

    def copy(self, path):
        folder = debian.CACHE / f"small.{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for name in ("bin", "dev", "proc", "sys", "run", "tmp", "etc/init.d", "sbin", "root", "usr/local/sbin", "var/lib"):
                (folder / name).mkdir(parents=True)
            shutil.copy(debian.busybox(), folder / "bin/busybox")
            listed = subprocess.run([folder / "bin/busybox", "--list"], capture_output=True, text=True, check=True)
            for name in listed.stdout.split():
                if name != "busybox":
                    (folder / "bin" / name).symlink_to("busybox")
            (folder / "sbin/init").symlink_to("/bin/busybox")
            shutil.copy(SEED_RUNNER / "godwit-seed", folder / "usr/local/sbin/godwit-seed")
            shutil.copy(HERE / "small_init.sh", folder / "etc/init.d/rcS")
            (folder / "etc/inittab").write_text("::sysinit:/etc/init.d/rcS\n::once:/usr/local/sbin/godwit-seed\n"
                                                "::shutdown:/bin/umount -a -r\n")
            with open(path, "wb") as file:
                file.truncate(32 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-d", folder, path], check=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

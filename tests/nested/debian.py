"""Debian's kernels and programs for emulated hosts and guests: downloaded by apt, unpacked into a cache
folder under build/, never installed as this machine's own."""
import os
import pathlib
import re
import shutil
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = pathlib.Path(os.environ.get("GODWIT_NESTED_CACHE", ROOT / "build/nested-cache"))
KEPT_VERSIONS = 2  # of each kernel; older ones are removed


class Unavailable(Exception):
    """What the bed needs cannot be had on this machine: the tests are skipped with these words."""


class Kernel:
    """`flavour` is amd64 (generic) or cloud-amd64."""

    def __init__(self, flavour):
        self.flavour = flavour
        package = _kernel_package(flavour)
        self.root = CACHE / package
        if not (self.root / "complete").exists():
            _download(package, self.root)
        self.release = package.removeprefix("linux-image-")
        self.image = self.root / "boot" / f"vmlinuz-{self.release}"
        folder = self.root / "lib/modules" / self.release
        self._paths = {_name(p): p for p in folder.rglob("*.ko")}
        self._builtin = {_name(pathlib.Path(line)) for line in
                         (folder / "modules.builtin").read_text().splitlines()}

    def modules(self, *names):
        """Files of these modules and of all they need, in the order to insert them. Names that are built
        in give nothing; a name that does not exist in this kernel is an error."""
        order, seen = [], set()

        def visit(name, soft):
            name = name.replace("-", "_")
            if name in seen or name in self._builtin:
                return
            seen.add(name)
            path = self._paths.get(name)
            if path is None:
                if soft:
                    return
                raise Unavailable(f"the kernel {self.release} has no module {name}")
            info = _modinfo(path)
            for line in info.get("softdep", []):
                before = re.search(r"pre:\s*(.*?)(?=post:|$)", line)
                for need in before.group(1).split() if before else []:
                    visit(need, True)
            for line in info.get("depends", []):
                for need in filter(None, line.split(",")):
                    visit(need, False)
            order.append(path)
        for name in names:
            visit(name, False)
        return order


def _name(path):
    return path.name.split(".")[0].replace("-", "_")


def _kernel_package(flavour):
    """The newest package that linux-image-FLAVOUR stands for; without lists, what the cache has."""
    done = subprocess.run(["apt-cache", "depends", f"linux-image-{flavour}"], capture_output=True,
                          text=True, check=False)
    found = re.search(r"Depends: (linux-image-\d\S*)", done.stdout)
    if found:
        return found.group(1)
    cached = sorted(p.name for p in CACHE.glob(f"linux-image-*-{flavour}")
                    if (p / "complete").exists() and (flavour != "amd64" or "cloud" not in p.name))
    if not cached:
        raise Unavailable(f"apt does not know linux-image-{flavour} (apt-get update)")
    return cached[-1]


def _download(package, folder):
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"work-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        done = subprocess.run(["apt-get", "download", "-qq", package], cwd=work, capture_output=True,
                              text=True, check=False)
        files = list(work.glob("*.deb"))
        if not files:
            raise Unavailable(f"apt-get download {package}: {done.stderr.strip()[-300:]}")
        unpacked = work / "root"
        subprocess.run(["dpkg", "-x", files[0], unpacked], check=True)
        (unpacked / "complete").touch()
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    kind = re.sub(r"\d.*\d(?=-)", "*", package)
    older = sorted(CACHE.glob(kind), key=lambda p: p.stat().st_mtime)
    for path in older[:-KEPT_VERSIONS]:
        shutil.rmtree(path, ignore_errors=True)


def _modinfo(path):
    """The key=value strings of a module's .modinfo section."""
    data = path.read_bytes()
    table, = struct.unpack_from("<Q", data, 0x28)
    entry, count, names = struct.unpack_from("<HHH", data, 0x3A)

    def section(index):
        name, _, _, _, offset, size = struct.unpack_from("<IIQQQQ", data, table + index * entry)
        return name, data[offset:offset + size]
    strings = section(names)[1]
    info = {}
    for index in range(count):
        name, body = section(index)
        if strings[name:strings.index(b"\0", name)] != b".modinfo":
            continue
        for pair in body.split(b"\0"):
            key, equals, value = pair.decode(errors="replace").partition("=")
            if equals:
                info.setdefault(key, []).append(value)
    return info


def busybox():
    path = shutil.which("busybox")
    if not path:
        raise Unavailable("no busybox (package busybox-static)")
    if _wants_interpreter(pathlib.Path(path).read_bytes()):
        raise Unavailable("busybox is not static (package busybox-static)")
    return pathlib.Path(path)


def _wants_interpreter(data):
    PT_INTERP = 3
    table, = struct.unpack_from("<Q", data, 0x20)
    entry, count = struct.unpack_from("<HH", data, 0x36)
    return any(struct.unpack_from("<I", data, table + i * entry)[0] == PT_INTERP for i in range(count))

"""A group of its own for what is measured: all contenders share the CPUs by one rule, and before all others.

Without it the kernel's autogroup divides CPUs by session: a VM process leads a session of its own, while two
QEMUs that one script starts share theirs. And whatever else the machine does would count as much as a vCPU."""
import pathlib

SHARES = 262144  # the most that there is; v2 calls it a weight of 10000
# As one task among others. The kernel's own threads are in no group: where they end a guest's writes they must not come
# 256 times after it.
FAIR = 1024  # v2: 100


def _folder(pid, shares):
    """Where a group may be made: the folder of this process in the cpu hierarchy, its file of shares, and what to write there."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            for base in (controllers, "cpu"):
                parent = pathlib.Path("/sys/fs/cgroup") / base / path.lstrip("/")
                if (parent / "cgroup.procs").exists():
                    return parent / f"godwit-bench-{pid}", "cpu.shares", shares
        elif number == "0" and path == "/":
            parent = pathlib.Path("/sys/fs/cgroup")
            control = parent / "cgroup.subtree_control"
            if control.exists() and "cpu" in control.read_text().split():
                return parent / f"godwit-bench-{pid}", "cpu.weight", 10000 if shares == SHARES else 100
    return None, None, None


class CpuGroup:
    """with CpuGroup(os.getpid()) as group: group.made tells whether there is one."""

    def __init__(self, pid, shares=SHARES):
        self.pid, self.shares, self.made = pid, shares, False

    def __enter__(self):
        self.folder, name, value = _folder(self.pid, self.shares)
        if not self.folder:
            return self
        try:
            self.folder.mkdir()
            (self.folder / name).write_text(str(value))
            (self.folder / "cgroup.procs").write_text(str(self.pid))
            self.made = True
        except OSError:  # not root, or no such right here
            self._remove()
        return self

    def __exit__(self, kind, value, trace):
        if self.made:
            self._remove()

    def _remove(self):
        try:
            for pid in (self.folder / "cgroup.procs").read_text().split():
                (self.folder.parent / "cgroup.procs").write_text(pid)
            self.folder.rmdir()
        except OSError:
            pass  # an empty group stays behind

"""What a move travels over: the loopback device, or a cable between two hosts that carries no more than a given rate."""
import dataclasses
import os
import re
import shutil
import subprocess

import bench_machine
import pool as pools

QUEUE_MS = 20  # a packet that would wait longer for its turn is dropped
BURST_LEAST = 256 << 10  # some segments of 64 KiB that the device has not cut up yet


@dataclasses.dataclass(frozen=True)
class Link:
    name: str
    bits_per_s: int = 0  # 0: the loopback device, as fast as it goes

    @property
    def what(self):
        return f"a link of {self.name} (tbf)" if self.bits_per_s else "loopback"

    def need(self):
        if not self.bits_per_s:
            return
        if os.geteuid() != 0:
            raise bench_machine.Lacking(f"a link of {self.name} is made of network namespaces: run as root")
        if not shutil.which("tc"):
            raise bench_machine.Lacking(f"a link of {self.name} needs tc (package iproute2)")

    def pool(self):
        """Two hosts on it. QEMU's ends talk over the loopback device, too, where that is the link: a bridge
        between namespaces would cost ours more."""
        if not self.bits_per_s:
            os.environ.setdefault("GODWIT_LOOPBACK", "1")
            return pools.Pool(hosts=2, log_level="warn")
        os.environ.pop("GODWIT_LOOPBACK", None)
        return ShapedPool(self)

    def hosts(self, pool):
        """The two whose networks QEMU's ends are to live in, or None."""
        return pool.hosts if self.bits_per_s else None

    def qemu_address(self, pool, port):
        return f"{pool.hosts[1].address if self.bits_per_s else '127.0.0.1'}:{port}"


LOOPBACK = Link("loopback")


class ShapedPool(pools.Pool):
    """Both hosts send no faster than the link, so each direction carries its rate."""

    def __init__(self, link):
        self.link = link
        super().__init__(hosts=2, log_level="warn")

    def _make_network(self):
        super()._make_network()
        burst = max(BURST_LEAST, self.link.bits_per_s // 1000)  # 8 ms of it
        for number in range(1, self._count + 1):
            done = subprocess.run(
                ["tc", "-n", f"{self.tag}-node{number}", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate",
                 f"{self.link.bits_per_s}bit", "burst", str(burst), "latency", f"{QUEUE_MS}ms"],
                capture_output=True, text=True, check=False)
            if done.returncode:
                raise bench_machine.Lacking(f"tc cannot hold a link to {self.link.name} here: {done.stderr.strip()}")


def shaped(rate):
    """'1gbit', '500mbit'; None where that is no rate."""
    found = re.fullmatch(r"([1-9]\d{0,3})([mg])bit", rate)
    return Link(rate, int(found[1]) * {"m": 10 ** 6, "g": 10 ** 9}[found[2]]) if found else None

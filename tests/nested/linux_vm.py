"""A Linux guest in the pool: made from a spec, moved, asked on its serial port, judged."""
import json
import select
import subprocess
import time

import bed as beds
import guest_image
from bed import pools
from nested_case import expect, note

MOVE_TRIES = ASK_TRIES = 5
LAST_KEYS = {"stats": "uptime_ms", "verify": "wrong"}
ROLLED_BACK, NOT_CERTAIN = 6, 11  # exit codes of `godwit migrate`; the other: its host does not answer now
CLOCK_JUMP_US = 5_000_000  # a step of the guest's time against ours that no slow machine explains


class Peer:
    """The far end of the guest's connections, in the bed's namespace."""

    def __init__(self, pool, guest_address):
        self.process = subprocess.Popen(
            [*pool.bed.enter(), guest_image.load_program(), "peer", guest_address], text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=beds._die_with_parent)
        expect("ready" in self.process.stdout.readline(), "the peer did not start")

    def ask(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        expect(select.select([self.process.stdout], [], [], 60)[0], f"the peer did not answer '{word}'")
        return {k: int(v) for k, v in (w.split("=") for w in self.process.stdout.readline().split() if "=" in w)}

    def close(self):
        self.process.kill()
        self.process.wait()


def ask_whole(pool, name, line, answer, last_key):
    """A record with all of its keys: of a guest that starves, the console shows a line that is not finished yet."""
    for _ in range(ASK_TRIES):
        record = pool.ask(name, line, answer, timeout="300s")
        if last_key is None or last_key in record:
            return record
    raise pools.PoolError(f"{name} never finished its answer to '{line}': {record['_']}")


class LinuxVm:
    """`disk_mib` and `address` give it a shared disk and a network card; `then` is what init does after its
    devices are up: load, poweroff, reboot. `devices`: rng, balloon."""

    def __init__(self, pool, name, guest, vcpus=1, memory="192MiB", host="node1", disk_mib=0, address=None,
                 hog=10, then="load", devices=()):
        self.pool, self.name, self.vcpus = pool, name, vcpus
        self.disk = self.peer = None
        options = {"hog": hog, "then": then}
        spec = {"version": 1, "name": name, "cpu": {"vcpus": vcpus}, "memory": {"size": memory},
                "kernel": str(guest.image), "initrd": str(guest.initramfs), "host": host,
                **{device: True for device in devices}}
        if disk_mib:
            self.disk = guest_image.make_disk(pool.bed.shared / f"{name}.raw", disk_mib)
            spec["disks"] = [{"name": "data", "store": beds.SHARED, "file": f"{name}.raw", "shared": True}]
        if address:
            options |= {"address": address, "peer": beds.OWN_ADDRESS}
            spec["nics"] = [{"bridge": "br0"}]
            self.peer = Peer(pool, address)
        spec["cmdline"] = guest.cmdline(**options)
        path = pool.dir / f"{name}.yaml"
        path.write_text(json.dumps(spec))  # YAML reads JSON
        self.turns = [0] * vcpus
        self.acked = 0
        self.began = time.monotonic()
        pool.godwit("vm", "create", "-f", path)

    def wait(self, text, seconds=400):
        """The line of the guest's console that has `text`; the console so far when it does not come."""
        def look():
            words = self.pool.godwit("vm", "logs", self.name, check=False).stdout.replace("\r", "")
            return next((line for line in words.splitlines() if text in line), None)
        try:
            return pools.wait_for(f"{self.name} says '{text}'", seconds, look, 0.3)
        except pools.PoolError as error:
            words = self.pool.godwit("vm", "logs", self.name, check=False).stdout
            raise pools.PoolError(f"{error}; its console so far:\n{words[-3000:]}") from error

    def ask(self, word, answer):
        return ask_whole(self.pool, self.name, word, answer, LAST_KEYS.get(word))

    def move(self, to=None):
        """Move to the other host; gives the receipt. A host of the bed that starves (other work on this machine)
        answers so late that a move is rolled back, or that nobody answers for the guest: it goes on where it was, is
        judged, and moves again."""
        here = self.pool.vm(self.name)["host"]
        to = to or next(h.name for h in self.pool.hosts if h.name != here)
        for tries in range(MOVE_TRIES):
            # Hosts that are emulated send a few MiB/s: the goal of hardware would keep a busy guest from moving.
            done = self.pool.godwit("migrate", self.name, "--to", to, "--deadline", "600s", "--max-downtime", "3s",
                                    timeout=700, check=False)
            if done.returncode not in (ROLLED_BACK, NOT_CERTAIN):
                break
            words = [line for line in (done.stdout + done.stderr).splitlines() if "✖" in line or "error:" in line]
            note(f"not moved: {' '.join(words[0].split()) if words else done.stderr.strip()[:200]}")
            expect(self.pool.vm(self.name)["host"] == here, f"{self.name} is not where it was: {done.stdout}")
            self.judge()
        expect(done.returncode not in (ROLLED_BACK, NOT_CERTAIN),
               f"{self.name} did not move in {MOVE_TRIES} tries: {done.stdout}{done.stderr}")
        expect(done.returncode == 0, f"{self.name} does not move: exit {done.returncode}\n{done.stdout}{done.stderr}")
        pools.wait_for(f"{self.name} runs on {to}", 180, lambda: (
            lambda v: v["host"] == to and v["state"] == "running")(self.pool.vm(self.name)))
        job = [j for j in self.pool.ls("job") if j["vm"] == self.name][-1]
        return self.pool.json("job", "show", job["id"])["receipt"]

    def judge(self):
        """Whatever must never be, has not been; whatever must go on, went on since the last judgement."""
        stats = self.ask("stats", "gw stats")
        never = ["hog_bad", "hog_back", "clock_back"]
        if self.disk:
            never.append("disk_error")
        if self.peer:
            never += ["out_bad", "out_broken", "in_bad", "in_broken"]
        wrong = {k: stats[k] for k in never if int(stats[k]) != 0}
        expect(not wrong, f"{self.name}: {wrong} in {stats['_']}")
        expect(int(stats["cpus"]) == self.vcpus, f"{self.name}: {stats['_']}")
        expect(int(stats["clock_shift_us"]) < CLOCK_JUMP_US, f"{self.name}: wall time jumped: {stats['_']}")
        turns = [int(t) for t in stats["turns"].split(",")]
        if not all(now > before for now, before in zip(turns, self.turns)):
            later = [int(t) for t in pools.wait_for(
                "every CPU of the guest to work on", 300, lambda: self._turns_beyond(self.turns))]
            turns = later
        self.turns = turns
        if self.disk:
            pools.wait_for("the guest's disk to take more blocks", 300,
                           lambda: int(self.ask("stats", "gw stats")["acked"]) > self.acked, 0.2)
            self.acked = int(stats["acked"])
        if self.peer:
            self.judge_peer()
        return stats

    def _turns_beyond(self, before):
        turns = [int(t) for t in self.ask("stats", "gw stats")["turns"].split(",")]
        return turns if all(a > b for a, b in zip(turns, before)) else None

    def judge_peer(self):
        seen = self.peer.ask("stats")
        # Not beats_old: the last datagram of one host may come behind the first of the other.
        wrong = {k: seen[k] for k in ("acks_bad", "out_bad", "out_broken", "in_bad", "in_broken") if seen[k] != 0}
        expect(not wrong, f"{self.name}, seen from outside: {wrong} in {seen}")
        expect(seen["shift_us_max"] < CLOCK_JUMP_US, f"{self.name}: its clock jumped ahead: {seen}")
        return seen

    def wait_state(self, state, seconds=300):
        return pools.wait_for(f"{self.name} {state}", seconds, lambda: self.pool.vm(self.name)["state"] == state)

    def power_off_and_check(self):
        """The guest ends itself; then its disk is judged from outside. Gives the words of the checks."""
        self.ask("poweroff", "gw end")
        self.wait_state("stopped")
        words = []
        if self.disk:
            told = self.peer.ask("stats")["acked"] if self.peer else self.acked
            words = guest_image.check_disk(self.disk, told)
        self.remove()
        return words

    def remove(self):
        self.pool.godwit("vm", "rm", self.name, "--stop", "-y", check=False)
        if self.peer:
            self.peer.close()
        if self.disk:
            self.disk.unlink(missing_ok=True)

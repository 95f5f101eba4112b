"""Faults inside of moves: the failpoints of the programs, armed for one move, and what has to be true after
it. See base/failpoint.h for what a failpoint is."""
import os
import select
import subprocess
import time

import pool as pools

# Reached only while a move rolls back: something else has to go wrong first.
AFTER_TROUBLE = {"source.abort", "source.before_aborted", "source.resume", "target.abandoned",
                 "target.before_abandoned"}
TROUBLE = "target.load=error"
# Reached only when lanes were lost in pre-copy.
AFTER_LOSS = {"source.lanes_again", "target.marks"}
LOSS = "source.frame=error"
# Reached only when pages are left behind; the last one when its lanes are lost then, too.
IN_POSTCOPY = {"target.faults_open", "source.missing", "target.give_up", "target.ask", "source.asked", "source.push",
               "target.lay", "target.still_missing", "target.fetched", "source.served"}
AFTER_POSTCOPY_LOSS = {"target.still_missing"}
POSTCOPY_LOSS = "source.push=error"
AT_TARGET = {"vm.create", "vm.move_in", "vm.accept", "vm.load"}
AT_SOURCE = {"vm.move_out", "vm.connect", "vm.save"}
PATIENCE = 4  # seconds before a move that hangs is cancelled, as its operator would


class Point:
    def __init__(self, line):
        self.name, actions, killed = line.split()
        self.actions = actions.split(",")
        self.kill_ends_guest = killed == "ends"

    def ends(self):
        """The ends of a move at whose host it can be reached."""
        if self.name.startswith("source.") or self.name in AT_SOURCE:
            return ["source"]
        if self.name.startswith("target.") or self.name in AT_TARGET:
            return ["target"]
        return ["source", "target"]

    def spares(self, action, end):
        """Has the guest to live on?"""
        if action != "kill":
            return True
        if self.name == "vm.latch_torn":
            return end == "target"
        return not self.kill_ends_guest


def table(pool):
    """What godwit-vm says can go wrong in a move of it; a disk's mirror, a file's pager and an agent's domain are of no
    such move."""
    done = subprocess.run([str(pool.bin / "godwit-vm"), "--list-failpoints"], capture_output=True, text=True,
                          check=True)
    return [Point(line) for line in done.stdout.splitlines() if not line.startswith(("mirror.", "pager.", "domain."))]


class Console:
    """The guest's serial line, held open over moves: a question costs no new command."""

    def __init__(self, pool, vm):
        self.pool, self.vm, self.process, self.rest = pool, vm, None, b""

    def open(self):
        if self.process and self.process.poll() is None:
            return
        self.rest = b""
        self.process = subprocess.Popen(
            self.pool.command("vm", "console", self.vm, "--until", "gw never", "--timeout", "100h"),
            env=self.pool.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.pool.processes.append(self.process)  # ended with the pool, whatever happens

    def close(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
        self.process = None

    def read_line(self, end):
        while b"\n" not in self.rest and time.monotonic() < end:
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                break
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                break
            self.rest += more
        line, found, rest = self.rest.partition(b"\n")
        if not found:
            return None
        self.rest = rest
        return line.decode(errors="replace").strip()

    def ask(self, line, answer, tries=12, seconds=5):
        """A line that is typed while the console changes hosts may be lost: it is typed again."""
        for _ in range(tries):
            self.open()
            try:
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                self.close()
                continue
            end = time.monotonic() + seconds
            while (record := self.read_line(end)) is not None:
                if record.startswith(answer):
                    return dict(w.split("=", 1) for w in record.split() if "=" in w) | {"_": record}
            if self.process.poll() is not None:
                self.close()
        raise pools.PoolError(f"{self.vm} did not answer '{line}' with '{answer}'")

    def verify(self):
        record = self.ask("verify", "gw verify")
        if " ok " not in record["_"] + " ":
            raise pools.PoolError(f"{self.vm}: {record['_']}")
        return record


class Outcome:
    def __init__(self, word, seconds, reached, verdict):
        self.word, self.seconds, self.reached, self.verdict = word, seconds, reached, verdict


def host_named(pool, name):
    return next(h for h in pool.hosts if h.name == name)


def move(pool, vm, source, target, point=None, action=None, end=None, nth=1, console=None):
    """One move, with one fault armed at one end when there is a point. Gives how it ended; raises PoolError
    when the guest is lost, doubled, corrupt, or something stays behind."""
    source_host, target_host = host_named(pool, source), host_named(pool, target)
    armed = source_host if end == "source" else target_host
    if point:
        if point.name in AFTER_TROUBLE:
            target_host.failpoints.write_text(f"{TROUBLE}\n")
        if point.name in AFTER_LOSS:
            source_host.failpoints.write_text(f"{LOSS}\n")
        if point.name in AFTER_POSTCOPY_LOSS:
            source_host.failpoints.write_text(f"{POSTCOPY_LOSS}\n")
        spec = f"{point.name}={action}" + (f"@{nth}" if nth > 1 else "")
        with open(armed.failpoints, "a", encoding="utf-8") as file:
            file.write(spec + "\n")
    started = time.monotonic()
    code = run_move(pool, vm, target, hasty=point is not None, postcopy=bool(point) and point.name in IN_POSTCOPY)
    seconds = time.monotonic() - started
    reached = False
    if point:
        reached = f"hit {point.name} {action}" in armed.failpoints.read_text()
        for host in (source_host, target_host):
            host.failpoints.write_text("")
        settle(pool, vm, restart=reached and not point.spares(action, end))
    words = {0: "moved", 5: "refused", 6: "rolled back"}
    verdict = console.verify() if console else pool.verify(vm)
    return Outcome(words.get(code, f"exit {code}"), seconds, reached, verdict)


def run_move(pool, vm, target, hasty=False, postcopy=False):
    """`hasty`: it may hang, so it gets a deadline, and is cancelled soon. `postcopy`: no pause is as short as its goal."""
    process = pool.start_godwit("migrate", vm, "--to", target, "--progress", "none",
                                *(["--deadline", f"{PATIENCE - 1}s"] if hasty else []),
                                *(["--postcopy", "--max-downtime", "1ms"] if postcopy else []))
    try:
        process.communicate(timeout=PATIENCE if hasty else None)
    except subprocess.TimeoutExpired:
        cancel(pool, vm)
        try:
            process.communicate(timeout=90)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            raise pools.PoolError(f"the move of {vm} to {target} does not end") from error
    return process.returncode


def cancel(pool, vm):
    jobs = [j for j in pool.ls("job") if j["vm"] == vm and j["state"] in ("queued", "running")]
    for job in jobs:
        pool.godwit("job", "cancel", job["id"], check=False)  # refused past the commit point


def settle(pool, vm, restart=False):
    """After a fault: exactly one process, and the guest runs in it."""
    ended = ("crashed", "stopped")
    if restart:
        pools.wait_for(f"{vm} to be told as ended", 60, lambda: pool.vm(vm)["state"] in ended)
        pools.wait_for("its job to end", 60, lambda: not [
            j for j in pool.ls("job") if j["vm"] == vm and j["state"] in ("queued", "running")])
        pools.wait_for("its processes to end", 60, lambda: not vm_pids(pool))
        pool.godwit("vm", "start", vm)
        pools.wait_for(f"{vm} to boot", 60, lambda: pool.ask(vm, "ping", "gw pong"))
    pools.wait_for(f"{vm} to run", 60, lambda: pool.vm(vm)["state"] == "running")
    pools.wait_for("exactly one process", 60, lambda: len(vm_pids(pool)) == 1, 0.1)


def vm_pids(pool):
    return [pid for host in pool.hosts for pid in host.vm_pids()]

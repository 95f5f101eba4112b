"""Who executed a libvirt domain, and when, by the word of its QEMUs themselves: each tells on a monitor of its own, which
libvirt does not use, when its guest runs and when it stands still, with the time of this machine. So it is known whatever
becomes of a libvirtd or an agent, and between any two looks."""
import json
import os
import pathlib
import selectors
import socket
import threading
import time

NAMESPACE = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"


def monitored(xml, name):
    """The definition with that monitor."""
    more = (f"<qemu:commandline><qemu:arg value='-qmp'/>"
            f"<qemu:arg value='unix:/run/libvirt/{name}.qmp,server=on,wait=off'/></qemu:commandline>")
    return xml.replace("<domain ", f"<domain {NAMESPACE} ", 1).replace("</domain>", f"{more}</domain>")


class Life:
    """One QEMU: when its guest ran. `spans` are [begin, end] of time.time(), the last one open while it runs."""

    def __init__(self, host):
        self.host, self.spans, self.ended = host, [], False
        self.status = ""  # "running", "postmigrate", .. as it was last asked for

    @property
    def runs(self):
        return not self.ended and bool(self.spans) and self.spans[-1][1] is None

    def begin(self, when):
        if not self.runs:
            self.spans.append([when, None])

    def end(self, when):
        if self.spans and self.spans[-1][1] is None:
            self.spans[-1][1] = max(when, self.spans[-1][0])


class Witness(threading.Thread):
    """with Witness(pool.hosts, "dom") as witness: ...; witness.doubles() is what must stay empty."""

    def __init__(self, hosts, name):
        super().__init__(daemon=True)
        self.hosts, self.name = hosts, name
        self.over, self.lock = threading.Event(), threading.Lock()
        self.lives, self.known = [], {}
        self.selector = selectors.DefaultSelector()
        self.fault = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        try:
            while not self.over.is_set():
                self.look_for_more()
                for key, _ in self.selector.select(0.005):
                    self.read(key.fileobj, key.data)
        except Exception as error:  # told by doubles(), or a test would pass unseen
            self.fault = error
        finally:
            for key in list(self.selector.get_map().values()):
                key.fileobj.close()

    def look_for_more(self):
        for host in self.hosts:
            folder = f"{host.dir}/libvirt/run"
            path = pathlib.Path(folder) / f"{self.name}.qmp"
            try:
                inode = path.stat().st_ino
            except OSError:
                continue
            if self.known.get(host.name) == inode:
                continue
            line = socket.socket(socket.AF_UNIX)
            fd = os.open(folder, os.O_RDONLY)
            try:
                line.connect(f"/proc/self/fd/{fd}/{self.name}.qmp")  # its whole name is too long for a socket
            except OSError:
                line.close()  # of one that is not there yet, or no longer
                continue
            finally:
                os.close(fd)
            self.known[host.name] = inode
            line.sendall(b'{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n')
            life = Life(host.name)
            life.text = b""
            with self.lock:
                self.lives.append(life)
                self.selector.register(line, selectors.EVENT_READ, life)

    def read(self, line, life):
        try:
            part = line.recv(65536)
        except OSError:
            part = b""
        with self.lock:
            if not part:
                life.end(time.time())
                life.ended = True
                self.selector.unregister(line)
                line.close()
                return
            life.text += part
            *records, life.text = life.text.split(b"\n")
            for record in records:
                if record.strip():
                    self.take(json.loads(record), life)

    @staticmethod
    def take(word, life):
        stamp = word.get("timestamp")
        when = stamp["seconds"] + stamp["microseconds"] / 1e6 if stamp else time.time()
        answer = word.get("return")
        if isinstance(answer, dict) and "status" in answer:
            life.status = answer["status"]
        if word.get("event") == "RESUME" or (isinstance(answer, dict) and answer.get("running")):
            life.begin(when)
        elif word.get("event") in ("STOP", "SHUTDOWN"):
            life.end(when)

    def has_migrated(self, host):
        """Has QEMU of that host sent all of the guest? Asked for now, answered by a later look."""
        with self.lock:
            lines = [key.fileobj for key in self.selector.get_map().values() if key.data.host == host]
            for line in lines:
                try:
                    line.sendall(b'{"execute":"query-status"}\n')
                except OSError:
                    continue
            return any(life.status == "postmigrate" for life in self.lives if life.host == host and not life.ended)

    def running(self):
        """Hosts whose QEMU executes the guest just now."""
        with self.lock:
            return [life.host for life in self.lives if life.runs]

    def count(self):
        """QEMUs that are there, running or not."""
        with self.lock:
            return sum(not life.ended for life in self.lives)

    def doubles(self):
        """Pairs of spans of two QEMUs that overlap: [(host, host, seconds)]."""
        if self.fault:
            raise RuntimeError(f"the witness has seen nothing more: {self.fault}") from self.fault
        now, found = time.time(), []
        with self.lock:
            spans = [(life, begin, end or now) for life in self.lives for begin, end in life.spans]
        for i, (a, a_begin, a_end) in enumerate(spans):
            for b, b_begin, b_end in spans[i + 1:]:
                both = min(a_end, b_end) - max(a_begin, b_begin)
                if a is not b and both > 0:
                    found.append((a.host, b.host, both))
        return found

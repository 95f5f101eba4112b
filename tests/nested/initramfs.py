"""Initramfs images (cpio newc), cached by the hash of what is in them."""
import hashlib
import os
import pathlib

import debian


class Initramfs:
    """Files and links by name, then `path(name)`: an image in the cache that holds exactly these."""

    def __init__(self):
        self._entries = {}

    def add(self, name, content, mode=0o100644):
        if isinstance(content, pathlib.Path):
            content = content.read_bytes()
        parts = name.split("/")
        for i in range(1, len(parts)):
            self._entries.setdefault("/".join(parts[:i]), (b"", 0o40755))
        self._entries[name] = (content, mode)

    def add_program(self, name, content):
        self.add(name, content, 0o100755)

    def add_folder(self, *names):
        for name in names:
            self.add(name, b"", 0o40755)

    def add_link(self, name, target):
        self.add(name, target.encode(), 0o120777)

    def add_modules(self, kernel, *names):
        """The modules, and modules.order with the order to insert them in."""
        paths = kernel.modules(*names)
        for path in paths:
            self.add(f"modules/{path.name}", path)
        self.add("modules/order", "".join(f"{p.name}\n" for p in paths).encode())

    def path(self, name):
        image = self._encode()
        path = debian.CACHE / f"{name}-{hashlib.sha256(image).hexdigest()[:16]}.cpio"
        if not path.exists():
            for old in debian.CACHE.glob(f"{name}-*.cpio"):
                old.unlink(missing_ok=True)
            work = path.with_suffix(f".{os.getpid()}")
            work.write_bytes(image)
            work.rename(path)
        path.touch()
        return path

    def _encode(self):
        out = bytearray()
        for inode, name in enumerate(sorted(self._entries), 1):
            content, mode = self._entries[name]
            _put(out, inode, name, content, mode)
        _put(out, 0, "TRAILER!!!", b"", 0)
        return bytes(out)


def _put(out, inode, name, content, mode):
    raw = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    out += b"070701" + b"".join(b"%08x" % f for f in fields) + raw
    out += b"\0" * (-len(out) % 4)
    out += content
    out += b"\0" * (-len(out) % 4)

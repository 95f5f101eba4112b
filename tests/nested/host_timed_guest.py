"""Run a guest's command inside an emulated host and time its console: host_timed_guest.py SECONDS MARKER COMMAND...
Writes what the console said, then one line `timed ms=N` for the time from the start of the process to the line
that begins with MARKER (absent when it never came), and ends the process."""
import os
import select
import subprocess
import sys
import time


def main():
    seconds, marker, command = float(sys.argv[1]), sys.argv[2].encode(), sys.argv[3:]
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen, found = b"", None
    while found is None and time.monotonic() - started < seconds:
        if not select.select([process.stdout], [], [], 0.5)[0]:
            continue
        got = os.read(process.stdout.fileno(), 65536)
        if not got:
            break
        seen += got
        if any(line.strip().startswith(marker) for line in seen.split(b"\n")[:-1]):  # whole lines
            found = time.monotonic() - started
    if marker == b"END" and process.poll() is not None:
        found = time.monotonic() - started
    process.kill()
    process.wait()
    sys.stdout.write(seen.decode(errors="replace"))
    if found is not None:
        print(f"\ntimed ms={found * 1000:.0f}")


main()

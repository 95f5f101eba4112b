#!/usr/bin/env python3
"""Hold the tree to LAYERS: who includes whom, doors, libraries in their place, banned calls, dead
files, guards. Prints every breach as file:line: what; exits 1 when there is one."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BANNED = {
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "strcpy": "memcpy with a length",
    "strcat": "snprintf", "atoi": "strtoull with checks", "strtok": "strchr", "alloca": "malloc",
    "system": "posix_spawn", "sleep": "a timer or an event", "usleep": "a timer or an event",
    "gets": "fgets",
}
MAIN_ONLY = {"exit", "abort", "_exit"}


def read_layers():
    may, doors, only = {}, {}, []
    for line in (ROOT / "LAYERS").read_text().splitlines():
        line = line.split("#", 1)[0].split()
        if not line:
            continue
        if line[0] == "door":
            doors[line[1]] = [] if line[2:] == ["-"] else line[2:]
        elif line[0] == "only":
            only.append((line[1], line[2:]))
        else:
            may[line[0]] = [] if line[1:] == ["-"] else line[1:]
    return may, doors, only


def room_of(path, rooms):
    """The longest room name that the path lies in, or None (tests, scripts)."""
    text = str(path)
    fits = [r for r in rooms if text.startswith(r + "/")]
    return max(fits, key=len) if fits else None


def strip_comments(text):
    """Blank comments and string literals, keep line numbers."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def main():
    may, doors, only = read_layers()
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.c", "*.h"],
                             cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    breaches = []
    included = set()
    for name in tracked:
        path = pathlib.Path(name)
        if not (ROOT / path).exists():
            continue
        room = room_of(path, may)
        text = (ROOT / path).read_text()
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not found:
                continue
            target = found.group(2)
            if found.group(1) == '"':
                included.add(target)
                other = room_of(target, may)
                if room and other and other != room:
                    if other not in may[room]:
                        breaches.append(f"{name}:{number}: room {room} may not include {other}")
                    elif (doors.get(other, []) != ["*"] and not target.endswith(".pb-c.h")
                          and target[len(other) + 1:] not in doors.get(other, [])):
                        breaches.append(f"{name}:{number}: {target} is not a door of {other}")
                if room and "/" not in target:
                    breaches.append(f"{name}:{number}: include {target} with its room's name")
            if room:
                for header, places in only:
                    if ("<" + target + ">").startswith(header) and not any(
                            name == p or name.startswith(p + "/") for p in places):
                        breaches.append(f"{name}:{number}: <{target}> belongs to {' '.join(places)}")
        if not room:
            continue
        bare = strip_comments(text)
        for number, line in enumerate(bare.splitlines(), 1):
            for call in re.findall(r"(?<![\w.>])([a-z_]+)\s*\(", line):
                if call in BANNED:
                    breaches.append(f"{name}:{number}: {call}() is banned: use {BANNED[call]}")
                if call in MAIN_ONLY and path.name != "main.c":
                    breaches.append(f"{name}:{number}: {call}() only in a main.c")
            if re.search(r"\bmalloc\s*\([^()]*\*[^()]*\)", re.sub(r"sizeof \*", "sizeof ", line)):
                breaches.append(f"{name}:{number}: bare malloc(n * m): use calloc or a checked size")
            if "#ifdef TEST" in line:
                breaches.append(f"{name}:{number}: no test hooks in production code")
        if path.suffix == ".h" and "#ifndef GODWIT_" not in text:
            breaches.append(f"{name}:1: no include guard GODWIT_...")
    for name in tracked:
        path = pathlib.Path(name)
        if path.suffix == ".h" and room_of(path, may) and name not in included:
            breaches.append(f"{name}:1: nobody includes it")
    for breach in sorted(breaches):
        print(breach)
    print(f"check_house: {len(tracked)} files, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

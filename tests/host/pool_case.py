"""Shared by the pool tests: skip where a guest cannot run, find scripts/lib, run cases by name."""
import os
import pathlib
import shutil
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts/lib"))
import pool as pools  # noqa: E402


class LeftOut(Exception):
    """Raised by a case that found no way to try what it is for: told as skipped, never as passed."""


def skip_unless_possible():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: /dev/kvm cannot be opened here")
        sys.exit(77)
    if os.geteuid() == 0 and not shutil.which("ip"):
        print("skipped: no ip command (package iproute2)")
        sys.exit(77)


def run(cases, hosts=2, kind=pools.Pool, **more):
    """Each case gets the same living pool, in order; then nothing may be left behind."""
    skip_unless_possible()
    pools.end_on_signals()
    wanted = sys.argv[1:]
    failed, skipped, ran = [], 0, 0
    pool = kind(hosts=hosts, **more, log_level=os.environ.get("GODWIT_LOG", "info"))
    with pool:
        for case in cases:
            name = case.__name__
            if wanted and not any(w in name for w in wanted):
                continue
            started = time.monotonic()
            ran += 1
            try:
                case(pool)
                print(f"ok      {name} ({time.monotonic() - started:.1f} s)", flush=True)
            except LeftOut as why:
                skipped += 1
                print(f"skipped {name}: {why}", flush=True)
            except Exception as error:  # a case that fails must not hide the next ones
                failed.append(name)
                print(f"FAILED  {name}: {error}", flush=True)
                traceback.print_exc(file=sys.stdout)
                for log in sorted(pool.dir.glob("*.log")):
                    print(f"--- {log.name}")
                    print("".join(log.read_text(errors="replace").splitlines(True)[-40:]))
    if ran == 0:
        failed.append("no_case_has_this_name")
    left = pools.leftovers(pool.tag)
    if left:
        failed.append("nothing_is_left_behind")
        print("FAILED  nothing_is_left_behind:\n  " + "\n  ".join(left))
    passed = max(0, ran - skipped - len(failed))
    print(f"{passed} passed, {skipped} skipped, {len(failed)} failed")
    sys.exit(1 if failed else 0 if passed else 77)


def need_guest(pool, name, *words, **more):
    """The guest of this name, running; made when a case before left none."""
    if any(vm["name"] == name for vm in pool.ls("vm")):
        if pool.vm(name)["state"] == "running":
            return
        pool.godwit("vm", "rm", name, "--stop", "-y", check=False)
    pool.create_guest(name, *words, **more)


def clean_vms(pool):
    for vm in pool.ls("vm"):
        pool.godwit("vm", "rm", vm["name"], "--stop", "-y", check=False)


def expect(condition, words):
    if not condition:
        raise pools.PoolError(words)


def expect_host(pool, name, host, state="running"):
    vm = pools.wait_for(f"{name} {state} on {host}", 15, lambda: (
        lambda v: v if v.get("host") == host and v.get("state") == state else None)(pool.vm(name)))
    return vm

"""Cases over one pool of emulated hosts: skip where a bed cannot be made, run by name, leave nothing behind."""
import os
import subprocess
import sys
import time
import traceback

import bed as beds
import debian
import nested_pool
from bed import pools


def run(cases, hosts=2):
    """Each case gets the same living pool, in order. Words on the command line choose cases by name."""
    reason = beds.missing()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    pools.end_on_signals()
    try:
        pool = nested_pool.NestedPool(hosts=hosts, log_level=os.environ.get("GODWIT_LOG", "info"))
    except debian.Unavailable as why:
        print(f"skipped: {why}")
        sys.exit(77)
    failed, skipped, ran = [], [], 0
    started = time.monotonic()
    with pool:
        pool.seconds_up = time.monotonic() - started
        print(f"{hosts} hosts up in {pool.seconds_up:.0f} s", flush=True)
        for case in cases:
            if sys.argv[1:] and not any(word in case.__name__ for word in sys.argv[1:]):
                continue
            ran += 1
            failed += run_one(case, pool, skipped)
    if ran == 0:
        failed.append("no_case_has_this_name")
    left = beds.leftovers(pool.bed.tag) + pools.leftovers(pool.tag)
    if left:
        failed.append("nothing_is_left_behind")
        print("FAILED  nothing_is_left_behind:\n  " + "\n  ".join(left))
    print(f"{max(0, ran - len(failed) - len(skipped))} passed, {len(skipped)} skipped, {len(failed)} failed "
          f"in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


def run_one(case, pool, skipped):
    """Its name in a list when it failed; one that was skipped adds itself to `skipped`, and is not counted as passed."""
    started = time.monotonic()
    try:
        case(pool)
        print(f"ok      {case.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        return []
    except debian.Unavailable as why:
        print(f"skipped {case.__name__}: {why}", flush=True)
        skipped.append(case.__name__)
        return []
    except (pools.PoolError, subprocess.TimeoutExpired) as error:
        if not starved() or not any(words in str(error) for words in LATE):
            return tell_failed(case, pool, error)
        print(f"skipped {case.__name__}: {error}; this machine is too busy for emulated hosts "
              f"(load {os.getloadavg()[1]:.0f} in 5 minutes)", flush=True)
        skipped.append(case.__name__)
        return []
    except Exception as error:  # a case that fails must not hide the next ones
        return tell_failed(case, pool, error)


LATE = ("waited ", "did not answer in ", "did not come up in ", "timed out after ", "rolled back every time",
        "never finished its answer")


def starved():
    """A bed alone makes a load of 3 or 4. When others make much more, hosts that are emulated stand still for minutes,
    and what comes too late says nothing; what comes wrong does. In the long form nothing is too late."""
    return not os.environ.get("GODWIT_FULL") and os.getloadavg()[1] > 4 * os.cpu_count()


def tell_failed(case, pool, error):
    print(f"FAILED  {case.__name__}: {error}", flush=True)
    traceback.print_exc(file=sys.stdout)
    pool.show_logs()
    return [case.__name__]


def expect(condition, words):
    if not condition:
        raise pools.PoolError(words)


def note(words):
    """A figure for the reader; never decides."""
    print(f"        {words}", flush=True)

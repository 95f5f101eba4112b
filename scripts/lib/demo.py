"""What scripts/demo shows, step by step. See scripts/demo --help."""
import argparse
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pool as pools  # noqa: E402

BOLD, DIM, OFF = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def say(text=""):
    print(text, flush=True)


def show(pool, *words):
    """Run a godwit command as an operator would see it; the terminal is passed through."""
    say(f"{BOLD}$ godwit {' '.join(words)}{OFF}")
    done = subprocess.run(pool.command(*words), env=pool.environment(), stdin=subprocess.DEVNULL)
    say()
    if done.returncode != 0:
        raise pools.PoolError(f"godwit {' '.join(words)} ended with exit code {done.returncode}")


def verdict(pool):
    """The guest checks every page it ever wrote, and its own clocks."""
    started = time.monotonic()
    check = pool.verify("demo-vm")
    stats = pool.ask("demo-vm", "stats", "gw stats")
    say(f"{DIM}the guest says:{OFF} {check['_']}")
    say(f"{DIM}               {OFF} {stats['_']}")
    say(f"{DIM}(asked and answered in {time.monotonic() - started:.1f} s){OFF}\n")
    for clock in ("back_tsc_ns", "back_kvmclock_ns"):
        if int(stats.get(clock, "0")) != 0:
            raise pools.PoolError(f"the guest saw its clock step back: {stats['_']}")


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--rate", type=int, default=50)
    options = parser.parse_args()

    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        say("demo: /dev/kvm cannot be opened here: no guest can run. "
            "Load the kvm module, or join the group that owns it.")
        return 1

    pools.end_on_signals()
    started = time.monotonic()
    pool = pools.Pool(hosts=3)
    try:
        with pool:
            where = "in network namespaces" if pool.namespaces else "on loopback addresses"
            say(f"a pool of three hosts on this machine, {where}: "
                f"{', '.join(f'{h.name} {h.address}' for h in pool.hosts)}\n")
            show(pool, "host", "ls")
            say(f"{DIM}one guest: {options.memory}, 2 vCPUs, 256 MiB random data, "
                f"writing {options.rate} MiB/s at random into 64 MiB{OFF}")
            cmdline = f"vcpus=2 writers=1 rate={options.rate} ws=64 fill=random fillmb=256"
            show(pool, "vm", "create", "demo-vm", "--kernel", str(pool.guest_elf()), "--cmdline", cmdline,
                 "--memory", options.memory, "--vcpus", "2", "--host", "node1")
            pools.wait_for("the guest", 60, lambda: "gw ready" in pool.godwit(
                "vm", "logs", "demo-vm", check=False).stdout)
            show(pool, "migrate", "demo-vm", "--to", "node2")
            verdict(pool)
            show(pool, "migrate", "demo-vm", "--to", "node3")
            verdict(pool)
            show(pool, "vm", "ls")
            show(pool, "job", "ls", "--all")
            show(pool, "vm", "rm", "demo-vm", "--stop", "-y")
    except KeyboardInterrupt as reason:
        say(f"\ninterrupted ({reason}): everything that the demo started has been ended")
        return 130
    except (pools.PoolError, subprocess.SubprocessError) as error:
        say(f"\ndemo failed: {error}")
        return 1
    finally:
        pool.close()
    left = pools.leftovers(pool.tag)
    if left:
        say("left behind:\n  " + "\n  ".join(left))
        return 1
    say(f"the guest moved twice, its memory is whole, nothing is left behind "
        f"({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

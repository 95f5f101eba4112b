#!/usr/bin/env python3
"""A guest that listens on its vsock, in a real pool: what it hears of moves, an upgrade and a rest in a file."""
from pool_case import expect, expect_host, pools, run

SPEC = """version: 1
name: told
cpu: {{vcpus: 1}}
memory: {{size: 128MiB}}
kernel: {kernel}
cmdline: vcpus=1 idle=1 vsock=1010 fill=random fillmb=16
vsock: {{cid: 9, notice_ms: 5s}}
host: node1
"""


def notices(pool):
    """What it heard at the host where it is, in order."""
    lines = pool.godwit("vm", "logs", "told", check=False).stdout.replace("\r", "").splitlines()
    return [line.removeprefix("gw notice ") for line in lines if line.startswith("gw notice ")]


def expect_notice(pool, *words):
    def look():
        return [line for line in notices(pool) if all(w in f"{line} " for w in words)]
    return pools.wait_for(f"a notice with {words}; there are {notices(pool)}", 60, look, 0.2)


def begin(pool):
    spec = pool.dir / "told.yaml"
    spec.write_text(SPEC.format(kernel=pool.guest_elf()))
    pool.godwit("vm", "create", "-f", spec)
    pools.wait_for("told ready", 60, lambda: "gw ready" in pool.godwit("vm", "logs", "told", check=False).stdout)


def a_move_is_told_before_and_after(pool):
    begin(pool)
    pool.godwit("migrate", "told", "--to", "node2")
    expect_host(pool, "told", "node2")
    print(f"        {expect_notice(pool, 'resumed kind=move', 'pause_ms=', 'host=node2 ')[-1]}")
    pool.verify("told")


def an_upgrade_is_told_too(pool):
    pool.godwit("host", "upgrade", "node2")
    print(f"        {expect_notice(pool, 'resumed kind=upgrade', 'pause_ms=', 'host=node2 ')[-1]}")
    pool.verify("told")


def a_rest_in_a_file_is_told_when_it_is_over(pool):
    pool.godwit("vm", "suspend", "told")
    pool.godwit("vm", "resume", "told")
    print(f"        {expect_notice(pool, 'resumed kind=suspend', 'host=')[-1]}")
    pool.verify("told")


def a_move_without_a_notice_is_nothing_special(pool):
    pool.ask("told", "vsock refuse", "gw ok")
    pool.godwit("migrate", "told", "--to", "node1")
    expect_host(pool, "told", "node1")
    pool.verify("told")
    heard = [line for line in notices(pool) if "host=node1" in line]
    expect(not heard, f"it listens no more, and heard {heard}")


run([
    a_move_is_told_before_and_after,
    an_upgrade_is_told_too,
    a_rest_in_a_file_is_told_when_it_is_over,
    a_move_without_a_notice_is_nothing_special,
], hosts=2)

#!/usr/bin/env python3
"""Two real pools that become peers: by a token that serves once and not for ever, known by its fingerprint, kept over
restarts of either coordinator, ended at once by either operator."""
import base64
import ctypes
import ctypes.util
import hashlib
import json
import os
import sys
import time

import pool_case
from pool_case import expect, pools

os.environ["GODWIT_LOOPBACK"] = "1"  # both pools in one network: every host is a loopback address


class Site(pools.Pool):
    """A pool of its own beside others: its hosts have addresses from `first` on."""

    def __init__(self, first=1, name="demo", **more):
        self.first = first
        super().__init__(**more)
        self.pool_name = name

    def make_host(self, name, number):
        return super().make_host(name, number + self.first - 1)


class TwoSites(Site):
    """The first one, and the other as .other."""

    def __init__(self, hosts=1, **more):
        super().__init__(hosts=hosts, name="site-a", **more)
        self.other = Site(hosts=hosts, first=21, name="site-b", **more)

    def __enter__(self):
        super().__enter__()
        try:
            self.other.__enter__()
        except BaseException:
            self.close()
            raise
        return self

    def close(self):
        self.other.close()
        super().close()


def invite(pool, *words):
    return pool.json("pool", "peer", "invite", *words)["token"]


def listed(pool):
    return pool.json("pool", "peer", "ls")


def peers(pool):
    """Without the invitations, which are listed after them."""
    return [p for p in listed(pool) if p["state"] in ("linked", "away")]


def wait_peer(pool, name, state):
    return pools.wait_for(f"{name} to be {state}", 30, lambda: next(
        (p for p in peers(pool) if p["name"] == name and p["state"] == state), None), 0.1)


def refusal(pool, *words):
    done = pool.godwit(*words, "-o", "json", check=False)
    expect(done.returncode != 0, f"{words} was not refused: {done.stdout}")
    return json.loads(done.stderr)


def changed(token, place):
    """The token with another letter at `place` of what it holds, its check sum made good: as a forger would."""
    raw = bytearray(base64.urlsafe_b64decode(token[4:] + "=" * (-len(token[4:]) % 4)))
    body = raw[4:]
    at = body.index(place)
    body[at] = body[at] ^ 1
    xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    xxhash.XXH3_64bits.restype = ctypes.c_uint64
    total = xxhash.XXH3_64bits(bytes(body), len(body)) & 0xFFFFFFFF
    return "gw1." + base64.urlsafe_b64encode(total.to_bytes(4, "little") + bytes(body)).decode().rstrip("=")


def what_is_no_token_for_a_peer_is_refused_in_words(pool):
    for words, code in (("gw1.x", "GW-2301"), ("nonsense", "GW-2301")):
        expect(refusal(pool, "pool", "peer", "add", words)["code"] == code, words)
    token = invite(pool.other)
    expect(refusal(pool, "pool", "peer", "add", token[:-9])["code"] == "GW-2301", "a clipped one")
    hosts = pool.other.json("token", "create")["token"]
    told = refusal(pool, "pool", "peer", "add", hosts)
    expect(told["code"] == "GW-2301" and "invite" in told["hint"], told)
    told = refusal(pool, "pool", "peer", "add", invite(pool))
    expect(told["code"] == "GW-2306" and "itself" in told["message"], told)
    joins = pool.godwit("pool", "join", token, "--dir", pool.dir / "no-host", check=False)
    expect(joins.returncode != 0 and "pool peer add" in joins.stderr, joins.stderr)
    expect(refusal(pool, "pool", "peer", "invite", "--ttl", "25h")["code"] == "GW-2305", "a day and an hour")
    expect(not peers(pool) and not peers(pool.other), "a refusal has made a peer")


def a_token_that_names_another_ca_is_refused_before_its_secret_is_told(pool):
    pin = next(p for p in (pool.other.dir / "node1/coordinator").glob("ca.crt"))
    token = invite(pool.other)
    text = pin.read_text().split("-----")[2]
    digest = hashlib.sha256(base64.b64decode(text)).hexdigest().encode()
    told = refusal(pool, "pool", "peer", "add", changed(token, digest))
    expect(told["code"] == "GW-2308" and "CA" in told["message"], told)
    expect(not peers(pool) and not peers(pool.other), "a wrong fingerprint has made a peer")


def an_expired_token_is_told_as_such(pool):
    made = pool.other.json("pool", "peer", "invite", "--ttl", "1s")
    pools.wait_for("the token to be over", 30, lambda: time.time() * 1000 > made["expires_unix_ms"] + 10, 0.1)
    told = refusal(pool, "pool", "peer", "add", made["token"])
    expect("GW-2303" in told["message"] and "expired" in told["message"], told)


def an_invitation_is_listed_and_can_be_taken_back(pool):
    before = {p["name"] for p in listed(pool.other)}
    token = invite(pool.other)
    mine = next(p for p in listed(pool.other) if p["name"] not in before)
    expect(mine["state"] == "invited" and mine["invited"], mine)
    expect(any(p["state"] == "expired" for p in listed(pool.other)), "the one of a second")
    pool.other.godwit("pool", "peer", "rm", "-y", mine["name"])
    expect(mine["name"] not in {p["name"] for p in listed(pool.other)}, "it is still listed")
    told = refusal(pool, "pool", "peer", "add", token)
    expect("GW-2301" in told["message"], told)
    expect(refusal(pool.other, "pool", "peer", "rm", "-y", mine["name"])["code"] == "GW-2307", "it was there")


def two_pools_become_peers_by_a_token_that_serves_once(pool):
    token = invite(pool.other)
    done = pool.godwit("pool", "peer", "add", token)
    expect("site-b" in done.stdout, done.stdout)
    here, there = wait_peer(pool, "site-b", "linked"), wait_peer(pool.other, "site-a", "linked")
    expect(here["pool_id"] == pool.other.json("pool", "status")["pool_id"], here)
    expect(there["pool_id"] == pool.json("pool", "status")["pool_id"], there)
    expect(len(here["pin"]) == 64 and len(there["pin"]) == 64 and here["pin"] != there["pin"], (here, there))
    told = refusal(pool, "pool", "peer", "add", token)
    expect(told["code"] == "GW-2306", told)  # known here before anybody is asked
    told = refusal(pool, "pool", "peer", "add", invite(pool.other))
    expect(told["code"] == "GW-2306" and "peer rm" in told["hint"], told)
    told = refusal(pool.other, "pool", "peer", "add", invite(pool))
    expect(told["code"] == "GW-2306", told)
    audit = pool.godwit("audit", "ls", "-o", "json").stdout
    expect("pool-peer-add" in audit and token[4:40] not in audit, "the audit tells the token, or nothing")


def the_line_comes_back_after_either_coordinator_was_killed(pool):
    for site, name, far in ((pool, "site-a", pool.other), (pool.other, "site-b", pool)):
        site.kill_coordinator()
        wait_peer(far, name, "away")
        site.start_coordinator()
        wait_peer(far, name, "linked")
        pools.wait_for("it here too", 30, lambda: [p["state"] for p in peers(site)] == ["linked"], 0.1)


def a_backup_holds_no_key_of_the_line(pool):
    path = pool.dir / "state.gwb"
    pool.godwit("pool", "backup", path)
    bytes_of = path.read_bytes()
    expect(b"BEGIN ENCRYPTED PRIVATE KEY" in bytes_of and b"BEGIN PRIVATE KEY" not in bytes_of, "a plain key")
    path.unlink()


def ended_by_the_inviting_pool_it_is_over_at_once(pool):
    expect(pool.other.godwit("pool", "peer", "rm", "site-a", check=False).returncode != 0, "nobody said yes")
    pool.other.godwit("pool", "peer", "rm", "-y", "site-a")
    expect(not peers(pool.other), "it is still told")
    told = pools.wait_for("it to be told there", 30, lambda: next(
        (p for p in peers(pool) if "no peer" in p.get("reason", "")), None), 0.1)
    expect(told["state"] == "away", told)
    pool.other.kill_coordinator()
    pool.other.start_coordinator()
    expect(not peers(pool.other), "it came back")
    expect(refusal(pool.other, "pool", "peer", "rm", "-y", "site-a")["code"] == "GW-2307", "it was there")
    pool.godwit("pool", "peer", "rm", "-y", "site-b")
    expect(not peers(pool), "it is still told")


def it_may_become_one_again_the_other_way_round(pool):
    token = invite(pool)
    pool.other.godwit("pool", "peer", "add", token)
    wait_peer(pool, "site-b", "linked")
    wait_peer(pool.other, "site-a", "linked")
    pool.other.godwit("pool", "peer", "rm", "-y", pool.json("pool", "status")["pool_id"][:8])
    wait_peer(pool, "site-b", "away")
    told = refusal(pool.other, "pool", "peer", "add", token)
    expect("GW-2302" in told["message"] and "site-b" in told["message"], told)
    pool.godwit("pool", "peer", "rm", "-y", "site-b")


CASES = [
    what_is_no_token_for_a_peer_is_refused_in_words,
    a_token_that_names_another_ca_is_refused_before_its_secret_is_told,
    an_expired_token_is_told_as_such,
    an_invitation_is_listed_and_can_be_taken_back,
    two_pools_become_peers_by_a_token_that_serves_once,
    the_line_comes_back_after_either_coordinator_was_killed,
    a_backup_holds_no_key_of_the_line,
    ended_by_the_inviting_pool_it_is_over_at_once,
    it_may_become_one_again_the_other_way_round,
]

if __name__ == "__main__":
    sys.exit(pool_case.run(CASES, hosts=1, kind=TwoSites))

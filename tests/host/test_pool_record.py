#!/usr/bin/env python3
"""What a pool tells of itself: events, the audit log and its chain, metrics."""
import json
import signal
import sqlite3
import subprocess

import pool_case
from pool_case import expect, pools


class RecordPool(pools.Pool):
    def start_coordinator(self):
        self.coordinator_words = ["--metrics", "127.0.0.1:9411"]
        super().start_coordinator()


def events_tell_what_happened(pool):
    pool_case.need_guest(pool, "alpha", "", memory="128MiB", host="node1")
    pool.godwit("migrate", "alpha", "--to", "node2")
    text = pool.godwit("events", "--vm", "alpha", "--since", "1h").stdout
    for words in ("VM alpha created", "runs on node1", "move of alpha from node1 to node2"):
        expect(words in text, f"'{words}' is not in:\n{text}")
    expect("host node2 joined" not in text, "an event of another noun")
    expect("host node2 joined" in pool.godwit("events").stdout, "events of hosts are missing")
    line = json.loads(pool.godwit("events", "-o", "ndjson").stdout.splitlines()[-1])
    expect(line["number"] > 0 and line["text"], str(line))


def the_audit_log_has_what_was_asked_and_what_became_of_it(pool):
    pool.godwit("vm", "stop", "nobody", check=False)
    entries = [json.loads(l) for l in pool.godwit("audit", "ls", "-o", "ndjson").stdout.splitlines()]
    asked = [e for e in entries if e["what"] == "vm-action" and "nobody" in e.get("subject", "")]
    expect(len(asked) == 1 and asked[0]["outcome"] == "begins", str(asked))
    ended = [e for e in entries if e.get("begins") == asked[0]["number"]]
    expect(len(ended) == 1 and "vm-unknown" in ended[0]["outcome"], str(ended))
    done = [e for e in entries if e["what"] == "migrate" and e["outcome"] == "done"]
    expect(done, str(entries))
    expect(not any(e["what"] == "pool-status" for e in entries), "looking was noted")
    expect("the chain is whole" in pool.godwit("audit", "verify").stdout, "it is not")


def an_audit_entry_that_was_changed_is_found(pool):
    pool.kill_coordinator(signal.SIGTERM)
    with sqlite3.connect(pool.state / "coordinator" / "pool.db") as db:
        key, subject = db.execute("SELECT key, subject FROM audit WHERE what = 'migrate' LIMIT 1").fetchone()
        db.execute("UPDATE audit SET subject = ? WHERE key = ?", (subject.replace("node2", "node1"), key))
    db.close()
    pool.start_coordinator()
    found = pool.godwit("audit", "verify", check=False)
    expect(found.returncode != 0 and f"entry {int(key)}" in found.stderr, found.stderr)


def metrics_are_given_to_loopback(pool):
    pool.wait_hosts_up()
    text = subprocess.run([*pool.hosts[0].enter(), "curl", "-s", "-m", "5", "http://127.0.0.1:9411/metrics"],
                          capture_output=True, text=True, check=True).stdout
    for line in ('godwit_coordinator_leads 1', 'godwit_hosts{state="up"} 2', 'godwit_agents_connected 2',
                 'godwit_vms{state="running"} 1', 'godwit_ha_armed 1'):
        expect(line in text.splitlines(), f"'{line}' is not in:\n{text}")


def a_restored_pool_is_read_only_until_all_hosts_are_seen_and_finds_what_runs(pool):
    """Taken before two moves and a stop: all of that is unknown to the backup."""
    pool_case.need_guest(pool, "alpha", "", memory="128MiB", host="node1")
    pool_case.need_guest(pool, "beta", "", memory="128MiB", host="node1")
    backup = pool.dir / "pool.gwb"
    pool.godwit("pool", "backup", backup)
    target = "node2" if pool.vm("alpha")["host"] == "node1" else "node1"
    pool.godwit("migrate", "alpha", "--to", target)
    generation, pid = pool.vm("alpha")["generation"], pool.vm("alpha")["pid"]
    pool.godwit("vm", "stop", "beta")
    second = pool.hosts[1]
    second.kill_agent(signal.SIGTERM)  # it will be missing at first
    pool.kill_coordinator(signal.SIGTERM)
    for old in (pool.state / "coordinator").glob("pool.db*"):
        old.unlink()
    restore = [*pool.hosts[0].enter(), pool.bin / "godwit-coordinator", "--dir", pool.state / "coordinator",
               "--restore", backup]
    damaged = pool.dir / "damaged.gwb"
    damaged.write_bytes(backup.read_bytes()[:-3] + b"xyz")
    expect(subprocess.run([*restore[:-1], damaged], check=False, capture_output=True).returncode != 0,
           "a damaged backup was taken")
    subprocess.run(restore, check=True, capture_output=True)
    expect(subprocess.run(restore, check=False, capture_output=True).returncode != 0, "it was taken twice")
    pool.start_coordinator()
    refused = pool.godwit("vm", "start", "beta", check=False)
    expect(refused.returncode != 0 and "node2" in refused.stderr, refused.stderr)
    second.start_agent()
    pool.wait_hosts_up()
    pools.wait_for("alpha to be found", 20, lambda: pool.vm("alpha").get("pid") == pid)
    vm = pool.vm("alpha")
    expect(vm["host"] == target and vm["generation"] == generation and vm["state"] == "running", str(vm))
    pools.wait_for("the pool to be itself again", 20,
                   lambda: pool.godwit("vm", "start", "beta", check=False).returncode == 0)
    expect(pool.vm("beta")["generation"] > 1 << 20, "a generation could be used twice")
    pool.godwit("migrate", "alpha", "--to", "node1" if target == "node2" else "node2")
    pool.verify("alpha")


pool_case.run([
    events_tell_what_happened,
    the_audit_log_has_what_was_asked_and_what_became_of_it,
    an_audit_entry_that_was_changed_is_found,
    metrics_are_given_to_loopback,
    a_restored_pool_is_read_only_until_all_hosts_are_seen_and_finds_what_runs,
], hosts=2, kind=RecordPool)

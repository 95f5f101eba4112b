#!/usr/bin/env python3
"""Named stores in a real pool: added only where every host has them, shared ones proven by what another host writes,
space and reservations told, disks described by a store's name, none forgotten while a disk lies in it."""
import os
import pathlib
import shutil
import subprocess
import tempfile

from pool_case import expect, expect_host, pools, run

# The pool's own folder may be a tmpfs, which knows no O_DIRECT.
DISKS = tempfile.TemporaryDirectory(prefix="godwit-stores-", dir="/var/tmp")
MIB = 1 << 20


def folder(pool, name, local=False):
    """Where hosts see a store; a local one is another folder on each of them."""
    path = pathlib.Path(DISKS.name) / name
    if path.exists():
        return path
    path.mkdir()
    for host in pool.hosts if local else []:
        own = pathlib.Path(DISKS.name) / f"{name}-of-{host.name}"
        own.mkdir()
        subprocess.run([*host.enter_mounts(), "mount", "--bind", own, path], check=True)
    return path


def store(pool, name):
    return next((s for s in pool.ls("store") if s["name"] == name), None)


def need(pool, name, local):
    if not store(pool, name):
        pool.godwit("store", "add", name, folder(pool, name, local), "--hosts", "node1,node2",
                    *([] if local else ["--shared"]))


def create(pool, name, disk, *words, check=True, host="node1"):
    path = pool.dir / f"{name}.yaml"
    path.write_text("\n".join([
        f"name: {name}", f"kernel: {pool.guest_elf()}", "cmdline: vcpus=1 disk=16 diskrate=200",
        "cpu: {vcpus: 1}", "memory: {size: 64MiB}", f"host: {host}", "disks:", f"  - {disk}"]) + "\n")
    return pool.godwit("vm", "create", "-f", path, *words, check=check)


def left_in(path):
    return [str(p) for p in path.rglob("*")]


def refuses_what_a_host_does_not_have(pool):
    refused = pool.godwit("store", "add", "none", DISKS.name + "/none", "--hosts", "node1", check=False)
    expect(refused.returncode == 5 and "GW-2703" in refused.stderr and "node1" in refused.stderr, refused.stderr)
    refused = pool.godwit("store", "add", "none", "srv", "--hosts", "node1", check=False)
    expect(refused.returncode == 2 and "GW-2702" in refused.stderr, refused.stderr)
    refused = pool.godwit("store", "add", "none", DISKS.name, "--hosts", "node9", check=False)
    expect(refused.returncode == 3, refused.stderr)
    expect(pool.ls("store") == [], "something was stored")


def a_folder_that_only_has_the_same_name_is_not_shared(pool):
    path = folder(pool, "fast", local=True)
    refused = pool.godwit("store", "add", "fast", path, "--hosts", "node1,node2", "--shared", check=False)
    expect(refused.returncode == 5 and "not the one that node1 writes to" in refused.stderr, refused.stderr)
    expect(pool.ls("store") == [], "it was stored")
    pool.godwit("store", "add", "fast", path, "--hosts", "node1,node2")
    for host in pool.hosts:
        own = pathlib.Path(DISKS.name) / f"fast-of-{host.name}"
        expect(not left_in(own), f"the proof left {left_in(own)}")


def tells_the_space_of_each_host(pool):
    need(pool, "fast", local=True)
    need(pool, "nfs", local=False)
    fast, nfs = store(pool, "fast"), store(pool, "nfs")
    expect(nfs["shared"] and not fast["shared"], f"{fast} {nfs}")
    for place in fast["places"] + nfs["places"]:
        expect(place["state"] == "ok" and 0 < place["free_bytes"] <= place["total_bytes"], f"{place}")
    table = pool.godwit("store", "ls").stdout
    expect("fast" in table and "local" in table and "shared" in table and "node1,node2" in table, table)
    page = pool.godwit("store", "show", "nfs").stdout
    expect(str(folder(pool, "nfs")) in page and "FILE SYSTEM" in page, page)


def a_disk_by_a_stores_name_is_reserved_and_its_vm_moves(pool):
    need(pool, "nfs", local=False)
    unknown = create(pool, "web", "{name: root, store: nsf, file: web.raw, size: 16MiB}", check=False)
    expect(unknown.returncode == 3 and "GW-2701" in unknown.stderr and "nfs" in unknown.stderr, unknown.stderr)
    create(pool, "web", "{name: root, store: nfs, file: web.raw, size: 16MiB}")
    expect_host(pool, "web", "node1")
    seen = store(pool, "nfs")
    expect(seen["reserved_bytes"] == 16 * MIB and seen["vms"] == ["web"], f"{seen}")
    expect(seen["room_bytes"] <= seen["free_bytes"], f"{seen}")
    expect("web.raw in nfs, shared" in pool.godwit("vm", "show", "web").stdout, "the store's name is not told")
    pool.godwit("migrate", "web", "--to", "node2")
    expect_host(pool, "web", "node2")


def what_would_not_fit_is_refused(pool):
    need(pool, "nfs", local=False)
    room = store(pool, "nfs")["room_bytes"]
    size = (room // MIB + 64 * 1024) * MIB
    refused = create(pool, "huge", f"{{name: root, store: nfs, file: huge.raw, size: {size}}}", check=False)
    expect(refused.returncode == 5 and "GW-2704" in refused.stderr and "MiB" in refused.stderr, refused.stderr)
    expect(all(vm["name"] != "huge" for vm in pool.ls("vm")), "the VM was made all the same")


def is_not_forgotten_while_a_disk_lies_in_it(pool):
    refused = pool.godwit("store", "rm", "nfs", check=False)
    expect(refused.returncode == 5 and "GW-2705" in refused.stderr and "web" in refused.stderr, refused.stderr)


def outlives_its_coordinator(pool):
    before = [s["name"] for s in pool.ls("store")]
    pool.kill_coordinator()
    pool.start_coordinator()
    pools.wait_for("the pool to answer", 60, lambda: pool.godwit("store", "ls", check=False).returncode == 0)
    pools.wait_for("both hosts to be seen again", 60,
                   lambda: all(p["state"] == "ok" for s in pool.ls("store") for p in s["places"]))
    expect([s["name"] for s in pool.ls("store")] == before, "a store is gone")


def a_check_names_each_host_that_does_not_see_it(pool):
    need(pool, "nfs", local=False)
    path = folder(pool, "nfs")
    expect("ok" in pool.godwit("store", "check", "nfs").stdout, "a good store is not told so")
    inside = pool.hosts[1].enter_mounts()
    other = pathlib.Path(DISKS.name) / "other"
    other.mkdir()
    subprocess.run([*inside, "mount", "--bind", other, path], check=True)
    try:
        told = pool.godwit("store", "check", "nfs", check=False)
        expect(told.returncode == 1 and "not the one that node1 writes to" in told.stdout, told.stdout + told.stderr)
        places = {p["host"]: p for p in pool.json("store", "check", "nfs", check=False)["places"]}
        expect(places["node1"]["state"] == "ok" and places["node2"]["state"] == "other", f"{places}")
        subprocess.run([*inside, "mount", "-o", "remount,bind,ro", path], check=True)
        places = {p["host"]: p for p in pool.json("store", "check", "nfs", check=False)["places"]}
        expect(places["node2"]["state"] == "failed" and "read-only" in places["node2"]["reason"].lower(), f"{places}")
    finally:
        subprocess.run([*inside, "umount", path], check=True)
    expect(not left_in(other), f"left: {left_in(other)}")
    pool.godwit("store", "check", "nfs")


def a_host_that_is_away_is_told_and_the_rest_answers(pool):
    need(pool, "nfs", local=False)
    pool.hosts[1].kill_agent()
    places = {p["host"]: p for p in store(pool, "nfs")["places"]}
    expect(places["node1"]["state"] == "ok" and places["node2"]["state"] == "unknown", f"{places}")
    pool.hosts[1].start_agent()
    pools.wait_for("node2 to answer", 60, lambda: next(
        p for p in store(pool, "nfs")["places"] if p["host"] == "node2")["state"] == "ok")


def a_host_that_lost_its_store_is_named_and_not_chosen(pool):
    need(pool, "nfs", local=False)
    here = pool.vm("web")["host"]
    away = "node1" if here == "node2" else "node2"
    inside = next(h for h in pool.hosts if h.name == away).enter_mounts()
    empty = pathlib.Path(DISKS.name) / "empty"
    empty.mkdir()
    subprocess.run([*inside, "mount", "--bind", empty, DISKS.name], check=True)
    try:
        whynot = pool.json("why-not", "web", away)
        expect(f"store nfs on {away} was last seen missing" in whynot["verdict"], f"{whynot}")
        expect(whynot["hosts"][0]["code"] == "GW-2703", f"{whynot}")
        refused = pool.godwit("migrate", "web", "--to", away, check=False)
        expect(refused.returncode == 5 and "GW-2703" in refused.stderr, f"{refused.returncode}: {refused.stderr}")
        plan = pool.godwit("host", "evacuate", here, "--dry-run", check=False)
        expect("store nfs" in plan.stdout + plan.stderr, f"{plan.stdout}{plan.stderr}")
        pool.godwit("vm", "stop", "web", "--force")
        refused = create(pool, "web-2", "{name: root, store: nfs, file: web-2.raw, size: 16MiB}", host=away, check=False)
        expect(refused.returncode == 5 and "was last seen missing" in refused.stderr, refused.stderr)
    finally:
        subprocess.run([*inside, "umount", DISKS.name], check=True)
    pool.godwit("vm", "start", "web")
    pool.godwit("migrate", "web", "--to", away)
    expect_host(pool, "web", away)


def goes_when_its_last_disk_has_gone(pool):
    pool.godwit("vm", "rm", "web", "--stop", "-y")
    pool.godwit("store", "rm", "nfs", "fast")
    expect(pool.ls("store") == [], "it is still there")
    expect(not left_in(pathlib.Path(DISKS.name) / "nfs"), f"left: {left_in(pathlib.Path(DISKS.name) / 'nfs')}")


if os.geteuid() != 0 or not shutil.which("nsenter"):
    print("skipped: hosts with folders of their own need root and nsenter (package util-linux)")
    raise SystemExit(77)
run([
    refuses_what_a_host_does_not_have,
    a_folder_that_only_has_the_same_name_is_not_shared,
    tells_the_space_of_each_host,
    a_disk_by_a_stores_name_is_reserved_and_its_vm_moves,
    what_would_not_fit_is_refused,
    is_not_forgotten_while_a_disk_lies_in_it,
    outlives_its_coordinator,
    a_check_names_each_host_that_does_not_see_it,
    a_host_that_is_away_is_told_and_the_rest_answers,
    a_host_that_lost_its_store_is_named_and_not_chosen,
    goes_when_its_last_disk_has_gone,
])

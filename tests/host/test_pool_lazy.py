#!/usr/bin/env python3
"""Guests that run at once while their memory still comes out of its file: whole in the end, never with a wrong byte, and
nothing goes on from that file twice. GODWIT_LAZY_MIB: the size of the guest whose times are printed."""
import os
import pathlib
import signal
import time

from pool_case import clean_vms, expect, expect_host, need_guest, pools, run

FILL_MIB = 96
MEASURED_MIB = int(os.environ.get("GODWIT_LAZY_MIB", "512"))
HOLD = "pager.read=delay:9000@20\n"  # the reader stands at its 20th frame while the guest runs
UNHEARD = "vm.event=delay:9000@2\n"  # it stands where it would tell that it runs, before it answers its start
BOOT_UNHEARD = "vm.event=delay:9000\n"  # the same of one that boots, which tells nothing before


def need_sleeper(pool):
    need_guest(pool, "sleeper", f"writers=1 rate=20 ws=32 fill=random fillmb={FILL_MIB}", vcpus=2)


def file_of(pool, name="sleeper"):
    return pathlib.Path(pool.hosts[0].dir, "agent", "vms", pool.vm(name)["id"], "suspended")


def log_of(pool, name="sleeper"):
    return pathlib.Path(pool.hosts[0].dir, "agent", "vms", pool.vm(name)["id"], "vm.log").read_text(errors="replace")


def suspend(pool, name="sleeper"):
    pool.godwit("vm", "suspend", name)
    expect_host(pool, name, "node1", "suspended")
    pools.wait_for("its process to end", 60, lambda: not pool.hosts[0].vm_pids())


def wait_whole(pool, name="sleeper", count=1):
    pools.wait_for("all of its memory to be there", 60,
                   lambda: log_of(pool, name).count("has all of its memory") >= count)


def arm(pool, spec):
    pool.hosts[0].failpoints.write_text(spec)


def refused(pool, *words):
    done = pool.godwit(*words, check=False)
    expect(done.returncode != 0, f"{words} was done: {done.stdout}")
    return done.stderr + done.stdout


def goes_on_at_once_and_has_all_in_the_end(pool):
    need_sleeper(pool)
    before = pool.vm("sleeper")
    suspend(pool)
    path = file_of(pool)
    wholes = log_of(pool).count("has all of its memory")
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    vm = expect_host(pool, "sleeper", "node1")
    expect(vm["generation"] > before["generation"], str(vm))
    pool.verify("sleeper")
    wait_whole(pool, count=wholes + 1)
    pools.wait_for("the file to go", 15, lambda: not path.exists())
    stats = pool.ask("sleeper", "stats", "gw stats")
    expect(int(stats["back_tsc_ns"]) == 0 and int(stats["back_kvmclock_ns"]) == 0, f"a clock stepped back: {stats['_']}")
    for eager in ((), ("--eager",)):  # and again, from a file that a lazily resumed one wrote
        suspend(pool)
        pool.godwit("vm", "resume", *eager, "sleeper")
        expect_host(pool, "sleeper", "node1")
        pool.verify("sleeper")
    said = refused(pool, "vm", "resume", "--lazy", "--eager", "sleeper")
    expect("exclude each other" in said, said)


def nothing_else_is_done_to_it_until_all_is_there(pool):
    need_sleeper(pool)
    suspend(pool)
    wholes = log_of(pool).count("has all of its memory")
    arm(pool, HOLD)
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    path = file_of(pool)
    for words in (["vm", "pause", "sleeper"], ["vm", "suspend", "sleeper"], ["migrate", "sleeper", "--to", "node2"],
                  ["vm", "upgrade", "sleeper"], ["vm", "snapshot", "create", "sleeper", "early"]):
        said = refused(pool, *words)
        expect("are to come" in said, f"{words}: {said}")
    expect(path.exists(), "its file went while it is still read")
    expect(log_of(pool).count("has all of its memory") == wholes, "the reader did not stand")
    pool.hosts[0].kill_agent()  # the next one knows of it, too
    pool.hosts[0].start_agent()
    pool.wait_hosts_up()
    wait_whole(pool, count=wholes + 1)
    arm(pool, "")
    pools.wait_for("the file to go", 15, lambda: not path.exists())
    pool.verify("sleeper")
    pool.godwit("migrate", "sleeper", "--to", "node2")
    expect_host(pool, "sleeper", "node2")
    pool.verify("sleeper")
    pool.godwit("migrate", "sleeper", "--to", "node1")
    expect_host(pool, "sleeper", "node1")


def where_nobody_can_wait_for_pages_all_is_read_first_and_told(pool):
    need_sleeper(pool)
    suspend(pool)
    path = file_of(pool)
    arm(pool, "target.faults_open=error\n")
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    arm(pool, "")
    expect_host(pool, "sleeper", "node1")
    expect(not path.exists(), "its file is still there")
    log = log_of(pool)
    expect("all of its memory is read before it runs" in log and "nobody can wait for single pages" in log, log[-2000:])
    events = pool.godwit("events", check=False).stdout
    expect("was read on node1 before it ran" in events, events)
    pool.verify("sleeper")


def a_process_killed_on_the_way_has_crashed_and_its_file_is_stale(pool):
    need_sleeper(pool)
    suspend(pool)
    arm(pool, HOLD)
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    os.kill(pool.vm("sleeper")["pid"], signal.SIGKILL)
    expect_host(pool, "sleeper", "node1", "crashed")
    arm(pool, "")
    refused(pool, "vm", "resume", "--lazy", "sleeper")
    pool.godwit("vm", "start", "sleeper")
    expect_host(pool, "sleeper", "node1")
    pool.verify("sleeper")
    expect(not file_of(pool).exists(), "the stale file is still there")


def lose_unheard(pool, *words, at=UNHEARD):
    """Its guest runs, and its process ends before anybody was told."""
    before = set(pool.hosts[0].vm_pids())
    arm(pool, at)
    asked = pool.start_godwit(*words)
    pools.wait_for("it to run unheard", 60, lambda: "hit vm.event" in pool.hosts[0].failpoints.read_text())
    pids = set(pool.hosts[0].vm_pids()) - before
    expect(len(pids) == 1, f"its process is one of {pids}")
    os.kill(pids.pop(), signal.SIGKILL)
    out, err = asked.communicate(timeout=60)
    arm(pool, "")
    expect(asked.returncode != 0 and "has crashed" in out + err, f"{words}: {asked.returncode} {out} {err}")


def one_lost_before_its_start_was_answered_has_crashed(pool):
    need_sleeper(pool)
    for how in ("--lazy", "--eager"):
        suspend(pool)
        lose_unheard(pool, "vm", "resume", how, "sleeper")
        expect_host(pool, "sleeper", "node1", "crashed")
        refused(pool, "vm", "resume", "sleeper")
        pool.godwit("vm", "start", "sleeper")
        expect_host(pool, "sleeper", "node1")
    pool.godwit("vm", "snapshot", "create", "sleeper", "before", "--ram")
    lose_unheard(pool, "vm", "snapshot", "clone", "sleeper", "before", "twin", "--lazy")
    expect_host(pool, "twin", "node1", "crashed")  # it ran: what it wrote is not taken away
    pool.godwit("vm", "rm", "twin", "-y")
    pool.godwit("vm", "stop", "--force", "sleeper")
    lose_unheard(pool, "vm", "start", "sleeper", at=BOOT_UNHEARD)  # one that boots writes to its disks as well
    expect_host(pool, "sleeper", "node1", "crashed")
    lose_unheard(pool, "vm", "snapshot", "restore", "-y", "--lazy", "sleeper", "before")
    expect_host(pool, "sleeper", "node1", "crashed")
    pool.godwit("vm", "start", "sleeper")
    pool.godwit("vm", "snapshot", "rm", "-y", "sleeper", "before")
    pool.verify("sleeper")


def hang(pool, *words):
    """Its process stands still before it has read anything, for good."""
    before = set(pool.hosts[0].vm_pids())
    arm(pool, "vm.create=delay:9000\n")
    asked = pool.start_godwit(*words)
    pools.wait_for("its process to be there", 60, lambda: "hit vm.create" in pool.hosts[0].failpoints.read_text())
    pids = set(pool.hosts[0].vm_pids()) - before
    expect(len(pids) == 1, f"its process is one of {pids}")
    os.kill(pids.pop(), signal.SIGSTOP)
    arm(pool, "")
    return asked


def end_hung(pool, asked, state):
    pool.godwit("vm", "stop", "--force", "sleeper")
    out, err = asked.communicate(timeout=60)
    expect(asked.returncode != 0 and "stopped while it was being started" in out + err, out + err)
    expect_host(pool, "sleeper", "node1", state)


def a_start_that_hangs_is_ended_by_force(pool):
    need_sleeper(pool)
    suspend(pool)
    for how in ("--lazy", "--eager"):
        end_hung(pool, hang(pool, "vm", "resume", how, "sleeper"), "suspended")
    pool.godwit("vm", "resume", "sleeper")  # nothing of its memory is lost
    pool.verify("sleeper")
    suspend(pool)
    arm(pool, "vm.load=delay:10000\n")  # its process speaks, and a thread of it reads on and on
    asked = pool.start_godwit("vm", "resume", "sleeper")
    pools.wait_for("its file to be read", 60, lambda: "hit vm.load" in pool.hosts[0].failpoints.read_text())
    pool.hosts[0].kill_agent()  # the next one finds what this one had begun
    pool.hosts[0].start_agent()
    pool.wait_hosts_up()
    arm(pool, "")
    asked.communicate(timeout=60)
    pool.godwit("vm", "stop", "--force", "sleeper")
    expect_host(pool, "sleeper", "node1", "suspended")
    pool.godwit("vm", "resume", "sleeper")
    pool.verify("sleeper")
    pool.godwit("vm", "snapshot", "create", "sleeper", "hung", "--ram")
    pool.godwit("vm", "stop", "--force", "sleeper")
    end_hung(pool, hang(pool, "vm", "snapshot", "restore", "-y", "sleeper", "hung"), "stopped")
    pool.godwit("vm", "snapshot", "restore", "-y", "sleeper", "hung")
    pool.verify("sleeper")
    pool.godwit("vm", "snapshot", "rm", "-y", "sleeper", "hung")
    pool.godwit("vm", "stop", "--force", "sleeper")
    end_hung(pool, hang(pool, "vm", "start", "sleeper"), "stopped")
    pool.godwit("vm", "start", "sleeper")
    pool.verify("sleeper")


def without_log(pool):
    """Nothing proves of which VM its process is, as long as it is silent: its log has another name."""
    log = pathlib.Path(pool.hosts[0].dir, "agent", "vms", pool.vm("sleeper")["id"], "vm.log")
    kept = log.with_name("vm.log.kept")
    log.rename(kept)
    return lambda: kept.rename(log)


def one_that_does_not_answer_a_new_agent_is_not_taken_for_stopped(pool):
    """Its agent knows of the VM only what it was before that start, and its process goes on once it is let."""
    need_sleeper(pool)
    for state in ("suspended", "stopped"):
        if state == "suspended":
            suspend(pool)
        else:
            pool.godwit("vm", "stop", "--force", "sleeper")
        asked = hang(pool, "vm", "resume" if state == "suspended" else "start", "sleeper")
        pids = pool.hosts[0].vm_pids()
        expect(len(pids) == 1, f"its process is one of {pids}")
        give_log_back = without_log(pool)
        pool.hosts[0].kill_agent()
        pool.hosts[0].start_agent()
        out, err = asked.communicate(timeout=60)
        expect(asked.returncode != 0 and "gave no answer" in out + err, out + err)
        pool.wait_hosts_up()
        said = refused(pool, "vm", "stop", "--force", "sleeper")
        expect("has not answered the agent" in said, said)
        expect(pool.vm("sleeper")["record_phase"] == "STARTING", str(pool.vm("sleeper")))
        expect(pool.hosts[0].vm_pids() == pids, "its process is gone")
        give_log_back()
        os.kill(pids[0], signal.SIGCONT)

        def is_stopped():
            now = pool.vm("sleeper")["state"]
            if now == "running":
                pool.godwit("vm", "stop", "--force", "sleeper", check=False)
            return now in ("stopped", "suspended")
        pools.wait_for("it to be found and stopped", 60, is_stopped)
        pools.wait_for("its process to end", 60, lambda: not pool.hosts[0].vm_pids())
        if pool.vm("sleeper")["state"] == "suspended":
            pool.godwit("vm", "stop", "--force", "sleeper")
        pool.godwit("vm", "start", "sleeper")
        pool.verify("sleeper")


def a_start_whose_stop_was_refused_does_not_begin_anew(pool):
    """Nobody knew what it had become; when its process is gone, what it slept on is still there."""
    need_sleeper(pool)
    suspend(pool)
    asked = hang(pool, "vm", "resume", "sleeper")
    pids = pool.hosts[0].vm_pids()
    give_log_back = without_log(pool)
    pool.hosts[0].kill_agent()
    pool.hosts[0].start_agent()
    asked.communicate(timeout=60)
    pool.wait_hosts_up()
    said = refused(pool, "vm", "stop", "--force", "sleeper")
    expect("has not answered the agent" in said, said)
    os.kill(pids[0], signal.SIGKILL)
    give_log_back()
    pools.wait_for("it to be told as suspended", 60, lambda: pool.vm("sleeper")["state"] in ("suspended", "stopped"))
    pools.wait_for("its process to end", 60, lambda: not pool.hosts[0].vm_pids())
    pool.godwit("vm", "resume", "sleeper")
    pool.verify("sleeper")


def one_that_never_answers_a_new_agent_is_ended_by_force(pool):
    """The kernel says that it is the VM's process; what it slept on is still there."""
    need_sleeper(pool)
    suspend(pool)
    asked = hang(pool, "vm", "resume", "sleeper")
    pids = pool.hosts[0].vm_pids()
    pool.hosts[0].kill_agent()
    pool.hosts[0].start_agent()
    asked.communicate(timeout=60)
    pool.wait_hosts_up()
    pool.godwit("vm", "stop", "--force", "sleeper", check=False)  # at once, or as soon as it is known to be silent
    pools.wait_for("its process to end", 60, lambda: not set(pids) & set(pool.hosts[0].vm_pids()))
    pools.wait_for("it to be told as suspended", 60, lambda: pool.vm("sleeper")["state"] == "suspended")
    pool.godwit("vm", "resume", "sleeper")
    pool.verify("sleeper")


def it_can_be_stopped_on_the_way(pool):
    need_sleeper(pool)
    suspend(pool)
    arm(pool, HOLD)
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    pool.godwit("vm", "stop", "--force", "sleeper")
    expect_host(pool, "sleeper", "node1", "stopped")
    arm(pool, "")
    pool.godwit("vm", "start", "sleeper")
    expect_host(pool, "sleeper", "node1")
    pool.verify("sleeper")


def stands_still_and_says_why(pool, words):
    vm = pools.wait_for("it to stand still", 60, lambda: (
        lambda v: v if v["state"] == "paused" and v.get("reason") else None)(pool.vm("sleeper")))
    expect("its memory cannot be read" in vm["reason"] and words in vm["reason"], str(vm))
    events = pool.godwit("events", check=False).stdout
    expect("stands still for good" in events, events)


def a_damaged_frame_holds_it_still_for_good(pool):
    need_sleeper(pool)
    suspend(pool)
    path = file_of(pool)
    with path.open("r+b") as file:  # among what is read last, so that it runs by then
        file.seek(path.stat().st_size * 3 // 4)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 16]))
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    stands_still_and_says_why(pool, "is damaged at byte")
    expect(path.exists(), "its file is gone")
    for words in (["vm", "resume", "sleeper"], ["migrate", "sleeper", "--to", "node2"], ["vm", "suspend", "sleeper"],
                  ["vm", "snapshot", "create", "sleeper", "late"]):
        refused(pool, *words)
    pids = pool.hosts[0].vm_pids()
    pool.godwit("vm", "stop", "--force", "sleeper")
    expect_host(pool, "sleeper", "node1", "stopped")
    pools.wait_for("its process to end", 60, lambda: not set(pids) & set(pool.hosts[0].vm_pids()))
    refused(pool, "vm", "resume", "sleeper")
    pool.godwit("vm", "start", "sleeper")
    expect_host(pool, "sleeper", "node1")
    pool.verify("sleeper")


def a_read_error_that_passes_is_nothing_to_it(pool):
    need_sleeper(pool)
    suspend(pool)
    wholes = log_of(pool).count("has all of its memory")
    arm(pool, "pager.read=error@30\n" * 2)
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    wait_whole(pool, count=wholes + 1)
    arm(pool, "")
    expect("tries again" in log_of(pool), "nothing is said of it")
    pool.verify("sleeper")


def a_read_error_that_stays_does_so_as_well(pool):
    need_sleeper(pool)
    suspend(pool)
    arm(pool, "pager.read=error@30\n" * 16)  # the same one, for longer than it tries
    pool.godwit("vm", "resume", "--lazy", "sleeper")
    stands_still_and_says_why(pool, "pager.read")
    arm(pool, "")
    pool.godwit("vm", "rm", "sleeper", "--stop", "-y")


def a_snapshot_comes_back_and_is_kept_meanwhile(pool):
    need_sleeper(pool)
    pool.godwit("vm", "snapshot", "create", "sleeper", "first", "--ram")
    wholes = log_of(pool).count("has all of its memory")
    arm(pool, HOLD)
    pool.godwit("vm", "snapshot", "restore", "-y", "--lazy", "sleeper", "first")
    expect_host(pool, "sleeper", "node1")
    said = refused(pool, "vm", "snapshot", "rm", "-y", "sleeper", "first")
    expect("still reads its memory from it" in said, said)
    wait_whole(pool, count=wholes + 1)
    arm(pool, "")
    pool.verify("sleeper")
    for name in ("twin", "other"):
        pool.godwit("vm", "snapshot", "clone", "sleeper", "first", name, "--lazy")
        expect_host(pool, name, "node1")
        pool.verify(name)
        wait_whole(pool, name)
        pool.godwit("vm", "rm", name, "--stop", "-y")
    pool.godwit("vm", "snapshot", "restore", "-y", "--lazy", "sleeper", "first")  # as often as one likes
    pool.verify("sleeper")
    pools.wait_for("the snapshot to be free", 60, lambda: pool.godwit(
        "vm", "snapshot", "rm", "-y", "sleeper", "first", check=False).returncode == 0)
    pool.verify("sleeper")
    pool.godwit("vm", "rm", "sleeper", "--stop", "-y")


def drop_cache(path):
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def the_time_to_run_is_printed_beside_an_eager_one(pool):
    fill = MEASURED_MIB - 64
    pool.create_guest("large", f"writers=1 rate=5 ws=16 fill=random fillmb={fill}", memory=f"{MEASURED_MIB}MiB")
    seconds = {}
    for how in ("--eager", "--lazy", "--eager", "--lazy"):
        suspend(pool, "large")
        drop_cache(file_of(pool, "large"))
        wholes = log_of(pool, "large").count("has all of its memory")
        begun = time.monotonic()
        pool.godwit("vm", "resume", how, "large")
        seconds.setdefault(how, []).append(time.monotonic() - begun)
        if how == "--lazy":
            wait_whole(pool, "large", wholes + 1)
            seconds.setdefault("whole", []).append(time.monotonic() - begun)
        pool.verify("large")
    best = {how: min(times) for how, times in seconds.items()}
    print(f"        {MEASURED_MIB} MiB, {fill} filled: runs after {best['--eager']:.2f} s eagerly, {best['--lazy']:.2f} s "
          f"lazily ({best['--eager'] / best['--lazy']:.1f} times), whole after {best['whole']:.2f} s; all: "
          + " ".join(f"{how}={','.join(f'{s:.2f}' for s in times)}" for how, times in seconds.items()), flush=True)
    for line in log_of(pool, "large").splitlines():
        if "has all of its memory" in line or "goes on" in line:
            print("        " + line, flush=True)
    clean_vms(pool)


run([goes_on_at_once_and_has_all_in_the_end,
     nothing_else_is_done_to_it_until_all_is_there,
     where_nobody_can_wait_for_pages_all_is_read_first_and_told,
     a_process_killed_on_the_way_has_crashed_and_its_file_is_stale,
     one_lost_before_its_start_was_answered_has_crashed,
     a_start_that_hangs_is_ended_by_force,
     one_that_does_not_answer_a_new_agent_is_not_taken_for_stopped,
     a_start_whose_stop_was_refused_does_not_begin_anew,
     one_that_never_answers_a_new_agent_is_ended_by_force,
     it_can_be_stopped_on_the_way,
     a_damaged_frame_holds_it_still_for_good,
     a_read_error_that_passes_is_nothing_to_it,
     a_read_error_that_stays_does_so_as_well,
     a_snapshot_comes_back_and_is_kept_meanwhile,
     the_time_to_run_is_printed_beside_an_eager_one], failpoints=True)

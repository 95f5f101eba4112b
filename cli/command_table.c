#include "cli/command_table.h"

#include "base/own.h"
#include "cli/cmd_completion.h"
#include "cli/cmd_console.h"
#include "cli/cmd_demo.h"
#include "cli/cmd_dirty_rate.h"
#include "cli/cmd_doctor.h"
#include "cli/cmd_dr.h"
#include "cli/cmd_dr_test.h"
#include "cli/cmd_explain.h"
#include "cli/cmd_ha.h"
#include "cli/cmd_host.h"
#include "cli/cmd_build.h"
#include "cli/cmd_image.h"
#include "cli/cmd_import.h"
#include "cli/cmd_job.h"
#include "cli/cmd_migrate.h"
#include "cli/cmd_peer.h"
#include "cli/cmd_plan.h"
#include "cli/cmd_pool.h"
#include "cli/cmd_record.h"
#include "cli/cmd_rule.h"
#include "cli/cmd_simulate.h"
#include "cli/cmd_snapshot.h"
#include "cli/cmd_status.h"
#include "cli/cmd_up.h"
#include "cli/cmd_store.h"
#include "cli/cmd_upgrade.h"
#include "cli/cmd_version.h"
#include "cli/cmd_vm.h"
#include "cli/cmd_why.h"
#include "proto/limits.h"

static const struct command_option global_options[] = {
    {.name = "dir",
     .type = COMMAND_FILE,
     .value = "FOLDER",
     .environment = "GODWIT_DIR",
     .help = "where the pool's files are; else ~/.config/godwit, then /var/lib/godwit"},
    {.name = "output",
     .letter = 'o',
     .type = COMMAND_CHOICE,
     .value = "FORM",
     .choices = "table|wide|json|ndjson|yaml|name",
     .preset = "table",
     .environment = "GODWIT_OUTPUT",
     .help = "how data is printed"},
    {.name = "yes", .letter = 'y', .type = COMMAND_FLAG, .help = "answer questions with yes"},
    {.name = "help", .letter = 'h', .type = COMMAND_FLAG, .help = "show this page"},
    {0}};

static const struct command_option listing_options[] = {
    {.name = "columns",
     .type = COMMAND_TEXT,
     .value = "NAMES",
     .help = "only these columns, by their names in -o json, separated by commas"},
    {.name = "sort-by",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "order by a column; -NAME turns the order round"},
    {.name = "no-headers", .type = COMMAND_FLAG, .help = "rows only"},
    {0}};

static const struct command_option watch_options[] = {
    {.name = "watch", .letter = 'w', .type = COMMAND_FLAG, .help = "show it anew every 2 s"}, {0}};

#define PROGRESS_OPTION                                                                            \
    {                                                                                              \
        .name = "progress", .type = COMMAND_CHOICE, .value = "HOW",                                \
        .choices = "auto|plain|json|none", .preset = "auto", .environment = "GODWIT_PROGRESS",     \
        .help = "auto: redrawn on a terminal, else one line per phase or per 10 s"                 \
    }

static const struct command_option pool_init_options[] = {
    {.name = "dir",
     .type = COMMAND_FILE,
     .value = "STATE",
     .environment = "GODWIT_DIR",
     .help = "state folder to make the pool in; else /var/lib/godwit"},
    {.name = "name", .type = COMMAND_TEXT, .value = "NAME", .preset = "pool", .help = "its name"},
    {.name = "listen",
     .type = COMMAND_TEXT,
     .value = "ADDR:PORT",
     .preset = "0.0.0.0:7411",
     .help = "where the coordinator listens"},
    {.name = "address",
     .type = COMMAND_TEXT,
     .value = "HOST:PORT",
     .help = "where hosts and operators reach it; else what it listens on, or this machine's first "
             "address. Several with commas when several coordinators will share an etcd, this "
             "machine's first"},
    {.name = "adopt",
     .type = COMMAND_CHOICE,
     .value = "WHAT",
     .choices = "all",
     .help = "take over every libvirt domain that a host has when it joins, as vm adopt --all does"},
    {0}};

static const struct command_option pool_add_coordinator_options[] = {
    {.name = "listen",
     .type = COMMAND_TEXT,
     .value = "ADDR:PORT",
     .preset = "0.0.0.0:7411",
     .help = "where it listens"},
    {.name = "address",
     .type = COMMAND_TEXT,
     .value = "HOST:PORT",
     .help = "which of the pool's addresses it answers at"},
    {0}};

static const struct command_option pool_join_options[] = {
    {.name = "dir",
     .type = COMMAND_FILE,
     .value = "STATE",
     .environment = "GODWIT_DIR",
     .help = "state folder of this host; else /var/lib/godwit"},
    {.name = "name",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "the host's name in the pool; else the machine's host name"},
    {.name = "move-address",
     .type = COMMAND_TEXT,
     .value = "ADDR",
     .help = "where other hosts reach this one for moves; else the address it reaches the "
             "coordinator from"},
    {0}};

static const struct command_option events_options[] = {
    {.name = "vm", .type = COMMAND_TEXT, .value = "VM", .help = "only of this VM"},
    {.name = "since",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "only of the last TIME, like 1h"},
    {.name = "watch", .letter = 'w', .type = COMMAND_FLAG, .help = "go on with what comes"},
    {0}};

static const struct command_option ha_add_options[] = {
    {.name = "priority",
     .type = COMMAND_COUNT,
     .value = "N",
     .preset = "50",
     .min = 0,
     .max = 100,
     .help = "0 to 100, the higher the sooner it is started again"},
    {0}};

static const struct command_option dr_protect_options[] = {
    {.name = "to",
     .type = COMMAND_TEXT,
     .value = "HOST|POOL",
     .help = "where its replica lies; pool:NAME is a peer pool where a host is called so too"},
    {.name = "rpo",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "how much of its time the loss of its host may cost; 5s if you do not say"},
    {.name = "disks-only",
     .type = COMMAND_FLAG,
     .help = "its disks without its memory: it boots when it is taken, as after a loss of power"},
    {.name = "bandwidth", .type = COMMAND_RATE, .value = "RATE", .help = "100MiB/s: not more"},
    {.name = "group",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "it is taken and brought back with the others of this group"},
    {.name = "order",
     .type = COMMAND_COUNT,
     .value = "N",
     .max = 1000,
     .help = "within the group: lower ones first, equal ones together"},
    {.name = "delay",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "within the group: so long after those before it run"},
    {.name = "auto",
     .type = COMMAND_FLAG,
     .help = "take the replica without asking once its host is fenced"},
    {0}};

static const struct command_option dr_unprotect_options[] = {
    {.name = "force",
     .type = COMMAND_FLAG,
     .help = "without the other pool, which may have the VM or take it: your word that it will not"},
    {0}};

static const struct command_option dr_failover_options[] = {
    {.name = "group", .type = COMMAND_TEXT, .value = "NAME", .help = "all VMs of it, in their order"},
    {.name = "planned",
     .type = COMMAND_FLAG,
     .help = "its host lives: it is stopped there first, and nothing is lost"},
    {.name = "confirm-down",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "its host is down for certain, as host fence --confirm-down says it; or that pool is"},
    {.name = "accept-split",
     .type = COMMAND_FLAG,
     .help = "nobody can tell whether its host is down: it may run twice"},
    {.name = "yes-the-old-host-is-gone",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "with --accept-split: the name of the old host, or of its pool, in full"},
    {0}};

static const struct command_option dr_failback_options[] = {
    {.name = "group", .type = COMMAND_TEXT, .value = "NAME", .help = "all VMs of it, in their order"},
    {0}};

static const struct command_option dr_test_options[] = {
    {.name = "group", .type = COMMAND_TEXT, .value = "NAME", .help = "all VMs of it"},
    {.name = "as",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "the copy's name; VM-test if you do not say"},
    {.name = "end", .type = COMMAND_FLAG, .help = "take the copy away, and its disks"},
    {0}};

static const struct command_option dr_drill_options[] = {
    {.name = "group", .type = COMMAND_TEXT, .value = "NAME", .help = "all VMs of it"},
    {.name = "every",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "by itself, so often: 24h"},
    {.name = "off", .type = COMMAND_FLAG, .help = "no more by itself"},
    {.name = "now", .type = COMMAND_FLAG, .help = "once, and wait for it"},
    {0}};

static const struct command_option ha_disarm_options[] = {
    {.name = "for",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .preset = "1h",
     .help = "after which HA arms itself again"},
    {0}};

static const struct command_option ha_fence_agent_options[] = {
    {.name = "options",
     .type = COMMAND_TEXT,
     .value = "K=V,...",
     .help = "where the host's power is, like ip=10.0.0.9,username=fence"},
    {0}};

static const struct command_option host_fence_options[] = {
    {.name = "confirm-down",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "the host's name once more: its power is off for certain"},
    {0}};

static const struct command_option token_create_options[] = {
    {.name = "ttl",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .preset = "15m",
     .help = "how long it may be used; 15m at most"},
    {.name = "host",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "only a host of this name may use it"},
    {0}};

static const struct command_option peer_rm_options[] = {
    {.name = "force",
     .type = COMMAND_FLAG,
     .help = "though one of the two holds replicas for the other"},
    {0}};

static const struct command_option peer_invite_options[] = {
    {.name = "ttl",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .preset = "15m",
     .help = "how long it may be used; 24h at most"},
    {0}};

static const struct command_option vm_create_options[] = {
    {.name = "file",
     .letter = 'f',
     .type = COMMAND_FILE,
     .value = "SPEC",
     .help = "read the VM from a YAML file, - for stdin; flags stand before what it says"},
    {.name = "kernel",
     .type = COMMAND_FILE,
     .value = "FILE",
     .help = "kernel (vmlinuz, or ELF with a PVH entry), on the host that starts the VM"},
    {.name = "initrd", .type = COMMAND_FILE, .value = "FILE", .help = "initial ramdisk"},
    {.name = "cmdline", .type = COMMAND_TEXT, .value = "WORDS", .help = "kernel command line"},
    {.name = "memory",
     .type = COMMAND_BYTES,
     .value = "SIZE",
     .help = "guest memory, like 1GiB; 16MiB to 64GiB"},
    {.name = "vcpus",
     .type = COMMAND_COUNT,
     .value = "N",
     .min = 1,
     .max = VCPUS_MAX,
     .help = "virtual CPUs, 1 to 16"},
    {.name = "host",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "where to start it; else the coordinator chooses"},
    {.name = "baseline",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "CPU model like x86-64-v2; else the best that every host gives"},
    {.name = "hugepages", .type = COMMAND_FLAG, .help = "back its memory by huge pages"},
    {.name = "image",
     .type = COMMAND_TEXT,
     .value = "IMAGE",
     .help = "make its first disk from this image, as an independent clone"},
    {.name = "disk-size",
     .type = COMMAND_BYTES,
     .value = "SIZE",
     .help = "with --image: size of that disk; else the image's"},
    {.name = "store",
     .type = COMMAND_FILE,
     .value = "STORE",
     .help = "with --image: where that disk lies, a store's name or a folder of the host; else "
             "/var/lib/godwit/disks"},
    PROGRESS_OPTION,
    {.name = "no-start", .type = COMMAND_FLAG, .help = "define it, but do not start it"},
    {0}};

static const struct command_option vm_schema_options[] = {
    {.name = "up", .type = COMMAND_FLAG, .help = "the form of a godwit.yaml (godwit up)"}, {0}};

static const struct command_option up_options[] = {
    {.name = "file",
     .letter = 'f',
     .type = COMMAND_FILE,
     .value = "FILE",
     .help = "what declares the VMs, - for stdin; else godwit.yaml"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option image_import_options[] = {
    {.name = "name",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "what the pool calls it; needed"},
    {.name = "host",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "which host has it first; else the coordinator chooses"},
    {.name = "form",
     .type = COMMAND_CHOICE,
     .value = "FORM",
     .choices = "auto|raw|qcow2",
     .preset = "auto",
     .help = "what the file is; auto: by its first bytes; raw: whatever they look like"},
    {.name = "kernel",
     .type = COMMAND_FILE,
     .value = "FILE",
     .help = "kernel of VMs made from it, a path on hosts; else they boot from the disk"},
    {.name = "initrd", .type = COMMAND_FILE, .value = "FILE", .help = "initial ramdisk"},
    {.name = "cmdline", .type = COMMAND_TEXT, .value = "WORDS", .help = "kernel command line"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option image_build_options[] = {
    {.name = "file", .letter = 'f', .type = COMMAND_TEXT, .value = "FILE", .help = "what to build"},
    {.name = "keep", .type = COMMAND_FLAG, .help = "leave its VM and disk when it fails, to look at"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option image_seal_options[] = {
    {.name = "disk", .type = COMMAND_TEXT, .value = "DISK", .help = "of the VM's disks; else the first"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option image_copy_options[] = {
    {.name = "to", .type = COMMAND_TEXT, .value = "HOST", .help = "which host is to have it"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option image_export_options[] = {PROGRESS_OPTION, {0}};

static const struct command_option vm_import_options[] = {
    {.name = "form",
     .type = COMMAND_CHOICE,
     .value = "FORM",
     .choices = "auto|libvirt|xl",
     .preset = "auto",
     .help = "what the file is; auto: XML is libvirt's"},
    {.name = "bridge",
     .type = COMMAND_TEXT,
     .value = "NETWORK=BRIDGE,...",
     .help = "the bridge of the hosts that stands for a network of the file"},
    {0}};

static const struct command_option vm_stop_options[] = {
    {.name = "force",
     .type = COMMAND_FLAG,
     .help = "do not ask the guest: what it has not written is lost"},
    {.name = "timeout",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .preset = "60s",
     .help = "how long the guest may take; then it is stopped as with --force"},
    {0}};

static const struct command_option vm_reboot_options[] = {
    {.name = "force",
     .type = COMMAND_FLAG,
     .help = "as a reset button does: do not ask the guest, what it has not written is lost"},
    {0}};

static const struct command_option vm_adopt_options[] = {
    {.name = "host", .type = COMMAND_TEXT, .value = "HOST", .help = "the domain of that host"},
    {.name = "all", .type = COMMAND_FLAG, .help = "every domain that is not the pool's yet"},
    {0}};

static const struct command_option vm_rm_options[] = {
    {.name = "stop", .type = COMMAND_FLAG, .help = "also when it runs: stop it first"},
    {.name = "with-snapshots", .type = COMMAND_FLAG, .help = "its snapshots too"},
    {0}};

static const struct command_option snapshot_create_options[] = {
    {.name = "disks-only",
     .type = COMMAND_FLAG,
     .help = "no memory: what is on its disks, as after a loss of power"},
    {.name = "ram", .type = COMMAND_FLAG, .help = "with its memory or not at all: it must run"},
    {0}};

static const struct command_option snapshot_restore_options[] = {
    {.name = "keep",
     .type = COMMAND_TEXT,
     .value = "NAME",
     .help = "take a snapshot of what it is now first, of this name"},
    {.name = "lazy",
     .type = COMMAND_FLAG,
     .help = "let it run at once; its memory is read behind it"},
    {.name = "eager", .type = COMMAND_FLAG, .help = "read all of its memory first (the default)"},
    {0}};

static const struct command_option vm_resume_options[] = {
    {.name = "lazy",
     .type = COMMAND_FLAG,
     .help = "let it run at once; its memory is read behind it"},
    {.name = "eager", .type = COMMAND_FLAG, .help = "read all of its memory first (the default)"},
    {0}};

static const struct command_option snapshot_clone_options[] = {
    {.name = "lazy",
     .type = COMMAND_FLAG,
     .help = "let it run at once; its memory is read behind it"},
    {.name = "eager", .type = COMMAND_FLAG, .help = "read all of its memory first (the default)"},
    {.name = "cold",
     .type = COMMAND_FLAG,
     .help = "boot from its disks, without the memory of that instant"},
    {.name = "nic-bridge",
     .type = COMMAND_TEXT,
     .value = "BRIDGE",
     .help = "plug all its network cards into this bridge of the host; else they are unplugged"},
    {0}};

static const struct command_option vm_console_options[] = {
    {.name = "until",
     .type = COMMAND_TEXT,
     .value = "TEXT",
     .help = "end with 0 when a line that has TEXT comes"},
    {.name = "timeout",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "end with 7 after this time"},
    {0}};

static const struct command_option vm_logs_options[] = {{.name = "tail",
                                                         .type = COMMAND_COUNT,
                                                         .value = "N",
                                                         .min = 1,
                                                         .help = "only the last N lines"},
                                                        {0}};

static const struct command_option migrate_options[] = {
    {.name = "to",
     .type = COMMAND_TEXT,
     .value = "HOST|auto",
     .preset = "auto",
     .help = "where to; auto lets the coordinator choose"},
    {.name = "policy",
     .type = COMMAND_CHOICE,
     .value = "WORD",
     .choices = "gentle|balanced|finish",
     .help = "how much the guest may be disturbed; else what its spec says, else balanced"},
    {.name = "max-downtime",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "goal for the pause; else what its spec says, else 100ms"},
    {.name = "deadline",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "give up after this time; the VM then stays where it is"},
    {.name = "bandwidth",
     .type = COMMAND_RATE,
     .value = "RATE",
     .help = "send no faster than this, like 500MiB/s"},
    {.name = "streams",
     .type = COMMAND_COUNT,
     .value = "N",
     .min = 1,
     .max = LANES_MAX,
     .help = "connections at once, 1 to 16; else by the number of cores"},
    {.name = "compress",
     .type = COMMAND_CHOICE,
     .value = "HOW",
     .choices = "auto|off|lz4|zstd",
     .preset = "auto",
     .help = "auto compresses where that is faster"},
    {.name = "delta",
     .type = COMMAND_CHOICE,
     .value = "HOW",
     .choices = "auto|off|always",
     .preset = "auto",
     .help = "pages sent again go as what changed in them, where that is less"},
    {.name = "mode",
     .type = COMMAND_CHOICE,
     .value = "HOW",
     .choices = "auto|rounds|stream",
     .preset = "auto",
     .help = "how memory is passed over: in rounds, or cold pages first in short windows"},
    {.name = "reconnect",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "connections that are lost while memory is copied may take this long to come back; "
             "else 20s"},
    {.name = "postcopy",
     .type = COMMAND_FLAG,
     .help = "what misses the goal after one pass comes after the guest has moved: a bounded move, but "
             "if either host or the network is lost before the last page, the VM is lost as by a "
             "power cut and starts cold"},
    {.name = "no-postcopy",
     .type = COMMAND_FLAG,
     .help = "not even where policy finish would at last do so"},
    {.name = "verify",
     .type = COMMAND_FLAG,
     .help = "read all memory anew on both sides inside the pause (a longer pause)"},
    {.name = "with-local-disks",
     .type = COMMAND_FLAG,
     .help = "disks that only its host has (store: without shared) move with it"},
    {.name = "dry-run", .type = COMMAND_FLAG, .help = "check and plan only"},
    {.name = "no-wait", .type = COMMAND_FLAG, .help = "print the job's id and leave"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option job_ls_options[] = {
    {.name = "all", .letter = 'a', .type = COMMAND_FLAG, .help = "ended ones too"}, {0}};

static const struct command_option job_set_options[] = {
    {.name = "policy",
     .type = COMMAND_CHOICE,
     .value = "WORD",
     .choices = "gentle|balanced|finish",
     .help = "how much the guest may be disturbed from now on"},
    {.name = "max-downtime",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "goal for the pause from now on"},
    {.name = "deadline",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "give up after this time, counted from where memory began to be sent"},
    {.name = "bandwidth",
     .type = COMMAND_RATE,
     .value = "RATE",
     .help = "send no faster than this, like 500MiB/s"},
    {0}};

static const struct command_option job_watch_options[] = {PROGRESS_OPTION, {0}};

#define PLAN_OPTIONS                                                                               \
    {.name = "dry-run",                                                                            \
     .type = COMMAND_FLAG,                                                                         \
     .help = "plan only; prints the plan's id for godwit plan run"},                               \
        {.name = "no-wait", .type = COMMAND_FLAG, .help = "print the plan's id and leave"},        \
        PROGRESS_OPTION

static const struct command_option plan_options[] = {PLAN_OPTIONS, {0}};

static const struct command_option evacuate_options[] = {
    {.name = "by",
     .type = COMMAND_DURATION,
     .value = "TIME",
     .help = "must be over in this time; refused when that cannot be"},
    {.name = "live",
     .type = COMMAND_TEXT,
     .value = "VM,...",
     .help = "these move while they run (all do that are not named otherwise); web-* names many"},
    {.name = "cold",
     .type = COMMAND_TEXT,
     .value = "VM,...",
     .help = "these are stopped and started elsewhere; what they hold in memory is lost"},
    {.name = "stop", .type = COMMAND_TEXT, .value = "VM,...", .help = "these are stopped"},
    {.name = "keep", .type = COMMAND_TEXT, .value = "VM,...", .help = "these stay"},
    PLAN_OPTIONS,
    {0}};

static const struct command_option restore_options[] = {
    {.name = "bring-back",
     .type = COMMAND_FLAG,
     .help = "also the VMs that the last evacuation took away"},
    PLAN_OPTIONS,
    {0}};

static const struct command_option simulate_options[] = {
    {.name = "file",
     .letter = 'f',
     .type = COMMAND_FILE,
     .value = "POOL",
     .help = "the pool as YAML: hosts, vms, rules; - for stdin"},
    {.name = "fail", .type = COMMAND_TEXT, .value = "HOST", .help = "what if this host died?"},
    {.name = "evacuate",
     .type = COMMAND_TEXT,
     .value = "HOST",
     .help = "what would its evacuation be?"},
    {.name = "balance", .type = COMMAND_FLAG, .help = "what would balance do?"},
    {.name = "repair", .type = COMMAND_FLAG, .help = "how would broken rules be mended?"},
    {0}};

static const struct command_option balance_options[] = {
    {.name = "goal",
     .type = COMMAND_CHOICE,
     .value = "WORD",
     .choices = "stall|even",
     .preset = "stall",
     .help = "less waiting of guests, or hosts that are evenly full"},
    PLAN_OPTIONS,
    {0}};

static const struct command_option plan_run_options[] = {
    {.name = "no-wait", .type = COMMAND_FLAG, .help = "let it run and leave"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option plan_watch_options[] = {PROGRESS_OPTION, {0}};

static const struct command_option rule_add_options[] = {
    {.name = "soft", .type = COMMAND_FLAG, .help = "costs where it is broken, but does not forbid"},
    {.name = "hosts",
     .type = COMMAND_TEXT,
     .value = "HOST,...",
     .help = "of pin and exclude: hosts, or labels like rack=a"},
    {.name = "most",
     .type = COMMAND_COUNT,
     .value = "N",
     .min = 1,
     .max = 1000,
     .help = "members on a host (spread: in a failure domain); else as few as can be"},
    {0}};

static const struct command_option store_add_options[] = {
    {.name = "hosts",
     .type = COMMAND_TEXT,
     .value = "HOST,...",
     .help = "that have it, under this path"},
    {.name = "shared",
     .type = COMMAND_FLAG,
     .help = "one folder that all of them see; without it each has its own"},
    {0}};

static const struct command_option disk_move_options[] = {
    {.name = "to",
     .type = COMMAND_TEXT,
     .value = "STORE[:FILE]",
     .help = "a store of the VM's host; the file beneath it, else VM-DISK.raw"},
    {.name = "bandwidth",
     .type = COMMAND_RATE,
     .value = "RATE",
     .help = "at most so much is copied in a second; what the guest writes is not held back"},
    {.name = "dry-run", .type = COMMAND_FLAG, .help = "judge it, change nothing"},
    {.name = "no-wait", .type = COMMAND_FLAG, .help = "let it run and print the job's id"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option cordon_options[] = {
    {.name = "reason", .type = COMMAND_TEXT, .value = "WORDS", .help = "what others shall read"},
    {0}};

/* Rows of one group stand together: help and completion rely on it. */
static const struct command commands[] = {
    {.words = "status",
     .operands = "",
     .summary = "hosts, VMs, jobs and warnings on one screen",
     .more = "Of more than 200 VMs only those are listed that neither run nor are stopped.",
     .watches = true,
     .run = cmd_status,
     .examples = {{"godwit status", "how the pool is"},
                  {"godwit status -w", "and how it goes on"}}},
    {.words = "migrate",
     .operands = "VM...",
     .summary = "move running VMs to another host",
     .more = "Waits and shows progress. Ctrl-C leaves the move running and says how to come back; "
             "a second Ctrl-C within 3 s cancels it. Several VMs move one after the other.",
     .options = migrate_options,
     .run = cmd_migrate,
     .examples = {{"godwit migrate db-01 --to node2", "move one VM, by name or unique prefix"},
                  {"godwit migrate db-01 web-07 --max-downtime 50ms --deadline 10m",
                   "move two, to where they fit, with goals"}}},
    {.words = "balance",
     .operands = "[auto] [off|approve|on]",
     .summary = "move VMs so that guests wait less, where that is worth it",
     .more =
         "Every move must take more stall seconds off the next half hour than twice the most it "
         "may cost (pause, slower guest, use of the link). With auto: off, approve (plans wait "
         "for godwit plan run) or on; without a word it tells how the pool is.",
     .options = balance_options,
     .run = cmd_balance,
     .examples = {{"godwit balance --dry-run", "what it would do, and why"},
                  {"godwit balance auto approve", "look by itself, act when told"}}},
    {.words = "why",
     .operands = "VM",
     .summary = "why a VM is where it is: every host, its score, what forbids; its moves",
     .run = cmd_why,
     .examples = {{"godwit why web-01", "at a glance"},
                  {"godwit why web-01 -o json", "all of it"}}},
    {.words = "why-not",
     .operands = "VM HOST",
     .summary = "why a VM is not on that host, and what would let it",
     .run = cmd_why_not,
     .examples = {{"godwit why-not web-01 node3", "one host"},
                  {"godwit why-not web-01 node3 -o json", "for a script"}}},
    {.words = "simulate",
     .operands = "",
     .summary = "what if: the pool's planner on a pool in a file",
     .more =
         "A file has hosts (name, cpus, memory, domain, labels, cordoned), vms (name, host, "
         "vcpus, memory, used, load in percent of a core, writes in bytes a second), rules (id, "
         "kind, vms, hosts, soft, most) and link. Ends with 8 when a VM finds no place.",
     .options = simulate_options,
     .run = cmd_simulate,
     .examples = {{"godwit simulate -f pool.yaml --fail node3", "would all its VMs find a place?"},
                  {"godwit simulate -f pool.yaml --evacuate node1 --balance",
                   "one after the other"}}},
    {.words = "plan ls",
     .operands = "",
     .summary = "plans: made, running, over",
     .lists = true,
     .watches = true,
     .run = cmd_plan_ls,
     .examples = {{"godwit plan ls", "all that are kept"},
                  {"godwit plan ls -w", "and how they go on"}}},
    {.words = "plan show",
     .operands = "PLAN",
     .summary = "a plan's steps: why, how long, how they went; what stands in the way",
     .run = cmd_plan_show,
     .examples = {{"godwit plan show P4K7Q2A", "to read"},
                  {"godwit plan show P4K -o json", "by a unique prefix, for a script"}}},
    {.words = "plan run",
     .operands = "PLAN",
     .summary = "do just what a dry run said, judged anew before each step",
     .options = plan_run_options,
     .run = cmd_plan_run,
     .examples = {{"godwit plan run P4K7Q2A", "and wait"},
                  {"godwit plan run P4K7Q2A --no-wait", "and leave"}}},
    {.words = "plan watch",
     .operands = "PLAN",
     .summary = "stand by until a plan is over",
     .options = plan_watch_options,
     .run = cmd_plan_watch,
     .examples = {{"godwit plan watch P4K7Q2A", "with progress"},
                  {"godwit plan watch P4K7Q2A --progress none", "only for its exit code"}}},
    {.words = "plan pause",
     .operands = "PLAN",
     .summary = "begin no more steps; those under way finish",
     .run = cmd_plan_pause,
     .examples = {{"godwit plan pause P4K7Q2A", "by id"},
                  {"godwit plan pause P4K", "by a unique prefix"}}},
    {.words = "plan resume",
     .operands = "PLAN",
     .summary = "go on with a paused plan",
     .run = cmd_plan_resume,
     .examples = {{"godwit plan resume P4K7Q2A", "by id"},
                  {"godwit plan resume P4K", "by a unique prefix"}}},
    {.words = "plan cancel",
     .operands = "PLAN",
     .summary = "end a plan; moves under way roll back or finish",
     .run = cmd_plan_cancel,
     .examples = {{"godwit plan cancel P4K7Q2A", "by id"},
                  {"godwit plan cancel P4K", "by a unique prefix"}}},
    {.words = "plan rm",
     .operands = "PLAN",
     .summary = "forget a plan that does not run",
     .run = cmd_plan_rm,
     .examples = {{"godwit plan rm P4K7Q2A", "by id"},
                  {"godwit plan rm P4K", "by a unique prefix"}}},
    {.words = "rule ls",
     .operands = "",
     .summary = "where VMs may be, and who breaks it now",
     .lists = true,
     .watches = true,
     .run = cmd_rule_ls,
     .examples = {{"godwit rule ls", "all of them"}, {"godwit rule ls -o json", "for a script"}}},
    {.words = "rule add",
     .operands = "KIND NAME VM...",
     .summary = "say where VMs may be: affinity, anti-affinity, pin, exclude, spread",
     .more = "affinity keeps VMs on one host, anti-affinity apart; pin and exclude name --hosts; "
             "spread counts VMs in a failure domain, which is a host's label domain. A name that "
             "ends in * stands for all VMs that begin so, those that come later too. A rule that "
             "is broken when it is added moves nothing: godwit rule repair does.",
     .options = rule_add_options,
     .run = cmd_rule_add,
     .examples = {{"godwit rule add anti-affinity web-apart web-1 web-2", "two VMs, two hosts"},
                  {"godwit rule add pin licence db-1 --hosts licensed=yes", "by a host's label"}}},
    {.words = "rule rm",
     .operands = "NAME...",
     .summary = "take rules away",
     .run = cmd_rule_rm,
     .examples = {{"godwit rule rm web-apart", "one"},
                  {"godwit rule rm web-apart licence", "two"}}},
    {.words = "rule repair",
     .operands = "",
     .summary = "the fewest moves after which every hard rule is kept",
     .options = plan_options,
     .run = cmd_rule_repair,
     .examples = {{"godwit rule repair --dry-run", "which they are"},
                  {"godwit rule repair", "make them"}}},
    {.words = "store ls",
     .operands = "",
     .summary = "where disks lie: path, hosts, space",
     .more = "RESERVED is what the disks of VMs that lie there were made to be; ROOM is what is free, "
             "less what they may still grow by. Of a store that is not shared the host with the "
             "least room is told; godwit store show has all.",
     .lists = true,
     .watches = true,
     .run = cmd_store_ls,
     .examples = {{"godwit store ls", "all of them, as they are now"},
                  {"godwit store ls -o json", "for a script, with every host's space"}}},
    {.words = "store show",
     .operands = "STORE",
     .summary = "a store, and what each of its hosts says of it",
     .run = cmd_store_show,
     .examples = {{"godwit store show fast", "its hosts, its space, its VMs"},
                  {"godwit store show fast -o yaml", "for a script"}}},
    {.words = "store add",
     .operands = "NAME PATH",
     .summary = "give a folder of one or several hosts a name for the disks of VMs",
     .more = "Every host has to have the folder and to write, sync and read back in it; of a shared "
             "one each has to see what another writes. Else nothing is stored. In a VM's description "
             "the name then stands as store:, and whether the disk is shared follows from it.",
     .options = store_add_options,
     .run = cmd_store_add,
     .examples = {{"godwit store add fast /srv/fast --hosts node1,node2", "each host's own"},
                  {"godwit store add nfs /srv/nfs --hosts node1,node2 --shared", "one for both"}}},
    {.words = "store rm",
     .operands = "STORE...",
     .summary = "forget stores; their files stay",
     .more = "Refused while a VM's disk lies in it.",
     .run = cmd_store_rm,
     .examples = {{"godwit store rm fast", "one"}, {"godwit store rm fast nfs", "two"}}},
    {.words = "store check",
     .operands = "STORE",
     .summary = "have each host write, sync and read back; who sees what the others write?",
     .more = "Exits 1 when a host does not have the store, cannot write it, or has another folder of "
             "that name.",
     .run = cmd_store_check,
     .examples = {{"godwit store check nfs", "every host of it"},
                  {"godwit store check nfs -o json", "for a script"}}},
    {.words = "up",
     .operands = "",
     .summary = "bring up the VMs that a file declares",
     .more = "Creates those that are missing and starts those that are down; said again it changes "
             "nothing. A VM that is there and differs from the file is told about, field by field, "
             "and left as it is. One that fails does not keep the others from being done (exit 8).",
     .options = up_options,
     .run = cmd_up,
     .examples = {{"godwit up", "the VMs of godwit.yaml in this folder"},
                  {"godwit up -f lab.yaml", "of another file"}}},
    {.words = "diff",
     .operands = "",
     .summary = "what godwit up would do, and which VMs differ from the file",
     .more = "Changes nothing. Exits 0 when all is as declared, else 1.",
     .options = up_options,
     .run = cmd_diff,
     .examples = {{"godwit diff", "of godwit.yaml in this folder"},
                  {"godwit diff -f lab.yaml", "of another file"}}},
    {.words = "destroy",
     .operands = "",
     .summary = "stop and remove the VMs that a file declares",
     .more = "Just those that the file names, the last one first, with the disks that were made for "
             "them. Guests are not asked: what they have not written is lost. Asks before; -y "
             "answers.",
     .options = up_options,
     .run = cmd_destroy,
     .examples = {{"godwit destroy", "the VMs of godwit.yaml in this folder"},
                  {"godwit destroy -f lab.yaml -y", "without asking"}}},
    {.words = "image import",
     .operands = "FILE",
     .summary = "bring a disk image into the pool",
     .more = "The file is on this machine; its content goes to one host of the pool, encrypted, and "
             "from there to others when they need it. It is named by its SHA-256, so that what the "
             "pool has already is not sent again. qcow2 is made raw here first, by "
             "qemu-img, in a cage. Ctrl-C leaves nothing behind; an import whose line broke goes on "
             "where it was when it is said again within ten minutes.",
     .options = image_import_options,
     .run = cmd_image_import,
     .examples = {{"godwit image import debian-12.raw --name debian12", "VMs boot its own kernel"},
                  {"godwit image import root.raw --name web --kernel /srv/vmlinuz --cmdline "
                   "root=/dev/vda",
                   "VMs boot a kernel of their host"}}},
    {.words = "image ls",
     .operands = "",
     .summary = "the pool's images, and which hosts have them",
     .lists = true,
     .watches = true,
     .run = cmd_image_ls,
     .examples = {{"godwit image ls", "all of them"}, {"godwit image ls -o json", "for a script"}}},
    {.words = "image show",
     .operands = "IMAGE",
     .summary = "all about one image",
     .run = cmd_image_show,
     .examples = {{"godwit image show debian12", "its digest, its hosts, its VMs"},
                  {"godwit image show debian12 -o json", "for a script"}}},
    {.words = "image build",
     .operands = "",
     .summary = "make an image from another one and the steps of a file",
     .more = "A VM is made from the base, runs the steps of the file as root and switches itself off; what "
             "is on its disk then becomes the image. The steps' output is shown as it comes. A step that "
             "fails, the time that is up and Ctrl-C end the build, and leave neither VM nor disk "
             "(unless --keep) nor image. The base needs cloud-init, or Godwit's seed runner, and a "
             "console on its serial port.",
     .options = image_build_options,
     .run = cmd_build,
     .examples = {{"godwit image build -f build.yaml", "see docs/images.md for the file"},
                  {"godwit image build -f web/build.yaml --keep", "look at its VM when a step fails"}}},
    {.words = "image seal",
     .operands = "VM NAME",
     .summary = "make an image of a stopped VM's disk",
     .more = "Its host reads the disk, which stays the VM's, into an image of the pool; it boots as the "
             "VM does. Whatever is in the disk is in the image: machine id, host keys, users.",
     .options = image_seal_options,
     .run = cmd_image_seal,
     .examples = {{"godwit image seal web-01 web-2026", "its first disk"},
                  {"godwit image seal web-01 web-data --disk data", "another one"}}},
    {.words = "image copy",
     .operands = "IMAGE",
     .summary = "have another host fetch an image now",
     .more = "Hosts fetch an image by themselves when a VM is made from it there; this does it "
             "beforehand. The content goes from host to host, and its SHA-256 is compared before "
             "it counts.",
     .options = image_copy_options,
     .run = cmd_image_copy,
     .examples = {{"godwit image copy debian12 --to node2", "before VMs are made there"},
                  {"godwit image copy debian12 --to node2 --progress plain", "in a log"}}},
    {.words = "image export",
     .operands = "IMAGE FILE",
     .summary = "write an image into a file on this machine",
     .options = image_export_options,
     .run = cmd_image_export,
     .examples = {{"godwit image export debian12 debian-12.raw", "raw, with its holes"},
                  {"godwit image export debian12 /tmp/d.raw --progress none", "without talk"}}},
    {.words = "image rm",
     .operands = "IMAGE...",
     .summary = "take images out of the pool and off its hosts",
     .more = "Refused while a VM's description names the image. Disks that were made from it are "
             "independent clones: they do not need it.",
     .run = cmd_image_rm,
     .examples = {{"godwit image rm debian12", "one"},
                  {"godwit image rm debian11 debian12", "two"}}},
    {.words = "pool init",
     .operands = "",
     .summary = "make a pool on this machine",
     .more = "Makes the pool's certificate authority and the identities of its coordinator and "
             "first operator. Refuses when there is a pool in the folder already.",
     .options = pool_init_options,
     .run = cmd_pool_init,
     .examples = {{"godwit pool init", "with the defaults, as root on the first host"},
                  {"godwit pool init --dir ~/godwit --name lab --listen 127.0.0.1:7411",
                   "a pool to play with, without root"}}},
    {.words = "pool add-coordinator",
     .operands = "FOLDER",
     .summary = "make the folder of another coordinator of this pool",
     .more =
         "Several coordinators share an etcd; one leads, the others stand by and take over within "
         "seconds. Name all their addresses at pool init, then make a folder for each of the "
         "others and copy it to its machine.",
     .options = pool_add_coordinator_options,
     .run = cmd_pool_add_coordinator,
     .examples = {{"godwit pool add-coordinator ./second --address 10.0.0.2:7411",
                   "the second one's folder, to be copied there"},
                  {"godwit pool add-coordinator ./third --address 10.0.0.3:7411 --listen "
                   "10.0.0.3:7411",
                   "one that listens on one address only"}}},
    {.words = "pool backup",
     .operands = "FILE",
     .summary = "write the pool's state to a file",
     .more = "Put back by godwit-coordinator --restore FILE. Keep the coordinator's folder, which "
             "holds the pool's keys, beside it: the file has none of them.",
     .run = cmd_pool_backup,
     .examples = {{"godwit pool backup /srv/backup/pool.gwb", "now"},
                  {"godwit pool backup pool-$(date +%F).gwb", "one a day"}}},
    {.words = "pool join",
     .operands = "TOKEN",
     .summary = "make this machine a host of a pool",
     .more = "The token says where the coordinator is and how to know it; make one by "
             "godwit token create.",
     .options = pool_join_options,
     .run = cmd_pool_join,
     .examples = {{"godwit pool join \"$TOKEN\"", "with the machine's own name"},
                  {"godwit pool join \"$TOKEN\" --name node2 --move-address 10.1.0.2",
                   "with a network of its own for moves"}}},
    {.words = "pool peer invite",
     .operands = "",
     .summary = "make a token that makes one other pool a peer, once",
     .more = "A peer may say that it is there, and have replicas of its VMs held where they fit; it "
             "opens nothing else in this pool. The token holds a secret: hand it over as you would a password.",
     .options = peer_invite_options,
     .run = cmd_peer_invite,
     .examples = {{"godwit pool peer invite", "for the next 15 minutes"},
                  {"TOKEN=$(godwit pool peer invite --ttl 2h)", "into a variable"}}},
    {.words = "pool peer add",
     .operands = "TOKEN",
     .summary = "become a peer of the pool that made a token",
     .more = "The other pool's coordinator is known by the fingerprint in the token. From then on "
             "this pool's coordinator keeps a line to it.",
     .run = cmd_peer_add,
     .examples = {{"godwit pool peer add \"$TOKEN\"", "made there by godwit pool peer invite"},
                  {"godwit pool peer add \"$TOKEN\" -o json", "for a script"}}},
    {.words = "pool peer ls",
     .operands = "",
     .summary = "the pools that trust this one, and invitations by their ids",
     .lists = true,
     .watches = true,
     .run = cmd_peer_ls,
     .examples = {{"godwit pool peer ls", "and whether their line is up"},
                  {"godwit pool peer ls -o wide", "with their ids and fingerprints"}}},
    {.words = "pool peer rm",
     .operands = "PEER",
     .summary = "end the trust in another pool, or take an invitation back, at once",
     .more = "PEER is its name, or the beginning of its id. Its certificate opens nothing from then "
             "on; do the same there. An invitation's id is what godwit pool peer ls shows.",
     .options = peer_rm_options,
     .run = cmd_peer_rm,
     .examples = {{"godwit pool peer rm site-b", "after a question"},
                  {"godwit pool peer rm -y 4f1a22c0", "by its id, without"}}},
    {.words = "pool status",
     .operands = "",
     .summary = "the pool in numbers",
     .run = cmd_pool_status,
     .examples = {{"godwit pool status", "at a glance"},
                  {"godwit pool status -o json", "for a script"}}},
    {.words = "pool reboot",
     .operands = "[HOST...]",
     .summary = "reboot hosts one after another, their VMs elsewhere meanwhile",
     .more = "Each host is evacuated, rebooted and given its VMs back before the next one's turn, "
             "hosts of one failure domain after each other. The command that reboots is "
             "reboot_command of the coordinator's pool.json (it gets the host's name); without "
             "one the plan waits until the host's agent comes back from a boot.",
     .options = plan_options,
     .run = cmd_pool_reboot,
     .examples = {{"godwit pool reboot --dry-run", "what stands in the way"},
                  {"godwit pool reboot -y node2 node3", "these two"}}},
    {.words = "token create",
     .operands = "",
     .summary = "make a token that lets one host in, once",
     .options = token_create_options,
     .run = cmd_pool_token,
     .examples = {{"godwit token create", "for the next 15 minutes"},
                  {"TOKEN=$(godwit token create --host node2 --ttl 5m)",
                   "for one host only, into a variable"}}},
    {.words = "events",
     .operands = "",
     .summary = "what happened in the pool",
     .options = events_options,
     .run = cmd_events,
     .examples = {{"godwit events --since 1h", "of the last hour"},
                  {"godwit events -w --vm db-01", "of one VM, as it happens"}}},
    {.words = "audit ls",
     .operands = "",
     .summary = "who asked for what, and what became of it",
     .run = cmd_audit,
     .examples = {{"godwit audit ls", "all that is kept at hand"},
                  {"godwit audit ls -o ndjson", "for a script, or to keep elsewhere"}}},
    {.words = "audit verify",
     .operands = "",
     .summary = "prove that the audit log was not changed",
     .more = "Every entry carries a hash over itself and the one before it. Keep the last hash "
             "elsewhere to notice an end that was cut off.",
     .run = cmd_audit_verify,
     .examples = {{"godwit audit verify", "exit code 0: it is whole"},
                  {"godwit audit verify -y", "the same"}}},
    {.words = "ha status",
     .operands = "",
     .summary = "what is protected against the death of hosts, and how",
     .run = cmd_ha_status,
     .examples = {{"godwit ha status", "hosts with their classes of fencing, VMs with their state"},
                  {"godwit ha status -o json", "for a script"}}},
    {.words = "ha add",
     .operands = "VM",
     .summary = "start a VM elsewhere when its host dies",
     .more = "Never before the host is fenced: its own agent has ended the VMs and said so over a "
             "shared store (F1), its power is off (F2), or an operator says that it is down (F0).",
     .options = ha_add_options,
     .run = cmd_ha_add,
     .examples = {{"godwit ha add db-01", "with the usual priority"},
                  {"godwit ha add db-01 --priority 90", "before others"}}},
    {.words = "ha rm",
     .operands = "VM",
     .summary = "no longer start a VM elsewhere",
     .run = cmd_ha_rm,
     .examples = {{"godwit ha rm db-01", "it runs on; only its protection ends"},
                  {"godwit ha rm db-01 -o json", "for a script"}}},
    {.words = "ha disarm",
     .operands = "",
     .summary = "fence nobody and start nothing for a while",
     .more = "For work on the network or the power. It arms itself again.",
     .options = ha_disarm_options,
     .run = cmd_ha_disarm,
     .examples = {{"godwit ha disarm", "for an hour"},
                  {"godwit ha disarm --for 15m", "for a quarter of one"}}},
    {.words = "ha arm",
     .operands = "",
     .summary = "arm HA again",
     .run = cmd_ha_arm,
     .examples = {{"godwit ha arm", "before the time is over"}, {"godwit ha arm -y", "the same"}}},
    {.words = "ha reserve",
     .operands = "HOSTS",
     .summary = "for the death of how many hosts room is kept",
     .more = "A start that would take that room is refused and names the VM that would find none.",
     .run = cmd_ha_reserve,
     .examples = {{"godwit ha reserve 1", "the default"},
                  {"godwit ha reserve 0", "no room is kept"}}},
    {.words = "ha fence-agent",
     .operands = "HOST [AGENT]",
     .summary = "how a host's power is switched off",
     .more = "An agent of the fence-agents project, run by the coordinator; without one the host "
             "has none any more.",
     .options = ha_fence_agent_options,
     .run = cmd_ha_fence_agent,
     .examples = {{"godwit ha fence-agent node1 fence_ipmilan --options ip=10.0.9.1,username=fence",
                   "by its BMC"},
                  {"godwit ha fence-agent node1", "none any more"}}},
    {.words = "dr protect",
     .operands = "VM",
     .summary = "keep a replica of a running VM on another host, or in a peer pool",
     .more = "Memory and disks are copied there for ever, checkpoint by checkpoint, while it runs; the "
             "guest stands still for a moment at each. It needs no shared store: its disks lie where "
             "they lie, on both hosts. Said again with the same host it changes goals and group. A "
             "peer pool chooses the host itself; it is taken over there. "
             "docs/disaster-recovery.md says what it promises.",
     .options = dr_protect_options,
     .run = cmd_dr_protect,
     .examples = {{"godwit dr protect db-01 --to node2 --rpo 1s --group shop --order 1",
                   "the first one of its group"},
                  {"godwit dr protect db-01 --to site-b", "in a pool of godwit pool peer ls"}}},
    {.words = "dr unprotect",
     .operands = "VM",
     .summary = "end the replication of a VM; it runs on",
     .more = "The replica goes, with the files that this protection made. Of one that another pool has, "
             "or has for another pool, only --force ends what that pool does not answer to. In the pool that took "
             "a VM over it makes that a VM as any other. The end goes on by itself; dr status says "
             "whom it waits for.",
     .options = dr_unprotect_options,
     .run = cmd_dr_unprotect,
     .examples = {{"godwit dr unprotect db-01", "by name"}, {"godwit dr unprotect db", "by a prefix"}}},
    {.words = "dr status",
     .operands = "[VM]",
     .summary = "what has a replica, where, and how old it is",
     .more = "STATE is one of: syncing (nothing whole is held yet), protected, late (its goal is missed, or an "
             "end does not answer), waiting (the VM does not run, or moves), lost (godwit dr failover is due), "
             "queued, failing-over, failing-back, away (it was taken over), ending. Across two pools also: held "
             "(here, for the other one), handed (the other one may take it), conflict (it runs in both: end "
             "one). REASON says why.",
     .lists = true,
     .watches = true,
     .run = cmd_dr_status,
     .examples = {{"godwit dr status -w", "again and again"},
                  {"godwit dr status db-01 -o json", "for a script"}}},
    {.words = "dr failover",
     .operands = "[VM]",
     .summary = "run a VM from its replica",
     .more = "Only when nothing of it runs any more: its host is fenced, or it is stopped there first "
             "(--planned), or you say that the host is down. What the old host still has of it is "
             "ended before anything else when it comes back. A replica that is held for another pool is "
             "taken in the pool that holds it, when the other one has handed it over, or by your word that it is down. Ends with what was lost (RPO) and how "
             "long it took (RTO), for each VM.",
     .options = dr_failover_options,
     .run = cmd_dr_failover,
     .examples = {{"godwit dr failover db-01", "its host was fenced"},
                  {"godwit dr failover --group shop --planned", "all of them, nothing lost"}}},
    {.words = "dr failback",
     .operands = "[VM]",
     .summary = "bring a VM back to where it ran before its failover",
     .more = "Its old disks are there: only what differs is copied while it runs, then it goes there as "
             "in a planned failover, and is protected again as before. Within one pool: of a VM that was taken "
             "over from another one it is refused, and says which steps bring it back instead.",
     .options = dr_failback_options,
     .run = cmd_dr_failback,
     .examples = {{"godwit dr failback db-01", "by name"},
                  {"godwit dr failback --group shop", "all of a group"}}},
    {.words = "dr test",
     .operands = "[VM]",
     .summary = "start a copy of a VM from its replica, cut off from every network",
     .more = "On the replica's host, from the newest checkpoint that is held whole, memory and disks. The copy "
             "is a VM of its own, with disks of its own, its network cards unplugged; replication goes on "
             "meanwhile and a failover may come at any time. Ends with how old that checkpoint was (RPO) "
             "and how long it took until the copy ran (RTO). Its stores need room for all that its disks may grow "
             "to. --end, or vm rm of the copy, takes it away. A "
             "replica that is held for another pool is tested in the pool that holds it.",
     .options = dr_test_options,
     .run = cmd_dr_test,
     .examples = {{"godwit dr test db-01", "look at it by godwit vm console db-01-test"},
                  {"godwit dr test db-01 --end", "it is gone, and its disks"}}},
    {.words = "dr drill",
     .operands = "[VM]",
     .summary = "test a VM's replica by itself, again and again",
     .more = "A drill is a test whose copy is watched for 10 s, and taken away again. What it found is in dr "
             "status -o wide, in the events and in the metrics; one that fails is an alert. One of --every, --off "
             "and --now.",
     .options = dr_drill_options,
     .run = cmd_dr_drill,
     .examples = {{"godwit dr drill db-01 --every 24h", "every day"},
                  {"godwit dr drill --group shop --now", "all of a group, and wait for it"}}},
    {.words = "host fence",
     .operands = "HOST",
     .summary = "tell that a host is down, where nothing else can prove it",
     .more = "Its protected VMs are then started elsewhere. If it is not down they run twice: look "
             "at the machine first. The word is kept in the pool's events.",
     .options = host_fence_options,
     .run = cmd_host_fence,
     .examples = {{"godwit host fence node3 --confirm-down node3", "its power cord is out"},
                  {"godwit host fence node3 --confirm-down node3 -o json", "for a script"}}},
    {.words = "host ls",
     .operands = "",
     .summary = "the pool's hosts",
     .lists = true,
     .watches = true,
     .run = cmd_host_ls,
     .examples = {{"godwit host ls", "all of them"},
                  {"godwit host ls --sort-by -memory_free_bytes --columns name,memory_free_bytes",
                   "who has most memory free"}}},
    {.words = "host show",
     .operands = "HOST",
     .summary = "all about one host",
     .run = cmd_host_show,
     .examples = {{"godwit host show node1", "on a page"},
                  {"godwit host show node1 -o json", "for a script"}}},
    {.words = "host upgrade",
     .operands = "HOST",
     .summary = "let all VMs of a host go on in fresh processes, after a new version came",
     .more = "One after the other, as vm upgrade does it. Ends with 8 when some were not upgraded: "
             "those run on as they are.",
     .run = cmd_host_upgrade,
     .examples = {{"godwit host upgrade node1", "all that run there"},
                  {"godwit host upgrade node1 -o json", "with a receipt for each"}}},
    {.words = "host evacuate",
     .operands = "HOST",
     .summary = "move every VM off a host, and let none come",
     .more = "As few moves at once as fill what carries them. A failed move leaves its VM running "
             "where it is and is tried again elsewhere; what cannot go is told before the start, "
             "with what would let it. Ends with 8 and the list when something is left. Ctrl-C "
             "leaves it running.",
     .options = evacuate_options,
     .run = cmd_host_evacuate,
     .examples = {{"godwit host evacuate node1", "all of it"},
                  {"godwit host evacuate node1 --by 10m --cold 'dev-*' --dry-run",
                   "would it be over in time, with some VMs stopped on the way?"}}},
    {.words = "host restore",
     .operands = "HOST",
     .summary = "let VMs come to a host again",
     .options = restore_options,
     .run = cmd_host_restore,
     .examples = {{"godwit host restore node1", "from now on"},
                  {"godwit host restore node1 --bring-back", "and those that were moved away"}}},
    {.words = "host cordon",
     .operands = "HOST",
     .summary = "let no VM come to a host; those that it runs stay",
     .options = cordon_options,
     .run = cmd_host_cordon,
     .examples = {{"godwit host cordon node1", "until it is uncordoned"},
                  {"godwit host cordon node1 --reason 'bad fan'", "and say why"}}},
    {.words = "host uncordon",
     .operands = "HOST",
     .summary = "let VMs come to a host again",
     .run = cmd_host_uncordon,
     .examples = {{"godwit host uncordon node1", "by name"},
                  {"godwit host uncordon n1", "by a unique prefix"}}},
    {.words = "host label",
     .operands = "HOST LABEL...",
     .summary = "key=value sets a label, key- takes it away; domain is the failure domain",
     .run = cmd_host_label,
     .examples = {{"godwit host label node1 domain=rack-a licensed=yes", "two"},
                  {"godwit host label node1 licensed-", "take one away"}}},
    {.words = "vm create",
     .operands = "[NAME]",
     .summary = "define a VM and start it",
     .more = "From flags, from a YAML file, or both. A file has the same words as -o yaml prints: "
             "name, cpu, memory, kernel, disks, nics, cloud_init ... (docs/vm-spec.md, godwit vm "
             "schema). Paths are made absolute from the current folder and opened on the host "
             "that starts the VM. With --image the first disk is made from an image of the pool "
             "(godwit image ls): by reflink where the host's file system can, else by copying.",
     .options = vm_create_options,
     .run = cmd_vm_create,
     .examples = {{"godwit vm create web-01 --kernel /srv/guest.elf --memory 1GiB --vcpus 2",
                   "from flags"},
                  {"godwit vm create -f web-01.yaml --host node1",
                   "from a file, on a chosen host"}}},
    {.words = "vm adopt",
     .operands = "[DOMAIN...]",
     .summary = "take over domains of libvirt as they are",
     .more = "For hosts whose agent drives libvirt (godwit-agent --libvirt URI). The domain goes on "
             "as it is, under its name and UUID, and virsh goes on working with it; `vm rm` lets it "
             "go again and leaves its definition. Its pages travel inside QEMU when it moves.",
     .options = vm_adopt_options,
     .run = cmd_vm_adopt,
     .examples = {{"godwit vm adopt db-01", "one, running or not"},
                  {"godwit vm adopt --all --host node1", "all that node1 has"}}},
    {.words = "vm ls",
     .operands = "",
     .summary = "the pool's VMs",
     .lists = true,
     .watches = true,
     .run = cmd_vm_ls,
     .examples = {{"godwit vm ls", "all of them"},
                  {"godwit vm ls -o name --sort-by host", "only names, for a loop"}}},
    {.words = "vm show",
     .operands = "VM",
     .summary = "all about one VM",
     .run = cmd_vm_show,
     .examples = {{"godwit vm show web-01", "on a page"},
                  {"godwit vm show web-01 -o yaml", "with its whole spec"}}},
    {.words = "vm start",
     .operands = "VM...",
     .summary = "start stopped VMs",
     .run = cmd_vm_start,
     .examples = {{"godwit vm start web-01", "one"}, {"godwit vm start web-01 web-02", "two"}}},
    {.words = "vm stop",
     .operands = "VM...",
     .summary = "stop VMs: by their power button, later by force",
     .more = "Presses the guest's power button and waits until it has switched itself off. A guest "
             "that does not listen to the button, or takes longer than --timeout, is stopped by "
             "force. Interrupted, the command leaves a guest to itself: nothing is forced.",
     .options = vm_stop_options,
     .run = cmd_vm_stop,
     .examples = {{"godwit vm stop web-01", "one"},
                  {"godwit vm stop --force web-01 web-02", "two, at once"}}},
    {.words = "vm reboot",
     .operands = "VM...",
     .summary = "let domains of libvirt boot anew, where they are",
     .more = "Asks the guest by its power button or its QEMU agent, as virsh reboot does; a guest "
             "that does not listen goes on as it is. A VM of the embedded VMM is rebooted by its own "
             "guest, or by vm stop and vm start.",
     .options = vm_reboot_options,
     .run = cmd_vm_reboot,
     .examples = {{"godwit vm reboot db-01", "by its guest"},
                  {"godwit vm reboot --force db-01", "at once"}}},
    {.words = "vm pause",
     .operands = "VM...",
     .summary = "hold VMs still, in memory",
     .run = cmd_vm_pause,
     .examples = {{"godwit vm pause web-01", "one"}, {"godwit vm pause web-01 web-02", "two"}}},
    {.words = "vm suspend",
     .operands = "VM...",
     .summary = "put VMs into files of their hosts, memory and all, and end their processes",
     .more = "The guest stands still while its memory is written; zero and untouched pages are not. A "
             "full disk leaves it running. Its disks stay its own: vm resume goes on from the file, "
             "once, on the same host; vm stop gives the file up.",
     .run = cmd_vm_suspend,
     .examples = {{"godwit vm suspend web-01", "one"},
                  {"godwit vm suspend web-01 web-02", "one after the other"}}},
    {.words = "vm resume",
     .operands = "VM...",
     .summary = "let paused or suspended VMs run on",
     .more = "With --lazy a suspended one runs at once, while its memory is still read from its file: what it "
             "touches comes first. Until all of it is here it is not paused, moved, suspended or "
             "snapshotted. A page that cannot be read then holds the VM still for good; without --lazy "
             "nothing runs before every byte is read and found whole.",
     .options = vm_resume_options,
     .run = cmd_vm_resume,
     .examples = {{"godwit vm resume web-01 web-02", "two"},
                  {"godwit vm resume --lazy web-01", "a large one, at once"}}},
    {.words = "vm upgrade",
     .operands = "VM...",
     .summary = "let running VMs go on in a fresh process",
     .more = "For a new version of godwit-vm on the same host: the memory changes hands as it is, no "
             "page is copied, and the guest is paused for milliseconds. Whatever goes wrong before "
             "the new process has the guest leaves it in the old one. A stopped VM takes what is "
             "installed with its next start.",
     .run = cmd_vm_upgrade,
     .examples = {{"godwit vm upgrade web-01", "one"},
                  {"godwit vm upgrade web-01 -o json", "with its receipt"}}},
    {.words = "vm console",
     .operands = "VM",
     .summary = "the guest's serial line; it survives a move",
     .more =
         "On a terminal every key goes to the guest, and Ctrl-] leaves. In a script stdin goes "
         "to the guest and its output to stdout: with words on stdin only what comes after them, "
         "without also the last output before. It ends with --until when a line has the text, "
         "without it one quiet second after the end of stdin. What is typed while another "
         "coordinator takes over arrives once; when nobody can tell whether it did, you are told, "
         "and a script ends with 8.",
     .options = vm_console_options,
     .run = cmd_console,
     .examples = {{"godwit vm console web-01", "at the keyboard"},
                  {"godwit vm console web-01 --until ready --timeout 30s </dev/null",
                   "wait until the guest says so"}}},
    {.words = "vm logs",
     .operands = "VM",
     .summary = "what the guest has written to its serial line",
     .options = vm_logs_options,
     .run = cmd_vm_logs,
     .examples = {{"godwit vm logs web-01", "the last MiB of it"},
                  {"godwit vm logs web-01 --tail 20", "the last lines"}}},
    {.words = "vm dirty-rate",
     .operands = "VM",
     .summary = "what a guest writes and what its memory is made of, looked at for a second",
     .more = "Its host reads a few thousand of its pages now and again within the second; the guest "
             "is not held and takes no faults for it. A move counts distinct memory, since a page "
             "that is written twice is sent once.",
     .run = cmd_dirty_rate,
     .examples = {{"godwit vm dirty-rate db-01", "at a glance"},
                  {"godwit vm dirty-rate db-01 -o json", "for a script"}}},
    {.words = "vm disk move",
     .operands = "VM DISK",
     .summary = "move a disk of a running VM to another store of its host",
     .more = "The guest writes on. Both files hold every write that it was told is done before the "
             "pool's record names the new one, and only then the old one goes: what was made for this "
             "VM is deleted, what was there before is put aside. Whatever dies in between, the file "
             "that the record names is the disk. To a store of another host: godwit migrate "
             "--with-local-disks.",
     .options = disk_move_options,
     .run = cmd_vm_disk_move,
     .examples = {{"godwit vm disk move web-01 root --to nfs", "to the store nfs"},
                  {"godwit vm disk move web-01 root --to nfs:web/root.raw --bandwidth 50MiB/s",
                   "as this file, gently"}}},
    {.words = "vm schema",
     .operands = "",
     .summary = "the form of a VM's file, as JSON Schema",
     .more = "For editors and checks: what it allows is what vm create -f reads. docs/vm-spec.md "
             "tells the same in words.",
     .options = vm_schema_options,
     .run = cmd_vm_schema,
     .examples = {{"godwit vm schema >vm.schema.json", "for an editor"},
                  {"godwit vm schema --up >godwit.schema.json", "of a godwit.yaml"}}},
    {.words = "vm import",
     .operands = "FILE",
     .summary = "turn a libvirt or Xen definition into a VM's file",
     .more =
         "Prints what `vm create -f` reads; says what changes on the way, and refuses with every "
         "reason what the embedded VMM cannot run. Nothing in the pool is touched, no disk is "
         "read or converted.",
     .options = vm_import_options,
     .run = cmd_vm_import,
     .examples = {{"godwit vm import web-01.xml --bridge default=br0 >web-01.yaml",
                   "from virsh dumpxml"},
                  {"godwit vm import /etc/xen/db.cfg", "a Xen domain, to look at"}}},
    {.words = "vm export",
     .operands = "VM",
     .summary = "a VM as a libvirt domain, for virsh define",
     .more = "Prints XML that QEMU can run the same disks with. Stop the VM here first: two that "
             "write one disk destroy it.",
     .run = cmd_vm_export,
     .examples = {{"godwit vm export web-01 >web-01.xml", "to a file"},
                  {"godwit vm export web-01 | virsh define /dev/stdin", "straight on"}}},
    {.words = "vm rm",
     .operands = "VM...",
     .summary = "remove VMs for good",
     .options = vm_rm_options,
     .run = cmd_vm_rm,
     .examples = {{"godwit vm rm web-01", "a stopped one, after a question"},
                  {"godwit vm rm -y --stop web-01", "a running one, without"}}},
    {.words = "vm snapshot create",
     .operands = "VM [NAME]",
     .summary = "keep a VM as it is at this instant, while it runs",
     .more = "Its memory, machine and disks of one instant, on its host. The guest stands still for "
             "milliseconds; its memory is copied behind its back, so until the command ends a first "
             "write to a page costs it more. Its disks must lie where files can be cloned (XFS with "
             "reflink, btrfs). Of a stopped VM: its disks. Without NAME it is called by the time.",
     .options = snapshot_create_options,
     .run = cmd_snapshot_create,
     .examples = {{"godwit vm snapshot create web-01 before-upgrade", "memory and disks"},
                  {"godwit vm snapshot create web-01 --disks-only", "disks alone"}}},
    {.words = "vm snapshot ls",
     .operands = "[VM]",
     .summary = "the snapshots of a VM, or of all",
     .lists = true,
     .watches = true,
     .run = cmd_snapshot_ls,
     .examples = {{"godwit vm snapshot ls web-01", "of one VM"},
                  {"godwit vm snapshot ls -o wide", "all of them, with where their disks lie"}}},
    {.words = "vm snapshot show",
     .operands = "VM NAME",
     .summary = "all about one snapshot",
     .run = cmd_snapshot_show,
     .examples = {{"godwit vm snapshot show web-01 before-upgrade", "on a page"},
                  {"godwit vm snapshot show web-01 before-upgrade -o json", "for a program"}}},
    {.words = "vm snapshot check",
     .operands = "VM NAME",
     .summary = "could it be restored? reads all of its memory",
     .run = cmd_snapshot_check,
     .examples = {{"godwit vm snapshot check web-01 before-upgrade", "nothing is changed"},
                  {"godwit vm snapshot check web-01 at-20261126-064500", "one without a name of its own"}}},
    {.words = "vm snapshot restore",
     .operands = "VM NAME",
     .summary = "let a VM go back to a snapshot",
     .more = "First the snapshot is checked, every byte of its memory; then the VM is stopped, its "
             "disks become what they were, and it goes on from the snapshot's instant as a new "
             "generation. One of disks alone boots. It must be on the host where the snapshot lies. With "
             "--lazy its memory is not checked first but read behind the guest that runs already (see vm "
             "resume).",
     .options = snapshot_restore_options,
     .run = cmd_snapshot_restore,
     .examples = {{"godwit vm snapshot restore web-01 before-upgrade", "after a question"},
                  {"godwit vm snapshot restore -y web-01 before-upgrade --keep broken",
                   "what it is now becomes a snapshot first"}}},
    {.words = "vm snapshot clone",
     .operands = "VM SNAPSHOT NAME",
     .summary = "make a new VM that goes on from a snapshot",
     .more = "The new VM NAME has disks and addresses of its own and runs on the snapshot's host from "
             "the snapshot's instant; VM and the snapshot stay as they are, and VM may run meanwhile. "
             "Its network cards are unplugged, or on the bridge that is named: choose one that VM is "
             "not on, for a guest that goes on keeps VM's addresses until it reads its cards anew.",
     .options = snapshot_clone_options,
     .run = cmd_snapshot_clone,
     .examples = {{"godwit vm snapshot clone web-01 before-upgrade web-01-test", "beside it, unplugged"},
                  {"godwit vm snapshot clone web-01 before-upgrade try --cold --nic-bridge br-test",
                   "boots, on another network"}}},
    {.words = "vm snapshot rm",
     .operands = "VM NAME...",
     .summary = "remove snapshots for good",
     .run = cmd_snapshot_rm,
     .examples = {{"godwit vm snapshot rm web-01 before-upgrade", "after a question"},
                  {"godwit vm snapshot rm -y web-01 one two", "two, without"}}},
    {.words = "job ls",
     .operands = "",
     .summary = "what is under way",
     .options = job_ls_options,
     .lists = true,
     .watches = true,
     .run = cmd_job_ls,
     .examples = {{"godwit job ls", "now"},
                  {"godwit job ls --all --sort-by -created_unix_ms",
                   "and all before, newest first"}}},
    {.words = "job show",
     .operands = "JOB",
     .summary = "one job: its step, its state, its VM",
     .run = cmd_job_show,
     .examples = {{"godwit job show J4K7Q2A", "on a page"},
                  {"godwit job show J4K -o json", "by a unique prefix, for a script"}}},
    {.words = "job watch",
     .operands = "JOB",
     .summary = "stand by until a job has ended",
     .more = "Ctrl-C leaves it running; a second one within 3 s cancels it. The exit code is the "
             "job's.",
     .options = job_watch_options,
     .run = cmd_job_watch,
     .examples = {{"godwit job watch J4K7Q2A", "with progress"},
                  {"godwit job watch J4K7Q2A --progress none", "only for its exit code"}}},
    {.words = "job set",
     .operands = "JOB",
     .summary = "change the goals of a move while it runs",
     .more = "What is not named stays as it was. Too late once the guest is about to be paused.",
     .options = job_set_options,
     .run = cmd_job_set,
     .examples = {{"godwit job set J4K7Q2A --policy finish", "slow its writers until it fits"},
                  {"godwit job set J4K --max-downtime 300ms --bandwidth 1GiB/s",
                   "a longer pause, a faster wire"}}},
    {.words = "job cancel",
     .operands = "JOB",
     .summary = "stop a move; its VM stays where it is",
     .run = cmd_job_cancel,
     .examples = {{"godwit job cancel J4K7Q2A", "by id"},
                  {"godwit job cancel J4K", "by a unique prefix"}}},
    {.words = "job report",
     .operands = "JOB",
     .summary = "the receipt of a move: phases, rounds, downtime, costs, proof",
     .run = cmd_job_report,
     .examples = {{"godwit job report J4K7Q2A", "to read"},
                  {"godwit job report J4K7Q2A -o json", "to keep"}}},
    {.words = "doctor",
     .operands = "",
     .summary = "check this machine and the pool, with advice",
     .run = cmd_doctor,
     .examples = {{"godwit doctor", "before anything else"},
                  {"godwit doctor --dir ~/godwit", "with a pool in another folder"}}},
    {.words = "demo",
     .operands = "",
     .summary = "a pool on this machine, a guest, a move, a receipt; leaves nothing behind",
     .run = cmd_demo,
     .examples = {{"godwit demo", "as root, with /dev/kvm"},
                  {"NO_COLOR=1 godwit demo", "without colours"}}},
    {.words = "explain",
     .operands = "[CODE]",
     .summary = "what an error code means; without one, all of them",
     .run = cmd_explain,
     .examples = {{"godwit explain GW-2104", "by its code"},
                  {"godwit explain cpu-compat", "by its name"}}},
    {.words = "completion",
     .operands = "SHELL",
     .summary = "completion for bash, zsh or fish",
     .run = cmd_completion,
     .examples = {{"source <(godwit completion bash)", "in this shell"},
                  {"godwit completion fish > ~/.config/fish/completions/godwit.fish", "for ever"}}},
    {.words = "version",
     .operands = "",
     .summary = "the version of this command",
     .run = cmd_version,
     .examples = {{"godwit version", "as text"}, {"godwit version -o json", "for a script"}}},
};

const struct command_table command_table = {
    .commands = commands,
    .count = ARRAY_COUNT(commands),
    .global = global_options,
    .listing = listing_options,
    .watch = watch_options,
};

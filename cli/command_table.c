#include "cli/command_table.h"

#include "base/own.h"
#include "cli/cmd_completion.h"
#include "cli/cmd_console.h"
#include "cli/cmd_demo.h"
#include "cli/cmd_doctor.h"
#include "cli/cmd_explain.h"
#include "cli/cmd_host.h"
#include "cli/cmd_import.h"
#include "cli/cmd_job.h"
#include "cli/cmd_migrate.h"
#include "cli/cmd_plan.h"
#include "cli/cmd_pool.h"
#include "cli/cmd_rule.h"
#include "cli/cmd_simulate.h"
#include "cli/cmd_status.h"
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
    {.name = "no-start", .type = COMMAND_FLAG, .help = "define it, but do not start it"},
    {0}};

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

static const struct command_option vm_rm_options[] = {
    {.name = "stop", .type = COMMAND_FLAG, .help = "also when it runs: stop it first"}, {0}};

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
     .choices = "auto|off|lz4",
     .preset = "auto",
     .help = "auto compresses where that is faster"},
    {.name = "verify",
     .type = COMMAND_FLAG,
     .help = "read all memory anew on both sides inside the pause (a longer pause)"},
    {.name = "dry-run", .type = COMMAND_FLAG, .help = "check and plan only"},
    {.name = "no-wait", .type = COMMAND_FLAG, .help = "print the job's id and leave"},
    PROGRESS_OPTION,
    {0}};

static const struct command_option job_ls_options[] = {
    {.name = "all", .letter = 'a', .type = COMMAND_FLAG, .help = "ended ones too"}, {0}};

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

static const struct command_option cordon_options[] = {
    {.name = "reason", .type = COMMAND_TEXT, .value = "WORDS", .help = "what others shall read"},
    {0}};

/* Rows of one group stand together: help and completion rely on it. */
static const struct command commands[] = {
    {.words = "status",
     .operands = "",
     .summary = "hosts, VMs, jobs and warnings on one screen",
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
             "that starts the VM.",
     .options = vm_create_options,
     .run = cmd_vm_create,
     .examples = {{"godwit vm create web-01 --kernel /srv/guest.elf --memory 1GiB --vcpus 2",
                   "from flags"},
                  {"godwit vm create -f web-01.yaml --host node1",
                   "from a file, on a chosen host"}}},
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
    {.words = "vm pause",
     .operands = "VM...",
     .summary = "hold VMs still, in memory",
     .run = cmd_vm_pause,
     .examples = {{"godwit vm pause web-01", "one"}, {"godwit vm pause web-01 web-02", "two"}}},
    {.words = "vm resume",
     .operands = "VM...",
     .summary = "let paused VMs run on",
     .run = cmd_vm_resume,
     .examples = {{"godwit vm resume web-01", "one"}, {"godwit vm resume web-01 web-02", "two"}}},
    {.words = "vm console",
     .operands = "VM",
     .summary = "the guest's serial line; it survives a move",
     .more =
         "On a terminal every key goes to the guest, and Ctrl-] leaves. In a script stdin goes "
         "to the guest and its output to stdout: with words on stdin only what comes after them, "
         "without also the last output before. It ends with --until when a line has the text, "
         "without it one quiet second after the end of stdin.",
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
    {.words = "vm schema",
     .operands = "",
     .summary = "the form of a VM's file, as JSON Schema",
     .more = "For editors and checks: what it allows is what vm create -f reads. docs/vm-spec.md "
             "tells the same in words.",
     .run = cmd_vm_schema,
     .examples = {{"godwit vm schema >vm.schema.json", "for an editor"},
                  {"godwit vm schema | jq .properties.disks", "one part of it"}}},
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

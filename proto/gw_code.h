/* Every error an operator can be told, by its code: GW-nnnn, a name, an exit code, what it means.
 *
 * Flow:   coordinator, cli -> [gw_code] -> OperatorError, `godwit explain`
 * Thread: any; constants only.
 *
 * Append only: scripts and documents cite the numbers. The exit code answers the script's question
 * "where is my VM?" (see CLI.md): 5 nothing was changed, 6 it runs on its source, 11 look yourself.
 */
#ifndef GODWIT_PROTO_GW_CODE_H
#define GODWIT_PROTO_GW_CODE_H

#include <stdbool.h>
#include <stddef.h>

enum exit_code {
    EXIT_CODE_DONE = 0,
    EXIT_CODE_FAILED = 1,
    EXIT_CODE_USAGE = 2,
    EXIT_CODE_NOT_FOUND = 3,
    EXIT_CODE_NOT_ALLOWED = 4,
    EXIT_CODE_REFUSED = 5,
    EXIT_CODE_ROLLED_BACK = 6,
    EXIT_CODE_WAIT_TIMED_OUT = 7,
    EXIT_CODE_PARTLY = 8,
    EXIT_CODE_BUSY = 9,
    EXIT_CODE_UNREACHABLE = 10,
    EXIT_CODE_ATTENTION = 11,
    EXIT_CODE_DETACHED = 130,
};

/* enumerator, number, name, exit code, retryable, one sentence */
#define GW_CODE_LIST(X)                                                                            \
    X(GW_USAGE, 1001, "usage", EXIT_CODE_USAGE, false,                                             \
      "The command line has a word, a flag or a value that the command does not know; nothing "    \
      "was sent.")                                                                                 \
    X(GW_INTERNAL, 1002, "internal", EXIT_CODE_FAILED, true,                                       \
      "The coordinator could not carry out the request for a reason of its own (memory, disk); "   \
      "its log has the details.")                                                                  \
    X(GW_COORDINATOR_UNREACHABLE, 1003, "coordinator-unreachable", EXIT_CODE_UNREACHABLE, true,    \
      "The coordinator does not answer at its address; running VMs are not touched by that.")      \
    X(GW_NOT_ALLOWED, 1004, "not-allowed", EXIT_CODE_NOT_ALLOWED, false,                           \
      "The certificate that was shown does not give the right to do this.")                        \
    X(GW_HOST_UNKNOWN, 2101, "host-unknown", EXIT_CODE_NOT_FOUND, false,                           \
      "The pool has no host of that name, and no name begins with it in one way only.")            \
    X(GW_VM_UNKNOWN, 2102, "vm-unknown", EXIT_CODE_NOT_FOUND, false,                               \
      "The pool has no VM of that name or id, and none begins with it in one way only.")           \
    X(GW_VM_BUSY, 2103, "vm-busy", EXIT_CODE_BUSY, true,                                           \
      "A job or another order has the VM; one thing at a time is done to a VM.")                   \
    X(GW_CPU_COMPAT, 2104, "cpu-compat", EXIT_CODE_REFUSED, false,                                 \
      "The host lacks CPU features of the baseline that the guest was started with, so the guest " \
      "could crash there.")                                                                        \
    X(GW_NO_MEMORY, 2105, "no-memory-on-target", EXIT_CODE_REFUSED, true,                          \
      "The host has less free memory than the VM may use.")                                        \
    X(GW_HOST_DOWN, 2106, "host-down", EXIT_CODE_UNREACHABLE, true,                                \
      "The host's agent does not answer; its VMs keep running, but nobody can give it orders.")    \
    X(GW_NO_HOST_FITS, 2107, "no-host-fits", EXIT_CODE_REFUSED, true,                              \
      "Every host was looked at and each has a reason why the VM cannot run there now.")           \
    X(GW_VM_STATE, 2108, "vm-state", EXIT_CODE_REFUSED, false,                                     \
      "The VM is not in a state in which this can be done.")                                       \
    X(GW_NAME_TAKEN, 2109, "name-taken", EXIT_CODE_REFUSED, false,                                 \
      "The pool already has a VM of that name.")                                                   \
    X(GW_SPEC_INVALID, 2110, "spec-invalid", EXIT_CODE_USAGE, false,                               \
      "The description of the VM has a value out of its range; nothing was created.")              \
    X(GW_SAME_HOST, 2111, "same-host", EXIT_CODE_REFUSED, false,                                   \
      "The VM already runs on the host it was to move to.")                                        \
    X(GW_TARGET_REFUSED, 2112, "target-refused", EXIT_CODE_REFUSED, true,                          \
      "The target host could not prepare for the VM; the move did not begin.")                     \
    X(GW_HOST_KVM, 2113, "host-kvm", EXIT_CODE_REFUSED, false,                                     \
      "The host cannot run VMs: its KVM is missing or lacks something that is needed.")            \
    X(GW_POOL_FULL, 2114, "pool-full", EXIT_CODE_REFUSED, false,                                   \
      "The pool holds as many hosts or VMs as this version is tested for.")                        \
    X(GW_AMBIGUOUS, 2115, "ambiguous", EXIT_CODE_USAGE, false,                                     \
      "More than one name or id begins with the word; write one more letter or the whole name.")   \
    X(GW_HOST_CORDONED, 2116, "host-cordoned", EXIT_CODE_REFUSED, false,                           \
      "The host takes no more VMs until it is uncordoned; those that it runs are not touched.")    \
    X(GW_RULE_FORBIDS, 2117, "rule-forbids", EXIT_CODE_REFUSED, false,                             \
      "A hard placement rule forbids the VM that host.")                                           \
    X(GW_GUEST_DEAF, 2140, "guest-deaf", EXIT_CODE_REFUSED, false,                                 \
      "The guest does not listen to its power button (it is paused, still booting, or has no "     \
      "driver for it); `godwit vm stop --force` stops the VM all the same.")                       \
    X(GW_IMPORT_REFUSED, 2150, "import-refused", EXIT_CODE_REFUSED, false,                         \
      "The definition needs what the embedded VMM does not give; the lines say what.")              \
    X(GW_DISK_NOT_SHARED, 2160, "disk-not-shared", EXIT_CODE_REFUSED, false,                       \
      "The VM writes a disk that only its host has; only disks beneath a store that several hosts "\
      "share move in this version.")                                                               \
    X(GW_NO_BRIDGE, 2161, "no-bridge", EXIT_CODE_REFUSED, false,                                   \
      "The host has no bridge of the name that a nic of the VM needs.")                            \
    X(GW_NO_LIBVIRT, 2162, "no-libvirt", EXIT_CODE_REFUSED, true,                                  \
      "The VM is a domain of libvirt, and the host's agent drives no libvirt, or its libvirtd "    \
      "does not answer; a VM never changes its backend.")                                          \
    /* post-copy */                                                                                \
    X(GW_NO_POSTCOPY, 2165, "no-postcopy", EXIT_CODE_REFUSED, false,                               \
      "The host does not let a guest wait for pages of its memory (userfaultfd), or something of " \
      "the VM excludes it; without --postcopy the VM can move there.")                             \
    X(GW_HOST_ALIVE, 2170, "host-alive", EXIT_CODE_REFUSED, false,                                 \
      "The host is said to be down, but it answers, or it has been fenced already.")               \
    X(GW_RESERVE, 2171, "reserve", EXIT_CODE_REFUSED, true,                                        \
      "The pool keeps room for the death of hosts; what was asked would take that room away.")     \
    X(GW_MOVE_ROLLED_BACK, 2201, "move-rolled-back", EXIT_CODE_ROLLED_BACK, true,                  \
      "The move failed before the target took the guest; the VM runs on its source as before.")    \
    X(GW_MOVE_CANCELED, 2202, "move-canceled", EXIT_CODE_ROLLED_BACK, false,                       \
      "The move was canceled; the VM runs on its source as before.")                               \
    X(GW_MOVE_DEADLINE, 2203, "move-deadline", EXIT_CODE_ROLLED_BACK, true,                        \
      "The move did not fit its deadline or its downtime goal; the VM runs on its source.")        \
    X(GW_NEEDS_ATTENTION, 2204, "needs-attention", EXIT_CODE_ATTENTION, false,                     \
      "The guest is paused at its source and its target does not answer; nothing is lost and "     \
      "nothing may be guessed: bring the target back or prove that it is down.")                   \
    X(GW_VM_LOST, 2205, "vm-lost", EXIT_CODE_ATTENTION, false,                                     \
      "The process that held the guest's memory ended during the move; the VM is stopped and "     \
      "can be started anew.")                                                                      \
    X(GW_SOURCE_SILENT, 2209, "source-silent", EXIT_CODE_ATTENTION, false,                         \
      "The move ended before its target took the guest, so it runs nowhere else; the source's "    \
      "host does not answer, so nobody knows whether it runs there: see to that host.")            \
    X(GW_MEMORY_UNPROVEN, 2220, "memory-unproven", EXIT_CODE_ATTENTION, false,                     \
      "The guest runs at its target with all its memory, but its source does not vouch for it: "   \
      "the digests differ or were not compared; look at the guest, or start it anew.")             \
    X(GW_TOKEN_INVALID, 2301, "token-invalid", EXIT_CODE_NOT_ALLOWED, false,                       \
      "The token is damaged, of another pool, or not for this host or for a pool.")                \
    X(GW_TOKEN_USED, 2302, "token-used", EXIT_CODE_NOT_ALLOWED, false,                             \
      "A token lets one host, or one pool, in, once; this one has been used.")                     \
    X(GW_TOKEN_EXPIRED, 2303, "token-expired", EXIT_CODE_NOT_ALLOWED, false,                       \
      "The token is older than it may be (a host's at most 15 minutes, a peer's what --ttl said).") \
    X(GW_HOST_NAME_TAKEN, 2304, "host-name-taken", EXIT_CODE_REFUSED, false,                       \
      "The pool already has a host of that name; a token made for that very name lets a host "     \
      "that was installed anew replace it while it is down.")                                      \
    X(GW_TOKEN_TTL, 2305, "token-ttl", EXIT_CODE_USAGE, false,                                     \
      "A join token lives 900 seconds at most, a peer's 86,400.")                                  \
    X(GW_PEER_KNOWN, 2306, "peer-known", EXIT_CODE_REFUSED, false,                                 \
      "The pool is a peer of this one already, or it is this pool itself.")                        \
    X(GW_PEER_UNKNOWN, 2307, "peer-unknown", EXIT_CODE_NOT_FOUND, false,                           \
      "The pool has no peer of that name, and no peer's id begins with it.")                       \
    X(GW_PEER_FAILED, 2308, "peer-failed", EXIT_CODE_FAILED, true,                                 \
      "The other pool did not answer, refused, or is not the one that the token names; nothing "   \
      "was stored here.")                                                                          \
    X(GW_JOB_UNKNOWN, 2401, "job-unknown", EXIT_CODE_NOT_FOUND, false,                             \
      "The pool has no job of that id, and no id begins with it in one way only.")                 \
    X(GW_JOB_ENDED, 2402, "job-ended", EXIT_CODE_REFUSED, false,                                   \
      "The job is over; there is nothing left to change.")                                         \
    X(GW_START_FAILED, 2403, "start-failed", EXIT_CODE_FAILED, true,                               \
      "The host could not start the VM; it is stopped.")                                           \
    X(GW_ORDER_FAILED, 2404, "order-failed", EXIT_CODE_FAILED, true,                               \
      "The host answered that it could not carry out the order.")                                  \
    X(GW_JOB_TOO_LATE, 2405, "job-too-late", EXIT_CODE_REFUSED, false,                             \
      "The move has passed its commit point; it goes forward only, and ends in a moment.")         \
    X(GW_PLAN_UNKNOWN, 2601, "plan-unknown", EXIT_CODE_NOT_FOUND, false,                           \
      "The pool has no plan of that id, and no id begins with it in one way only.")                \
    X(GW_PLAN_STATE, 2602, "plan-state", EXIT_CODE_REFUSED, false,                                 \
      "The plan is not in a state in which this can be done.")                                     \
    X(GW_PLAN_PARTLY, 2603, "plan-partly", EXIT_CODE_PARTLY, true,                                 \
      "Some steps of the plan could not be done; every VM runs where it is told to be.")           \
    X(GW_PLAN_LATE, 2604, "plan-late", EXIT_CODE_REFUSED, false,                                   \
      "The plan cannot be over by the time that was asked for; nothing was begun.")                \
    X(GW_PLAN_CANCELED, 2605, "plan-canceled", EXIT_CODE_PARTLY, false,                            \
      "The plan was canceled; moves under way rolled back or were finished.")                      \
    X(GW_PLAN_EMPTY, 2606, "plan-empty", EXIT_CODE_REFUSED, false,                                 \
      "There is nothing that the plan could do.")                                                  \
    X(GW_SNAPSHOT_UNKNOWN, 2607, "snapshot-unknown", EXIT_CODE_NOT_FOUND, false,                   \
      "The VM has no snapshot of that name, and no id begins with it in one way only.")            \
    X(GW_RULE_UNKNOWN, 2611, "rule-unknown", EXIT_CODE_NOT_FOUND, false,                           \
      "The pool has no placement rule of that name.")                                              \
    X(GW_RULE_INVALID, 2612, "rule-invalid", EXIT_CODE_USAGE, false,                               \
      "The rule has a part that does not make sense; nothing was stored.")                         \
    X(GW_HOST_BUSY, 2613, "host-busy", EXIT_CODE_BUSY, true,                                       \
      "A plan has the host; one mass operation at a time is done to a host.")                      \
    X(GW_STORE_UNKNOWN, 2701, "store-unknown", EXIT_CODE_NOT_FOUND, false,                         \
      "The pool has no store of that name.")                                                       \
    X(GW_STORE_INVALID, 2702, "store-invalid", EXIT_CODE_USAGE, false,                             \
      "The store has a part that does not make sense; nothing was stored.")                        \
    X(GW_STORE_UNSEEN, 2703, "store-unseen", EXIT_CODE_REFUSED, true,                              \
      "A host does not have the store, does not see the folder that the others share, or cannot "  \
      "write it.")                                                                                 \
    X(GW_STORE_FULL, 2704, "store-full", EXIT_CODE_REFUSED, true,                                  \
      "The store has less room than the disk may take: free space, less what the disks in it may " \
      "still grow by.")                                                                            \
    X(GW_STORE_IN_USE, 2705, "store-in-use", EXIT_CODE_REFUSED, false,                             \
      "Disks of VMs lie in the store; it can be forgotten when they have gone.")                  \
    X(GW_IMAGE_UNKNOWN, 2780, "image-unknown", EXIT_CODE_NOT_FOUND, false,                         \
      "The pool has no image of that name.")                                                       \
    X(GW_IMAGE_INVALID, 2781, "image-invalid", EXIT_CODE_USAGE, false,                             \
      "What was given is no image that can be: its name, its size, its digest or its paths.")      \
    X(GW_IMAGE_IN_USE, 2782, "image-in-use", EXIT_CODE_REFUSED, false,                             \
      "A VM's description names the image, or it is just on its way to a host; disks that were "   \
      "made from it do not need it.")                                                              \
    X(GW_IMAGE_FAILED, 2783, "image-failed", EXIT_CODE_FAILED, true,                               \
      "A host could not take, give or use the image; nothing of it was published there.")          \
    X(GW_BUILD_FAILED, 2784, "build-failed", EXIT_CODE_FAILED, false,                              \
      "The guest that was to build an image did not come to its end: a step failed, it took too "  \
      "long or it ended before its time; no image was made.")                                      \
    X(GW_DR_UNPROTECTED, 2801, "dr-unprotected", EXIT_CODE_NOT_FOUND, false,                       \
      "The VM has no replica on another host, or no VM is in a group of that name: godwit dr "     \
      "protect makes one.")                                                                        \
    X(GW_DR_STATE, 2802, "dr-state", EXIT_CODE_REFUSED, false,                                     \
      "The VM's protection is not in a state in which this can be done; nothing was changed.")     \
    X(GW_DR_NOT_FENCED, 2803, "dr-not-fenced", EXIT_CODE_REFUSED, false,                           \
      "The VM may still run on its old host, which is neither fenced nor confirmed to be down; "   \
      "its replica was not taken.")                                                                \
    X(GW_DR_FAILED, 2804, "dr-failed", EXIT_CODE_FAILED, true,                                     \
      "The replica was not taken over; where the VM is now is told with it.")

enum gw_code {
    GW_NONE = 0,
#define GW_CODE_ENUM(id, number, name, exit_code, retryable, text) id = number,
    GW_CODE_LIST(GW_CODE_ENUM)
#undef GW_CODE_ENUM
};

struct gw_code_row {
    enum gw_code code;
    const char *label; /* "GW-2104" */
    const char *name;  /* "cpu-compat" */
    int exit_code;
    bool retryable;
    const char *text;
};

/* NULL for a number that is not in the table. */
const struct gw_code_row *gw_code_row(int code);
/* By "GW-2104", "gw-2104", "2104" or "cpu-compat"; NULL when there is none. */
const struct gw_code_row *gw_code_find(const char *word);
/* The table in the order of its numbers. */
const struct gw_code_row *gw_code_table(size_t *ret_count);

#endif

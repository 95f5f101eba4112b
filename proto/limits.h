/* Every limit of every wire format, queue and loop, and the relations between them.
 *
 * Flow:   all rooms -> [limits]
 * Thread: constants only.
 */
#ifndef GODWIT_PROTO_LIMITS_H
#define GODWIT_PROTO_LIMITS_H

#include <assert.h>

#include "base/bytes.h"

enum {
    PROTOCOL_VERSION = 1,      /* of every conversation; the lower of two offers is spoken */
    PROTOCOL_VERSION_MIN = 1,

    RPC_HEADER_BYTES = 16,
    RPC_BODY_MAX = 8 << 20,     /* one control message */
    RPC_CALLS_MAX = 256,        /* unanswered calls a connection may have */
    RPC_FDS_MAX = 64,           /* file descriptors with one message on a Unix socket */
    RPC_SEND_QUEUE_MAX = 64 << 20,

    LANES_MAX = 16,
    LANE_EPOCH_MAX = 9999,      /* how often one move may connect anew */
    SNAPSHOTS_A_HOST_MAX = 256,
    BLOCK_PAGES = 512,          /* 2 MiB: the unit that stays on one lane */
    PAGE_FRAME_PAGES_MAX = 64,  /* 256 KiB of guest memory in one frame */
    PAGE_FRAME_HEADER_BYTES = 32,
    PAGE_ENTRY_BYTES = 4,
    PAGE_LINE_BYTES = 64,       /* what a patch of a page is made of */
    PAGE_PATCH_LINES_MAX = 48,  /* beyond that the whole page is sent */
    PAGE_FRAME_BODY_MAX = PAGE_FRAME_PAGES_MAX * (PAGE_BYTES + PAGE_ENTRY_BYTES),
    MOVE_MESSAGE_MAX = 4 << 20, /* one message on a move's control lane */
    REGIONS_MAX = 64,
    ROUNDS_MAX = 1000,

    MACHINE_SECTIONS_MAX = 256,
    MACHINE_STATE_MAX = 2 << 20,

    VCPUS_MAX = 16,
    DISKS_MAX = 12,             /* of a VM's spec; one more is its cloud-init seed */
    NICS_MAX = 8,
    NIC_QUEUES_MAX = 8,         /* pairs of one nic */
    NIC_QUEUES_ALL_MAX = 16,    /* pairs of all nics of a VM */
    DISK_SERIAL_MAX = 20,       /* virtio-blk's */
    NOTICE_PORT_DEFAULT = 1010, /* of the guest's vsock; below 1024: root's in a Linux guest */
    NOTICE_MS_DEFAULT = 1000,
    NOTICE_MS_MAX = 10000,
    CLOUD_INIT_TEXT_MAX = 64 << 10,
    TOKEN_TEXT_MAX = 512,
    SPEC_TEXT_MAX = 256 << 10,
    CMDLINE_MAX = 4095,
    BOOT_FILES_BYTES_MAX = 256 << 20, /* kernel and initrd that travel with a guest */
    HOSTS_MAX = 1000,
    STORES_MAX = 200,           /* of a pool */
    STORE_FILES_MAX = 4000,     /* that are measured at once */
    VMS_MAX = 10000,
    RULES_MAX = 1000,
    RULE_WORDS_MAX = 256,       /* VMs or hosts that a rule names, labels of a host */
    PLAN_STEPS_MAX = 4096,
    CONSOLE_CHUNK_MAX = 16 << 10,
    LOG_TAIL_MAX = 1 << 20,
    IMAGES_MAX = 1000,          /* of a pool, and files of a host */
    IMAGE_CHUNK_BYTES = 1 << 20, /* of one message that carries an image */
    IMAGE_BYTES_MIN = 4096,
};

#define PAGE_DELTA_BYTES_MAX MIB(256) /* that a move remembers of the pages it sent */

#define DISK_BYTES_MIN MIB(1)
#define DISK_BYTES_MAX (UINT64_C(64) << 40)
#define VM_MEMORY_MIN MIB(16)
#define VM_MEMORY_MAX GIB(64)

/* Deadlines, in ms. Every phase has one (INV-3). */
enum {
    CONNECT_MS_MAX = 5000,
    GREET_MS_MAX = 5000,
    PREPARE_MS_MAX = 30000, /* and PREPARE_MS_PER_GIB more for each GiB that is populated */
    PREPARE_MS_PER_GIB = 8000,
    READY_MS_MAX = 2000,    /* after the state was sent; +READY_MS_PER_GIB */
    READY_MS_PER_GIB = 20,
    PAUSE_MS_MAX = 2000,    /* vCPUs must stand still by then */
    DRAIN_MS_MAX = 1500,    /* what devices had begun must have ended by then, inside the pause */
    DISK_SETTLE_MS_MAX = 10000, /* at the target, in the state phase: its disks' medium answers, or never will */
    STARTED_MS_MAX = 2000,  /* after TRANSFER, before asking elsewhere */
    AWAY_MS_MAX = 20000,    /* pre-copy: lost lanes must be back by then, where no goal says otherwise */
    AWAY_MS_LONGEST = 10 * 60 * 1000,
    POSTCOPY_AWAY_MS_MAX = 5 * 60 * 1000, /* the same in post-copy: the guest cannot turn back */
    POSTCOPY_LAST_MS_MAX = 10000, /* the source's last word, once all pages are there */
    REFUSED_MS_MAX = 3000,  /* nobody listens at the target any more: it has ended */
    PARK_ALARM_MS = 5000,
    PARK_FENCE_MS = 15000,
    PEER_SILENT_MS = 10000, /* TCP_USER_TIMEOUT and keepalive of every channel */
    HEARTBEAT_MS = 1000,
    HOST_SUSPECT_MS = 4000,
    TOKEN_MS_MAX = 15 * 60 * 1000,
};

static_assert(8 + DISKS_MAX + 1 + NIC_QUEUES_ALL_MAX <= RPC_FDS_MAX,
              "all descriptors of a VM fit one message");
static_assert(DRAIN_MS_MAX < PAUSE_MS_MAX, "a pause that cannot be one is told before its deadline");
static_assert(DISK_SETTLE_MS_MAX > READY_MS_MAX + READY_MS_PER_GIB * (VM_MEMORY_MAX / GIB(1)),
              "a disk is not given up while the source still waits");
static_assert(PAGE_FRAME_PAGES_MAX <= BLOCK_PAGES, "a frame never leaves its block");
static_assert(BLOCK_PAGES % 64 == 0, "a block's dirty bits are whole words");
static_assert(MACHINE_STATE_MAX < MOVE_MESSAGE_MAX, "a machine's state must fit one message");
static_assert(2 * IMAGE_CHUNK_BYTES <= RPC_BODY_MAX, "a part of an image and its words fit a message");
static_assert(MOVE_MESSAGE_MAX <= RPC_BODY_MAX, "what the control lane carries, rpc can relay");

#endif

/* Numbers of the calls and events of net/rpc. Append only; the comment names the message of the
 * request and, after the arrow, of the reply (none: an event).
 */
#ifndef GODWIT_PROTO_METHOD_H
#define GODWIT_PROTO_METHOD_H

enum method {
    /* agent -> godwit-vm */
    METHOD_VM_STATUS = 100,         /* Empty -> VmStatus */
    METHOD_VM_CREATE = 101,         /* VmCreate + fds -> VmStatus */
    METHOD_VM_PAUSE = 102,          /* VmAction -> VmStatus */
    METHOD_VM_RESUME = 103,         /* VmAction -> VmStatus */
    METHOD_VM_QUIT = 104,           /* VmAction -> VmStatus; the process ends after the reply */
    METHOD_VM_MOVE_OUT = 105,       /* MoveOut + fds -> Empty; MoveEvents follow */
    METHOD_VM_MOVE_IN = 106,        /* MoveIn + fd -> Empty; MoveEvents follow */
    METHOD_VM_MOVE_VERDICT = 107,   /* MoveVerdict -> VmStatus */
    METHOD_VM_CONSOLE_ATTACH = 108, /* ConsoleAttach -> ConsoleData (the last bytes written) */
    METHOD_VM_CONSOLE_INPUT = 109,  /* ConsoleData, event */
    METHOD_VM_ATTACH = 110,         /* VmAttach + fds -> VmStatus */
    METHOD_VM_POWER_BUTTON = 112,   /* VmAction -> VmStatus; the guest ends later or never */
    METHOD_VM_MOVE_TUNE = 113,      /* MoveTune -> VmStatus */
    METHOD_VM_LEND = 114,           /* VmAction -> Empty, after VM_LENT was answered */
    METHOD_VM_SUSPEND = 117,        /* VmSuspend + fd -> VmStatus */
    METHOD_VM_SUSPEND_END = 119,    /* VmSuspendEnd -> VmStatus */
    METHOD_VM_LENT = 115,           /* godwit-vm -> who asked: VmLent + fds -> Empty */
    METHOD_VM_MOVE_LANES = 116,     /* MoveLanes + fds -> Empty */
    METHOD_VM_SAMPLE = 118,         /* VmAction -> VmSample, a second later */
    METHOD_VM_COUNTERS = 160,       /* VmAction -> VmCounters */
    METHOD_VM_REBOOT = 165,         /* VmAction -> VmStatus; domains of libvirt, as the next */
    METHOD_VM_RESET = 166,          /* VmAction -> VmStatus */
    METHOD_VM_DISK_MOVE = 170,      /* VmDiskMove + fd -> DiskMoveStatus */
    METHOD_VM_SNAPSHOT = 150,       /* VmSnapshot + fds -> VmSnapshotted, when all is in its files */
    /* a guest that is replicated, and the replica of one */
    METHOD_VM_PROTECT = 180,        /* OrderProtect -> ProtectStatus */
    METHOD_VM_PROTECT_FINISH = 181, /* OrderProtectFinish -> ProtectStatus, when it is over */
    METHOD_VM_PROTECT_END = 182,    /* OrderProtectEnd -> Empty */
    METHOD_VM_PROTECT_LINK = 183,   /* VmProtectLink + fd -> Empty */
    METHOD_VM_REPLICA_IN = 184,     /* OrderReplicaIn + fds: a listening socket, then of a new replica its
                                       journal and its disks -> ReplicaStatus */
    METHOD_VM_REPLICA_TAKE = 185,   /* OrderReplicaTake + fd of the console log -> VmStatus */
    METHOD_VM_REPLICA_STATUS = 186, /* Empty -> ReplicaStatus */
    METHOD_VM_REPLICA_COPY = 553,   /* OrderReplicaCopy + fds: its memory's file, unless it is of disks alone,
                                       then each disk's -> ReplicaCopied */
    METHOD_VM_PROTECT_EVENT = 187,  /* VmProtectEvent, event to every connection, as the next */
    METHOD_VM_REPLICA_EVENT = 188,  /* ReplicaStatus, event */
    /* godwit-vm -> agent, events to every connection */
    METHOD_VM_STATE_EVENT = 120,    /* VmStatus, event */
    METHOD_VM_MOVE_EVENT = 121,     /* MoveEvent, event */
    METHOD_VM_CONSOLE_OUTPUT = 122, /* ConsoleData, event */

    /* agent -> coordinator */
    METHOD_AGENT_HELLO = 200,          /* AgentHello -> AgentWelcome */
    METHOD_AGENT_HEARTBEAT = 201,      /* AgentHeartbeat, event */
    METHOD_AGENT_VM_EVENT = 202,       /* AgentVmEvent, event */
    METHOD_AGENT_MOVE_EVENT = 203,     /* MoveEvent, event */
    METHOD_AGENT_CONSOLE_OUTPUT = 204, /* ConsoleData, event */
    METHOD_AGENT_FOUND = 210,          /* AgentFound, event */
    METHOD_AGENT_SNAPSHOTS = 215,      /* AgentSnapshots, event */
    /* coordinator -> agent */
    METHOD_ORDER_VM_START = 220,        /* OrderVmStart -> VmStatus */
    METHOD_ORDER_VM_STOP = 221,         /* OrderVmStop -> VmStatus */
    METHOD_ORDER_VM_PAUSE = 222,        /* VmAction -> VmStatus */
    METHOD_ORDER_VM_RESUME = 223,       /* VmAction -> VmStatus */
    METHOD_ORDER_MOVE_IN = 224,         /* MoveIn -> MoveInReply */
    METHOD_ORDER_MOVE_OUT = 225,        /* MoveOut -> Empty */
    METHOD_ORDER_MOVE_VERDICT = 226,    /* MoveVerdict -> VmStatus */
    METHOD_ORDER_CONSOLE_ATTACH = 227,  /* ConsoleAttach -> ConsoleData */
    METHOD_ORDER_CONSOLE_INPUT = 228,   /* ConsoleData, event */
    METHOD_ORDER_LOGS = 229,            /* OrderLogs -> LogsReply */
    METHOD_ORDER_VM_STATUS = 230,       /* VmAction -> VmStatus */
    METHOD_ORDER_VM_POWER_BUTTON = 231, /* VmAction -> VmStatus */
    METHOD_ORDER_STAMP_READ = 232,      /* OrderStampRead -> Stamp */
    METHOD_ORDER_STORE_WORD = 233,      /* OrderStoreWord -> Empty */
    METHOD_ORDER_MOVE_CHECK = 234,      /* OrderMoveCheck -> MoveChecked */
    METHOD_ORDER_MOVE_TUNE = 235,       /* MoveTune -> VmStatus */
    METHOD_ORDER_VM_SAMPLE = 238,       /* VmAction -> VmSample */
    METHOD_ORDER_VM_COUNTERS = 260,     /* VmAction -> VmCounters */
    METHOD_ORDER_VM_REBOOT = 265,       /* VmAction -> VmStatus */
    METHOD_ORDER_VM_RESET = 266,        /* VmAction -> VmStatus */
    METHOD_ORDER_VM_UPGRADE = 239,      /* VmUpgrade -> VmUpgraded */
    METHOD_ORDER_VM_SUSPEND = 237,      /* VmSuspend -> VmStatus */

    /* snapshots */
    METHOD_ORDER_SNAPSHOT_TAKE = 270,   /* OrderSnapshot -> SnapshotInfo */
    METHOD_ORDER_SNAPSHOT_REMOVE = 271, /* OrderSnapshot -> Empty */
    METHOD_ORDER_SNAPSHOT_CHECK = 272,  /* OrderSnapshot -> SnapshotInfo, every byte of its memory read */

    METHOD_ORDER_PROBE = 240,  /* OrderProbe -> ProbeReply */
    METHOD_ORDER_EVICT = 241,  /* OrderEvict -> EvictReply */
    METHOD_ORDER_DOMAIN = 245, /* VmAction -> FoundDomain */
    METHOD_ORDER_DOMAIN_AUTOSTART_OFF = 340, /* VmAction -> FoundDomain */
    /* stores */
    METHOD_ORDER_STORE_LOOK = 290, /* OrderStoreLook -> StoreSeen */
    /* coordinator -> agent: images */
    METHOD_ORDER_IMAGE_BEGIN = 280,  /* OrderImageBegin -> ImageState */
    METHOD_ORDER_IMAGE_CHUNK = 281,  /* ImageChunk -> ImageState */
    METHOD_ORDER_IMAGE_END = 282,    /* OrderImageEnd -> ImageState */
    METHOD_ORDER_IMAGE_FETCH = 283,  /* OrderImageFetch -> ImageState */
    METHOD_ORDER_IMAGE_CLONE = 284,  /* OrderImageClone -> ImageCloned */
    METHOD_ORDER_IMAGE_SEAL = 550,   /* OrderImageSeal -> ImageSealed */
    METHOD_ORDER_SNAPSHOT_CLONE = 510, /* OrderSnapshotClone -> SnapshotCloned */
    METHOD_ORDER_IMAGE_REMOVE = 285, /* OrderImageRemove -> ImageState */
    METHOD_ORDER_IMAGE_READ = 286,   /* ImageReadRequest -> ImageData */
    /* agent -> coordinator: images */
    METHOD_AGENT_IMAGES = 288,         /* AgentImages, event */
    METHOD_AGENT_IMAGE_PROGRESS = 289, /* AgentImageProgress, event */

    METHOD_ORDER_DISK_MOVE = 291,  /* OrderDiskMove -> DiskMoveStatus */
    /* disaster recovery */
    METHOD_ORDER_REPLICA_IN = 520,     /* OrderReplicaIn -> ReplicaStatus */
    METHOD_ORDER_PROTECT = 521,        /* OrderProtect -> ProtectStatus */
    METHOD_ORDER_PROTECT_FINISH = 522, /* OrderProtectFinish -> ProtectStatus */
    METHOD_ORDER_PROTECT_END = 523,    /* OrderProtectEnd -> Empty */
    METHOD_ORDER_REPLICA_TAKE = 524,   /* OrderReplicaTake -> VmStatus */
    METHOD_ORDER_REPLICA_DROP = 525,   /* OrderReplicaDrop -> Empty */
    METHOD_ORDER_REPLICA_COPY = 554,   /* OrderReplicaCopy -> ReplicaCopied */
    METHOD_AGENT_REPLICAS = 526,       /* AgentReplicas, event */
    METHOD_AGENT_PROTECT = 527,        /* ProtectStatus, event */
    /* agent -> agent */
    METHOD_PEER_IMAGE_READ = 258, /* ImageReadRequest -> ImageData */
    METHOD_PEER_ALIVE = 250, /* PeerAlive -> PeerAliveReply */

    METHOD_PEER_MOVE = 251, /* PeerMove -> PeerMoveReply */
    /* host without certificate -> coordinator */
    METHOD_ENROL = 300, /* EnrolRequest -> EnrolReply */

    /* operator -> coordinator */
    METHOD_POOL_STATUS = 320,       /* PoolStatusRequest -> PoolStatus */
    METHOD_TOKEN_CREATE = 321,      /* TokenCreate -> TokenReply */
    METHOD_HOST_LIST = 322,         /* HostListRequest -> HostList */
    METHOD_VM_LIST = 323,           /* VmListRequest -> VmList */
    METHOD_VM_CREATE_IN_POOL = 324, /* VmCreateRequest -> ActionReply */
    METHOD_VM_ACTION = 325,         /* VmActionRequest -> ActionReply */
    METHOD_VM_LOGS = 326,           /* VmLogsRequest -> LogsReply */
    METHOD_VM_CONSOLE = 327,        /* VmConsoleRequest -> VmConsoleReply; data events follow */
    METHOD_VM_CONSOLE_DATA = 328,   /* VmConsoleData, event, both ways */
    METHOD_MIGRATE = 329,           /* MigrateRequest -> MigrateReply */
    METHOD_JOB_LIST = 330,          /* JobListRequest -> JobList */
    METHOD_JOB_WATCH = 331,  /* JobWatchRequest -> MigrateReply; JOB_EVENTs follow till the end */
    METHOD_JOB_EVENT = 332,  /* JobInfo, event */
    METHOD_JOB_CANCEL = 333, /* JobCancelRequest -> MigrateReply */
    METHOD_JOB_SET = 334,    /* JobSetRequest -> MigrateReply */
    METHOD_VM_DIRTY_RATE = 338, /* VmDirtyRateRequest -> VmDirtyRateReply */
    METHOD_VM_ADOPT = 350,      /* VmAdoptRequest -> ActionReply */
    METHOD_HOST_SET = 360,      /* HostSetRequest -> HostReply */
    METHOD_RULE_LIST = 361,     /* RuleListRequest -> RuleList */
    METHOD_RULE_ADD = 362,      /* RuleAddRequest -> RuleReply */
    METHOD_RULE_REMOVE = 363,   /* RuleRemoveRequest -> RuleReply */
    METHOD_PLAN_MAKE = 364,     /* PlanMakeRequest -> PlanReply */
    METHOD_PLAN_LIST = 365,     /* PlanListRequest -> PlanList */
    METHOD_PLAN_ACT = 366,      /* PlanActRequest -> PlanReply */
    METHOD_PLAN_WATCH = 367,    /* PlanWatchRequest -> PlanReply; PLAN_EVENTs follow till the end */
    METHOD_PLAN_EVENT = 368,    /* PlanInfo, event */
    METHOD_BALANCE = 369,       /* BalanceRequest -> BalanceReply */
    METHOD_WHY = 370,           /* WhyRequest -> WhyReply */
    METHOD_HA = 380,            /* HaRequest -> HaReply */
    METHOD_EVENTS = 381,        /* EventsRequest -> EventList */
    METHOD_AUDIT = 382,         /* AuditRequest -> AuditList */
    METHOD_POOL_BACKUP = 383,   /* BackupRequest -> BackupReply */
    /* stores */
    METHOD_STORE_LIST = 440,    /* StoreListRequest -> StoreList */
    METHOD_STORE_ADD = 441,     /* StoreAddRequest -> StoreReply */
    METHOD_STORE_REMOVE = 442,  /* StoreRemoveRequest -> StoreReply */
    METHOD_STORE_CHECK = 443,   /* StoreCheckRequest -> StoreReply */
    /* operator -> coordinator: images */
    METHOD_IMAGE_BEGIN = 480,    /* ImageBeginRequest -> ImageBeginReply */
    METHOD_IMAGE_CHUNK = 481,    /* ImageChunk -> ImageState */
    METHOD_IMAGE_END = 482,      /* ImageEndRequest -> ImageReply */
    METHOD_IMAGE_LIST = 483,     /* ImageListRequest -> ImageList */
    METHOD_IMAGE_REMOVE = 484,   /* ImageRemoveRequest -> ImageReply */
    METHOD_IMAGE_COPY = 485,     /* ImageCopyRequest -> ImageReply */
    METHOD_IMAGE_READ = 486,     /* ImageReadRequest -> ImageData */
    METHOD_IMAGE_PROGRESS = 487, /* ImageProgress, event */
    METHOD_DISK_MOVE = 444,     /* DiskMoveRequest -> MigrateReply */
    METHOD_SNAPSHOT = 395,      /* SnapshotRequest -> SnapshotReply */
    METHOD_DR = 540,            /* DrRequest -> DrReply */
    METHOD_IMAGE_SEAL = 551,     /* ImageSealRequest -> ImageReply */
    METHOD_SNAPSHOT_CLONE = 511, /* SnapshotCloneRequest -> ActionReply */
    METHOD_POOL_PEER = 580,      /* PeerRequest -> PeerReply */

    /* pool -> pool: from a client without certificate, then over the line */
    METHOD_PEER_JOIN = 581,  /* PeerJoin -> PeerJoined */
    METHOD_PEER_HELLO = 582, /* PeerHello -> PeerWelcome */
    METHOD_PEER_DR_HOLD = 590,  /* PeerDrHold -> PeerDrHeld */
    METHOD_PEER_DR_WORDS = 591, /* PeerDrWords -> PeerDrWords */
};

#endif

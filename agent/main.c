/* godwit-agent: one per host. Supervises VMs, reports facts, carries out the coordinator's orders.
 *
 * Its end, wanted or not, ends no VM: godwit-vm processes lead sessions of their own, and the next
 * agent adopts them. (Under systemd that needs KillMode=process.) */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent_link.h"
#include "agent/attach.h"
#include "agent/domains.h"
#include "agent/host_facts.h"
#include "agent/images.h"
#include "agent/journal.h"
#include "agent/metrics.h"
#include "agent/orders.h"
#include "agent/peers.h"
#include "agent/protects.h"
#include "agent/quarantine.h"
#include "agent/redial.h"
#include "agent/store_beat.h"
#include "agent/snapshots.h"
#include "agent/standbys.h"
#include "agent/suspend.h"
#include "agent/upgrade.h"
#include "agent/vm_counters.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "agent/watchdog.h"
#include "base/config.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/paths.h"
#include "net/rpc.h"
#include "net/text_server.h"
#include "proto/agent.pb-c.h"
#include "proto/method.h"

enum { PATH_SIZE = 512 };

static const char *arg_dir = PATHS_STATE_DEFAULT "/" PATHS_AGENT_DIR;
static const char *arg_run_dir = PATHS_RUN_DEFAULT;
static const char *arg_vm_program;
static const char *arg_metrics;
static const char *arg_watchdog;
static const char *arg_libvirt, *arg_libvirt_peer;
static bool arg_libvirt_plain;
static const char *arg_log_level = "info";

struct agent {
    struct loop *loop;
    struct config *config;
    struct tls_context *context;
    struct host_facts *facts;
    struct journal *journal;
    struct vm_table *table;
    struct attach *attach;
    struct upgrades *upgrades;
    struct suspends *suspends;
    struct snapshots *snapshots;
    struct protects *protects;
    struct standbys *standbys;
    struct orders *orders;
    struct agent_link *link;
    struct text_server *metrics;
    struct vm_counters *counters; /* for metrics */
    struct peers *peers;
    struct store_beat *beat;
    struct quarantine *quarantine;
    struct watchdog *watchdog; /* NULL: this host has none */
    struct domains *domains;
    struct images *images;
    char evict_nonce[STORE_BEAT_NONCE_SIZE];
    struct loop_signal *term, *interrupt;
    char *ca, *certificate, *key;
    char vm_program[PATH_SIZE], boot_reader[PATH_SIZE];
};

static void print_help(FILE *out)
{
    fputs(
        "usage: godwit-agent [--dir DIR] [--run-dir DIR] [--vm-program PATH] [--log-level LEVEL]\n"
        "\n"
        "Runs the VMs of this host on the orders of its pool's coordinator.\n"
        "A host becomes part of a pool by `godwit pool join TOKEN`, which writes DIR.\n"
        "\n"
        "  --dir DIR          identity and VMs of this host   (" PATHS_STATE_DEFAULT
        "/" PATHS_AGENT_DIR ")\n"
        "  --run-dir DIR      sockets and latches, on tmpfs   (" PATHS_RUN_DEFAULT ")\n"
        "  --vm-program PATH  godwit-vm                       (beside this program)\n"
        "  --metrics ADDR     loopback ADDR:PORT to give metrics at, like 127.0.0.1:9412\n"
        "  --watchdog DEVICE  resets this host when a VM that must end cannot be ended\n"
        "  --libvirt URI      drive the domains of this libvirt too, like qemu:///system\n"
        "  --libvirt-peer URI where other hosts' libvirtd reach it "
        "(qemu+tls://MOVE-ADDRESS/system)\n"
        "  --libvirt-plain    QEMU may send memory without TLS\n"
        "  --log-level LEVEL  error, warn, info or debug      (info)\n"
        "\n"
        "examples:\n"
        "  godwit-agent\n"
        "  godwit-agent --dir /tmp/host1/agent --run-dir /tmp/host1/run --log-level debug\n"
        "\n"
        "SIGTERM ends the agent and no VM.\n",
        out);
}

static int parse_arguments(int argc, char **argv)
{
    enum {
        OPTION_DIR = 256,
        OPTION_RUN_DIR,
        OPTION_VM_PROGRAM,
        OPTION_LOG_LEVEL,
        OPTION_METRICS,
        OPTION_WATCHDOG,
        OPTION_LIBVIRT,
        OPTION_LIBVIRT_PEER,
        OPTION_LIBVIRT_PLAIN,
        OPTION_VERSION
    };
    static const struct option options[] = {
        {"dir", required_argument, NULL, OPTION_DIR},
        {"run-dir", required_argument, NULL, OPTION_RUN_DIR},
        {"vm-program", required_argument, NULL, OPTION_VM_PROGRAM},
        {"log-level", required_argument, NULL, OPTION_LOG_LEVEL},
        {"metrics", required_argument, NULL, OPTION_METRICS},
        {"watchdog", required_argument, NULL, OPTION_WATCHDOG},
        {"libvirt", required_argument, NULL, OPTION_LIBVIRT},
        {"libvirt-peer", required_argument, NULL, OPTION_LIBVIRT_PEER},
        {"libvirt-plain", no_argument, NULL, OPTION_LIBVIRT_PLAIN},
        {"version", no_argument, NULL, OPTION_VERSION},
        {"help", no_argument, NULL, 'h'},
        {0},
    };

    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;) {
        switch (c) {
        case OPTION_DIR:
            arg_dir = optarg;
            break;
        case OPTION_RUN_DIR:
            arg_run_dir = optarg;
            break;
        case OPTION_VM_PROGRAM:
            arg_vm_program = optarg;
            break;
        case OPTION_METRICS:
            arg_metrics = optarg;
            break;
        case OPTION_WATCHDOG:
            arg_watchdog = optarg;
            break;
        case OPTION_LIBVIRT:
            arg_libvirt = optarg;
            break;
        case OPTION_LIBVIRT_PEER:
            arg_libvirt_peer = optarg;
            break;
        case OPTION_LIBVIRT_PLAIN:
            arg_libvirt_plain = true;
            break;
        case OPTION_LOG_LEVEL:
            arg_log_level = optarg;
            if (log_level_from_name(optarg) < 0) {
                fputs("godwit-agent: --log-level is error, warn, info or debug\n", stderr);
                return 2;
            }
            log_set_level((enum log_level)log_level_from_name(optarg));
            break;
        case OPTION_VERSION:
            puts("godwit-agent " GODWIT_VERSION);
            exit(0);
        case 'h':
            print_help(stdout);
            exit(0);
        default:
            fputs("try: godwit-agent --help\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "godwit-agent: unexpected '%s'; try: godwit-agent --help\n", argv[optind]);
        return 2;
    }
    return 0;
}

/* ---- what VMs do goes up ---- */
static void on_vm(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;
    Godwit__AgentVmEvent event;

    if (agent->link && vm_word_event(entry, &event))
        agent_link_send(agent->link, METHOD_AGENT_VM_EVENT, &event.base);
    orders_on_vm(agent->orders, entry);
}

static void on_move(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    struct agent *agent = data;

    if (event->has_lanes_wanted)
        redial_begin(agent->loop, entry, event);
    else if (agent->link)
        agent_link_send(agent->link, METHOD_AGENT_MOVE_EVENT, &event->base);
}

static void on_console(void *data, struct vm_entry *entry, const Godwit__ConsoleData *event)
{
    struct agent *agent = data;

    for (size_t i = 0; i < entry->session_count; i++) {
        Godwit__ConsoleData up = *event;
        up.has_session = true;
        up.session = entry->sessions[i];
        agent_link_send(agent->link, METHOD_AGENT_CONSOLE_OUTPUT, &up.base);
    }
}

static void on_wants_backends(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;

    attach_begin(agent->attach, entry);
}

static void on_ended(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;

    orders_on_ended(agent->orders, entry);
}

static void on_discarded(void *data, struct vm_entry *entry, bool has_run)
{
    struct agent *agent = data;

    orders_on_discarded(agent->orders, entry, has_run);
}

static int on_open_domain(void *data, struct vm_entry *entry, bool inherit, int *ret_fd,
                          struct fault *fault)
{
    struct agent *agent = data;

    return domains_open(agent->domains, entry, inherit, ret_fd, fault);
}

static void on_kill_domain(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;

    domains_kill(agent->domains, entry);
}

static void on_welcome(void *data)
{
    struct agent *agent = data;

    domains_tell(agent->domains);
    images_tell(agent->images);
    snapshots_tell(agent->snapshots);
    standbys_tell(agent->standbys);
    protects_tell(agent->protects);
}

static void tell_snapshots(void *data, const Godwit__AgentSnapshots *all)
{
    struct agent *agent = data;

    if (agent->link && agent_link_is_welcome(agent->link))
        agent_link_send(agent->link, METHOD_AGENT_SNAPSHOTS, &all->base);
}

static void on_domains_known(void *data)
{
    struct agent *agent = data;

    orders_on_domains_known(agent->orders);
}

static int set_up_snapshots(struct agent *agent, const char *name, struct fault *fault)
{
    const struct snapshots_config config = {
        .loop = agent->loop,
        .table = agent->table,
        .host = name,
        .state_dir = arg_dir,
        .tell = tell_snapshots,
        .on_domains_known = on_domains_known,
        .data = agent,
    };

    int r = snapshots_new(&agent->snapshots, &config, fault);
    if (r == 0)
        orders_set_snapshots(agent->orders, agent->snapshots);
    return r;
}

/* ---- disaster recovery ---- */
static void on_protect(void *data, struct vm_entry *entry, const Godwit__VmProtectEvent *event)
{
    struct agent *agent = data;

    if (agent->protects)
        protects_on_event(agent->protects, entry, event);
}

static void tell_protect(void *data, const Godwit__ProtectStatus *status)
{
    struct agent *agent = data;

    if (agent->link && agent_link_is_welcome(agent->link))
        agent_link_send(agent->link, METHOD_AGENT_PROTECT, &status->base);
}

static void tell_replicas(void *data, const Godwit__AgentReplicas *all)
{
    struct agent *agent = data;

    if (agent->link && agent_link_is_welcome(agent->link))
        agent_link_send(agent->link, METHOD_AGENT_REPLICAS, &all->base);
}

static void start_vm(void *data, const Godwit__OrderVmStart *order, struct rpc_request *request)
{
    struct agent *agent = data;

    orders_start(agent->orders, order, request);
}

static int set_up_dr(struct agent *agent, struct fault *fault)
{
    const struct protects_config protects = {
        .loop = agent->loop, .table = agent->table, .tell = tell_protect, .data = agent};
    const struct standbys_config standbys = {
        .loop = agent->loop,
        .table = agent->table,
        .facts = agent->facts,
        .state_dir = arg_dir,
        .run_dir = arg_run_dir,
        .program = agent->vm_program,
        .log_level = arg_log_level,
        .failpoints_path = getenv("GODWIT_FAILPOINTS"),
        .tell = tell_replicas,
        .start = start_vm,
        .data = agent,
    };

    int r = protects_new(&agent->protects, &protects, fault);
    if (r == 0)
        r = standbys_new(&agent->standbys, &standbys, fault);
    if (r == 0)
        orders_set_dr(agent->orders, agent->protects, agent->standbys);
    return r;
}

static void on_upgrade_move(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    struct agent *agent = data;

    upgrade_on_move(agent->upgrades, entry, event);
}

static void on_upgrade_lent(void *data, struct vm_entry *entry, const Godwit__VmLent *lent,
                            struct rpc_request *request)
{
    struct agent *agent = data;

    upgrade_on_lent(agent->upgrades, entry, lent, request);
}

static void on_upgrade_ended(void *data, struct vm_entry *entry, const char *how)
{
    struct agent *agent = data;

    upgrade_on_ended(agent->upgrades, entry, how);
}

static void on_suspended(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;

    suspend_on_waiting(agent->suspends, entry);
}

static void on_find(void *data, struct vm_entry *entry)
{
    struct agent *agent = data;

    upgrade_on_find(agent->upgrades, entry);
}

static void on_settled(void *data)
{
    struct agent *agent = data;

    log_info("main", "ready: %zu VMs known, %zu run", vm_table_count(agent->table),
             vm_table_running(agent->table));
    orders_on_settled(agent->orders);
    agent_link_start(agent->link);
}

static void on_lost(void *data)
{
    orders_on_lost(data);
}

static void on_signal(void *data, int signal_number)
{
    struct agent *agent = data;

    log_info("main", "signal %d: the agent ends, %zu VMs run on", signal_number,
             vm_table_running(agent->table));
    loop_stop(agent->loop);
}

static void write_metrics(void *data, FILE *out)
{
    const struct agent *agent = data;

    metrics_write(agent->table, agent->counters, agent->link && agent_link_is_welcome(agent->link),
                  out);
}

/* ---- HA ---- */
static void on_quarantined(void *data)
{
    struct agent *agent = data;

    agent_link_again(agent->link);
}

static void on_quarantine(void *data, const Godwit__AgentWelcome *welcome)
{
    struct agent *agent = data;

    orders_on_quarantine(agent->orders, welcome, on_quarantined, agent);
}

/* Word on the shared store: this host was cut off and counts as dead. Confirmed when all has ended.
 */
static void on_evicted(void *data)
{
    struct agent *agent = data;

    store_beat_evicted(agent->beat, agent->evict_nonce);
    agent_link_again(agent->link);
}

static void on_evict(void *data, const char *nonce)
{
    struct agent *agent = data;

    log_warn("main", "evicted over the shared store: all VMs of this host end");
    (void)snprintf(agent->evict_nonce, sizeof agent->evict_nonce, "%s", nonce);
    quarantine_begin(agent->quarantine, NULL, on_evicted, agent);
}

/* The journal's lines come back before the table exists. */
static void on_journal_entry(void *data, const struct journal_entry *entry)
{
    struct vm_table *table = data;

    vm_table_note_generation(table, entry->vm_id, entry->generation);
}

/* ---- setting up ---- */
static int find_vm_program(struct agent *agent, struct fault *fault)
{
    if (arg_vm_program) {
        int r = path_join(agent->vm_program, PATH_SIZE, fault, "%s", arg_vm_program);
        if (r < 0)
            return r;
    } else {
        ssize_t n = readlink("/proc/self/exe", agent->vm_program, PATH_SIZE - 16);
        if (n <= 0)
            return fault_set(fault, ERR_IO, "finding out where this program lies");
        agent->vm_program[n] = 0;
        char *slash = strrchr(agent->vm_program, '/');
        (void)snprintf(slash ? slash + 1 : agent->vm_program, 16, "godwit-vm");
    }
    if (access(agent->vm_program, X_OK) < 0)
        return fault_set(fault, ERR_NOT_FOUND, "there is no program %s", agent->vm_program);
    const char *slash = strrchr(agent->vm_program, '/');
    size_t folder = slash ? (size_t)(slash - agent->vm_program) + 1 : 0;
    return path_join(agent->boot_reader, PATH_SIZE, fault, "%.*sgodwit-boot-reader", (int)folder,
                     agent->vm_program); /* beside it; missed only by who boots from a disk */
}

static int read_text(const char *name, char **ret_text, struct fault *fault)
{
    char path[PATH_SIZE];
    int r = path_join(path, sizeof path, fault, "%s/%s", arg_dir, name);
    return r < 0 ? r : file_read(path, ret_text, NULL, fault);
}

static int read_identity(struct agent *agent, const char **ret_name, const char **ret_coordinator,
                         const char **ret_move_address, struct fault *fault)
{
    char path[PATH_SIZE];

    int r = path_join(path, sizeof path, fault, "%s/" PATHS_AGENT_CONFIG, arg_dir);
    if (r == 0)
        r = config_read(&agent->config, path, fault);
    if (r == ERR_NOT_FOUND)
        fault_hint(fault, "godwit pool join TOKEN");
    if (r == 0)
        r = config_need(agent->config, "name", ret_name, fault);
    if (r == 0)
        r = config_need(agent->config, "coordinator", ret_coordinator, fault);
    if (r == 0)
        r = config_need(agent->config, "move_address", ret_move_address, fault);
    if (r == 0)
        r = read_text(PATHS_CA_CERTIFICATE, &agent->ca, fault);
    if (r == 0)
        r = read_text("host.crt", &agent->certificate, fault);
    if (r == 0)
        r = read_text("host.key", &agent->key, fault);
    if (r < 0)
        return r;
    const struct tls_identity identity = {
        .ca_certificate = agent->ca, .certificate = agent->certificate, .key = agent->key};
    return tls_context_new(&agent->context, &identity, fault);
}

/* Our own points, too; the descriptor stays open for good, as failpoint wants it. */
static int arm_failpoints(const char *path, struct fault *fault)
{
    log_warn("main",
             "TEST MODE: this agent, and VMs started from now on, obey the failpoints in %s", path);
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, ERR_IO, errno, "opening %s", path);
    failpoint_set_file(fd);
    return failpoint_reload(fault);
}

static int set_up_vms(struct agent *agent, struct fault *fault)
{
    char path[PATH_SIZE];
    const struct vm_table_config table = {
        .loop = agent->loop,
        .state_dir = arg_dir,
        .run_dir = arg_run_dir,
        .program = agent->vm_program,
        .log_level = arg_log_level,
        .incarnation = host_facts_incarnation(agent->facts),
        .failpoints_path = getenv("GODWIT_FAILPOINTS"), /* of whoever starts agents here: root */
        .on_vm = on_vm,
        .on_move = on_move,
        .on_console = on_console,
        .on_protect = on_protect,
        .on_ended = on_ended,
        .on_discarded = on_discarded,
        .on_wants_backends = on_wants_backends,
        .open_domain = on_open_domain,
        .kill_domain = on_kill_domain,
        .on_upgrade_move = on_upgrade_move,
        .on_upgrade_lent = on_upgrade_lent,
        .on_upgrade_ended = on_upgrade_ended,
        .on_suspended = on_suspended,
        .on_find = on_find,
        .on_settled = on_settled,
        .data = agent,
    };

    int r = table.failpoints_path ? arm_failpoints(table.failpoints_path, fault) : 0;
    if (r == 0)
        r = vm_table_new(&agent->table, &table, fault);
    if (r == 0)
        r = attach_new(&agent->attach, agent->loop, agent->table, agent->facts, fault);
    if (r == 0)
        r = upgrades_new(&agent->upgrades, agent->loop, agent->table, agent->facts, fault);
    if (r == 0)
        r = suspends_new(&agent->suspends, agent->loop, agent->table, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/journal", arg_dir);
    if (r == 0)
        r = journal_new(&agent->journal, agent->loop, path, on_journal_entry, agent->table, fault);
    if (r == 0) {
        vm_table_set_journal(agent->table, agent->journal);
        r = orders_new(&agent->orders, agent->loop, agent->table, agent->facts, agent->boot_reader,
                       fault);
    }
    if (r == 0)
        orders_set_upgrades(agent->orders, agent->upgrades, agent->suspends);
    return r;
}

static int set_up_ha(struct agent *agent, const char *name, const char *move_address,
                     struct fault *fault)
{
    const char *folder = config_get(agent->config, "heartbeat_dir");
    const char *device = arg_watchdog ? arg_watchdog : config_get(agent->config, "watchdog");
    struct fault why = {0};

    int r = device ? watchdog_new(&agent->watchdog, agent->loop, device, fault) : 0;
    if (r == 0)
        r = quarantine_new(&agent->quarantine, agent->loop, agent->table, agent->facts, fault);
    if (r == 0)
        quarantine_set_watchdog(agent->quarantine, agent->watchdog);
    if (r == 0)
        r = peers_new(&agent->peers, agent->loop, agent->context, agent->facts, name, move_address,
                      fault);
    if (r == 0 && folder &&
        store_beat_new(&agent->beat, agent->loop, agent->facts, name, folder, on_evict, agent,
                       &why) < 0)
        log_error("main", "no storage heartbeat in %s: %s", folder, why.text);
    if (r == 0)
        orders_set_ha(agent->orders, agent->peers, agent->beat, agent->quarantine);
    return r;
}

static int set_up_images(struct agent *agent, struct fault *fault)
{
    char path[PATH_SIZE];

    int r = path_join(path, sizeof path, fault, "%s/images", arg_dir);
    if (r == 0)
        r = images_new(&agent->images, agent->loop, agent->context, path, fault);
    if (r == 0) {
        orders_set_images(agent->orders, agent->images);
        peers_set_images(agent->peers, agent->images);
    }
    return r;
}

/* The command line before the host's own file. */
static int set_up_domains(struct agent *agent, const char *name, const char *move_address,
                          struct fault *fault)
{
    const char *uri = arg_libvirt ? arg_libvirt : config_get(agent->config, "libvirt");
    const char *peer =
        arg_libvirt_peer ? arg_libvirt_peer : config_get(agent->config, "libvirt_peer");
    const char *plain = config_get(agent->config, "libvirt_plain");
    const struct domains_config config = {
        .loop = agent->loop,
        .context = agent->context,
        .host = name,
        .uri = uri,
        .peer_uri = peer,
        .move_address = move_address,
        .plain = arg_libvirt_plain || (plain && strcmp(plain, "yes") == 0),
    };

    if (!uri)
        return 0;
    int r = domains_new(&agent->domains, &config, fault);
    if (r == 0)
        orders_set_domains(agent->orders, agent->domains);
    return r;
}

static int set_up(struct agent *agent, struct fault *fault)
{
    const char *name, *coordinator, *move_address;

    int r = find_vm_program(agent, fault);
    if (r == 0)
        r = loop_new(&agent->loop, fault);
    if (r == 0)
        r = read_identity(agent, &name, &coordinator, &move_address, fault);
    if (r == 0)
        r = dir_make(arg_run_dir, fault);
    if (r == 0)
        r = host_facts_new(&agent->facts, name, move_address, arg_run_dir, fault);
    if (r == 0)
        r = set_up_vms(agent, fault);
    if (r == 0)
        r = set_up_snapshots(agent, name, fault);
    if (r == 0)
        r = set_up_dr(agent, fault);
    if (r == 0)
        r = set_up_ha(agent, name, move_address, fault);
    if (r == 0)
        r = set_up_images(agent, fault);
    if (r == 0)
        r = set_up_domains(agent, name, move_address, fault);
    if (r < 0)
        return r;

    size_t method_count;
    const struct rpc_method *methods = orders_methods(&method_count);
    const struct agent_link_config link = {
        .loop = agent->loop,
        .address = coordinator,
        .context = agent->context,
        .facts = agent->facts,
        .table = agent->table,
        .held = orders_held(agent->orders),
        .awaits = orders_awaits(agent->orders),
        .methods = methods,
        .method_count = method_count,
        .on_welcome = on_welcome,
        .on_lost = on_lost,
        .on_quarantine = on_quarantine,
        .quarantine_data = agent,
        .data = agent->orders,
    };
    r = agent_link_new(&agent->link, &link, fault);
    images_set_link(agent->images, agent->link);
    if (r == 0 && arg_metrics)
        r = vm_counters_new(&agent->counters, agent->loop, agent->table, fault);
    if (r == 0 && arg_metrics)
        r = text_server_new(&agent->metrics, agent->loop, arg_metrics, "/metrics", write_metrics,
                            agent, fault);
    if (r == 0)
        r = loop_signal_new(&agent->term, agent->loop, SIGTERM, on_signal, agent, fault);
    if (r == 0)
        r = loop_signal_new(&agent->interrupt, agent->loop, SIGINT, on_signal, agent, fault);
    if (r < 0)
        return r;
    log_info("main", "agent of host %s incarnation=%.8s coordinator=%s move_address=%s", name,
             host_facts_incarnation(agent->facts), coordinator, move_address);
    r = vm_table_load(agent->table, fault);
    if (r == 0)
        standbys_load(agent->standbys);
    if (r == 0 && agent->domains) {
        domains_set_link(agent->domains, agent->link);
        domains_start(agent->domains, agent->table, agent->peers, agent->snapshots);
    }
    return r;
}

static void tear_down(struct agent *agent)
{
    agent->metrics = text_server_free(agent->metrics);
    domains_set_link(agent->domains, NULL);
    images_set_link(agent->images, NULL);
    agent->link = agent_link_free(agent->link);
    images_stop(agent->images);
    orders_stop(agent->orders);
    attach_stop(agent->attach);
    upgrades_stop(agent->upgrades);
    suspends_stop(agent->suspends);
    snapshots_stop(agent->snapshots);
    protects_stop(agent->protects);
    standbys_stop(agent->standbys);
    agent->peers = peers_free(agent->peers);
    agent->images = images_free(agent->images);
    agent->beat = store_beat_free(agent->beat);
    agent->quarantine = quarantine_free(agent->quarantine);
    agent->watchdog = watchdog_free(agent->watchdog);
    agent->table = vm_table_free(agent->table);
    agent->counters = vm_counters_free(agent->counters);
    agent->domains = domains_free(agent->domains);
    agent->attach = attach_free(agent->attach);
    agent->upgrades = upgrades_free(agent->upgrades);
    agent->suspends = suspends_free(agent->suspends);
    agent->snapshots = snapshots_free(agent->snapshots);
    agent->protects = protects_free(agent->protects);
    agent->standbys = standbys_free(agent->standbys);
    agent->orders = orders_free(agent->orders);
    agent->journal = journal_free(agent->journal);
    agent->facts = host_facts_free(agent->facts);
    if (agent->term)
        (void)loop_signal_free(agent->term);
    if (agent->interrupt)
        (void)loop_signal_free(agent->interrupt);
    agent->context = tls_context_free(agent->context);
    agent->config = config_free(agent->config);
    agent->loop = loop_free(agent->loop);
    free(agent->ca);
    free(agent->certificate);
    if (agent->key)
        explicit_bzero(agent->key, strlen(agent->key));
    free(agent->key);
}

int main(int argc, char **argv)
{
    struct agent agent = {0};
    struct fault fault = {0};

    log_set_program("godwit-agent");
    int r = parse_arguments(argc, argv);
    if (r)
        return r;
    signal(SIGPIPE, SIG_IGN);
    /* A store that hangs holds workers for as long as it does; journal and VM files need some too.
     */
    (void)setenv("UV_THREADPOOL_SIZE", "64", 0);
    (void)umask(077);
    r = set_up(&agent, &fault);
    if (r < 0) {
        log_error("main", "cannot start: %s", fault.text);
        if (fault.hint[0])
            log_error("main", "hint: %s", fault.hint);
    } else {
        loop_run(agent.loop);
    }
    tear_down(&agent);
    return r < 0 ? 1 : 0;
}

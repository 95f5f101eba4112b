#include "proto/vm_spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "proto/limits.h"

static bool is_given(const char *text)
{
    return text && text[0];
}

static bool is_word_of(const char *text, const char *a, const char *b)
{
    return !is_given(text) || strcmp(text, a) == 0 || strcmp(text, b) == 0;
}

/* "a/b.raw": no step out, no empty step, nothing of the pool's own folder. */
static bool path_is_beneath(const char *path)
{
    if (path[0] == '/' || !path[0])
        return false;
    for (const char *at = path; at;) {
        const char *end = strchr(at, '/');
        size_t count = end ? (size_t)(end - at) : strlen(at);
        if (count == 0 || (count == 1 && at[0] == '.') || (count == 2 && memcmp(at, "..", 2) == 0) ||
            (count == 7 && memcmp(at, ".godwit", 7) == 0))
            return false;
        at = end ? end + 1 : NULL;
    }
    return true;
}

/* ---- disks ---- */
/* Of a disk that is made from an image the coordinator fills in what is absent. */
static int judge_clone_place(const Godwit__DiskSpec *disk, unsigned index, struct fault *fault)
{
    if (is_given(disk->store) && disk->store[0] != '/' && !id_name_is_valid(disk->store))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].store: found '%.120s'; a store's name or the absolute path of "
                         "a folder would fit",
                         index, disk->store);
    if (is_given(disk->file) && !path_is_beneath(disk->file))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].file: found '%.120s'; a path beneath the store, without '..', "
                         "would fit",
                         index, disk->file);
    return 0;
}

static int judge_clone(const Godwit__DiskSpec *disk, unsigned index, struct fault *fault)
{
    if (!id_name_is_valid(disk->image))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].image: found '%.70s'; the name of an image would fit", index,
                         disk->image);
    if (is_given(disk->path))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u]: a disk is made from an image beneath a store only; found a "
                         "path",
                         index);
    if (disk->read_only)
        return fault_set(fault, ERR_INVALID,
                         "disks[%u]: a disk that is made from an image cannot be read only", index);
    if (is_given(disk->image_digest) && !vm_spec_digest_is_valid(disk->image_digest))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].image_digest: found '%.80s'; 64 hex digits would fit", index,
                         disk->image_digest);
    return 0;
}

static int judge_disk_place(const Godwit__DiskSpec *disk, unsigned index, struct fault *fault)
{
    if (vm_spec_disk_is_clone(disk) && !is_given(disk->path) &&
        !(is_given(disk->store) && is_given(disk->file)))
        return judge_clone_place(disk, index, fault);
    if (is_given(disk->path) == (is_given(disk->store) || is_given(disk->file)))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u]: found %s; either a path, or a store and a file would fit",
                         index, is_given(disk->path) ? "a path beside a store" : "no place");
    if (is_given(disk->path) && disk->path[0] != '/')
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].path: found '%.120s'; an absolute path would fit", index,
                         disk->path);
    if (is_given(disk->path))
        return 0;
    if (!is_given(disk->store) || (disk->store[0] != '/' && !id_name_is_valid(disk->store)))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].store: found '%.120s'; a store's name or the absolute path of "
                         "a folder would fit",
                         index, is_given(disk->store) ? disk->store : "");
    if (is_given(disk->pool_store) && !id_name_is_valid(disk->pool_store))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].pool_store: found '%.80s'; a store's name would fit", index,
                         disk->pool_store);
    if (!is_given(disk->file) || !path_is_beneath(disk->file))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].file: found '%.120s'; a path beneath the store, without '..', "
                         "would fit",
                         index, is_given(disk->file) ? disk->file : "");
    return 0;
}

static int judge_disk(const Godwit__DiskSpec *disk, unsigned index, struct fault *fault)
{
    if (!is_given(disk->name) || !id_name_is_valid(disk->name))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].name: found '%.70s'; a name like 'root' would fit", index,
                         is_given(disk->name) ? disk->name : "");
    int r = vm_spec_disk_is_clone(disk) ? judge_clone(disk, index, fault) : 0;
    if (r == 0 && !vm_spec_disk_is_clone(disk) && is_given(disk->image_digest))
        r = fault_set(fault, ERR_INVALID, "disks[%u].image_digest: an image belongs to it", index);
    if (r == 0)
        r = judge_disk_place(disk, index, fault);
    if (r < 0)
        return r;
    if (is_given(disk->snapshot) &&
        (vm_spec_disk_is_clone(disk) || disk->read_only || !is_given(disk->store) ||
         strlen(disk->snapshot) != ID_TEXT_SIZE - 1 || !id_name_is_valid(disk->snapshot)))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].snapshot: what godwit vm snapshot clone makes lies in a store, "
                         "is written, has no image and names a snapshot by its id",
                         index);
    bool in_store = is_given(disk->store) || vm_spec_disk_is_clone(disk);
    if (disk->shared && !is_given(disk->store))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u]: shared needs a store and a file: the folder is what the hosts "
                         "share",
                         index);
    if (disk->has_size && !in_store)
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].size: a disk is made beneath a store only; without size the "
                         "path must be there",
                         index);
    if (disk->has_size && disk->read_only)
        return fault_set(fault, ERR_INVALID,
                         "disks[%u]: a disk that is made empty cannot be read only", index);
    if (disk->has_size && (disk->size < DISK_BYTES_MIN || disk->size > DISK_BYTES_MAX ||
                           disk->size % 4096 != 0))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].size: found %llu bytes; 1 MiB to 64 TiB in steps of 4 KiB "
                         "would fit",
                         index, (unsigned long long)disk->size);
    if (is_given(disk->serial) && strlen(disk->serial) > DISK_SERIAL_MAX)
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].serial: found %zu letters; %d would fit", index,
                         strlen(disk->serial), DISK_SERIAL_MAX);
    if (!is_word_of(disk->cache, "direct", "host"))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].cache: found '%.40s'; direct or host would fit", index,
                         disk->cache);
    if (!is_word_of(disk->on_error, "report", "pause"))
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].on_error: found '%.40s'; report or pause would fit", index,
                         disk->on_error);
    if (disk->shared && !disk->read_only && is_given(disk->cache) &&
        strcmp(disk->cache, "host") == 0)
        return fault_set(fault, ERR_INVALID,
                         "disks[%u].cache: a shared disk that is written goes past the host's "
                         "cache; direct would fit",
                         index);
    return 0;
}

static bool is_same_place(const Godwit__DiskSpec *a, const Godwit__DiskSpec *b)
{
    if (is_given(a->path) || is_given(b->path))
        return is_given(a->path) && is_given(b->path) && strcmp(a->path, b->path) == 0;
    if (!is_given(a->store) || !is_given(b->store) || !is_given(a->file) || !is_given(b->file))
        return false; /* places that are not filled in yet */
    return strcmp(a->store, b->store) == 0 && strcmp(a->file, b->file) == 0;
}

static int judge_disks(const Godwit__VmSpec *spec, struct fault *fault)
{
    if (spec->n_disks > DISKS_MAX)
        return fault_set(fault, ERR_INVALID, "disks: found %zu, %d would fit", spec->n_disks,
                         DISKS_MAX);
    for (unsigned i = 0; i < spec->n_disks; i++) {
        int r = judge_disk(spec->disks[i], i, fault);
        if (r < 0)
            return r;
        for (unsigned n = 0; n < i; n++) {
            if (strcmp(spec->disks[n]->name, spec->disks[i]->name) == 0)
                return fault_set(fault, ERR_INVALID, "disks[%u].name: '%.70s' is disks[%u] already",
                                 i, spec->disks[i]->name, n);
            if (is_same_place(spec->disks[n], spec->disks[i]))
                return fault_set(fault, ERR_INVALID, "disks[%u]: it is the same as disks[%u]", i, n);
        }
        if (spec->cloud_init && strcmp(spec->disks[i]->name, "cidata") == 0)
            return fault_set(fault, ERR_INVALID,
                             "disks[%u].name: 'cidata' is the disk that cloud_init makes", i);
    }
    return 0;
}

/* ---- nics ---- */
static int judge_nic(const Godwit__NicSpec *nic, unsigned index, struct fault *fault)
{
    uint8_t mac[VM_SPEC_MAC_BYTES];

    if (nic->unplugged && is_given(nic->bridge))
        return fault_set(fault, ERR_INVALID, "nics[%u]: unplugged has no bridge; found '%.40s'",
                         index, nic->bridge);
    if (!nic->unplugged && (!is_given(nic->bridge) || strlen(nic->bridge) > VM_SPEC_BRIDGE_MAX ||
                            !id_name_is_valid(nic->bridge)))
        return fault_set(fault, ERR_INVALID,
                         "nics[%u].bridge: found '%.40s'; a bridge of the host like 'br0' would "
                         "fit",
                         index, is_given(nic->bridge) ? nic->bridge : "");
    if (is_given(nic->mac) && !vm_spec_mac_parse(nic->mac, mac))
        return fault_set(fault, ERR_INVALID,
                         "nics[%u].mac: found '%.40s'; one station's address like "
                         "52:54:00:12:34:56 would fit",
                         index, nic->mac);
    if (nic->has_queues && (nic->queues < 1 || nic->queues > NIC_QUEUES_MAX))
        return fault_set(fault, ERR_INVALID, "nics[%u].queues: found %u; 1 to %d would fit", index,
                         nic->queues, NIC_QUEUES_MAX);
    if (nic->mtu && (nic->mtu < 576 || nic->mtu > 65535))
        return fault_set(fault, ERR_INVALID, "nics[%u].mtu: found %u; 576 to 65535 would fit",
                         index, nic->mtu);
    return 0;
}

static int judge_nics(const Godwit__VmSpec *spec, struct fault *fault)
{
    uint8_t mac[VM_SPEC_MAC_BYTES], other[VM_SPEC_MAC_BYTES];
    unsigned queues = 0;

    if (spec->n_nics > NICS_MAX)
        return fault_set(fault, ERR_INVALID, "nics: found %zu, %d would fit", spec->n_nics,
                         NICS_MAX);
    for (unsigned i = 0; i < spec->n_nics; i++) {
        int r = judge_nic(spec->nics[i], i, fault);
        if (r < 0)
            return r;
        queues += vm_spec_nic_queues(spec->nics[i]);
        for (unsigned n = 0; n < i; n++) {
            if (is_given(spec->nics[i]->mac) && is_given(spec->nics[n]->mac) &&
                vm_spec_mac_parse(spec->nics[i]->mac, mac) &&
                vm_spec_mac_parse(spec->nics[n]->mac, other) && memcmp(mac, other, 6) == 0)
                return fault_set(fault, ERR_INVALID, "nics[%u].mac: '%.20s' is nics[%u]'s already",
                                 i, spec->nics[i]->mac, n);
        }
    }
    if (queues > NIC_QUEUES_ALL_MAX)
        return fault_set(fault, ERR_INVALID, "nics: found %u queues in all, %d would fit", queues,
                         NIC_QUEUES_ALL_MAX);
    return 0;
}

/* ---- the rest ---- */
static int judge_cloud_init(const Godwit__CloudInitSpec *cloud, struct fault *fault)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"user_data", cloud->user_data},
                 {"meta_data", cloud->meta_data},
                 {"network_config", cloud->network_config}};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i].text && strlen(texts[i].text) > CLOUD_INIT_TEXT_MAX)
            return fault_set(fault, ERR_INVALID, "cloud_init.%s: found %zu bytes, %d would fit",
                             texts[i].name, strlen(texts[i].text), CLOUD_INIT_TEXT_MAX);
    }
    return 0;
}

uint64_t vm_spec_notice_ms(const Godwit__VmSpec *spec)
{
    if (!spec->vsock)
        return 0;
    return spec->vsock->has_notice_ms ? spec->vsock->notice_ms : NOTICE_MS_DEFAULT;
}

uint32_t vm_spec_notice_port(const Godwit__VmSpec *spec)
{
    return spec->vsock && spec->vsock->has_notice_port ? spec->vsock->notice_port
                                                       : NOTICE_PORT_DEFAULT;
}

int vm_spec_judge(const Godwit__VmSpec *spec, struct fault *fault)
{
    int r = judge_disks(spec, fault);
    if (r == 0)
        r = judge_nics(spec, fault);
    if (r == 0 && spec->cloud_init)
        r = judge_cloud_init(spec->cloud_init, fault);
    if (r < 0)
        return r;
    if (spec->vsock && spec->vsock->has_cid && spec->vsock->cid < 3)
        return fault_set(fault, ERR_INVALID, "vsock.cid: found %u; 3 and up would fit",
                         spec->vsock->cid);
    if (spec->vsock && spec->vsock->has_notice_port &&
        (spec->vsock->notice_port < 1 || spec->vsock->notice_port == UINT32_MAX))
        return fault_set(fault, ERR_INVALID, "vsock.notice_port: found %u; 1 to %u would fit",
                         spec->vsock->notice_port, UINT32_MAX - 1);
    if (spec->vsock && spec->vsock->notice_ms > NOTICE_MS_MAX)
        return fault_set(fault, ERR_INVALID, "vsock.notice_ms: found %llu; 0 to %d would fit",
                         (unsigned long long)spec->vsock->notice_ms, NOTICE_MS_MAX);
    if (!is_word_of(spec->console, "serial", "virtio"))
        return fault_set(fault, ERR_INVALID, "console: found '%.40s'; serial or virtio would fit",
                         spec->console);
    if (!is_word_of(spec->backend, "embedded", "libvirt"))
        return fault_set(fault, ERR_INVALID, "backend: found '%.40s'; embedded or libvirt would fit",
                         spec->backend);
    if (!is_word_of(spec->boot, "kernel", "disk"))
        return fault_set(fault, ERR_INVALID, "boot: found '%.40s'; kernel or disk would fit",
                         spec->boot);
    if (vm_spec_boots_from_disk(spec) && spec->n_disks == 0)
        return fault_set(fault, ERR_INVALID, "boot: disk, but the VM has no disks");
    if (vm_spec_boots_from_disk(spec) && (is_given(spec->kernel) || is_given(spec->initrd)))
        return fault_set(fault, ERR_INVALID,
                         "boot: disk takes kernel and initrd from the first disk; leave them out");
    if (spec->ha && spec->ha->priority > 100)
        return fault_set(fault, ERR_INVALID, "ha.priority: found %u; 0 to 100 would fit",
                         spec->ha->priority);
    return 0;
}

bool vm_spec_disk_is_shared(const Godwit__DiskSpec *disk)
{
    return disk->shared && is_given(disk->store);
}

const char *vm_spec_stamp_store(const Godwit__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (vm_spec_disk_is_shared(spec->disks[i]) && !spec->disks[i]->read_only)
            return spec->disks[i]->store;
    }
    return NULL;
}

const Godwit__DiskSpec *vm_spec_tying_disk(const Godwit__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (!spec->disks[i]->read_only && !vm_spec_disk_is_shared(spec->disks[i]))
            return spec->disks[i];
    }
    return NULL;
}

unsigned vm_spec_disk_count(const Godwit__VmSpec *spec)
{
    return (unsigned)spec->n_disks + (spec->cloud_init ? 1 : 0);
}

unsigned vm_spec_nic_queues(const Godwit__NicSpec *nic)
{
    return nic->has_queues && nic->queues ? nic->queues : 1;
}

bool vm_spec_is_libvirt(const Godwit__VmSpec *spec)
{
    return spec->backend && strcmp(spec->backend, "libvirt") == 0;
}

bool vm_spec_boots_from_disk(const Godwit__VmSpec *spec)
{
    return spec->boot && strcmp(spec->boot, "disk") == 0;
}

bool vm_spec_disk_waits(const Godwit__DiskSpec *disk)
{
    return is_given(disk->on_error) && strcmp(disk->on_error, "pause") == 0;
}

bool vm_spec_disk_is_clone(const Godwit__DiskSpec *disk)
{
    return is_given(disk->image);
}

bool vm_spec_disk_is_given_content(const Godwit__DiskSpec *disk)
{
    return vm_spec_disk_is_clone(disk) || is_given(disk->snapshot);
}

bool vm_spec_is_of_snapshot(const Godwit__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (is_given(spec->disks[i]->snapshot))
            return true;
    }
    return false;
}

unsigned vm_spec_nic_taps(const Godwit__NicSpec *nic)
{
    return nic->unplugged ? 0 : vm_spec_nic_queues(nic);
}

void vm_spec_meta_data(const Godwit__VmSpec *spec, const char *vm_id,
                       char ret_text[static VM_SPEC_META_SIZE])
{
    (void)snprintf(ret_text, VM_SPEC_META_SIZE, "instance-id: %.64s\nlocal-hostname: %.64s\n",
                   vm_id, spec->name);
}

bool vm_spec_has_clones(const Godwit__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (vm_spec_disk_is_clone(spec->disks[i]))
            return true;
    }
    return false;
}

Godwit__DiskSpec *vm_spec_put_root(Godwit__VmSpec *spec)
{
    Godwit__DiskSpec **disks = calloc(spec->n_disks + 1, sizeof *disks);
    Godwit__DiskSpec *disk = calloc(1, sizeof *disk);
    char *name = strdup("root");

    if (!disks || !disk || !name) {
        free(disks);
        free(disk);
        free(name);
        return NULL;
    }
    godwit__disk_spec__init(disk);
    disk->name = name;
    disks[0] = disk;
    for (size_t i = 0; i < spec->n_disks; i++)
        disks[i + 1] = spec->disks[i];
    free(spec->disks);
    spec->disks = disks;
    spec->n_disks++;
    return disk;
}

bool vm_spec_digest_is_valid(const char *text)
{
    return text && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

bool vm_spec_mac_parse(const char *text, uint8_t ret_mac[static VM_SPEC_MAC_BYTES])
{
    uint8_t mac[VM_SPEC_MAC_BYTES];

    if (strlen(text) != VM_SPEC_MAC_SIZE - 1)
        return false;
    for (size_t i = 0; i < VM_SPEC_MAC_BYTES; i++) {
        static const char digits[] = "0123456789abcdefABCDEF";
        const char *high = strchr(digits, text[3 * i]), *low = strchr(digits, text[3 * i + 1]);
        if (!high || !low || (i < VM_SPEC_MAC_BYTES - 1 && text[3 * i + 2] != ':'))
            return false;
        size_t h = (size_t)(high - digits), l = (size_t)(low - digits);
        mac[i] = (uint8_t)((h > 15 ? h - 6 : h) << 4 | (l > 15 ? l - 6 : l));
    }
    static const uint8_t nobody[VM_SPEC_MAC_BYTES];
    if (mac[0] & 1 || memcmp(mac, nobody, sizeof mac) == 0)
        return false; /* a group's address, or nobody's */
    memcpy(ret_mac, mac, sizeof mac);
    return true;
}

void vm_spec_mac_print(const uint8_t mac[static VM_SPEC_MAC_BYTES],
                       char ret_text[static VM_SPEC_MAC_SIZE])
{
    (void)snprintf(ret_text, VM_SPEC_MAC_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                   mac[2], mac[3], mac[4], mac[5]);
}

void vm_spec_mac_make(const char *vm_id, unsigned index, uint8_t ret_mac[static VM_SPEC_MAC_BYTES])
{
    uint64_t mixed = XXH3_64bits_withSeed(vm_id, strlen(vm_id), index);

    for (size_t i = 0; i < VM_SPEC_MAC_BYTES; i++)
        ret_mac[i] = (uint8_t)(mixed >> (8 * i));
    ret_mac[0] = (uint8_t)((ret_mac[0] & ~3u) | 2u); /* local, of one station */
}

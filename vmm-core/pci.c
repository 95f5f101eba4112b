/* A function's configuration space is `fixed` with the guest's registers laid over it:
 *
 *   0x00 ids    0x04 command, status   0x08 class   0x0c cache line
 *   0x10 BARs   0x2c subsystem         0x34 -> capabilities from 0x40 on   0x3c interrupt line
 *
 * Which BAR answers where follows from the guest's registers alone, function by function in the
 * order of slots: a BAR that would cover another, or lie outside of the window, is not there. So
 * both ends of a move agree without a word about it.
 *
 * Source: PCI Local Bus 3.0, 6.1, 6.2.5, 6.8.2; PCI Firmware 3.1 4.1 (ECAM).
 */
#include "vmm-core/pci.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

enum {
    CONFIG_STATUS = 0x06,
    CONFIG_CACHE_LINE = 0x0c,
    CONFIG_BAR = 0x10,
    CONFIG_BAR_END = CONFIG_BAR + 4 * PCI_BARS_MAX,
    CONFIG_CAPABILITIES = 0x34,
    CONFIG_INTERRUPT_LINE = 0x3c,
    CONFIG_FIRST_CAPABILITY = 0x40,

    STATUS_CAPABILITIES = 0x10,
    COMMAND_WRITABLE = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE,

    CAPABILITY_MSIX = 0x11,
    MSIX_FUNCTION_MASK = 0x4000,
    MSIX_ENABLE = 0x8000,
    MSIX_WRITABLE = MSIX_FUNCTION_MASK | MSIX_ENABLE,
    MSIX_ENTRY_MASKED = 1,

    ADDRESS_ENABLE_SHIFT = 31,
    ECAM_FUNCTION_SHIFT = 12,
    ECAM_SLOT_SHIFT = 15,
};

#define ADDRESS_WRITABLE UINT32_C(0x80fffffc)
#define MSI_WINDOW_MASK UINT64_C(0xfffffffffff00000)

static const struct pci_ids host_bridge_ids = {
    .vendor = 0x1b36, .device = 0x0008, .class_code = 0x06};

void pci_function_init(struct pci_function *function, const struct pci_ids *ids)
{
    uint8_t *fixed = function->fixed;
    memset(fixed, 0, PCI_CONFIG_BYTES);
    bytes_put_u16(fixed, ids->vendor);
    bytes_put_u16(fixed + 2, ids->device);
    fixed[8] = ids->revision;
    fixed[9] = ids->interface;
    fixed[10] = ids->subclass;
    fixed[11] = ids->class_code;
    bytes_put_u16(fixed + 0x2c, ids->subsystem_vendor);
    bytes_put_u16(fixed + 0x2e, ids->subsystem);
    function->capability_end = CONFIG_FIRST_CAPABILITY;
    function->last_capability = CONFIG_CAPABILITIES;
}

unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const uint8_t *body,
                                     unsigned body_bytes)
{
    unsigned at = function->capability_end;
    assert(at + 2 + body_bytes <= PCI_CONFIG_BYTES);
    uint8_t *fixed = function->fixed;
    fixed[at] = id;
    memcpy(fixed + at + 2, body, body_bytes);
    fixed[function->last_capability] = (uint8_t)at;
    fixed[CONFIG_STATUS] |= STATUS_CAPABILITIES;
    function->last_capability = at + 1;
    function->capability_end = (at + 2 + body_bytes + 3) & ~3U;
    return at;
}

void pci_function_add_msix(struct pci_function *function, unsigned vectors)
{
    assert(vectors >= 1 && vectors <= PCI_MSIX_VECTORS_MAX);
    uint8_t body[10];
    bytes_put_u16(body, (uint16_t)(vectors - 1));
    bytes_put_u32(body + 2, 0 | PCI_MSIX_BAR);
    bytes_put_u32(body + 6, PCI_MSIX_PBA_OFFSET | PCI_MSIX_BAR);
    function->msix_offset =
        pci_function_add_capability(function, CAPABILITY_MSIX, body, sizeof body);
    function->msix_vectors = vectors;
    function->bar_bytes[PCI_MSIX_BAR] = PCI_MSIX_BAR_BYTES;
}

void pci_function_reset(struct pci_function *function)
{
    struct pci_guest *guest = &function->guest;
    memset(guest, 0, sizeof *guest);
    for (unsigned i = 0; i < PCI_BARS_MAX; i++)
        guest->bars[i] = function->bar_places[i];
    for (unsigned i = 0; i < function->msix_vectors; i++)
        guest->msix[i].control = MSIX_ENTRY_MASKED;
    if (function->bus)
        pci_bus_place_bars(function->bus);
}

/* MSI-X */

static bool is_deliverable(const struct pci_guest *guest, unsigned vector)
{
    return (guest->msix_control & MSIX_WRITABLE) == MSIX_ENABLE &&
           !(guest->msix[vector].control & MSIX_ENTRY_MASKED);
}

static void send_message(struct pci_function *function, unsigned vector)
{
    const struct pci_msix_entry *entry = &function->guest.msix[vector];
    /* Elsewhere it would be a write to memory. No driver means that. */
    if ((entry->address & MSI_WINDOW_MASK) == LAYOUT_LAPIC && function->ops->message)
        function->ops->message(function->data, entry->address, entry->data);
}

static void send_pending(struct pci_function *function)
{
    struct pci_guest *guest = &function->guest;
    for (unsigned i = 0; i < function->msix_vectors; i++) {
        if (!(guest->msix_pending & UINT32_C(1) << i) || !is_deliverable(guest, i))
            continue;
        guest->msix_pending &= ~(UINT32_C(1) << i);
        send_message(function, i);
    }
}

void pci_function_raise(struct pci_function *function, unsigned vector)
{
    struct pci_guest *guest = &function->guest;
    if (vector >= function->msix_vectors || !(guest->msix_control & MSIX_ENABLE))
        return;
    if (is_deliverable(guest, vector))
        send_message(function, vector);
    else
        guest->msix_pending |= UINT32_C(1) << vector;
}

static uint32_t *msix_word(struct pci_msix_entry *entry, unsigned index, uint32_t *scratch)
{
    *scratch = index == 0 ? (uint32_t)entry->address : (uint32_t)(entry->address >> 32);
    if (index < 2)
        return scratch;
    return index == 2 ? &entry->data : &entry->control;
}

static uint32_t msix_read_word(struct pci_function *function, uint64_t offset)
{
    struct pci_guest *guest = &function->guest;
    if (offset == PCI_MSIX_PBA_OFFSET)
        return guest->msix_pending;
    uint64_t vector = offset / PCI_MSIX_ENTRY_BYTES;
    if (vector >= function->msix_vectors)
        return 0;
    uint32_t scratch;
    return *msix_word(&guest->msix[vector], (unsigned)(offset % PCI_MSIX_ENTRY_BYTES) / 4,
                      &scratch);
}

static void msix_write_word(struct pci_function *function, uint64_t offset, uint32_t value)
{
    uint64_t vector = offset / PCI_MSIX_ENTRY_BYTES;
    if (vector >= function->msix_vectors)
        return; /* the pending bits among others: read only */
    struct pci_msix_entry *entry = &function->guest.msix[vector];
    switch (offset % PCI_MSIX_ENTRY_BYTES / 4) {
    case 0:
        entry->address = (entry->address & ~UINT64_C(0xffffffff)) | (value & ~3U);
        break;
    case 1:
        entry->address = (entry->address & UINT32_MAX) | (uint64_t)value << 32;
        break;
    case 2:
        entry->data = value;
        break;
    default:
        entry->control = value & MSIX_ENTRY_MASKED;
        send_pending(function);
        break;
    }
}

/* The table takes aligned words and pairs of words, as the standard has it. */
static void msix_read(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    if ((count != 4 && count != 8) || offset % 4 != 0)
        return;
    for (unsigned i = 0; i < count; i += 4)
        bytes_put_u32(ret_bytes + i, msix_read_word(data, offset + i));
}

static void msix_write(void *data, uint64_t offset, const uint8_t *bytes, unsigned count)
{
    if ((count != 4 && count != 8) || offset % 4 != 0)
        return;
    for (unsigned i = 0; i < count; i += 4)
        msix_write_word(data, offset + i, bytes_get_u32(bytes + i));
}

static const struct mmio_ops msix_ops = {.read = msix_read, .write = msix_write};

/* BARs */

static bool bar_is_placed(const struct pci_function *function, unsigned bar)
{
    uint64_t address = function->guest.bars[bar];
    return function->bar_bytes[bar] && (function->guest.command & PCI_COMMAND_MEMORY) &&
           address >= LAYOUT_PCI_MMIO_START &&
           range_fits(address - LAYOUT_PCI_MMIO_START, function->bar_bytes[bar],
                      LAYOUT_PCI_MMIO_BYTES);
}

void pci_bus_place_bars(struct pci_bus *bus)
{
    for (unsigned i = 0; i < LAYOUT_PCI_SLOTS * PCI_BARS_MAX; i++) {
        struct pci_function *function = bus->functions[i / PCI_BARS_MAX];
        if (function)
            mmio_remove(bus->mmio, &function->ranges[i % PCI_BARS_MAX]);
    }
    for (unsigned i = 0; i < LAYOUT_PCI_SLOTS * PCI_BARS_MAX; i++) {
        struct pci_function *function = bus->functions[i / PCI_BARS_MAX];
        unsigned bar = i % PCI_BARS_MAX;
        if (!function || !function->bar_bytes[bar])
            continue;
        function->ranges[bar].address = function->guest.bars[bar];
        function->ranges[bar].bytes = function->bar_bytes[bar];
        function->mapped[bar] =
            bar_is_placed(function, bar) && mmio_add(bus->mmio, &function->ranges[bar]);
    }
    for (unsigned i = 0; i < LAYOUT_PCI_SLOTS; i++) {
        struct pci_function *function = bus->functions[i];
        if (function && function->ops && function->ops->moved)
            function->ops->moved(function->data);
    }
}

/* Configuration space */

/* Where `offset` lies among the registers that are the device's own. */
static bool is_in_window(const struct pci_function *function, unsigned offset)
{
    return offset >= function->window_offset &&
           offset - function->window_offset < function->window_bytes;
}

static uint32_t config_read_word(const struct pci_function *function, unsigned offset)
{
    const struct pci_guest *guest = &function->guest;
    uint32_t word = bytes_get_u32(function->fixed + offset);
    if (offset == PCI_COMMAND)
        return word | guest->command;
    if (offset == CONFIG_CACHE_LINE)
        return word | guest->cache_line;
    if (offset >= CONFIG_BAR && offset < CONFIG_BAR_END)
        return function->bar_bytes[(offset - CONFIG_BAR) / 4]
                   ? guest->bars[(offset - CONFIG_BAR) / 4]
                   : 0;
    if (offset == CONFIG_INTERRUPT_LINE)
        return word | guest->interrupt_line;
    if (function->msix_vectors && offset == function->msix_offset)
        return word | (uint32_t)guest->msix_control << 16;
    return word;
}

static void config_write_word(struct pci_function *function, unsigned offset, uint32_t value)
{
    struct pci_guest *guest = &function->guest;
    if (offset == PCI_COMMAND) {
        guest->command = (uint16_t)(value & COMMAND_WRITABLE);
        pci_bus_place_bars(function->bus);
    } else if (offset == CONFIG_CACHE_LINE) {
        guest->cache_line = (uint8_t)value;
    } else if (offset >= CONFIG_BAR && offset < CONFIG_BAR_END) {
        unsigned bar = (offset - CONFIG_BAR) / 4;
        if (!function->bar_bytes[bar])
            return;
        guest->bars[bar] = value & ~(function->bar_bytes[bar] - 1);
        pci_bus_place_bars(function->bus);
    } else if (offset == CONFIG_INTERRUPT_LINE) {
        guest->interrupt_line = (uint8_t)value;
    } else if (function->msix_vectors && offset == function->msix_offset) {
        guest->msix_control = (uint16_t)(value >> 16 & MSIX_WRITABLE);
        send_pending(function);
    }
}

static struct pci_function *function_at(const struct pci_bus *bus, unsigned slot)
{
    return slot < LAYOUT_PCI_SLOTS ? bus->functions[slot] : NULL;
}

void pci_bus_config_read(struct pci_bus *bus, unsigned slot, unsigned offset, uint8_t *ret_bytes,
                         unsigned count)
{
    assert(count >= 1 && offset % 4 + count <= 4);
    memset(ret_bytes, 0xff, count);
    struct pci_function *function = function_at(bus, slot);
    if (!function)
        return;
    if (offset >= PCI_CONFIG_BYTES) {
        memset(ret_bytes, 0, count); /* no extended capabilities */
        return;
    }
    if (is_in_window(function, offset)) {
        function->ops->config_read(function->data, offset, ret_bytes, count);
        return;
    }
    uint8_t word[4];
    bytes_put_u32(word, config_read_word(function, offset & ~3U));
    memcpy(ret_bytes, word + offset % 4, count);
}

void pci_bus_config_write(struct pci_bus *bus, unsigned slot, unsigned offset, const uint8_t *bytes,
                          unsigned count)
{
    assert(count >= 1 && offset % 4 + count <= 4);
    struct pci_function *function = function_at(bus, slot);
    if (!function || offset >= PCI_CONFIG_BYTES)
        return;
    if (is_in_window(function, offset)) {
        function->ops->config_write(function->data, offset, bytes, count);
        return;
    }
    uint8_t word[4];
    bytes_put_u32(word, config_read_word(function, offset & ~3U));
    memcpy(word + offset % 4, bytes, count);
    config_write_word(function, offset & ~3U, bytes_get_u32(word));
}

/* One access, whatever its alignment, as accesses that stay inside a double word. */
static unsigned piece_of(uint64_t offset, unsigned count)
{
    unsigned room = 4 - (unsigned)(offset % 4);
    return count < room ? count : room;
}

static bool ecam_find(uint64_t offset, unsigned *ret_slot, unsigned *ret_register)
{
    *ret_slot = (unsigned)(offset >> ECAM_SLOT_SHIFT);
    *ret_register = (unsigned)(offset & ((1U << ECAM_FUNCTION_SHIFT) - 1));
    return (offset >> ECAM_FUNCTION_SHIFT & 7) == 0; /* every device has one function */
}

static void ecam_read(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    for (unsigned done = 0, piece; done < count; done += piece) {
        unsigned slot, reg;
        piece = piece_of(offset + done, count - done);
        if (ecam_find(offset + done, &slot, &reg))
            pci_bus_config_read(data, slot, reg, ret_bytes + done, piece);
    }
}

static void ecam_write(void *data, uint64_t offset, const uint8_t *bytes, unsigned count)
{
    for (unsigned done = 0, piece; done < count; done += piece) {
        unsigned slot, reg;
        piece = piece_of(offset + done, count - done);
        if (ecam_find(offset + done, &slot, &reg))
            pci_bus_config_write(data, slot, reg, bytes + done, piece);
    }
}

static const struct mmio_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

void pci_bus_init(struct pci_bus *bus, struct mmio *mmio)
{
    memset(bus, 0, sizeof *bus);
    bus->mmio = mmio;
    bus->next_bar = (uint32_t)LAYOUT_PCI_MMIO_START;
    bus->ecam = (struct mmio_range){
        .address = LAYOUT_ECAM_START, .bytes = LAYOUT_ECAM_BYTES, .ops = &ecam_ops, .data = bus};
    bool added = mmio_add(mmio, &bus->ecam);
    assert(added); /* the first of all */
    (void)added;
    pci_function_init(&bus->host, &host_bridge_ids);
    pci_bus_add(bus, &bus->host, LAYOUT_PCI_SLOT_HOST);
}

void pci_bus_add(struct pci_bus *bus, struct pci_function *function, unsigned slot)
{
    assert(slot < LAYOUT_PCI_SLOTS && !bus->functions[slot]);
    bus->functions[slot] = function;
    function->bus = bus;
    if (function->msix_vectors) {
        function->ranges[PCI_MSIX_BAR].ops = &msix_ops;
        function->ranges[PCI_MSIX_BAR].data = function;
    }
    for (unsigned i = 0; i < PCI_BARS_MAX; i++) {
        uint32_t bytes = function->bar_bytes[i];
        if (!bytes)
            continue;
        assert((bytes & (bytes - 1)) == 0 && bytes >= 16);
        bus->next_bar = (bus->next_bar + bytes - 1) & ~(bytes - 1);
        function->bar_places[i] = bus->next_bar;
        bus->next_bar += bytes;
    }
    pci_function_reset(function);
}

/* State */

bool pci_function_takes(const struct pci_function *function, const struct pci_guest *guest)
{
    bool takes = (guest->command & ~COMMAND_WRITABLE) == 0 &&
                 (guest->msix_control & ~MSIX_WRITABLE) == 0 &&
                 (function->msix_vectors || guest->msix_control == 0);
    for (unsigned i = 0; i < PCI_BARS_MAX; i++) {
        uint32_t bytes = function->bar_bytes[i];
        takes = takes && (bytes ? guest->bars[i] % bytes == 0 : guest->bars[i] == 0);
    }
    for (unsigned i = 0; i < PCI_MSIX_VECTORS_MAX; i++) {
        const struct pci_msix_entry *entry = &guest->msix[i];
        if (i >= function->msix_vectors)
            takes = takes && !entry->address && !entry->data && !entry->control &&
                    !(guest->msix_pending >> i & 1);
        takes = takes && entry->control <= MSIX_ENTRY_MASKED && entry->address % 4 == 0;
    }
    return takes;
}

void pci_function_set(struct pci_function *function, const struct pci_guest *guest)
{
    assert(pci_function_takes(function, guest));
    function->guest = *guest;
    pci_bus_place_bars(function->bus);
}

void pci_function_save(const struct pci_guest *guest, struct pci_function_message *message)
{
    Godwit__PciFunctionV1 *out = &message->out;
    godwit__pci_function_v1__init(out);
    STATE_PUT(out, command, guest->command);
    STATE_PUT(out, cache_line, guest->cache_line);
    STATE_PUT(out, interrupt_line, guest->interrupt_line);
    STATE_PUT(out, msix_control, guest->msix_control);
    STATE_PUT(out, msix_pending, guest->msix_pending);
    for (unsigned i = 0; i < PCI_BARS_MAX; i++)
        message->bars[i] = guest->bars[i];
    out->bars = message->bars;
    out->n_bars = PCI_BARS_MAX;
    for (unsigned i = 0; i < PCI_MSIX_VECTORS_MAX; i++) {
        message->addresses[i] = guest->msix[i].address;
        message->data[i] = guest->msix[i].data;
        message->controls[i] = guest->msix[i].control;
    }
    out->msix_address = message->addresses;
    out->msix_data = message->data;
    out->msix_entry_control = message->controls;
    out->n_msix_address = out->n_msix_data = out->n_msix_entry_control = PCI_MSIX_VECTORS_MAX;
}

void pci_function_load(struct state_reader *reader, const Godwit__PciFunctionV1 *in,
                       struct pci_guest *ret_guest)
{
    struct pci_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */
    if (!state_reader_check(reader, in != NULL, "pci", "is missing"))
        return;
    STATE_TAKE(reader, in, command, guest.command);
    STATE_TAKE(reader, in, cache_line, guest.cache_line);
    STATE_TAKE(reader, in, interrupt_line, guest.interrupt_line);
    STATE_TAKE(reader, in, msix_control, guest.msix_control);
    STATE_TAKE(reader, in, msix_pending, guest.msix_pending);
    if (!state_reader_check(reader, in->n_bars == PCI_BARS_MAX, "bars", "are not two") ||
        !state_reader_check(reader,
                            in->n_msix_address == PCI_MSIX_VECTORS_MAX &&
                                in->n_msix_data == PCI_MSIX_VECTORS_MAX &&
                                in->n_msix_entry_control == PCI_MSIX_VECTORS_MAX,
                            "msix table", "has not 32 entries"))
        return;
    for (unsigned i = 0; i < PCI_BARS_MAX; i++)
        guest.bars[i] = in->bars[i];
    for (unsigned i = 0; i < PCI_MSIX_VECTORS_MAX; i++)
        guest.msix[i] = (struct pci_msix_entry){.address = in->msix_address[i],
                                                .data = in->msix_data[i],
                                                .control = in->msix_entry_control[i]};
    *ret_guest = guest;
}

int pci_bus_save(const struct pci_bus_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__PciStateV1 state = GODWIT__PCI_STATE_V1__INIT;
    STATE_PUT(&state, address, guest->address);
    STATE_PUT(&state, host_command, guest->host_command);
    STATE_PUT(&state, host_cache_line, guest->host_cache_line);
    STATE_PUT(&state, host_interrupt_line, guest->host_interrupt_line);
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int pci_bus_load(struct pci_bus_guest *ret_guest, const uint8_t *bytes, size_t count,
                 struct fault *fault)
{
    struct state_reader reader = {.section = "pci", .fault = fault};
    struct pci_bus_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */
    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__pci_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__PciStateV1 *in = (const Godwit__PciStateV1 *)message;
    STATE_TAKE(&reader, in, address, guest.address);
    STATE_TAKE(&reader, in, host_command, guest.host_command);
    STATE_TAKE(&reader, in, host_cache_line, guest.host_cache_line);
    STATE_TAKE(&reader, in, host_interrupt_line, guest.host_interrupt_line);
    (void)state_reader_check(&reader, (guest.address & ~ADDRESS_WRITABLE) == 0, "address",
                             "has bits that are none");
    (void)state_reader_check(&reader, (guest.host_command & ~COMMAND_WRITABLE) == 0, "host_command",
                             "has bits that are none");
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

void pci_bus_capture(const struct pci_bus *bus, struct pci_bus_guest *ret_guest)
{
    const struct pci_guest *host = &bus->host.guest;
    memset(ret_guest, 0, sizeof *ret_guest);
    ret_guest->address = bus->address;
    ret_guest->host_command = host->command;
    ret_guest->host_cache_line = host->cache_line;
    ret_guest->host_interrupt_line = host->interrupt_line;
}

void pci_bus_revive(struct pci_bus *bus, const struct pci_bus_guest *guest)
{
    bus->address = guest->address;
    bus->host.guest.command = guest->host_command;
    bus->host.guest.cache_line = guest->host_cache_line;
    bus->host.guest.interrupt_line = guest->host_interrupt_line;
}

void pci_bus_reset(struct pci_bus *bus)
{
    bus->address = 0;
    pci_function_reset(&bus->host);
}

/* Ports 0xCF8 and 0xCFC */

static bool address_find(const struct pci_bus *bus, unsigned port_offset, unsigned *ret_slot,
                         unsigned *ret_register)
{
    *ret_slot = bus->address >> 11 & 31;
    *ret_register = (bus->address & 0xfc) + port_offset;
    return bus->address >> ADDRESS_ENABLE_SHIFT && (bus->address >> 16 & 0xff) == 0 &&
           (bus->address >> 8 & 7) == 0;
}

void pci_bus_port_read(struct pci_bus *bus, uint16_t port, uint8_t *ret_bytes, unsigned count)
{
    unsigned slot, reg, offset = port & 3U;
    memset(ret_bytes, 0xff, count);
    if (port == LAYOUT_PORT_PCI_ADDRESS && count == 4)
        bytes_put_u32(ret_bytes, bus->address);
    else if (port >= LAYOUT_PORT_PCI_DATA && offset + count <= 4 &&
             address_find(bus, offset, &slot, &reg))
        pci_bus_config_read(bus, slot, reg, ret_bytes, count);
}

void pci_bus_port_write(struct pci_bus *bus, uint16_t port, const uint8_t *bytes, unsigned count)
{
    unsigned slot, reg, offset = port & 3U;
    if (port == LAYOUT_PORT_PCI_ADDRESS && count == 4)
        bus->address = bytes_get_u32(bytes) & ADDRESS_WRITABLE;
    else if (port >= LAYOUT_PORT_PCI_DATA && offset + count <= 4 &&
             address_find(bus, offset, &slot, &reg))
        pci_bus_config_write(bus, slot, reg, bytes, count);
}

static void port_in(struct vm *vm, const struct device_access *access)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++)
        pci_bus_port_read(&vm->pci, access->port, access->data + (size_t)i * access->size,
                          access->size);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static void port_out(struct vm *vm, const struct device_access *access)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    for (uint32_t i = 0; i < access->count; i++)
        pci_bus_port_write(&vm->pci, access->port, access->data + (size_t)i * access->size,
                           access->size);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static int pci_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    pci_bus_capture(&vm->pci, &vm->guest->pci);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int pci_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    pci_bus_revive(&vm->pci, &machine->pci);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return pci_bus_save(&machine->pci, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return pci_bus_load(&machine->pci, bytes, count, fault);
}

const struct device pci_device = {
    .name = "pci",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = pci_capture,
    .save = save_row,
    .load = load_row,
    .revive = pci_revive,
    .ports = {{LAYOUT_PORT_PCI_ADDRESS, 1}, {LAYOUT_PORT_PCI_DATA, 4}},
    .port_in = port_in,
    .port_out = port_out,
};

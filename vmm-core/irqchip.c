#include "vmm-core/irqchip.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

/* clang-format off */
#define PIC_FIELDS(X)                                                                              \
    X(last_irr) X(irr) X(imr) X(isr) X(priority_add) X(irq_base) X(read_reg_select) X(poll)        \
    X(special_mask) X(init_state) X(auto_eoi) X(rotate_on_auto_eoi)                                \
    X(special_fully_nested_mode) X(init4) X(elcr) X(elcr_mask)
/* clang-format on */
#define IOAPIC_FIELDS(X) X(base_address) X(ioregsel) X(id) X(irr)

#define SAVE_FIELD(field) STATE_PUT(out, field, in->field);
#define LOAD_FIELD(field) STATE_TAKE(reader, in, field, out->field);

static void pic_save(Godwit__PicV1 *out, const struct kvm_pic_state *in)
{
    godwit__pic_v1__init(out);
    PIC_FIELDS(SAVE_FIELD)
}

static void pic_load(struct state_reader *reader, struct kvm_pic_state *out,
                     const Godwit__PicV1 *in, const char *name)
{
    if (!state_reader_check(reader, in != NULL, name, "is missing"))
        return;
    PIC_FIELDS(LOAD_FIELD)
}

static void ioapic_save(Godwit__IoapicV1 *out, const struct kvm_ioapic_state *in,
                        uint64_t redirection[static KVM_IOAPIC_NUM_PINS])
{
    godwit__ioapic_v1__init(out);
    IOAPIC_FIELDS(SAVE_FIELD)
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        redirection[i] = in->redirtbl[i].bits;
    out->redirection = redirection;
    out->n_redirection = KVM_IOAPIC_NUM_PINS;
}

static void ioapic_load(struct state_reader *reader, struct kvm_ioapic_state *out,
                        const Godwit__IoapicV1 *in)
{
    if (!state_reader_check(reader, in != NULL, "ioapic", "is missing") ||
        !state_reader_check(reader, in->n_redirection == KVM_IOAPIC_NUM_PINS, "redirection",
                            "has not 24 entries"))
        return;
    IOAPIC_FIELDS(LOAD_FIELD)
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        out->redirtbl[i].bits = in->redirection[i];
}

int irqchip_save(const struct irqchip_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__IrqchipStateV1 state = GODWIT__IRQCHIP_STATE_V1__INIT;
    Godwit__PicV1 master, slave;
    Godwit__IoapicV1 ioapic;
    uint64_t redirection[KVM_IOAPIC_NUM_PINS];

    pic_save(&master, &guest->pic_master);
    pic_save(&slave, &guest->pic_slave);
    ioapic_save(&ioapic, &guest->ioapic, redirection);
    state.pic_master = &master;
    state.pic_slave = &slave;
    state.ioapic = &ioapic;
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int irqchip_load(struct irqchip_guest *ret_guest, const uint8_t *bytes, size_t count,
                 struct fault *fault)
{
    struct state_reader reader = {.section = "irqchip", .fault = fault};
    struct irqchip_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__irqchip_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__IrqchipStateV1 *in = (const Godwit__IrqchipStateV1 *)message;
    pic_load(&reader, &guest.pic_master, in->pic_master, "pic_master");
    pic_load(&reader, &guest.pic_slave, in->pic_slave, "pic_slave");
    ioapic_load(&reader, &guest.ioapic, in->ioapic);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int irqchip_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    struct irqchip_guest *guest = &vm->guest->irqchip;
    struct kvm_irqchip chips[KVM_NR_IRQCHIPS];
    for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; i++) {
        chips[i] = (struct kvm_irqchip){.chip_id = i};
        if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chips[i]) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading interrupt controller %u", i);
    }
    guest->pic_master = chips[KVM_IRQCHIP_PIC_MASTER].chip.pic;
    guest->pic_slave = chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic;
    guest->ioapic = chips[KVM_IRQCHIP_IOAPIC].chip.ioapic;
    return 0;
}

static int irqchip_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                          struct fault *fault)
{
    (void)instance;
    const struct irqchip_guest *guest = &machine->irqchip;
    struct kvm_irqchip chips[KVM_NR_IRQCHIPS] = {
        {.chip_id = KVM_IRQCHIP_PIC_MASTER, .chip.pic = guest->pic_master},
        {.chip_id = KVM_IRQCHIP_PIC_SLAVE, .chip.pic = guest->pic_slave},
        {.chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic = guest->ioapic},
    };
    for (uint32_t i = 0; i < KVM_NR_IRQCHIPS; i++) {
        if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chips[i]) < 0)
            return fault_set_errno(fault, ERR_CORRUPT, errno, "setting interrupt controller %u", i);
    }
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return irqchip_save(&machine->irqchip, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return irqchip_load(&machine->irqchip, bytes, count, fault);
}

const struct device irqchip_device = {
    .name = "irqchip",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .capture = irqchip_capture,
    .save = save_row,
    .load = load_row,
    .revive = irqchip_revive,
};

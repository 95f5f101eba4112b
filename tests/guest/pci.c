#include "pci.h"

#include "machine.h"

enum {
    ADDRESS_PORT = 0xcf8,
    DATA_PORT = 0xcfc,
    STATUS = 0x06,
    STATUS_CAPABILITIES = 0x10,
    HEADER_TYPE = 0x0e,
    BAR_0 = 0x10,
    CAPABILITIES = 0x34,
    BAR_IS_PORT = 1,
    BAR_IS_64 = 4,
};

static void choose(struct pci_place place, uint32_t offset)
{
    machine_out32(ADDRESS_PORT, UINT32_C(0x80000000) | (uint32_t)place.slot << 11 |
                                    (uint32_t)place.function << 8 | (offset & 0xfc));
}

uint32_t pci_read(struct pci_place place, uint32_t offset, uint32_t bytes)
{
    choose(place, offset);

    uint32_t value = machine_in32(DATA_PORT) >> (offset % 4 * 8);

    return bytes == 4 ? value : value & ((UINT32_C(1) << bytes * 8) - 1);
}

void pci_write16(struct pci_place place, uint32_t offset, uint16_t value)
{
    choose(place, offset);
    machine_out16((uint16_t)(DATA_PORT + offset % 4), value);
}

bool pci_find(uint16_t vendor, uint16_t device, uint32_t index, struct pci_place *ret_place)
{
    for (uint8_t slot = 0; slot < 32; slot++) {
        for (uint8_t function = 0; function < 8; function++) {
            struct pci_place place = {slot, function};
            uint32_t ids = pci_read(place, 0, 4);

            if (ids == ((uint32_t)device << 16 | vendor) && index-- == 0) {
                *ret_place = place;
                return true;
            }
            if (function == 0 && (ids == UINT32_MAX || !(pci_read(place, HEADER_TYPE, 1) & 0x80)))
                break;
        }
    }
    return false;
}

uint32_t pci_next_capability(struct pci_place place, uint32_t after)
{
    if (after)
        return pci_read(place, after + 1, 1) & 0xfc;
    if (!(pci_read(place, STATUS, 2) & STATUS_CAPABILITIES))
        return 0;
    return pci_read(place, CAPABILITIES, 1) & 0xfc;
}

uint64_t pci_bar(struct pci_place place, uint32_t bar)
{
    uint32_t low = pci_read(place, BAR_0 + bar * 4, 4);

    if (low & BAR_IS_PORT)
        return 0;

    uint64_t address = low & ~UINT32_C(0xf);

    if ((low & 6) == BAR_IS_64)
        address |= (uint64_t)pci_read(place, BAR_0 + bar * 4 + 4, 4) << 32;
    return address;
}

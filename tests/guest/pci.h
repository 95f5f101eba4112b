/* Functions of PCI bus 0, by configuration mechanism #1.
 *
 * Flow:   ports 0xCF8, 0xCFC -> [pci] -> virtio
 * Thread: vCPU 0.
 */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <stdbool.h>
#include <stdint.h>

struct pci_place {
    uint8_t slot, function;
};

uint32_t pci_read(struct pci_place place, uint32_t offset, uint32_t bytes); /* 1, 2 or 4 */
void pci_write16(struct pci_place place, uint32_t offset, uint16_t value);

/* The `index`-th function with these ids, by slot. */
bool pci_find(uint16_t vendor, uint16_t device, uint32_t index, struct pci_place *ret_place);
/* The next capability behind `after` (0: the first); 0: no more. */
uint32_t pci_next_capability(struct pci_place place, uint32_t after);
/* Where firmware or VMM put it; 0 when it is not in memory. */
uint64_t pci_bar(struct pci_place place, uint32_t bar);

#endif

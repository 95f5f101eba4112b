/* The guest of this process as a move sees it: migrate's guest and region over vmm-core's vm.
 *
 * Flow:   vm -> [guest_port] -> migrate/source, migrate/target
 * Thread: new, free, input on the loop's; the guest's ops on the move's own thread; regions on lane
 *         threads; ended from a vCPU thread.
 *
 * Two things are added to what vm saves. A header (16 bytes: magic, version, flags, zero) says
 * whether an operator had paused the guest, so that it stays paused at the target, and may bring
 * the command line that the guest's own disk gave it, and what its devices have counted (u32 bytes,
 * packed VmCounters) where the other end takes it. And a gate: no byte of console input enters the
 * guest once it was stopped to be saved, or it would be lost.
 */
#ifndef GODWIT_AGENT_VM_GUEST_PORT_H
#define GODWIT_AGENT_VM_GUEST_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/vm_spec.pb-c.h"

enum { GUEST_PORT_DISKS_AT = 2 }; /* regions: RAM, what the guest was booted from, then disks */

struct boot_files;
struct counters;
struct fault;
struct guest;
struct guest_port;
struct vm;

/* `vm`, `files`, `spec`, `vm_id` and `before` are borrowed and must outlive the port. `before` is
 * what was counted before this vm; it does not change while the guest is saved. */
int guest_port_new(struct guest_port **ret_port, struct vm *vm, struct boot_files *files,
                   const Godwit__VmSpec *spec, const char *vm_id, const struct counters *before,
                   struct fault *fault);
struct guest_port *guest_port_free(struct guest_port *port);

/* After a load: gives the command line that came with it (malloc'ed), once; NULL: none did. */
char *guest_port_take_cmdline(struct guest_port *port);

/* After a load: what had been counted where the guest came from, once; false: nothing came. */
bool guest_port_take_counters(struct guest_port *port, struct counters *ret_counters);

/* After a load and the resume that followed: how long the guest stood still. False: it did not
 * resume since, or came from a file, which does not know. */
bool guest_port_pause_ns(const struct guest_port *port, uint64_t *ret_ns);

/* Borrowed. Its was_running is the caller's to set before a move begins. */
struct guest *guest_port_guest(struct guest_port *port);

/* From now on a move hands the memory over as it is, to a process that has it too (or, at the
 * target, from one): no page travels, and what the guest was booted from neither. Outside of moves.
 */
void guest_port_set_in_place(struct guest_port *port, bool in_place);

/* The guest switched itself off, reset or crashed: from now on it is not saved, so a move under
 * way rolls back, and a resume leaves it as it is. Any thread. */
void guest_port_set_ended(struct guest_port *port);

/* Of a move that brings this disk too: one region more until guest_port_drop_disks, which comes
 * after the move was freed. Takes `fd` when it returns 0. `incoming`: at the target. */
int guest_port_add_disk(struct guest_port *port, unsigned index, int fd, uint64_t bytes,
                        bool incoming, struct fault *fault);
void guest_port_drop_disks(struct guest_port *port);

/* Let the guest run, stop it: for an operator, outside of moves. */
int guest_port_resume(struct guest_port *port, struct fault *fault);
void guest_port_pause(struct guest_port *port);

/* After a load: the guest was paused by an operator where it came from, and is so still. */
bool guest_port_stays_paused(const struct guest_port *port);

/* Bytes for the serial port; returns how many went in: 0 while the guest stands still. */
size_t guest_port_input(struct guest_port *port, const uint8_t *bytes, size_t count);

#endif

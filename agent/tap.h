/* A tap on a bridge of this host: a VM's network card seen from outside.
 *
 * Flow:   backends -> [tap] -> kernel
 * Thread: any; a few ioctls, no child process.
 *
 * A tap here has no life of its own: it is not made persistent, so the kernel removes it with its
 * last descriptor, which the VM's process holds. Whoever of agent and VM dies, and in whatever
 * order, nothing is left to be cleaned up, and what others made is never touched.
 */
#ifndef GODWIT_AGENT_TAP_H
#define GODWIT_AGENT_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;

enum { TAP_NAME_SIZE = 16, TAP_BRIDGES_MAX = 64 };

/* "gw" and letters of the VM's id, the nic's number, and two digits of the host's name: short
 * enough for the kernel, and two agents in one network namespace do not collide. */
void tap_name(const char *vm_id, const char *host, unsigned nic, char ret_name[static TAP_NAME_SIZE]);

/* `count` queues of one tap with virtio-net headers of 12 bytes, on `bridge`, up. `mtu` 0: the
 * bridge's. ERR_NOT_FOUND: no such bridge. */
int tap_open(const char *name, const char *bridge, unsigned mtu, int *ret_fds, unsigned count,
             struct fault *fault);

/* ERR_NOT_FOUND: this host has none of that name; ERR_INVALID: it is no bridge. */
int tap_check_bridge(const char *bridge, struct fault *fault);
/* Names of this host's bridges. */
size_t tap_bridges(char ret_names[static TAP_BRIDGES_MAX][TAP_NAME_SIZE]);

/* Tell the bridge and whoever listens where this address is now: net/announce's frame, written as if
 * the guest had sent it, so that the bridge itself learns the tap's port too. */
enum { TAP_HEADER_BYTES = 12 };
void tap_announce(int fd, const uint8_t mac[static 6]);

#endif

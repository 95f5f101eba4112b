/* A VM of ours as a libvirt domain's XML: what QEMU needs to run the same disks and cards.
 *
 * Flow:   VmSpec -> [export_libvirt] -> XML on stdout
 * Thread: any; no state.
 *
 * What libvirt has no word for (kernel taken from the disk, the NoCloud seed, policies) stands in
 * comments at the top, so that nothing is lost in silence.
 */
#ifndef GODWIT_CLI_EXPORT_LIBVIRT_H
#define GODWIT_CLI_EXPORT_LIBVIRT_H

#include "proto/vm_spec.pb-c.h"

struct fault;

/* Gives malloc'ed text that ends with a line end. */
int export_libvirt(const Godwit__VmSpec *spec, char **ret_text, struct fault *fault);

#endif

/* A libvirt domain's XML as a VM of ours, as far as the embedded VMM can run it.
 *
 * Flow:   domain.xml -> [import_libvirt] -> import
 * Thread: any; no state.
 *
 * No entity, no document type, nothing from the network is followed.
 * Source: libvirt, "Domain XML format" (libvirt.org/formatdomain.html).
 */
#ifndef GODWIT_CLI_IMPORT_LIBVIRT_H
#define GODWIT_CLI_IMPORT_LIBVIRT_H

#include <stddef.h>

struct fault;
struct import;

/* ERR_INVALID, with line, when it is no domain; what does not fit is in import->obstacles. */
int import_libvirt(struct import *import, const char *text, size_t count, struct fault *fault);

#endif

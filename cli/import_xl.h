/* A Xen domain file (xl.cfg, xm) as a VM of ours, as far as the embedded VMM can run it.
 *
 * Flow:   domain.cfg -> [import_xl] -> import
 * Thread: any; no state.
 *
 * The file is read as data: names, strings, whole numbers and lists of strings. The older tool's
 * files were programs; one that computes is refused with its line.
 * Source: Xen, xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5).
 */
#ifndef GODWIT_CLI_IMPORT_XL_H
#define GODWIT_CLI_IMPORT_XL_H

#include <stddef.h>

struct fault;
struct import;

/* ERR_INVALID, with line, when it cannot be read; what does not fit is in import->obstacles. */
int import_xl(struct import *import, const char *text, size_t count, struct fault *fault);

#endif

/* Any bytes as a libvirt domain and as a Xen file: read or refused with words, never more; and what
 * was read can be written as XML. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/export_libvirt.h"
#include "cli/import.h"
#include "cli/import_libvirt.h"
#include "cli/import_xl.h"
#include "cli/vm_spec_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    for (int is_xml = 0; is_xml < 2; is_xml++) {
        AUTO(import_deinit) struct import import;
        AUTO_FREE char *xml = NULL;
        struct fault fault = {0};
        int r = import_init(&import, "default=br0", &fault);
        if (r == 0)
            r = is_xml ? import_libvirt(&import, (const char *)bytes, count, &fault)
                       : import_xl(&import, (const char *)bytes, count, &fault);
        assert(r == 0 || fault.text[0]);
        if (r < 0 || import.obstacles.count > 0)
            continue;
        (void)vm_spec_check(import.spec, &fault);
        (void)export_libvirt(import.spec, &xml, &fault);
    }
    return 0;
}

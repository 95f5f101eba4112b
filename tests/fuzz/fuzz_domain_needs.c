/* A libvirt definition from any bytes: refused with words, or needs whose every text ends. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_needs.h"
#include "base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct domain_needs needs = {0};
    struct fault fault = {0};
    char *xml = malloc(count + 1);
    if (!xml)
        return 0;
    memcpy(xml, bytes, count);
    xml[count] = 0;
    int r = domain_needs_read(xml, &needs, &fault);
    free(xml);
    assert(r == 0 || fault.text[0]);
    if (r < 0)
        return 0;
    assert(needs.disk_count <= DOMAIN_NEEDS_MANY && needs.link_count <= DOMAIN_NEEDS_MANY);
    for (size_t i = 0; i < needs.disk_count; i++)
        assert(strlen(needs.disks[i].path) < DOMAIN_NEEDS_PATH_SIZE);
    for (size_t i = 0; i < needs.link_count; i++)
        assert(strlen(needs.links[i].name) < DOMAIN_NEEDS_WORD_SIZE);
    domain_needs_deinit(&needs);
    return 0;
}

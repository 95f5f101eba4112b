/* The YAML binder on any bytes: it accepts or refuses with words, and never more. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/vm_spec_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* libfyaml 0.7.12 loses its buffer of a long quoted text that never ends; a command that then exits
 * does not mind, and leaks of ours are still told. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    Godwit__VmSpec *spec = NULL;
    struct fault fault = {0};
    int r = vm_spec_file_parse((const char *)bytes, count, "fuzz.yaml", &spec, &fault);
    assert((r == 0) == (spec != NULL));
    assert(r == 0 || fault.text[0]);
    if (spec) {
        (void)vm_spec_check(spec, &fault);
        godwit__vm_spec__free_unpacked(spec, NULL);
    }
    return 0;
}

/* A stamp's ticket as a hostile store gives it, and the names in its folder. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "storage/stamp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stamp_ticket ticket;
    struct fault fault = {0};
    uint64_t after;

    if (stamp_ticket_decode(data, size, &ticket, &fault) == 0) {
        uint8_t again[STAMP_TICKET_BYTES];
        stamp_ticket_encode(&ticket, again);
        assert(memcmp(again, data, sizeof again) == 0); /* one spelling only */
    }
    char *name = malloc(size + 1);
    if (!name)
        return 0;
    memcpy(name, data, size);
    name[size] = '\0';
    if (stamp_name_parse(name, &after)) {
        char printed[STAMP_NAME_SIZE];
        stamp_name_print(after, printed);
        assert(strcmp(printed, name) == 0);
    }
    free(name);
    return 0;
}

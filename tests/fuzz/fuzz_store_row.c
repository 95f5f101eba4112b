/* A row that etcd gives back, of any table: what decodes has a text behind every cell. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "coordinator/store_row.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store_row row;
    struct fault fault = {0};
    if (size == 0)
        return 0;
    enum store_table table = (enum store_table)(data[0] % STORE_TABLE_COUNT);
    if (store_row_decode(table, data + 1, size - 1, &row, &fault) < 0) {
        assert(fault.code == ERR_CORRUPT);
        return 0;
    }
    for (size_t i = 0; i < STORE_COLUMNS_MAX; i++) {
        const struct store_cell *cell = &row.cells[i];
        assert(cell->bytes);
        if (cell->type == STORE_TEXT)
            assert(strlen(cell->bytes) == cell->count);
        else if (cell->type == STORE_BLOB)
            assert(cell->bytes[cell->count] == '\0');
    }
    store_row_deinit(&row);
    return 0;
}

#include "coordinator/store_row.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "proto/store.pb-c.h"

void store_row_encode(const struct store_change *change, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__StoreRow row = GODWIT__STORE_ROW__INIT;
    Godwit__StoreCell cells[STORE_COLUMNS_MAX];
    Godwit__StoreCell *list[STORE_COLUMNS_MAX];
    assert(change->cell_count == store_tables[change->table].count);
    for (size_t i = 0; i < change->cell_count; i++) {
        const struct store_cell *from = &change->cells[i];
        ProtobufCBinaryData bytes = {.data = (uint8_t *)(uintptr_t)from->bytes, .len = from->count};
        godwit__store_cell__init(&cells[i]);
        list[i] = &cells[i];
        cells[i].has_number = from->type == STORE_NUMBER;
        cells[i].number = from->number;
        cells[i].has_text = from->type == STORE_TEXT;
        cells[i].has_blob = from->type == STORE_BLOB;
        if (from->type == STORE_TEXT)
            cells[i].text = bytes;
        else if (from->type == STORE_BLOB)
            cells[i].blob = bytes;
    }
    row.cells = list;
    row.n_cells = change->cell_count;
    *ret_count = godwit__store_row__get_packed_size(&row);
    *ret_bytes = calloc(1, *ret_count + 1);
    assert(*ret_bytes);
    (void)godwit__store_row__pack(&row, *ret_bytes);
}

/* protobuf's bytes end with nothing; whoever reads a column as a text may find a blob in it. */
static void copy_bytes(struct store_row *row, size_t column, const ProtobufCBinaryData *bytes)
{
    struct store_cell *cell = &row->cells[column];
    char *copy = malloc(bytes->len + 1);
    assert(copy);
    if (bytes->len)
        memcpy(copy, bytes->data, bytes->len);
    copy[bytes->len] = '\0';
    row->copies[column] = copy;
    cell->bytes = copy;
    cell->count = cell->type == STORE_TEXT ? strlen(copy) : bytes->len;
}

int store_row_decode(enum store_table table, const uint8_t *bytes, size_t count,
                     struct store_row *ret_row, struct fault *fault)
{
    Godwit__StoreRow *row = godwit__store_row__unpack(NULL, count, bytes);
    if (!row || row->n_cells > store_tables[table].count) {
        if (row)
            godwit__store_row__free_unpacked(row, NULL);
        return fault_set(fault, ERR_CORRUPT, "no row of this version");
    }
    *ret_row = (struct store_row){0};
    for (size_t i = 0; i < STORE_COLUMNS_MAX; i++)
        ret_row->cells[i] = (struct store_cell){.bytes = ""};
    for (size_t i = 0; i < row->n_cells; i++) {
        const Godwit__StoreCell *from = row->cells[i];
        if (from->has_number) {
            ret_row->cells[i].type = STORE_NUMBER;
            ret_row->cells[i].number = from->number;
        } else if (from->has_text || from->has_blob) {
            ret_row->cells[i].type = from->has_text ? STORE_TEXT : STORE_BLOB;
            copy_bytes(ret_row, i, from->has_text ? &from->text : &from->blob);
        }
    }
    godwit__store_row__free_unpacked(row, NULL);
    return 0;
}

void store_row_deinit(struct store_row *row)
{
    for (size_t i = 0; i < STORE_COLUMNS_MAX; i++)
        free(row->copies[i]);
    *row = (struct store_row){0};
}

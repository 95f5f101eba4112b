/* A row of the pool's state as one value: what etcd holds under a key.
 *
 * Flow:   store_etcd -> [store_row] -> etcd -> [store_row] -> store_etcd
 * Thread: any; pure.
 */
#ifndef GODWIT_COORDINATOR_STORE_ROW_H
#define GODWIT_COORDINATOR_STORE_ROW_H

#include <stdint.h>

#include "coordinator/store_driver.h"

struct fault;

struct store_row { /* of a table's columns; those that the value lacks are empty texts */
    struct store_cell cells[STORE_COLUMNS_MAX];
    char *copies[STORE_COLUMNS_MAX]; /* owned: texts and blobs, each with a zero behind it */
};

/* malloc'ed; without memory for a row there is no deciding. */
void store_row_encode(const struct store_change *change, uint8_t **ret_bytes, size_t *ret_count);
int store_row_decode(enum store_table table, const uint8_t *bytes, size_t count,
                     struct store_row *ret_row, struct fault *fault);
void store_row_deinit(struct store_row *row);

#endif

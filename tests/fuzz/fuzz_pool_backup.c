/* A backup from anywhere is put into an empty store, and what is then in the store is loaded: every
 * row's decoder meets rows that no pool has ever written. */
#include <assert.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "coordinator/backup.h"
#include "coordinator/rows.h"
#include "coordinator/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store *store = NULL;
    struct cluster cluster = {0};
    struct fault fault = {0};
    uint64_t last_event = 0;
    log_set_level(LOG_ERROR);
    if (store_open(&store, ":memory:", NULL, &fault) < 0)
        return 0;
    if (backup_put(store, data, size, "pool", &fault) == 0) {
        int r = rows_load(store, &cluster, &last_event, &fault);
        assert(r == 0 || fault.text[0]);
        cluster_deinit(&cluster);
    }
    (void)store_close(store);
    return 0;
}

/* Copy one page and say whether it held anything but zeros, in one reading of it.
 *
 * Flow:   guest RAM -> [page_copy] -> staging frame of a lane
 * Thread: any; pure.
 *
 * The page may be written by the guest meanwhile: what counts is the copy, and a later write shows
 * in the dirty log again (INV-5).
 */
#ifndef GODWIT_MIGRATE_PAGE_COPY_H
#define GODWIT_MIGRATE_PAGE_COPY_H

#include <stdbool.h>
#include <stdint.h>

bool page_copy(uint8_t *ret_page, const uint8_t *page); /* true: not all zero; 64-byte aligned */

#endif

/* What a guest's file is of: machine, CPU baseline, vCPUs, regions, in one encoding with its own digest.
 *
 * Flow:   guest -> [guest_shape] -> guest_file_writer;  file -> [guest_shape] -> guest_file
 * Thread: any; pure.
 */
#ifndef GODWIT_MIGRATE_GUEST_SHAPE_H
#define GODWIT_MIGRATE_GUEST_SHAPE_H

#include <stdint.h>

struct fault;
struct guest;

enum { GUEST_SHAPE_BYTES = 512, GUEST_SHAPE_REGIONS_MAX = 13 };

int guest_shape_encode(const struct guest *guest, uint8_t ret_shape[static GUEST_SHAPE_BYTES],
                       struct fault *fault);
/* One shape has one encoding: what is there must be this guest's, to the byte. */
int guest_shape_judge(const uint8_t shape[static GUEST_SHAPE_BYTES], const struct guest *guest,
                      struct fault *fault);

#endif

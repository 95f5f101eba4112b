/* From when to when a certificate is good, for `doctor`.
 *
 * Flow:   PEM text -> [certificate_dates] -> cmd_doctor
 * Thread: any; pure.
 *
 * OpenSSL is net's; two dates at a fixed place of the DER are read here instead of widening its
 * door. Nothing is trusted by what this says.
 */
#ifndef GODWIT_CLI_CERTIFICATE_DATES_H
#define GODWIT_CLI_CERTIFICATE_DATES_H

#include <stdint.h>

struct fault;

/* Unix seconds. ERR_CORRUPT when it is no certificate. */
int certificate_dates(const char *pem, uint64_t *ret_begin, uint64_t *ret_end, struct fault *fault);

#endif

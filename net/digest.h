/* SHA-256 of what comes in pieces: the name of an image is the digest of its content.
 *
 * Flow:   cli, agent -> [digest]
 * Thread: any; one at a time a digest.
 */
#ifndef GODWIT_NET_DIGEST_H
#define GODWIT_NET_DIGEST_H

#include <stddef.h>
#include <stdint.h>

struct digest;

enum { DIGEST_TEXT_SIZE = 65 }; /* 64 lower-case hex digits */

struct digest *digest_new(void); /* NULL: no memory */
struct digest *digest_free(struct digest *digest);
void digest_add(struct digest *digest, const void *bytes, size_t count);
void digest_add_zeros(struct digest *digest, uint64_t count);
/* Of all that was added; nothing more may be added. */
void digest_finish(struct digest *digest, char ret_text[static DIGEST_TEXT_SIZE]);

#endif

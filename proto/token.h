/* A join token: everything a new host needs to find the pool, to know it, and to be let in once.
 *
 * Flow:   coordinator -> [token] -> an operator's clipboard -> [token] -> agent's enrolment
 * Thread: any; pure.
 *
 * Text form: "gw1." and base64url (no padding) of 4 bytes of check sum (XXH3, truncated, little
 * endian) and a packed JoinToken, so that a clipped paste is told as such.
 */
#ifndef GODWIT_PROTO_TOKEN_H
#define GODWIT_PROTO_TOKEN_H

#include <stddef.h>

#include "proto/pool.pb-c.h"

struct fault;

enum { TOKEN_SECRET_BYTES = 32 };

/* Gives malloc'ed text. */
int token_encode(const Godwit__JoinToken *token, char **ret_text, struct fault *fault);
/* Gives a message to free with godwit__join_token__free_unpacked. White space around is ignored. */
int token_decode(const char *text, Godwit__JoinToken **ret_token, struct fault *fault);

#endif

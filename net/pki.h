/* The pool's own certificates: a CA, keys, requests, signatures, pins. All PEM text in memory.
 *
 * Flow:   pool init, pool join -> [pki] -> tls
 * Thread: any; no state.
 *
 * Identity is a URI in the subject alternative name: spiffe://<pool id>/<role>/<name>, role one of
 * host, coordinator, operator, and peer: another pool, as we call it. Keys are ECDSA P-256.
 */
#ifndef GODWIT_NET_PKI_H
#define GODWIT_NET_PKI_H

#include <stddef.h>
#include <stdint.h>

struct fault;

enum { PKI_PIN_SIZE = 65, PKI_ROLE_MAX = 16, PKI_NAME_MAX = 64 };

struct pki_identity {
    char pool[PKI_NAME_MAX];
    char role[PKI_ROLE_MAX];
    char name[PKI_NAME_MAX];
};

/* ret_* are malloc'ed PEM texts, the caller's. */
int pki_new_ca(const char *pool_id, unsigned days, char **ret_certificate, char **ret_key,
               struct fault *fault);
int pki_new_key(char **ret_key, struct fault *fault);
/* A request carries the key and proof of it; the identity is the signer's decision. */
int pki_new_request(const char *key, char **ret_request, struct fault *fault);
/* Check the request's own signature, then sign it as `identity`. Both client and server use. */
int pki_sign(const char *ca_certificate, const char *ca_key, const char *request,
             const struct pki_identity *identity, unsigned days, char **ret_certificate,
             struct fault *fault);
/* A key at rest where others may read: encrypted (AES-256), opened only by the same secret. */
int pki_lock_key(const char *key, const char *secret, char **ret_locked, struct fault *fault);
int pki_unlock_key(const char *locked, const char *secret, char **ret_key, struct fault *fault);
/* SHA-256 of the certificate (DER) as lower-case hex. */
int pki_pin(const char *certificate, char ret_pin[static PKI_PIN_SIZE], struct fault *fault);
/* Parse spiffe://pool/role/name out of a certificate. */
int pki_identity_of(const char *certificate, struct pki_identity *ret_identity,
                    struct fault *fault);
/* From when to when a certificate is good, in Unix seconds (0: before 1970). */
int pki_dates(const char *certificate, uint64_t *ret_begin, uint64_t *ret_end, struct fault *fault);
/* SHA-256 of bytes as lower-case hex (secrets at rest, chains). */
void pki_sha256_hex(const void *bytes, size_t count, char ret_hex[static PKI_PIN_SIZE]);

#endif

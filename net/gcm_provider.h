/* AES-128-GCM of a lane by the fastest code there is for this processor, as a provider of
 * OpenSSL's.
 *
 * Flow:   lane_handshake -> [gcm_provider] -> OpenSSL's record layer -> libIPSec_MB
 * Thread: any; made once, lives as long as the process.
 *
 * OpenSSL 3.0 has no AES-GCM for vector AES: 4 GB/s where this processor gives 11. TLS stays
 * OpenSSL's as a whole, nonces and keys too; only the cipher below it is exchanged, and only when
 * the processor has what makes it faster and the cipher has just given the same bytes as OpenSSL's.
 */
#ifndef GODWIT_NET_GCM_PROVIDER_H
#define GODWIT_NET_GCM_PROVIDER_H

struct ossl_lib_ctx_st;

/* The library context for SSL_CTX_new_ex, NULL for OpenSSL's own; never fails. */
struct ossl_lib_ctx_st *gcm_provider_libctx(void);
/* What to ask it for: our cipher where there is one, OpenSSL's for all else. */
const char *gcm_provider_query(void);

#endif

/* OpenSSL's headers beside ours: both know an ERR_STATE, and ours is the one that is used here.
 *
 * Flow:   libssl, libcrypto -> [openssl] -> pki, tls, lane_handshake, tls_lane, gcm_provider
 * Thread: none; names only.
 */
#ifndef GODWIT_NET_OPENSSL_H
#define GODWIT_NET_OPENSSL_H

#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/bio.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#undef ERR_STATE

#endif

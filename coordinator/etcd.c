#include "coordinator/etcd.h"

#include <assert.h>
#include <curl/curl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"

enum {
    CONNECT_MS = 700,
    CALL_MS = 1500, /* an election inside etcd takes about as long: then the next member is asked */
    PAGE_ROWS = 500,
    GRPC_NOT_FOUND = 5,
    GRPC_RESOURCE_EXHAUSTED = 8,
};

/* What TLS needs of files; NULL: not given. */
enum tls_file { TLS_FILE_CA, TLS_FILE_CERT, TLS_FILE_KEY, TLS_FILE_COUNT };

static const char plain_scheme[] = "etcd://", tls_scheme[] = "etcds://";
static const char *const tls_words[TLS_FILE_COUNT] = {
    [TLS_FILE_CA] = "ca", [TLS_FILE_CERT] = "cert", [TLS_FILE_KEY] = "key"};

struct etcd {
    CURL *curl;
    bool is_tls;
    char *tls_files[TLS_FILE_COUNT]; /* owned */
    struct curl_slist *headers;
    char *members[ETCD_MEMBERS_MAX]; /* "host:port" */
    size_t member_count, member;     /* the one that is asked first */
    char prefix[ETCD_KEY_MAX];
    char *answer;
    size_t answer_count;
    bool answer_too_long;
};

/* ---- base64 -----------------------------------------------------------------------------------
 */

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static json_t *base64_of(const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    AUTO_FREE char *text = calloc((count + 2) / 3 + 1, 4);
    assert(text); /* control memory is small; without it there is no deciding */
    size_t used = 0;
    for (size_t i = 0; i < count; i += 3) {
        uint32_t group = (uint32_t)from[i] << 16;
        group |= i + 1 < count ? (uint32_t)from[i + 1] << 8 : 0;
        group |= i + 2 < count ? from[i + 2] : 0;
        text[used++] = letters[group >> 18];
        text[used++] = letters[group >> 12 & 63];
        text[used++] = i + 1 < count ? letters[group >> 6 & 63] : '=';
        text[used++] = i + 2 < count ? letters[group & 63] : '=';
    }
    return json_stringn(text, used);
}

static json_t *base64_of_text(const char *text)
{
    return base64_of(text, strlen(text));
}

/* Gives malloc'ed, zero-ended bytes; NULL when it is no base64. */
static uint8_t *base64_bytes(const char *text, size_t *ret_count)
{
    size_t length = strlen(text), used = 0;
    uint8_t *bytes = malloc(length + 4);
    assert(bytes);
    uint32_t group = 0;
    size_t have = 0;
    for (size_t i = 0; i < length && text[i] != '='; i++) {
        const char *letter = strchr(letters, text[i]);
        if (!letter) {
            free(bytes);
            return NULL;
        }
        group = group << 6 | (uint32_t)(letter - letters);
        if (++have == 4) {
            bytes[used++] = (uint8_t)(group >> 16);
            bytes[used++] = (uint8_t)(group >> 8);
            bytes[used++] = (uint8_t)group;
            have = 0;
        }
    }
    if (have == 3)
        bytes[used++] = (uint8_t)(group >> 10);
    if (have >= 2)
        bytes[used++] = (uint8_t)(group >> (have == 3 ? 2 : 4));
    bytes[used] = 0;
    *ret_count = used;
    return bytes;
}

/* The gateway writes 64-bit numbers as strings and leaves zeroes out. */
static uint64_t number_in(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (json_is_integer(value))
        return (uint64_t)json_integer_value(value);
    return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10) : 0;
}

static json_t *number_text(uint64_t number)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, number);
    return json_string(text);
}

/* ---- one call ---------------------------------------------------------------------------------
 */

static size_t on_bytes(char *bytes, size_t size, size_t count, void *data)
{
    struct etcd *etcd = data;
    count *= size;
    char *bigger = etcd->answer_count + count > ETCD_ANSWER_MAX
                       ? NULL
                       : realloc(etcd->answer, etcd->answer_count + count + 1);
    if (!bigger) {
        etcd->answer_too_long = true;
        return 0;
    }
    etcd->answer = bigger;
    memcpy(etcd->answer + etcd->answer_count, bytes, count);
    etcd->answer_count += count;
    etcd->answer[etcd->answer_count] = '\0';
    return count;
}

/* Positive: the next member may know better. */
enum { MEMBER_E_NEXT = 1 };

static int judge_answer(struct etcd *etcd, long status, json_t **ret_answer, struct fault *fault)
{
    json_error_t error;
    json_t *answer = json_loadb(etcd->answer ? etcd->answer : "", etcd->answer_count, 0, &error);
    const char *member = etcd->members[etcd->member];
    if (status == 200 && answer && !json_object_get(answer, "error")) {
        *ret_answer = answer;
        return 0;
    }
    const json_t *told = json_object_get(answer, "error");
    const char *words = json_is_string(told) ? json_string_value(told)
                                             : json_string_value(json_object_get(told, "message"));
    uint64_t code = number_in(json_is_object(told) ? told : answer,
                              json_is_object(told) ? "grpc_code" : "code");
    int r = MEMBER_E_NEXT;
    if (code == GRPC_NOT_FOUND)
        r = fault_set(fault, ERR_NOT_FOUND, "etcd member %s: %.200s", member, words ? words : "");
    else if (code == GRPC_RESOURCE_EXHAUSTED)
        r = fault_set(fault, ERR_LIMIT, "etcd member %s: %.200s", member, words ? words : "");
    else
        (void)fault_set(fault, ERR_UNREACHABLE, "etcd member %s answered %ld: %.200s", member,
                        status, words ? words : "no JSON");
    json_decref(answer);
    return r;
}

static int ask_member(struct etcd *etcd, const char *path, const char *body, json_t **ret_answer,
                      struct fault *fault)
{
    char url[512], words[CURL_ERROR_SIZE] = "";
    const char *member = etcd->members[etcd->member];
    etcd->answer_count = 0;
    etcd->answer_too_long = false;
    (void)snprintf(url, sizeof url, "%s://%s/v3/%s", etcd->is_tls ? "https" : "http", member, path);
    (void)curl_easy_setopt(etcd->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(etcd->curl, CURLOPT_POSTFIELDS, body);
    (void)curl_easy_setopt(etcd->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
    (void)curl_easy_setopt(etcd->curl, CURLOPT_ERRORBUFFER, words);
    CURLcode code = curl_easy_perform(etcd->curl);
    (void)curl_easy_setopt(etcd->curl, CURLOPT_ERRORBUFFER, NULL);
    if (code != CURLE_OK) {
        (void)fault_set(fault, ERR_UNREACHABLE, "etcd member %s: %s", member,
                        etcd->answer_too_long ? "its answer has no end"
                        : words[0]            ? words
                                              : curl_easy_strerror(code));
        return MEMBER_E_NEXT;
    }
    long status = 0;
    (void)curl_easy_getinfo(etcd->curl, CURLINFO_RESPONSE_CODE, &status);
    return judge_answer(etcd, status, ret_answer, fault);
}

/* Takes `request`. */
static int call(struct etcd *etcd, const char *path, json_t *request, json_t **ret_answer,
                struct fault *fault)
{
    AUTO_FREE char *body = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!body)
        return fault_set(fault, ERR_NOMEM, "no memory to ask etcd");
    int r = MEMBER_E_NEXT;
    for (size_t i = 0; r == MEMBER_E_NEXT && i < etcd->member_count; i++) {
        r = ask_member(etcd, path, body, ret_answer, fault);
        if (r == MEMBER_E_NEXT) {
            log_debug("etcd", "%s", fault ? fault->text : "a member did not answer");
            etcd->member = (etcd->member + 1) % etcd->member_count;
        }
    }
    return r == MEMBER_E_NEXT ? ERR_UNREACHABLE : r; /* the fault has its words */
}

static void json_decref_p(json_t **json)
{
    json_decref(*json);
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static int give_row(const json_t *item, etcd_row_fn *give, void *data, char *ret_key,
                    struct fault *fault)
{
    size_t key_count = 0, count = 0;
    const char *key64 = json_string_value(json_object_get(item, "key"));
    const char *value64 = json_string_value(json_object_get(item, "value"));
    AUTO_FREE uint8_t *key = base64_bytes(key64 ? key64 : "", &key_count);
    AUTO_FREE uint8_t *value = base64_bytes(value64 ? value64 : "", &count);
    if (!key || !value || key_count == 0 || key_count >= ETCD_KEY_MAX ||
        strlen((const char *)key) != key_count)
        return fault_set(fault, ERR_CORRUPT, "etcd gave a row that is none");
    const struct etcd_row row = {
        .key = (const char *)key,
        .value = value,
        .count = count,
        .create_revision = number_in(item, "create_revision"),
        .mod_revision = number_in(item, "mod_revision"),
        .version = number_in(item, "version"),
    };
    (void)snprintf(ret_key, ETCD_KEY_MAX, "%s", row.key);
    return give(data, &row, fault);
}

int etcd_range(struct etcd *etcd, const char *first, const char *end, bool keys_only,
               etcd_row_fn *row, void *data, struct fault *fault)
{
    char from[ETCD_KEY_MAX + 1], last[ETCD_KEY_MAX] = "";
    (void)snprintf(from, sizeof from, "%s", first);
    for (;;) {
        AUTO(json_decref_p) json_t *answer = NULL;
        size_t from_count =
            strlen(from) + (last[0] ? 1 : 0); /* the key after `last`: with a zero */
        json_t *request =
            json_pack("{s:o,s:s,s:s,s:s,s:b}", "key", base64_of(from, from_count), "limit", "500",
                      "sort_order", "ASCEND", "sort_target", "KEY", "keys_only", keys_only);
        static_assert(PAGE_ROWS == 500, "the limit above");
        assert(request);
        if (end[0])
            (void)json_object_set_new(request, "range_end", base64_of_text(end));
        int r = call(etcd, "kv/range", request, &answer, fault);
        if (r < 0)
            return r;
        const json_t *rows = json_object_get(answer, "kvs");
        for (size_t i = 0; i < json_array_size(rows); i++) {
            r = give_row(json_array_get(rows, i), row, data, last, fault);
            if (r < 0)
                return r;
        }
        if (!json_is_true(json_object_get(answer, "more")) || json_array_size(rows) == 0)
            return 0;
        (void)snprintf(from, sizeof from, "%s", last);
    }
}

static json_t *compare_of(const struct etcd_compare *compare)
{
    return json_pack("{s:o,s:s,s:s,s:o}", "key", base64_of_text(compare->key), "target",
                     compare->of_creation ? "CREATE" : "MOD", "result", "EQUAL",
                     compare->of_creation ? "create_revision" : "mod_revision",
                     number_text(compare->revision));
}

static json_t *change_of(const struct etcd_change *change)
{
    if (change->is_delete)
        return json_pack("{s:{s:o}}", "request_delete_range", "key", base64_of_text(change->key));
    json_t *put = json_pack("{s:o,s:o}", "key", base64_of_text(change->key), "value",
                            base64_of(change->value, change->count));
    if (change->lease)
        (void)json_object_set_new(put, "lease", number_text(change->lease));
    return json_pack("{s:o}", "request_put", put);
}

int etcd_commit(struct etcd *etcd, const struct etcd_compare *compares, size_t compare_count,
                const struct etcd_change *changes, size_t change_count, uint64_t *ret_revision,
                struct fault *fault)
{
    json_t *compare = json_array(), *success = json_array();
    for (size_t i = 0; i < compare_count; i++)
        (void)json_array_append_new(compare, compare_of(&compares[i]));
    for (size_t i = 0; i < change_count; i++)
        (void)json_array_append_new(success, change_of(&changes[i]));
    json_t *request = json_pack("{s:o,s:o}", "compare", compare, "success", success);
    assert(request && json_array_size(compare) == compare_count &&
           json_array_size(success) == change_count); /* control memory is small */
    AUTO(json_decref_p) json_t *answer = NULL;
    int r = call(etcd, "kv/txn", request, &answer, fault);
    if (r < 0)
        return r;
    if (!json_is_true(json_object_get(answer, "succeeded")))
        return ETCD_E_NOT_MET;
    *ret_revision = number_in(json_object_get(answer, "header"), "revision");
    return 0;
}

int etcd_compact(struct etcd *etcd, uint64_t revision, struct fault *fault)
{
    AUTO(json_decref_p) json_t *answer = NULL;
    return call(etcd, "kv/compaction", json_pack("{s:o}", "revision", number_text(revision)),
                &answer, fault);
}

/* ---- leases -----------------------------------------------------------------------------------
 */

int etcd_lease_grant(struct etcd *etcd, unsigned ttl_s, uint64_t *ret_lease, struct fault *fault)
{
    AUTO(json_decref_p) json_t *answer = NULL;
    int r =
        call(etcd, "lease/grant", json_pack("{s:o}", "TTL", number_text(ttl_s)), &answer, fault);
    if (r < 0)
        return r;
    *ret_lease = number_in(answer, "ID");
    return *ret_lease ? 0 : fault_set(fault, ERR_CORRUPT, "etcd gave a lease without a number");
}

int etcd_lease_renew(struct etcd *etcd, uint64_t lease, struct fault *fault)
{
    AUTO(json_decref_p) json_t *answer = NULL;
    int r =
        call(etcd, "lease/keepalive", json_pack("{s:o}", "ID", number_text(lease)), &answer, fault);
    if (r < 0)
        return r;
    if (number_in(json_object_get(answer, "result"), "TTL") == 0)
        return fault_set(fault, ERR_NOT_FOUND, "the lease in etcd has ended");
    return 0;
}

int etcd_lease_revoke(struct etcd *etcd, uint64_t lease, struct fault *fault)
{
    AUTO(json_decref_p) json_t *answer = NULL;
    return call(etcd, "lease/revoke", json_pack("{s:o}", "ID", number_text(lease)), &answer, fault);
}

/* ---- the client -------------------------------------------------------------------------------
 */

bool etcd_is_named(const char *where)
{
    return strncmp(where, plain_scheme, strlen(plain_scheme)) == 0 ||
           strncmp(where, tls_scheme, strlen(tls_scheme)) == 0;
}

/* "WORD=FILE" of `length` bytes. */
static int read_tls_file(struct etcd *etcd, const char *at, size_t length, struct fault *fault)
{
    const char *equals = memchr(at, '=', length);
    size_t word = equals ? (size_t)(equals - at) : length;
    for (unsigned i = 0; equals && i < TLS_FILE_COUNT; i++) {
        if (strlen(tls_words[i]) != word || memcmp(tls_words[i], at, word) != 0)
            continue;
        free(etcd->tls_files[i]);
        etcd->tls_files[i] = strndup(equals + 1, length - word - 1);
        if (!etcd->tls_files[i])
            return fault_set(fault, ERR_NOMEM, "no memory to reach etcd");
        if (access(etcd->tls_files[i], R_OK) != 0)
            return fault_set(fault, ERR_INVALID, "etcd: the %s file '%.200s' cannot be read",
                             tls_words[i], etcd->tls_files[i]);
        return 0;
    }
    return fault_set(fault, ERR_INVALID, "etcd: found '%.*s'; ca=, cert= and key= would fit",
                     (int)(length < 60 ? length : 60), at);
}

static int read_tls(struct etcd *etcd, const char *words, struct fault *fault)
{
    if (words[0] && !etcd->is_tls)
        return fault_set(fault, ERR_INVALID, "etcd: '%.60s' is for etcds://, which is TLS", words);
    while (words[0]) {
        size_t length = strcspn(words, "&");
        int r = read_tls_file(etcd, words, length, fault);
        if (r < 0)
            return r;
        words += length + (words[length] ? 1 : 0);
    }
    if (!etcd->tls_files[TLS_FILE_CERT] != !etcd->tls_files[TLS_FILE_KEY])
        return fault_set(fault, ERR_INVALID, "etcd: cert= and key= come together");
    return 0;
}

static int read_where(struct etcd *etcd, const char *whole, struct fault *fault)
{
    const char *question = strchr(whole, '?');
    AUTO_FREE char *where = strndup(whole, question ? (size_t)(question - whole) : strlen(whole));
    if (!where)
        return fault_set(fault, ERR_NOMEM, "no memory to reach etcd");
    etcd->is_tls = strncmp(where, tls_scheme, strlen(tls_scheme)) == 0;
    int r = read_tls(etcd, question ? question + 1 : "", fault);
    if (r < 0)
        return r;
    const char *at = where + strlen(etcd->is_tls ? tls_scheme : plain_scheme),
               *slash = strchr(at, '/');
    const char *end = slash ? slash : at + strlen(at);
    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        size_t length = (size_t)((comma ? comma : end) - at);
        if (length == 0 || length > 255 || !memchr(at, ':', length) ||
            etcd->member_count == ETCD_MEMBERS_MAX)
            return fault_set(fault, ERR_INVALID,
                             "'%.120s' names no etcd; etcd://HOST:PORT,HOST:PORT would", where);
        etcd->members[etcd->member_count] = strndup(at, length);
        if (!etcd->members[etcd->member_count++])
            return fault_set(fault, ERR_NOMEM, "no memory for etcd's members");
        at += length + (comma ? 1 : 0);
    }
    if (etcd->member_count == 0)
        return fault_set(fault, ERR_INVALID, "'%.120s' names no member of etcd", where);
    const char *prefix = slash && slash[1] ? slash + 1 : "godwit";
    if (strlen(prefix) > 128)
        return fault_set(fault, ERR_INVALID, "'%.120s': the prefix is too long", where);
    (void)snprintf(etcd->prefix, sizeof etcd->prefix, "/%s/", prefix);
    return 0;
}

/* Not all begin with the same member: it may be the one that is silent. */
static void choose_first(struct etcd *etcd)
{
    uint8_t chance;
    world_random(&chance, sizeof chance);
    etcd->member = chance % etcd->member_count;
}

static void curl_begin(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT); /* fails without memory; then easy_init does */
}

/* Whoever answers must be who it says it is: that is curl's default, and said here all the same. */
static int set_tls(struct etcd *etcd, struct fault *fault)
{
    CURL *curl = etcd->curl;
    CURLcode code = curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
    if (code == CURLE_OK)
        code = curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
    if (code == CURLE_OK)
        code = curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (code == CURLE_OK && etcd->tls_files[TLS_FILE_CA]) {
        code = curl_easy_setopt(curl, CURLOPT_CAINFO, etcd->tls_files[TLS_FILE_CA]);
        (void)curl_easy_setopt(curl, CURLOPT_CAPATH, NULL); /* nobody else's signature */
    }
    if (code == CURLE_OK && etcd->tls_files[TLS_FILE_CERT]) {
        code = curl_easy_setopt(curl, CURLOPT_SSLCERT, etcd->tls_files[TLS_FILE_CERT]);
        if (code == CURLE_OK)
            code = curl_easy_setopt(curl, CURLOPT_SSLKEY, etcd->tls_files[TLS_FILE_KEY]);
    }
    if (code != CURLE_OK)
        return fault_set(fault, ERR_UNSUPPORTED, "etcd by TLS: %s", curl_easy_strerror(code));
    return 0;
}

static int open_curl(struct etcd *etcd, struct fault *fault)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, curl_begin);
    etcd->curl = curl_easy_init();
    etcd->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!etcd->curl || !etcd->headers)
        return fault_set(fault, ERR_NOMEM, "no memory to reach etcd");
    CURL *curl = etcd->curl;
    (void)curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, etcd->is_tls ? "https" : "http");
    (void)curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, etcd->headers);
    (void)curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    (void)curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    (void)curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)CALL_MS);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, etcd);
    return etcd->is_tls ? set_tls(etcd, fault) : 0;
}

int etcd_new(struct etcd **ret_etcd, const char *where, struct fault *fault)
{
    assert(etcd_is_named(where));
    struct etcd *etcd = calloc(1, sizeof *etcd);
    if (!etcd)
        return fault_set(fault, ERR_NOMEM, "no memory to reach etcd");
    int r = read_where(etcd, where, fault);
    if (r == 0)
        choose_first(etcd);
    if (r == 0)
        r = open_curl(etcd, fault);
    if (r < 0) {
        (void)etcd_free(etcd);
        return r;
    }
    *ret_etcd = etcd;
    return 0;
}

struct etcd *etcd_free(struct etcd *etcd)
{
    if (!etcd)
        return NULL;
    if (etcd->curl)
        curl_easy_cleanup(etcd->curl);
    curl_slist_free_all(etcd->headers);
    for (size_t i = 0; i < etcd->member_count; i++)
        free(etcd->members[i]);
    for (unsigned i = 0; i < TLS_FILE_COUNT; i++)
        free(etcd->tls_files[i]);
    free(etcd->answer);
    free(etcd);
    return NULL;
}

const char *etcd_prefix(const struct etcd *etcd)
{
    return etcd->prefix;
}

#include "cli/certificate_dates.h"

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/err.h"

/* Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE { [0] version, INTEGER serial, SEQUENCE
 * algorithm, SEQUENCE issuer, SEQUENCE validity { Time, Time }, ... */
enum { DER_MAX = 16384, DER_SEQUENCE = 0x30, DER_UTC = 0x17, DER_GENERALIZED = 0x18, DER_V = 0xa0 };

static int value_of_letter(char c)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(letters, c) : NULL;
    return at ? (int)(at - letters) : -1;
}

static size_t decode_pem(const char *pem, uint8_t *ret_der, size_t size)
{
    static const char head[] = "-----BEGIN CERTIFICATE-----";
    const char *at = strstr(pem, head);
    uint32_t group = 0;
    unsigned bits = 0;
    size_t used = 0;
    for (at = at ? at + strlen(head) : ""; *at && *at != '-' && used < size; at++) {
        int value = value_of_letter(*at);
        if (value < 0)
            continue;
        group = group << 6 | (uint32_t)value;
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            ret_der[used++] = (uint8_t)(group >> bits);
        }
    }
    return used;
}

struct der {
    const uint8_t *at;
    size_t left;
};

/* The next element; its content in ret_inner. */
static bool take(struct der *der, uint8_t *ret_tag, struct der *ret_inner)
{
    if (der->left < 2)
        return false;
    size_t length = der->at[1], head = 2;
    if (length & 0x80) {
        size_t count = length & 0x7f;
        if (count == 0 || count > 3 || der->left < 2 + count)
            return false;
        length = 0;
        for (size_t i = 0; i < count; i++)
            length = length << 8 | der->at[2 + i];
        head += count;
    }
    if (length > der->left - head)
        return false;
    *ret_tag = der->at[0];
    *ret_inner = (struct der){.at = der->at + head, .left = length};
    der->at += head + length;
    der->left -= head + length;
    return true;
}

/* YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ */
static bool read_time(struct der *der, uint64_t *ret_seconds)
{
    uint8_t tag;
    struct der inner;
    char text[20] = "";
    struct tm utc = {0};
    if (!take(der, &tag, &inner) || (tag != DER_UTC && tag != DER_GENERALIZED) ||
        inner.left != (tag == DER_UTC ? 13u : 15u))
        return false;
    memcpy(text, inner.at, inner.left);
    const char *at = text;
    const char *format = tag == DER_UTC ? "%2d%2d%2d%2d%2d%2dZ" : "%4d%2d%2d%2d%2d%2dZ";
    if (sscanf(at, format, &utc.tm_year, &utc.tm_mon, &utc.tm_mday, &utc.tm_hour, &utc.tm_min,
               &utc.tm_sec) != 6)
        return false;
    if (tag == DER_UTC)
        utc.tm_year += utc.tm_year < 50 ? 100 : 0;
    else
        utc.tm_year -= 1900;
    utc.tm_mon -= 1;
    time_t seconds = timegm(&utc);
    *ret_seconds = seconds > 0 ? (uint64_t)seconds : 0;
    return true;
}

int certificate_dates(const char *pem, uint64_t *ret_begin, uint64_t *ret_end, struct fault *fault)
{
    uint8_t bytes[DER_MAX], tag = 0;
    struct der der = {.at = bytes, .left = decode_pem(pem, bytes, sizeof bytes)};
    struct der certificate, body, skipped, validity;
    uint64_t begin, end;
    bool good = take(&der, &tag, &certificate) && tag == DER_SEQUENCE &&
                take(&certificate, &tag, &body) && tag == DER_SEQUENCE &&
                take(&body, &tag, &skipped);
    if (good && tag == DER_V) /* the version; then comes the serial number */
        good = take(&body, &tag, &skipped);
    good = good && take(&body, &tag, &skipped) && take(&body, &tag, &skipped) &&
           take(&body, &tag, &validity) && tag == DER_SEQUENCE && read_time(&validity, &begin) &&
           read_time(&validity, &end);
    if (!good)
        return fault_set(fault, ERR_CORRUPT, "found no certificate");
    *ret_begin = begin;
    *ret_end = end;
    return 0;
}

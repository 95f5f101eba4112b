#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int fault_set(struct fault *fault, int code, const char *format, ...)
{
    assert(code < 0);
    if (!fault)
        return code;

    va_list args;
    va_start(args, format);
    char text[FAULT_TEXT_MAX]; /* the arguments may point into fault->text */
    (void)vsnprintf(text, sizeof text, format, args); /* cut words are better than none */
    va_end(args);

    memcpy(fault->text, text, sizeof text);
    fault->hint[0] = '\0';
    fault->code = code;
    return code;
}

int fault_set_errno(struct fault *fault, int code, int errno_value, const char *format, ...)
{
    assert(code < 0);
    if (!fault)
        return code;

    va_list args;
    va_start(args, format);
    char text[FAULT_TEXT_MAX];
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);

    return fault_set(fault, code, "%.300s: %s", text, strerror(errno_value));
}

int fault_wrap(struct fault *fault, int code, const char *format, ...)
{
    assert(code < 0);
    if (!fault)
        return code;

    va_list args;
    va_start(args, format);
    char front[FAULT_TEXT_MAX];
    (void)vsnprintf(front, sizeof front, format, args);
    va_end(args);

    char text[FAULT_TEXT_MAX];
    (void)snprintf(text, sizeof text, "%.200s: %.270s", front,
                   fault->text[0] ? fault->text : err_name(code));
    memcpy(fault->text, text, sizeof text);
    fault->code = code;
    return code;
}

void fault_hint(struct fault *fault, const char *format, ...)
{
    if (!fault)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(fault->hint, sizeof fault->hint, format, args);
    va_end(args);
}

const char *err_name(int code)
{
    switch (code) {
#define ERR_NAME(name, number, text, retry)                                                        \
    case name:                                                                                     \
        return text;
        ERR_LIST(ERR_NAME)
#undef ERR_NAME
    default:
        return "unknown";
    }
}

bool err_is_retryable(int code)
{
    switch (code) {
#define ERR_RETRY(name, number, text, retry)                                                       \
    case name:                                                                                     \
        return retry;
        ERR_LIST(ERR_RETRY)
#undef ERR_RETRY
    default:
        return false;
    }
}

int err_from_number(int number)
{
    switch (number) {
#define ERR_NUMBER(name, number_, text, retry)                                                     \
    case number_:                                                                                  \
        return name;
        ERR_LIST(ERR_NUMBER)
#undef ERR_NUMBER
    default:
        return ERR_IO;
    }
}

int err_from_errno(int errno_value)
{
    switch (errno_value) {
    case ENOMEM:
        return ERR_NOMEM;
    case ENOENT:
        return ERR_NOT_FOUND;
    case EEXIST:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
        return ERR_DENIED;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return ERR_UNREACHABLE;
    case ECONNRESET:
    case EPIPE:
        return ERR_CLOSED;
    default:
        return ERR_IO;
    }
}

/* Failures told in the operator's words.
 *
 * Flow:   every room -> [fault] -> agent, coordinator, cli -> operator
 * Thread: a struct fault lives on its caller's stack; nothing here is shared.
 *
 * Three kinds of trouble, never mixed: a bug is an assert; a module condition is a positive code
 * answered by the direct caller; a failure is a negative ERR_* that travels up unchanged, with
 * words added by fault_wrap().
 */
#ifndef GODWIT_BASE_ERR_H
#define GODWIT_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>

/* name, number (wire and JSON value, append only), short name, retryable */
#define ERR_LIST(X)                                                                                \
    X(ERR_NOMEM, 1, "no-memory", true)                                                             \
    X(ERR_IO, 2, "io", true)                                                                       \
    X(ERR_CORRUPT, 3, "corrupt", false)                                                            \
    X(ERR_UNSUPPORTED, 4, "unsupported", false)                                                    \
    X(ERR_INVALID, 5, "invalid", false)                                                            \
    X(ERR_NOT_FOUND, 6, "not-found", false)                                                        \
    X(ERR_EXISTS, 7, "exists", false)                                                              \
    X(ERR_BUSY, 8, "busy", true)                                                                   \
    X(ERR_DENIED, 9, "denied", false)                                                              \
    X(ERR_TIMEOUT, 10, "timeout", true)                                                            \
    X(ERR_CLOSED, 11, "closed", true)                                                              \
    X(ERR_CANCELED, 12, "canceled", false)                                                         \
    X(ERR_UNREACHABLE, 13, "unreachable", true)                                                    \
    X(ERR_CPU_COMPAT, 14, "cpu-compat", false)                                                     \
    X(ERR_DEADLINE, 15, "deadline", false)                                                         \
    X(ERR_REFUSED, 16, "refused", false)                                                           \
    X(ERR_ROLLED_BACK, 17, "rolled-back", true)                                                    \
    X(ERR_ATTENTION, 18, "needs-attention", false)                                                 \
    X(ERR_LIMIT, 19, "limit", false)                                                               \
    X(ERR_STATE, 20, "wrong-state", false)                                                         \
    X(ERR_NOT_LEADER, 21, "not-leader", true)                                                      \
    X(ERR_SUPERSEDED, 22, "superseded", false)                                                     \
    X(ERR_MOVE_UNKNOWN, 23, "unknown-move", false)

enum err {
#define ERR_ENUM(name, number, text, retry) name = -(number),
    ERR_LIST(ERR_ENUM)
#undef ERR_ENUM
};

enum { FAULT_TEXT_MAX = 480, FAULT_HINT_MAX = 160 };

/* What went wrong, for an operator: what was being done, to which VM, what was found, what limit.
 * Fixed size, never allocates; a zeroed fault is an empty one. */
struct fault {
    int code; /* ERR_*, 0 when empty */
    char text[FAULT_TEXT_MAX];
    char hint[FAULT_HINT_MAX]; /* a command that runs as pasted, or empty */
};

/* Set code and words; returns `code` so that `return fault_set(...)` reads well.
 * `fault` may be NULL: then only the code is returned. */
int fault_set(struct fault *fault, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As fault_set, with ": <strerror(errno_value)>" appended. */
int fault_set_errno(struct fault *fault, int code, int errno_value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Put words in front ("doing x: what happened") and keep the code. Returns `code`. */
int fault_wrap(struct fault *fault, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

void fault_hint(struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

const char *err_name(int code);    /* "no-memory"; "unknown" for what is not in the list */
bool err_is_retryable(int code);
int err_from_number(int number);   /* wire number -> ERR_*, ERR_IO for an unknown one */
int err_from_errno(int errno_value); /* ENOMEM -> ERR_NOMEM ..., ERR_IO otherwise */

#endif

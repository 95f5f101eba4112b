/* An error as an operator wants it: one sentence, a code, facts, the VM's state, a hint that runs.
 *
 * Flow:   OperatorError, fault -> [error_text] -> stderr, exit code
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_ERROR_TEXT_H
#define GODWIT_CLI_ERROR_TEXT_H

#include <stdbool.h>
#include <stdio.h>

#include "proto/pool.pb-c.h"

struct context;
struct fault;

struct error_style {
    unsigned width; /* the code stands right-aligned on the first line when it fits */
    bool color;
    bool json; /* one line of JSON instead */
};

/* What a script gets: the error's own exit code, else the one that fits its name. */
int error_exit_code(const Godwit__OperatorError *error);
/* The code of a local failure or of an answer without words for operators. */
int error_exit_code_of_fault(const struct fault *fault);

void error_text_write(FILE *out, const struct error_style *style,
                      const Godwit__OperatorError *error);
void error_text_write_fault(FILE *out, const struct error_style *style, const struct fault *fault);

/* Print on the context's talk stream, return the exit code. */
int error_print(struct context *context, const Godwit__OperatorError *error);
int error_print_fault(struct context *context, const struct fault *fault);

#endif

#include "coordinator/problem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/words.h"

int problem_set(struct problem *problem, enum gw_code code, const char *format, ...)
{
    assert(code != GW_NONE);
    if (!problem)
        return -1;
    char text[PROBLEM_TEXT_SIZE]; /* the arguments may point into the problem */
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut words are better than none */
    va_end(args);
    *problem = (struct problem){.code = code};
    memcpy(problem->text, text, sizeof text);
    return -1;
}

void problem_hint(struct problem *problem, const char *format, ...)
{
    if (!problem)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(problem->hint, sizeof problem->hint, format, args);
    va_end(args);
}

void problem_detail(struct problem *problem, const char *format, ...)
{
    if (!problem || problem->detail_count == PROBLEM_DETAILS_MAX)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(problem->details[problem->detail_count++], PROBLEM_HINT_SIZE, format, args);
    va_end(args);
}

void problem_to_message(struct problem *problem, Godwit__OperatorError *ret_error,
                        char **ret_details)
{
    const struct gw_code_row *row = gw_code_row((int)problem->code);
    assert(row);
    godwit__operator_error__init(ret_error);
    ret_error->code = (char *)(uintptr_t)row->label; /* protobuf-c knows no const */
    ret_error->name = (char *)(uintptr_t)row->name;
    ret_error->message = problem->text;
    ret_error->hint = problem->hint[0] ? problem->hint : NULL;
    ret_error->vm_state = problem->vm_state[0] ? problem->vm_state : NULL;
    ret_error->has_retryable = true;
    ret_error->retryable = row->retryable;
    ret_error->has_exit_code = true;
    ret_error->exit_code = row->exit_code;
    for (unsigned i = 0; i < problem->detail_count; i++)
        ret_details[i] = problem->details[i];
    ret_error->details = ret_details;
    ret_error->n_details = problem->detail_count;
}

void problem_from_message(struct problem *problem, const Godwit__OperatorError *error)
{
    const struct gw_code_row *row = error->code ? gw_code_find(error->code) : NULL;
    (void)problem_set(problem, row ? row->code : GW_INTERNAL, "%s",
                      error->message ? error->message : "");
    problem_hint(problem, "%s", error->hint ? error->hint : "");
    WORDS_COPY(problem->vm_state, error->vm_state ? error->vm_state : "");
    for (size_t i = 0; i < error->n_details; i++)
        problem_detail(problem, "%s", error->details[i]);
}

/* What a building guest says, on the operator's terminal: live, or its last lines when it failed.
 *
 * Flow:   build_core -> [build_output] -> stderr, OperatorError.details
 * Thread: the command's.
 *
 * A guest is a stranger: whatever it says, nothing of it moves the cursor, changes a colour or
 * turns the direction of writing.
 */
#ifndef GODWIT_CLI_BUILD_OUTPUT_H
#define GODWIT_CLI_BUILD_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BUILD_TAIL_LINES = 20, BUILD_TAIL_LINE_SIZE = 256 };

struct build_output {
    FILE *out; /* borrowed; NULL: nothing is shown as it comes */
    char tail[BUILD_TAIL_LINES][BUILD_TAIL_LINE_SIZE];
    size_t count; /* lines since the step began; the newest are kept */
};

/* A step begins: what others said is no more of interest. */
void build_output_begin(struct build_output *output);
/* A line, before which `lost` did not come. */
void build_output_line(struct build_output *output, const char *text, uint64_t lost);
/* The last lines, oldest first, borrowed; gives how many. */
size_t build_output_tail(struct build_output *output, char *ret_lines[static BUILD_TAIL_LINES]);

/* Text without control letters; what is no UTF-8 or is one becomes '?'. Cut to fit, between
 * letters. */
void build_output_clean(const char *text, char *ret_text, size_t size);

#endif

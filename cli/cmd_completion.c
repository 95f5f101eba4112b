#include "cli/cmd_completion.h"

#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "cli/completion.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "proto/gw_code.h"

int cmd_completion(struct context *context)
{
    static const struct {
        const char *shell;
        void (*print)(FILE *out, const struct command_table *table);
    } shells[] = {{"bash", completion_bash}, {"zsh", completion_zsh}, {"fish", completion_fish}};
    const char *names[ARRAY_COUNT(shells)];
    const char *word = context->line->operands[0];
    for (size_t i = 0; i < ARRAY_COUNT(shells); i++) {
        names[i] = shells[i].shell;
        if (strcmp(word, shells[i].shell) == 0) {
            shells[i].print(context->out, context->table);
            return EXIT_CODE_DONE;
        }
    }
    struct fault fault = {0};
    const char *nearest = id_nearest(word, names, ARRAY_COUNT(names));
    (void)fault_set(&fault, ERR_INVALID, "found the shell '%.40s'; bash, zsh or fish would fit",
                    word);
    fault_hint(&fault, "godwit completion %s", nearest ? nearest : "bash");
    return error_print_fault(context, &fault);
}

#include "cli/cmd_explain.h"

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "proto/gw_code.h"

enum { NAMES_MAX = 256 };

static const char *meaning(int exit_code)
{
    switch ((enum exit_code)exit_code) {
    case EXIT_CODE_USAGE:
        return "the command was not understood; nothing was changed";
    case EXIT_CODE_NOT_FOUND:
        return "there is no such thing; nothing was changed";
    case EXIT_CODE_NOT_ALLOWED:
        return "not allowed; nothing was changed";
    case EXIT_CODE_REFUSED:
        return "refused before the start; nothing was changed";
    case EXIT_CODE_ROLLED_BACK:
        return "failed and rolled back; the VM runs on its source";
    case EXIT_CODE_BUSY:
        return "busy; try again when it is not";
    case EXIT_CODE_UNREACHABLE:
        return "not reachable; VMs run on without it";
    case EXIT_CODE_ATTENTION:
        return "needs attention; do not repeat it blindly";
    case EXIT_CODE_WAIT_TIMED_OUT:
        return "the wait is over, the job goes on";
    case EXIT_CODE_PARTLY:
        return "a part of them is done";
    case EXIT_CODE_DETACHED:
        return "detached, the job goes on";
    case EXIT_CODE_DONE:
    case EXIT_CODE_FAILED:
        break;
    }
    return "failed";
}

static void print_row(struct context *context, const struct gw_code_row *row)
{
    if (context_is_machine(context)) {
        (void)fprintf(context->out,
                      "{\"code\":\"%s\",\"name\":\"%s\",\"exit_code\":%d,\"retryable\":%s,"
                      "\"text\":\"%s\"}\n",
                      row->label, row->name, row->exit_code, row->retryable ? "true" : "false",
                      row->text);
        return;
    }
    (void)fprintf(context->out, "%s %s\n  %s\n  exit code %d: %s\n  trying again %s\n", row->label,
                  row->name, row->text, row->exit_code, meaning(row->exit_code),
                  row->retryable ? "may help" : "does not help before something has changed");
}

static int refuse(struct context *context, const char *word)
{
    const char *names[NAMES_MAX];
    size_t count, used = 0;
    const struct gw_code_row *rows = gw_code_table(&count);
    for (size_t i = 0; i < count && used + 2 <= NAMES_MAX; i++) {
        names[used++] = rows[i].label;
        names[used++] = rows[i].name;
    }
    const char *nearest = id_nearest(word, names, used);
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_NOT_FOUND, "there is no code '%.40s'", word);
    if (nearest)
        fault_hint(&fault, "godwit explain %s", nearest);
    else
        fault_hint(&fault, "godwit explain");
    return error_print_fault(context, &fault);
}

int cmd_explain(struct context *context)
{
    if (context->line->operand_count > 0) {
        const struct gw_code_row *row = gw_code_find(context->line->operands[0]);
        if (!row)
            return refuse(context, context->line->operands[0]);
        print_row(context, row);
        return EXIT_CODE_DONE;
    }
    size_t count;
    const struct gw_code_row *rows = gw_code_table(&count);
    for (size_t i = 0; i < count; i++) {
        if (context_is_machine(context))
            print_row(context, &rows[i]);
        else
            (void)fprintf(context->out, "%s  %-24s exit %d\n", rows[i].label, rows[i].name,
                          rows[i].exit_code);
    }
    return EXIT_CODE_DONE;
}

#include "cli/error_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "cli/context.h"
#include "cli/words.h"
#include "proto/gw_code.h"

enum { LINE_MAX_WIDTH = 106 };

static int exit_code_of_err(int code)
{
    switch ((enum err)code) {
    case ERR_INVALID:
    case ERR_LIMIT:
        return EXIT_CODE_USAGE;
    case ERR_NOT_FOUND:
    case ERR_MOVE_UNKNOWN:
        return EXIT_CODE_NOT_FOUND;
    case ERR_DENIED:
        return EXIT_CODE_NOT_ALLOWED;
    case ERR_EXISTS:
    case ERR_CPU_COMPAT:
    case ERR_REFUSED:
    case ERR_STATE:
    case ERR_SUPERSEDED:
    case ERR_UNSUPPORTED:
        return EXIT_CODE_REFUSED;
    case ERR_CANCELED:
    case ERR_DEADLINE:
    case ERR_ROLLED_BACK:
        return EXIT_CODE_ROLLED_BACK;
    case ERR_BUSY:
        return EXIT_CODE_BUSY;
    case ERR_TIMEOUT:
    case ERR_CLOSED:
    case ERR_UNREACHABLE:
    case ERR_NOT_LEADER:
        return EXIT_CODE_UNREACHABLE;
    case ERR_ATTENTION:
        return EXIT_CODE_ATTENTION;
    case ERR_NOMEM:
    case ERR_IO:
    case ERR_CORRUPT:
        return EXIT_CODE_FAILED;
    }
    return EXIT_CODE_FAILED;
}

int error_exit_code(const Godwit__OperatorError *error)
{
    if (error->has_exit_code && error->exit_code > 0 && error->exit_code < 126)
        return error->exit_code;
    const struct gw_code_row *row = error->code ? gw_code_find(error->code) : NULL;
    return row ? row->exit_code : EXIT_CODE_FAILED;
}

/* The GW code of a failure that is the command's own or the connection's. Others are told by their
 * short name: a made-up code would lead `godwit explain` astray. */
static const struct gw_code_row *row_of_exit(int exit_code)
{
    switch (exit_code) {
    case EXIT_CODE_USAGE:
        return gw_code_row(GW_USAGE);
    case EXIT_CODE_NOT_ALLOWED:
        return gw_code_row(GW_NOT_ALLOWED);
    case EXIT_CODE_UNREACHABLE:
        return gw_code_row(GW_COORDINATOR_UNREACHABLE);
    default:
        return NULL;
    }
}

static void write_json(FILE *out, const Godwit__OperatorError *error)
{
    AUTO_FREE char *text = NULL;
    if (json_print(&error->base, JSON_FORM_COMPACT, &text, NULL) == 0)
        (void)fputs(text, out);
}

static void write_right(FILE *out, unsigned width, size_t used, const char *text)
{
    size_t limit = width < LINE_MAX_WIDTH ? width : LINE_MAX_WIDTH;
    size_t length = words_width(text);
    if (length > 0 && used + 2 + length <= limit)
        (void)fprintf(out, "%*s%s\n", (int)(limit - used - length), "", text);
    else
        (void)fputc('\n', out);
}

void error_text_write(FILE *out, const struct error_style *style,
                      const Godwit__OperatorError *error)
{
    if (style->json) {
        write_json(out, error);
        return;
    }
    const char *message = error->message && error->message[0] ? error->message : "it failed";
    const char *red = style->color ? "\033[1;31m" : "", *bold = style->color ? "\033[1m" : "",
               *plain = style->color ? "\033[0m" : "";
    char label[96] = "";
    if (error->code)
        (void)snprintf(label, sizeof label, "%s %s", error->code, error->name ? error->name : "");

    (void)fprintf(out, "%serror:%s %s", red, plain, message);
    write_right(out, style->width, strlen("error: ") + words_width(message), label);
    for (size_t i = 0; i < error->n_details; i++)
        (void)fprintf(out, "  %s\n", error->details[i]);
    if (error->vm_state && error->vm_state[0])
        (void)fprintf(out, "  the VM now: %s\n", error->vm_state);
    if (error->hint && error->hint[0])
        (void)fprintf(out, "%shint:%s %s\n", bold, plain, error->hint);
    if (error->code) {
        char more[64], exits[24];
        (void)snprintf(more, sizeof more, "more: godwit explain %s", error->code);
        (void)snprintf(exits, sizeof exits, "(exit %d)", error_exit_code(error));
        (void)fputs(more, out);
        write_right(out, style->width, strlen(more), exits);
    }
}

/* The coordinator ends the words of a refusal, where a reply has no room for more, by
 * " (GW-2102 vm-unknown)": take that off and know the code. */
static const struct gw_code_row *take_label(char *text)
{
    char *open = strrchr(text, '(');
    char label[16];
    if (!open || open == text || strncmp(open, "(GW-", 4) != 0 || text[strlen(text) - 1] != ')')
        return NULL;
    (void)snprintf(label, sizeof label, "%.*s", (int)strcspn(open + 1, " )"), open + 1);
    const struct gw_code_row *row = gw_code_find(label);
    if (row)
        open[open[-1] == ' ' ? -1 : 0] = '\0';
    return row;
}

int error_exit_code_of_fault(const struct fault *fault)
{
    char text[FAULT_TEXT_MAX];
    memcpy(text, fault->text, sizeof text);
    const struct gw_code_row *row = take_label(text);
    return row ? row->exit_code : exit_code_of_err(fault->code);
}

void error_text_write_fault(FILE *out, const struct error_style *style, const struct fault *fault)
{
    char text[FAULT_TEXT_MAX];
    memcpy(text, fault->text, sizeof text);
    const struct gw_code_row *row = take_label(text);
    int exit_code = row ? row->exit_code : exit_code_of_err(fault->code);
    if (!row)
        row = row_of_exit(exit_code);
    Godwit__OperatorError error = GODWIT__OPERATOR_ERROR__INIT;
    error.code = row ? (char *)row->label : NULL; /* only read */
    error.name = row ? (char *)row->name : (char *)err_name(fault->code);
    error.message = text;
    error.hint = fault->hint[0] ? (char *)fault->hint : NULL;
    error.has_retryable = true;
    error.retryable = row ? row->retryable : err_is_retryable(fault->code);
    error.has_exit_code = true;
    error.exit_code = exit_code;
    error_text_write(out, style, &error);
}

static struct error_style style_of(const struct context *context)
{
    return (struct error_style){.width = context_width(context),
                                .color = context->talk_color,
                                .json = context_is_machine(context)};
}

int error_print(struct context *context, const Godwit__OperatorError *error)
{
    struct error_style style = style_of(context);
    error_text_write(context->talk, &style, error);
    return error_exit_code(error);
}

int error_print_fault(struct context *context, const struct fault *fault)
{
    struct error_style style = style_of(context);
    error_text_write_fault(context->talk, &style, fault);
    return error_exit_code_of_fault(fault);
}

#include "cli/help.h"

#include <string.h>

#include "cli/command.h"

enum { TEXT_WIDTH = 96, OPTION_COLUMN = 30 };

/* Words, broken at blanks, each line but the first indented. */
static void wrap(FILE *out, const char *text, size_t indent, size_t at)
{
    while (*text) {
        size_t length = strcspn(text, " ");
        if (at > indent && at + length > TEXT_WIDTH) {
            (void)fprintf(out, "\n%*s", (int)indent, "");
            at = indent;
        }
        (void)fprintf(out, "%.*s", (int)length, text);
        at += length;
        text += length;
        if (*text == ' ') {
            text++;
            if (*text && at + 1 + strcspn(text, " ") <= TEXT_WIDTH) {
                (void)fputc(' ', out);
                at++;
            } else if (*text) {
                (void)fprintf(out, "\n%*s", (int)indent, "");
                at = indent;
            }
        }
    }
    (void)fputc('\n', out);
}

struct options_page {
    FILE *out;
    const struct command *command;
    const struct command_table *table;
    bool common;  /* which half is being printed */
    bool printed; /* the heading */
};

static bool is_own(const struct command *command, const struct command_option *option)
{
    for (const struct command_option *at = command->options; at && at->name; at++) {
        if (at == option)
            return true;
    }
    return false;
}

static bool is_hidden(const struct options_page *page, const struct command_option *option)
{
    if (is_own(page->command, option) == page->common)
        return true;
    for (const struct command_option *at = page->command->options; page->common && at && at->name;
         at++) {
        if (strcmp(at->name, option->name) == 0)
            return true; /* the command has its own of that name */
    }
    return false;
}

static void print_option(void *data, const struct command_option *option)
{
    struct options_page *page = data;
    char left[96], text[400];
    if (is_hidden(page, option))
        return;
    if (!page->printed)
        (void)fputs(page->common ? "\nCommon options:\n" : "\nOptions:\n", page->out);
    page->printed = true;
    const char *value = option->choices ? option->choices : option->value;
    char letter[8] = "    ";
    if (option->letter)
        (void)snprintf(letter, sizeof letter, "-%c, ", option->letter);
    (void)snprintf(left, sizeof left, "%s--%s%s%s", letter, option->name, value ? " " : "",
                   value ? value : "");
    (void)snprintf(text, sizeof text, "%s%s%s%s%s%s%s", option->help,
                   option->preset ? " (default " : "", option->preset ? option->preset : "",
                   option->preset ? ")" : "", option->environment ? " [" : "",
                   option->environment ? option->environment : "", option->environment ? "]" : "");
    bool fits = strlen(left) + 4 <= OPTION_COLUMN;
    (void)fprintf(page->out, "  %s%s%*s", left, fits ? "" : "\n",
                  fits ? (int)(OPTION_COLUMN - 2 - strlen(left)) : OPTION_COLUMN, "");
    wrap(page->out, text, OPTION_COLUMN, OPTION_COLUMN);
}

void help_command(FILE *out, const struct command_table *table, const struct command *command)
{
    (void)fprintf(out, "godwit %s: %s\n\nUsage:\n  godwit %s%s%s [OPTIONS]\n", command->words,
                  command->summary, command->words, command->operands[0] ? " " : "",
                  command->operands);
    if (command->more) {
        (void)fputc('\n', out);
        wrap(out, command->more, 0, 0);
    }
    (void)fputs("\nExamples:\n", out);
    for (size_t i = 0; i < COMMAND_EXAMPLES; i++)
        (void)fprintf(out, "  # %s\n  %s\n", command->examples[i].why, command->examples[i].line);
    struct options_page page = {.out = out, .command = command, .table = table};
    command_each_option(table, command, print_option, &page);
    page.common = true;
    page.printed = false;
    command_each_option(table, command, print_option, &page);
}

static void print_rows(FILE *out, const struct command_table *table, const char *group)
{
    size_t length = strlen(group);
    for (size_t i = 0; i < table->count; i++) {
        const struct command *command = &table->commands[i];
        if (length > 0 &&
            (strncmp(command->words, group, length) != 0 || command->words[length] != ' '))
            continue;
        char left[64];
        (void)snprintf(left, sizeof left, "%s%s%s", command->words, command->operands[0] ? " " : "",
                       command->operands);
        (void)fprintf(out, "  %-24s %s\n", left, command->summary);
    }
}

void help_group(FILE *out, const struct command_table *table, const char *group)
{
    if (group[0]) {
        char words[64];
        (void)snprintf(words, sizeof words, "%.*s", (int)strcspn(group, " "), group);
        (void)fprintf(out, "Usage:\n  godwit %s COMMAND [OPTIONS]\n\nCommands:\n", words);
        print_rows(out, table, words);
        (void)fputs("\nExamples:\n", out);
        size_t printed = 0;
        for (size_t i = 0; i < table->count && printed < COMMAND_EXAMPLES; i++) {
            const struct command *command = &table->commands[i];
            if (strncmp(command->words, words, strlen(words)) != 0 ||
                command->words[strlen(words)] != ' ')
                continue;
            for (size_t e = 0; e < COMMAND_EXAMPLES && printed < COMMAND_EXAMPLES; e++, printed++)
                (void)fprintf(out, "  # %s\n  %s\n", command->examples[e].why,
                              command->examples[e].line);
        }
        return;
    }
    (void)fputs("godwit moves running virtual machines between the hosts of a pool.\n\n"
                "Usage:\n  godwit COMMAND [OPTIONS]\n\nCommands:\n",
                out);
    print_rows(out, table, "");
    (void)fputs(
        "\nExamples:\n"
        "  # a pool on this machine, a guest, a move, a receipt\n  godwit demo\n"
        "  # what a command takes\n  godwit migrate --help\n"
        "\nData goes to stdout, talk and progress to stderr. Exit codes: 0 done, 1 failed, "
        "2 usage,\n3 not found, 4 not allowed, 5 refused and nothing changed, 6 rolled back "
        "and the VM runs on its\nsource, 7 wait timed out, 8 partly, 9 busy, 10 "
        "unreachable, 11 needs attention, 130 detached.\n",
        out);
}

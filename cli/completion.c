#include "cli/completion.h"

#include <stdbool.h>
#include <string.h>

#include "cli/command.h"

/* What completes an operand or a value: a command that prints names. */
static const char *source_of(const char *word)
{
    if (strncmp(word, "VM", 2) == 0)
        return "vm ls";
    if (strncmp(word, "HOST", 4) == 0 && strncmp(word, "HOST:", 5) != 0)
        return "host ls";
    if (strncmp(word, "JOB", 3) == 0)
        return "job ls --all";
    return NULL;
}

static void print_choices(FILE *out, const char *choices)
{
    for (const char *at = choices; *at; at++)
        (void)fputc(*at == '|' ? ' ' : *at, out);
}

static void bash_name(void *data, const struct command_option *option)
{
    (void)fprintf(data, "--%s ", option->name);
}

static void bash_value(void *data, const struct command_option *option)
{
    FILE *out = data;
    const char *source = option->value ? source_of(option->value) : NULL;
    if (option->type == COMMAND_FLAG)
        return;
    (void)fprintf(out, "            --%s%s%c%s) ", option->name, option->letter ? "|-" : "",
                  option->letter ? option->letter : ' ', "");
    if (option->choices) {
        (void)fputs("_godwit_words '", out);
        print_choices(out, option->choices);
        (void)fputs("'; return;;\n", out);
    } else if (option->type == COMMAND_FILE) {
        (void)fputs("_godwit_files; return;;\n", out);
    } else if (source) {
        (void)fprintf(out, "_godwit_names %s; return;;\n", source);
    } else {
        (void)fputs("return;;\n", out);
    }
}

static void bash_command(FILE *out, const struct command_table *table,
                         const struct command *command)
{
    const char *source =
        source_of(command->operands[0] == '[' ? command->operands + 1 : command->operands);
    (void)fprintf(out, "    '%s')\n        case \"$before\" in\n", command->words);
    command_each_option(table, command, bash_value, out);
    (void)fputs("        esac\n        case \"$now\" in\n        -*) _godwit_words '", out);
    command_each_option(table, command, bash_name, out);
    (void)fputs("';;\n        *) ", out);
    if (strcmp(command->words, "completion") == 0)
        (void)fputs("_godwit_words 'bash zsh fish'", out);
    else if (source)
        (void)fprintf(out, "_godwit_names %s", source);
    else
        (void)fputs(":", out);
    (void)fputs(";;\n        esac;;\n", out);
}

/* First words, and second words of each group, each once. */
static void first_words(FILE *out, const struct command_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        size_t length = strcspn(table->commands[i].words, " ");
        if (i > 0 && strncmp(table->commands[i - 1].words, table->commands[i].words, length) == 0 &&
            table->commands[i - 1].words[length] == ' ')
            continue;
        (void)fprintf(out, "%.*s ", (int)length, table->commands[i].words);
    }
}

static bool begins_group(const struct command_table *table, size_t index, size_t *ret_length)
{
    const char *words = table->commands[index].words;
    size_t length = strcspn(words, " ");
    *ret_length = length;
    if (words[length] == '\0')
        return false;
    return index == 0 || strncmp(table->commands[index - 1].words, words, length + 1) != 0;
}

static void second_words(FILE *out, const struct command_table *table, const char *words,
                         size_t length)
{
    for (size_t i = 0; i < table->count; i++) {
        if (strncmp(table->commands[i].words, words, length + 1) == 0)
            (void)fprintf(out, "%s ", table->commands[i].words + length + 1);
    }
}

static const char bash_head[] =
    "# completion of godwit for bash; written by: godwit completion bash\n"
    "_godwit_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$now\")); }\n"
    "_godwit_files() { COMPREPLY=($(compgen -f -- \"$now\")); }\n"
    "_godwit_names() { _godwit_words \"$(godwit \"$@\" -o name 2>/dev/null)\"; }\n"
    "_godwit() {\n"
    "    local now=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words='' i\n"
    "    COMPREPLY=()\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        case \"${COMP_WORDS[i]}\" in -*) break;; esac\n"
    "        case \"$words\" in\n";

void completion_bash(FILE *out, const struct command_table *table)
{
    (void)fputs(bash_head, out);
    /* A command's words end at the command: what follows are names. */
    (void)fputs("        ", out);
    for (size_t i = 0; i < table->count; i++)
        (void)fprintf(out, "%s'%s'", i ? "|" : "", table->commands[i].words);
    (void)fputs(") break;;\n        esac\n"
                "        words=${words:+$words }${COMP_WORDS[i]}\n"
                "    done\n    case \"$words\" in\n    '') _godwit_words '",
                out);
    first_words(out, table);
    (void)fputs("help';;\n", out);
    for (size_t i = 0; i < table->count; i++) {
        size_t length;
        if (!begins_group(table, i, &length))
            continue;
        (void)fprintf(out, "    '%.*s') _godwit_words '", (int)length, table->commands[i].words);
        second_words(out, table, table->commands[i].words, length);
        (void)fputs("';;\n", out);
    }
    for (size_t i = 0; i < table->count; i++)
        bash_command(out, table, &table->commands[i]);
    (void)fputs("    esac\n}\ncomplete -o filenames -F _godwit godwit\n", out);
}

/* zsh speaks bash's completion by its own bridge; one script to keep right. */
void completion_zsh(FILE *out, const struct command_table *table)
{
    (void)fputs("#compdef godwit\nautoload -U +X bashcompinit && bashcompinit\n", out);
    completion_bash(out, table);
}

struct fish_page {
    FILE *out;
    const char *condition;
};

static void fish_quote(FILE *out, const char *text)
{
    (void)fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            (void)fputc('\\', out);
        (void)fputc(*text, out);
    }
    (void)fputc('\'', out);
}

static void fish_option(void *data, const struct command_option *option)
{
    const struct fish_page *page = data;
    FILE *out = page->out;
    const char *source = option->value ? source_of(option->value) : NULL;
    (void)fprintf(out, "complete -c godwit -n '%s' -l %s", page->condition, option->name);
    if (option->letter)
        (void)fprintf(out, " -s %c", option->letter);
    if (option->type == COMMAND_FILE)
        (void)fputs(" -rF", out);
    else if (option->type != COMMAND_FLAG)
        (void)fputs(" -x", out);
    if (option->choices) {
        (void)fputs(" -a '", out);
        print_choices(out, option->choices);
        (void)fputc('\'', out);
    } else if (source) {
        (void)fprintf(out, " -a '(godwit %s -o name 2>/dev/null)'", source);
    }
    (void)fputs(" -d ", out);
    fish_quote(out, option->help);
    (void)fputc('\n', out);
}

static void fish_command(FILE *out, const struct command_table *table,
                         const struct command *command)
{
    char condition[128];
    const char *gap = strchr(command->words, ' ');
    if (gap)
        (void)snprintf(condition, sizeof condition,
                       "__fish_seen_subcommand_from %.*s; and __fish_seen_subcommand_from %s",
                       (int)(gap - command->words), command->words, gap + 1);
    else
        (void)snprintf(condition, sizeof condition, "__fish_seen_subcommand_from %s",
                       command->words);
    struct fish_page page = {.out = out, .condition = condition};
    command_each_option(table, command, fish_option, &page);
    const char *source =
        source_of(command->operands[0] == '[' ? command->operands + 1 : command->operands);
    if (source)
        (void)fprintf(out, "complete -c godwit -n '%s' -a '(godwit %s -o name 2>/dev/null)'\n",
                      condition, source);
}

void completion_fish(FILE *out, const struct command_table *table)
{
    (void)fputs("# completion of godwit for fish; written by: godwit completion fish\n"
                "complete -c godwit -f\ncomplete -c godwit -n __fish_use_subcommand -a '",
                out);
    first_words(out, table);
    (void)fputs("help'\n", out);
    for (size_t i = 0; i < table->count; i++) {
        size_t length;
        if (!begins_group(table, i, &length))
            continue;
        const char *words = table->commands[i].words;
        (void)fprintf(out,
                      "complete -c godwit -n '__fish_seen_subcommand_from %.*s; and not "
                      "__fish_seen_subcommand_from ",
                      (int)length, words);
        second_words(out, table, words, length);
        (void)fputs("' -a '", out);
        second_words(out, table, words, length);
        (void)fputs("'\n", out);
    }
    for (size_t i = 0; i < table->count; i++)
        fish_command(out, table, &table->commands[i]);
}

#include "cli/context.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/client.h"

static enum output_form output_of(const char *word)
{
    static const struct {
        const char *word;
        enum output_form form;
    } forms[] = {{"wide", OUTPUT_WIDE},
                 {"json", OUTPUT_JSON},
                 {"ndjson", OUTPUT_NDJSON},
                 {"yaml", OUTPUT_YAML},
                 {"name", OUTPUT_NAME}};
    for (size_t i = 0; word && i < sizeof forms / sizeof forms[0]; i++) {
        if (strcmp(word, forms[i].word) == 0)
            return forms[i].form;
    }
    return OUTPUT_TABLE;
}

void context_init(struct context *context, const struct command_table *table,
                  const struct command_line *line)
{
    const char *terminal = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    bool dumb = !terminal || strcmp(terminal, "dumb") == 0;
    bool colors = !dumb && !(no_color && no_color[0]);

    *context = (struct context){.table = table, .line = line, .out = stdout, .talk = stderr};
    context->out_color = colors && isatty(STDOUT_FILENO);
    context->talk_color = colors && isatty(STDERR_FILENO);
    context->talk_live = !dumb && isatty(STDERR_FILENO);
    context->output = output_of(command_text(line, "output"));
}

void context_deinit(struct context *context)
{
    context->client = client_close(context->client);
}

bool context_is_machine(const struct context *context)
{
    return context->output == OUTPUT_JSON || context->output == OUTPUT_NDJSON ||
           context->output == OUTPUT_YAML;
}

unsigned context_width(const struct context *context)
{
    struct winsize size = {0};
    if (ioctl(fileno(context->talk), TIOCGWINSZ, &size) != 0 || size.ws_col < 20)
        return 80;
    return size.ws_col;
}

bool context_confirm(struct context *context, const char *question)
{
    if (command_flag(context->line, "yes"))
        return true;
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return false;
    (void)fprintf(context->talk, "%s [y/N] ", question);
    (void)fflush(context->talk);
    char answer[16] = "";
    if (!fgets(answer, sizeof answer, stdin))
        return false;
    return answer[0] == 'y' || answer[0] == 'Y';
}

/* The operator's command: one line in, one command done, one exit code out. */
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/command_table.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/help.h"
#include "proto/gw_code.h"

/* A line that was not understood has no context yet: look at the stream and at -o by hand. */
static int refuse_line(int argc, char *const *argv, const struct fault *fault)
{
    const char *terminal = getenv("TERM"), *no_color = getenv("NO_COLOR");
    struct error_style style = {.width = 100};
    style.color = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0 &&
                  !(no_color && no_color[0]);
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        style.json |= (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--output") == 0) &&
                      strstr(next, "json") != NULL;
        style.json |= strcmp(argv[i], "-ojson") == 0 || strcmp(argv[i], "--output=json") == 0;
    }
    error_text_write_fault(stderr, &style, fault);
    return error_exit_code_of_fault(fault);
}

static int run(int argc, char *const *argv)
{
    struct command_line line;
    struct fault fault = {0};
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        char *const words[] = {argv[0], (char *)"version", NULL};
        return run(2, words);
    }
    if (command_parse(&command_table, argc - 1, argv + 1, &line, &fault) < 0)
        return refuse_line(argc, argv, &fault);
    if (line.help && line.command) {
        help_command(stdout, &command_table, line.command);
        return EXIT_CODE_DONE;
    }
    if (!line.command) { /* asked for help, or an unfinished line */
        bool asked = line.help || argc == 1;
        help_group(asked ? stdout : stderr, &command_table, line.group ? line.group : "");
        return asked ? EXIT_CODE_DONE : EXIT_CODE_USAGE;
    }
    struct context context;
    context_init(&context, &command_table, &line);
    int exit_code = line.command->run(&context);
    context_deinit(&context);
    return exit_code;
}

int main(int argc, char **argv)
{
    (void)setlocale(LC_ALL, "");
    (void)signal(SIGPIPE, SIG_IGN); /* a closed stdout shows in the exit code below */
    log_set_program("godwit");
    log_set_level(LOG_ERROR);
    int exit_code = run(argc, argv);
    bool lost = fflush(stdout) != 0 || ferror(stdout);
    return lost && exit_code == EXIT_CODE_DONE ? EXIT_CODE_FAILED : exit_code;
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/command_table.h"
#include "cli/completion.h"
#include "cli/help.h"
#include "tests/golden/cli_golden.h"

static int parse(struct command_line *line, struct fault *fault, ...)
{
    char *words[32];
    int count = 0;
    va_list args;
    va_start(args, fault);
    for (const char *word; (word = va_arg(args, const char *)) != NULL;)
        words[count++] = (char *)word;
    va_end(args);
    return command_parse(&command_table, count, words, line, fault);
}

static void understands_words_options_and_operands(void **state)
{
    (void)state;
    struct command_line line;

    int r = parse(&line, NULL, "migrate", "db-01", "--to=node2", "web", "--max-downtime", "50ms",
                  "--bandwidth", "1GiB/s", "-y", "--", "-odd", NULL);

    assert_int_equal(r, 0);
    assert_string_equal(line.command->words, "migrate");
    assert_int_equal(line.operand_count, 3);
    assert_string_equal(line.operands[2], "-odd");
    assert_string_equal(command_text(&line, "to"), "node2");
    assert_int_equal(command_number(&line, "max-downtime"), 50 * NS_PER_MS);
    assert_int_equal(command_number(&line, "bandwidth"), GIB(1));
    assert_true(command_flag(&line, "yes"));
    assert_false(command_flag(&line, "verify"));
    assert_false(command_given(&line, "compress"));
    assert_string_equal(command_text(&line, "compress"), "auto");
}

static void takes_what_is_not_typed_from_the_environment(void **state)
{
    (void)state;
    struct command_line line;
    struct fault fault = {0};
    (void)setenv("GODWIT_OUTPUT", "yaml", 1);

    assert_int_equal(parse(&line, NULL, "vm", "ls", NULL), 0);
    assert_string_equal(command_text(&line, "output"), "yaml");
    assert_int_equal(parse(&line, NULL, "vm", "ls", "-ojson", NULL), 0);
    assert_string_equal(command_text(&line, "output"), "json");
    (void)setenv("GODWIT_OUTPUT", "yam", 1);
    assert_int_equal(parse(&line, &fault, "vm", "ls", NULL), ERR_INVALID);

    assert_string_equal(fault.text,
                        "GODWIT_OUTPUT (from the environment): found 'yam'; table, wide, json, "
                        "ndjson, yaml or name would fit; did you mean 'yaml'?");
    (void)unsetenv("GODWIT_OUTPUT");
}

static void refuses_with_the_nearest_match(void **state)
{
    (void)state;
    static const struct {
        const char *words[5];
        const char *text, *hint;
    } cases[] = {
        {{"migarte", "x"}, "there is no command 'godwit migarte'", "godwit migrate"},
        {{"vm", "consle"}, "there is no command 'godwit vm consle'", "godwit vm console"},
        {{"snapshot"}, "there is no command 'godwit snapshot'", "godwit --help"},
        {{"host", "melt"}, "there is no command 'godwit host melt'", "godwit host --help"},
        {{"migrate", "a", "--max-downtme=3ms"},
         "'godwit migrate' has no option '--max-downtme=3ms'; did you mean '--max-downtime'?",
         "godwit migrate --help"},
        {{"migrate"}, "'godwit migrate' needs VM...", "godwit migrate --help"},
        {{"vm", "show", "a", "b"},
         "'godwit vm show' takes VM, found 'b' too many",
         "godwit vm show --help"},
        {{"status", "now"},
         "'godwit status' takes no names, found 'now' too many",
         "godwit status --help"},
        {{"migrate", "a", "--to"}, "--to needs a value: --to HOST|auto", ""},
        {{"migrate", "a", "--verify=1"}, "--verify takes no value, found '1'", ""},
        {{"migrate", "a", "--to=b", "--to=c"}, "--to is given twice: 'b' and again", ""},
        {{"migrate", "a", "--streams", "17"},
         "--streams: found '17'; a whole number from 1 to 16 would fit",
         ""},
        {{"migrate", "a", "--deadline", "5"},
         "--deadline: found '5', which can be read in two ways; write 5ms",
         ""},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct command_line line;
        struct fault fault = {0};
        const char *const *w = cases[i].words;
        assert_int_equal(parse(&line, &fault, w[0], w[1], w[2], w[3], w[4], NULL), ERR_INVALID);
        assert_string_equal(fault.text, cases[i].text);
        assert_string_equal(fault.hint, cases[i].hint);
    }
}

static void asks_for_help_anywhere(void **state)
{
    (void)state;
    struct command_line line;

    assert_int_equal(parse(&line, NULL, "migrate", "--help", NULL), 0);
    assert_true(line.help);
    assert_int_equal(parse(&line, NULL, "help", "vm", "create", NULL), 0);
    assert_true(line.help);
    assert_string_equal(line.command->words, "vm create");
    assert_int_equal(parse(&line, NULL, "vm", "-h", NULL), 0);
    assert_true(line.help);
    assert_null(line.command);
}

static void every_row_is_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < command_table.count; i++) {
        const struct command *command = &command_table.commands[i];
        struct command_line line;
        assert_non_null(command->run);
        assert_non_null(command->summary);
        for (size_t e = 0; e < COMMAND_EXAMPLES; e++) {
            assert_non_null(strstr(command->examples[e].line, "godwit "));
            assert_non_null(strstr(command->examples[e].line, command->words));
        }
        assert_ptr_equal(command_find(&command_table, command->words), command);
        char words[64];
        char *argv[4];
        int argc = 0;
        (void)snprintf(words, sizeof words, "%s", command->words);
        argv[argc++] = words;
        char *gap = strchr(words, ' ');
        if (gap) {
            *gap = '\0';
            argv[argc++] = gap + 1;
        }
        argv[argc++] = (char *)"--help";
        assert_int_equal(command_parse(&command_table, argc, argv, &line, NULL), 0);
    }
}

static void help_pages_are_as_recorded(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    help_group(out, &command_table, "");
    for (size_t i = 0; i < command_table.count; i++) {
        (void)fprintf(out, "\n=== %s\n", command_table.commands[i].words);
        help_command(out, &command_table, &command_table.commands[i]);
    }
    assert_int_equal(fclose(out), 0);

    golden_check("cli_help.txt", text);
    free(text);
}

static void completion_knows_every_command(void **state)
{
    (void)state;
    static void (*const prints[])(FILE * out, const struct command_table *table) = {
        completion_bash, completion_zsh, completion_fish};
    for (size_t shell = 0; shell < ARRAY_COUNT(prints); shell++) {
        char *text = NULL;
        size_t size;
        FILE *out = open_memstream(&text, &size);
        prints[shell](out, &command_table);
        assert_int_equal(fclose(out), 0);
        for (size_t i = 0; i < command_table.count; i++) {
            const char *words = command_table.commands[i].words;
            const char *last = strrchr(words, ' ');
            assert_non_null(strstr(text, last ? last + 1 : words));
        }
        assert_non_null(strstr(text, "max-downtime"));
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(understands_words_options_and_operands),
        cmocka_unit_test(takes_what_is_not_typed_from_the_environment),
        cmocka_unit_test(refuses_with_the_nearest_match),
        cmocka_unit_test(asks_for_help_anywhere),
        cmocka_unit_test(every_row_is_whole),
        cmocka_unit_test(help_pages_are_as_recorded),
        cmocka_unit_test(completion_knows_every_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

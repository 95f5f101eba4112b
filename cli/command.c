#include "cli/command.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/units.h"

enum { WORDS_SIZE = 64, NAMES_MAX = 64 };

const struct command *command_find(const struct command_table *table, const char *words)
{
    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->commands[i].words, words) == 0)
            return &table->commands[i];
    }
    return NULL;
}

bool command_is_group(const struct command_table *table, const char *words)
{
    size_t length = strlen(words);
    for (size_t i = 0; i < table->count; i++) {
        const char *other = table->commands[i].words;
        if (strncmp(other, words, length) == 0 && other[length] == ' ')
            return true;
    }
    return false;
}

void command_each_option(const struct command_table *table, const struct command *command,
                         void (*each)(void *data, const struct command_option *option), void *data)
{
    const struct command_option *const lists[] = {
        command ? command->options : NULL,
        command && command->lists ? table->listing : NULL,
        command && command->watches ? table->watch : NULL,
        table->global,
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (const struct command_option *at = lists[i]; at && at->name; at++)
            each(data, at);
    }
}

/* ---- words ---- */

/* Words that may follow `group` ("" for the first), each once. */
static size_t next_words(const struct command_table *table, const char *group,
                         char ret_words[][WORDS_SIZE], const char **ret_names)
{
    size_t count = 0, length = strlen(group);
    for (size_t i = 0; i < table->count && count < NAMES_MAX; i++) {
        const char *at = table->commands[i].words;
        if (length > 0) {
            if (strncmp(at, group, length) != 0 || at[length] != ' ')
                continue;
            at += length + 1;
        }
        size_t word = strcspn(at, " ");
        if (count > 0 && strncmp(ret_words[count - 1], at, word) == 0 &&
            ret_words[count - 1][word] == '\0')
            continue; /* rows of one group stand together */
        (void)snprintf(ret_words[count], WORDS_SIZE, "%.*s", (int)word, at);
        ret_names[count] = ret_words[count];
        count++;
    }
    return count;
}

static int refuse_word(const struct command_table *table, const char *group, const char *word,
                       struct fault *fault)
{
    static char words[NAMES_MAX][WORDS_SIZE];
    const char *names[NAMES_MAX];
    size_t count = next_words(table, group, words, names);
    const char *nearest = id_nearest(word, names, count);
    const char *gap = group[0] ? " " : "";

    int r =
        fault_set(fault, ERR_INVALID, "there is no command 'godwit %s%s%.40s'", group, gap, word);
    if (nearest)
        fault_hint(fault, "godwit %s%s%s", group, gap, nearest);
    else
        fault_hint(fault, "godwit %s%s--help", group, gap);
    return r;
}

/* Take as many words as make a command; the count of them, or a failure. */
static int take_words(const struct command_table *table, int argc, char *const *argv,
                      struct command_line *line, struct fault *fault)
{
    char words[WORDS_SIZE] = "";
    int used = 0;
    while (used < argc && argv[used][0] != '-') {
        char longer[WORDS_SIZE];
        int n = snprintf(longer, sizeof longer, "%s%s%s", words, words[0] ? " " : "", argv[used]);
        bool fits = n > 0 && (size_t)n < sizeof longer;
        const struct command *command = fits ? command_find(table, longer) : NULL;
        if (command) {
            line->command = command;
            return used + 1;
        }
        if (!fits || !command_is_group(table, longer))
            return refuse_word(table, words, argv[used], fault);
        memcpy(words, longer, sizeof words);
        used++;
    }
    /* A group alone: its words are those of any of its rows. */
    for (size_t i = 0; words[0] && i < table->count; i++) {
        if (strncmp(table->commands[i].words, words, strlen(words)) == 0) {
            line->group = table->commands[i].words;
            break;
        }
    }
    return used;
}

/* ---- options ---- */

static void add_value(void *data, const struct command_option *option)
{
    struct command_line *line = data;
    assert(line->value_count < COMMAND_OPTIONS_MAX);
    for (size_t i = 0; i < line->value_count; i++) {
        if (strcmp(line->values[i].option->name, option->name) == 0)
            return; /* a command's own option stands before a common one of the same name */
    }
    line->values[line->value_count++] = (struct command_value){.option = option};
}

static bool is_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (length > 0 && strncmp(at, text, length) == 0 &&
            (at[length] == '|' || at[length] == '\0'))
            return true;
    }
    return false;
}

static int refuse_choice(const struct command_option *option, const char *text, struct fault *fault)
{
    char list[128];
    const char *names[16];
    size_t count = 0;
    (void)snprintf(list, sizeof list, "%s", option->choices);
    char *state = NULL;
    for (char *at = strtok_r(list, "|", &state); at && count < 16; at = strtok_r(NULL, "|", &state))
        names[count++] = at;
    const char *nearest = id_nearest(text, names, count);

    char words[160] = "";
    for (size_t i = 0, used = 0; i < count && used < sizeof words; i++) {
        const char *gap = i == 0 ? "" : i + 1 < count ? ", " : " or ";
        int n = snprintf(words + used, sizeof words - used, "%s%s", gap, names[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return fault_set(fault, ERR_INVALID, "found '%.40s'; %s would fit%s%s%s", text, words,
                     nearest ? "; did you mean '" : "", nearest ? nearest : "",
                     nearest ? "'?" : "");
}

static int read_number(const struct command_option *option, const char *text, uint64_t *ret_number,
                       struct fault *fault)
{
    switch (option->type) {
    case COMMAND_COUNT:
        return units_parse_count(text, option->min, option->max ? option->max : UINT64_MAX,
                                 ret_number, fault);
    case COMMAND_BYTES:
        return units_parse_bytes(text, ret_number, fault);
    case COMMAND_RATE:
        return units_parse_rate(text, ret_number, fault);
    case COMMAND_DURATION:
        return units_parse_duration(text, ret_number, fault);
    case COMMAND_CHOICE:
        return is_choice(option->choices, text) ? 0 : refuse_choice(option, text, fault);
    case COMMAND_FLAG:
    case COMMAND_TEXT:
    case COMMAND_FILE:
        return 0;
    }
    return 0;
}

static int set_value(struct command_value *value, const char *text, struct fault *fault)
{
    int r = read_number(value->option, text, &value->number, fault);
    if (r < 0)
        return r;
    value->text = text;
    return 0;
}

static struct command_value *find_value(struct command_line *line, const char *name, size_t length)
{
    for (size_t i = 0; i < line->value_count; i++) {
        const char *other = line->values[i].option->name;
        if (strlen(other) == length && memcmp(other, name, length) == 0)
            return &line->values[i];
    }
    return NULL;
}

static struct command_value *find_letter(struct command_line *line, char letter)
{
    for (size_t i = 0; i < line->value_count; i++) {
        if (line->values[i].option->letter == letter)
            return &line->values[i];
    }
    return NULL;
}

static int refuse_option(const struct command_line *line, const char *typed, struct fault *fault)
{
    const char *names[COMMAND_OPTIONS_MAX];
    for (size_t i = 0; i < line->value_count; i++)
        names[i] = line->values[i].option->name;
    const char *words = line->command ? line->command->words : "";
    const char *gap = words[0] ? " " : "";

    char name[WORDS_SIZE];
    const char *bare = typed + strspn(typed, "-");
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(bare, "="), bare);
    const char *nearest = strlen(name) > 1 ? id_nearest(name, names, line->value_count) : NULL;

    int r =
        fault_set(fault, ERR_INVALID, "'godwit%s%s' has no option '%.40s'%s%s%s", gap, words, typed,
                  nearest ? "; did you mean '--" : "", nearest ? nearest : "", nearest ? "'?" : "");
    fault_hint(fault, "godwit %s%s--help", words, gap);
    return r;
}

/* One option at argv[i]; how many words it took, or a failure. */
static int take_option(struct command_line *line, int left, char *const *argv, struct fault *fault)
{
    const char *typed = argv[0];
    bool is_long = typed[1] == '-';
    const char *equals = is_long ? strchr(typed, '=') : NULL;
    struct command_value *value =
        is_long
            ? find_value(line, typed + 2, equals ? (size_t)(equals - typed - 2) : strlen(typed + 2))
            : find_letter(line, typed[1]);
    if (!value)
        return refuse_option(line, typed, fault);
    const struct command_option *option = value->option;
    const char *tail = is_long ? (equals ? equals + 1 : NULL) : (typed[2] ? typed + 2 : NULL);

    if (value->given && value->text && option->type != COMMAND_FLAG)
        return fault_set(fault, ERR_INVALID, "--%s is given twice: '%.60s' and again", option->name,
                         value->text);
    value->given = true;
    if (option->type == COMMAND_FLAG) {
        if (tail)
            return fault_set(fault, ERR_INVALID, "--%s takes no value, found '%.40s'", option->name,
                             tail);
        value->number = 1;
        return 1;
    }
    if (!tail && left < 2) {
        return fault_set(fault, ERR_INVALID, "--%s needs a value: --%s %s", option->name,
                         option->name, option->value);
    }
    int r = set_value(value, tail ? tail : argv[1], fault);
    if (r < 0)
        return fault_wrap(fault, r, "--%s", option->name);
    return tail ? 1 : 2;
}

/* What was not typed comes from the environment, then from the preset. */
static int fill_defaults(struct command_line *line, struct fault *fault)
{
    for (size_t i = 0; i < line->value_count; i++) {
        struct command_value *value = &line->values[i];
        const struct command_option *option = value->option;
        if (value->given)
            continue;
        const char *text = option->environment ? getenv(option->environment) : NULL;
        if (text && text[0]) {
            value->given = true;
            int r = set_value(value, text, fault);
            if (r < 0)
                return fault_wrap(fault, r, "%s (from the environment)", option->environment);
        } else if (option->preset) {
            int r = set_value(value, option->preset, NULL);
            assert(r == 0); /* the table's own words */
            (void)r;
        }
    }
    return 0;
}

/* ---- operands ---- */

/* "VM... [HOST]" -> how few, how many. */
static void operand_limits(const char *operands, size_t *ret_min, size_t *ret_max)
{
    *ret_min = *ret_max = 0;
    for (const char *at = operands; *at;) {
        size_t length = strcspn(at, " ");
        bool many = memmem(at, length, "...", 3) != NULL;
        *ret_min += at[0] != '[';
        *ret_max += many ? COMMAND_OPERANDS_MAX : 1;
        at += length;
        at += strspn(at, " ");
    }
    if (*ret_max > COMMAND_OPERANDS_MAX)
        *ret_max = COMMAND_OPERANDS_MAX;
}

static int check_operands(const struct command_line *line, struct fault *fault)
{
    const struct command *command = line->command;
    size_t min, max;
    operand_limits(command->operands, &min, &max);
    if (line->operand_count < min) {
        int r = fault_set(fault, ERR_INVALID, "'godwit %s' needs %s", command->words,
                          command->operands);
        fault_hint(fault, "godwit %s --help", command->words);
        return r;
    }
    if (line->operand_count > max) {
        int r = fault_set(fault, ERR_INVALID, "'godwit %s' takes %s, found '%.40s' too many",
                          command->words, command->operands[0] ? command->operands : "no names",
                          line->operands[max]);
        fault_hint(fault, "godwit %s --help", command->words);
        return r;
    }
    return 0;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int take_rest(struct command_line *line, int argc, char *const *argv, struct fault *fault)
{
    bool only_operands = false;
    for (int i = 0; i < argc;) {
        if (!only_operands && is_help(argv[i])) {
            line->help = true;
            return 0;
        }
        if (!only_operands && strcmp(argv[i], "--") == 0) {
            only_operands = true;
            i++;
            continue;
        }
        if (only_operands || argv[i][0] != '-' || argv[i][1] == '\0') {
            if (line->operand_count == COMMAND_OPERANDS_MAX)
                return fault_set(fault, ERR_LIMIT, "more than %d names at once",
                                 COMMAND_OPERANDS_MAX);
            line->operands[line->operand_count++] = argv[i++];
            continue;
        }
        int r = take_option(line, argc - i, argv + i, fault);
        if (r < 0)
            return r;
        i += r;
    }
    return 0;
}

int command_parse(const struct command_table *table, int argc, char *const *argv,
                  struct command_line *ret_line, struct fault *fault)
{
    struct command_line line = {0};
    bool asks_help = argc > 0 && strcmp(argv[0], "help") == 0;
    if (asks_help) { /* "godwit help vm create" */
        argc--;
        argv++;
    }
    int used = take_words(table, argc, argv, &line, fault);
    if (used < 0)
        return used;
    command_each_option(table, line.command, add_value, &line);
    int r = take_rest(&line, argc - used, argv + used, fault);
    if (r < 0)
        return r;
    line.help |= asks_help;
    if (!line.help && line.command) {
        r = fill_defaults(&line, fault);
        if (r < 0)
            return r;
        r = check_operands(&line, fault);
        if (r < 0)
            return r;
    }
    *ret_line = line;
    return 0;
}

/* ---- values ---- */

static const struct command_value *value_of(const struct command_line *line, const char *name)
{
    for (size_t i = 0; i < line->value_count; i++) {
        if (strcmp(line->values[i].option->name, name) == 0)
            return &line->values[i];
    }
    assert(false && "an option that the command's row does not have");
    return NULL;
}

const char *command_text(const struct command_line *line, const char *name)
{
    return value_of(line, name)->text;
}

uint64_t command_number(const struct command_line *line, const char *name)
{
    return value_of(line, name)->number;
}

bool command_flag(const struct command_line *line, const char *name)
{
    return value_of(line, name)->number != 0;
}

bool command_given(const struct command_line *line, const char *name)
{
    return value_of(line, name)->given;
}

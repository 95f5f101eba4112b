/* Commands as data: from one table come parsing, help, completion and the nearest match.
 *
 * Flow:   argv -> [command] -> cmd_*            command_table -> help, completion
 * Thread: one.
 */
#ifndef GODWIT_CLI_COMMAND_H
#define GODWIT_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct context;
struct fault;

enum command_type {
    COMMAND_FLAG, /* no value */
    COMMAND_TEXT,
    COMMAND_FILE,     /* a text that completes as a path */
    COMMAND_CHOICE,   /* one of `choices` */
    COMMAND_COUNT,    /* whole number, min..max */
    COMMAND_BYTES,    /* 1GiB */
    COMMAND_RATE,     /* 500MiB/s, in bytes per second */
    COMMAND_DURATION, /* 300ms, in ns */
};

struct command_option {
    const char *name; /* without dashes */
    char letter;      /* short form; 0: none */
    enum command_type type;
    const char *value;       /* what help calls the value: "HOST" */
    const char *preset;      /* default as it would be typed; NULL: none */
    const char *choices;     /* separated by | */
    const char *environment; /* variable that stands in for the flag */
    uint64_t min, max;       /* of counts; max 0: none */
    const char *help;
};

struct command_example {
    const char *line;
    const char *why;
};

enum { COMMAND_EXAMPLES = 2, COMMAND_OPTIONS_MAX = 24, COMMAND_OPERANDS_MAX = 64 };

struct command {
    const char *words;                    /* "vm create"; a group has subcommands and no run */
    const char *operands;                 /* "VM...", "[JOB]", "NAME FILE"; "" for none */
    const char *summary;                  /* one line, no full stop */
    const char *more;                     /* a paragraph or NULL */
    const struct command_option *options; /* ended by a NULL name; NULL: none */
    bool lists;                           /* also takes the output options of lists */
    bool watches;                         /* also takes -w */
    struct command_example examples[COMMAND_EXAMPLES];
    int (*run)(struct context *context); /* returns an exit code */
};

struct command_table {
    const struct command *commands;
    size_t count;
    const struct command_option *global;  /* every command takes these */
    const struct command_option *listing; /* with .lists */
    const struct command_option *watch;   /* with .watches */
};

struct command_value {
    const struct command_option *option;
    const char *text; /* as typed, from the environment or the preset */
    uint64_t number;  /* of counts, sizes, rates and times */
    bool given;       /* typed or in the environment, no preset */
};

/* A command line that has been understood. Texts are borrowed from argv and the environment. */
struct command_line {
    const struct command *command; /* NULL: only "godwit", or help of a group */
    const char *group;             /* words of a group when `help` is asked for one */
    bool help;
    struct command_value values[COMMAND_OPTIONS_MAX];
    size_t value_count;
    const char *operands[COMMAND_OPERANDS_MAX];
    size_t operand_count;
};

/* ERR_INVALID with words and a hint for what was typed wrong. */
int command_parse(const struct command_table *table, int argc, char *const *argv,
                  struct command_line *ret_line, struct fault *fault);

/* The command of exactly these words, NULL when there is none. */
const struct command *command_find(const struct command_table *table, const char *words);
/* Is it "vm" of "vm create"? */
bool command_is_group(const struct command_table *table, const char *words);

/* Call `each` for every option a command takes: its own, then those of lists, then global ones. */
void command_each_option(const struct command_table *table, const struct command *command,
                         void (*each)(void *data, const struct command_option *option), void *data);

/* Values by the option's name, which must be one that the command takes. */
const char *command_text(const struct command_line *line, const char *name); /* NULL: not given */
uint64_t command_number(const struct command_line *line, const char *name);  /* 0: not given */
bool command_flag(const struct command_line *line, const char *name);
bool command_given(const struct command_line *line, const char *name);

#endif

#include "storage/boot_entry.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

enum { LINE_SIZE = 8192, WORD_SIZE = 4096, MENU_DEPTH_MAX = 8 };

struct lines { /* of a text without an end */
    const char *at, *end;
    char line[LINE_SIZE];
};

/* The next line, without blanks around it; too long ones are cut. */
static bool next_line(struct lines *lines)
{
    if (lines->at >= lines->end)
        return false;
    const char *stop = memchr(lines->at, '\n', (size_t)(lines->end - lines->at));
    if (!stop)
        stop = lines->end;
    size_t count = (size_t)(stop - lines->at);
    const char *from = lines->at;
    lines->at = stop < lines->end ? stop + 1 : stop;
    while (count > 0 && (*from == ' ' || *from == '\t'))
        from++, count--;
    while (count > 0 && strchr(" \t\r", from[count - 1]))
        count--;
    if (count >= sizeof lines->line)
        count = sizeof lines->line - 1;
    memcpy(lines->line, from, count);
    lines->line[count] = '\0';
    return true;
}

/* One word, quotes and backslashes undone; false at the end. *ret_plain: nothing in it is a
 * variable. */
static bool next_word(const char **at, char ret_word[static WORD_SIZE], bool *ret_plain)
{
    size_t used = 0;
    char quote = 0;

    *at += strspn(*at, " \t");
    if (!**at)
        return false;
    *ret_plain = true;
    for (; **at && (quote || !strchr(" \t", **at)); (*at)++) {
        char c = **at;
        if (!quote && (c == '"' || c == '\'')) {
            quote = c;
            continue;
        }
        if (quote && c == quote) {
            quote = 0;
            continue;
        }
        if (c == '$' && quote != '\'')
            *ret_plain = false;
        if (c == '\\' && quote != '\'' && (*at)[1])
            c = *++*at;
        if (used < WORD_SIZE - 1)
            ret_word[used++] = c;
    }
    ret_word[used] = '\0';
    return true;
}

static int append(char *text, size_t size, const char *word, struct fault *fault)
{
    size_t used = strlen(text), count = strlen(word);

    if (count == 0)
        return 0;
    if (used + 1 + count >= size)
        return fault_set(fault, ERR_LIMIT, "the command line is longer than %zu", size - 1);
    if (used)
        text[used++] = ' ';
    memcpy(text + used, word, count + 1);
    return 0;
}

static int set_path(char ret_path[static BOOT_ENTRY_PATH_SIZE], const char *word,
                    struct fault *fault)
{
    if (strlen(word) >= BOOT_ENTRY_PATH_SIZE)
        return fault_set(fault, ERR_LIMIT, "a path of a boot entry is too long");
    (void)snprintf(ret_path, BOOT_ENTRY_PATH_SIZE, "%s", word);
    return 0;
}

/* The rest of the line as options. */
static int take_options(const char *at, const struct boot_environment *environment,
                        struct boot_entry *entry, struct fault *fault)
{
    char word[WORD_SIZE];
    bool plain;
    int r = 0;

    while (r == 0 && next_word(&at, word, &plain)) {
        if (plain)
            r = append(entry->options, sizeof entry->options, word, fault);
        else if (strcmp(word, "$kernelopts") == 0 || strcmp(word, "${kernelopts}") == 0)
            r = append(entry->options, sizeof entry->options, environment->kernelopts, fault);
    }
    return r;
}

static int take_initrds(const char *at, struct boot_entry *entry, struct fault *fault)
{
    char word[WORD_SIZE];
    bool plain;
    int r = 0;

    while (r == 0 && next_word(&at, word, &plain)) {
        if (!plain)
            continue; /* $tuned_initrd and the like are optional */
        if (entry->initrd_count == BOOT_ENTRY_INITRDS_MAX)
            return fault_set(fault, ERR_LIMIT, "a boot entry with more than %d initrds",
                             BOOT_ENTRY_INITRDS_MAX);
        r = set_path(entry->initrds[entry->initrd_count++], word, fault);
    }
    return r;
}

/* `at` after the key, when the line begins with it. */
static const char *after_key(const char *line, const char *key)
{
    size_t count = strlen(key);

    if (strncmp(line, key, count) != 0 || !strchr(" \t", line[count]) || !line[count])
        return NULL;
    return line + count;
}

/* ---- the environment block ---- */
void boot_environment_parse(const char *text, size_t count,
                            struct boot_environment *ret_environment)
{
    static const char saved[] = "saved_entry=", options[] = "kernelopts=";
    struct lines lines = {.at = text, .end = text + count};

    *ret_environment = (struct boot_environment){0};
    while (next_line(&lines)) {
        if (strncmp(lines.line, saved, strlen(saved)) == 0)
            (void)snprintf(ret_environment->saved_entry, sizeof ret_environment->saved_entry,
                           "%.*s", BOOT_ENTRY_NAME_SIZE - 1, lines.line + strlen(saved));
        if (strncmp(lines.line, options, strlen(options)) == 0)
            (void)snprintf(ret_environment->kernelopts, sizeof ret_environment->kernelopts, "%.*s",
                           BOOT_ENTRY_OPTIONS_SIZE - 1, lines.line + strlen(options));
    }
}

/* ---- BLS ---- */
int boot_entry_parse_bls(const char *text, size_t count, const struct boot_environment *environment,
                         struct boot_entry *ret_entry, struct fault *fault)
{
    struct lines lines = {.at = text, .end = text + count};
    struct boot_entry entry = {0};
    char word[WORD_SIZE];
    bool plain;
    int r = 0;

    while (r == 0 && next_line(&lines)) {
        const char *at;
        if ((at = after_key(lines.line, "linux")) && next_word(&at, word, &plain))
            r = set_path(entry.kernel, word, fault);
        else if ((at = after_key(lines.line, "initrd")))
            r = take_initrds(at, &entry, fault);
        else if ((at = after_key(lines.line, "options")))
            r = take_options(at, environment, &entry, fault);
    }
    if (r == 0 && !entry.kernel[0])
        r = fault_set(fault, ERR_NOT_FOUND, "a boot entry without a kernel");
    if (r == 0)
        *ret_entry = entry;
    return r;
}

static bool is_saved(const char *name, const char *saved)
{
    size_t count = strlen(saved);

    return count && strncmp(name, saved, count) == 0 && strcmp(name + count, ".conf") == 0;
}

bool boot_entry_is_better(const char *a, const char *b, const struct boot_environment *environment)
{
    bool a_saved = is_saved(a, environment->saved_entry);
    bool b_saved = is_saved(b, environment->saved_entry);

    if (a_saved != b_saved)
        return a_saved;
    bool a_rescue = strstr(a, "rescue") != NULL, b_rescue = strstr(b, "rescue") != NULL;
    if (a_rescue != b_rescue)
        return b_rescue; /* named so by all who write one: a last resort */
    return strverscmp(a, b) > 0;
}

/* ---- grub.cfg ---- */
struct menu { /* being read */
    const struct boot_environment *environment;
    char wanted[BOOT_ENTRY_NAME_SIZE]; /* a number, an id or a title; "" or "0": the first */
    struct boot_entry first, chosen;
    bool has_first, has_chosen;
    unsigned count; /* of top-level entries and submenus so far */
};

/* menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-...' { */
static bool header_is_wanted(const struct menu *menu, const char *at)
{
    char word[WORD_SIZE], number[16];
    bool plain, takes_id = false;
    const char *last = strrchr(menu->wanted, '>'); /* "submenu>entry" */
    const char *wanted = last ? last + 1 : menu->wanted;

    (void)snprintf(number, sizeof number, "%u", menu->count);
    if (!last && strcmp(wanted, number) == 0)
        return true;
    for (unsigned i = 0; next_word(&at, word, &plain); i++) {
        if ((i == 0 || takes_id) && wanted[0] && strcmp(word, wanted) == 0)
            return true;
        takes_id = strcmp(word, "--id") == 0 || strcmp(word, "$menuentry_id_option") == 0;
    }
    return false;
}

static int read_body(struct lines *lines, const struct boot_environment *environment,
                     struct boot_entry *ret_entry, struct fault *fault)
{
    static const char *const kernels[] = {"linux", "linuxefi", "linux16"};
    static const char *const initrds[] = {"initrd", "initrdefi", "initrd16"};
    struct boot_entry entry = {0};
    char word[WORD_SIZE];
    bool plain;
    int depth = 1, r = 0;

    while (r == 0 && depth > 0 && next_line(lines)) {
        const char *at = NULL;
        size_t length = strlen(lines->line);
        if (strcmp(lines->line, "}") == 0)
            depth--;
        else if (length > 0 && lines->line[length - 1] == '{' && lines->line[0] != '#')
            depth++;
        for (size_t i = 0; i < 3 && !entry.kernel[0]; i++) {
            if ((at = after_key(lines->line, kernels[i])) && next_word(&at, word, &plain)) {
                r = set_path(entry.kernel, word, fault);
                if (r == 0)
                    r = take_options(at, environment, &entry, fault);
            }
        }
        for (size_t i = 0; i < 3 && r == 0 && entry.initrd_count == 0; i++) {
            if ((at = after_key(lines->line, initrds[i])))
                r = take_initrds(at, &entry, fault);
        }
    }
    if (r == 0)
        *ret_entry = entry;
    return r;
}

static void read_default(struct menu *menu, const char *line)
{
    static const char set[] = "set default=";
    char word[WORD_SIZE];
    const char *at = line + strlen(set);
    bool plain;

    if (strncmp(line, set, strlen(set)) != 0 || !next_word(&at, word, &plain))
        return;
    if (plain)
        (void)snprintf(menu->wanted, sizeof menu->wanted, "%.*s", BOOT_ENTRY_NAME_SIZE - 1, word);
    else if (strcmp(word, "${saved_entry}") == 0 || strcmp(word, "$saved_entry") == 0)
        (void)snprintf(menu->wanted, sizeof menu->wanted, "%s", menu->environment->saved_entry);
}

int boot_entry_parse_grub(const char *text, size_t count,
                          const struct boot_environment *environment, struct boot_entry *ret_entry,
                          struct fault *fault)
{
    struct lines lines = {.at = text, .end = text + count};
    struct menu menu = {.environment = environment};
    int r = 0;

    while (r == 0 && next_line(&lines)) {
        const char *at = after_key(lines.line, "menuentry");
        struct boot_entry entry;
        read_default(&menu, lines.line);
        if (!at)
            continue;
        bool wanted = header_is_wanted(&menu, at);
        r = read_body(&lines, environment, &entry, fault);
        menu.count++;
        if (r < 0 || !entry.kernel[0])
            continue; /* firmware set-up, another system: nothing that we can boot */
        if (wanted && !menu.has_chosen) {
            menu.chosen = entry;
            menu.has_chosen = true;
        }
        if (!menu.has_first) {
            menu.first = entry;
            menu.has_first = true;
        }
    }
    if (r < 0)
        return r;
    if (!menu.has_first)
        return fault_set(fault, ERR_NOT_FOUND, "a grub.cfg without an entry that boots Linux");
    *ret_entry = menu.has_chosen ? menu.chosen : menu.first;
    return 0;
}

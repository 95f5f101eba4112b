#include "cli/build_core.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char marker[] = "@gw ";

void build_core_init(struct build_core *core, const char *token, unsigned steps, uint64_t now_ms,
                     uint64_t limit_ms)
{
    assert(token[0] && strlen(token) < sizeof core->token);
    *core = (struct build_core){.steps = steps, .begun_ms = now_ms, .limit_ms = limit_ms};
    memcpy(core->token, token, strlen(token) + 1);
}

static bool is_live(const struct build_core *core)
{
    return core->state != BUILD_OVER && core->state != BUILD_FAILED;
}

static void failed(struct build_core *core, struct build_todo *todo)
{
    core->state = BUILD_FAILED;
    todo->news = BUILD_NEWS_FAILED;
    todo->step = core->step;
}

/* A number and what follows; NULL: it is none. */
static const char *take_number(const char *text, uint64_t *ret_number)
{
    size_t count = strspn(text, "0123456789");
    if (count == 0 || count > 15)
        return NULL;
    *ret_number = strtoull(text, NULL, 10);
    return text + count;
}

/* "N" and, where wanted, " M": what follows; NULL: it is torn. */
static const char *take_numbers(const char *text, uint64_t *ret_first, uint64_t *ret_second)
{
    const char *rest = take_number(text, ret_first);
    if (rest && ret_second)
        rest = *rest == ' ' ? take_number(rest + 1, ret_second) : NULL;
    return rest;
}

/* "WORD rest" -> rest; NULL: another word. */
static const char *after(const char *words, const char *word)
{
    size_t count = strlen(word);
    if (strncmp(words, word, count) != 0 || (words[count] != ' ' && words[count] != '\0'))
        return NULL;
    return words[count] ? words + count + 1 : words + count;
}

/* The guest is at this step: is that news? It was told already, or there is no such step, when not.
 */
static bool reach(struct build_core *core, uint64_t step, struct build_todo *todo)
{
    if (core->state != BUILD_STEPS || step <= core->step)
        return false;
    if (step > core->steps) {
        (void)fault_set(&core->fault, ERR_CORRUPT, "the guest tells of step %llu, there are %u",
                        (unsigned long long)step, core->steps);
        failed(core, todo);
        return false;
    }
    core->step = (unsigned)step;
    core->is_in_step = true;
    core->lines = 0;
    return true;
}

static void on_begin(struct build_core *core, const char *words, struct build_todo *todo)
{
    uint64_t step = 0;
    const char *rest = take_numbers(words, &step, NULL);

    if (!rest || *rest || !reach(core, step, todo))
        return;
    todo->news = BUILD_NEWS_BEGIN;
    todo->step = core->step;
}

static void on_output(struct build_core *core, const char *words, struct build_todo *todo)
{
    uint64_t step = 0, line = 0;
    const char *rest = take_numbers(words, &step, &line);

    if (!rest || (*rest && *rest != ' '))
        return;
    (void)reach(core, step, todo);
    if (core->state != BUILD_STEPS || step != core->step || !core->is_in_step ||
        line <= core->lines)
        return;
    todo->news = BUILD_NEWS_OUTPUT;
    todo->step = core->step;
    todo->lost = line - core->lines - 1;
    todo->text = *rest ? rest + 1 : rest;
    core->lines = line;
}

static void on_end(struct build_core *core, const char *words, struct build_todo *todo)
{
    uint64_t step = 0, code = 0;
    const char *rest = take_numbers(words, &step, &code);

    if (!rest || *rest)
        return;
    (void)reach(core, step, todo);
    if (core->state != BUILD_STEPS || step != core->step || !core->is_in_step)
        return;
    core->is_in_step = false;
    todo->step = core->step;
    if (code == 0) {
        todo->news = BUILD_NEWS_END;
        return;
    }
    (void)fault_set(&core->fault, ERR_REFUSED, "step %u of %u ended with exit code %llu",
                    core->step, core->steps, (unsigned long long)code);
    failed(core, todo);
}

static void on_words(struct build_core *core, const char *words, struct build_todo *todo)
{
    const char *rest;
    bool is_first = core->state == BUILD_BOOTS;

    if (is_first)
        core->state = BUILD_STEPS;
    if ((rest = after(words, "begin"))) {
        on_begin(core, rest, todo);
    } else if ((rest = after(words, "o"))) {
        on_output(core, rest, todo);
    } else if ((rest = after(words, "end"))) {
        on_end(core, rest, todo);
    } else if (after(words, "untrimmed") && !core->is_untrimmed) {
        core->is_untrimmed = true;
        todo->news = BUILD_NEWS_UNTRIMMED;
    } else if (after(words, "done") && core->state == BUILD_STEPS) {
        core->state = BUILD_ENDS;
        todo->news = BUILD_NEWS_DONE;
    } else if (is_first) {
        todo->news = BUILD_NEWS_HELLO;
    }
}

/* Behind "@gw TOKEN ", wherever on the line: the kernel and others write there too. */
static void on_line(struct build_core *core, struct build_todo *todo)
{
    size_t count = strlen(core->token);
    const char *at = core->line;

    while ((at = strstr(at, marker))) {
        at += strlen(marker);
        if (strncmp(at, core->token, count) == 0 && at[count] == ' ') {
            on_words(core, at + count + 1, todo);
            return;
        }
    }
}

size_t build_core_take(struct build_core *core, const uint8_t *bytes, size_t count,
                       struct build_todo *ret_todo)
{
    size_t taken = 0;

    *ret_todo = (struct build_todo){0};
    while (taken < count && is_live(core) && ret_todo->news == BUILD_NEWS_NONE) {
        char letter = (char)bytes[taken++];
        if (letter == '\r' || letter == '\0')
            continue;
        if (letter != '\n') {
            if (core->line_used + 1 < sizeof core->line)
                core->line[core->line_used++] = letter;
            continue;
        }
        core->line[core->line_used] = '\0';
        core->line_used = 0;
        on_line(core, ret_todo);
    }
    return is_live(core) || ret_todo->news ? taken : count;
}

void build_core_attached(struct build_core *core)
{
    core->line_used = 0;
}

void build_core_ended(struct build_core *core, bool is_crash, const char *reason,
                      struct build_todo *ret_todo)
{
    *ret_todo = (struct build_todo){0};
    if (core->state == BUILD_ENDS && !is_crash) {
        core->state = BUILD_OVER;
        ret_todo->news = BUILD_NEWS_OVER;
    } else if (is_live(core)) {
        (void)fault_set(&core->fault, ERR_REFUSED, "the guest %s%s%.200s",
                        core->state == BUILD_ENDS ? "was done but did not switch itself off"
                                                  : "ended before it was done",
                        reason && reason[0] ? ": " : "", reason ? reason : "");
        failed(core, ret_todo);
    }
}

void build_core_tick(struct build_core *core, uint64_t now_ms, struct build_todo *ret_todo)
{
    *ret_todo = (struct build_todo){0};
    if (!is_live(core) || now_ms - core->begun_ms < core->limit_ms)
        return;
    if (core->state == BUILD_BOOTS)
        (void)fault_set(&core->fault, ERR_TIMEOUT,
                        "the guest said nothing: it has neither cloud-init nor Godwit's seed "
                        "runner, or its console is another one (console=ttyS0)");
    else if (core->state == BUILD_ENDS)
        (void)fault_set(&core->fault, ERR_TIMEOUT,
                        "the guest is done but does not switch itself off");
    else
        (void)fault_set(&core->fault, ERR_TIMEOUT, "step %u of %u was not done in time", core->step,
                        core->steps);
    failed(core, ret_todo);
}

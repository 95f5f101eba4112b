/* The global state is the price of points that need nothing handed down to them: one word that says
 * whether anything is armed, and behind it, under a mutex, what. */
#include "base/failpoint.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/units.h"

struct point {
    const char *name;
    unsigned actions;
    enum failpoint_kill kill;
};

static const struct point points[FAILPOINT_COUNT] = {
#define FAILPOINT_ROW(symbol, text, may, killed)                                                   \
    [FAILPOINT_##symbol] = {.name = (text), .actions = (may), .kill = FAILPOINT_##killed},
    FAILPOINT_TABLE(FAILPOINT_ROW)
#undef FAILPOINT_ROW
};

static const struct {
    enum failpoint_action action;
    const char *name;
} action_names[] = {
    {FAILPOINT_KILL, "kill"}, {FAILPOINT_ERROR, "error"},         {FAILPOINT_DELAY, "delay"},
    {FAILPOINT_DROP, "drop"}, {FAILPOINT_DUPLICATE, "duplicate"}, {FAILPOINT_TRUNCATE, "truncate"},
};

struct armed {
    enum failpoint_id id;
    enum failpoint_action action;
    uint64_t at; /* it fires when it is reached the so-manieth time */
    uint64_t delay_ms;
    uint64_t reached;
    bool spent;
};

struct spec {
    struct armed armed[FAILPOINT_ARMED_MAX];
    size_t count;
};

bool failpoint_is_armed;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct spec spec_now;           /* under the mutex */
static unsigned hits[FAILPOINT_COUNT]; /* under the mutex */
static int file_now = -1;              /* set before any thread */

/* ---- words ---------------------------------------------------------------------------------- */

const char *failpoint_name(enum failpoint_id id)
{
    assert((unsigned)id < FAILPOINT_COUNT);
    return points[id].name;
}

unsigned failpoint_actions(enum failpoint_id id)
{
    assert((unsigned)id < FAILPOINT_COUNT);
    return points[id].actions;
}

enum failpoint_kill failpoint_killed(enum failpoint_id id)
{
    assert((unsigned)id < FAILPOINT_COUNT);
    return points[id].kill;
}

const char *failpoint_action_name(enum failpoint_action action)
{
    for (size_t i = 0; i < ARRAY_COUNT(action_names); i++) {
        if (action_names[i].action == action)
            return action_names[i].name;
    }
    return "none";
}

void failpoint_print(FILE *out)
{
    for (unsigned i = 0; i < FAILPOINT_COUNT; i++) {
        const char *comma = "";
        fprintf(out, "%s ", points[i].name);
        for (size_t j = 0; j < ARRAY_COUNT(action_names); j++) {
            if (!(points[i].actions & action_names[j].action))
                continue;
            fprintf(out, "%s%s", comma, action_names[j].name);
            comma = ",";
        }
        fprintf(out, " %s\n", points[i].kill == FAILPOINT_ENDS ? "ends" : "spares");
    }
}

/* ---- the spec ------------------------------------------------------------------------------- */

static int read_number(const char *text, uint64_t max, uint64_t *ret_number, struct fault *fault)
{
    int r = units_parse_count(text, 1, max, ret_number, fault);
    return r < 0 ? fault_wrap(fault, r, "failpoint spec") : 0;
}

static int read_name(const char *text, struct armed *armed, struct fault *fault)
{
    for (unsigned i = 0; i < FAILPOINT_COUNT; i++) {
        if (strcmp(points[i].name, text) == 0) {
            armed->id = (enum failpoint_id)i;
            return 0;
        }
    }
    return fault_set(fault, ERR_INVALID, "there is no failpoint '%s'", text);
}

static int read_action(const char *text, struct armed *armed, struct fault *fault)
{
    for (size_t i = 0; i < ARRAY_COUNT(action_names); i++) {
        if (strcmp(action_names[i].name, text) != 0)
            continue;
        if (!(points[armed->id].actions & action_names[i].action))
            break;
        armed->action = action_names[i].action;
        return 0;
    }
    return fault_set(fault, ERR_INVALID, "failpoint '%s' has no action '%s'",
                     points[armed->id].name, text);
}

/* NAME=ACTION[:MS][@N]; the line is taken apart in place. */
static int read_line(char *line, struct armed *armed, struct fault *fault)
{
    *armed = (struct armed){.at = 1, .delay_ms = FAILPOINT_DELAY_MS};
    char *action = strchr(line, '=');
    if (!action)
        return fault_set(fault, ERR_INVALID, "'%.80s' is no failpoint: NAME=ACTION[:MS][@N]", line);
    *action++ = '\0';
    char *at = strchr(action, '@');
    if (at)
        *at++ = '\0';
    char *delay = strchr(action, ':');
    if (delay)
        *delay++ = '\0';
    int r = read_name(line, armed, fault);
    if (r == 0)
        r = read_action(action, armed, fault);
    if (r == 0 && at)
        r = read_number(at, 1 << 20, &armed->at, fault);
    if (r == 0 && delay)
        r = read_number(delay, FAILPOINT_DELAY_MS_MAX, &armed->delay_ms, fault);
    return r;
}

/* "hit NAME ACTION": that one is over. */
static void read_hit(const char *words, struct spec *spec)
{
    for (size_t i = 0; i < spec->count; i++) {
        struct armed *armed = &spec->armed[i];
        size_t count = strlen(points[armed->id].name);
        if (strncmp(words, points[armed->id].name, count) == 0 && words[count] == ' ' &&
            strcmp(words + count + 1, failpoint_action_name(armed->action)) == 0)
            armed->spent = true;
    }
}

static int read_spec(const char *text, struct spec *ret_spec, struct fault *fault)
{
    struct spec spec = {0};
    char line[160];

    while (*text) {
        size_t count = strcspn(text, "\n");
        if (count >= sizeof line)
            return fault_set(fault, ERR_INVALID, "a failpoint spec with a line of %zu bytes",
                             count);
        memcpy(line, text, count);
        line[count] = '\0';
        text += count + (text[count] == '\n');
        if (line[0] == '\0')
            continue;
        if (strncmp(line, "hit ", 4) == 0) {
            read_hit(line + 4, &spec);
            continue;
        }
        if (spec.count == FAILPOINT_ARMED_MAX)
            return fault_set(fault, ERR_LIMIT, "more than %d failpoints at once",
                             FAILPOINT_ARMED_MAX);
        int r = read_line(line, &spec.armed[spec.count], fault);
        if (r < 0)
            return r;
        spec.count++;
    }
    *ret_spec = spec;
    return 0;
}

int failpoint_arm(const char *text, struct fault *fault)
{
    struct spec spec;
    bool any = false;

    int r = read_spec(text, &spec, fault);
    if (r < 0)
        return r;
    for (size_t i = 0; i < spec.count; i++)
        any |= !spec.armed[i].spent;
    pthread_mutex_lock(&mutex);
    spec_now = spec;
    __atomic_store_n(&failpoint_is_armed, any, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&mutex);
    return 0;
}

void failpoint_set_file(int fd)
{
    file_now = fd;
}

int failpoint_reload(struct fault *fault)
{
    char text[FAILPOINT_SPEC_MAX];

    if (file_now < 0)
        return 0;
    ssize_t count = pread(file_now, text, sizeof text - 1, 0);
    if (count < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the failpoint spec");
    text[count] = '\0';
    return failpoint_arm(text, fault);
}

/* ---- firing --------------------------------------------------------------------------------- */

/* Told before it acts: a kill leaves no time for it afterwards. */
static void tell_hit(const struct armed *armed)
{
    char line[120];
    const char *action = failpoint_action_name(armed->action);

    log_warn("failpoint", "%s: %s", points[armed->id].name, action);
    if (file_now < 0)
        return;
    int count = snprintf(line, sizeof line, "hit %s %s\n", points[armed->id].name, action);
    ssize_t n = write(file_now, line, (size_t)count); /* opened for appending */
    (void)n;                                          /* the test misses it, and says so */
}

unsigned failpoint_hits(enum failpoint_id id)
{
    assert((unsigned)id < FAILPOINT_COUNT);
    pthread_mutex_lock(&mutex);
    unsigned count = hits[id];
    pthread_mutex_unlock(&mutex);
    return count;
}

static bool find(enum failpoint_id id, struct armed *ret_armed)
{
    bool found = false;

    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < spec_now.count && !found; i++) {
        struct armed *armed = &spec_now.armed[i];
        if (armed->id != id || armed->spent || ++armed->reached < armed->at)
            continue;
        armed->spent = found = true;
        hits[id]++;
        *ret_armed = *armed;
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

enum failpoint_action failpoint_fire(enum failpoint_id id)
{
    struct armed armed;

    assert((unsigned)id < FAILPOINT_COUNT);
    if (!find(id, &armed))
        return FAILPOINT_NONE;
    tell_hit(&armed);
    switch (armed.action) {
    case FAILPOINT_KILL:
        (void)raise(SIGKILL);
        return FAILPOINT_NONE;
    case FAILPOINT_DELAY:
        (void)poll(NULL, 0, (int)armed.delay_ms);
        return FAILPOINT_NONE;
    case FAILPOINT_NONE:
    case FAILPOINT_ERROR:
    case FAILPOINT_DROP:
    case FAILPOINT_DUPLICATE:
    case FAILPOINT_TRUNCATE:
        break;
    }
    return armed.action;
}

int failpoint_fail(enum failpoint_id id, struct fault *fault)
{
    return fault_set(fault, ERR_IO, "failpoint %s", failpoint_name(id));
}

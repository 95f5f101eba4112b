#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level level_now = LOG_INFO;
static const char *program_now = "godwit";
static pthread_mutex_t line_mutex = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_names[LOG_LEVEL_COUNT] = {
    [LOG_ERROR] = "error", [LOG_WARN] = "warn", [LOG_INFO] = "info", [LOG_DEBUG] = "debug"};

void log_set_level(enum log_level level)
{
    level_now = level;
}

void log_set_program(const char *program)
{
    program_now = program;
}

int log_level_from_name(const char *name)
{
    for (int i = 0; i < LOG_LEVEL_COUNT; i++) {
        if (strcmp(name, level_names[i]) == 0)
            return i;
    }
    return -1;
}

void log_write(enum log_level level, const char *component, const char *format, ...)
{
    if (level > level_now)
        return;

    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);

    char line[1200];
    size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    int n = snprintf(line + used, sizeof line - used, ".%03ldZ %-5s %.100s/%.100s: ",
                     now.tv_nsec / 1000000, level_names[level], program_now, component);
    used += n > 0 ? (size_t)n : 0;
    va_list args;
    va_start(args, format);
    n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0)
        used += (size_t)n < sizeof line - used - 1 ? (size_t)n : sizeof line - used - 2;
    line[used++] = '\n';

    pthread_mutex_lock(&line_mutex);
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* a log that cannot be written has nobody to tell */
    pthread_mutex_unlock(&line_mutex);
}

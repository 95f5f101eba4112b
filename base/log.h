/* One event, one line, once: message, then key=value with ids first (vm= migration= host=).
 *
 * Flow:   every room -> [log] -> stderr (journald, a file)
 * Thread: any; one mutex keeps lines whole.
 *
 * Lower rooms return faults and log at debug only. Secrets and guest memory never.
 */
#ifndef GODWIT_BASE_LOG_H
#define GODWIT_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVEL_COUNT };

void log_set_level(enum log_level level);
/* `program` is borrowed for ever: a literal or argv[0]. */
void log_set_program(const char *program);
/* "error", "warn", "info", "debug"; -1 for another word. */
int log_level_from_name(const char *name);

void log_write(enum log_level level, const char *component, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(component, ...) log_write(LOG_ERROR, component, __VA_ARGS__)
#define log_warn(component, ...) log_write(LOG_WARN, component, __VA_ARGS__)
#define log_info(component, ...) log_write(LOG_INFO, component, __VA_ARGS__)
#define log_debug(component, ...) log_write(LOG_DEBUG, component, __VA_ARGS__)

#endif

/* Small files: a flat JSON object of strings and whole numbers, and whole texts, written atomically.
 *
 * Flow:   pool init, pool join -> [config] -> coordinator, agent, cli
 * Thread: any; blocking.
 */
#ifndef GODWIT_BASE_CONFIG_H
#define GODWIT_BASE_CONFIG_H

#include <stddef.h>
#include <sys/types.h>

struct config; /* an object read from a file */
struct fault;

enum { CONFIG_FILE_MAX = 1 << 20 };

/* ERR_NOT_FOUND when there is no such file; ERR_INVALID with line and column when it is not JSON. */
int config_read(struct config **ret_config, const char *path, struct fault *fault);
struct config *config_free(struct config *config);
/* The string under `key`, borrowed from the config; NULL when absent or no string. */
const char *config_get(const struct config *config, const char *key);
/* The same, but its absence is ERR_INVALID and says which file lacks which key. */
int config_need(const struct config *config, const char *key, const char **ret_value,
                struct fault *fault);

/* Write `keys[i]: values[i]` (count of them; NULL values are left out) as JSON, mode as given. */
int config_write(const char *path, mode_t mode, const char *const *keys, const char *const *values,
                 size_t count, struct fault *fault);

/* A whole file as a malloc'ed, zero-ended text (ret_count may be NULL). */
int file_read(const char *path, char **ret_text, size_t *ret_count, struct fault *fault);
/* Write aside, fsync, rename, fsync the folder: the old or the new, never half. */
int file_write_atomic(const char *path, mode_t mode, const void *bytes, size_t count,
                      struct fault *fault);
/* Remove what writers that were killed in file_write_atomic(path) left aside. Only where the caller
 * is the one process that writes `path`, and none of its threads does so now. */
void file_write_tidy(const char *path);
/* Make `path` and its missing parents, mode 0700 for what is made. */
int dir_make(const char *path, struct fault *fault);
/* snprintf for paths: ERR_LIMIT when it does not fit. */
int path_join(char *ret_path, size_t size, struct fault *fault, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif

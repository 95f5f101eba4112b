#include "base/config.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/own.h"

struct config {
    json_t *object;
    char path[PATH_MAX];
};

int config_read(struct config **ret_config, const char *path, struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    size_t count = 0;
    int r = file_read(path, &text, &count, fault);
    if (r < 0)
        return r;

    json_error_t error;
    json_t *object = json_loadb(text, count, JSON_REJECT_DUPLICATES, &error);
    if (!object)
        return fault_set(fault, ERR_INVALID, "%s:%d:%d: %s", path, error.line, error.column,
                         error.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return fault_set(fault, ERR_INVALID, "%s: found no JSON object", path);
    }
    struct config *config = calloc(1, sizeof *config);
    if (!config) {
        json_decref(object);
        return fault_set(fault, ERR_NOMEM, "no memory to read %s", path);
    }
    config->object = object;
    (void)snprintf(config->path, sizeof config->path, "%s", path); /* for words only */
    *ret_config = config;
    return 0;
}

struct config *config_free(struct config *config)
{
    if (!config)
        return NULL;
    json_decref(config->object);
    free(config);
    return NULL;
}

const char *config_get(const struct config *config, const char *key)
{
    return json_string_value(json_object_get(config->object, key));
}

int config_need(const struct config *config, const char *key, const char **ret_value,
                struct fault *fault)
{
    const char *value = config_get(config, key);
    if (!value)
        return fault_set(fault, ERR_INVALID, "%s lacks the text '%s'", config->path, key);
    *ret_value = value;
    return 0;
}

int config_write(const char *path, mode_t mode, const char *const *keys, const char *const *values,
                 size_t count, struct fault *fault)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < count; i++) {
        if (values[i] && json_object_set_new(object, keys[i], json_string(values[i])) != 0) {
            json_decref(object);
            return fault_set(fault, ERR_INVALID, "%s: '%s' is no text in UTF-8", path, keys[i]);
        }
    }
    AUTO_FREE char *text = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    json_decref(object);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory to write %s", path);
    return file_write_atomic(path, mode, text, strlen(text), fault);
}

int file_read(const char *path, char **ret_text, size_t *ret_count, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "cannot open %s", path);

    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))
        return fault_set(fault, ERR_INVALID, "%s is no regular file", path);
    if (status.st_size > CONFIG_FILE_MAX)
        return fault_set(fault, ERR_LIMIT, "%s has %lld bytes, more than %d", path,
                         (long long)status.st_size, CONFIG_FILE_MAX);
    size_t size = (size_t)status.st_size;
    AUTO_FREE char *text = malloc(size + 1);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory to read %s", path);
    size_t used = 0;
    while (used < size) {
        ssize_t got = read(fd, text + used, size - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "cannot read %s", path);
        if (got == 0)
            break;
        used += (size_t)got;
    }
    text[used] = '\0';
    if (ret_count)
        *ret_count = used;
    *ret_text = TAKE(text);
    return 0;
}

static int write_all(int fd, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t put = write(fd, bytes, count);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -1;
        bytes += put;
        count -= (size_t)put;
    }
    return 0;
}

/* A rename is only as durable as the folder that holds it. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    (void)snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash)
        (void)snprintf(parent, sizeof parent, ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
    AUTO_FD int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -1 : fsync(fd);
}

int file_write_atomic(const char *path, mode_t mode, const void *bytes, size_t count,
                      struct fault *fault)
{
    char aside[PATH_MAX];
    int r = path_join(aside, sizeof aside, fault, "%s.%d.new", path, (int)getpid());
    if (r < 0)
        return r;
    AUTO_FD int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "cannot write %s", aside);
    if (write_all(fd, bytes, count) != 0 || fsync(fd) != 0) {
        int error = errno;
        (void)unlink(aside);
        return fault_set_errno(fault, ERR_IO, error, "cannot write %s", aside);
    }
    if (rename(aside, path) != 0 || sync_parent(path) != 0) {
        int error = errno;
        (void)unlink(aside);
        return fault_set_errno(fault, ERR_IO, error, "cannot put %s in its place", path);
    }
    return 0;
}

/* "vm.bin.4711.new" of "vm.bin": as file_write_atomic names it. */
static bool is_left_aside(const char *item, const char *name)
{
    size_t length = strlen(name);
    if (strncmp(item, name, length) != 0 || item[length] != '.')
        return false;
    const char *digits = item + length + 1;
    size_t count = strspn(digits, "0123456789");
    return count > 0 && strcmp(digits + count, ".new") == 0;
}

void file_write_tidy(const char *path)
{
    char parent[PATH_MAX];
    (void)snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent)
        return; /* nobody writes there */
    *slash = '\0';
    DIR *folder = opendir(parent);
    if (!folder)
        return; /* then nothing was left in it */
    for (struct dirent *item; (item = readdir(folder));) {
        if (is_left_aside(item->d_name, slash + 1))
            (void)unlinkat(dirfd(folder), item->d_name, 0); /* gone already is as good */
    }
    (void)closedir(folder); /* only read */
}

int dir_make(const char *path, struct fault *fault)
{
    char part[PATH_MAX];
    int r = path_join(part, sizeof part, fault, "%s", path);
    if (r < 0)
        return r;
    for (char *at = part + 1;; at++) {
        char was = *at;
        if (was != '/' && was != '\0')
            continue;
        *at = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return fault_set_errno(fault, err_from_errno(errno), errno, "cannot make folder %s",
                                   part);
        *at = was;
        if (was == '\0')
            return 0;
    }
}

int path_join(char *ret_path, size_t size, struct fault *fault, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(ret_path, size, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= size)
        return fault_set(fault, ERR_LIMIT, "path is longer than %zu bytes: %.120s...", size - 1,
                         ret_path);
    return 0;
}

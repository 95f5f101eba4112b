#include "cli/build_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "cli/vm_spec_file.h"
#include "proto/limits.h"

enum { PATH_SIZE = PATH_MAX };

static bool is_given(const char *text)
{
    return text && text[0];
}

static void file_freep(Godwit__BuildFile **file)
{
    if (*file)
        godwit__build_file__free_unpacked(*file, NULL);
}

static int judge_mode(const char *mode, size_t index, struct fault *fault)
{
    size_t count = strlen(mode);
    if (count >= 3 && count <= 4 && strspn(mode, "01234567") == count)
        return 0;
    return fault_set(fault, ERR_INVALID, "steps[%zu].mode: found '%.20s'; \"0644\" would fit",
                     index, mode);
}

static int judge_step(const Godwit__BuildStep *step, size_t index, struct fault *fault)
{
    bool is_file = is_given(step->file);

    if (is_given(step->run) == is_file)
        return fault_set(fault, ERR_INVALID, "steps[%zu]: found %s; either run: or file: would fit",
                         index, is_file ? "both run and file" : "neither run nor file");
    if (!is_file && (step->content || step->from || step->mode))
        return fault_set(fault, ERR_INVALID,
                         "steps[%zu]: content, from and mode belong to file:, not to run:", index);
    if (is_file && step->file[0] != '/')
        return fault_set(fault, ERR_INVALID,
                         "steps[%zu].file: found '%.120s'; an absolute path in the guest would fit",
                         index, step->file);
    if (is_file && (step->content != NULL) == is_given(step->from))
        return fault_set(fault, ERR_INVALID,
                         "steps[%zu]: found %s; either content: or from: would fit", index,
                         step->content ? "both content and from" : "neither content nor from");
    return is_file && step->mode ? judge_mode(step->mode, index, fault) : 0;
}

static int judge(const Godwit__BuildFile *file, struct fault *fault)
{
    if (!is_given(file->name) || !is_given(file->image))
        return fault_set(fault, ERR_INVALID, "%s: the file has none; %s would fit",
                         is_given(file->name) ? "image" : "name",
                         is_given(file->name) ? "the name of an image of the pool"
                                              : "a name for the image to be");
    if (strcmp(file->name, file->image) == 0)
        return fault_set(fault, ERR_INVALID, "image: an image is not built from itself");
    if (!id_name_is_valid(file->name))
        return fault_set(
            fault, ERR_INVALID,
            "name: found '%.70s'; letters, digits, '.', '_' and '-' would fit, first a "
            "letter or digit",
            file->name);
    if (file->n_steps == 0 || file->n_steps > BUILD_STEPS_MAX)
        return fault_set(fault, ERR_INVALID, "steps: found %zu; 1 to %d would fit", file->n_steps,
                         BUILD_STEPS_MAX);
    int r = 0;
    for (size_t i = 0; r == 0 && i < file->n_steps; i++)
        r = judge_step(file->steps[i], i, fault);
    return r;
}

/* A build file may come from anybody: what it names lies beside it, not in the operator's home. */
static int find_beside(const char *folder, const char *from, char **ret_path, struct fault *fault)
{
    char path[PATH_SIZE];
    AUTO_FREE char *base = realpath(is_given(folder) ? folder : ".", NULL);
    struct stat info;

    int r = path_join(path, sizeof path, fault, "%s%s%s",
                      from[0] == '/' ? ""
                      : base         ? base
                                     : ".",
                      from[0] == '/' ? "" : "/", from);
    if (r < 0)
        return r;
    AUTO_FREE char *found = realpath(path, NULL);
    if (!base || !found)
        return fault_set_errno(fault, err_from_errno(errno), errno, "looking for %.200s", path);
    size_t count = strlen(base);
    if (strcmp(base, "/") != 0 && (strncmp(found, base, count) != 0 || found[count] != '/'))
        return fault_set(
            fault, ERR_INVALID,
            "found '%.120s', which is %.200s; a file in the folder of the build file or "
            "below it would fit",
            from, found);
    if (stat(found, &info) < 0 || !S_ISREG(info.st_mode))
        return fault_set(fault, ERR_INVALID, "%.200s is no regular file", found);
    *ret_path = TAKE(found);
    return 0;
}

static int read_from(Godwit__BuildStep *step, size_t index, const char *folder, struct fault *fault)
{
    AUTO_FREE char *path = NULL, *text = NULL;
    size_t count = 0;

    if (!is_given(step->from))
        return 0;
    int r = find_beside(folder, step->from, &path, fault);
    if (r == 0)
        r = file_read(path, &text, &count, fault);
    if (r == 0 && (count > CLOUD_INIT_TEXT_MAX || strlen(text) != count))
        r = fault_set(fault, ERR_INVALID, "%.200s has %zu bytes%s; %d of text would fit", path,
                      count, strlen(text) != count ? " and is no text" : "", CLOUD_INIT_TEXT_MAX);
    if (r < 0)
        return fault_wrap(fault, r, "steps[%zu].from", index);
    step->content = TAKE(text);
    return 0;
}

int build_file_parse(const char *text, size_t count, const char *name, const char *folder,
                     Godwit__BuildFile **ret_file, struct fault *fault)
{
    AUTO(file_freep) Godwit__BuildFile *file = NULL;

    int r = vm_spec_file_bind(text, count, name, &godwit__build_file__descriptor, &file, fault);
    if (r < 0)
        return r;
    r = judge(file, fault);
    for (size_t i = 0; r == 0 && i < file->n_steps; i++)
        r = read_from(file->steps[i], i, folder, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%.120s", name);
    *ret_file = TAKE(file);
    return 0;
}

int build_file_read(const char *path, Godwit__BuildFile **ret_file, struct fault *fault)
{
    char folder[PATH_SIZE];
    AUTO_FREE char *text = NULL;
    const char *slash = strrchr(path, '/');
    size_t count = 0;

    int r = path_join(folder, sizeof folder, fault, "%.*s",
                      slash == path ? 1
                      : slash       ? (int)(slash - path)
                                    : 0,
                      path);
    if (r == 0)
        r = file_read(path, &text, &count, fault);
    return r < 0 ? r : build_file_parse(text, count, path, folder, ret_file, fault);
}

void build_file_title(const Godwit__BuildStep *step, char ret_title[static BUILD_TITLE_SIZE])
{
    if (is_given(step->file)) {
        (void)snprintf(ret_title, BUILD_TITLE_SIZE, "file %.70s", step->file);
        return;
    }
    size_t line = strcspn(step->run, "\n");
    bool is_all = step->run[line] == '\0' || step->run[line + 1] == '\0';
    (void)snprintf(ret_title, BUILD_TITLE_SIZE, "%.*s%s", line < 70 ? (int)line : 70, step->run,
                   is_all && line <= 70 ? "" : " ...");
}

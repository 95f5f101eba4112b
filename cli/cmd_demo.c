#include "cli/cmd_demo.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "proto/gw_code.h"

/* The folder of this binary, without the last slash. */
static int own_folder(char *ret_path, size_t size, struct fault *fault)
{
    ssize_t count = readlink("/proc/self/exe", ret_path, size - 1);
    if (count < 0)
        return fault_set_errno(fault, ERR_IO, errno, "cannot tell where this command is");
    ret_path[count] = '\0';
    char *slash = strrchr(ret_path, '/');
    if (slash)
        *slash = '\0';
    return 0;
}

int cmd_demo(struct context *context)
{
    static const char *const beside[] = {"../scripts/demo", "../../scripts/demo",
                                         "../../../scripts/demo"}; /* build/PRESET/bin */
    char folder[PATH_MAX], path[PATH_MAX];
    struct fault fault = {0};
    int r = own_folder(folder, sizeof folder, &fault);
    for (size_t i = 0; r == 0 && i <= ARRAY_COUNT(beside); i++) {
        r = i < ARRAY_COUNT(beside)
                ? path_join(path, sizeof path, &fault, "%s/%s", folder, beside[i])
                : path_join(path, sizeof path, &fault, "/usr/share/godwit/scripts/demo");
        if (r < 0 || access(path, X_OK) != 0)
            continue;
        char *const words[] = {path, NULL};
        (void)fflush(context->out);
        (void)execv(path, words);
        r = fault_set_errno(&fault, ERR_IO, errno, "cannot run %s", path);
    }
    if (r == 0) {
        (void)fault_set(&fault, ERR_NOT_FOUND,
                        "the demo is not beside this command: looked for scripts/demo up to three "
                        "folders above %s and in /usr/share/godwit; it is part of the source tree",
                        folder);
    }
    return error_print_fault(context, &fault);
}

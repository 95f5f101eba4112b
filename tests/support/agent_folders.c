#include "tests/support/agent_folders.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <unistd.h>

#include "base/config.h"
#include "base/err.h"

static void make(char *dir, size_t size, const char *word)
{
    struct fault fault = {0};
    char path[96];

    (void)snprintf(dir, size, "/tmp/godwit-agent-%s.XXXXXX", word);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/vms", dir);
    assert_int_equal(dir_make(path, &fault), 0);
}

static void drop(const char *dir, const char *name)
{
    char path[96];

    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)remove(path); /* it may not be there */
}

void agent_folders_make(struct agent_folders *folders)
{
    make(folders->state, sizeof folders->state, "state");
    make(folders->run, sizeof folders->run, "run");
}

void agent_folders_remove(struct agent_folders *folders)
{
    drop(folders->run, "incarnation");
    drop(folders->run, "vms");
    drop(folders->state, "vms");
    assert_int_equal(rmdir(folders->run), 0);
    assert_int_equal(rmdir(folders->state), 0);
}

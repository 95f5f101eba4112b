#include "cli/build_script.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/limits.h"

enum { BASE64_LINE = 57 }; /* bytes that make a line of 76 letters */

struct script {
    char *text; /* owned */
    size_t count;
};

/* Beyond the most it only counts. */
static void add(struct script *script, const char *bytes, size_t count)
{
    if (script->count + count <= CLOUD_INIT_TEXT_MAX)
        memcpy(script->text + script->count, bytes, count);
    script->count += count;
}

__attribute__((format(printf, 2, 3))) static void say(struct script *script, const char *format,
                                                      ...)
{
    char line[512];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    add(script, line, n > 0 && (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/* Whatever the text holds, the shell does not read it. */
static void add_base64(struct script *script, const char *text)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t count = strlen(text);

    for (size_t at = 0; at < count; at += 3) {
        unsigned long three = 0;
        char four[4];
        size_t here = count - at < 3 ? count - at : 3;
        for (size_t i = 0; i < 3; i++)
            three = three << 8 | (i < here ? (unsigned char)text[at + i] : 0U);
        for (size_t i = 0; i < 4; i++)
            four[i] = i <= here ? letters[three >> (18 - 6 * i) & 63] : '=';
        add(script, four, sizeof four);
        if ((at + 3) % BASE64_LINE == 0)
            add(script, "\n", 1);
    }
    add(script, "\n", 1);
}

static const char head[] =
    "#!/bin/sh\n"
    "# made by godwit image build\n"
    "exec </dev/null\n"
    "export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive HOME=/root\n"
    "dmesg -n 1 2>/dev/null\n"
    "d=/run/godwit-build; mkdir -p $d; chmod 700 $d\n"
    "say() { printf '\\n@gw %s %s\\n' \"$T\" \"$*\" >/dev/console; }\n"
    /* Of a line that is written over and over, as dpkg's progress is, the last counts. */
    "r=$(printf '\\r')\n"
    "tell() { k=0; while IFS= read -r l || [ -n \"$l\" ]; do k=$((k+1));"
    " l=${l%\"$r\"}; l=${l##*\"$r\"};"
    " printf '@gw %s o %s %s %s\\n' \"$T\" \"$1\" $k \"$l\" >/dev/console; done; }\n"
    "fail() { say end $1 $2; say end $1 $2; exit 1; }\n" /* the one word that nothing makes up for
                                                          */
    "step() { rm -f $d/code; { sh -e $d/step 2>&1; echo $? >$d/code; } | tell $1;"
    " c=$(cat $d/code); [ \"$c\" = 0 ] || fail $1 ${c:-255}; say end $1 0; }\n" /* 255: none came */
    "put() { base64 -d >$d/step || fail $1 127; }\n";

/* What would make two VMs of the image one. */
static const char seal[] =
    "systemctl stop systemd-random-seed 2>/dev/null\n" /* it writes one when it stops */
    "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/systemd/random-seed\n"
    "[ ! -e /etc/machine-id ] || : >/etc/machine-id\n"
    "rm -f /var/lib/dbus/machine-id\n"
    "rm -rf /var/lib/cloud/instances /var/lib/cloud/instance /var/lib/cloud/sem "
    "/var/lib/cloud/data\n"
    "say sealed\n";

static const char tail[] = "rm -rf $d\n"
                           "fstrim / 2>/dev/null || say untrimmed\n"
                           "fstrim -a 2>/dev/null\n" /* which is silent where it cannot */
                           "sync\n"
                           "say done\n"
                           "poweroff || poweroff -f\n"
                           /* else cloud-init goes on, and leaves its state again */
                           "while :; do sleep 60; done\n";

/* The step's own script, for sh: the path and the content once more as base64, so that any is as
 * good. Gives a text from malloc; NULL: no memory, or more than fits anyway. */
static char *file_script(const Godwit__BuildStep *step, bool *ret_is_long)
{
    static const char begin[] = "f=$(base64 -d <<'@f'\n";
    AUTO_FREE char *text = malloc(CLOUD_INIT_TEXT_MAX + 1);
    struct script inner = {.text = text};

    *ret_is_long = false;
    if (!text)
        return NULL;
    add(&inner, begin, strlen(begin));
    add_base64(&inner, step->file);
    say(&inner, "@f\n)\nmkdir -p \"$(dirname \"$f\")\"\nbase64 -d >\"$f\" <<'@c'\n");
    add_base64(&inner, step->content);
    say(&inner, "@c\nchmod %s \"$f\"\n", step->mode && step->mode[0] ? step->mode : "0644");
    *ret_is_long = inner.count > CLOUD_INIT_TEXT_MAX;
    if (*ret_is_long)
        return NULL;
    text[inner.count] = '\0';
    return TAKE(text);
}

static int add_step(struct script *script, const Godwit__BuildStep *step, size_t number,
                    struct fault *fault)
{
    bool is_file = step->file && step->file[0], is_long = false;
    AUTO_FREE char *text = is_file ? file_script(step, &is_long) : NULL;

    if (is_file && !text && !is_long)
        return fault_set(fault, ERR_NOMEM, "no memory for a build");
    say(script, "say begin %zu\nput %zu <<'@gw'\n", number, number);
    if (is_long)
        script->count += CLOUD_INIT_TEXT_MAX + 1; /* it is only counted from here on */
    else
        add_base64(script, is_file ? text : step->run);
    say(script, "@gw\nstep %zu\n", number);
    return 0;
}

int build_script_make(const Godwit__BuildFile *file, const char *token, char **ret_text,
                      struct fault *fault)
{
    AUTO_FREE char *text = malloc(CLOUD_INIT_TEXT_MAX + 1);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory for a build");
    struct script script = {.text = text};
    size_t head_line = strcspn(head, "\n") + 1;

    add(&script, head, head_line);
    say(&script, "T=%s\n", token);
    add(&script, head + head_line, strlen(head + head_line));
    say(&script, "say hello\n");
    int r = 0;
    for (size_t i = 0; r == 0 && i < file->n_steps; i++)
        r = add_step(&script, file->steps[i], i + 1, fault);
    if (r < 0)
        return r;
    if (!file->keep_identity)
        add(&script, seal, strlen(seal));
    add(&script, tail, strlen(tail));
    if (script.count > CLOUD_INIT_TEXT_MAX)
        return fault_set(
            fault, ERR_LIMIT,
            "the steps and their files are too large: %d bytes fit into a seed, where files "
            "count by 1.8 and scripts by 1.4; a run: step can fetch what is large",
            CLOUD_INIT_TEXT_MAX);
    text[script.count] = '\0';
    *ret_text = TAKE(text);
    return 0;
}

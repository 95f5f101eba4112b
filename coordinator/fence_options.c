#include "coordinator/fence_options.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/own.h"

static const char *const keys[] = {
    "ip",
    "ipport",
    "username",
    "password_script",
    "identity_file",
    "plug",
    "port",
    "method",
    "ssl",
    "ssl_insecure",
    "ssl_secure",
    "lanplus",
    "cipher",
    "systems_uri",
    "auth",
    "privlvl",
    "region",
    "power_timeout",
    "timeout",
    "power_wait",
    "uuid",
    "switch",
    "community",
    "snmp_version",
    "disable_timeout",
    "login_timeout",
    "shell_timeout",
};

static bool is_agent(const char *agent)
{
    size_t length = strlen(agent);
    if (strncmp(agent, "fence_", 6) != 0 || length < 7 || length > 63)
        return false;
    for (const char *at = agent; *at; at++) {
        if (!islower((unsigned char)*at) && !isdigit((unsigned char)*at) && *at != '_')
            return false;
    }
    return true;
}

static bool is_key(const char *word, size_t length)
{
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (strlen(keys[i]) == length && strncmp(keys[i], word, length) == 0)
            return true;
    }
    return false;
}

static bool is_value(const char *value, size_t length)
{
    if (length == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)value[i]) && !strchr("._:/@-", value[i]))
            return false; /* no space, no line end, nothing that a shell would take for more */
    }
    return true;
}

bool fence_options_are_allowed(const char *agent, const char *options, char *ret_reason,
                               size_t size)
{
    if (!is_agent(agent)) {
        (void)snprintf(ret_reason, size, "'%.60s' is no name of a fence agent, like fence_ipmilan",
                       agent);
        return false;
    }
    for (const char *at = options; *at;) {
        size_t length = strcspn(at, ",");
        const char *equals = memchr(at, '=', length);
        size_t key_length = equals ? (size_t)(equals - at) : length;
        if (!equals || !is_key(at, key_length)) {
            (void)snprintf(ret_reason, size,
                           "option '%.*s' is none that a fence agent may be given",
                           (int)(key_length < 40 ? key_length : 40), at);
            return false;
        }
        if (!is_value(equals + 1, length - key_length - 1)) {
            (void)snprintf(ret_reason, size,
                           "option %.*s has a value with other than letters, "
                           "digits and . _ : / @ -",
                           (int)key_length, at);
            return false;
        }
        at += length;
        at += *at == ',' ? 1 : 0;
    }
    return true;
}

bool fence_options_input(const char *agent, const char *options, const char *action,
                         char ret_input[static FENCE_INPUT_SIZE])
{
    char reason[128];
    if (!fence_options_are_allowed(agent, options, reason, sizeof reason))
        return false;
    int n = snprintf(ret_input, FENCE_INPUT_SIZE, "%s%saction=%s\n", options,
                     options[0] ? "\n" : "", action);
    if (n < 0 || n >= FENCE_INPUT_SIZE)
        return false;
    for (char *at = ret_input; *at; at++) {
        if (*at == ',')
            *at = '\n';
    }
    return true;
}

#include "cli/cmd_pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "base/paths.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/host_join.h"
#include "cli/pool_files.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "net/pki.h"
#include "proto/backup.pb-c.h"
#include "proto/method.h"

/* " --dir X/FOLDER" when that is not the default: hints must run as pasted. */
static void dir_words(const struct context *context, const char *state, const char *folder,
                      char *ret_words, size_t size)
{
    ret_words[0] = '\0';
    if (command_given(context->line, "dir"))
        (void)snprintf(ret_words, size, " --dir %s%s%s", state, folder[0] ? "/" : "", folder);
}

static void tell_pool(struct context *context, const struct pool_files *pool, const char *state)
{
    char dir[4200], coordinator[4200];
    dir_words(context, state, "", dir, sizeof dir);
    dir_words(context, state, PATHS_COORDINATOR_DIR, coordinator, sizeof coordinator);
    (void)fprintf(context->out, "pool %s is made: id %.8s, address %s\n", pool->name, pool->id,
                  pool->address);
    (void)fprintf(context->talk,
                  "Its keys lie in %s, readable by this user only. Run next:\n\n"
                  "  godwit-coordinator%s &\n"
                  "  godwit token create%s\n"
                  "  godwit pool join TOKEN      on every host, each with a token of its own\n",
                  state, coordinator, dir);
}

int cmd_pool_init(struct context *context)
{
    const struct command_line *line = context->line;
    const struct pool_wish wish = {
        .state = command_text(line, "dir"),
        .name = command_text(line, "name"),
        .listen = command_text(line, "listen"),
        .address = command_text(line, "address"),
        .adopt_all = command_text(line, "adopt") != NULL,
    };
    struct pool_files pool = {0};
    struct fault fault = {0};
    if (pool_files_make(&wish, &pool, &fault) < 0)
        return error_print_fault(context, &fault);
    tell_pool(context, &pool, pool.state);
    return EXIT_CODE_DONE;
}

int cmd_pool_add_coordinator(struct context *context)
{
    const struct command_line *line = context->line;
    struct fault fault = {0};
    const char *address = command_text(line, "address"), *listen = command_text(line, "listen");
    int r = address ? pool_files_add(command_text(line, "dir"), line->operands[0], listen, address,
                                     &fault)
                    : fault_set(&fault, ERR_INVALID, "--address says which coordinator it is");
    if (r < 0)
        return error_print_fault(context, &fault);
    (void)fprintf(context->out, "a coordinator for %s is made in %s\n", address, line->operands[0]);
    (void)fprintf(
        context->talk,
        "It holds the pool's keys: copy it over a safe way, then run there\n\n"
        "  godwit-coordinator --dir FOLDER --store etcd://HOST:2379,HOST:2379,HOST:2379\n");
    return EXIT_CODE_DONE;
}

/* The hash of the rest in a line of its own, then the coordinator's bytes. */
static int write_backup(const char *path, const Godwit__BackupReply *reply, struct fault *fault)
{
    char hash[PKI_PIN_SIZE];
    pki_sha256_hex(reply->backup.data, reply->backup.len, hash);
    if (!reply->sha256 || strcmp(hash, reply->sha256) != 0)
        return fault_set(fault, ERR_CORRUPT, "the backup came damaged");
    AUTO_FREE char *bytes = malloc(reply->backup.len + PKI_PIN_SIZE);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for the backup");
    memcpy(bytes, hash, PKI_PIN_SIZE - 1);
    bytes[PKI_PIN_SIZE - 1] = '\n';
    memcpy(bytes + PKI_PIN_SIZE, reply->backup.data, reply->backup.len);
    return file_write_atomic(path, 0600, bytes, reply->backup.len + PKI_PIN_SIZE, fault);
}

int cmd_pool_backup(struct context *context)
{
    Godwit__BackupRequest request = GODWIT__BACKUP_REQUEST__INIT;
    Godwit__BackupReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_POOL_BACKUP, &request.base,
                        &godwit__backup_reply__descriptor, CLIENT_CALL_MS, &reply, &fault);
    if (r == 0)
        r = write_backup(context->line->operands[0], reply, &fault);
    if (r == 0)
        (void)fprintf(context->out, "%u rows, %zu bytes in %s\n", reply->rows, reply->backup.len,
                      context->line->operands[0]);
    if (reply)
        godwit__backup_reply__free_unpacked(reply, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

int cmd_pool_join(struct context *context)
{
    const struct command_line *line = context->line;
    const struct join_wish wish = {
        .token = line->operands[0],
        .state = command_text(line, "dir"),
        .name = command_text(line, "name"),
        .move_address = command_text(line, "move-address"),
    };
    struct join_result result = {0};
    struct fault fault = {0};
    if (host_join(&wish, &result, &fault) < 0)
        return error_print_fault(context, &fault);
    char dir[4200];
    dir_words(context, result.state, PATHS_AGENT_DIR, dir, sizeof dir);
    (void)fprintf(context->out, "host %s joined pool %.8s\n", result.name, result.pool_id);
    (void)fprintf(context->talk,
                  "VMs will move to this host by way of %s. Run next:\n\n"
                  "  godwit-agent%s &\n",
                  result.move_address, dir);
    return EXIT_CODE_DONE;
}

static const struct render_column pool_columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "hosts", .head = "HOSTS"},
    {.field = "hosts_up", .head = "UP"},
    {.field = "vms", .head = "VMS"},
    {.field = "vms_running", .head = "RUNNING"},
    {.field = "jobs_active", .head = "JOBS"},
    {.field = "memory_bytes", .head = "MEMORY", .unit = RENDER_BYTES},
    {.field = "memory_free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "baseline", .head = "BASELINE"},
    {.field = "address", .head = "COORDINATOR"},
    {.field = "version", .head = "VERSION"},
    {.field = "pool_id", .head = "ID"},
};
static const struct render_view pool_view = {
    .columns = pool_columns, .count = ARRAY_COUNT(pool_columns), .name_field = "name"};

int cmd_pool_status(struct context *context)
{
    Godwit__PoolStatusRequest request = GODWIT__POOL_STATUS_REQUEST__INIT;
    Godwit__PoolStatus *status = NULL;
    struct client *client;
    struct render_options options;
    struct fault fault = {0};
    AUTO_FREE char *text = NULL;
    render_options_of(context, &options);
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_POOL_STATUS, &request.base, &godwit__pool_status__descriptor,
                        CLIENT_CALL_MS, &status, &fault);
    if (r == 0)
        r = render_page(&options, &pool_view, &status->base, &text, &fault);
    if (r == 0) {
        (void)fputs(text, context->out);
        for (size_t i = 0; !context_is_machine(context) && i < status->n_warnings; i++)
            (void)fprintf(context->out, "warning        %s\n", status->warnings[i]);
    }
    if (status)
        godwit__pool_status__free_unpacked(status, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

static int tell_token(struct context *context, const Godwit__TokenCreated *token)
{
    struct render_options options;
    render_options_of(context, &options);
    if (context_is_machine(context)) {
        AUTO_FREE char *text = NULL;
        static const struct render_view view = {.name_field = "token"};
        struct fault fault = {0};
        if (render_page(&options, &view, &token->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    char left[UNITS_TEXT_SIZE];
    uint64_t now_ms = world_wall_ms();
    uint64_t left_ms = token->expires_unix_ms > now_ms ? token->expires_unix_ms - now_ms : 0;
    units_print_duration((left_ms + 500) / 1000 * NS_PER_S, left);
    (void)fprintf(context->out, "%s\n", token->token ? token->token : "");
    (void)fprintf(context->talk,
                  "It lets one host in, once, within %s. On that host: godwit pool join TOKEN\n",
                  left);
    return EXIT_CODE_DONE;
}

int cmd_pool_token(struct context *context)
{
    Godwit__TokenCreate request = GODWIT__TOKEN_CREATE__INIT;
    Godwit__TokenReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    uint64_t ttl_ns = command_number(context->line, "ttl");
    request.has_ttl_s = true;
    request.ttl_s = (ttl_ns + NS_PER_S - 1) / NS_PER_S;
    request.host = (char *)command_text(context->line, "host"); /* only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_TOKEN_CREATE, &request.base,
                        &godwit__token_reply__descriptor, CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = EXIT_CODE_FAILED;
    if (reply->error)
        exit_code = error_print(context, reply->error);
    else if (reply->token)
        exit_code = tell_token(context, reply->token);
    godwit__token_reply__free_unpacked(reply, NULL);
    return exit_code;
}

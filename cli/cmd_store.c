#include "cli/cmd_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "cli/words.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool_store.pb-c.h"

enum { CHECK_MS = 120000, HOSTS_TOLD = 8 };

/* ---- ls ---- */
static void say_list(char ret_cell[static RENDER_CELL_SIZE], char *const *texts, size_t count)
{
    struct words words;
    words_init(&words, ret_cell, RENDER_CELL_SIZE);
    for (size_t i = 0; i < count && i < HOSTS_TOLD; i++)
        words_say(&words, "%s%s", i ? "," : "", texts[i]);
    if (count > HOSTS_TOLD)
        words_say(&words, " and %zu more", count - HOSTS_TOLD);
}

static void cell_hosts(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__PoolStore *store = (const Godwit__PoolStore *)row;
    say_list(ret_cell, store->hosts, store->n_hosts);
}

static void cell_vms(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__PoolStore *store = (const Godwit__PoolStore *)row;
    say_list(ret_cell, store->vms, store->n_vms);
}

static void cell_kind(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__PoolStore *store = (const Godwit__PoolStore *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%s", store->shared ? "shared" : "local");
}

static const struct render_column columns[] = {
    {.field = "name", .head = "STORE"},
    {.field = "shared", .head = "KIND", .cell = cell_kind},
    {.field = "path", .head = "PATH"},
    {.field = "hosts", .head = "HOSTS", .cell = cell_hosts},
    {.field = "state", .head = "STATE"},
    {.field = "total_bytes", .head = "TOTAL", .unit = RENDER_BYTES},
    {.field = "free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "reserved_bytes", .head = "RESERVED", .unit = RENDER_BYTES},
    {.field = "room_bytes", .head = "ROOM", .unit = RENDER_BYTES},
    {.field = "vms", .head = "VMS", .cell = cell_vms, .wide = true},
    {.field = "created_unix_ms", .head = "ADDED", .unit = RENDER_AGO, .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

static int fetch(struct context *context, const char *store, Godwit__StoreList **ret_list,
                 struct fault *fault)
{
    Godwit__StoreListRequest request = GODWIT__STORE_LIST_REQUEST__INIT;
    struct client *client;
    request.store = (char *)(uintptr_t)store; /* only read */
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_STORE_LIST, &request.base, &godwit__store_list__descriptor,
                        CLIENT_CALL_MS, ret_list, fault);
    return r;
}

static int fetch_stores(struct context *context, ProtobufCMessage **ret_reply,
                        const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                        struct fault *fault)
{
    Godwit__StoreList *list = NULL;
    int r = fetch(context, NULL, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->stores;
    *ret_count = list->n_stores;
    return 0;
}

int cmd_store_ls(struct context *context)
{
    static const struct listing listing = {.view = &view,
                                           .nothing =
                                               "The pool has no named stores: godwit store add",
                                           .fetch = fetch_stores};
    return listing_run(context, &listing);
}

/* ---- one ---- */
static const struct render_column place_columns[] = {
    {.field = "host", .head = "HOST"},
    {.field = "state", .head = "STATE"},
    {.field = "file_system", .head = "FILE SYSTEM"},
    {.field = "total_bytes", .head = "TOTAL", .unit = RENDER_BYTES},
    {.field = "free_bytes", .head = "FREE", .unit = RENDER_BYTES},
    {.field = "reserved_bytes", .head = "RESERVED", .unit = RENDER_BYTES},
    {.field = "room_bytes", .head = "ROOM", .unit = RENDER_BYTES},
    {.field = "disks", .head = "DISKS"},
    {.field = "reason", .head = "WHY"},
};
static const struct render_view place_view = {
    .columns = place_columns, .count = ARRAY_COUNT(place_columns), .name_field = "host"};

static int print_message(struct context *context, const Godwit__PoolStore *store,
                         struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    render_options_of(context, &options);
    int r = render_page(&options, &view, &store->base, &text, fault);
    if (r == 0)
        (void)fputs(text, context->out);
    return r;
}

static int print_places(struct context *context, const Godwit__PoolStore *store,
                        struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    render_options_of(context, &options);
    options.columns = options.sort_by = NULL; /* they are of the store's own list */
    int r = render_list(&options, &place_view, (const ProtobufCMessage *const *)store->places,
                        store->n_places, &text, fault);
    if (r == 0)
        (void)fprintf(context->out, "\n%s", text);
    return r;
}

static int print_store(struct context *context, const Godwit__PoolStore *store)
{
    struct fault fault = {0};
    int r = print_message(context, store, &fault);
    if (r == 0 && !context_is_machine(context))
        r = print_places(context, store, &fault);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

int cmd_store_show(struct context *context)
{
    Godwit__StoreList *list = NULL;
    struct fault fault = {0};
    if (fetch(context, context->line->operands[0], &list, &fault) < 0)
        return error_print_fault(context, &fault);
    int exit_code = list->n_stores > 0 ? print_store(context, list->stores[0]) : EXIT_CODE_FAILED;
    godwit__store_list__free_unpacked(list, NULL);
    return exit_code;
}

/* ---- add, rm, check ---- */
static int call(struct context *context, uint16_t method, const ProtobufCMessage *request,
                Godwit__StoreReply **ret_reply)
{
    struct client *client;
    struct fault fault = {0};
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, method, request, &godwit__store_reply__descriptor, CHECK_MS,
                        ret_reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    if (!(*ret_reply)->error)
        return EXIT_CODE_DONE;
    int exit_code = error_print(context, (*ret_reply)->error);
    godwit__store_reply__free_unpacked(*ret_reply, NULL);
    return exit_code;
}

static size_t split(char *text, char **ret_words, size_t most)
{
    size_t count = 0;
    for (char *word = text, *next; word && count < most; word = next) {
        next = strchr(word, ',');
        if (next)
            *next++ = '\0';
        if (word[0])
            ret_words[count++] = word;
    }
    return count;
}

int cmd_store_add(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__StoreAddRequest request = GODWIT__STORE_ADD_REQUEST__INIT;
    Godwit__PoolStore store = GODWIT__POOL_STORE__INIT;
    Godwit__StoreReply *reply = NULL;
    const char *named = command_text(line, "hosts");
    AUTO_FREE char *copy = strdup(named ? named : "");
    AUTO_FREE char **hosts = copy ? calloc(strlen(copy) + 1, sizeof *hosts) : NULL;
    if (!hosts) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_NOMEM, "no memory for the names of hosts");
        return error_print_fault(context, &fault);
    }
    store.name = (char *)(uintptr_t)line->operands[0]; /* texts are only read */
    store.path = (char *)(uintptr_t)line->operands[1];
    store.has_shared = true;
    store.shared = command_flag(line, "shared");
    store.hosts = hosts;
    store.n_hosts = split(copy, hosts, strlen(copy) + 1);
    request.store = &store;
    int exit_code = call(context, METHOD_STORE_ADD, &request.base, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (reply->store)
        exit_code = print_store(context, reply->store);
    godwit__store_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_store_rm(struct context *context)
{
    const struct command_line *line = context->line;
    int exit_code = EXIT_CODE_DONE;
    for (size_t i = 0; i < line->operand_count && exit_code == EXIT_CODE_DONE; i++) {
        Godwit__StoreRemoveRequest request = GODWIT__STORE_REMOVE_REQUEST__INIT;
        Godwit__StoreReply *reply = NULL;
        request.store = (char *)(uintptr_t)line->operands[i]; /* only read */
        exit_code = call(context, METHOD_STORE_REMOVE, &request.base, &reply);
        if (exit_code != EXIT_CODE_DONE)
            break;
        if (!context_is_machine(context))
            (void)fprintf(context->talk, "store %s is forgotten; its files stay\n",
                          line->operands[i]);
        godwit__store_reply__free_unpacked(reply, NULL);
    }
    return exit_code;
}

int cmd_store_check(struct context *context)
{
    Godwit__StoreCheckRequest request = GODWIT__STORE_CHECK_REQUEST__INIT;
    Godwit__StoreReply *reply = NULL;
    request.store = (char *)(uintptr_t)context->line->operands[0]; /* only read */
    int exit_code = call(context, METHOD_STORE_CHECK, &request.base, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    const Godwit__PoolStore *store = reply->store;
    exit_code = store ? print_store(context, store) : EXIT_CODE_NOT_FOUND;
    if (store && store->state && strcmp(store->state, "ok") != 0)
        exit_code = EXIT_CODE_FAILED;
    godwit__store_reply__free_unpacked(reply, NULL);
    return exit_code;
}

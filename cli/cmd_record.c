#include "cli/cmd_record.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "net/pki.h"
#include "proto/audit_line.h"
#include "proto/gw_code.h"
#include "proto/method.h"

enum { WATCH_EVERY_MS = 500, TIME_SIZE = 32 };

static void print_time(uint64_t unix_ms, char ret_text[static TIME_SIZE])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;
    size_t n = localtime_r(&seconds, &parts)
                   ? strftime(ret_text, TIME_SIZE, "%Y-%m-%d %H:%M:%S", &parts)
                   : 0;
    (void)snprintf(ret_text + n, TIME_SIZE - n, ".%03u", (unsigned)(unix_ms % 1000));
}

static int print_json(struct context *context, const ProtobufCMessage *message, struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    int r = json_print(message, JSON_FORM_COMPACT, &text, fault);
    if (r == 0)
        (void)fputs(text, context->out);
    return r;
}

/* ---- events -----------------------------------------------------------------------------------
 */

static int print_events(struct context *context, const Godwit__EventList *list, struct fault *fault)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < list->n_events; i++) {
        const Godwit__PoolEvent *event = list->events[i];
        char when[TIME_SIZE];
        if (context_is_machine(context)) {
            r = print_json(context, &event->base, fault);
            continue;
        }
        print_time(event->unix_ms, when);
        (void)fprintf(context->out, "%s  %s\n", when, event->text ? event->text : "");
    }
    (void)fflush(context->out);
    return r;
}

int cmd_events(struct context *context)
{
    Godwit__EventsRequest request = GODWIT__EVENTS_REQUEST__INIT;
    struct client *client;
    struct fault fault = {0};
    bool watches = command_flag(context->line, "watch");
    uint64_t since_ms = command_number(context->line, "since") / NS_PER_MS;
    request.vm = (char *)(uintptr_t)command_text(context->line, "vm"); /* no const there */
    request.has_since_unix_ms = since_ms > 0;
    request.since_unix_ms = since_ms ? world_wall_ms() - since_ms : 0;
    int r = client_of(context, &client, &fault);
    while (r == 0) {
        Godwit__EventList *list = NULL;
        r = client_call(client, METHOD_EVENTS, &request.base, &godwit__event_list__descriptor,
                        CLIENT_CALL_MS, &list, &fault);
        if (r < 0)
            break;
        r = print_events(context, list, &fault);
        request.has_after = true;
        request.after = list->last;
        godwit__event_list__free_unpacked(list, NULL);
        if (!watches)
            break;
        (void)poll(NULL, 0, WATCH_EVERY_MS);
    }
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}

/* ---- audit ------------------------------------------------------------------------------------
 */

struct chain {
    char hash[PKI_PIN_SIZE];
    uint64_t count, broken; /* the first entry that is not what it was; 0: none */
    bool has_begun;
};

static void verify_entry(struct chain *chain, const Godwit__AuditEntry *entry)
{
    char line[AUDIT_LINE_SIZE], hash[PKI_PIN_SIZE] = "";
    size_t count = audit_line(chain->hash, entry, line);
    if (count > 0)
        pki_sha256_hex(line, count, hash);
    bool good = entry->hash && strcmp(entry->hash, hash) == 0;
    if (!good && chain->broken == 0)
        chain->broken = entry->number;
    (void)snprintf(chain->hash, sizeof chain->hash, "%s", entry->hash ? entry->hash : "");
    chain->count++;
}

static int print_entry(struct context *context, const Godwit__AuditEntry *entry,
                       struct fault *fault)
{
    char when[TIME_SIZE];
    if (context_is_machine(context))
        return print_json(context, &entry->base, fault);
    print_time(entry->unix_ms, when);
    (void)fprintf(context->out, "%5llu  %s  %s  %s  %s", (unsigned long long)entry->number, when,
                  entry->who ? entry->who : "", entry->what ? entry->what : "",
                  entry->outcome ? entry->outcome : "");
    if (entry->begins)
        (void)fprintf(context->out, " (of %llu)\n", (unsigned long long)entry->begins);
    else
        (void)fprintf(context->out, "  %s\n", entry->subject ? entry->subject : "");
    return 0;
}

static int walk(struct context *context, struct chain *chain, bool prints, struct fault *fault)
{
    Godwit__AuditRequest request = GODWIT__AUDIT_REQUEST__INIT;
    struct client *client;
    bool more = true;
    int r = client_of(context, &client, fault);
    while (r == 0 && more) {
        Godwit__AuditList *list = NULL;
        r = client_call(client, METHOD_AUDIT, &request.base, &godwit__audit_list__descriptor,
                        CLIENT_CALL_MS, &list, fault);
        if (r < 0)
            return r;
        if (!chain->has_begun)
            (void)snprintf(chain->hash, sizeof chain->hash, "%s",
                           list->hash_before ? list->hash_before : "");
        chain->has_begun = true;
        for (size_t i = 0; r == 0 && i < list->n_entries; i++) {
            verify_entry(chain, list->entries[i]);
            if (prints)
                r = print_entry(context, list->entries[i], fault);
            request.has_after = true;
            request.after = list->entries[i]->number;
        }
        more = list->more && list->n_entries > 0;
        godwit__audit_list__free_unpacked(list, NULL);
    }
    return r;
}

int cmd_audit(struct context *context)
{
    struct chain chain = {0};
    struct fault fault = {0};
    return walk(context, &chain, true, &fault) < 0 ? error_print_fault(context, &fault)
                                                   : EXIT_CODE_DONE;
}

int cmd_audit_verify(struct context *context)
{
    struct chain chain = {0};
    struct fault fault = {0};
    if (walk(context, &chain, false, &fault) < 0)
        return error_print_fault(context, &fault);
    if (chain.broken) {
        (void)fault_set(&fault, ERR_CORRUPT,
                        "the audit log was changed: entry %llu, or what stood before it, is not "
                        "what was written",
                        (unsigned long long)chain.broken);
        return error_print_fault(context, &fault);
    }
    (void)fprintf(context->out, "%llu entries, the chain is whole; it ends with %s\n",
                  (unsigned long long)chain.count, chain.hash[0] ? chain.hash : "nothing");
    return EXIT_CODE_DONE;
}

#include "cli/cmd_peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/peer.pb-c.h"

enum { ADD_MS = 90000 }; /* several addresses, each of which may be silent */

static const struct render_column columns[] = {
    {.field = "name", .head = "PEER"},
    {.field = "state", .head = "STATE"},
    {.field = "address", .head = "COORDINATOR"},
    {.field = "seen_unix_ms", .head = "SEEN", .unit = RENDER_AGO},
    {.field = "created_unix_ms", .head = "SINCE", .unit = RENDER_AGO},
    {.field = "reason", .head = "WHY"},
    {.field = "pool_id", .head = "ID", .wide = true},
    {.field = "pin", .head = "FINGERPRINT", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

/* Gives the reply when there is no error in it: an exit code. */
static int ask(struct context *context, Godwit__PeerRequest *request, Godwit__PeerVerb verb,
               uint64_t timeout_ms, Godwit__PeerReply **ret_reply)
{
    struct client *client;
    struct fault fault = {0};
    Godwit__PeerReply *reply = NULL;
    request->has_verb = true;
    request->verb = verb;
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_POOL_PEER, &request->base, &godwit__peer_reply__descriptor,
                        timeout_ms, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    if (reply->error) {
        int exit_code = error_print(context, reply->error);
        godwit__peer_reply__free_unpacked(reply, NULL);
        return exit_code;
    }
    *ret_reply = reply;
    return EXIT_CODE_DONE;
}

/* ---- invite ---- */
static int print_token(struct context *context, const Godwit__TokenCreated *token,
                       uint64_t ttl_ns)
{
    char left[UNITS_TEXT_SIZE];
    if (context_is_machine(context)) {
        static const struct render_view token_view = {.name_field = "token"};
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &token_view, &token->base, &text, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(text, context->out);
        return EXIT_CODE_DONE;
    }
    units_print_duration(ttl_ns, left);
    (void)fprintf(context->out, "%s\n", token->token ? token->token : "");
    (void)fprintf(context->talk,
                  "It makes one pool a peer of this one, once, within %s. In that pool: godwit pool "
                  "peer add TOKEN\n",
                  left);
    return EXIT_CODE_DONE;
}

int cmd_peer_invite(struct context *context)
{
    Godwit__PeerRequest request = GODWIT__PEER_REQUEST__INIT;
    Godwit__PeerReply *reply = NULL;
    uint64_t ttl_ns = command_number(context->line, "ttl");
    request.has_ttl_s = true;
    request.ttl_s = (ttl_ns + NS_PER_S - 1) / NS_PER_S;
    int exit_code = ask(context, &request, GODWIT__PEER_VERB__PEER_VERB_INVITE, CLIENT_CALL_MS,
                        &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    exit_code = reply->token ? print_token(context, reply->token, ttl_ns) : EXIT_CODE_FAILED;
    godwit__peer_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* ---- add, rm ---- */
int cmd_peer_add(struct context *context)
{
    Godwit__PeerRequest request = GODWIT__PEER_REQUEST__INIT;
    Godwit__PeerReply *reply = NULL;
    request.token = (char *)(uintptr_t)context->line->operands[0]; /* only read */
    int exit_code = ask(context, &request, GODWIT__PEER_VERB__PEER_VERB_ADD, ADD_MS, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    const Godwit__PeerInfo *peer = reply->n_peers > 0 ? reply->peers[0] : NULL;
    if (peer && context_is_machine(context)) {
        AUTO_FREE char *text = NULL;
        struct render_options options;
        struct fault fault = {0};
        render_options_of(context, &options);
        if (render_page(&options, &view, &peer->base, &text, &fault) < 0)
            exit_code = error_print_fault(context, &fault);
        else
            (void)fputs(text, context->out);
    } else if (peer) {
        (void)fprintf(context->out, "pool %s (%.8s) at %s is a peer now\n", peer->name,
                      peer->pool_id, peer->address);
    }
    godwit__peer_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_peer_rm(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__PeerRequest request = GODWIT__PEER_REQUEST__INIT;
    Godwit__PeerReply *reply = NULL;
    struct fault fault = {0};
    if (!context_confirm(context,
                         "End the trust between the two pools, or take the invitation back?")) {
        (void)fault_set(&fault, ERR_REFUSED, "nobody said yes; nothing was changed");
        fault_hint(&fault, "godwit pool peer rm -y %s", line->operands[0]);
        return error_print_fault(context, &fault);
    }
    request.peer = (char *)(uintptr_t)line->operands[0]; /* only read */
    request.has_force = request.force = command_flag(line, "force");
    int exit_code = ask(context, &request, GODWIT__PEER_VERB__PEER_VERB_REMOVE, CLIENT_CALL_MS,
                        &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (!context_is_machine(context))
        (void)fprintf(context->out, "%s opens nothing in this pool any more\n", line->operands[0]);
    godwit__peer_reply__free_unpacked(reply, NULL);
    return EXIT_CODE_DONE;
}

/* ---- ls ---- */
static int fetch(struct context *context, ProtobufCMessage **ret_reply,
                 const ProtobufCMessage *const **ret_rows, size_t *ret_count, struct fault *fault)
{
    Godwit__PeerRequest request = GODWIT__PEER_REQUEST__INIT;
    Godwit__PeerReply *reply = NULL;
    struct client *client;
    request.has_verb = true;
    request.verb = GODWIT__PEER_VERB__PEER_VERB_LIST;
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_POOL_PEER, &request.base, &godwit__peer_reply__descriptor,
                        CLIENT_CALL_MS, &reply, fault);
    if (r < 0)
        return r;
    *ret_reply = &reply->base;
    *ret_rows = (const ProtobufCMessage *const *)reply->peers;
    *ret_count = reply->n_peers;
    return 0;
}

int cmd_peer_ls(struct context *context)
{
    static const struct listing listing = {.view = &view,
                                           .nothing = "The pool has no peers: godwit pool peer "
                                                      "invite, there: godwit pool peer add",
                                           .fetch = fetch};
    return listing_run(context, &listing);
}

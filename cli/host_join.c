#include "cli/host_join.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/paths.h"
#include "cli/pool_files.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "proto/address_list.h"
#include "proto/method.h"
#include "proto/token.h"

/* The token's pin is the only thing this host trusts so far: the coordinator must show a chain
 * whose root has it, and the certificates that come back are held against it once more. */
struct joining {
    const struct join_wish *wish;
    struct join_result result;
    Godwit__JoinToken *token;
    char *key, *request;
    char *ca_certificate, *certificate;
    struct loop *loop;
    struct tls_context *tls;
    struct rpc *rpc;
    struct fault fault;
    bool opened, answered;
};

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct joining *joining = data;
    (void)rpc;
    if (fault && joining->fault.code == 0)
        joining->fault = *fault;
    joining->opened = joining->answered = true;
}

static const struct rpc_service service = {.on_closed = on_closed};

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct joining *joining = data;
    (void)rpc;
    joining->opened = true;
    if (fault)
        joining->fault = *fault;
}

static void on_enrolled(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct joining *joining = data;
    joining->answered = true;
    if (fault) {
        joining->fault = *fault;
        return;
    }
    const Godwit__EnrolReply *enrolled = (const Godwit__EnrolReply *)reply;
    if (!enrolled->pool_id || !enrolled->ca_certificate || !enrolled->certificate) {
        (void)fault_set(&joining->fault, ERR_CORRUPT, "the coordinator's answer lacks a part");
        return;
    }
    (void)snprintf(joining->result.pool_id, sizeof joining->result.pool_id, "%s",
                   enrolled->pool_id);
    joining->ca_certificate = strdup(enrolled->ca_certificate);
    joining->certificate = strdup(enrolled->certificate);
    if (!joining->ca_certificate || !joining->certificate)
        (void)fault_set(&joining->fault, ERR_NOMEM, "no memory for the certificates");
}

static int choose_name(struct joining *joining, struct fault *fault)
{
    char host[256] = "";
    const char *name = joining->wish->name;
    if (!name) {
        if (gethostname(host, sizeof host - 1) != 0)
            return fault_set_errno(fault, ERR_IO, errno, "cannot tell this host's name");
        name = host;
    }
    if (!id_name_is_valid(name))
        return fault_set(fault, ERR_INVALID,
                         "--name: found '%.70s'; letters, digits, '.', '_' and '-' would fit, "
                         "%d at most, first a letter or digit",
                         name, ID_NAME_MAX);
    (void)snprintf(joining->result.name, sizeof joining->result.name, "%s", name);
    return 0;
}

static int refuse_existing(const char *folder, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", folder, PATHS_AGENT_CONFIG);
    if (r < 0)
        return r;
    if (access(path, F_OK) != 0)
        return 0;
    struct config *config = NULL;
    const char *pool = NULL, *name = NULL;
    if (config_read(&config, path, NULL) == 0) {
        pool = config_get(config, "pool_id");
        name = config_get(config, "name");
    }
    r = fault_set(fault, ERR_EXISTS,
                  "this host has joined pool %.8s as %.63s already (%.200s); nothing was changed",
                  pool ? pool : "?", name ? name : "?", path);
    fault_hint(fault, "godwit-agent");
    config_free(config);
    return r;
}

static int connect_to(struct joining *joining, const char *address, struct fault *fault)
{
    joining->rpc = rpc_close(joining->rpc);
    joining->opened = joining->answered = false;
    joining->fault = (struct fault){0};
    int r = rpc_connect(&joining->rpc, joining->loop, address, joining->tls, "coordinator",
                        &service, joining, on_opened, fault);
    if (r < 0)
        return r;
    while (!joining->opened)
        loop_turn(joining->loop, true);
    if (joining->fault.code == 0)
        return 0;
    r = joining->fault.code;
    (void)fault_set(fault, r, "the coordinator at %s, named by the token: %.300s", address,
                    joining->fault.text);
    if (joining->fault.hint[0])
        fault_hint(fault, "%s", joining->fault.hint);
    return r;
}

static int enrol(struct joining *joining, struct fault *fault)
{
    Godwit__EnrolRequest request = GODWIT__ENROL_REQUEST__INIT;
    request.token_id = joining->token->id;
    request.has_secret = true;
    request.secret = joining->token->secret;
    request.host_name = joining->result.name;
    request.certificate_request = joining->request;
    int r = rpc_call(joining->rpc, METHOD_ENROL, &request.base, &godwit__enrol_reply__descriptor,
                     HOST_JOIN_MS, on_enrolled, joining, fault);
    if (r < 0)
        return r;
    while (!joining->answered)
        loop_turn(joining->loop, true);
    if (joining->fault.code < 0) {
        *fault = joining->fault;
        return fault->code;
    }
    return 0;
}

/* The token names all coordinators; one of them leads. */
static int connect_and_enrol(struct joining *joining, struct fault *fault)
{
    const char *list = joining->token->address;
    const struct tls_identity identity = {.pin = joining->token->pin};
    char address[ADDRESS_SIZE];
    int r = loop_new(&joining->loop, fault);
    if (r == 0)
        r = tls_context_new(&joining->tls, &identity, fault);
    if (r == 0)
        r = pki_new_key(&joining->key, fault);
    if (r == 0)
        r = pki_new_request(joining->key, &joining->request, fault);
    if (r < 0)
        return r;
    r = fault_set(fault, ERR_INVALID, "the token names no coordinator; make a new one");
    for (size_t i = 0; address_list_get(list, i, address, sizeof address); i++) {
        r = connect_to(joining, address, fault);
        if (r == 0)
            r = enrol(joining, fault);
        if (r != ERR_NOT_LEADER && r != ERR_UNREACHABLE && r != ERR_TIMEOUT && r != ERR_CLOSED)
            return r;
    }
    return r;
}

static int check_answer(const struct joining *joining, struct fault *fault)
{
    char pin[PKI_PIN_SIZE];
    struct pki_identity identity;
    int r = pki_pin(joining->ca_certificate, pin, fault);
    if (r < 0)
        return r;
    if (strcmp(pin, joining->token->pin) != 0)
        return fault_set(fault, ERR_DENIED,
                         "the pool's CA certificate is not the one the token "
                         "names; nothing was written");
    r = pki_identity_of(joining->certificate, &identity, fault);
    if (r < 0)
        return r;
    if (strcmp(identity.role, "host") != 0 || strcmp(identity.name, joining->result.name) != 0 ||
        strcmp(identity.pool, joining->result.pool_id) != 0)
        return fault_set(fault, ERR_DENIED,
                         "the certificate that came back is for %s %s, not for host %s; nothing "
                         "was written",
                         identity.role, identity.name, joining->result.name);
    return 0;
}

static int write_text(const char *folder, const char *name, mode_t mode, const char *text,
                      struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", folder, name);
    return r < 0 ? r : file_write_atomic(path, mode, text, strlen(text), fault);
}

/* agent.json last: it is what says "joined". */
static int write_files(struct joining *joining, const char *folder, struct fault *fault)
{
    char path[PATH_MAX];
    const char *const keys[] = {"pool_id", "name", "coordinator", "move_address"};
    const char *const values[] = {joining->result.pool_id, joining->result.name,
                                  joining->token->address, joining->result.move_address};
    int r = dir_make(folder, fault);
    if (r == 0)
        r = write_text(folder, PATHS_CA_CERTIFICATE, 0644, joining->ca_certificate, fault);
    if (r == 0)
        r = write_text(folder, "host.crt", 0644, joining->certificate, fault);
    if (r == 0)
        r = write_text(folder, "host.key", 0600, joining->key, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/%s", folder, PATHS_AGENT_CONFIG);
    if (r == 0)
        r = config_write(path, 0600, keys, values, ARRAY_COUNT(keys), fault);
    return r;
}

static int join(struct joining *joining, struct fault *fault)
{
    const struct join_wish *wish = joining->wish;
    struct join_result *result = &joining->result;
    char folder[PATH_MAX];
    int r = token_decode(wish->token, &joining->token, fault);
    if (r == 0)
        r = choose_name(joining, fault);
    if (r == 0)
        r = pool_state_path(wish->state, result->state, sizeof result->state, fault);
    if (r == 0)
        r = path_join(folder, sizeof folder, fault, "%s/%s", result->state, PATHS_AGENT_DIR);
    if (r == 0)
        r = refuse_existing(folder, fault);
    if (r == 0 && (!joining->token->address || !joining->token->pin || !joining->token->id ||
                   !joining->token->has_secret))
        r = fault_set(fault, ERR_INVALID, "the token lacks a part; make a new one");
    if (r == 0 && joining->token->pool_id) {
        r = fault_set(fault, ERR_INVALID, "this token lets pool %.63s's peer in, and no host",
                      joining->token->pool ? joining->token->pool : "?");
        fault_hint(fault, "godwit pool peer add TOKEN");
    }
    if (r == 0)
        r = connect_and_enrol(joining, fault);
    if (r == 0)
        r = check_answer(joining, fault);
    if (r < 0)
        return r;
    /* The way to the coordinator is a way that works: other hosts most likely share it. */
    (void)snprintf(result->move_address, sizeof result->move_address, "%s",
                   wish->move_address ? wish->move_address : rpc_local_address(joining->rpc));
    return write_files(joining, folder, fault);
}

int host_join(const struct join_wish *wish, struct join_result *ret_result, struct fault *fault)
{
    struct joining joining = {.wish = wish};
    int r = join(&joining, fault);
    joining.rpc = rpc_close(joining.rpc);
    joining.tls = tls_context_free(joining.tls);
    joining.loop = loop_free(joining.loop);
    if (joining.token)
        godwit__join_token__free_unpacked(joining.token, NULL);
    free(joining.key);
    free(joining.request);
    free(joining.ca_certificate);
    free(joining.certificate);
    if (r == 0)
        *ret_result = joining.result;
    return r;
}

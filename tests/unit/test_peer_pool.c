#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/peer_pool.h"
#include "coordinator/store.h"
#include "net/pki.h"
#include "proto/token.h"

#define ID "0123456789abcdef"
enum { NOW = 1000000 };

struct town { /* this pool, and another */
    struct peer_pools pools;
    struct store_batch *batch;
    struct problem problem;
    char *ca, *ca_key, *request, *key, *certificate;
    char pin[PKI_PIN_SIZE];
    uint8_t secret[TOKEN_SECRET_BYTES];
};
static struct town town;

static char *word(const char *text)
{
    return (char *)(uintptr_t)text;
}

static char *sign(const char *pool, const char *role, const char *name)
{
    struct pki_identity identity = {0};
    char *certificate = NULL;
    (void)snprintf(identity.pool, sizeof identity.pool, "%s", pool);
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s", name);
    assert_int_equal(
        pki_sign(town.ca, town.ca_key, town.request, &identity, 1, &certificate, NULL), 0);
    return certificate;
}

static int set_up(void **state)
{
    (void)state;
    town = (struct town){.secret = {1, 2, 3}};
    assert_int_equal(store_batch_new(&town.batch, NULL), 0);
    assert_int_equal(pki_new_ca("site-b", 1, &town.ca, &town.ca_key, NULL), 0);
    assert_int_equal(pki_pin(town.ca, town.pin, NULL), 0);
    assert_int_equal(pki_new_key(&town.key, NULL), 0);
    assert_int_equal(pki_new_request(town.key, &town.request, NULL), 0);
    town.certificate = sign("site-b", "peer", ID);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    peer_pools_deinit(&town.pools);
    (void)store_batch_free(town.batch);
    free(town.ca);
    free(town.ca_key);
    free(town.key);
    free(town.request);
    free(town.certificate);
    return 0;
}

static void invite(void)
{
    assert_non_null(peer_pool_invite(&town.pools, 60, NOW, ID, town.secret, sizeof town.secret,
                                     town.batch, &town.problem));
}

static Godwit__PeerJoin join_of(const char *pool_id, const char *name)
{
    Godwit__PeerJoin join = GODWIT__PEER_JOIN__INIT;
    join.token_id = word(ID);
    join.has_secret = true;
    join.secret = (ProtobufCBinaryData){.data = town.secret, .len = sizeof town.secret};
    join.pool_id = word(pool_id);
    join.name = word(name);
    join.address = word("10.0.0.1:7411,10.0.0.2:7411");
    join.ca_certificate = town.ca;
    join.certificate_request = town.request;
    return join;
}

static struct peer_pool *judge(const Godwit__PeerJoin *join, uint64_t now_unix_ms)
{
    town.problem = (struct problem){0};
    return peer_pool_judge_join(&town.pools, "site-a", join, now_unix_ms, &town.problem);
}

static struct peer_pool *let_in(const char *pool_id, const char *name)
{
    Godwit__PeerJoin join = join_of(pool_id, name);
    invite();
    struct peer_pool *pool = judge(&join, NOW);
    assert_non_null(pool);
    peer_pool_joined(pool, &join, NOW, town.batch);
    return pool;
}

static Godwit__JoinToken token_of(void)
{
    Godwit__JoinToken token = GODWIT__JOIN_TOKEN__INIT;
    token.address = word("10.0.0.1:7411");
    token.pin = town.pin;
    token.id = word(ID);
    token.has_secret = true;
    token.secret = (ProtobufCBinaryData){.data = town.secret, .len = sizeof town.secret};
    token.pool_id = word("site-b");
    token.pool = word("b");
    return token;
}

static Godwit__PeerJoined joined_of(void)
{
    Godwit__PeerJoined joined = GODWIT__PEER_JOINED__INIT;
    joined.pool_id = word("site-b");
    joined.name = word("b");
    joined.address = word("10.0.0.1:7411");
    joined.ca_certificate = town.ca;
    joined.certificate = town.certificate;
    return joined;
}

/* ---- the inviting pool ------------------------------------------------------------------------
 */

static void an_invitation_lets_one_pool_in_once(void **state)
{
    (void)state;
    struct peer_pool *pool = let_in("site-b", "b");
    Godwit__PeerJoin again = join_of("site-c", "c");

    assert_true(peer_pool_is_peer(pool));
    assert_false(peer_pool_is_called(pool));
    assert_null(judge(&again, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_USED);
    assert_non_null(strstr(town.problem.text, "pool b"));
}

static void an_expired_invitation_is_told_as_such(void **state)
{
    (void)state;
    Godwit__PeerJoin join = join_of("site-b", "b");
    invite();

    assert_non_null(judge(&join, NOW + 60000));
    assert_null(judge(&join, NOW + 60001));
    assert_int_equal(town.problem.code, GW_TOKEN_EXPIRED);
}

static void a_wrong_secret_or_id_is_no_token_of_ours(void **state)
{
    (void)state;
    uint8_t other[TOKEN_SECRET_BYTES] = {1, 2, 4};
    Godwit__PeerJoin join = join_of("site-b", "b");
    invite();

    join.secret.data = other;
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
    join = join_of("site-b", "b");
    join.secret.len = 3;
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
    join = join_of("site-b", "b");
    join.token_id = word("fedcba9876543210");
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
    join.token_id = NULL;
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
}

static void this_pool_and_a_peer_may_not_join(void **state)
{
    (void)state;
    Godwit__PeerJoin join = join_of("site-a", "a");
    invite();

    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_PEER_KNOWN);

    join = join_of("site-b", "b");
    peer_pool_joined(judge(&join, NOW), &join, NOW, town.batch);
    assert_non_null(peer_pool_invite(&town.pools, 60, NOW, "0000000000000001", town.secret,
                                     sizeof town.secret, town.batch, &town.problem));
    join.token_id = word("0000000000000001");
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_PEER_KNOWN);
    assert_non_null(strstr(town.problem.hint, "peer rm site-b"));
}

static void what_a_hostile_pool_tells_of_itself_is_refused(void **state)
{
    (void)state;
    char longer[2048];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    const char *const names[] = {"", "two words", "../b", "\x1b[31m", longer};
    const char *const addresses[] = {"", ",", " 1.2.3.4:1", "1.2.3.4:1\n", longer};
    invite();
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        Godwit__PeerJoin join = join_of("site-b", names[i]);
        assert_null(judge(&join, NOW));
        assert_int_equal(town.problem.code, GW_USAGE);
        join = join_of(names[i], "b");
        assert_null(judge(&join, NOW));
        assert_int_equal(town.problem.code, GW_USAGE);
    }
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        Godwit__PeerJoin join = join_of("site-b", "b");
        join.address = word(addresses[i]);
        assert_null(judge(&join, NOW));
        assert_int_equal(town.problem.code, GW_USAGE);
    }
    Godwit__PeerJoin join = join_of("site-b", "b");
    join.ca_certificate = word("no certificate");
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_USAGE);
}

static void an_invitation_lives_a_day_at_most_and_there_are_not_endless_ones(void **state)
{
    (void)state;
    char id[PEER_ID_SIZE];
    assert_null(peer_pool_invite(&town.pools, PEER_INVITATION_S_MAX + 1, NOW, ID, town.secret,
                                 sizeof town.secret, town.batch, &town.problem));
    assert_int_equal(town.problem.code, GW_TOKEN_TTL);
    for (unsigned i = 0; i < PEER_INVITATIONS_MAX; i++) {
        (void)snprintf(id, sizeof id, "%016x", i);
        assert_non_null(peer_pool_invite(&town.pools, 60, NOW, id, town.secret, sizeof town.secret,
                                         town.batch, &town.problem));
    }
    assert_null(peer_pool_invite(&town.pools, 60, NOW, ID, town.secret, sizeof town.secret,
                                 town.batch, &town.problem));
    assert_int_equal(town.problem.code, GW_POOL_FULL);

    uint64_t two_days_ms = UINT64_C(2) * 24 * 3600 * 1000;
    assert_non_null(peer_pool_invite(&town.pools, 60, NOW + two_days_ms, ID, town.secret,
                                     sizeof town.secret, town.batch, &town.problem));
}

static void an_invitation_is_told_and_can_be_taken_back(void **state)
{
    (void)state;
    Godwit__PeerInfo info;
    Godwit__PeerJoin join = join_of("site-b", "b");
    invite();
    peer_pool_tell_invitation(town.pools.first, NOW + 60000, &info);
    assert_string_equal(info.name, ID);
    assert_string_equal(info.state, "invited");
    peer_pool_tell_invitation(town.pools.first, NOW + 60001, &info);
    assert_string_equal(info.state, "expired");
    assert_null(peer_pool_find(&town.pools, ID, &town.problem)); /* it is no peer */
    assert_null(peer_pool_find_any(&town.pools, "012", &town.problem));
    assert_int_equal(town.problem.code, GW_PEER_UNKNOWN);

    struct peer_pool *invitation = peer_pool_find_any(&town.pools, "0123", &town.problem);

    assert_ptr_equal(invitation, town.pools.first);
    peer_pool_remove(&town.pools, invitation, town.batch);
    assert_null(judge(&join, NOW));
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
}

static void no_more_pools_come_in_than_there_may_be(void **state)
{
    (void)state;
    char id[PEER_ID_SIZE], name[16];
    for (unsigned i = 0; i <= PEER_POOLS_MAX; i++) {
        (void)snprintf(id, sizeof id, "%016x", i);
        (void)snprintf(name, sizeof name, "pool-%u", i);
        assert_non_null(peer_pool_invite(&town.pools, 60, NOW, id, town.secret, sizeof town.secret,
                                         town.batch, &town.problem));
        Godwit__PeerJoin join = join_of(name, name);
        join.token_id = id;
        struct peer_pool *pool = judge(&join, NOW);
        if (i == PEER_POOLS_MAX) {
            assert_null(pool);
            assert_int_equal(town.problem.code, GW_POOL_FULL);
        } else {
            peer_pool_joined(pool, &join, NOW, town.batch);
        }
    }
}

/* ---- certificates -----------------------------------------------------------------------------
 */

static struct pki_identity identity_of(const char *role, const char *name)
{
    struct pki_identity identity = {.pool = "site-a"};
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s", name);
    return identity;
}

static void a_certificate_opens_as_long_as_there_is_its_record(void **state)
{
    (void)state;
    struct pki_identity identity = identity_of("peer", ID), other = identity_of("peer", "b");
    struct pki_identity host = identity_of("host", ID);
    invite();
    assert_null(peer_pool_of(&town.pools, &identity)); /* an invitation is no peer */
    peer_pool_remove(&town.pools, town.pools.first, town.batch);

    struct peer_pool *pool = let_in("site-b", "b");

    assert_ptr_equal(peer_pool_of(&town.pools, &identity), pool);
    assert_null(peer_pool_of(&town.pools, &other));
    assert_null(peer_pool_of(&town.pools, &host));
    peer_pool_remove(&town.pools, pool, town.batch);
    assert_null(peer_pool_of(&town.pools, &identity));
}

static void whom_we_call_does_not_call_us(void **state)
{
    (void)state;
    struct pki_identity identity = identity_of("peer", ID);
    Godwit__JoinToken token = token_of();
    Godwit__PeerJoined joined = joined_of();

    struct peer_pool *pool =
        peer_pool_add(&town.pools, &token, &joined, "locked", NOW, town.batch);

    assert_true(peer_pool_is_called(pool));
    assert_null(peer_pool_of(&town.pools, &identity));
}

/* ---- the joining pool -------------------------------------------------------------------------
 */

static void a_token_is_judged_before_anybody_is_called(void **state)
{
    (void)state;
    Godwit__JoinToken token = token_of();
    assert_int_equal(peer_pool_judge_token(&town.pools, "site-a", &token, &town.problem), 0);

    assert_int_equal(peer_pool_judge_token(&town.pools, "site-b", &token, &town.problem), -1);
    assert_int_equal(town.problem.code, GW_PEER_KNOWN);
    token.pool_id = NULL; /* a host's */
    assert_int_equal(peer_pool_judge_token(&town.pools, "site-a", &token, &town.problem), -1);
    assert_int_equal(town.problem.code, GW_TOKEN_INVALID);
    assert_non_null(strstr(town.problem.hint, "pool peer invite"));
    token = token_of();
    token.id = word("longer than any id that we give");
    assert_int_equal(peer_pool_judge_token(&town.pools, "site-a", &token, &town.problem), -1);
    token = token_of();
    Godwit__PeerJoined joined = joined_of();
    (void)peer_pool_add(&town.pools, &token, &joined, "locked", NOW, town.batch);
    assert_int_equal(peer_pool_judge_token(&town.pools, "site-a", &token, &town.problem), -1);
    assert_int_equal(town.problem.code, GW_PEER_KNOWN);
}

static void an_answer_of_another_pool_or_for_another_is_refused(void **state)
{
    (void)state;
    Godwit__JoinToken token = token_of();
    Godwit__PeerJoined joined = joined_of();
    AUTO_FREE char *host = sign("site-b", "host", ID), *other = sign("site-b", "peer", "x");
    AUTO_FREE char *ca = NULL, *ca_key = NULL, *elsewhere = sign("site-c", "peer", ID);
    assert_int_equal(pki_new_ca("site-b", 1, &ca, &ca_key, NULL), 0);
    assert_int_equal(peer_pool_judge_joined(&token, &joined, &town.problem), 0);

    const char *const certificates[] = {host, other, elsewhere, "none", NULL};
    for (size_t i = 0; i < ARRAY_COUNT(certificates); i++) {
        joined = joined_of();
        joined.certificate = word(certificates[i]);
        assert_int_equal(peer_pool_judge_joined(&token, &joined, &town.problem), -1);
        assert_int_equal(town.problem.code, GW_PEER_FAILED);
    }
    joined = joined_of();
    joined.ca_certificate = ca; /* of the same name, and not the one that the token pins */
    assert_int_equal(peer_pool_judge_joined(&token, &joined, &town.problem), -1);
    assert_non_null(strstr(town.problem.text, "CA"));
    joined = joined_of();
    joined.pool_id = word("site-c");
    assert_int_equal(peer_pool_judge_joined(&token, &joined, &town.problem), -1);
    joined.pool_id = word("\x1b[2Jsite-b");
    assert_int_equal(peer_pool_judge_joined(&token, &joined, &town.problem), -1);
    assert_null(strchr(town.problem.text, '\x1b'));
}

/* ---- both -------------------------------------------------------------------------------------
 */

static void a_peer_is_found_by_name_or_id_and_never_guessed(void **state)
{
    (void)state;
    struct peer_pool *pool = let_in("site-b", "prod");
    assert_ptr_equal(peer_pool_find(&town.pools, "prod", &town.problem), pool);
    assert_ptr_equal(peer_pool_find(&town.pools, "site", &town.problem), pool);
    assert_null(peer_pool_find(&town.pools, "sit", &town.problem)); /* too short to mean an id */
    assert_int_equal(town.problem.code, GW_PEER_UNKNOWN);

    Godwit__JoinToken token = token_of();
    Godwit__PeerJoined joined = joined_of();
    token.id = word("0000000000000001");
    joined.pool_id = word("site-c");
    joined.name = word("prod");
    (void)peer_pool_add(&town.pools, &token, &joined, "locked", NOW, town.batch);

    assert_null(peer_pool_find(&town.pools, "prod", &town.problem));
    assert_int_equal(town.problem.code, GW_AMBIGUOUS);
    assert_ptr_equal(peer_pool_find(&town.pools, "site-b", &town.problem), pool);
    assert_null(peer_pool_find(&town.pools, ID, &town.problem));
}

static void it_is_linked_as_long_as_it_speaks(void **state)
{
    (void)state;
    Godwit__PeerInfo info;
    char pin[PKI_PIN_SIZE];
    struct peer_pool *pool = let_in("site-b", "b");
    uint64_t now_ns = 100 * NS_PER_S;
    peer_pool_tell(pool, now_ns, &info, pin);
    assert_string_equal(info.state, "away");
    assert_string_equal(info.pin, town.pin);

    peer_pool_heard(&town.pools, pool, "b2", "10.0.0.9:7411", now_ns, NOW, town.batch);

    assert_true(peer_pool_is_linked(pool, now_ns + 9 * NS_PER_S));
    assert_false(peer_pool_is_linked(pool, now_ns + PEER_AWAY_MS * NS_PER_MS));
    peer_pool_tell(pool, now_ns, &info, pin);
    assert_string_equal(info.state, "linked");
    assert_string_equal(info.name, "b2");
    assert_string_equal(info.address, "10.0.0.9:7411");
    now_ns += PEER_NEWS_MS * NS_PER_MS;
    peer_pool_heard(&town.pools, pool, "no name", "no\naddress", now_ns, NOW, town.batch);
    assert_string_equal(pool->info->name, "b2");
    assert_string_equal(pool->info->address, "10.0.0.9:7411");
}

/* Each is a transaction of this pool's. */
static void news_of_a_peer_are_kept_now_and_then_only(void **state)
{
    (void)state;
    struct peer_pool *pool = let_in("site-b", "b");
    uint64_t now_ns = 100 * NS_PER_S;
    peer_pool_heard(&town.pools, pool, "b1", "10.0.0.1:7411", now_ns, NOW, town.batch);
    uint64_t revision = pool->revision;
    uint64_t early_ns = now_ns + PEER_NEWS_MS * NS_PER_MS - 1;

    peer_pool_heard(&town.pools, pool, "b2", "10.0.0.2:7411", early_ns, NOW, town.batch);

    assert_int_equal(pool->revision, revision);
    assert_string_equal(pool->info->name, "b1");
    assert_int_equal(pool->seen_ns, early_ns); /* it lives all the same */
    peer_pool_heard(&town.pools, pool, "b2", "10.0.0.2:7411", early_ns + 1, NOW, town.batch);
    assert_int_equal(pool->revision, revision + 1);
    assert_string_equal(pool->info->name, "b2");
    assert_string_equal(pool->info->address, "10.0.0.2:7411");
}

static void a_peer_does_not_take_anothers_name(void **state)
{
    (void)state;
    struct peer_pool *pool = let_in("site-b", "b");
    Godwit__JoinToken token = token_of();
    Godwit__PeerJoined joined = joined_of();
    token.id = word("0000000000000001");
    joined.pool_id = word("site-c");
    joined.name = word("prod");
    (void)peer_pool_add(&town.pools, &token, &joined, "locked", NOW, town.batch);

    peer_pool_heard(&town.pools, pool, "prod", "10.0.0.9:7411", NS_PER_S, NOW, town.batch);

    assert_string_equal(pool->info->name, "b");
    assert_string_equal(pool->info->address, "10.0.0.9:7411");
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(an_invitation_lets_one_pool_in_once),
        test(an_expired_invitation_is_told_as_such),
        test(a_wrong_secret_or_id_is_no_token_of_ours),
        test(this_pool_and_a_peer_may_not_join),
        test(what_a_hostile_pool_tells_of_itself_is_refused),
        test(an_invitation_lives_a_day_at_most_and_there_are_not_endless_ones),
        test(an_invitation_is_told_and_can_be_taken_back),
        test(no_more_pools_come_in_than_there_may_be),
        test(a_certificate_opens_as_long_as_there_is_its_record),
        test(whom_we_call_does_not_call_us),
        test(a_token_is_judged_before_anybody_is_called),
        test(an_answer_of_another_pool_or_for_another_is_refused),
        test(a_peer_is_found_by_name_or_id_and_never_guessed),
        test(it_is_linked_as_long_as_it_speaks),
        test(news_of_a_peer_are_kept_now_and_then_only),
        test(a_peer_does_not_take_anothers_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

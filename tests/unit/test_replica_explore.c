/* Every order of events that the two cores of a replication can live through with a guest of two
 * pages: writes at any moment, links that break at either end first, segments lost or doubled, a
 * replica that dies and comes back empty. In every state that is reached the replica holds nothing
 * or exactly one checkpoint that the source cut, and none older than it has told the source of; and
 * while nothing was lost or doubled, none that arrives is refused.
 *
 * The cores are the real ones; around them stands, in small, what their shells do: a log, pages
 * aside, a sum over the image. Mistakes that such shells have made elsewhere are put in one at a
 * time, and found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <assert.h>

#include "base/err.h"
#include "migrate/replica_core.h"

enum {
    PAGES = 2,
    WRITES_MAX = 2,
    CUTS_MAX = 2,
    LINKS_MAX = 3,
    HARMS_MAX = 1,
    WIRE_MAX = 8,
    STATES_MAX = 1 << 20,
    TABLE = 1 << 22,
    GENERATION = 5,
    SESSION = 77,
};

enum mutation {
    MUTATION_NONE,
    MUTATION_APPLY_AT_ONCE,    /* pages go over the checkpoint that is held as they come */
    MUTATION_OWED_FORGOTTEN,   /* a link that broke owes nothing */
    MUTATION_STAGED_KEPT,      /* what had arrived over a broken link counts for the next one */
    MUTATION_NOT_JUDGED,       /* a COMMIT is believed */
    MUTATION_HELD_BEFORE_KEPT, /* HELD is told, then the replica dies or does it */
    MUTATION_CLEAR_AFTER_READ, /* a page is read, written, then cleared in the log */
    MUTATION_EMPTY_IS_OURS,    /* a replica that came back empty is taken for the one before */
    MUTATION_COUNT
};

struct segment {
    uint8_t type, page, value, pages;
    uint8_t image[PAGES]; /* COMMIT: what it must come to */
    uint8_t is_whole;
    struct replica_id id;
};

struct state {
    struct replicator_core source;
    struct replica_core replica;
    uint8_t memory[PAGES], dirty[PAGES], pending[PAGES], owed[PAGES];
    uint8_t sent[PAGES]; /* the image as the source has told it */
    uint8_t named;       /* entries of the checkpoint under way */
    uint8_t writes, cuts, links, harms, deaths;
    uint8_t cut_images[CUTS_MAX + LINKS_MAX + 2][PAGES]; /* by seq */
    uint8_t cut_known[CUTS_MAX + LINKS_MAX + 2];
    struct segment wire[WIRE_MAX];
    uint8_t wire_count, wire_closed;
    struct replica_id back; /* HELD on its way; seq 0: none */
    uint8_t held_image[PAGES], aside[PAGES], is_aside[PAGES], aside_entries;
    uint8_t told; /* the newest that this replica has told of */
};

struct explorer {
    enum mutation mutation;
    struct state *states;
    uint32_t *table;
    uint32_t count;
    bool is_broken; /* a state that must not be */
};

static uint64_t sum_of(const uint8_t *image)
{
    return 1 + (uint64_t)image[0] * 64 + image[1];
}

static uint64_t hash_of(const struct state *state)
{
    const uint8_t *bytes = (const uint8_t *)state;
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *state; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static bool is_right(const struct state *state)
{
    uint64_t seq = state->replica.held.id.seq;
    if (seq < state->told)
        return false; /* also: nothing, where something was told of */
    if (seq == 0)
        return true;
    return state->cut_known[seq] && memcmp(state->cut_images[seq], state->held_image, PAGES) == 0;
}

static void add(struct explorer *explorer, const struct state *state)
{
    uint64_t at = hash_of(state) % TABLE;
    if (!is_right(state))
        explorer->is_broken = true;
    while (explorer->table[at]) {
        if (memcmp(&explorer->states[explorer->table[at] - 1], state, sizeof *state) == 0)
            return;
        at = (at + 1) % TABLE;
    }
    assert(explorer->count < STATES_MAX);
    explorer->states[explorer->count++] = *state;
    explorer->table[at] = explorer->count;
}

/* ---- the source's shell, in small ---- */
static void put(struct state *state, struct segment segment)
{
    assert(state->wire_count < WIRE_MAX);
    segment.id = state->source.sent;
    state->wire[state->wire_count++] = segment;
}

static void send_page(struct state *state, unsigned page)
{
    state->sent[page] = state->memory[page];
    state->named++;
    put(state, (struct segment){.type = REPLICA_FRAME_PAGES,
                                .page = (uint8_t)page,
                                .value = state->memory[page]});
}

static void begin(struct state *state)
{
    if (state->source.sent.seq == 0) {
        (void)replicator_core_begin(&state->source);
        state->named = 0;
    }
}

static void send_live(struct explorer *explorer, struct state state, unsigned page)
{
    begin(&state);
    state.pending[page] |= state.dirty[page];
    if (explorer->mutation == MUTATION_CLEAR_AFTER_READ && state.writes < WRITES_MAX) {
        struct state raced = state; /* written between the reading and the clearing */
        send_page(&raced, page);
        raced.memory[page] = ++raced.writes;
        raced.dirty[page] = raced.pending[page] = 0;
        raced.owed[page] = 1;
        add(explorer, &raced);
    }
    state.dirty[page] = state.pending[page] = 0;
    state.owed[page] = 1;
    send_page(&state, page);
    add(explorer, &state);
}

static void cut(struct explorer *explorer, struct state state)
{
    begin(&state);
    uint64_t seq = state.source.sent.seq;
    for (unsigned i = 0; i < PAGES; i++) {
        if (!state.dirty[i] && !state.pending[i])
            continue;
        state.dirty[i] = state.pending[i] = 0;
        state.owed[i] = 1;
        send_page(&state, i);
    }
    memcpy(state.cut_images[seq], state.memory, PAGES);
    state.cut_known[seq] = 1;
    state.cuts++;
    put(&state, (struct segment){.type = REPLICA_FRAME_STATE});
    struct segment commit = {
        .type = REPLICA_FRAME_COMMIT, .pages = state.named, .is_whole = state.source.is_whole};
    memcpy(commit.image, state.sent, PAGES);
    replicator_core_cut(&state.source, sum_of(state.sent));
    put(&state, commit);
    add(explorer, &state);
}

static void deliver_held(struct explorer *explorer, struct state state)
{
    struct fault fault;
    if (replicator_core_held(&state.source, &state.back, &fault) == 0)
        memset(state.owed, 0, sizeof state.owed);
    state.back = (struct replica_id){0};
    add(explorer, &state);
}

static void source_loses_link(struct explorer *explorer, struct state state)
{
    replicator_core_unlinked(&state.source);
    state.back = (struct replica_id){0};
    state.wire_closed = 1;
    add(explorer, &state);
}

static void forget_aside(const struct explorer *explorer, struct state *state)
{
    if (explorer->mutation == MUTATION_STAGED_KEPT)
        return;
    memset(state->aside, 0, sizeof state->aside);
    memset(state->is_aside, 0, sizeof state->is_aside);
    state->aside_entries = 0;
}

static void replica_unlinks(const struct explorer *explorer, struct state *state)
{
    replica_core_unlinked(&state->replica);
    forget_aside(explorer, state);
    memset(state->wire, 0, sizeof state->wire);
    state->wire_count = 0;
    if (state->source.is_linked)
        replicator_core_unlinked(&state->source);
    state->back = (struct replica_id){0};
    state->wire_closed = 0;
}

static void replica_loses_link(struct explorer *explorer, struct state state)
{
    replica_unlinks(explorer, &state);
    add(explorer, &state);
}

static void replica_dies(struct explorer *explorer, struct state state)
{
    replica_unlinks(explorer, &state);
    replica_core_init(&state.replica, 0, true);
    memset(state.held_image, 0, sizeof state.held_image);
    memset(state.aside, 0, sizeof state.aside);
    memset(state.is_aside, 0, sizeof state.is_aside);
    state.aside_entries = 0;
    state.told = 0;
    state.deaths++;
    add(explorer, &state);
}

static void link_up(struct explorer *explorer, struct state state)
{
    const struct replica_frame hello = {.type = REPLICA_FRAME_HELLO,
                                        .id = {GENERATION, SESSION, 0}};
    enum replicator_owes owes = REPLICATOR_OWES_WHOLE;
    struct fault fault;

    state.links++;
    int r = replica_core_judge(&state.replica, &hello, &fault);
    assert(r == 0);
    struct replica_held held = state.replica.held;
    if (explorer->mutation == MUTATION_EMPTY_IS_OURS && held.id.seq == 0)
        held = (struct replica_held){state.source.held, state.source.held_sum};
    r = replicator_core_linked(&state.source, &held, &owes, &fault);
    assert(r == 0);
    for (unsigned i = 0; i < PAGES; i++) {
        bool owed =
            owes == REPLICATOR_OWES_WHOLE || (owes == REPLICATOR_OWES_SENT && state.owed[i] &&
                                              explorer->mutation != MUTATION_OWED_FORGOTTEN);
        state.pending[i] |= owed;
        state.owed[i] = 0;
        if (owes == REPLICATOR_OWES_WHOLE)
            state.sent[i] = 0;
    }
    add(explorer, &state);
}

/* ---- the replica's ---- */
static bool is_whole(const struct explorer *explorer, const struct state *state,
                     const struct segment *commit)
{
    uint8_t image[PAGES];
    if (explorer->mutation == MUTATION_NOT_JUDGED)
        return true;
    for (unsigned i = 0; i < PAGES; i++)
        image[i] = state->is_aside[i] ? state->aside[i]
                   : commit->is_whole ? 0
                                      : state->held_image[i];
    return state->aside_entries == commit->pages && sum_of(image) == sum_of(commit->image);
}

static void keep(struct explorer *explorer, struct state *state, const struct segment *commit)
{
    if (explorer->mutation == MUTATION_HELD_BEFORE_KEPT) {
        struct state dying = *state;
        dying.told = (uint8_t)commit->id.seq;
        add(explorer, &dying);
    }
    for (unsigned i = 0; i < PAGES; i++) {
        if (state->is_aside[i] || commit->is_whole)
            state->held_image[i] = state->is_aside[i] ? state->aside[i] : 0;
    }
    replica_core_kept(&state->replica, sum_of(commit->image));
    memset(state->aside, 0, sizeof state->aside);
    memset(state->is_aside, 0, sizeof state->is_aside);
    state->aside_entries = 0;
    state->told = (uint8_t)commit->id.seq;
    if (!state->wire_closed)
        state->back = commit->id;
}

static void deliver(struct explorer *explorer, struct state state)
{
    const struct segment segment = state.wire[0];
    const struct replica_frame frame = {.type = segment.type, .id = segment.id};
    struct fault fault;

    memmove(state.wire, state.wire + 1, sizeof state.wire - sizeof state.wire[0]);
    memset(&state.wire[WIRE_MAX - 1], 0, sizeof state.wire[0]);
    state.wire_count--;
    int r = replica_core_judge(&state.replica, &frame, &fault);
    if (r == 0 && segment.type == REPLICA_FRAME_PAGES) {
        state.aside[segment.page] = segment.value;
        state.is_aside[segment.page] = 1;
        state.aside_entries++;
        if (explorer->mutation == MUTATION_APPLY_AT_ONCE)
            state.held_image[segment.page] = segment.value;
    }
    if (r == 0 && segment.type == REPLICA_FRAME_COMMIT) {
        if (is_whole(explorer, &state, &segment))
            keep(explorer, &state, &segment);
        else
            r = ERR_CORRUPT;
    }
    if (r < 0 && state.harms == 0)
        explorer->is_broken = true; /* nobody meant ill, and yet it would never get on */
    if (r < 0)
        replica_unlinks(explorer, &state);
    add(explorer, &state);
}

/* A peer or a line that means ill: a segment goes missing, or comes twice. */
static void harm(struct explorer *explorer, const struct state *from)
{
    for (unsigned i = 0; i < from->wire_count; i++) {
        struct state lost = *from;
        lost.harms++;
        memmove(&lost.wire[i], &lost.wire[i + 1], (WIRE_MAX - 1 - i) * sizeof lost.wire[0]);
        memset(&lost.wire[WIRE_MAX - 1], 0, sizeof lost.wire[0]);
        lost.wire_count--;
        add(explorer, &lost);
        if (from->wire_count == WIRE_MAX)
            continue;
        struct state doubled = *from;
        doubled.harms++;
        memmove(&doubled.wire[i + 1], &doubled.wire[i], (WIRE_MAX - 1 - i) * sizeof lost.wire[0]);
        doubled.wire_count++;
        add(explorer, &doubled);
    }
}

/* ---- all that can happen next ---- */
static void step(struct explorer *explorer, const struct state *state)
{
    bool linked = state->source.is_linked;
    for (unsigned i = 0; i < PAGES; i++) {
        if (state->writes < WRITES_MAX) {
            struct state next = *state;
            next.memory[i] = ++next.writes;
            next.dirty[i] = 1;
            add(explorer, &next);
        }
        if (linked && !state->source.is_cut && (state->source.sent.seq == 0 || state->named < 2) &&
            state->wire_count + 5 <= WIRE_MAX && state->cuts < CUTS_MAX &&
            (state->dirty[i] || state->pending[i]))
            send_live(explorer, *state, i);
    }
    if (linked && !state->source.is_cut && state->cuts < CUTS_MAX &&
        state->wire_count + 4 <= WIRE_MAX)
        cut(explorer, *state);
    if (state->wire_count && state->replica.phase != REPLICA_UNLINKED)
        deliver(explorer, *state);
    if (linked && state->back.seq)
        deliver_held(explorer, *state);
    if (linked)
        source_loses_link(explorer, *state);
    if (state->replica.phase != REPLICA_UNLINKED)
        replica_loses_link(explorer, *state);
    if (state->deaths < 1)
        replica_dies(explorer, *state);
    if (!linked && state->replica.phase == REPLICA_UNLINKED && state->links < LINKS_MAX)
        link_up(explorer, *state);
    if (state->harms < HARMS_MAX)
        harm(explorer, state);
}

/* Gives whether a wrong state was found, and how many there were until then. */
static bool explore(enum mutation mutation, uint32_t *ret_states)
{
    struct explorer explorer = {.mutation = mutation};
    struct state first;
    explorer.states = calloc(STATES_MAX, sizeof *explorer.states);
    explorer.table = calloc(TABLE, sizeof *explorer.table);
    assert_non_null(explorer.states);
    assert_non_null(explorer.table);

    memset(&first, 0, sizeof first);
    replicator_core_init(&first.source, GENERATION, SESSION);
    replica_core_init(&first.replica, 0, true);
    first.memory[0] = 40;
    add(&explorer, &first);
    for (uint32_t i = 0; i < explorer.count && !explorer.is_broken; i++) {
        const struct state state = explorer.states[i];
        step(&explorer, &state);
    }
    *ret_states = explorer.count;
    free(explorer.states);
    free(explorer.table);
    return explorer.is_broken;
}

static void the_replica_is_always_one_checkpoint_and_no_older_than_it_said(void **state)
{
    (void)state;
    uint32_t states = 0;
    assert_false(explore(MUTATION_NONE, &states));
    print_message("%u states\n", states);
    assert_true(states > 10000);
}

static void every_seeded_mistake_is_found(void **state)
{
    (void)state;
    for (unsigned mutation = 1; mutation < MUTATION_COUNT; mutation++) {
        uint32_t states = 0;
        if (!explore((enum mutation)mutation, &states))
            fail_msg("mutation %u was not found in %u states", mutation, states);
    }
}

static void what_was_taken_takes_nothing_more_and_an_older_generation_never_comes_back(void **state)
{
    (void)state;
    struct replica_core core;
    struct fault fault = {0};
    struct replica_frame hello = {.type = REPLICA_FRAME_HELLO, .id = {5, 1, 0}};
    struct replica_frame commit = {.type = REPLICA_FRAME_COMMIT, .id = {5, 1, 1}};

    replica_core_init(&core, 4, false);
    hello.id.generation = 3;
    assert_int_equal(replica_core_judge(&core, &hello, &fault), ERR_REFUSED);
    hello.id.generation = 5;
    assert_int_equal(replica_core_judge(&core, &commit, &fault), ERR_CORRUPT); /* no greeting */
    assert_int_equal(replica_core_judge(&core, &hello, &fault), 0);
    assert_int_equal(replica_core_judge(&core, &hello, &fault), ERR_CORRUPT); /* a second one */
    assert_int_equal(replica_core_take(&core, 6, &fault), ERR_STATE);         /* nothing held */
    assert_int_equal(replica_core_judge(&core, &commit, &fault), 0);
    replica_core_kept(&core, 9);
    assert_int_equal(replica_core_judge(&core, &commit, &fault), ERR_CORRUPT); /* again */
    replica_core_unlinked(&core);
    hello.id.generation = 4;
    assert_int_equal(replica_core_judge(&core, &hello, &fault), ERR_REFUSED);
    assert_int_equal(replica_core_take(&core, 5, &fault), ERR_REFUSED);
    assert_int_equal(replica_core_take(&core, 6, &fault), 0);
    assert_int_equal(replica_core_take(&core, 6, &fault), 0);
    /* Its disks could not be written then: 6 is refused for good, and what is held is taken as 7. */
    assert_int_equal(replica_core_take(&core, 7, &fault), 0);
    assert_int_equal(replica_core_take(&core, 6, &fault), ERR_STATE);
    hello.id.generation = 6;
    assert_int_equal(replica_core_judge(&core, &hello, &fault), ERR_REFUSED);
    hello.id.generation = 8;
    assert_int_equal(replica_core_judge(&core, &hello, &fault), ERR_REFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_replica_is_always_one_checkpoint_and_no_older_than_it_said),
        cmocka_unit_test(every_seeded_mistake_is_found),
        cmocka_unit_test(
            what_was_taken_takes_nothing_more_and_an_older_generation_never_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "coordinator/dr_cross.h"

#include <assert.h>
#include <string.h>

#include "base/own.h"
#include "base/world.h"

static_assert(DR_CROSS_GUARD_MS >= 2 * DR_CROSS_PERMIT_MS,
              "a start that was decided with the last of a permit is over before anybody takes");

static const char *const names[DR_CROSS_STEP_COUNT] = {
    [DR_CROSS_NONE] = "none",   [DR_CROSS_PROTECT] = "protect", [DR_CROSS_FINISH] = "finish",
    [DR_CROSS_UNDO] = "undo",   [DR_CROSS_STOP] = "stop",       [DR_CROSS_HANDED] = "handed",
    [DR_CROSS_BACK] = "back",   [DR_CROSS_HOLD] = "hold",       [DR_CROSS_ASK] = "ask",
    [DR_CROSS_ALONE] = "alone", [DR_CROSS_TAKE] = "take",       [DR_CROSS_AWAY] = "away",
    [DR_CROSS_END] = "end",
};

const char *dr_cross_step_name(enum dr_cross_step step)
{
    assert(step < DR_CROSS_STEP_COUNT);
    return names[step];
}

enum dr_cross_step dr_cross_step_from_name(const char *name)
{
    enum dr_cross_step step = DR_CROSS_NONE;
    while (step < DR_CROSS_STEP_COUNT && (!name || strcmp(names[step], name) != 0))
        step++;
    return step;
}

/* ---- the source -------------------------------------------------------------------------------
 */

static enum dr_cross_news set_step(struct dr_cross *cross, enum dr_cross_step step,
                                   enum dr_cross_news news)
{
    cross->step = step;
    cross->permit = 0;
    return news;
}

static enum dr_cross_news on_asked(struct dr_cross *source, uint64_t hand_no,
                                   enum dr_cross_guest guest)
{
    source->hand_no = hand_no;
    switch (guest) {
    case DR_CROSS_GUEST_RUNS:
        return set_step(source, DR_CROSS_FINISH, DR_CROSS_NEWS_FINISH);
    case DR_CROSS_GUEST_LOST:
        return set_step(source, DR_CROSS_HANDED, DR_CROSS_NEWS_HANDED);
    case DR_CROSS_GUEST_UNSURE:
        break;
    }
    return DR_CROSS_NEWS_REFUSED; /* by its number: PROTECT says so */
}

static void take_permit(struct dr_cross *source, const struct dr_cross_word *word,
                        uint64_t asked_ns)
{
    if (word->step == DR_CROSS_HOLD && word->permit) {
        source->permit = word->permit;
        source->permit_until_ns = asked_ns + DR_CROSS_PERMIT_MS * NS_PER_MS;
    } else {
        source->permit = 0;
    }
}

enum dr_cross_news dr_cross_source_hear(struct dr_cross *source, const struct dr_cross_word *word,
                                        enum dr_cross_guest guest, uint64_t asked_ns)
{
    bool is_returned = word->returned_no >= source->hand_no;
    take_permit(source, word, asked_ns);
    if (word->step == DR_CROSS_NONE) /* whoever knows nothing permits nothing */
        return source->step == DR_CROSS_END ? DR_CROSS_NEWS_END : DR_CROSS_NO_NEWS;
    if (word->step == DR_CROSS_END && source->step == DR_CROSS_END)
        return DR_CROSS_NEWS_END; /* it takes it no more */
    if (word->step == DR_CROSS_AWAY && source->step != DR_CROSS_AWAY)
        return set_step(source, DR_CROSS_AWAY, DR_CROSS_NEWS_AWAY);
    if (source->step == DR_CROSS_PROTECT && word->step == DR_CROSS_ASK &&
        word->hand_no > source->hand_no)
        return on_asked(source, word->hand_no, guest);
    if (source->step == DR_CROSS_HANDED && is_returned)
        return set_step(source, DR_CROSS_BACK, DR_CROSS_NEWS_BACK);
    return DR_CROSS_NO_NEWS;
}

bool dr_cross_may_start(const struct dr_cross *source, uint64_t generation, uint64_t now_ns)
{
    bool is_here = source->step == DR_CROSS_PROTECT || source->step == DR_CROSS_BACK;
    return is_here && source->permit >= generation && now_ns < source->permit_until_ns;
}

/* ---- the holder -------------------------------------------------------------------------------
 */

static enum dr_cross_news on_word(struct dr_cross *holder, const struct dr_cross_word *word)
{
    bool is_of_it = word->hand_no >= holder->hand_no;
    if (holder->step == DR_CROSS_ASK && is_of_it && word->step == DR_CROSS_HANDED) {
        holder->is_alone = false;
        return set_step(holder, DR_CROSS_TAKE, DR_CROSS_NEWS_TAKE);
    }
    if (holder->step == DR_CROSS_ASK && is_of_it &&
        (word->step == DR_CROSS_PROTECT || word->step == DR_CROSS_BACK)) {
        dr_cross_return(holder);
        return DR_CROSS_NEWS_REFUSED;
    }
    if (holder->step == DR_CROSS_ALONE) { /* it is there after all: nobody has to be alone */
        dr_cross_return(holder);
        return DR_CROSS_NEWS_REFUSED;
    }
    if (holder->step == DR_CROSS_HOLD && word->step == DR_CROSS_END)
        return set_step(holder, DR_CROSS_END, DR_CROSS_NEWS_END);
    if (holder->step == DR_CROSS_AWAY && word->step == DR_CROSS_AWAY && !holder->is_heard) {
        holder->is_heard = true;
        return DR_CROSS_NEWS_AWAY;
    }
    return DR_CROSS_NO_NEWS;
}

enum dr_cross_news dr_cross_holder_hear(struct dr_cross *holder, const struct dr_cross_word *word,
                                        uint64_t now_ns, struct dr_cross_word *ret_answer,
                                        bool *ret_changed)
{
    uint64_t generation = holder->generation, hand_no = holder->hand_no;
    enum dr_cross_news news = on_word(holder, word);
    holder->heard_ns = now_ns;
    if (holder->step == DR_CROSS_HOLD && word->hand_no > holder->hand_no)
        holder->hand_no = holder->returned_no = word->hand_no; /* it was asked by what we forgot */
    if (holder->generation < word->generation)
        holder->generation = word->generation;
    *ret_answer = (struct dr_cross_word){
        .step = holder->step, .hand_no = holder->hand_no, .returned_no = holder->returned_no};
    if (holder->step == DR_CROSS_HOLD && word->permit) {
        if (holder->generation < word->permit)
            holder->generation = word->permit;
        holder->granted_ns = now_ns;
        ret_answer->permit = word->permit;
    }
    *ret_changed =
        news != DR_CROSS_NO_NEWS || generation != holder->generation || hand_no != holder->hand_no;
    return news;
}

void dr_cross_ask(struct dr_cross *holder, uint64_t now_ns)
{
    assert(holder->step == DR_CROSS_HOLD);
    holder->hand_no++;
    holder->asked_ns = now_ns;
    holder->step = DR_CROSS_ASK;
}

void dr_cross_go_alone(struct dr_cross *holder)
{
    assert(holder->step == DR_CROSS_HOLD || holder->step == DR_CROSS_ASK);
    holder->is_alone = true;
    holder->step = DR_CROSS_ALONE;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

bool dr_cross_may_take(const struct dr_cross *holder, uint64_t began_ns, uint64_t now_ns)
{
    uint64_t since_ns = later(holder->granted_ns, began_ns);
    return holder->step == DR_CROSS_ALONE && now_ns - since_ns >= DR_CROSS_GUARD_MS * NS_PER_MS;
}

bool dr_cross_is_overdue(const struct dr_cross *holder, uint64_t began_ns, uint64_t now_ns)
{
    uint64_t since_ns = later(holder->asked_ns, began_ns);
    bool is_silent = now_ns - later(holder->heard_ns, since_ns) >= DR_CROSS_SILENT_MS * NS_PER_MS;
    return holder->step == DR_CROSS_ASK &&
           (is_silent || now_ns - since_ns >= DR_CROSS_ASK_MS * NS_PER_MS);
}

void dr_cross_return(struct dr_cross *holder)
{
    assert(holder->step == DR_CROSS_ASK || holder->step == DR_CROSS_ALONE ||
           holder->step == DR_CROSS_TAKE);
    holder->returned_no = holder->hand_no;
    holder->is_alone = false;
    holder->step = DR_CROSS_HOLD;
}

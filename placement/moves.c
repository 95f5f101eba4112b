#include "placement/moves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void *grow(void *array, size_t count, size_t *room, size_t bytes)
{
    if (count < *room)
        return array;
    size_t bigger = *room ? *room * 2 : 16;
    if (bigger > MOVES_MAX)
        return NULL;
    void *moved = reallocarray(array, bigger, bytes);
    if (moved)
        *room = bigger;
    return moved;
}

struct move *moves_add(struct moves *moves)
{
    struct move *array = grow(moves->moves, moves->count, &moves->room, sizeof *array);
    if (!array)
        return NULL;
    moves->moves = array;
    array[moves->count] = (struct move){0};
    return &array[moves->count++];
}

struct blocker *moves_add_blocker(struct moves *moves)
{
    struct blocker *array =
        grow(moves->blockers, moves->blocker_count, &moves->blocker_room, sizeof *array);
    if (!array)
        return NULL;
    moves->blockers = array;
    array[moves->blocker_count] = (struct blocker){0};
    return &array[moves->blocker_count++];
}

void moves_deinit(struct moves *moves)
{
    free(moves->moves);
    free(moves->blockers);
    *moves = (struct moves){0};
}

static void explain_others(const struct layout *layout, struct move *move)
{
    unsigned left = 0;
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        if (h == move->to || h == layout_vm(layout, move->vm)->host)
            continue;
        if (move->rejected_count == MOVES_REJECTED_MAX) {
            left++;
            continue;
        }
        char *text = move->rejected[move->rejected_count];
        uint32_t rule = LAYOUT_NONE;
        enum layout_obstacle obstacle = layout_judge(layout, move->vm, h, &rule);
        if (obstacle == LAYOUT_FITS) {
            (void)snprintf(text, LAYOUT_WORDS_SIZE, "%s fits, but would be %.0f %% full",
                           layout_host(layout, h)->name,
                           100 * layout_pressure(layout, h, move->vm));
        } else {
            (void)layout_obstacle_words(layout, move->vm, h, text, LAYOUT_WORDS_SIZE);
            bool is_known = rule == LAYOUT_NONE || move->rule_count == 4;
            for (unsigned i = 0; i < move->rule_count; i++)
                is_known |= move->rules[i] == rule;
            if (!is_known)
                move->rules[move->rule_count++] = rule;
        }
        move->rejected_count++;
    }
    if (left > 0)
        (void)snprintf(move->rejected[MOVES_REJECTED_MAX - 1], LAYOUT_WORDS_SIZE,
                       "%u more hosts were not taken: godwit why-not tells of each", left + 1);
}

void moves_explain(const struct layout *layout, struct move *move)
{
    const struct layout_host *to = layout_host(layout, move->to);
    if (!move->reason[0])
        (void)snprintf(move->reason, sizeof move->reason,
                       "%s would be %.0f %% full with it, load %.0f %%, %llu MiB free before",
                       to->name, 100 * layout_pressure(layout, move->to, move->vm),
                       100 * layout_host_load(layout, move->to),
                       (unsigned long long)(layout_free_bytes(layout, move->to) >> 20));
    explain_others(layout, move);
}

double moves_lower_bound_s(const struct layout *layout, const struct moves *moves)
{
    uint32_t count = layout_host_count(layout);
    double *out = calloc(2 * (size_t)count + 2, sizeof *out);
    double bound = 0;
    for (size_t i = 0; out && i < moves->count; i++) {
        const struct move *move = &moves->moves[i];
        double seconds = move->forecast.seconds;
        out[move->from] += seconds;
        out[count + move->to] += seconds;
        bound = fmax(bound, seconds);
    }
    for (uint32_t i = 0; out && i < 2 * count; i++)
        bound = fmax(bound, out[i]);
    free(out);
    return bound;
}

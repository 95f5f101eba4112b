#include "cli/dr_waited.h"

#include <stdlib.h>
#include <string.h>

void dr_waiteds_init(struct dr_waiteds *waiteds, const Godwit__DrReply *begun)
{
    *waiteds = (struct dr_waiteds){.vms = calloc(begun->n_vms + 1, sizeof *waiteds->vms)};
    for (size_t i = 0; waiteds->vms && i < begun->n_vms; i++) {
        const Godwit__DrInfo *info = begun->vms[i];
        if (!info->last_state || strcmp(info->last_state, "running") != 0)
            continue; /* of its group, and had nothing to do */
        struct dr_waited *waited = &waiteds->vms[waiteds->count++];
        (void)snprintf(waited->vm, sizeof waited->vm, "%s", info->vm ? info->vm : "");
        waited->began_unix_ms = info->began_unix_ms;
    }
    waiteds->open = waiteds->count;
}

void dr_waiteds_deinit(struct dr_waiteds *waiteds)
{
    free(waiteds->vms);
    *waiteds = (struct dr_waiteds){0};
}

struct dr_waited *dr_waiteds_find(const struct dr_waiteds *waiteds, const Godwit__DrInfo *info)
{
    for (size_t i = 0; i < waiteds->count; i++) {
        if (info->vm && strcmp(waiteds->vms[i].vm, info->vm) == 0)
            return &waiteds->vms[i];
    }
    return NULL;
}

static const Godwit__DrInfo *find_in(const Godwit__DrReply *reply, const struct dr_waited *waited)
{
    for (size_t i = 0; i < reply->n_vms; i++) {
        if (reply->vms[i]->vm && strcmp(waited->vm, reply->vms[i]->vm) == 0)
            return reply->vms[i];
    }
    return NULL;
}

static bool is_over(const struct dr_waited *waited, const Godwit__DrInfo *info)
{
    bool is_same_one = info->began_unix_ms == waited->began_unix_ms;
    return !is_same_one || !info->last_state || strcmp(info->last_state, "running") != 0;
}

static void say_step(struct dr_waited *waited, const Godwit__DrInfo *info, FILE *talk)
{
    char text[sizeof waited->told];
    (void)snprintf(text, sizeof text, "%s%s%s", info->state ? info->state : "",
                   info->reason && info->reason[0] ? ": " : "", info->reason ? info->reason : "");
    if (!talk || strcmp(text, waited->told) == 0)
        return;
    memcpy(waited->told, text, sizeof waited->told);
    (void)fprintf(talk, "  %s  %s\n", waited->vm, text);
    (void)fflush(talk);
}

void dr_waiteds_take(struct dr_waiteds *waiteds, const Godwit__DrReply *reply, FILE *talk)
{
    for (size_t i = 0; i < waiteds->count; i++) {
        struct dr_waited *waited = &waiteds->vms[i];
        const Godwit__DrInfo *info = find_in(reply, waited);
        if (waited->is_over)
            continue;
        waited->is_gone = !info;
        waited->is_over = !info || is_over(waited, info);
        waiteds->open -= waited->is_over;
        if (!waited->is_over)
            say_step(waited, info, talk);
    }
}

#include "cli/transfer_bar.h"

#include <string.h>

#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "proto/image.pb-c.h"
#include "proto/method.h"

void transfer_bar_init(struct transfer_bar *bar, struct context *context)
{
    const char *how = NULL;

    *bar = (struct transfer_bar){.out = context->talk, .live = context->talk_live};
    for (size_t i = 0; i < context->line->value_count; i++) {
        if (strcmp(context->line->values[i].option->name, "progress") == 0)
            how = context->line->values[i].text;
    }
    if (how && strcmp(how, "auto") != 0)
        bar->live = false;
    bar->silent = how && (strcmp(how, "none") == 0 || strcmp(how, "json") == 0);
}

void transfer_bar_line(const struct transfer_bar *bar, uint64_t done, uint64_t total,
                       uint64_t now_ms, char ret_text[static TRANSFER_LINE_SIZE])
{
    char have[UNITS_TEXT_SIZE], all[UNITS_TEXT_SIZE], rate[UNITS_TEXT_SIZE], eta[UNITS_TEXT_SIZE];
    uint64_t ms = now_ms - bar->began_ms;
    uint64_t moved = done > bar->began_at ? done - bar->began_at : 0;
    uint64_t per_s = ms > 0 ? moved * 1000 / ms : 0;

    if (total == 0) { /* there was nothing to carry */
        (void)snprintf(ret_text, TRANSFER_LINE_SIZE, "%.200s", bar->title);
        return;
    }
    units_print_bytes(done, have);
    units_print_bytes(total, all);
    int n = snprintf(ret_text, TRANSFER_LINE_SIZE, "%.160s  %3u %%  %s of %s", bar->title,
                     (unsigned)((double)done * 100 / (double)total), have, all);
    if (n < 0 || n >= TRANSFER_LINE_SIZE || per_s == 0 || done >= total)
        return;
    units_print_rate(per_s, rate);
    units_print_duration((total - done) / per_s * NS_PER_S, eta);
    (void)snprintf(ret_text + n, TRANSFER_LINE_SIZE - (size_t)n, "  %s  ETA %s", rate, eta);
}

void transfer_bar_clear(struct transfer_bar *bar)
{
    if (bar->drawn)
        (void)fputs("\r\033[K", bar->out);
    bar->drawn = false;
    (void)fflush(bar->out);
}

void transfer_bar_update(struct transfer_bar *bar, const char *what, uint64_t done, uint64_t total,
                         uint64_t now_ms)
{
    char line[TRANSFER_LINE_SIZE];
    bool is_new = strcmp(bar->title, what) != 0;

    if (bar->silent)
        return;
    if (is_new) {
        (void)snprintf(bar->title, sizeof bar->title, "%.199s", what);
        bar->began_ms = now_ms;
        bar->began_at = done;
    } else if (now_ms - bar->told_ms <
               (uint64_t)(bar->live ? TRANSFER_REDRAW_MS : TRANSFER_PLAIN_MS)) {
        return;
    }
    bar->told_ms = now_ms;
    transfer_bar_line(bar, done, total, now_ms, line);
    if (bar->live)
        (void)fprintf(bar->out, "\r%s\033[K", line);
    else
        (void)fprintf(bar->out, "%s\n", line);
    bar->drawn = bar->live;
    (void)fflush(bar->out);
}

/* Another host's words: none of them moves the cursor. */
static void clean(char *text)
{
    for (char *at = text; *at; at++)
        *at = (unsigned char)*at < ' ' || *at == 0x7f ? ' ' : *at;
}

static void on_event(void *data, uint16_t method, const ProtobufCMessage *message)
{
    const Godwit__ImageProgress *event = (const Godwit__ImageProgress *)message;
    char what[200];

    if (method != METHOD_IMAGE_PROGRESS)
        return;
    (void)snprintf(what, sizeof what, "%.140s: %.40s", event->what ? event->what : "",
                   event->phase ? event->phase : "");
    clean(what);
    transfer_bar_update(data, what, event->done, event->total, world_now_ms());
}

void transfer_bar_listen(struct transfer_bar *bar, struct client *client)
{
    const struct client_listener listener = {.event = on_event, .data = bar};

    client_listen(client, &listener);
}

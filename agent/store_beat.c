#include "agent/store_beat.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/host_facts.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"

enum { WORD_SIZE = 64, FILE_MAX = 160, EVICT_PAUSE_MS = 100 };

#define FOLDER ".godwit-ha"

struct watched { /* another host's beat */
    char host[WORD_SIZE];
    char count[WORD_SIZE];
    uint64_t changed_ms; /* 0: it has stood still since we first saw it */
};

struct store_beat {
    struct loop *loop;
    struct host_facts *facts;
    struct loop_timer *timer;
    char folder[PATH_MAX];
    char host[WORD_SIZE];
    char id[ID_TEXT_SIZE];
    void (*asked)(void *data, const char *nonce);
    void *data;
    char last_nonce[WORD_SIZE]; /* that was handed to `asked` */
    struct watched *watched;    /* the loop's thread */
    size_t watched_count;
    unsigned works; /* on workers, with a pointer to us */
    bool is_beating, is_closed, was_told;
    uint64_t count;
    unsigned looks; /* since it last beat */
};

/* ---- files ------------------------------------------------------------------------------------
 */

bool store_beat_decode(const char *text, char ret_first[static 64], char ret_second[static 64])
{
    char *const words[] = {ret_first, ret_second};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        size_t length = 0;
        while (isalnum((unsigned char)text[length]))
            length++;
        if (length == 0 || length >= WORD_SIZE)
            return false;
        memcpy(words[i], text, length);
        words[i][length] = '\0';
        text += length;
        if (i == 0 && *text++ != ' ')
            return false;
    }
    return *text == '\n' || *text == '\0';
}

static int beat_path(const char *folder, const char *host, const char *ending, char *ret_path)
{
    return path_join(ret_path, PATH_MAX, NULL, "%s/%s%s", folder, host, ending);
}

static int write_words(const char *folder, const char *host, const char *ending, const char *first,
                       const char *second, struct fault *fault)
{
    char path[PATH_MAX], text[FILE_MAX];
    int n = snprintf(text, sizeof text, "%s %s\n", first, second);
    int r = beat_path(folder, host, ending, path);
    return r < 0 ? r : file_write_atomic(path, 0600, text, (size_t)n, fault);
}

static bool read_words(const char *folder, const char *host, const char *ending,
                       char ret_first[static 64], char ret_second[static 64])
{
    char path[PATH_MAX], text[FILE_MAX];
    if (beat_path(folder, host, ending, path) < 0)
        return false;
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    return store_beat_decode(text, ret_first, ret_second);
}

static int read_id(struct store_beat *beat, struct fault *fault)
{
    char path[PATH_MAX], own[ID_TEXT_SIZE], second[WORD_SIZE], first[WORD_SIZE];
    int r = path_join(path, sizeof path, fault, "%s/id", beat->folder);
    if (r < 0)
        return r;
    if (access(path, F_OK) != 0) { /* made whole under a name of its own, then linked once */
        char mine[PATH_MAX + ID_TEXT_SIZE];
        id_random(own);
        (void)snprintf(mine, sizeof mine, "%s.%s", path, own);
        r = write_words(beat->folder, "id.", own, own, "store", fault);
        if (r < 0)
            return r;
        if (link(mine, path) != 0 && errno != EEXIST)
            return fault_set_errno(fault, ERR_IO, errno, "naming the store %s", beat->folder);
        (void)unlink(mine); /* a name that nobody uses */
    }
    if (!read_words(beat->folder, "id", "", first, second) || strlen(first) != ID_TEXT_SIZE - 1)
        return fault_set(fault, ERR_CORRUPT, "%s is not the id of a store", path);
    memcpy(beat->id, first, ID_TEXT_SIZE);
    return 0;
}

/* ---- beating ----------------------------------------------------------------------------------
 */

struct round { /* one look at the folder, on a worker */
    struct store_beat *beat;
    char folder[PATH_MAX], host[WORD_SIZE], incarnation[WORD_SIZE], count[WORD_SIZE];
    bool beats;           /* else it only looks whether word was left for us */
    struct watched *seen; /* owned */
    size_t seen_count;
    char asked_life[WORD_SIZE], asked_nonce[WORD_SIZE];
    struct fault fault;
};

/* The hosts to look at are those that were named to us; see store_beat_age_ms. */
static void round_work(void *data)
{
    struct round *round = data;
    char life[WORD_SIZE];
    if (round->beats)
        (void)write_words(round->folder, round->host, ".beat", round->incarnation, round->count,
                          &round->fault); /* travels in the round */
    for (size_t i = 0; i < round->seen_count; i++) {
        struct watched *seen = &round->seen[i];
        if (!read_words(round->folder, seen->host, ".beat", life, seen->count))
            seen->count[0] = '\0';
    }
    if (!read_words(round->folder, round->host, ".evict", round->asked_life, round->asked_nonce))
        round->asked_life[0] = '\0';
}

static struct watched *find(const struct store_beat *beat, const char *host)
{
    for (size_t i = 0; i < beat->watched_count; i++) {
        if (strcmp(beat->watched[i].host, host) == 0)
            return &beat->watched[i];
    }
    return NULL;
}

static void take_round(struct store_beat *beat, const struct round *round)
{
    for (size_t i = 0; i < round->seen_count; i++) {
        struct watched *watched = find(beat, round->seen[i].host);
        if (!watched || !round->seen[i].count[0])
            continue;
        if (watched->count[0] && strcmp(watched->count, round->seen[i].count) != 0)
            watched->changed_ms = world_now_ms();
        memcpy(watched->count, round->seen[i].count, sizeof watched->count);
    }
    bool is_for_us = round->asked_life[0] &&
                     strcmp(round->asked_life, host_facts_incarnation(beat->facts)) == 0 &&
                     strcmp(round->asked_nonce, beat->last_nonce) != 0;
    if (!is_for_us)
        return;
    (void)snprintf(beat->last_nonce, sizeof beat->last_nonce, "%s", round->asked_nonce);
    beat->asked(beat->data, round->asked_nonce);
}

static void release(struct store_beat *beat)
{
    free(beat->watched);
    free(beat);
}

static void work_over(struct store_beat *beat)
{
    beat->works--;
    if (beat->is_closed && beat->works == 0)
        release(beat);
}

static void round_done(void *data)
{
    struct round *round = data;
    struct store_beat *beat = round->beat;
    beat->is_beating = false;
    if (round->fault.code && !beat->was_told)
        log_warn("store_beat", "the storage heartbeat is not written: %s", round->fault.text);
    if (round->beats)
        beat->was_told = round->fault.code != 0;
    if (!beat->is_closed)
        take_round(beat, round);
    free(round->seen);
    free(round);
    work_over(beat);
}

static struct round *round_new(struct store_beat *beat, bool beats)
{
    struct round *round = calloc(1, sizeof *round);
    size_t count = beats ? beat->watched_count : 0;
    struct watched *seen = calloc(count + 1, sizeof *seen);
    if (!round || !seen) {
        free(round);
        free(seen);
        return NULL;
    }
    round->beat = beat;
    round->beats = beats;
    memcpy(round->folder, beat->folder, sizeof round->folder);
    memcpy(round->host, beat->host, sizeof round->host);
    (void)snprintf(round->incarnation, WORD_SIZE, "%s", host_facts_incarnation(beat->facts));
    beat->count += beats;
    (void)snprintf(round->count, WORD_SIZE, "%" PRIu64, beat->count);
    if (count)
        memcpy(seen, beat->watched, count * sizeof *seen);
    round->seen = seen;
    round->seen_count = count;
    return round;
}

static void on_timer(void *data)
{
    struct store_beat *beat = data;
    bool beats = beat->looks++ % (STORE_BEAT_MS / STORE_BEAT_LOOK_MS) == 0;
    if (beat->is_beating) {   /* a store that hangs holds one worker, not all */
        beat->looks -= beats; /* a beat that is due is only late */
        return;
    }
    struct round *round = round_new(beat, beats);
    if (!round)
        return;
    beat->is_beating = loop_work(beat->loop, round_work, round_done, round) == 0;
    if (beat->is_beating) {
        beat->works++;
    } else {
        free(round->seen);
        free(round);
    }
}

uint64_t store_beat_age_ms(const struct store_beat *beat, const char *host)
{
    struct watched *watched = find(beat, host);
    if (!watched) { /* watched from now on */
        struct store_beat *ours = (struct store_beat *)(uintptr_t)beat;
        struct watched *bigger =
            beat->watched_count < STORE_BEAT_HOSTS_MAX && strlen(host) < WORD_SIZE &&
                    id_name_is_valid(host)
                ? reallocarray(ours->watched, ours->watched_count + 1, sizeof *bigger)
                : NULL;
        if (bigger) {
            ours->watched = bigger;
            bigger[ours->watched_count] = (struct watched){0};
            (void)snprintf(bigger[ours->watched_count++].host, WORD_SIZE, "%s", host);
        }
        return UINT64_MAX;
    }
    return watched->changed_ms ? world_now_ms() - watched->changed_ms : UINT64_MAX;
}

/* ---- eviction ---------------------------------------------------------------------------------
 */

struct eviction {
    struct store_beat *beat;
    char folder[PATH_MAX], host[WORD_SIZE], incarnation[WORD_SIZE], nonce[WORD_SIZE];
    uint64_t end_ms;
    bool evicted;
    void (*done)(void *data, bool evicted);
    void *data;
};

static void evict_work(void *data)
{
    struct eviction *eviction = data;
    struct fault fault = {0};
    char nonce[WORD_SIZE], word[WORD_SIZE];
    if (write_words(eviction->folder, eviction->host, ".evict", eviction->incarnation,
                    eviction->nonce, &fault) < 0) {
        log_warn("store_beat", "no word could be left for %s: %s", eviction->host, fault.text);
        return;
    }
    while (!eviction->evicted && world_now_ms() < eviction->end_ms) {
        (void)poll(NULL, 0, EVICT_PAUSE_MS); /* on a worker: there is no event on a shared folder */
        eviction->evicted = read_words(eviction->folder, eviction->host, ".evicted", nonce, word) &&
                            strcmp(nonce, eviction->nonce) == 0;
    }
}

static void evict_done(void *data)
{
    struct eviction *eviction = data;
    struct store_beat *beat = eviction->beat;
    if (!beat->is_closed)
        eviction->done(eviction->data, eviction->evicted);
    free(eviction);
    work_over(beat);
}

void store_beat_evict(struct store_beat *beat, const char *host, const char *incarnation,
                      const char *nonce, uint64_t wait_ms, void (*done)(void *data, bool evicted),
                      void *data)
{
    struct eviction *eviction = calloc(1, sizeof *eviction);
    bool fits = strlen(host) < WORD_SIZE && id_name_is_valid(host) &&
                strlen(incarnation) < WORD_SIZE && strlen(nonce) < WORD_SIZE;
    if (!eviction || !fits) {
        free(eviction);
        done(data, false);
        return;
    }
    eviction->beat = beat;
    memcpy(eviction->folder, beat->folder, sizeof eviction->folder);
    (void)snprintf(eviction->host, WORD_SIZE, "%s", host);
    (void)snprintf(eviction->incarnation, WORD_SIZE, "%s", incarnation);
    (void)snprintf(eviction->nonce, WORD_SIZE, "%s", nonce);
    eviction->end_ms = world_now_ms() + wait_ms;
    eviction->done = done;
    eviction->data = data;
    if (loop_work(beat->loop, evict_work, evict_done, eviction) < 0) {
        free(eviction);
        done(data, false);
        return;
    }
    beat->works++;
}

static void evicted_work(void *data)
{
    struct eviction *eviction = data;
    struct fault fault = {0};
    if (write_words(eviction->folder, eviction->host, ".evicted", eviction->nonce, "gone", &fault) <
        0)
        log_error("store_beat", "the eviction could not be confirmed: %s", fault.text);
}

static void ignore(void *data, bool evicted)
{
    (void)data;
    (void)evicted;
}

void store_beat_evicted(struct store_beat *beat, const char *nonce)
{
    struct eviction *eviction = calloc(1, sizeof *eviction);
    if (!eviction)
        return;
    eviction->beat = beat;
    eviction->done = ignore;
    memcpy(eviction->folder, beat->folder, sizeof eviction->folder);
    memcpy(eviction->host, beat->host, sizeof eviction->host);
    (void)snprintf(eviction->nonce, WORD_SIZE, "%s", nonce);
    if (loop_work(beat->loop, evicted_work, evict_done, eviction) < 0)
        free(eviction);
    else
        beat->works++;
}

/* ---- life -------------------------------------------------------------------------------------
 */

int store_beat_new(struct store_beat **ret_beat, struct loop *loop, struct host_facts *facts,
                   const char *host, const char *folder,
                   void (*asked)(void *data, const char *nonce), void *data, struct fault *fault)
{
    struct store_beat *beat = calloc(1, sizeof *beat);
    if (!beat)
        return fault_set(fault, ERR_NOMEM, "no memory for the storage heartbeat");
    beat->loop = loop;
    beat->facts = facts;
    beat->asked = asked;
    beat->data = data;
    (void)snprintf(beat->host, sizeof beat->host, "%s", host);
    int r = path_join(beat->folder, sizeof beat->folder, fault, "%s/" FOLDER, folder);
    if (r == 0)
        r = dir_make(beat->folder, fault);
    if (r == 0)
        r = read_id(beat, fault);
    if (r == 0)
        r = loop_timer_new(&beat->timer, loop, on_timer, beat, fault);
    if (r < 0) {
        release(beat);
        return r;
    }
    host_facts_set_heartbeat_store(facts, beat->id);
    loop_timer_start(beat->timer, 1, STORE_BEAT_LOOK_MS);
    *ret_beat = beat;
    return 0;
}

struct store_beat *store_beat_free(struct store_beat *beat)
{
    if (!beat)
        return NULL;
    beat->timer = loop_timer_free(beat->timer);
    beat->is_closed = true;
    while (beat->works > 1)
        loop_turn(beat->loop, true);
    if (beat->works == 1) { /* its `done` releases us */
        struct loop *loop = beat->loop;
        loop_turn(loop, true);
    } else {
        release(beat);
    }
    return NULL;
}

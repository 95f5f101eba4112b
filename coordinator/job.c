#include "coordinator/job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/world.h"
#include "coordinator/words.h"

static_assert(JOB_KEY_BYTES == 32, "MoveIn.psk and tls_lane want 32 bytes");

struct job_key *job_key_new(struct coordinator *coordinator, const char *job_id)
{
    struct job_key *key = calloc(1, sizeof *key);
    if (!key)
        return NULL;
    WORDS_COPY(key->job_id, job_id);
    world_random(key->psk, sizeof key->psk);
    key->next = coordinator->job_keys;
    coordinator->job_keys = key;
    return key;
}

struct job_key *job_key_find(struct coordinator *coordinator, const char *job_id)
{
    struct job_key *key = coordinator->job_keys;
    while (key && strcmp(key->job_id, job_id) != 0)
        key = key->next;
    return key;
}

static void wipe(struct job_key **link)
{
    struct job_key *key = *link;
    *link = key->next;
    explicit_bzero(key, sizeof *key);
    free(key);
}

void job_key_wipe(struct coordinator *coordinator, const char *job_id)
{
    for (struct job_key **link = &coordinator->job_keys; *link; link = &(*link)->next) {
        if (strcmp((*link)->job_id, job_id) == 0) {
            wipe(link);
            return;
        }
    }
}

void job_keys_wipe_all(struct coordinator *coordinator)
{
    while (coordinator->job_keys)
        wipe(&coordinator->job_keys);
}

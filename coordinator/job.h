/* The secret half of a move: its one-time key and the target's address, kept in memory only.
 *
 * Flow:   coordinator -> [job] -> agent_link -> both agents
 * Thread: the loop's.
 *
 * The key is drawn when the target is ordered to listen and is wiped when the source has it. It is
 * never stored or logged, so a coordinator that restarts in between rolls the move back.
 */
#ifndef GODWIT_COORDINATOR_JOB_H
#define GODWIT_COORDINATOR_JOB_H

#include "coordinator/coordinator.h"

enum { JOB_KEY_BYTES = 32, JOB_ADDRESS_SIZE = 128 };

struct job_key {
    struct job_key *next;
    char job_id[ID_SHORT_SIZE];
    char address[JOB_ADDRESS_SIZE]; /* "" until the target has answered */
    uint8_t psk[JOB_KEY_BYTES];
};

/* Draws one. */
struct job_key *job_key_new(struct coordinator *coordinator, const char *job_id);
struct job_key *job_key_find(struct coordinator *coordinator, const char *job_id);
void job_key_wipe(struct coordinator *coordinator, const char *job_id); /* may be none */
void job_keys_wipe_all(struct coordinator *coordinator);

#endif

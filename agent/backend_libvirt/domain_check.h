/* Could another host run this domain now? Asked before a move begins; blocking.
 *
 * Flow:   STORE_WORD, MOVE_CHECK -> backend_libvirt -> [domain_check] -> libvirtd, files
 * Thread: a call's own.
 *
 * The source writes a word beside every disk that the domain writes; who reads it there sees the
 * same folder. The rest is asked of the target's libvirt: machine type, CPU, networks; and of its
 * kernel: bridges, files.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CHECK_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CHECK_H

#include <stdbool.h>

struct _virConnect;
struct domain_needs;
struct fault;

enum { DOMAIN_CHECK_NOTE_SIZE = 256, DOMAIN_CHECK_WORD_SIZE = 33 };

int domain_check_word(const struct domain_needs *needs, const char *word, bool wipe,
                      struct fault *fault);
/* A refusal names what is missing; else `ret_note` says what was found. */
int domain_check_target(struct _virConnect *connection, const struct domain_needs *needs,
                        const char *vm_id, const char *name, const char *word, const char *host,
                        char ret_note[static DOMAIN_CHECK_NOTE_SIZE], struct fault *fault);

#endif

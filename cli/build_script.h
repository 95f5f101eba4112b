/* The shell script by which a guest builds itself, as the user-data of its NoCloud seed.
 *
 * Flow:   build_file -> [build_script] -> VmSpec.cloud_init;  the guest's console -> build_core
 * Thread: any; no state.
 *
 * cloud-init runs user-data that begins with "#!" once, as root; a guest without it has a unit that
 * does the same (packaging/seed-runner). What it does it tells on /dev/console, a line each, behind
 * the words
 * "@gw TOKEN ", whatever stands before them on the line:
 *
 *   hello             it runs
 *   begin N           step N, from 1
 *   o N K TEXT        line K of its output
 *   end N CODE        0: the next one begins; else this was the last word
 *   sealed            host keys, machine id and the like are gone
 *   untrimmed         free blocks of its file system may hold what was deleted
 *   done              it powers off now
 *
 * The token is drawn for this build, so that nothing else on the console is taken for its words.
 */
#ifndef GODWIT_CLI_BUILD_SCRIPT_H
#define GODWIT_CLI_BUILD_SCRIPT_H

#include "proto/build.pb-c.h"

struct fault;

/* Gives a text from malloc; ERR_LIMIT: more than a seed takes. */
int build_script_make(const Godwit__BuildFile *file, const char *token, char **ret_text,
                      struct fault *fault);

#endif

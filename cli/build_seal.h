/* Whose image is it, when the line broke while a build's disk was just becoming it: pure.
 *
 * Flow:   the pool's images, answers -> [build_seal] -> cmd_build
 * Thread: any; no clock, no I/O.
 *
 * The seal may go on without us, be done, or never have begun. An image of its name may be its own, or have
 * been imported by somebody else meanwhile. What tells is the content: the disk, which nobody writes
 * any more, is sealed once more under a name that only this build uses (the probe), and has the same digest
 * or another one.
 */
#ifndef GODWIT_CLI_BUILD_SEAL_H
#define GODWIT_CLI_BUILD_SEAL_H

#include <stdbool.h>

#include "proto/image.pb-c.h"

enum build_seal_next {
    BUILD_SEAL_NAME,   /* seal it under its name: there is no such image */
    BUILD_SEAL_PROBE,  /* there is one: seal it under the probe's */
    BUILD_SEAL_OURS,   /* both are there, and are the same */
    BUILD_SEAL_OTHERS, /* both are there, and differ */
};

enum build_seal_answer {
    BUILD_SEAL_TOLD,  /* it says what became of the image, or why there is none */
    BUILD_SEAL_LOOK,  /* see what is there now */
    BUILD_SEAL_PAUSE, /* the same after a moment: the first is still being done */
    BUILD_SEAL_AWAY,  /* the same, while the host may come back */
    BUILD_SEAL_FAILED, /* whose the image is will not be known */
};

/* Gives whether the probe is there, which is to be removed in the end. */
enum build_seal_next build_seal_look(const Godwit__ImageList *list, const char *name,
                                     const char *probe, bool *ret_has_probe);
/* `r`, `reply` (NULL with r < 0): of a seal that was asked for as `next` says. */
enum build_seal_answer build_seal_answered(enum build_seal_next next, int r,
                                           const Godwit__ImageReply *reply);

#endif

#include "cli/build_seal.h"

#include <string.h>

#include "base/err.h"
#include "proto/gw_code.h"

static const char *digest_of(const Godwit__ImageList *list, const char *name)
{
    for (size_t i = 0; i < list->n_images; i++) {
        const Godwit__ImageInfo *image = list->images[i];
        if (image->name && image->digest && strcmp(image->name, name) == 0)
            return image->digest;
    }
    return NULL;
}

enum build_seal_next build_seal_look(const Godwit__ImageList *list, const char *name,
                                     const char *probe, bool *ret_has_probe)
{
    const char *named = digest_of(list, name), *probed = digest_of(list, probe);

    *ret_has_probe = probed != NULL;
    if (!named)
        return BUILD_SEAL_NAME;
    if (!probed)
        return BUILD_SEAL_PROBE;
    return strcmp(named, probed) == 0 ? BUILD_SEAL_OURS : BUILD_SEAL_OTHERS;
}

static bool is_error(const Godwit__OperatorError *error, enum gw_code code)
{
    return error->name && strcmp(error->name, gw_code_row(code)->name) == 0;
}

enum build_seal_answer build_seal_answered(enum build_seal_next next, int r,
                                           const Godwit__ImageReply *reply)
{
    if (r < 0)
        return r == ERR_CLOSED || r == ERR_UNREACHABLE ? BUILD_SEAL_LOOK : BUILD_SEAL_FAILED;
    if (reply->error && is_error(reply->error, GW_VM_BUSY))
        return BUILD_SEAL_PAUSE;
    if (reply->error && is_error(reply->error, GW_NAME_TAKEN))
        return BUILD_SEAL_LOOK; /* since it was looked for: by the first, perhaps */
    if (reply->error && is_error(reply->error, GW_HOST_DOWN))
        return BUILD_SEAL_AWAY; /* a coordinator that begins knows no host yet */
    if (next == BUILD_SEAL_NAME)
        return BUILD_SEAL_TOLD;
    return reply->error ? BUILD_SEAL_FAILED : BUILD_SEAL_LOOK;
}

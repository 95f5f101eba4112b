/* A request for metrics, by whoever reaches the port, and in whatever pieces it comes. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "net/text_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int before = 0;
    if (size > TEXT_SERVER_REQUEST_MAX)
        return 0;
    char *request = malloc(size ? size : 1); /* nothing may be read behind it */
    if (!request)
        return 0;
    memcpy(request, data, size);
    for (size_t count = 0; count <= size && before == 0; count++) {
        char *piece = malloc(count ? count : 1);
        if (!piece)
            break;
        memcpy(piece, request, count);
        before = text_server_judge(piece, count, "/metrics");
        assert(before == 0 || before == 1 || before == ERR_NOT_FOUND || before == ERR_INVALID);
        free(piece);
    }
    int whole = text_server_judge(request, size, "/metrics");
    assert(whole == 0 || whole == 1 || whole == ERR_NOT_FOUND || whole == ERR_INVALID);
    free(request);
    return 0;
}

/* A pasted token is anybody's text. What decodes must encode to a text that decodes to the same. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_FREE char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';

    struct fault fault = {0};
    Godwit__JoinToken *token = NULL;
    int r = token_decode(text, &token, &fault);
    if (r < 0) {
        assert(fault.code == r && fault.text[0]);
        return 0;
    }
    AUTO_FREE char *again = NULL;
    r = token_encode(token, &again, &fault);
    if (r == 0) { /* unknown fields may make it longer than a text may be */
        Godwit__JoinToken *twin = NULL;
        r = token_decode(again, &twin, &fault);
        assert(r == 0 && strcmp(twin->id, token->id) == 0);
        godwit__join_token__free_unpacked(twin, NULL);
    }
    godwit__join_token__free_unpacked(token, NULL);
    return 0;
}

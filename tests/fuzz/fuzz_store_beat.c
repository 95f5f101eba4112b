/* The files of the storage heartbeat, as a hostile host of the shared folder writes them. */
#include <assert.h>
#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/store_beat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_word(const char *word)
{
    size_t length = strlen(word);
    assert(length > 0 && length < 64);
    for (size_t i = 0; i < length; i++)
        assert(isalnum((unsigned char)word[i])); /* it becomes part of a file's text again */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char first[64], second[64];
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (store_beat_decode(text, first, second)) {
        check_word(first);
        check_word(second);
    }
    free(text);
    return 0;
}

#include "cli/words.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

void words_init(struct words *words, char *text, size_t size)
{
    assert(size > 0);
    text[0] = '\0';
    *words = (struct words){.text = text, .size = size};
}

void words_say(struct words *words, const char *format, ...)
{
    size_t room = words->size - words->used;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(words->text + words->used, room, format, args);
    va_end(args);
    if (n > 0)
        words->used += (size_t)n < room ? (size_t)n : room - 1;
}

size_t words_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

void words_cut(char *text, size_t width)
{
    for (; *text; text++) {
        if ((*text & 0xc0) == 0x80)
            continue;
        if (width == 0) {
            *text = '\0';
            return;
        }
        width--;
    }
}

const char *words_or_dash(const char *text)
{
    return text && text[0] ? text : "-";
}

#include "cli/build_output.h"

#include <assert.h>
#include <string.h>

enum { SHOWN_SIZE = 8192 };

/* Bytes of the letter at `text`, and which it is; 0: this is none. */
static size_t take_letter(const char *text, uint32_t *ret_letter)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = (uint8_t)text[0];
    size_t count = first < 0x80         ? 1
                   : first >> 5 == 0x06 ? 2
                   : first >> 4 == 0x0e ? 3
                   : first >> 3 == 0x1e ? 4
                                        : 0;
    uint32_t letter = count == 1 ? first : first & (0x7fU >> count);

    for (size_t i = 1; i < count; i++) {
        if (((uint8_t)text[i] & 0xc0) != 0x80) /* the end of the text, too */
            return 0;
        letter = letter << 6 | ((uint8_t)text[i] & 0x3f);
    }
    if (count == 0 || letter < least[count] || letter > 0x10ffff ||
        (letter >= 0xd800 && letter <= 0xdfff))
        return 0;
    *ret_letter = letter;
    return count;
}

/* C0 and C1, DEL, and the marks that turn or split lines. */
static bool is_control(uint32_t letter)
{
    return (letter < 0x20 && letter != '\t') || (letter >= 0x7f && letter < 0xa0) ||
           letter == 0x061c || letter == 0x200e || letter == 0x200f ||
           (letter >= 0x2028 && letter <= 0x202e) || (letter >= 0x2066 && letter <= 0x2069);
}

void build_output_clean(const char *text, char *ret_text, size_t size)
{
    size_t used = 0;

    assert(size > 0);
    while (*text) {
        uint32_t letter = 0;
        size_t count = take_letter(text, &letter);
        bool is_shown = count > 0 && !is_control(letter);
        size_t needed = is_shown ? count : 1;
        if (used + needed + 1 > size)
            break;
        memcpy(ret_text + used, is_shown ? text : "?", needed);
        used += needed;
        text += count > 0 ? count : 1;
    }
    ret_text[used] = '\0';
}

void build_output_begin(struct build_output *output)
{
    output->count = 0;
}

void build_output_line(struct build_output *output, const char *text, uint64_t lost)
{
    char shown[SHOWN_SIZE];

    build_output_clean(text, output->tail[output->count % BUILD_TAIL_LINES], BUILD_TAIL_LINE_SIZE);
    output->count++;
    if (!output->out)
        return;
    build_output_clean(text, shown, sizeof shown);
    if (lost > 0)
        (void)fprintf(output->out, "    [%llu lines did not come]\n", (unsigned long long)lost);
    (void)fprintf(output->out, "    %s\n", shown);
}

size_t build_output_tail(struct build_output *output, char *ret_lines[static BUILD_TAIL_LINES])
{
    size_t kept = output->count < BUILD_TAIL_LINES ? output->count : BUILD_TAIL_LINES;

    for (size_t i = 0; i < kept; i++)
        ret_lines[i] = output->tail[(output->count - kept + i) % BUILD_TAIL_LINES];
    return kept;
}

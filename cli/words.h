/* Text that grows in a fixed buffer; what does not fit is cut.
 *
 * Flow:   progress_bar, receipt_text -> [words] -> lines
 * Thread: any; no state of its own.
 */
#ifndef GODWIT_CLI_WORDS_H
#define GODWIT_CLI_WORDS_H

#include <stddef.h>

struct words {
    char *text; /* borrowed, always zero-ended after words_init */
    size_t size, used;
};

void words_init(struct words *words, char *text, size_t size);
void words_say(struct words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Places on the screen: UTF-8 continuation bytes take none. */
size_t words_width(const char *text);
/* Cut so that it takes at most `width` places, between letters. */
void words_cut(char *text, size_t width);
/* "-" for an absent or empty text. */
const char *words_or_dash(const char *text);

#endif

#include "proto/gw_code.h"

#include <string.h>
#include <strings.h>

#include "base/own.h"

static const struct gw_code_row rows[] = {
#define GW_CODE_ROW(id, number, word, exit_word, retry, sentence)                                  \
    {.code = id,                                                                                   \
     .label = "GW-" #number,                                                                       \
     .name = word,                                                                                 \
     .exit_code = exit_word,                                                                       \
     .retryable = retry,                                                                           \
     .text = sentence},
    GW_CODE_LIST(GW_CODE_ROW)
#undef GW_CODE_ROW
};

const struct gw_code_row *gw_code_row(int code)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        if ((int)rows[i].code == code)
            return &rows[i];
    }
    return NULL;
}

const struct gw_code_row *gw_code_find(const char *word)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const char *number = rows[i].label + strlen("GW-");
        if (strcasecmp(word, rows[i].label) == 0 || strcmp(word, number) == 0 ||
            strcasecmp(word, rows[i].name) == 0)
            return &rows[i];
    }
    return NULL;
}

const struct gw_code_row *gw_code_table(size_t *ret_count)
{
    *ret_count = ARRAY_COUNT(rows);
    return rows;
}

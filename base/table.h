/* Columns of text that line up, whatever the width of their letters.
 *
 * Flow:   cli/render -> [table] -> libsmartcols -> stdout
 * Thread: one; setlocale(LC_ALL, "") must have been called before the first table.
 */
#ifndef GODWIT_BASE_TABLE_H
#define GODWIT_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct fault;
struct table;

struct table_column {
    const char *name; /* the head as printed */
    bool right;       /* numbers */
};

struct table_style {
    bool no_headers;
    bool color;     /* bold heads; the caller has looked at NO_COLOR, TERM and isatty */
    unsigned width; /* cut the last column to fit; 0: as wide as it gets */
};

enum { TABLE_COLUMNS_MAX = 32 };

int table_new(struct table **ret_table, const struct table_column *columns, size_t count,
              const struct table_style *style, struct fault *fault);
struct table *table_free(struct table *table);
/* One cell per column; texts are copied; NULL is empty. */
int table_add(struct table *table, const char *const *cells, struct fault *fault);
/* Gives malloc'ed text, lines without trailing blanks; "" for no rows and no heads. */
int table_print(struct table *table, char **ret_text, struct fault *fault);

#endif

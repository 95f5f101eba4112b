#include "base/table.h"

#include <assert.h>
#include <libsmartcols/libsmartcols.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"

struct table {
    struct libscols_table *scols;
    size_t column_count, row_count;
    bool no_headers;
};

static int no_memory(struct fault *fault)
{
    return fault_set(fault, ERR_NOMEM, "no memory for a table");
}

int table_new(struct table **ret_table, const struct table_column *columns, size_t count,
              const struct table_style *style, struct fault *fault)
{
    assert(count > 0 && count <= TABLE_COLUMNS_MAX);
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return no_memory(fault);
    table->scols = scols_new_table();
    if (!table->scols) {
        table_free(table);
        return no_memory(fault);
    }
    table->column_count = count;
    table->no_headers = style->no_headers;
    scols_table_enable_noheadings(table->scols, style->no_headers);
    scols_table_enable_colors(table->scols, style->color);
    /* The real terminal is never asked: who calls has decided on a width or on none. */
    scols_table_set_termforce(table->scols,
                              style->width ? SCOLS_TERMFORCE_ALWAYS : SCOLS_TERMFORCE_NEVER);
    if (style->width)
        scols_table_set_termwidth(table->scols, style->width);
    scols_table_set_column_separator(table->scols, "  ");
    for (size_t i = 0; i < count; i++) {
        int flags = columns[i].right ? SCOLS_FL_RIGHT : 0;
        if (style->width && i + 1 == count)
            flags |= SCOLS_FL_TRUNC;
        struct libscols_column *column =
            scols_table_new_column(table->scols, columns[i].name, 0, flags);
        if (!column) {
            table_free(table);
            return no_memory(fault);
        }
        if (style->color)
            (void)scols_cell_set_color(scols_column_get_header(column), "bold"); /* only looks */
    }
    *ret_table = table;
    return 0;
}

struct table *table_free(struct table *table)
{
    if (!table)
        return NULL;
    scols_unref_table(table->scols);
    free(table);
    return NULL;
}

int table_add(struct table *table, const char *const *cells, struct fault *fault)
{
    struct libscols_line *line = scols_table_new_line(table->scols, NULL);
    if (!line)
        return no_memory(fault);
    for (size_t i = 0; i < table->column_count; i++) {
        if (cells[i] && scols_line_set_data(line, i, cells[i]) != 0)
            return no_memory(fault);
    }
    table->row_count++;
    return 0;
}

/* Blanks at line ends hurt diffs, golden files and copy-and-paste. */
static void strip_line_ends(char *text)
{
    char *put = text;
    for (const char *at = text; *at; at++) {
        if (*at == '\n') {
            while (put > text && put[-1] == ' ')
                put--;
        }
        *put++ = *at;
    }
    while (put > text && put[-1] == ' ')
        put--;
    *put = '\0';
}

int table_print(struct table *table, char **ret_text, struct fault *fault)
{
    if (table->row_count == 0) { /* libsmartcols prints no heads of an empty table */
        char *empty = strdup("");
        if (!empty)
            return no_memory(fault);
        *ret_text = empty;
        return 0;
    }
    char *printed = NULL;
    if (scols_print_table_to_string(table->scols, &printed) != 0 || !printed) {
        free(printed);
        return no_memory(fault);
    }
    size_t count = strlen(printed);
    char *text = realloc(printed, count + 2);
    if (!text) {
        free(printed);
        return no_memory(fault);
    }
    strip_line_ends(text);
    count = strlen(text);
    if (count > 0 && text[count - 1] != '\n')
        memcpy(text + count, "\n", 2);
    *ret_text = text;
    return 0;
}

#include "cli/render.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/json.h"
#include "base/own.h"
#include "base/table.h"
#include "base/units.h"
#include "base/world.h"

/* A field of a message, found by a dotted path; `type` NULL: no such field. */
struct place {
    const ProtobufCMessage *message; /* NULL: a message on the way is absent */
    const ProtobufCFieldDescriptor *field;
};

static struct place find_place(const ProtobufCMessageDescriptor *type,
                               const ProtobufCMessage *message, const char *path)
{
    char name[64];
    size_t length = strcspn(path, ".");
    (void)snprintf(name, sizeof name, "%.*s", (int)length, path);
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(type, name);
    if (!field || path[length] == '\0')
        return (struct place){.message = message, .field = field};
    if (field->type != PROTOBUF_C_TYPE_MESSAGE || field->label == PROTOBUF_C_LABEL_REPEATED)
        return (struct place){0};
    const ProtobufCMessage *inner =
        message ? *(const ProtobufCMessage *const *)((const char *)message + field->offset) : NULL;
    return find_place(field->descriptor, inner, path + length + 1);
}

static bool is_text(const ProtobufCFieldDescriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static bool is_present(const struct place *place)
{
    if (!place->message || place->field->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    const char *base = (const char *)place->message;
    if (is_text(place->field))
        return *(void *const *)(base + place->field->offset) != NULL;
    return *(const protobuf_c_boolean *)(base + place->field->quantifier_offset);
}

static bool number_of(const struct place *place, uint64_t *ret_number)
{
    const void *value = (const char *)place->message + place->field->offset;
    switch (place->field->type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_INT64:
        *ret_number = *(const uint64_t *)value;
        return true;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_INT32:
        *ret_number = *(const uint32_t *)value;
        return true;
    case PROTOBUF_C_TYPE_BOOL:
        *ret_number = *(const protobuf_c_boolean *)value != 0;
        return true;
    default:
        return false;
    }
}

static void print_ago(uint64_t unix_ms, uint64_t now_ms, char *cell)
{
    char text[UNITS_TEXT_SIZE];
    if (unix_ms == 0) {
        (void)snprintf(cell, RENDER_CELL_SIZE, "never");
        return;
    }
    uint64_t ms = now_ms > unix_ms ? now_ms - unix_ms : 0;
    if (ms < 1000) {
        (void)snprintf(cell, RENDER_CELL_SIZE, "now");
        return;
    }
    uint64_t s = ms / 1000; /* tenths of seconds mean nothing here */
    if (s < 60)
        (void)snprintf(text, sizeof text, "%u s", (unsigned)s);
    else
        units_print_duration(s * NS_PER_S, text);
    (void)snprintf(cell, RENDER_CELL_SIZE, "%s ago", text);
}

static void print_number(const struct place *place, enum render_unit unit, uint64_t number,
                         uint64_t now_ms, char *cell)
{
    switch (unit) {
    case RENDER_BYTES:
        units_print_bytes(number, cell);
        return;
    case RENDER_RATE:
        units_print_rate(number, cell);
        return;
    case RENDER_DURATION:
        units_print_duration(number, cell);
        return;
    case RENDER_AGO:
        print_ago(number, now_ms, cell);
        return;
    case RENDER_YES_NO:
        (void)snprintf(cell, RENDER_CELL_SIZE, "%s", number ? "yes" : "no");
        return;
    case RENDER_PLAIN:
        break;
    }
    bool is_signed = place->field->type == PROTOBUF_C_TYPE_INT32;
    if (is_signed)
        (void)snprintf(cell, RENDER_CELL_SIZE, "%" PRId32, (int32_t)number);
    else
        (void)snprintf(cell, RENDER_CELL_SIZE, "%" PRIu64, number);
}

/* "" for what is absent. Control letters in names from the pool never reach the terminal. */
static void print_cell(const struct render_options *options, const struct render_column *column,
                       const ProtobufCMessage *row, char *cell)
{
    cell[0] = '\0';
    if (column->cell) {
        column->cell(row, cell);
        return;
    }
    struct place place = find_place(row->descriptor, row, column->field);
    if (!place.field || !is_present(&place))
        return;
    const void *value = (const char *)place.message + place.field->offset;
    uint64_t number;
    if (place.field->type == PROTOBUF_C_TYPE_STRING)
        (void)snprintf(cell, RENDER_CELL_SIZE, "%s", *(const char *const *)value);
    else if (place.field->type == PROTOBUF_C_TYPE_ENUM)
        json_enum_word(place.field->descriptor, *(const int *)value, cell);
    else if (place.field->type == PROTOBUF_C_TYPE_DOUBLE)
        (void)snprintf(cell, RENDER_CELL_SIZE, "%.2f", *(const double *)value);
    else if (number_of(&place, &number))
        print_number(&place, column->unit, number, options->now_unix_ms, cell);
    for (char *at = cell; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    }
}

/* ---- columns and order ---- */

struct choice {
    struct render_column columns[TABLE_COLUMNS_MAX];
    char heads[TABLE_COLUMNS_MAX][64];
    size_t count;
};

static const struct render_column *view_column(const struct render_view *view, const char *name)
{
    for (size_t i = 0; i < view->count; i++) {
        if (strcasecmp(view->columns[i].field, name) == 0 ||
            strcasecmp(view->columns[i].head, name) == 0)
            return &view->columns[i];
    }
    return NULL;
}

static int refuse_column(const struct render_view *view, const char *name, struct fault *fault)
{
    const char *names[TABLE_COLUMNS_MAX];
    char list[240] = "";
    size_t used = 0;
    for (size_t i = 0; i < view->count; i++) {
        names[i] = view->columns[i].field;
        int n = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
        used += n > 0 && used + (size_t)n < sizeof list ? (size_t)n : 0;
    }
    const char *nearest = id_nearest(name, names, view->count);
    return fault_set(fault, ERR_INVALID, "there is no column '%.40s'%s%s%s; there are %s", name,
                     nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "",
                     list);
}

static int find_column(const struct render_view *view, const ProtobufCMessageDescriptor *type,
                       const char *name, struct render_column *ret_column, struct fault *fault)
{
    const struct render_column *column = view_column(view, name);
    if (column) {
        *ret_column = *column;
        return 0;
    }
    struct place place = find_place(type, NULL, name);
    if (!place.field)
        return refuse_column(view, name, fault);
    *ret_column = (struct render_column){.field = place.field->name, .head = place.field->name};
    return 0;
}

static int choose_columns(const struct render_options *options, const struct render_view *view,
                          const ProtobufCMessageDescriptor *type, struct choice *choice,
                          struct fault *fault)
{
    if (!options->columns) {
        for (size_t i = 0; i < view->count; i++) {
            if (!view->columns[i].wide || options->form == OUTPUT_WIDE)
                choice->columns[choice->count++] = view->columns[i];
        }
        return 0;
    }
    char list[512];
    (void)snprintf(list, sizeof list, "%s", options->columns);
    char *state = NULL;
    for (char *at = strtok_r(list, ", ", &state); at; at = strtok_r(NULL, ", ", &state)) {
        if (choice->count == TABLE_COLUMNS_MAX)
            return fault_set(fault, ERR_INVALID, "more than %d columns", TABLE_COLUMNS_MAX);
        int r = find_column(view, type, at, &choice->columns[choice->count], fault);
        if (r < 0)
            return fault_wrap(fault, r, "--columns");
        if (!view_column(view, at)) { /* a field without a head: its path, in capitals */
            char *head = choice->heads[choice->count];
            for (size_t i = 0; at[i] && i < 63; i++)
                head[i] = (char)toupper((unsigned char)at[i]);
            choice->columns[choice->count].head = head;
        }
        choice->count++;
    }
    return choice->count ? 0 : fault_set(fault, ERR_INVALID, "--columns: found no name");
}

struct sorted_row {
    const ProtobufCMessage *row;
    uint64_t number;
    bool has_number, down;
    char cell[RENDER_CELL_SIZE];
};

static int compare_rows(const void *a, const void *b)
{
    const struct sorted_row *left = a, *right = b;
    int order = left->has_number && right->has_number
                    ? (left->number > right->number) - (left->number < right->number)
                    : strcmp(left->cell, right->cell);
    return left->down ? -order : order;
}

static int sort_rows(const struct render_options *options, const struct render_view *view,
                     const ProtobufCMessage *const *rows, size_t count,
                     const ProtobufCMessage **ret_rows, struct fault *fault)
{
    if (count == 0)
        return 0; /* there may be no list */
    memcpy(ret_rows, rows, count * sizeof *rows);
    if (!options->sort_by)
        return 0;
    bool down = options->sort_by[0] == '-';
    struct render_column column;
    int r = find_column(view, rows[0]->descriptor, options->sort_by + down, &column, fault);
    if (r < 0)
        return fault_wrap(fault, r, "--sort-by");
    AUTO_FREE struct sorted_row *sorted = calloc(count, sizeof *sorted);
    if (!sorted)
        return fault_set(fault, ERR_NOMEM, "no memory to sort %zu rows", count);
    for (size_t i = 0; i < count; i++) {
        struct place place = find_place(rows[i]->descriptor, rows[i], column.field);
        sorted[i].row = rows[i];
        sorted[i].down = down;
        sorted[i].has_number = !column.cell && place.field && is_present(&place) &&
                               number_of(&place, &sorted[i].number);
        print_cell(options, &column, rows[i], sorted[i].cell);
    }
    qsort(sorted, count, sizeof *sorted, compare_rows);
    for (size_t i = 0; i < count; i++)
        ret_rows[i] = sorted[i].row;
    return 0;
}

/* ---- forms ---- */

static int print_names(const struct render_view *view, const struct render_options *options,
                       const ProtobufCMessage *const *rows, size_t count, char **ret_text,
                       struct fault *fault)
{
    size_t size;
    FILE *out = open_memstream(ret_text, &size);
    if (!out)
        return fault_set(fault, ERR_NOMEM, "no memory to print names");
    const struct render_column column = {.field = view->name_field};
    char cell[RENDER_CELL_SIZE];
    for (size_t i = 0; i < count; i++) {
        print_cell(options, &column, rows[i], cell);
        (void)fprintf(out, "%s\n", cell);
    }
    return fclose(out) == 0 ? 0 : fault_set(fault, ERR_NOMEM, "no memory to print names");
}

static int fill_table(struct table *table, const struct render_options *options,
                      const struct choice *choice, const ProtobufCMessage *const *rows,
                      size_t count, struct fault *fault)
{
    char cells[TABLE_COLUMNS_MAX][RENDER_CELL_SIZE];
    const char *texts[TABLE_COLUMNS_MAX];
    for (size_t i = 0; i < count; i++) {
        for (size_t c = 0; c < choice->count; c++) {
            print_cell(options, &choice->columns[c], rows[i], cells[c]);
            texts[c] = cells[c][0] ? cells[c] : "-";
        }
        int r = table_add(table, texts, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

static int print_table(const struct render_options *options, const struct render_view *view,
                       const ProtobufCMessage *const *rows, size_t count, char **ret_text,
                       struct fault *fault)
{
    struct choice choice = {0};
    struct table_column columns[TABLE_COLUMNS_MAX];
    if (count == 0) {
        *ret_text = strdup("");
        return *ret_text ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a table");
    }
    int r = choose_columns(options, view, rows[0]->descriptor, &choice, fault);
    if (r < 0)
        return r;
    for (size_t i = 0; i < choice.count; i++) {
        struct place place = find_place(rows[0]->descriptor, NULL, choice.columns[i].field);
        columns[i].name = choice.columns[i].head;
        columns[i].right = !choice.columns[i].cell && place.field && !is_text(place.field) &&
                           place.field->type != PROTOBUF_C_TYPE_ENUM &&
                           choice.columns[i].unit != RENDER_AGO;
    }
    const struct table_style style = {.no_headers = options->no_headers, .color = options->color};
    struct table *table = NULL;
    r = table_new(&table, columns, choice.count, &style, fault);
    if (r == 0)
        r = fill_table(table, options, &choice, rows, count, fault);
    if (r == 0)
        r = table_print(table, ret_text, fault);
    table_free(table);
    return r;
}

int render_list(const struct render_options *options, const struct render_view *view,
                const ProtobufCMessage *const *rows, size_t count, char **ret_text,
                struct fault *fault)
{
    AUTO_FREE const ProtobufCMessage **sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted)
        return fault_set(fault, ERR_NOMEM, "no memory for %zu rows", count);
    int r = sort_rows(options, view, rows, count, sorted, fault);
    if (r < 0)
        return r;
    switch (options->form) {
    case OUTPUT_JSON:
        return json_print_list(sorted, count, JSON_FORM_PRETTY, ret_text, fault);
    case OUTPUT_NDJSON:
        return json_print_list(sorted, count, JSON_FORM_COMPACT, ret_text, fault);
    case OUTPUT_YAML:
        return json_print_list(sorted, count, JSON_FORM_YAML, ret_text, fault);
    case OUTPUT_NAME:
        return print_names(view, options, sorted, count, ret_text, fault);
    case OUTPUT_TABLE:
    case OUTPUT_WIDE:
        break;
    }
    return print_table(options, view, sorted, count, ret_text, fault);
}

static int print_page(const struct render_options *options, const struct render_view *view,
                      const ProtobufCMessage *message, char **ret_text, struct fault *fault)
{
    size_t size;
    FILE *out = open_memstream(ret_text, &size);
    if (!out)
        return fault_set(fault, ERR_NOMEM, "no memory to print a page");
    char cell[RENDER_CELL_SIZE];
    for (size_t i = 0; i < view->count; i++) {
        print_cell(options, &view->columns[i], message, cell);
        if (cell[0])
            (void)fprintf(out, "%-14s %s\n", view->columns[i].head, cell);
    }
    return fclose(out) == 0 ? 0 : fault_set(fault, ERR_NOMEM, "no memory to print a page");
}

int render_page(const struct render_options *options, const struct render_view *view,
                const ProtobufCMessage *message, char **ret_text, struct fault *fault)
{
    switch (options->form) {
    case OUTPUT_JSON:
        return json_print(message, JSON_FORM_PRETTY, ret_text, fault);
    case OUTPUT_NDJSON:
        return json_print(message, JSON_FORM_COMPACT, ret_text, fault);
    case OUTPUT_YAML:
        return json_print(message, JSON_FORM_YAML, ret_text, fault);
    case OUTPUT_NAME:
        return print_names(view, options, &message, 1, ret_text, fault);
    case OUTPUT_TABLE:
    case OUTPUT_WIDE:
        break;
    }
    return print_page(options, view, message, ret_text, fault);
}

void render_options_of(const struct context *context, struct render_options *ret_options)
{
    const struct command_line *line = context->line;
    bool lists = line->command->lists;
    *ret_options = (struct render_options){
        .form = context->output,
        .columns = lists ? command_text(line, "columns") : NULL,
        .sort_by = lists ? command_text(line, "sort-by") : NULL,
        .no_headers = lists && command_flag(line, "no-headers"),
        .color = context->out_color,
        .now_unix_ms = world_wall_ms(),
    };
}

#include "base/json.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* One walk over the descriptor for all forms; they differ only in what stands around names and
 * values, so an addition to a message can never appear in one and be missing in another. */
struct writer {
    FILE *out;
    enum json_form form;
};

static void put_message(struct writer *writer, const ProtobufCMessage *message, unsigned depth,
                        bool in_list);

static void put_indent(struct writer *writer, unsigned depth)
{
    if (writer->form == JSON_FORM_COMPACT)
        return;
    for (unsigned i = 0; i < depth; i++)
        (void)fputs("  ", writer->out);
}

static void put_line_end(struct writer *writer)
{
    if (writer->form != JSON_FORM_COMPACT)
        (void)fputc('\n', writer->out);
}

size_t json_utf8_length(const void *bytes, size_t count)
{
    static const struct {
        unsigned char mask, lead;
        uint32_t least;
    } forms[] = {{0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    const unsigned char *at = bytes;
    if (count == 0)
        return 0;
    if (*at < 0x80)
        return 1;
    for (size_t form = 0; form < 3; form++) {
        if ((*at & forms[form].mask) != forms[form].lead)
            continue;
        uint32_t code = *at & (unsigned char)~forms[form].mask;
        if (count < form + 2)
            return 0;
        for (size_t i = 1; i <= form + 1; i++) {
            if ((at[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (at[i] & 0x3f);
        }
        bool surrogate = code >= 0xd800 && code < 0xe000;
        return code >= forms[form].least && code < 0x110000 && !surrogate ? form + 2 : 0;
    }
    return 0;
}

static void put_quoted(FILE *out, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    const unsigned char *end = at + strlen(text);
    (void)fputc('"', out);
    while (at < end) {
        size_t length = json_utf8_length(at, (size_t)(end - at));
        if (length == 0) {
            (void)fputs("\\ufffd", out);
            length = 1;
        } else if (*at == '"' || *at == '\\') {
            (void)fprintf(out, "\\%c", *at);
        } else if (*at == '\n') {
            (void)fputs("\\n", out);
        } else if (*at == '\t') {
            (void)fputs("\\t", out);
        } else if (*at < 0x20 || *at == 0x7f) {
            (void)fprintf(out, "\\u%04x", *at);
        } else {
            (void)fwrite(at, 1, length, out);
        }
        at += length;
    }
    (void)fputc('"', out);
}

/* May stand in YAML without quotes and be read back as the same text by everyone. */
static bool is_plain_word(const char *text)
{
    static const char *const taken[] = {"true", "false", "null", "yes", "no", "on",
                                        "off",  "y",     "n",    "inf", "nan"};
    if (!isalpha((unsigned char)text[0]) && text[0] != '/')
        return false;
    for (const char *at = text; *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("._/-", *at))
            return false;
    }
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        if (strcasecmp(text, taken[i]) == 0)
            return false;
    }
    return true;
}

static void put_text(struct writer *writer, const char *text)
{
    if (writer->form == JSON_FORM_YAML && is_plain_word(text))
        (void)fputs(text, writer->out);
    else
        put_quoted(writer->out, text);
}

static void put_base64(struct writer *writer, const ProtobufCBinaryData *bytes)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (void)fputc('"', writer->out);
    for (size_t i = 0; i < bytes->len; i += 3) {
        size_t left = bytes->len - i;
        uint32_t group = (uint32_t)bytes->data[i] << 16;
        group |= left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0;
        group |= left > 2 ? bytes->data[i + 2] : 0;
        (void)fputc(letters[group >> 18], writer->out);
        (void)fputc(letters[group >> 12 & 63], writer->out);
        (void)fputc(left > 1 ? letters[group >> 6 & 63] : '=', writer->out);
        (void)fputc(left > 2 ? letters[group & 63] : '=', writer->out);
    }
    (void)fputc('"', writer->out);
}

static void put_double(struct writer *writer, double value)
{
    char text[40];
    if (!isfinite(value)) { /* JSON has no such number */
        (void)fputs("null", writer->out);
        return;
    }
    (void)snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value)
        (void)snprintf(text, sizeof text, "%.17g", value);
    (void)fputs(text, writer->out);
}

void json_enum_word(const ProtobufCEnumDescriptor *type, int value,
                    char ret_word[static JSON_ENUM_SIZE])
{
    const ProtobufCEnumValue *entry = protobuf_c_enum_descriptor_get_value(type, value);
    if (!entry) {
        (void)snprintf(ret_word, JSON_ENUM_SIZE, "%d", value);
        return;
    }
    /* MovePhase -> MOVE_PHASE_, and off it comes. */
    char prefix[JSON_ENUM_SIZE];
    size_t used = 0;
    for (const char *at = type->short_name; *at && used + 3 < sizeof prefix; at++) {
        if (isupper((unsigned char)*at) && at != type->short_name)
            prefix[used++] = '_';
        prefix[used++] = (char)toupper((unsigned char)*at);
    }
    prefix[used++] = '_';
    const char *word = entry->name;
    if (strncmp(word, prefix, used) == 0)
        word += used;
    (void)snprintf(ret_word, JSON_ENUM_SIZE, "%s", word);
    for (char *at = ret_word; *at; at++)
        *at = (char)(*at == '_' ? '-' : tolower((unsigned char)*at));
}

static void put_enum(struct writer *writer, const ProtobufCFieldDescriptor *field, int value)
{
    char word[JSON_ENUM_SIZE];
    json_enum_word(field->descriptor, value, word);
    put_text(writer, word);
}

static size_t value_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    }
    return 4;
}

static void put_value(struct writer *writer, const ProtobufCFieldDescriptor *field,
                      const void *value, unsigned depth, bool in_list)
{
    FILE *out = writer->out;
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        (void)fprintf(out, "%" PRId32, *(const int32_t *)value);
        break;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        (void)fprintf(out, "%" PRId64, *(const int64_t *)value);
        break;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        (void)fprintf(out, "%" PRIu32, *(const uint32_t *)value);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        (void)fprintf(out, "%" PRIu64, *(const uint64_t *)value);
        break;
    case PROTOBUF_C_TYPE_FLOAT:
        put_double(writer, (double)*(const float *)value);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        put_double(writer, *(const double *)value);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        (void)fputs(*(const protobuf_c_boolean *)value ? "true" : "false", out);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        put_enum(writer, field, *(const int *)value);
        break;
    case PROTOBUF_C_TYPE_STRING:
        put_text(writer, *(const char *const *)value);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        put_base64(writer, value);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        put_message(writer, *(const ProtobufCMessage *const *)value, depth, in_list);
        break;
    }
}

static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const char *base = (const char *)message;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return true;
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        if (*(const uint32_t *)(base + field->quantifier_offset) != field->id)
            return false;
    } else if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
               field->type != PROTOBUF_C_TYPE_MESSAGE) {
        return *(const protobuf_c_boolean *)(base + field->quantifier_offset);
    }
    if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(void *const *)(base + field->offset) != NULL;
    return true;
}

/* The items of a list, brackets and all. In YAML it begins on the line after its name. */
static void put_list(struct writer *writer, const ProtobufCFieldDescriptor *field,
                     const char *values, size_t count, unsigned depth)
{
    if (count == 0) {
        (void)fputs("[]", writer->out);
        return;
    }
    bool yaml = writer->form == JSON_FORM_YAML;
    if (!yaml)
        (void)fputc('[', writer->out);
    for (size_t i = 0; i < count; i++) {
        if (!yaml && i > 0)
            (void)fputc(',', writer->out);
        put_line_end(writer);
        put_indent(writer, depth);
        if (yaml)
            (void)fputs("- ", writer->out);
        put_value(writer, field, values + i * value_size(field->type), yaml ? depth + 1 : depth,
                  true);
    }
    if (!yaml) {
        put_line_end(writer);
        put_indent(writer, depth - 1);
        (void)fputc(']', writer->out);
    }
}

static void put_field(struct writer *writer, const ProtobufCMessage *message,
                      const ProtobufCFieldDescriptor *field, unsigned depth)
{
    const char *base = (const char *)message;
    if (writer->form == JSON_FORM_YAML)
        (void)fprintf(writer->out, "%s:", field->name);
    else
        (void)fprintf(writer->out,
                      writer->form == JSON_FORM_PRETTY ? "\"%s\": " : "\"%s\":", field->name);
    bool list = field->label == PROTOBUF_C_LABEL_REPEATED;
    size_t count = list ? *(const size_t *)(base + field->quantifier_offset) : 0;
    bool same_line = list ? count == 0 : field->type != PROTOBUF_C_TYPE_MESSAGE;
    if (writer->form == JSON_FORM_YAML && same_line)
        (void)fputc(' ', writer->out);
    if (list)
        put_list(writer, field, *(const char *const *)(base + field->offset), count, depth + 1);
    else
        put_value(writer, field, base + field->offset,
                  writer->form == JSON_FORM_YAML ? depth + 1 : depth, false);
}

static void put_message(struct writer *writer, const ProtobufCMessage *message, unsigned depth,
                        bool in_list)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    bool yaml = writer->form == JSON_FORM_YAML;
    bool first = true;
    assert(depth < JSON_DEPTH_MAX); /* our messages do not contain themselves */

    if (!yaml)
        (void)fputc('{', writer->out);
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (!is_present(message, &type->fields[i]))
            continue;
        if (!yaml && !first)
            (void)fputc(',', writer->out);
        if (!(yaml && first && in_list)) { /* the first one stands behind the "- " */
            if (!yaml || !first || depth > 0)
                put_line_end(writer);
            put_indent(writer, yaml ? depth : depth + 1);
        }
        put_field(writer, message, &type->fields[i], yaml ? depth : depth + 1);
        first = false;
    }
    if (yaml) {
        if (first)
            (void)fputs(in_list || depth == 0 ? "{}" : " {}", writer->out);
        return;
    }
    if (!first) {
        put_line_end(writer);
        put_indent(writer, depth);
    }
    (void)fputc('}', writer->out);
}

static int finish(struct writer *writer, char **text, char **ret_text, struct fault *fault)
{
    bool failed = ferror(writer->out) != 0;
    if (fclose(writer->out) != 0 || failed || !*text) {
        free(*text);
        return fault_set(fault, ERR_NOMEM, "no memory to print a message");
    }
    *ret_text = *text;
    return 0;
}

int json_print(const ProtobufCMessage *message, enum json_form form, char **ret_text,
               struct fault *fault)
{
    char *text = NULL;
    size_t size;
    struct writer writer = {.out = open_memstream(&text, &size), .form = form};
    if (!writer.out)
        return fault_set(fault, ERR_NOMEM, "no memory to print a message");
    put_message(&writer, message, 0, false);
    (void)fputc('\n', writer.out);
    return finish(&writer, &text, ret_text, fault);
}

int json_print_list(const ProtobufCMessage *const *messages, size_t count, enum json_form form,
                    char **ret_text, struct fault *fault)
{
    char *text = NULL;
    size_t size;
    struct writer writer = {.out = open_memstream(&text, &size), .form = form};
    if (!writer.out)
        return fault_set(fault, ERR_NOMEM, "no memory to print a list");
    if (form == JSON_FORM_PRETTY)
        (void)fputs(count ? "[\n" : "[", writer.out);
    else if (form == JSON_FORM_YAML && count == 0)
        (void)fputs("[]\n", writer.out);
    for (size_t i = 0; i < count; i++) {
        put_indent(&writer, form == JSON_FORM_PRETTY ? 1 : 0);
        if (form == JSON_FORM_YAML)
            (void)fputs("- ", writer.out);
        put_message(&writer, messages[i], form == JSON_FORM_COMPACT ? 0 : 1, true);
        (void)fputs(form == JSON_FORM_PRETTY && i + 1 < count ? ",\n" : "\n", writer.out);
    }
    if (form == JSON_FORM_PRETTY)
        (void)fputs("]\n", writer.out);
    return finish(&writer, &text, ret_text, fault);
}

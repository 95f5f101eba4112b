/* The binder (vm_spec_file) and this walk the same descriptors with the same rules, so what the
 * schema allows is what the command reads. What ties two fields together (a store needs a file) is
 * vm_spec_judge's and is not in the schema. */
#include "cli/vm_spec_schema.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/vm_spec_rules.h"
#include "proto/limits.h"
#include "proto/up.pb-c.h"
#include "proto/vm_spec.pb-c.h"

enum { SCHEMA_PATH_SIZE = 128 };

struct writer {
    FILE *out;
    unsigned depth;
    bool is_up_file; /* its VMs are held to the rules of a VM */
};

/* Texts of the rules hold no letter that JSON would have to escape; the assert keeps it so. */
static void put_text(struct writer *writer, const char *text)
{
    assert(!strpbrk(text, "\"\\\n\t"));
    (void)fprintf(writer->out, "\"%s\"", text);
}

static void put_line(struct writer *writer, bool *first)
{
    (void)fprintf(writer->out, "%s\n%*s", *first ? "" : ",", (int)(2 * writer->depth), "");
    *first = false;
}

static void put_key(struct writer *writer, bool *first, const char *key)
{
    put_line(writer, first);
    put_text(writer, key);
    (void)fputs(": ", writer->out);
}

static void open_object(struct writer *writer)
{
    (void)fputc('{', writer->out);
    writer->depth++;
}

static void close_object(struct writer *writer)
{
    writer->depth--;
    (void)fprintf(writer->out, "\n%*s}", (int)(2 * writer->depth), "");
}

static void put_pair(struct writer *writer, bool *first, const char *key, const char *text)
{
    put_key(writer, first, key);
    put_text(writer, text);
}

/* A number, or the same with a unit as a text. */
static void put_number_or_text(struct writer *writer, bool *first, const struct vm_spec_rule *rule,
                               const char *pattern)
{
    put_key(writer, first, "anyOf");
    (void)fprintf(writer->out,
                  "[{\"type\": \"integer\", \"minimum\": %llu, \"maximum\": %llu}, {\"type\": "
                  "\"string\", \"pattern\": \"%s\"}]",
                  (unsigned long long)rule->min, (unsigned long long)rule->max, pattern);
}

static void put_choices(struct writer *writer, bool *first, const struct vm_spec_rule *rule)
{
    put_key(writer, first, "enum");
    for (size_t i = 0; i < VM_SPEC_CHOICES_MAX && rule->choices[i]; i++) {
        (void)fputs(i ? ", " : "[", writer->out);
        put_text(writer, rule->choices[i]);
    }
    (void)fputc(']', writer->out);
}

static void put_scalar(struct writer *writer, bool *first, const ProtobufCFieldDescriptor *field,
                       const struct vm_spec_rule *rule)
{
    enum vm_spec_rule_kind kind = rule ? rule->kind : VM_SPEC_PLAIN;

    if (kind == VM_SPEC_BYTES) {
        put_number_or_text(writer, first, rule, "^[0-9]+([.][0-9]+)? ?(KiB|MiB|GiB|TiB)$");
    } else if (kind == VM_SPEC_MS) {
        put_number_or_text(writer, first, rule, "^[0-9]+([.][0-9]+)? ?(us|ms|s|m|h)$");
    } else if (kind == VM_SPEC_CHOICE) {
        put_choices(writer, first, rule);
    } else if (kind == VM_SPEC_NAME) {
        put_pair(writer, first, "type", "string");
        put_pair(writer, first, "pattern", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$");
    } else if (field->type == PROTOBUF_C_TYPE_BOOL) {
        put_pair(writer, first, "type", "boolean");
    } else if (field->type == PROTOBUF_C_TYPE_STRING) {
        put_pair(writer, first, "type", "string");
    } else {
        put_pair(writer, first, "type", "integer");
        put_key(writer, first, "minimum");
        (void)fprintf(writer->out, "%llu", rule ? (unsigned long long)rule->min : 0);
        if (rule && rule->max) {
            put_key(writer, first, "maximum");
            (void)fprintf(writer->out, "%llu", (unsigned long long)rule->max);
        }
    }
}

static void put_message(struct writer *writer, bool *first, const ProtobufCMessageDescriptor *type,
                        const char *path);

static void put_field(struct writer *writer, const ProtobufCFieldDescriptor *field,
                      const char *path)
{
    static const char vms[] = "vms.";
    bool is_inside = writer->is_up_file && strncmp(path, vms, strlen(vms)) == 0;
    const struct vm_spec_rule *rule = vm_spec_rule_find(is_inside ? path + strlen(vms) : path);
    bool first = true;

    open_object(writer);
    if (rule && rule->help)
        put_pair(writer, &first, "description", rule->help);
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
        put_scalar(writer, &first, field, rule);
    } else if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        bool first_of_item = true;
        put_pair(writer, &first, "type", "array");
        put_key(writer, &first, "items");
        open_object(writer);
        put_message(writer, &first_of_item, field->descriptor, path);
        close_object(writer);
    } else {
        put_message(writer, &first, field->descriptor, path);
    }
    close_object(writer);
}

static void put_message(struct writer *writer, bool *first, const ProtobufCMessageDescriptor *type,
                        const char *path)
{
    bool first_property = true;

    put_pair(writer, first, "type", "object");
    put_key(writer, first, "additionalProperties");
    (void)fputs("false", writer->out);
    put_key(writer, first, "properties");
    open_object(writer);
    for (unsigned i = 0; i < type->n_fields; i++) {
        char inner[SCHEMA_PATH_SIZE];
        (void)snprintf(inner, sizeof inner, "%s%s%s", path, path[0] ? "." : "",
                       type->fields[i].name);
        put_key(writer, &first_property, type->fields[i].name);
        put_field(writer, &type->fields[i], inner);
    }
    close_object(writer);
}

static int print_schema(const char *title, const ProtobufCMessageDescriptor *type,
                        char **ret_text, struct fault *fault)
{
    char *text = NULL;
    size_t count = 0;
    struct writer writer = {.out = open_memstream(&text, &count),
                            .is_up_file = type == &godwit__up_file__descriptor};
    bool first = true;

    if (!writer.out)
        return fault_set(fault, ERR_NOMEM, "no memory for the schema");
    open_object(&writer);
    put_pair(&writer, &first, "$schema", "https://json-schema.org/draft/2020-12/schema");
    put_pair(&writer, &first, "title", title);
    put_message(&writer, &first, type, "");
    close_object(&writer);
    (void)fputc('\n', writer.out);
    if (fclose(writer.out) != 0) {
        free(text);
        return fault_set(fault, ERR_NOMEM, "no memory for the schema");
    }
    *ret_text = text;
    return 0;
}

int vm_spec_schema_print(char **ret_text, struct fault *fault)
{
    return print_schema("A VM of Godwit", &godwit__vm_spec__descriptor, ret_text, fault);
}

int vm_spec_schema_print_up(char **ret_text, struct fault *fault)
{
    return print_schema("VMs of a godwit.yaml", &godwit__up_file__descriptor, ret_text, fault);
}

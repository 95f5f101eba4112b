#include "cli/up_core.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/own.h"

enum { PATH_SIZE = 128, VALUE_SIZE = 96 };

struct diff {
    char *text;
    size_t used;
};

__attribute__((format(printf, 2, 3))) static void say(struct diff *diff, const char *format, ...)
{
    va_list args;
    size_t left = UP_DIFF_SIZE - diff->used;

    va_start(args, format);
    int n = vsnprintf(diff->text + diff->used, left, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < left)
        diff->used += (size_t)n;
    else
        diff->text[diff->used] = '\0'; /* whole lines only */
}

/* ---- one field ---- */
static const void *value_of(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    return (const char *)message + field->offset;
}

static bool is_there(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    if (!message)
        return false;
    const void *value = value_of(message, field);
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)((const char *)message + field->quantifier_offset) > 0;
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)value;
        return text && text[0];
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(ProtobufCMessage *const *)value != NULL;
    return *(const protobuf_c_boolean *)((const char *)message + field->quantifier_offset);
}

/* Absent numbers and switches are 0, as everywhere. Long texts are told as such. */
static void print_value(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                        char ret_text[static VALUE_SIZE])
{
    const void *value = message ? value_of(message, field) : NULL;
    bool there = message && is_there(message, field);

    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = there ? *(char *const *)value : "";
        if (strlen(text) < VALUE_SIZE - 2 && !strpbrk(text, "\n\t\r\033"))
            (void)snprintf(ret_text, VALUE_SIZE, "%s", there ? text : "nothing");
        else
            (void)snprintf(ret_text, VALUE_SIZE, "a text of %zu bytes", strlen(text));
    } else if (field->type == PROTOBUF_C_TYPE_BOOL) {
        bool is_set = there && *(const protobuf_c_boolean *)value;
        (void)snprintf(ret_text, VALUE_SIZE, "%s", is_set ? "true" : "false");
    } else if (field->type == PROTOBUF_C_TYPE_UINT64) {
        (void)snprintf(ret_text, VALUE_SIZE, "%llu",
                       there ? (unsigned long long)*(const uint64_t *)value : 0ULL);
    } else {
        (void)snprintf(ret_text, VALUE_SIZE, "%u", there ? *(const uint32_t *)value : 0);
    }
}

static bool is_same_value(const ProtobufCMessage *a, const ProtobufCMessage *b,
                          const ProtobufCFieldDescriptor *field)
{
    char left[VALUE_SIZE], right[VALUE_SIZE];

    if (field->type == PROTOBUF_C_TYPE_STRING && b && is_there(b, field))
        return strcmp(*(char *const *)value_of(a, field), *(char *const *)value_of(b, field)) == 0;
    print_value(a, field, left);
    print_value(b, field, right);
    return strcmp(left, right) == 0;
}

/* A store's name became its path when the VM was created; where to start first says nothing of the
 * VM as it is. */
static bool is_settled(const ProtobufCMessage *declared, const ProtobufCMessage *present,
                       const ProtobufCFieldDescriptor *field)
{
    if (declared->descriptor == &godwit__vm_spec__descriptor)
        return strcmp(field->name, "host") == 0 || strcmp(field->name, "version") == 0;
    if (declared->descriptor != &godwit__disk_spec__descriptor || !present ||
        strcmp(field->name, "store") != 0)
        return false;
    const Godwit__DiskSpec *disk = (const Godwit__DiskSpec *)declared;
    const Godwit__DiskSpec *has = (const Godwit__DiskSpec *)present;
    return has->pool_store && strcmp(has->pool_store, disk->store) == 0;
}

static void compare(struct diff *diff, const char *path, const ProtobufCMessage *declared,
                    const ProtobufCMessage *present);

static void compare_list(struct diff *diff, const char *path, const ProtobufCFieldDescriptor *field,
                         const ProtobufCMessage *declared, const ProtobufCMessage *present)
{
    size_t count = *(const size_t *)((const char *)declared + field->quantifier_offset);
    size_t has =
        present ? *(const size_t *)((const char *)present + field->quantifier_offset) : 0;
    ProtobufCMessage *const *list = *(ProtobufCMessage *const *const *)value_of(declared, field);
    ProtobufCMessage *const *theirs =
        has ? *(ProtobufCMessage *const *const *)value_of(present, field) : NULL;

    if (count != has)
        say(diff, "%s: %zu in the file, %zu in the pool\n", path, count, has);
    for (size_t i = 0; i < count && i < has; i++) {
        char inner[PATH_SIZE];
        (void)snprintf(inner, sizeof inner, "%.100s[%zu]", path, i);
        compare(diff, inner, list[i], theirs[i]);
    }
}

static void compare(struct diff *diff, const char *path, const ProtobufCMessage *declared,
                    const ProtobufCMessage *present)
{
    const ProtobufCMessageDescriptor *type = declared->descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        char inner[PATH_SIZE], ours[VALUE_SIZE], theirs[VALUE_SIZE];
        if (!is_there(declared, field) || is_settled(declared, present, field))
            continue;
        (void)snprintf(inner, sizeof inner, "%.90s%s%.30s", path, path[0] ? "." : "", field->name);
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            compare_list(diff, inner, field, declared, present);
        } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
            compare(diff, inner, *(ProtobufCMessage *const *)value_of(declared, field),
                    present ? *(ProtobufCMessage *const *)value_of(present, field) : NULL);
        } else if (!is_same_value(declared, present, field)) {
            print_value(declared, field, ours);
            print_value(present, field, theirs);
            say(diff, "%s: %s in the file, %s in the pool\n", inner, ours, theirs);
        }
    }
}

void up_core_diff(const Godwit__VmSpec *declared, const Godwit__VmSpec *present,
                  char ret_diff[static UP_DIFF_SIZE])
{
    struct diff diff = {.text = ret_diff};

    ret_diff[0] = '\0';
    compare(&diff, "", &declared->base, present ? &present->base : NULL);
}

/* ---- all ---- */
static const Godwit__VmInfo *find(const Godwit__VmInfo *const *present, size_t count,
                                  const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (present[i]->name && !present[i]->unadopted && strcmp(present[i]->name, name) == 0)
            return present[i];
    }
    return NULL;
}

static struct up_step step_of(const Godwit__VmSpec *declared, size_t number,
                              const Godwit__VmInfo *vm)
{
    struct up_step step = {.declared = number, .name = declared->name};

    step.vm_id = vm && vm->id && vm->id[0] ? vm->id : NULL;
    (void)snprintf(step.state, sizeof step.state, "%s", vm && vm->state ? vm->state : "");
    if (vm && vm->spec)
        up_core_diff(declared, vm->spec, step.diff);
    return step;
}

void up_core_plan(const Godwit__VmSpec *const *declared, size_t count,
                  const Godwit__VmInfo *const *present, size_t present_count,
                  struct up_step *ret_steps)
{
    for (size_t i = 0; i < count; i++) {
        const Godwit__VmInfo *vm = find(present, present_count, declared[i]->name);
        struct up_step *step = &ret_steps[i];
        *step = step_of(declared[i], i, vm);
        bool is_down = strcmp(step->state, "stopped") == 0 || strcmp(step->state, "crashed") == 0;
        step->action = !vm ? UP_CREATE : is_down ? UP_START : UP_KEEP;
    }
}

void up_core_plan_destroy(const Godwit__VmSpec *const *declared, size_t count,
                          const Godwit__VmInfo *const *present, size_t present_count,
                          struct up_step *ret_steps)
{
    for (size_t i = 0; i < count; i++) {
        size_t number = count - 1 - i;
        const Godwit__VmInfo *vm = find(present, present_count, declared[number]->name);
        ret_steps[i] = step_of(declared[number], number, vm);
        ret_steps[i].action = vm ? UP_REMOVE : UP_ABSENT;
    }
}

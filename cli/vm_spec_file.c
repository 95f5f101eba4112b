#include "cli/vm_spec_file.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/json.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/vm_spec_rules.h"
#include "cli/yaml_tree.h"
#include "proto/limits.h"
#include "proto/up.pb-c.h"
#include "proto/vm_spec.h"

enum {
    KEYS_MAX = 32,
    SCALAR_MAX = CLOUD_INIT_TEXT_MAX,
    PATH_MAX_BYTES = 128,
    LIST_MAX = 32,
    POOL_LIST_MAX = 10000
};

struct binder {
    const char *name; /* of the file */
    struct fault *fault;
    const ProtobufCMessageDescriptor *type;
    bool is_vm; /* else a pool, for what-if, or VMs to be brought up */
};

/* VMs of an up file are held to the rules of a VM. */
static const struct vm_spec_rule *rule_of(const struct binder *binder, const char *bare)
{
    static const char vms[] = "vms.";
    bool is_inside = binder->type == &godwit__up_file__descriptor &&
                     strncmp(bare, vms, strlen(vms)) == 0;
    return vm_spec_rule_find(is_inside ? bare + strlen(vms) : bare);
}

/* ---- where and what ---- */

/* Where the eye looks: a mapping or a list begins where its first key or item does. */
static struct yaml_node *place_of(struct yaml_node *node)
{
    while (node->kind != YAML_KIND_SCALAR && node->first)
        node = node->first;
    return node;
}

__attribute__((format(printf, 3, 4))) static int
refuse(struct binder *binder, struct yaml_node *node, const char *format, ...)
{
    char words[FAULT_TEXT_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(words, sizeof words, format, args);
    va_end(args);
    struct yaml_node *place = place_of(node);
    return fault_set(binder->fault, ERR_INVALID, "%.120s:%d:%d: %.330s", binder->name, place->line,
                     place->column, words);
}

/* "found the list [...]": for a node that cannot be taken. */
static void describe(struct yaml_node *node, char *ret_words, size_t size)
{
    if (!node || (node->kind == YAML_KIND_SCALAR && node->count == 0))
        (void)snprintf(ret_words, size, "nothing");
    else if (node->kind == YAML_KIND_MAPPING)
        (void)snprintf(ret_words, size, "a mapping (key: value)");
    else if (node->kind == YAML_KIND_LIST)
        (void)snprintf(ret_words, size, "a list");
    else if (node->kind == YAML_KIND_ALIAS)
        (void)snprintf(ret_words, size, "an alias");
    else
        (void)snprintf(ret_words, size, "'%.*s'", (int)(node->count < 40 ? node->count : 40),
                       node->text);
}

/* A copy of a scalar's text; refuses what is no plain scalar. */
static int take_text(struct binder *binder, struct yaml_node *at, struct yaml_node *node,
                     const char *path, const char *fits, char **ret_text)
{
    char found[80];
    if (node->kind == YAML_KIND_ALIAS)
        return refuse(binder, node, "%s: found an alias; write the value itself", path);
    if (node->kind != YAML_KIND_SCALAR) {
        describe(node, found, sizeof found);
        return refuse(binder, node, "%s: found %s; %s would fit", path, found, fits);
    }
    const char *text = node->text;
    size_t count = node->count;
    if (count > SCALAR_MAX)
        return refuse(binder, node, "%s: found %zu bytes, more than %d", path, count, SCALAR_MAX);
    if (memchr(text, '\0', count))
        return refuse(binder, node, "%s: found a zero byte", path);
    bool plain = node->plain;
    bool null = plain && (count == 0 || (count == 1 && text[0] == '~') ||
                          (count == 4 && memcmp(text, "null", 4) == 0));
    if (null)
        return refuse(binder, count ? node : at, "%s: found nothing; %s would fit", path, fits);
    *ret_text = strndup(text, count);
    return *ret_text ? 0
                     : fault_set(binder->fault, ERR_NOMEM, "no memory to read %s", binder->name);
}

/* ---- values ---- */

/* "disks[2].size" -> "disks.size", as the rules name it. */
static const char *without_numbers(const char *path, char ret_bare[static PATH_MAX_BYTES])
{
    size_t used = 0;
    for (const char *at = path; *at && used < PATH_MAX_BYTES - 1; at++) {
        if (*at == '[')
            at = strchr(at, ']');
        else
            ret_bare[used++] = *at;
    }
    ret_bare[used] = '\0';
    return ret_bare;
}

static const char *fits_of(const ProtobufCFieldDescriptor *field, const struct vm_spec_rule *rule,
                           char *words, size_t size)
{
    enum vm_spec_rule_kind kind = rule ? rule->kind : VM_SPEC_PLAIN;
    if (kind == VM_SPEC_BYTES)
        return "a size like 1GiB";
    if (kind == VM_SPEC_MS)
        return "a time like 100ms";
    if (kind == VM_SPEC_CHOICE) {
        vm_spec_rule_words(rule, words, size);
        return words;
    }
    if (field->type == PROTOBUF_C_TYPE_BOOL)
        return "true or false";
    if (field->type == PROTOBUF_C_TYPE_STRING)
        return "a text";
    if (rule && rule->max && rule->min == rule->max)
        (void)snprintf(words, size, "%llu", (unsigned long long)rule->min);
    else if (rule && rule->max)
        (void)snprintf(words, size, "a whole number from %llu to %llu",
                       (unsigned long long)rule->min, (unsigned long long)rule->max);
    else
        (void)snprintf(words, size, "a whole number");
    return words;
}

/* The number that `text` means for this field, or a reason in `reason`. */
static int read_number(const ProtobufCFieldDescriptor *field, const struct vm_spec_rule *rule,
                       const char *text, uint64_t *ret_number, struct fault *reason)
{
    enum vm_spec_rule_kind kind = rule ? rule->kind : VM_SPEC_PLAIN;
    uint64_t most = field->type == PROTOBUF_C_TYPE_UINT32 ? UINT32_MAX : UINT64_MAX;
    uint64_t min = rule ? rule->min : 0, max = rule && rule->max ? rule->max : most;
    uint64_t number;
    char low[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE];
    int r;
    if (kind == VM_SPEC_PLAIN)
        return units_parse_count(text, min, max, ret_number, reason);
    if (kind == VM_SPEC_BYTES) {
        r = units_parse_bytes(text, &number, reason);
        units_print_bytes(min, low);
        units_print_bytes(max, high);
    } else {
        r = units_parse_count(text, 0, UINT64_MAX, &number, NULL); /* bare: ms, as the key says */
        if (r < 0) {
            r = units_parse_duration(text, &number, reason);
            number = r < 0 ? 0 : number / NS_PER_MS;
        }
        units_print_duration(min * NS_PER_MS, low);
        units_print_duration(max * NS_PER_MS, high);
    }
    if (r < 0)
        return r;
    if (number < min || number > max)
        return fault_set(reason, ERR_INVALID, "found '%.40s'; %s to %s would fit", text, low, high);
    *ret_number = number;
    return 0;
}

static int check_text(const struct vm_spec_rule *rule, const char *text, struct fault *reason)
{
    if (!rule)
        return 0;
    if (rule->kind == VM_SPEC_NAME && !id_name_is_valid(text))
        return fault_set(reason, ERR_INVALID,
                         "found '%.70s'; letters, digits, '.', '_' and '-' would fit, %d at most, "
                         "first a letter or digit",
                         text, ID_NAME_MAX);
    if (rule->kind != VM_SPEC_CHOICE)
        return 0;
    size_t count = 0;
    for (; count < ARRAY_COUNT(rule->choices) && rule->choices[count]; count++) {
        if (strcmp(rule->choices[count], text) == 0)
            return 0;
    }
    const char *nearest = id_nearest(text, rule->choices, count);
    char words[120];
    vm_spec_rule_words(rule, words, sizeof words);
    return fault_set(reason, ERR_INVALID, "found '%.40s'; %s would fit%s%s%s", text, words,
                     nearest ? "; did you mean '" : "", nearest ? nearest : "",
                     nearest ? "'?" : "");
}

static void set_present(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    *(protobuf_c_boolean *)((char *)message + field->quantifier_offset) = true;
}

static int bind_scalar(struct binder *binder, struct yaml_node *key, struct yaml_node *node,
                       ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                       const char *path)
{
    AUTO_FREE char *text = NULL;
    char words[120], bare[PATH_MAX_BYTES];
    const struct vm_spec_rule *rule = rule_of(binder, without_numbers(path, bare));
    const char *fits = fits_of(field, rule, words, sizeof words);
    void *value = (char *)message + field->offset;
    struct fault reason = {0};
    uint64_t number = 0;
    int r = take_text(binder, key, node, path, fits, &text);
    if (r < 0)
        return r;
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        r = check_text(rule, text, &reason);
        if (r == 0)
            *(char **)value = TAKE(text);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            r = fault_set(&reason, ERR_INVALID, "found '%.40s'; true or false would fit", text);
        *(protobuf_c_boolean *)value = strcmp(text, "true") == 0;
        set_present(message, field);
        break;
    case PROTOBUF_C_TYPE_UINT32:
        r = read_number(field, rule, text, &number, &reason);
        *(uint32_t *)value = (uint32_t)number;
        set_present(message, field);
        break;
    case PROTOBUF_C_TYPE_UINT64:
        r = read_number(field, rule, text, &number, &reason);
        *(uint64_t *)value = number;
        set_present(message, field);
        break;
    default:
        assert(false && "vm_spec.proto has a type that the binder does not know");
    }
    return r < 0 ? refuse(binder, node, "%s: %s", path, reason.text) : 0;
}

/* ---- mappings ---- */

static int refuse_key(struct binder *binder, struct yaml_node *key, const char *word,
                      const ProtobufCMessageDescriptor *type, const char *path)
{
    const char *names[KEYS_MAX];
    char list[200] = "";
    size_t used = 0, count = type->n_fields < KEYS_MAX ? type->n_fields : KEYS_MAX;
    for (size_t i = 0; i < count; i++) {
        names[i] = type->fields[i].name;
        int n = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
        used += n > 0 && used + (size_t)n < sizeof list ? (size_t)n : 0;
    }
    const char *nearest = id_nearest(word, names, count);
    return refuse(binder, key, "%s%s%s: unknown key%s%s%s; there are %s", path, path[0] ? "." : "",
                  word, nearest ? "; did you mean '" : "", nearest ? nearest : "",
                  nearest ? "'?" : "", list);
}

static int bind_mapping(struct binder *binder, struct yaml_node *node, ProtobufCMessage *message,
                        const char *path);

/* Memory of a protobuf-c message comes from malloc, so that free_unpacked can give it back. */
static ProtobufCMessage *new_message(const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = malloc(type->sizeof_message);
    if (message)
        type->message_init(message);
    return message;
}

/* One message from a mapping; `key` stands for it where the file has nothing. */
static int bind_message(struct binder *binder, struct yaml_node *key, struct yaml_node *value,
                        const ProtobufCMessageDescriptor *type, const char *path,
                        ProtobufCMessage **ret_message)
{
    if (value->kind != YAML_KIND_MAPPING) {
        char found[80];
        describe(value, found, sizeof found);
        bool empty = value->kind == YAML_KIND_SCALAR && value->count == 0;
        return refuse(binder, empty ? key : value, "%s: found %s; a mapping (key: value) would fit",
                      path, found);
    }
    ProtobufCMessage *inner = new_message(type);
    if (!inner)
        return fault_set(binder->fault, ERR_NOMEM, "no memory to read %s", binder->name);
    *ret_message = inner; /* in the tree from here on, so it is freed with it */
    return bind_mapping(binder, value, inner, path);
}

static int bind_list(struct binder *binder, struct yaml_node *key, struct yaml_node *value,
                     ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                     const char *path)
{
    size_t *count = (size_t *)((char *)message + field->quantifier_offset);
    ProtobufCMessage ***list = (ProtobufCMessage ***)((char *)message + field->offset);
    if (value->kind != YAML_KIND_LIST) {
        char found[80];
        describe(value, found, sizeof found);
        bool empty = value->kind == YAML_KIND_SCALAR && value->count == 0;
        return refuse(binder, empty ? key : value,
                      "%s: found %s; a list (lines that begin with '- ') would fit", path, found);
    }
    size_t most = binder->is_vm ? LIST_MAX : POOL_LIST_MAX;
    *list = calloc(most, sizeof **list);
    if (!*list)
        return fault_set(binder->fault, ERR_NOMEM, "no memory to read %s", binder->name);
    for (struct yaml_node *item = value->first; item; item = item->next) {
        char inner[PATH_MAX_BYTES];
        int r = path_join(inner, sizeof inner, binder->fault, "%s[%zu]", path, *count);
        if (r < 0)
            return r;
        if (*count == most)
            return refuse(binder, item, "%s: found more than %zu", path, most);
        if (item->tagged)
            return refuse(binder, item, "%s: found a tag (!...); a spec takes none", inner);
        ProtobufCMessage *bound = NULL;
        r = bind_message(binder, item, item, field->descriptor, inner, &bound);
        if (bound)
            (*list)[(*count)++] = bound;
        if (r < 0)
            return r;
    }
    return 0;
}

static int bind_field(struct binder *binder, struct yaml_node *key, struct yaml_node *value,
                      ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                      const char *path)
{
    if (field->type != PROTOBUF_C_TYPE_MESSAGE)
        return bind_scalar(binder, key, value, message, field, path);
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return bind_list(binder, key, value, message, field, path);
    return bind_message(binder, key, value, field->descriptor, path,
                        (ProtobufCMessage **)((char *)message + field->offset));
}

static int bind_mapping(struct binder *binder, struct yaml_node *node, ProtobufCMessage *message,
                        const char *path)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    struct yaml_node *seen[KEYS_MAX] = {0};
    assert(type->n_fields <= KEYS_MAX);
    if (node->tagged)
        return refuse(binder, node, "%s: found a tag (!...); a spec takes none",
                      path[0] ? path : "the file");

    for (struct yaml_node *key = node->first; key; key = key->next->next) {
        struct yaml_node *value = key->next;
        AUTO_FREE char *word = NULL;
        int r = take_text(binder, key, key, path[0] ? path : "key", "a key", &word);
        if (r < 0)
            return r;
        if (value->tagged)
            return refuse(binder, value, "%.60s: found a tag (!...); a spec takes none", word);
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field_by_name(type, word);
        if (!field)
            return refuse_key(binder, key, word, type, path);
        size_t index = (size_t)(field - type->fields);
        if (seen[index])
            return refuse(binder, key, "%s%s%s: stands here for the second time; first on line %d",
                          path, path[0] ? "." : "", word, place_of(seen[index])->line);
        seen[index] = key;
        char inner[PATH_MAX_BYTES];
        (void)snprintf(inner, sizeof inner, "%s%s%s", path, path[0] ? "." : "", word);
        r = bind_field(binder, key, value, message, field, inner);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the file ---- */

/* The node that "disks[1].store: found ..." speaks of, or the nearest above it that is there. */
static struct yaml_node *find_place(struct yaml_node *root, const char *words)
{
    size_t count = strcspn(words, ": ");
    struct yaml_node *node = root;
    for (size_t i = 0; i < count && node;) {
        struct yaml_node *next;
        size_t length = strcspn(words + i, ".[]: ");
        if (length == 0) {
            i++;
            continue;
        }
        if (i > 0 && words[i - 1] == '[')
            next = yaml_node_item(node, strtoul(words + i, NULL, 10));
        else
            next = yaml_node_value(node, words + i, length);
        if (!next)
            break;
        node = next;
        i += length;
    }
    return node;
}

static int bind_document(struct binder *binder, struct yaml_node *root, ProtobufCMessage **ret_spec)
{
    char found[80];
    if (!root || root->kind != YAML_KIND_MAPPING) {
        describe(root, found, sizeof found);
        return fault_set(binder->fault, ERR_INVALID,
                         "%.120s:1:1: found %s; %s as key: value lines would fit, like "
                         "'%s'",
                         binder->name, found,
                         binder->is_vm                                     ? "a VM"
                         : binder->type == &godwit__up_file__descriptor ? "VMs"
                                                                           : "a pool",
                         binder->is_vm                                     ? "name: web-01"
                         : binder->type == &godwit__up_file__descriptor ? "vms:"
                                                                           : "hosts:");
    }
    ProtobufCMessage *spec = new_message(binder->type);
    if (!spec)
        return fault_set(binder->fault, ERR_NOMEM, "no memory to read %s", binder->name);
    int r = bind_mapping(binder, root, spec, "");
    struct fault reason = {0};
    if (r == 0 && binder->is_vm && vm_spec_judge((const Godwit__VmSpec *)spec, &reason) < 0)
        r = refuse(binder, find_place(root, reason.text), "%s", reason.text);
    if (r < 0) {
        protobuf_c_message_free_unpacked(spec, NULL);
        return r;
    }
    *ret_spec = spec;
    return 0;
}

/* What no spec needs: control letters (a zero byte, a form feed), bytes that are no UTF-8, and
 * directives ("%YAML"). */
static int check_bytes(struct binder *binder, const char *text, size_t count)
{
    int line = 1, column = 1;
    size_t length;
    for (size_t i = 0; i < count; i += length) {
        unsigned char c = (unsigned char)text[i];
        length = json_utf8_length(text + i, count - i);
        if (length == 0)
            return fault_set(binder->fault, ERR_INVALID,
                             "%.120s:%d:%d: found a byte that is no UTF-8 (0x%02x); plain text "
                             "would fit",
                             binder->name, line, column, c);
        if (c == '%' && column == 1)
            return fault_set(binder->fault, ERR_INVALID,
                             "%.120s:%d:1: found a directive (%%...); a spec takes none",
                             binder->name, line);
        if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f)
            return fault_set(binder->fault, ERR_INVALID,
                             "%.120s:%d:%d: found the control letter 0x%02x; plain text would fit",
                             binder->name, line, column, c);
        line += c == '\n';
        column = c == '\n' || c == '\r' ? 1 : column + 1;
    }
    return 0;
}

int vm_spec_file_bind(const char *text, size_t count, const char *name,
                      const ProtobufCMessageDescriptor *type, void *ret_message,
                      struct fault *fault)
{
    static const char mark[] = "\xef\xbb\xbf"; /* some editors begin a file with it */
    struct binder binder = {
        .name = name, .fault = fault, .type = type, .is_vm = type == &godwit__vm_spec__descriptor};
    if (count > SPEC_TEXT_MAX)
        return fault_set(fault, ERR_LIMIT, "%.120s has %zu bytes, more than %d", name, count,
                         SPEC_TEXT_MAX);
    if (count >= strlen(mark) && memcmp(text, mark, strlen(mark)) == 0) {
        text += strlen(mark);
        count -= strlen(mark);
    }
    int checked = check_bytes(&binder, text, count);
    if (checked < 0)
        return checked;
    struct yaml_node *root = NULL;
    int r = yaml_tree_parse(text, count, name, &root, fault);
    if (r < 0)
        return r;
    r = bind_document(&binder, root, (ProtobufCMessage **)ret_message);
    yaml_tree_free(root);
    return r;
}

int vm_spec_file_parse(const char *text, size_t count, const char *name, Godwit__VmSpec **ret_spec,
                       struct fault *fault)
{
    return vm_spec_file_bind(text, count, name, &godwit__vm_spec__descriptor, ret_spec, fault);
}

static int read_stdin(char **ret_text, size_t *ret_count, struct fault *fault)
{
    AUTO_FREE char *text = malloc(SPEC_TEXT_MAX + 2);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory to read stdin");
    size_t count = fread(text, 1, SPEC_TEXT_MAX + 1, stdin);
    if (ferror(stdin))
        return fault_set(fault, ERR_IO, "cannot read stdin");
    text[count] = '\0';
    *ret_text = TAKE(text);
    *ret_count = count;
    return 0;
}

int vm_spec_file_read_as(const char *path, const ProtobufCMessageDescriptor *type,
                         void *ret_message, struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    size_t count = 0;
    bool from_stdin = strcmp(path, "-") == 0;
    int r = from_stdin ? read_stdin(&text, &count, fault) : file_read(path, &text, &count, fault);
    if (r < 0)
        return r;
    return vm_spec_file_bind(text, count, from_stdin ? "stdin" : path, type, ret_message, fault);
}

int vm_spec_file_read(const char *path, Godwit__VmSpec **ret_spec, struct fault *fault)
{
    return vm_spec_file_read_as(path, &godwit__vm_spec__descriptor, ret_spec, fault);
}

static int lacks(const char *key, const char *flag, struct fault *fault)
{
    return fault_set(fault, ERR_INVALID, "the VM lacks its %s: give %s", key, flag);
}

int vm_spec_check(const Godwit__VmSpec *spec, struct fault *fault)
{
    char low[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE], found[UNITS_TEXT_SIZE];
    if (!spec->name || !spec->name[0])
        return lacks("name", "NAME or 'name:' in the file", fault);
    if (!id_name_is_valid(spec->name))
        return fault_set(fault, ERR_INVALID,
                         "name: found '%.70s'; letters, digits, '.', '_' and '-' would fit, %d at "
                         "most, first a letter or digit",
                         spec->name, ID_NAME_MAX);
    if (!vm_spec_boots_from_disk(spec) && !vm_spec_has_clones(spec) &&
        (!spec->kernel || !spec->kernel[0])) /* an image knows what it boots */
        return lacks("kernel", "--kernel FILE, 'kernel:' or 'boot: disk' in the file", fault);
    if (!spec->memory || !spec->memory->has_size)
        return lacks("memory", "--memory 1GiB or 'memory: {size: 1GiB}' in the file", fault);
    if (!spec->cpu || !spec->cpu->has_vcpus)
        return lacks("vCPUs", "--vcpus 2 or 'cpu: {vcpus: 2}' in the file", fault);
    uint64_t size = spec->memory->size;
    if (size < VM_MEMORY_MIN || size > VM_MEMORY_MAX || size % PAGE_BYTES != 0) {
        units_print_bytes(VM_MEMORY_MIN, low);
        units_print_bytes(VM_MEMORY_MAX, high);
        units_print_bytes(size, found);
        return fault_set(fault, ERR_INVALID,
                         "memory: found %s; %s to %s in whole pages of 4 KiB would fit", found, low,
                         high);
    }
    if (spec->cmdline && strlen(spec->cmdline) > CMDLINE_MAX)
        return fault_set(fault, ERR_INVALID, "cmdline: found %zu bytes, more than %d",
                         strlen(spec->cmdline), CMDLINE_MAX);
    return vm_spec_judge(spec, fault);
}

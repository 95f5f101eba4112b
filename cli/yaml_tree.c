#include "cli/yaml_tree.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/err.h"

struct reader {
    yaml_parser_t parser;
    const char *name;
    struct fault *fault;
    struct yaml_node *root;
    struct yaml_node **tail[YAML_TREE_DEPTH_MAX]; /* where the next item of each open level goes */
    size_t depth;
    unsigned documents;
};

static int no_memory(struct reader *reader)
{
    return fault_set(reader->fault, ERR_NOMEM, "no memory to read %s", reader->name);
}

static int refuse_syntax(struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    if (parser->error == YAML_MEMORY_ERROR)
        return no_memory(reader);
    return fault_set(reader->fault, ERR_INVALID, "%.120s:%zu:%zu: no YAML: %.160s%s%.120s",
                     reader->name, parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                     parser->problem ? parser->problem : "it cannot be read",
                     parser->context ? ", " : "", parser->context ? parser->context : "");
}

static struct yaml_node *add(struct reader *reader, const yaml_event_t *event, enum yaml_kind kind,
                             bool tagged)
{
    struct yaml_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->kind = kind;
    node->tagged = tagged;
    node->line = (int)event->start_mark.line + 1;
    node->column = (int)event->start_mark.column + 1;
    if (reader->depth == 0) {
        reader->root = node;
    } else {
        *reader->tail[reader->depth - 1] = node;
        reader->tail[reader->depth - 1] = &node->next;
    }
    return node;
}

static int take_scalar(struct reader *reader, const yaml_event_t *event)
{
    struct yaml_node *node = add(reader, event, YAML_KIND_SCALAR, event->data.scalar.tag != NULL);
    if (!node)
        return no_memory(reader);
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->count = event->data.scalar.length;
    node->text = malloc(node->count + 1);
    if (!node->text)
        return no_memory(reader);
    memcpy(node->text, event->data.scalar.value, node->count);
    node->text[node->count] = '\0';
    return 0;
}

static int open_node(struct reader *reader, const yaml_event_t *event, enum yaml_kind kind,
                     bool tagged)
{
    if (reader->depth == YAML_TREE_DEPTH_MAX)
        return fault_set(reader->fault, ERR_LIMIT, "%.120s:%zu:%zu: found more than %d levels",
                         reader->name, event->start_mark.line + 1, event->start_mark.column + 1,
                         YAML_TREE_DEPTH_MAX);
    struct yaml_node *node = add(reader, event, kind, tagged);
    if (!node)
        return no_memory(reader);
    reader->tail[reader->depth] = &node->first;
    reader->depth++;
    return 0;
}

/* The place of a second document is that of what stands in it. */
static int take(struct reader *reader, const yaml_event_t *event)
{
    bool holds = event->type == YAML_SCALAR_EVENT || event->type == YAML_ALIAS_EVENT ||
                 event->type == YAML_SEQUENCE_START_EVENT ||
                 event->type == YAML_MAPPING_START_EVENT;
    if (holds && reader->documents > 1)
        return fault_set(reader->fault, ERR_INVALID,
                         "%.120s:%zu:%zu: a second document begins here; one VM a file",
                         reader->name, event->start_mark.line + 1, event->start_mark.column + 1);
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        reader->documents++;
        return 0;
    case YAML_SCALAR_EVENT:
        return take_scalar(reader, event);
    case YAML_ALIAS_EVENT:
        return add(reader, event, YAML_KIND_ALIAS, false) ? 0 : no_memory(reader);
    case YAML_SEQUENCE_START_EVENT:
        return open_node(reader, event, YAML_KIND_LIST, event->data.sequence_start.tag != NULL);
    case YAML_MAPPING_START_EVENT:
        return open_node(reader, event, YAML_KIND_MAPPING, event->data.mapping_start.tag != NULL);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        reader->depth--;
        return 0;
    default:
        return 0;
    }
}

int yaml_tree_parse(const char *text, size_t count, const char *name, struct yaml_node **ret_root,
                    struct fault *fault)
{
    struct reader reader = {.name = name, .fault = fault};
    bool ended = false;
    int r = 0;
    if (!yaml_parser_initialize(&reader.parser))
        return no_memory(&reader);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, count);
    while (r == 0 && !ended) {
        yaml_event_t event;
        if (!yaml_parser_parse(&reader.parser, &event)) {
            r = refuse_syntax(&reader);
            break;
        }
        r = take(&reader, &event);
        ended = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&reader.parser);
    if (r < 0)
        reader.root = yaml_tree_free(reader.root);
    *ret_root = reader.root;
    return r;
}

/* Recursion as deep as the tree, which is bounded. */
struct yaml_node *yaml_tree_free(struct yaml_node *root)
{
    while (root) {
        struct yaml_node *next = root->next;
        yaml_tree_free(root->first);
        free(root->text);
        free(root);
        root = next;
    }
    return NULL;
}

struct yaml_node *yaml_node_value(struct yaml_node *mapping, const char *key, size_t count)
{
    if (mapping->kind != YAML_KIND_MAPPING)
        return NULL;
    for (struct yaml_node *at = mapping->first; at; at = at->next->next) {
        if (at->kind == YAML_KIND_SCALAR && at->count == count && memcmp(at->text, key, count) == 0)
            return at->next;
    }
    return NULL;
}

struct yaml_node *yaml_node_item(struct yaml_node *list, size_t index)
{
    struct yaml_node *at = list->kind == YAML_KIND_LIST ? list->first : NULL;
    while (at && index-- > 0)
        at = at->next;
    return at;
}

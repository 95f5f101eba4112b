/* A YAML file as a tree of nodes that know where they stand.
 *
 * Flow:   text -> [yaml_tree] -> vm_spec_file
 * Thread: any; no state.
 *
 * The parser's events become nodes of our own, so that an alias and a tag can be refused with their
 * place (libyaml's own document has already resolved them), nesting is bounded, and one file knows
 * the library.
 */
#ifndef GODWIT_CLI_YAML_TREE_H
#define GODWIT_CLI_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

struct fault;

enum { YAML_TREE_DEPTH_MAX = 32 };

enum yaml_kind { YAML_KIND_SCALAR, YAML_KIND_LIST, YAML_KIND_MAPPING, YAML_KIND_ALIAS };

struct yaml_node {
    enum yaml_kind kind;
    bool plain;              /* a scalar without quotes, no block text */
    bool tagged;             /* "!..." stands before it */
    int line, column;        /* from 1; columns count characters */
    char *text;              /* of a scalar; NUL behind `count` bytes, which may hold NULs */
    size_t count;            /* bytes of the text */
    struct yaml_node *first; /* items; of a mapping key, value, key, value */
    struct yaml_node *next;
};

/* The one document of `text`; NULL when there is none. Refuses what is no YAML and a second
 * document, with "name:line:column:". Free with yaml_tree_free. */
int yaml_tree_parse(const char *text, size_t count, const char *name, struct yaml_node **ret_root,
                    struct fault *fault);
struct yaml_node *yaml_tree_free(struct yaml_node *root);

/* The value of a mapping's key, the item of a list; NULL when there is none. */
struct yaml_node *yaml_node_value(struct yaml_node *mapping, const char *key, size_t count);
struct yaml_node *yaml_node_item(struct yaml_node *list, size_t index);

#endif

/* What a field of a VM's description takes beyond its protobuf type, and what it means.
 *
 * Flow:   [vm_spec_rules] -> vm_spec_file (binding YAML), vm_spec_schema
 * Thread: any; constants only.
 */
#ifndef GODWIT_CLI_VM_SPEC_RULES_H
#define GODWIT_CLI_VM_SPEC_RULES_H

#include <stddef.h>
#include <stdint.h>

enum vm_spec_rule_kind {
    VM_SPEC_PLAIN,
    VM_SPEC_BYTES,  /* "1GiB" */
    VM_SPEC_MS,     /* "100ms", or a bare number of ms */
    VM_SPEC_NAME,   /* as id_name_is_valid */
    VM_SPEC_CHOICE, /* one of the words */
};

enum { VM_SPEC_CHOICES_MAX = 4 };

struct vm_spec_rule {
    const char *path; /* "disks.size": without the numbers of a list */
    enum vm_spec_rule_kind kind;
    uint64_t min, max; /* of numbers; max 0: what the type takes */
    const char *choices[VM_SPEC_CHOICES_MAX];
    const char *help;
};

/* NULL: the type says all. */
const struct vm_spec_rule *vm_spec_rule_find(const char *path);
/* "gentle, balanced or finish". */
void vm_spec_rule_words(const struct vm_spec_rule *rule, char *ret_words, size_t size);

#endif

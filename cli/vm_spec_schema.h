/* The form of a VM's description as JSON Schema, made from the protobuf descriptors.
 *
 * Flow:   vm_spec.proto, vm_spec_rules -> [vm_spec_schema] -> `godwit vm schema`
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_VM_SPEC_SCHEMA_H
#define GODWIT_CLI_VM_SPEC_SCHEMA_H

struct fault;

/* Gives malloc'ed text that ends with a line end. */
int vm_spec_schema_print(char **ret_text, struct fault *fault);
/* The same for a godwit.yaml. */
int vm_spec_schema_print_up(char **ret_text, struct fault *fault);

#endif

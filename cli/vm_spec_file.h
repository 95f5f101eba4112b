/* A VM's description as YAML, bound to VmSpec by its descriptor.
 *
 * Flow:   spec.yaml -> [vm_spec_file] -> VmSpec -> METHOD_VM_CREATE_IN_POOL
 * Thread: any; no state.
 *
 * Every refusal begins with "file:line:column:", says what was found and what would fit. Unknown
 * and doubled keys, several documents, aliases and tags are refused: a typing error in a file that
 * makes machines must not pass in silence.
 */
#ifndef GODWIT_CLI_VM_SPEC_FILE_H
#define GODWIT_CLI_VM_SPEC_FILE_H

#include <stddef.h>

#include "proto/vm_spec.pb-c.h"

struct fault;

/* Gives a message to free with godwit__vm_spec__free_unpacked. `name` is for words of failure. */
int vm_spec_file_parse(const char *text, size_t count, const char *name, Godwit__VmSpec **ret_spec,
                       struct fault *fault);
/* "-" reads stdin. */
int vm_spec_file_read(const char *path, Godwit__VmSpec **ret_spec, struct fault *fault);
/* The same of another form (a pool, for what-if): a message of `type`, to `*(TYPE **)ret_message`.
 */
int vm_spec_file_bind(const char *text, size_t count, const char *name,
                      const ProtobufCMessageDescriptor *type, void *ret_message,
                      struct fault *fault);
int vm_spec_file_read_as(const char *path, const ProtobufCMessageDescriptor *type,
                         void *ret_message, struct fault *fault);
/* Is the whole, with what flags added, a VM that can be asked for? */
int vm_spec_check(const Godwit__VmSpec *spec, struct fault *fault);

#endif

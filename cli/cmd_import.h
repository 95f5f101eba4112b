/* godwit vm import, vm export: from and to other programs' definitions.
 *
 * Flow:   FILE -> import_libvirt, import_xl -> [cmd_import] -> YAML on stdout, words on stderr
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_IMPORT_H
#define GODWIT_CLI_CMD_IMPORT_H

struct context;

int cmd_vm_import(struct context *context);
int cmd_vm_export(struct context *context);

#endif

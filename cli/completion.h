/* Completion scripts, written from the command table.
 *
 * Flow:   command_table -> [completion] -> bash, zsh, fish
 * Thread: any; pure.
 *
 * Names of VMs, hosts and jobs are asked of the pool when Tab is pressed (godwit vm ls -o name).
 */
#ifndef GODWIT_CLI_COMPLETION_H
#define GODWIT_CLI_COMPLETION_H

#include <stdio.h>

struct command_table;

void completion_bash(FILE *out, const struct command_table *table);
void completion_zsh(FILE *out, const struct command_table *table);
void completion_fish(FILE *out, const struct command_table *table);

#endif

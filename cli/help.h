/* Help pages, written from the command table.
 *
 * Flow:   command_table -> [help] -> stdout
 * Thread: any; pure.
 */
#ifndef GODWIT_CLI_HELP_H
#define GODWIT_CLI_HELP_H

#include <stdio.h>

struct command;
struct command_table;

void help_command(FILE *out, const struct command_table *table, const struct command *command);
/* What stands below `group`; "" for all. */
void help_group(FILE *out, const struct command_table *table, const char *group);

#endif

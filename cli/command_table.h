/* Every command there is: one row each. A new command is a row here and a file cmd_*.c.
 *
 * Flow:   cmd_* -> [command_table] -> main, help, completion
 * Thread: constants only.
 */
#ifndef GODWIT_CLI_COMMAND_TABLE_H
#define GODWIT_CLI_COMMAND_TABLE_H

#include "cli/command.h"

extern const struct command_table command_table;

#endif

/* godwit events, godwit audit, godwit audit verify.
 *
 * Flow:   command -> [cmd_record] -> client
 * Thread: the command's.
 */
#ifndef GODWIT_CLI_CMD_RECORD_H
#define GODWIT_CLI_CMD_RECORD_H

struct context;

int cmd_events(struct context *context);
int cmd_audit(struct context *context);
int cmd_audit_verify(struct context *context);

#endif

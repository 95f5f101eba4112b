/* godwit image build: an image from another one and the steps of a file.
 *
 * Flow:   command_table -> [cmd_build] -> build_file, build_script; console -> build_core ->
 * build_output; image seal Thread: the command's.
 *
 *   names judged -> VM made from the base -> its console heard until it is off -> its disk sealed
 * -> VM removed ` any failure, Ctrl-C, the time that is up ----------------------------------'
 *
 * Whatever comes of it, that VM and its disk are gone when the command ends, unless --keep and a
 * failure. Ctrl-C while the pool makes or seals a disk waits for that to be over; a second one
 * leaves the rest to the operator.
 */
#ifndef GODWIT_CLI_CMD_BUILD_H
#define GODWIT_CLI_CMD_BUILD_H

struct context;

int cmd_build(struct context *context);

#endif

/* What `godwit image build` is to do, read from YAML and judged.
 *
 * Flow:   build.yaml -> [build_file] -> build_script, cmd_build
 * Thread: any; no state. Reads the file, and the files that it names.
 */
#ifndef GODWIT_CLI_BUILD_FILE_H
#define GODWIT_CLI_BUILD_FILE_H

#include <stddef.h>

#include "proto/build.pb-c.h"

struct fault;

enum { BUILD_STEPS_MAX = 64, BUILD_TITLE_SIZE = 80 };

/* The parsed and judged file, with each `from` read into `content`. Give it back with
 * godwit__build_file__free_unpacked. `name` stands in words of failure; `folder`: what relative
 * paths of `from` begin at, and what none leads out of, by links neither. */
int build_file_parse(const char *text, size_t count, const char *name, const char *folder,
                     Godwit__BuildFile **ret_file, struct fault *fault);
int build_file_read(const char *path, Godwit__BuildFile **ret_file, struct fault *fault);
/* What a step is called: its first line, or the file it makes. To be cleaned before it is shown. */
void build_file_title(const Godwit__BuildStep *step, char ret_title[static BUILD_TITLE_SIZE]);

#endif

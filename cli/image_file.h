/* The file that an operator imports: raw as it is, qcow2 made raw; other forms are told from it.
 *
 * Flow:   cmd_image -> [image_file] -> image_convert; image_send
 * Thread: the command's.
 *
 * Forms of other programs are refused by their first bytes. We never read qcow2 beyond those, which
 * say that it is one, and whether it names another file.
 */
#ifndef GODWIT_CLI_IMAGE_FILE_H
#define GODWIT_CLI_IMAGE_FILE_H

#include <stddef.h>
#include <stdint.h>

struct fault;

enum image_form { IMAGE_RAW, IMAGE_QCOW2, IMAGE_FOREIGN };

/* By its first bytes; `ret_what` names a foreign form ("VMDK"). ERR_REFUSED: a qcow2 that names
 * another file. Pure. */
int image_file_judge(const uint8_t *bytes, size_t count, enum image_form *ret_form,
                     const char **ret_what, struct fault *fault);
/* Opens `path` for reading as raw content: itself, or what it was converted to. `form` "auto" (by its
 * first bytes), "qcow2", or "raw": whatever its bytes look like. */
int image_file_open(const char *path, const char *form, int *ret_fd, uint64_t *ret_size,
                    struct fault *fault);

#endif

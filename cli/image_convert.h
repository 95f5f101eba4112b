/* qcow2 made raw by qemu-img, which runs in a cage: what it reads may be hostile.
 *
 * Flow:   image_file -> [image_convert] -> /usr/bin/qemu-img
 * Thread: the command's, and one of its own for as long as it takes: what the cage takes away is
 *         taken from that thread, and the program that it starts inherits it.
 *
 * The program gets both files as open descriptors. It has no network, no new privileges, 4 GiB of
 * memory at most, and with Landlock (Linux 5.13) no file but those two, programs and libraries.
 */
#ifndef GODWIT_CLI_IMAGE_CONVERT_H
#define GODWIT_CLI_IMAGE_CONVERT_H

struct fault;

/* `fd`: a qcow2 file that image_file_judge found to stand alone; borrowed. Gives a file without name
 * (in TMPDIR, else /var/tmp), so that nothing of it stays whatever happens. ERR_UNSUPPORTED:
 * qemu-img is not installed. */
int image_convert_qcow2(int fd, int *ret_fd, struct fault *fault);

#endif

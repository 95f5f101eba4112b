#include "cli/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/image_convert.h"
#include "proto/limits.h"

enum { HEAD_BYTES = 512 };

/* ---- what it is ---- */
static uint64_t big_endian(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;

    for (size_t i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

static int judge_qcow2(const uint8_t *bytes, size_t count, struct fault *fault)
{
    enum { VERSION = 4, BACKING = 8, FEATURES = 72, EXTERNAL_DATA = 1 << 2 };

    if (count < FEATURES + 8)
        return fault_set(fault, ERR_CORRUPT, "the qcow2 file ends in its header");
    uint64_t version = big_endian(bytes + VERSION, 4);
    if (version != 2 && version != 3)
        return fault_set(fault, ERR_UNSUPPORTED, "qcow2 of version %llu; 2 and 3 would fit",
                         (unsigned long long)version);
    if (big_endian(bytes + BACKING, 8) != 0) {
        (void)fault_set(fault, ERR_REFUSED,
                        "the qcow2 file names a backing file, which would be read with your "
                        "rights; one that stands alone would fit");
        fault_hint(fault, "qemu-img rebase -b '' FILE");
        return ERR_REFUSED;
    }
    if (version == 3 && big_endian(bytes + FEATURES, 8) & EXTERNAL_DATA)
        return fault_set(fault, ERR_REFUSED,
                         "the qcow2 file keeps its data in another file, which would be read with "
                         "your rights; one that stands alone would fit");
    return 0;
}

int image_file_judge(const uint8_t *bytes, size_t count, enum image_form *ret_form,
                     const char **ret_what, struct fault *fault)
{
    static const struct {
        const char *magic, *what;
    } foreign[] = {{"KDMV", "VMDK"},     {"# Disk Descriptor", "VMDK"}, {"conectix", "VHD"},
                   {"vhdxfile", "VHDX"}, {"QED", "QED"},                {"<<< ", "VDI"}};

    *ret_what = "raw";
    *ret_form = IMAGE_RAW;
    if (count >= 4 && memcmp(bytes, "QFI\xfb", 4) == 0) {
        *ret_what = "qcow2";
        *ret_form = IMAGE_QCOW2;
        return judge_qcow2(bytes, count, fault);
    }
    for (size_t i = 0; i < ARRAY_COUNT(foreign); i++) {
        size_t length = strlen(foreign[i].magic);
        if (count >= length && memcmp(bytes, foreign[i].magic, length) == 0) {
            *ret_what = foreign[i].what;
            *ret_form = IMAGE_FOREIGN;
        }
    }
    return 0;
}

/* ---- opening ---- */
static int judge_size(int fd, uint64_t *ret_size, struct fault *fault)
{
    struct stat info;

    if (fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for its size");
    if (!S_ISREG(info.st_mode))
        return fault_set(fault, ERR_INVALID, "it is no plain file");
    if (info.st_size < IMAGE_BYTES_MIN || info.st_size % 512 != 0)
        return fault_set(fault, ERR_INVALID,
                         "its %lld bytes are no disk: %d and more in whole sectors of 512",
                         (long long)info.st_size, IMAGE_BYTES_MIN);
    if ((uint64_t)info.st_size > DISK_BYTES_MAX)
        return fault_set(fault, ERR_LIMIT, "its %lld bytes are more than the %llu that a disk may have",
                         (long long)info.st_size, (unsigned long long)DISK_BYTES_MAX);
    *ret_size = (uint64_t)info.st_size;
    return 0;
}

static int open_form(int *fd, const char *form, uint64_t *ret_size, struct fault *fault)
{
    uint8_t head[HEAD_BYTES];
    enum image_form found = IMAGE_RAW;
    const char *what = "raw";

    ssize_t n = pread(*fd, head, sizeof head, 0);
    if (n < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading it");
    bool is_raw = strcmp(form, "raw") == 0;
    int r = is_raw ? 0 : image_file_judge(head, (size_t)n, &found, &what, fault);
    if (r == 0 && found == IMAGE_FOREIGN) {
        r = fault_set(fault, ERR_UNSUPPORTED, "it looks like %s; raw and qcow2 would fit", what);
        fault_hint(fault, "qemu-img convert -O raw FILE FILE.raw");
    }
    if (r == 0 && strcmp(form, "qcow2") == 0 && found != IMAGE_QCOW2)
        r = fault_set(fault, ERR_INVALID, "it is no qcow2");
    if (r == 0 && found == IMAGE_QCOW2) {
        int raw = -1;
        r = image_convert_qcow2(*fd, &raw, fault);
        if (r == 0) {
            close_p(fd);
            *fd = raw;
        }
    }
    return r < 0 ? r : judge_size(*fd, ret_size, fault);
}

int image_file_open(const char *path, const char *form, int *ret_fd, uint64_t *ret_size,
                    struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno),
                               errno, "opening %s", path);
    int r = open_form(&fd, form, ret_size, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%.200s", path);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

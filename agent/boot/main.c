/* godwit-boot-reader: what a guest's disk would boot, read in a process that can do nothing else.
 *
 * Descriptors: 3 the disk (read only), 4 kernel, 5 initrd, 6 result (all three empty files). The
 * guest wrote every byte that is parsed here, so before the first one is read this process gives up
 * all system calls but reading, writing and ending, and bounds its memory and time; who broke it
 * could write a bad kernel into descriptor 4, which the guest may do anyway.
 *
 * The result is "ok <options>" or "error <words>". */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "storage/boot_disk.h"

enum { FD_DISK = 3, FD_KERNEL, FD_INITRD, FD_RESULT, CHUNK = 1 << 20, CPU_S_MAX = 20 };

#define MEMORY_MAX ((rlim_t)256 << 20)

static uint8_t chunk[CHUNK];

static int read_disk(void *data, uint64_t offset, void *bytes, size_t count, struct fault *fault)
{
    (void)data;
    for (size_t done = 0; done < count;) {
        ssize_t n = pread(FD_DISK, (uint8_t *)bytes + done, count - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fault_set_errno(fault, ERR_IO, n < 0 ? errno : EIO, "reading the disk");
        done += (size_t)n;
    }
    return 0;
}

static int write_all(int fd, const void *bytes, size_t count, struct fault *fault)
{
    for (size_t done = 0; done < count;) {
        ssize_t n = write(fd, (const uint8_t *)bytes + done, count - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fault_set_errno(fault, ERR_IO, n < 0 ? errno : EIO, "writing a boot file");
        done += (size_t)n;
    }
    return 0;
}

static int copy_file(struct ext4 *fs, const struct ext4_inode *file, int fd, struct fault *fault)
{
    static const uint8_t zeros[4];
    int r = 0;

    for (uint64_t at = 0; r == 0 && at < file->bytes;) {
        size_t count = file->bytes - at < CHUNK ? (size_t)(file->bytes - at) : CHUNK;
        r = ext4_read(fs, file, at, chunk, count, fault);
        if (r == 0)
            r = write_all(fd, chunk, count, fault);
        at += count;
    }
    if (r == 0 && file->bytes % 4) /* another archive may follow: they begin on 4 */
        r = write_all(fd, zeros, 4 - file->bytes % 4, fault);
    return r;
}

static int measure(uint64_t *ret_bytes, struct fault *fault)
{
    struct stat info;

    if (fstat(FD_DISK, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the disk's size");
    *ret_bytes = (uint64_t)info.st_size;
    if (S_ISBLK(info.st_mode) && ioctl(FD_DISK, BLKGETSIZE64, ret_bytes) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the disk's size");
    return 0;
}

static int limit(int resource, rlim_t most)
{
    const struct rlimit value = {.rlim_cur = most, .rlim_max = most};

    return setrlimit((__rlimit_resource_t)resource, &value);
}

/* From here on: read and write what is open, take a little memory, end. */
static int lock_down(struct fault *fault)
{
#define ALLOW(name)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(pread64),
        ALLOW(write),
        ALLOW(brk),
        ALLOW(mmap),
        ALLOW(munmap),
        ALLOW(mremap),
        ALLOW(getrandom), /* malloc asks for a few bytes */
        ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const struct sock_fprog program = {.len = ARRAY_COUNT(rules), .filter = rules};

    if (limit(RLIMIT_AS, MEMORY_MAX) < 0 || limit(RLIMIT_CPU, CPU_S_MAX) < 0 ||
        limit(RLIMIT_CORE, 0) < 0 || limit(RLIMIT_NOFILE, 0) < 0 ||
        limit(RLIMIT_FSIZE, (rlim_t)BOOT_ENTRY_INITRDS_MAX * EXT4_FILE_MAX) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno, "locking the reader in");
    return 0;
}

static int read_it(struct boot_disk *disk, struct fault *fault)
{
    uint64_t bytes;

    int r = measure(&bytes, fault);
    if (r == 0)
        r = lock_down(fault);
    if (r == 0)
        r = boot_disk_open(disk, read_disk, NULL, bytes, fault);
    if (r == 0)
        r = copy_file(&disk->fs, &disk->kernel, FD_KERNEL, fault);
    for (unsigned i = 0; r == 0 && i < disk->entry.initrd_count; i++)
        r = copy_file(&disk->fs, &disk->initrds[i], FD_INITRD, fault);
    return r;
}

int main(void)
{
    static struct boot_disk disk;
    struct fault fault = {0};
    char line[BOOT_ENTRY_OPTIONS_SIZE + 16];

    int r = read_it(&disk, &fault);
    int n = r == 0 ? snprintf(line, sizeof line, "ok %s", disk.entry.options)
                   : snprintf(line, sizeof line, "error %s", fault.text);
    struct fault ignored = {0};
    return write_all(FD_RESULT, line, (size_t)n, &ignored) == 0 && r == 0 ? 0 : 1;
}

#include "agent/cloud_seed.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/iso_image.h"

static bool is_given(const char *text)
{
    return text && text[0];
}

static int write_sealed(const uint8_t *bytes, size_t count, int *ret_fd, struct fault *fault)
{
    AUTO_FD int fd = memfd_create("godwit-cidata", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making a seed");
    for (size_t done = 0; done < count;) {
        ssize_t n = pwrite(fd, bytes + done, count - done, (off_t)done);
        if (n <= 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "making a seed");
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "sealing a seed");
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int cloud_seed_open(const Godwit__VmSpec *spec, const char *vm_id, int *ret_fd, uint64_t *ret_bytes,
                    struct fault *fault)
{
    const Godwit__CloudInitSpec *cloud = spec->cloud_init;
    struct iso_image_file files[3];
    char meta[VM_SPEC_META_SIZE];
    size_t count = 0;
    AUTO_FREE uint8_t *bytes = NULL;

    assert(cloud);
    vm_spec_meta_data(spec, vm_id, meta);
    const char *meta_data = is_given(cloud->meta_data) ? cloud->meta_data : meta;
    const char *user_data = is_given(cloud->user_data) ? cloud->user_data : "#cloud-config\n";
    files[count++] = (struct iso_image_file){"meta-data", meta_data, strlen(meta_data)};
    if (is_given(cloud->network_config))
        files[count++] = (struct iso_image_file){"network-config", cloud->network_config,
                                                 strlen(cloud->network_config)};
    files[count++] = (struct iso_image_file){"user-data", user_data, strlen(user_data)};
    size_t size;
    int r = iso_image_build("cidata", files, count, &bytes, &size, fault);
    if (r == 0)
        r = write_sealed(bytes, size, ret_fd, fault);
    if (r < 0)
        return fault_wrap(fault, r, "cloud-init seed of %s", spec->name);
    *ret_bytes = size;
    return 0;
}

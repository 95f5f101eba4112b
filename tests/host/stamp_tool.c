/* stamp_tool FOLDER VM [GENERATION OWNER]: what a stamp says, or, with the last two, take it for OWNER as
 * another host would: exactly from what it says now. For tests/host/test_pool_disks.py. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "storage/stamp.h"

int main(int argc, char **argv)
{
    struct stamp found, wanted = {0};
    struct fault fault = {0};
    int fd = argc == 3 || argc == 5 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = fd < 0 ? ERR_INVALID : stamp_read(fd, argv[2], &found, &fault);

    if (r == 0 && argc == 5) {
        struct stamp expected = found;
        wanted.generation = strtoull(argv[3], NULL, 10);
        (void)snprintf(wanted.owner, sizeof wanted.owner, "%s", argv[4]);
        (void)snprintf(wanted.incarnation, sizeof wanted.incarnation, "another-boot");
        r = stamp_swap(fd, argv[2], &expected, &wanted, &found, &fault);
    }
    if (r == 0)
        printf("%llu %s\n", (unsigned long long)found.generation, found.owner);
    else
        (void)fprintf(stderr, "stamp_tool: %d %s\n", r, fault.text);
    return r == 0 ? 0 : 1;
}

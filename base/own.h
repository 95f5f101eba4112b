/* Scope-bound ownership: AUTO frees at the end of the scope, TAKE hands over and NULLs. */
#ifndef GODWIT_BASE_OWN_H
#define GODWIT_BASE_OWN_H

#include <stdlib.h>
#include <unistd.h>

#define AUTO(function) __attribute__((cleanup(function)))

#define TAKE(pointer)                                                                              \
    ({                                                                                             \
        __typeof__(pointer) taken_ = (pointer);                                                    \
        (pointer) = NULL;                                                                          \
        taken_;                                                                                    \
    })

#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int taken_fd_ = (fd);                                                                      \
        (fd) = -1;                                                                                 \
        taken_fd_;                                                                                 \
    })

#define CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

static inline void free_p(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

/* Closed once, whoever asks again: a number that is closed twice is somebody else's by then. */
static inline void close_p(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* a descriptor that we give up: nothing to do about an error */
    *fd = -1;
}

#define AUTO_FREE AUTO(free_p)
#define AUTO_FD AUTO(close_p)

#endif

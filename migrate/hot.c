#include "migrate/hot.h"

#include <unistd.h>

bool hot_streams(unsigned lanes)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned threads = lanes + 2; /* the control lane and the move's own */
    return cores > 0 && (unsigned long)cores >= 2UL * threads;
}

#include "migrate/hot.h"

#include <unistd.h>

bool hot_streams(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN) > 1;
}

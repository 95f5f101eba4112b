/* Several addresses in one word: "10.0.0.1:7411,10.0.0.2:7411". A pool with several coordinators is
 * told so wherever one address would do.
 *
 * Flow:   agent.json, operator.json, join token -> [address_list] -> agent, cli
 * Thread: any; no state.
 */
#ifndef GODWIT_PROTO_ADDRESS_LIST_H
#define GODWIT_PROTO_ADDRESS_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum { ADDRESS_SIZE = 256, ADDRESSES_MAX = 9 };

static inline size_t address_list_count(const char *list)
{
    size_t count = list[0] ? 1 : 0;
    for (const char *at = list; *at; at++)
        count += *at == ',';
    return count;
}

/* The one at `index`; false when there is none or it does not fit. */
static inline bool address_list_get(const char *list, size_t index, char *ret_address, size_t size)
{
    for (; index > 0; index--) {
        list = strchr(list, ',');
        if (!list)
            return false;
        list++;
    }
    size_t length = strcspn(list, ",");
    if (length == 0 || length >= size)
        return false;
    memcpy(ret_address, list, length);
    ret_address[length] = '\0';
    return true;
}

#endif

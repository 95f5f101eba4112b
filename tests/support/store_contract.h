/* The contract of store.h, the same for every driver. */
#ifndef GODWIT_TESTS_STORE_CONTRACT_H
#define GODWIT_TESTS_STORE_CONTRACT_H

#include <stdbool.h>

struct loop;
struct store;

struct store_contract {
    const char *(*where)(void);
    int (*set_up)(void **state), (*tear_down)(void **state); /* an empty store for each test */
    bool waits_for_the_dead; /* a killed writer's right ends by time */
    int killed_rounds;
};
int store_contract_run(const struct store_contract *contract);
struct store *store_contract_open(struct loop *loop);

#endif

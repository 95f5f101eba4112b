#include "agent/vm/rest.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"

struct rest {
    struct rest_config config;
    int fd;
    bool is_working;
    bool is_stopped; /* atomic */
    struct guest_file_counts counts;
    struct fault fault;
    int result;
};

static void work(void *data)
{
    struct rest *rest = data;
    const struct rest_config *config = &rest->config;

    if (!config->is_load) {
        rest->result = guest_file_write(config->guest, &config->label, rest->fd, &rest->is_stopped,
                                        &rest->counts, &rest->fault);
        return;
    }
    rest->result =
        guest_file_read(config->guest, &config->label, rest->fd, &rest->counts, &rest->fault);
    if (rest->result < 0 || __atomic_load_n(&rest->is_stopped, __ATOMIC_RELAXED))
        return;
    config->before_consume(config->data);
    if (config->keeps_file)
        return;
    rest->result = guest_label_consume(rest->fd, config->consumed_by, &rest->fault);
}

static void work_done(void *data)
{
    struct rest *rest = data;

    rest->is_working = false;
    if (__atomic_load_n(&rest->is_stopped, __ATOMIC_RELAXED))
        return; /* rest_free waits for this */
    struct fault fault = rest->fault;
    if (rest->result < 0 && !fault.code)
        (void)fault_set(&fault, rest->result, "%s", err_name(rest->result));
    rest->config.done(rest->config.data, &rest->counts, rest->result < 0 ? &fault : NULL);
}

int rest_new(struct rest **ret_rest, const struct rest_config *config, int fd, struct fault *fault)
{
    struct rest *rest = calloc(1, sizeof *rest);
    if (!rest)
        return fault_set(fault, ERR_NOMEM, "no memory for a guest's file");
    rest->config = *config;
    rest->fd = fd;
    rest->is_working = true;
    int r = loop_work(config->loop, work, work_done, rest);
    if (r < 0) {
        free(rest);
        return fault_set(fault, r, "no worker for a guest's file");
    }
    *ret_rest = rest;
    return 0;
}

struct rest *rest_free(struct rest *rest)
{
    if (!rest)
        return NULL;
    __atomic_store_n(&rest->is_stopped, true, __ATOMIC_RELAXED);
    while (rest->is_working)
        loop_turn(rest->config.loop, true); /* it holds a pointer to us */
    close_p(&rest->fd);
    free(rest);
    return NULL;
}

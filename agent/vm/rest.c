#include "agent/vm/rest.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "migrate/guest.h"
#include "migrate/guest_pager.h"

enum { PATIENCE_MS = 30000 }; /* a store that is away for a moment comes back */

struct rest {
    struct rest_config config;
    int fd;
    struct guest_pager *pager; /* owned; NULL: all of the memory is read before it runs */
    bool is_working;
    bool is_stopped; /* atomic */
    struct guest_file_counts counts;
    struct fault fault;
    int result;
};

/* 0: `pager` brings the memory, or there is none and it is to be read as always. */
static int load_lazily(struct rest *rest, struct fault *fault)
{
    const struct rest_config *config = &rest->config;
    const struct guest_pager_config pager = {
        .guest = config->guest,
        .expected = &config->label,
        .fd = rest->fd,
        .patience_ms = PATIENCE_MS,
        .whole = config->whole,
        .lost = config->lost,
        .data = config->data,
    };

    int r = guest_pager_new(&rest->pager, &pager, fault);
    if (r != ERR_UNSUPPORTED)
        return r < 0 ? r : guest_pager_load(rest->pager, fault);
    log_warn("rest", "all of its memory is read before it runs vm=%s: %s", config->guest->vm_id,
             fault->text);
    *fault = (struct fault){0};
    return 0;
}

static int load(struct rest *rest, struct fault *fault)
{
    const struct rest_config *config = &rest->config;

    int r = config->is_lazy ? load_lazily(rest, fault) : 0;
    if (r == 0 && !rest->pager)
        r = guest_file_read(config->guest, &config->label, rest->fd, &rest->counts, fault);
    if (r < 0 || __atomic_load_n(&rest->is_stopped, __ATOMIC_RELAXED))
        return r;
    config->before_consume(config->data);
    if (!config->keeps_file)
        r = guest_label_consume(rest->fd, config->consumed_by, fault);
    if (r < 0 || !rest->pager)
        return r;
    /* It may touch a page: not for the loop to wait for. */
    r = guest_pager_commit(rest->pager, fault);
    return r < 0 ? r : config->guest->ops->resume(config->guest->owner, fault);
}

static void work(void *data)
{
    struct rest *rest = data;
    const struct rest_config *config = &rest->config;

    rest->result = config->is_load
                       ? load(rest, &rest->fault)
                       : guest_file_write(config->guest, &config->label, rest->fd,
                                          &rest->is_stopped, &rest->counts, &rest->fault);
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

struct guest_pager *rest_take_pager(struct rest *rest)
{
    return TAKE(rest->pager);
}

struct rest *rest_free(struct rest *rest)
{
    if (!rest)
        return NULL;
    __atomic_store_n(&rest->is_stopped, true, __ATOMIC_RELAXED);
    while (rest->is_working)
        loop_turn(rest->config.loop, true); /* it holds a pointer to us */
    rest->pager = guest_pager_free(rest->pager);
    close_p(&rest->fd);
    free(rest);
    return NULL;
}

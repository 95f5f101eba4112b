/* A guest that runs while its memory still comes out of its file: first what somebody waits for.
 *
 * Flow:   file -> guest_index -> [guest_pager] -> page_faults -> RAM;  agent/vm -> [guest_pager]
 * Thread: its own two: one answers faults, one goes through the file from its begin. new, load, commit and free by
 *         one thread at a time; `whole` and `lost` run on its threads, and free may not be called by them.
 *
 *      new:     head, index and machine are judged, what cannot wait for a page is read; nothing of the RAM is here
 *      load:    the machine; pages that it touches are read for it
 *      commit:  the guest may run from now on. Before it whatever is wrong fails load or commit, and the guest is
 *               nobody's. After it a page that cannot be read any more is lost: whoever waits for it goes on
 *               waiting, for ever, and never sees anything else in its place
 *      run:     the rest is read too
 *      whole:   every page of the file is in the guest, each as it was written
 */
#ifndef GODWIT_MIGRATE_GUEST_PAGER_H
#define GODWIT_MIGRATE_GUEST_PAGER_H

#include <stdint.h>

struct fault;
struct guest;
struct guest_label;
struct guest_pager;

struct guest_pager_config {
    struct guest *guest; /* borrowed, must outlive it; its memory is untouched */
    const struct guest_label *expected;
    int fd; /* borrowed for the call */
    uint32_t patience_ms; /* once it runs a read that fails is tried again for so long before its pages are lost */
    void (*whole)(void *data);
    void (*lost)(void *data, const struct fault *fault); /* once */
    void *data;
};

struct guest_pager_counts {
    uint64_t pages, bytes;      /* of the file */
    uint64_t pages_left;        /* to come */
    uint64_t faults, fault_pages; /* accesses that waited; pages that were read for them */
    uint64_t ns;                /* since new, or until it was whole */
};

/* ERR_UNSUPPORTED: of this file, on this host or for this guest it cannot be done, and nothing was: it can be read
 * as a whole. Anything else is wrong with the file. */
int guest_pager_new(struct guest_pager **ret_pager, const struct guest_pager_config *config,
                    struct fault *fault);
int guest_pager_load(struct guest_pager *pager, struct fault *fault);
int guest_pager_commit(struct guest_pager *pager, struct fault *fault);
void guest_pager_run(struct guest_pager *pager);
void guest_pager_counts(const struct guest_pager *pager, struct guest_pager_counts *ret_counts); /* any thread */
/* Of one that is whole, or whose guest stands still and never runs again: who still waits reads zeros. */
struct guest_pager *guest_pager_free(struct guest_pager *pager);

#endif

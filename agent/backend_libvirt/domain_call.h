/* One thing asked of libvirt about one domain: what goes in, what comes out. Blocking.
 *
 * Flow:   backend_libvirt, domain -> hypervisor -> [domain_call] -> libvirtd
 * Thread: a call's own; nothing here is shared.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CALL_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/backend_libvirt/domain_snapshot.h"
#include "agent/backend_libvirt/virt_view.h"
#include "base/err.h"
#include "net/pki.h"

struct _virConnect;
struct _virTypedParameter;

enum domain_call_kind {
    DOMAIN_CALL_LOOK,  /* how is it? */
    DOMAIN_CALL_READ,  /* and its definition */
    DOMAIN_CALL_START, /* running already is as good; defined anew where it is not known */
    DOMAIN_CALL_SUSPEND,
    DOMAIN_CALL_RESUME,
    DOMAIN_CALL_SHUTDOWN, /* press its power button */
    DOMAIN_CALL_REBOOT,   /* ask its guest to */
    DOMAIN_CALL_RESET,
    DOMAIN_CALL_DESTROY,
    DOMAIN_CALL_DISCARD, /* destroy what a move brought, with its definition */
    DOMAIN_CALL_MIGRATE,
    DOMAIN_CALL_ABORT_JOB,
    DOMAIN_CALL_TUNE,  /* of a migration under way: plan's bandwidth and downtime */
    DOMAIN_CALL_JOB,   /* its statistics */
    DOMAIN_CALL_CHECK, /* could this host run `xml`? */
    DOMAIN_CALL_AUTOSTART_OFF,
};

enum { DOMAIN_NAME_SIZE = 128, DOMAIN_URI_SIZE = 192 };

struct domain_state { /* of one domain, as libvirt says */
    char vm_id[33];
    char name[DOMAIN_NAME_SIZE];
    enum virt_sight sight;
    enum virt_how how;
    bool exists, persistent, autostart;
    uint32_t vcpus;
    uint64_t memory_bytes, cpu_ns;
    int32_t pid; /* of its QEMU; 0: not to be seen */
    char definition[PKI_PIN_SIZE]; /* of a list: digest of what it is defined as; "": it is not, or that was not to be seen */
};

struct domain_call {
    enum domain_call_kind kind;
    char vm_id[33];
    /* in */
    const char *xml; /* start, check: borrowed */
    bool start_paused, may_define;
    bool may_define_over; /* start: it ran elsewhere last, so what is defined here is older than `xml` */
    bool only_running; /* start: off it is refused */
    bool settles; /* destroy: also wait for who is at it, as a start of which no word came may be */
    char snapshot[VIRT_SNAPSHOT_NAME_SIZE]; /* start: from this one; "": it boots */
    struct virt_plan plan; /* migrate, tune */
    char libvirt_uri[DOMAIN_URI_SIZE], data_uri[DOMAIN_URI_SIZE];
    /* out */
    struct fault fault; /* code 0: done */
    bool was_asked; /* start: libvirt was told to, or it ran before */
    bool is_heard; /* destroy that settles: libvirtd had a worker for it, as by then for what it was asked before */
    bool is_settled; /* destroy that settles: by libvirt's own word it is off, with nobody at it */
    bool was_active; /* destroy: there was something to end */
    bool is_lost;   /* start, failed: by no word of libvirt's own, who may be at it all the same */
    struct domain_state state; /* as it is after the call; not after JOB, ABORT_JOB, TUNE */
    struct virt_job job;
    char *text; /* malloc'ed; read: the definition */
    /* the caller's */
    void *owner;
};

void domain_call_run(struct _virConnect *connection, struct domain_call *call);
struct domain_call *domain_call_free(struct domain_call *call);

/* All domains of this host. */
struct domain_list {
    struct domain_state *states; /* malloc'ed */
    size_t count;
    struct domain_snapshot_list snapshots;
    uint64_t number; /* the caller's */
    struct fault fault;
    void *owner;
};
void domain_call_list(struct _virConnect *connection, struct domain_list *list);
struct domain_list *domain_list_free(struct domain_list *list);

/* What libvirt said last on this thread, as a fault. */
int domain_call_fault(struct fault *fault, const char *doing);
bool domain_call_is_no_word(struct _virConnect *connection);
void domain_call_read_job(const struct _virTypedParameter *parameters, int count,
                          struct virt_job *ret_job);

#endif

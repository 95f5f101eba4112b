#include "vmm-core/gate.h"

#include <assert.h>
#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/world.h"

enum { GATE_SPIN_NS = 100000 };

static void futex_wait(uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    /* Any outcome is answered by looking at the word again. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value,
                  timeout_ns == UINT64_MAX ? NULL : &timeout, NULL, 0);
}

static void futex_wake_all(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Wait until *word differs from `value`: first yielding to whoever must make it differ. */
static bool wait_change(uint32_t *word, uint32_t value, uint64_t timeout_ns)
{
    uint64_t start_ns = world_now_ns();
    uint64_t waited_ns = 0;
    while (waited_ns < GATE_SPIN_NS) {
        for (unsigned i = 0; i < 32; i++) {
            if (load(word) != value)
                return true;
            __builtin_ia32_pause();
        }
        (void)sched_yield(); /* always succeeds on Linux */
        waited_ns = world_now_ns() - start_ns;
    }
    while (load(word) == value) {
        if (timeout_ns != UINT64_MAX && waited_ns >= timeout_ns)
            return false;
        futex_wait(word, value, timeout_ns == UINT64_MAX ? UINT64_MAX : timeout_ns - waited_ns);
        waited_ns = world_now_ns() - start_ns;
    }
    return true;
}

void gate_init(struct gate *gate, uint32_t threads)
{
    assert(threads > 0);
    *gate = (struct gate){.threads = threads};
}

enum gate_order gate_order(const struct gate *gate)
{
    return (enum gate_order)(load(&gate->word) & 3);
}

static void turn(struct gate *gate, enum gate_order order)
{
    uint32_t turns = load(&gate->word) >> 2;
    __atomic_store_n(&gate->word, (turns + 1) << 2 | (uint32_t)order, __ATOMIC_RELEASE);
    futex_wake_all(&gate->word);
}

void gate_close(struct gate *gate)
{
    /* Nobody counts itself now: all who stood were counted before the last opening. */
    __atomic_store_n(&gate->parked, 0, __ATOMIC_RELEASE);
    turn(gate, GATE_CLOSED);
}

void gate_open(struct gate *gate)
{
    turn(gate, GATE_OPEN);
}

void gate_quit(struct gate *gate)
{
    turn(gate, GATE_QUIT);
}

void gate_end(struct gate *gate)
{
    uint32_t word = load(&gate->word);
    if ((word & 3) != GATE_OPEN)
        return;
    uint32_t ended = ((word >> 2) + 1) << 2 | (uint32_t)GATE_ENDED;
    (void)__atomic_compare_exchange_n(&gate->word, &word, ended, false, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE); /* lost to a turn: that one counts */
}

bool gate_wait_parked(struct gate *gate, uint64_t timeout_ns)
{
    uint64_t start_ns = world_now_ns();
    for (;;) {
        uint32_t parked = load(&gate->parked);
        if (parked == gate->threads)
            return true;
        uint64_t waited_ns = world_now_ns() - start_ns;
        if (waited_ns >= timeout_ns)
            return false;
        (void)wait_change(&gate->parked, parked, timeout_ns - waited_ns); /* looked at above */
    }
}

static void park(struct gate *gate)
{
    uint32_t parked = __atomic_add_fetch(&gate->parked, 1, __ATOMIC_ACQ_REL);
    assert(parked <= gate->threads);
    futex_wake_all(&gate->parked);
}

bool gate_pass(struct gate *gate, uint32_t *seen)
{
    for (;;) {
        uint32_t word = load(&gate->word);
        switch ((enum gate_order)(word & 3)) {
        case GATE_OPEN:
            return true;
        case GATE_QUIT:
            return false;
        case GATE_CLOSED:
            if (word != *seen) {
                *seen = word; /* counted once a closing */
                park(gate);
            }
            break;
        case GATE_ENDED:
            break;
        }
        (void)wait_change(&gate->word, word, UINT64_MAX); /* no timeout: it changed */
    }
}

void gate_hold(struct gate *gate, uint64_t hold_ns)
{
    uint64_t begun_ns = world_now_ns(), stood_ns = 0;
    uint32_t word = load(&gate->word);
    while ((word & 3) == GATE_OPEN && load(&gate->word) == word && stood_ns < hold_ns) {
        futex_wait(&gate->word, word, hold_ns - stood_ns);
        stood_ns = world_now_ns() - begun_ns;
    }
}

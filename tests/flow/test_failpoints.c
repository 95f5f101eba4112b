/* Every failpoint of both ends of a move, with everything that may be done there: the guest runs at
 * exactly one end, its memory is whole, no thread, descriptor or byte stays behind.
 *
 * One process a case, some at a time: most of a case is waiting for a deadline. Kills, and the
 * points of the VM's own process, are played with real processes (host/pool_failpoints).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "tests/support/fake_guest.h"
#include "tests/support/fake_move.h"

enum { PAGES = 1200, AT_ONCE = 8, PATIENCE_MS = 2000, BUSY_MS_MAX = 60000, PUSH_MS_MAX = 20000, CASE_S_MAX = 150 };

/* What happens beside the failpoint, so that the point is reached. */
enum play {
    PLAY_MOVE,
    PLAY_CANCEL,
    PLAY_LOAD_FAILS,
    PLAY_LANE_BREAKS,
    PLAY_POSTCOPY,
    PLAY_POSTCOPY_LANE_BREAKS
};

struct scene {
    struct fake_guest_config source_config, target_config;
    Godwit__MoveGoals goals;
    struct fake_move_config config;
    struct fake_guest *source_guest, *target_guest;
    struct fake_move move;
    enum play play;
    pthread_t reader; /* of post-copy: who asks for pages */
    bool reads, pushes_first; /* where a page has to be pushed before anybody asks for one */
};

static enum play play_for(enum failpoint_id id)
{
    switch ((int)id) {
    case FAILPOINT_SOURCE_ABORT:
    case FAILPOINT_SOURCE_BEFORE_ABORTED:
        return PLAY_CANCEL;
    case FAILPOINT_SOURCE_RESUME:
    case FAILPOINT_TARGET_ABANDONED:
    case FAILPOINT_TARGET_BEFORE_ABANDONED:
        return PLAY_LOAD_FAILS;
    case FAILPOINT_SOURCE_LANES_AGAIN:
    case FAILPOINT_TARGET_MARKS:
        return PLAY_LANE_BREAKS;
    case FAILPOINT_TARGET_FAULTS_OPEN:
    case FAILPOINT_SOURCE_MISSING:
    case FAILPOINT_TARGET_GIVE_UP:
    case FAILPOINT_TARGET_ASK:
    case FAILPOINT_SOURCE_ASKED:
    case FAILPOINT_SOURCE_PUSH:
    case FAILPOINT_TARGET_LAY:
    case FAILPOINT_TARGET_FETCHED:
    case FAILPOINT_SOURCE_SERVED:
        return PLAY_POSTCOPY;
    case FAILPOINT_TARGET_STILL_MISSING:
        return PLAY_POSTCOPY_LANE_BREAKS;
    default:
        return PLAY_MOVE;
    }
}

static bool is_here(enum failpoint_id id)
{
    return strncmp(failpoint_name(id), "vm.", 3) != 0 &&
           strncmp(failpoint_name(id), "mirror.", 7) != 0 && /* of no move: unit/disk_mirror */
           strncmp(failpoint_name(id), "pager.", 6) != 0 &&  /* of none either: flow/guest_pager */
           strncmp(failpoint_name(id), "domain.", 7) != 0; /* an agent's */
}

static void on_source(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    (void)latch;
    struct scene *scene = data;
    if (scene->play == PLAY_CANCEL && phase == PHASE_PRECOPY)
        (void)source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                             "test", NULL); /* again and again: refused once it has ended */
}

static bool leaves_pages(const struct scene *scene)
{
    return scene->play == PLAY_POSTCOPY || scene->play == PLAY_POSTCOPY_LANE_BREAKS;
}

/* Under the mutex: until something changes, or a moment has passed. */
static void wait_a_little(struct fake_move *move)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20 * (long)NS_PER_MS;
    until.tv_sec += until.tv_nsec / (long)NS_PER_S;
    until.tv_nsec %= (long)NS_PER_S;
    (void)pthread_cond_timedwait(&move->changed, &move->mutex, &until);
}

/* Who asks for all there is before its pushes have begun leaves nothing to push: a busy machine begins them late. */
static void await_push(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    uint64_t until_ns = world_now_ns() + PUSH_MS_MAX * NS_PER_MS;
    pthread_mutex_lock(&move->mutex);
    while (scene->pushes_first && failpoint_hits(FAILPOINT_SOURCE_PUSH) == 0 && !move->at_target.ended &&
           !move->at_source.ended && world_now_ns() < until_ns)
        wait_a_little(move);
    pthread_mutex_unlock(&move->mutex);
}

static void *read_run(void *data)
{
    struct scene *scene = data;
    const volatile uint8_t *base = fake_guest_guest(scene->target_guest)->regions[0].base;
    await_push(scene);
    for (uint64_t page = 0; page < PAGES; page++)
        (void)base[page * PAGE_BYTES];
    return NULL;
}

static void on_target(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    struct scene *scene = data;
    (void)move;
    (void)phase;
    if (latch == GODWIT__LATCH__LATCH_TOOK && leaves_pages(scene))
        scene->reads = pthread_create(&scene->reader, NULL, read_run, scene) == 0;
}

static void join_reader(struct scene *scene)
{
    if (scene->reads)
        (void)pthread_join(scene->reader, NULL);
    scene->reads = false;
}

/* No pause fits its goal, and what is pushed stalls, so that somebody has to ask for a page. */
static void leave_pages(struct scene *scene)
{
    scene->goals.postcopy = true;
    scene->goals.compress = (char *)"lz4"; /* what is doubled, cut or lost is packed */
    scene->goals.downtime_ns_max = 1000;
    scene->config.lanes = 3;
    scene->config.lane.bytes_per_s = 10000000; /* so that its writer comes to write */
    scene->config.post_pushes.fault = PIPE_FAULT_STALL;
    scene->config.post_pushes.fault_at = 8192;
    scene->source_config.writes_per_ms = 0;
}

static void scene_init(struct scene *scene, enum play play)
{
    *scene = (struct scene){
        .source_config = {.pages = PAGES,
                          .fill = FAKE_FILL_MIX,
                          .writers = 1,
                          .writer_pages = 200,
                          .writes_per_ms = 20,
                          .running = true},
        .target_config = {.pages = PAGES, .fail_load = play == PLAY_LOAD_FAILS},
        .goals = GODWIT__MOVE_GOALS__INIT,
        .config = {.lanes = 2, .on_source = on_source, .on_target = on_target},
        .play = play,
    };
    scene->goals.downtime_ns_max = 2000 * NS_PER_MS;
    scene->goals.deadline_ms = 30000;
    scene->config.data = scene;
    if (leaves_pages(scene))
        leave_pages(scene);
    scene->source_guest = fake_guest_new(&scene->source_config);
    scene->target_guest = fake_guest_new(&scene->target_config);
    scene->config.source_guest = fake_guest_guest(scene->source_guest);
    scene->config.target_guest = fake_guest_guest(scene->target_guest);
    scene->config.goals = &scene->goals;
    fake_move_init(&scene->move, &scene->config);
}

static bool await_source(struct fake_move *move, uint64_t until_ns)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended && !move->at_source.parked && world_now_ns() < until_ns)
        wait_a_little(move);
    bool stands = move->at_source.ended || move->at_source.parked;
    pthread_mutex_unlock(&move->mutex);
    return stands;
}

/* A source that is parked may only wait for the word that its target runs. One whose target has all
 * and ended without its knowing is told to let go. */
static void resolve_postcopy(struct fake_move *move)
{
    const struct fake_side *source = &move->at_source, *target = &move->at_target;
    uint64_t stands_ns = 0;
    pthread_mutex_lock(&move->mutex);
    while (!source->ended) {
        bool stands = source->last_phase == PHASE_PARKED || target->ended;
        stands_ns = !stands ? 0 : stands_ns ? stands_ns : world_now_ns();
        if (stands && world_now_ns() - stands_ns > PATIENCE_MS * NS_PER_MS)
            break;
        wait_a_little(move);
    }
    bool lets_go = !source->ended && target->ended && target->phase == PHASE_DONE;
    pthread_mutex_unlock(&move->mutex);
    if (lets_go)
        (void)source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP, 0, NULL,
                             NULL);
}

static void await_target(struct fake_move *move)
{
    pthread_mutex_lock(&move->mutex);
    while (!move->at_target.ended)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
}

/* What an operator and a coordinator do: cancel what hangs, resolve who is parked by what the
 * target latched, tell a target that its source rolled back. */
static void resolve(struct scene *scene, enum failpoint_id id, enum failpoint_action action)
{
    struct fake_move *move = &scene->move;
    if (action == FAILPOINT_DELAY) /* nothing is lost, so nothing hangs: CASE_S_MAX judges */
        (void)await_source(move, UINT64_MAX);
    if (leaves_pages(scene))
        resolve_postcopy(move);
    /* Before the point is reached nothing hangs: the machine is busy. */
    uint64_t until_ns = world_now_ns() + BUSY_MS_MAX * NS_PER_MS;
    while (!await_source(move, world_now_ns() + 50 * NS_PER_MS) && failpoint_hits(id) == 0 &&
           world_now_ns() < until_ns)
        ;
    if (!await_source(move, world_now_ns() + PATIENCE_MS * NS_PER_MS))
        (void)source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                             "it hangs", NULL); /* refused past the commit point */
    (void)await_source(move, UINT64_MAX);
    pthread_mutex_lock(&move->mutex);
    bool parked = !move->at_source.ended;
    bool rolled_back = !parked && move->at_source.phase == PHASE_ROLLED_BACK;
    pthread_mutex_unlock(&move->mutex);
    if (rolled_back || parked)
        (void)target_verdict(move->target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                             "resolved", NULL); /* refused when it took the guest */
    if (!parked)
        return;
    await_target(move);
    (void)source_verdict(move->source,
                         move->at_target.phase == PHASE_DONE
                             ? GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED
                             : GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME,
                         8, NULL, NULL);
}

static unsigned open_fds(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count;
}

static const char *judge(struct scene *scene, enum failpoint_id id, enum failpoint_action action)
{
    struct fake_move *move = &scene->move;
    bool at_target = move->at_target.phase == PHASE_DONE;

    if (failpoint_hits(id) != 1)
        return "the point was not reached";
    if (fake_guest_runs(scene->source_guest) == at_target)
        return at_target ? "the source runs, too" : "it does not run at the source";
    if (fake_guest_runs(scene->target_guest) != at_target)
        return at_target ? "it does not run at the target" : "the target runs, too";
    if (move->at_source.phase != (at_target ? PHASE_DONE : PHASE_ROLLED_BACK))
        return "the source's end is not the target's";
    if (at_target && move->at_source.fault.code)
        return "it has moved, and its source says that something is wrong";
    if (at_target && fake_guest_compare(scene->source_guest, scene->target_guest) != UINT64_MAX)
        return "memory differs";
    if (!at_target && fake_guest_is_tracked(scene->source_guest))
        return "the source's memory is still tracked";
    if (!at_target && fake_guest_throttle(scene->source_guest))
        return "the source's guest is still held back";
    bool was_late = move->at_source.fault.code == ERR_TIMEOUT; /* a machine that is very busy */
    bool moves = scene->play == PLAY_MOVE || scene->play == PLAY_LANE_BREAKS || leaves_pages(scene);
    if (action == FAILPOINT_DELAY && at_target != moves && !was_late)
        return "a delay of 50 ms changed how it ended";
    if (!at_target)
        fake_guest_await_writes(scene->source_guest, 1); /* it really runs */
    return NULL;
}

/* In its own process; 0 when all is well. */
static int play_case(enum failpoint_id id, enum failpoint_action action)
{
    char spec[100];
    struct scene scene;
    unsigned fds = open_fds();

    alarm(CASE_S_MAX);
    scene_init(&scene, play_for(id));
    scene.pushes_first = scene.play == PLAY_POSTCOPY_LANE_BREAKS || id == FAILPOINT_SOURCE_PUSH;
    snprintf(spec, sizeof spec, "%s%s=%s",
             scene.play == PLAY_LANE_BREAKS            ? "source.frame=error\n"
             : scene.play == PLAY_POSTCOPY_LANE_BREAKS ? "source.push=error\n"
                                                       : "",
             failpoint_name(id), failpoint_action_name(action));
    assert_int_equal(failpoint_arm(spec, NULL), 0);

    fake_move_start(&scene.move);
    resolve(&scene, id, action);
    fake_move_await_end(&scene.move);
    join_reader(&scene);

    const char *wrong = judge(&scene, id, action);
    if (wrong)
        fprintf(stderr, "%s: %s\n  source %s: %s\n  target %s: %s\n", spec, wrong,
                phase_name(scene.move.at_source.phase), scene.move.at_source.fault.text,
                phase_name(scene.move.at_target.phase), scene.move.at_target.fault.text);
    fake_move_deinit(&scene.move);
    scene.source_guest = fake_guest_free(scene.source_guest);
    scene.target_guest = fake_guest_free(scene.target_guest);
    if (!wrong && open_fds() != fds) {
        fprintf(stderr, "%s: descriptors were left behind\n", spec);
        return 1;
    }
    return wrong != NULL;
}

static struct {
    pid_t pid;
    enum failpoint_id id;
    enum failpoint_action action;
} cases[AT_ONCE];

static void note_case(pid_t pid, enum failpoint_id id, enum failpoint_action action)
{
    unsigned i = 0;
    while (cases[i].pid)
        i++;
    cases[i].pid = pid;
    cases[i].id = id;
    cases[i].action = action;
}

static unsigned await_one(unsigned *running)
{
    int status = 0;
    pid_t pid = wait(&status);
    assert_true(pid > 0);
    (*running)--;
    unsigned i = 0;
    while (cases[i].pid != pid)
        i++;
    cases[i].pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s=%s ended by signal %d (%s)\n", failpoint_name(cases[i].id),
                failpoint_action_name(cases[i].action), WTERMSIG(status),
                strsignal(WTERMSIG(status)));
    return 1;
}

static void every_failpoint_leaves_the_guest_once_and_whole(void **state)
{
    (void)state;
    static const enum failpoint_action actions[] = {
        FAILPOINT_ERROR, FAILPOINT_DELAY, FAILPOINT_DROP, FAILPOINT_DUPLICATE, FAILPOINT_TRUNCATE};
    unsigned running = 0, played = 0, failed = 0, reached = 0;

    for (unsigned i = 0; i < FAILPOINT_COUNT; i++) {
        enum failpoint_id id = (enum failpoint_id)i;
        reached += is_here(id);
        for (size_t j = 0; is_here(id) && j < ARRAY_COUNT(actions); j++) {
            if (!(failpoint_actions(id) & actions[j]))
                continue;
            if (running == AT_ONCE)
                failed += await_one(&running);
            fflush(NULL);
            pid_t pid = fork();
            assert_true(pid >= 0);
            if (pid == 0)
                exit(play_case(id, actions[j]));
            note_case(pid, id, actions[j]);
            running++;
            played++;
        }
    }
    while (running)
        failed += await_one(&running);
    print_message("%u failpoints, %u cases, %u failed\n", reached, played, failed);
    assert_int_equal(failed, 0);
    assert_true(reached >= 30);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failpoint_leaves_the_guest_once_and_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* begin --> asked every so often how it goes --> it runs, is over, or has failed */
#include "cli/cmd_dr_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "proto/dr.pb-c.h"
#include "proto/gw_code.h"
#include "proto/method.h"

enum { ASK_MS = 200, NAME_SIZE = 80 };

struct testing { /* what is waited for, VM after VM */
    struct context *context;
    struct client *client;
    struct loop_timer *timer;
    bool is_due;
    bool is_end; /* until it is over; else until its copy runs, a drill: until it is over */
    size_t count, failed;
};

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static bool is_same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static int call(struct testing *testing, const Godwit__DrRequest *request,
                Godwit__DrReply **ret_reply, struct fault *fault)
{
    return client_call(testing->client, METHOD_DR, &request->base, &godwit__dr_reply__descriptor,
                       CLIENT_CALL_MS, ret_reply, fault);
}

/* Gives the reply when the exit code is DONE; else it was told why not. */
static int ask(struct testing *testing, const Godwit__DrRequest *request,
               Godwit__DrReply **ret_reply)
{
    Godwit__DrReply *reply = NULL;
    struct fault fault = {0};
    if (call(testing, request, &reply, &fault) < 0)
        return error_print_fault(testing->context, &fault);
    if (reply->error) {
        int exit_code = error_print(testing->context, reply->error);
        godwit__dr_reply__free_unpacked(reply, NULL);
        return exit_code;
    }
    *ret_reply = reply;
    return EXIT_CODE_DONE;
}

static int ask_status(struct testing *testing, Godwit__DrReply **ret_reply)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    request.has_verb = true;
    request.verb = GODWIT__DR_VERB__DR_VERB_STATUS;
    return ask(testing, &request, ret_reply);
}

/* ---- waiting ---- */
static void on_tick(void *data)
{
    ((struct testing *)data)->is_due = true;
}

static const Godwit__DrInfo *find(const Godwit__DrReply *reply, const char *word)
{
    for (size_t i = 0; i < reply->n_vms; i++) {
        const Godwit__DrInfo *info = reply->vms[i];
        if (is_same(info->vm, word) || (info->test && is_same(info->test->copy, word)))
            return info;
    }
    return NULL;
}

static bool is_reached(const struct testing *testing, const Godwit__DrTest *test)
{
    bool has_failed = test->error && test->error[0];
    if (is_same(test->step, "over"))
        return true;
    return !testing->is_end && !test->is_drill && !has_failed && is_same(test->step, "runs");
}

/* Until it is there; NULL in *ret_reply: it was told why that will not be. */
static int wait_for(struct testing *testing, const char *word, Godwit__DrReply **ret_reply)
{
    for (;;) {
        Godwit__DrReply *reply = NULL;
        int exit_code = ask_status(testing, &reply);
        if (exit_code != EXIT_CODE_DONE)
            return exit_code;
        const Godwit__DrInfo *info = find(reply, word);
        if (!info || !info->test || is_reached(testing, info->test)) {
            *ret_reply = reply;
            return EXIT_CODE_DONE;
        }
        godwit__dr_reply__free_unpacked(reply, NULL);
        for (testing->is_due = false; !testing->is_due;)
            client_turn(testing->client);
    }
}

/* ---- what came of it ---- */
static void say_machine(struct context *context, const Godwit__DrInfo *info)
{
    AUTO_FREE char *text = NULL;
    enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                          : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                           : JSON_FORM_COMPACT;
    if (json_print(&info->base, form, &text, NULL) == 0)
        (void)fputs(text, context->out);
}

static void say_test(struct context *context, const Godwit__DrInfo *info)
{
    const Godwit__DrTest *test = info->test;
    char rpo[UNITS_TEXT_SIZE], rto[UNITS_TEXT_SIZE], memory[UNITS_TEXT_SIZE],
        disks[UNITS_TEXT_SIZE], ran[UNITS_TEXT_SIZE];
    units_print_duration(test->rpo_ms * NS_PER_MS, rpo);
    units_print_duration(test->rto_ms * NS_PER_MS, rto);
    units_print_bytes(test->memory_bytes, memory);
    units_print_bytes(test->copied_bytes, disks);
    units_print_duration(test->ran_ms * NS_PER_MS, ran);
    if (test->is_drill) {
        (void)fprintf(context->out, "%s  drilled on %s: RPO %s, RTO %s, its copy ran for %s\n",
                      info->vm, test->host, rpo, rto, ran);
        return;
    }
    (void)fprintf(context->out,
                  "%s  runs on %s as %s, on no network; RPO %s, RTO %s, %s of memory, %s of disks "
                  "copied",
                  info->vm, test->host, test->copy, rpo, rto, memory, disks);
    if (test->reflinks)
        (void)fprintf(context->out, ", %u shared", test->reflinks);
    (void)fprintf(context->out, "; godwit dr test %s --end\n", info->vm);
}

static int say(struct testing *testing, const Godwit__DrInfo *info, const char *word)
{
    struct context *context = testing->context;
    const Godwit__DrTest *test = info ? info->test : NULL;
    bool has_failed = test && test->error && test->error[0];
    if (info && context_is_machine(context))
        say_machine(context, info);
    else if (testing->is_end)
        (void)fprintf(context->talk, "the test copy of %s is gone, and its disks\n",
                      info ? info->vm : word);
    else if (!test || has_failed)
        (void)fprintf(context->out, "%s  FAILED: %s\n", info ? info->vm : word,
                      test ? test->error : "its protection was ended meanwhile");
    else if (is_same(test->step, "over") && !test->is_drill)
        (void)fprintf(context->out, "%s  the test was ended meanwhile\n", info->vm);
    else
        say_test(context, info);
    return !testing->is_end && (!test || has_failed) ? EXIT_CODE_FAILED : EXIT_CODE_DONE;
}

static int see_through(struct testing *testing, const char *word)
{
    Godwit__DrReply *reply = NULL;
    int exit_code = wait_for(testing, word, &reply);
    if (exit_code == EXIT_CODE_DONE) {
        exit_code = say(testing, find(reply, word), word);
        godwit__dr_reply__free_unpacked(reply, NULL);
    }
    return exit_code;
}

/* ---- one VM, or each of a group ---- */
static int begin(struct testing *testing, Godwit__DrVerb verb, const char *word,
                 char ret_name[static NAME_SIZE])
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    Godwit__DrReply *reply = NULL;
    request.has_verb = true;
    request.verb = verb;
    request.vm = text_of(word);
    request.as = text_of(verb == GODWIT__DR_VERB__DR_VERB_TEST
                             ? command_text(testing->context->line, "as")
                             : NULL);
    int exit_code = ask(testing, &request, &reply);
    (void)snprintf(ret_name, NAME_SIZE, "%s", word);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    if (reply->n_vms == 1) /* by a prefix */
        (void)snprintf(ret_name, NAME_SIZE, "%s", reply->vms[0]->vm);
    godwit__dr_reply__free_unpacked(reply, NULL);
    return EXIT_CODE_DONE;
}

static bool has_copy(const Godwit__DrInfo *info)
{
    return info->test && info->test->step && !is_same(info->test->step, "over");
}

/* All are begun before one is waited for. */
static int run_group(struct testing *testing, Godwit__DrVerb verb, const char *group)
{
    Godwit__DrReply *reply = NULL;
    char name[NAME_SIZE];
    struct fault fault = {0};
    int exit_code = ask_status(testing, &reply), last = EXIT_CODE_DONE;
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    AUTO_FREE bool *begun = calloc(reply->n_vms + 1, sizeof *begun);
    for (size_t i = 0; begun && i < reply->n_vms; i++) {
        if (!is_same(reply->vms[i]->group, group) ||
            (testing->is_end && !has_copy(reply->vms[i])))
            continue;
        testing->count++;
        int code = begin(testing, verb, reply->vms[i]->vm, name);
        begun[i] = code == EXIT_CODE_DONE;
        testing->failed += code != EXIT_CODE_DONE;
        last = code != EXIT_CODE_DONE ? code : last;
    }
    for (size_t i = 0; begun && i < reply->n_vms; i++) {
        int code = begun[i] ? see_through(testing, reply->vms[i]->vm) : EXIT_CODE_DONE;
        testing->failed += code != EXIT_CODE_DONE;
        last = code != EXIT_CODE_DONE ? code : last;
    }
    godwit__dr_reply__free_unpacked(reply, NULL);
    if (testing->count == 0) {
        (void)fault_set(&fault, ERR_NOT_FOUND, "no VM of a group '%.60s' has a %s", group,
                        testing->is_end ? "test copy" : "replica");
        fault_hint(&fault, "godwit dr status");
        return error_print_fault(testing->context, &fault);
    }
    return testing->failed == 0                ? EXIT_CODE_DONE
           : testing->failed == testing->count ? last
                                               : EXIT_CODE_PARTLY;
}

static int run_one(struct testing *testing, Godwit__DrVerb verb, const char *word)
{
    char name[NAME_SIZE];
    int exit_code = begin(testing, verb, word, name);
    return exit_code == EXIT_CODE_DONE ? see_through(testing, name) : exit_code;
}

static int run(struct context *context, Godwit__DrVerb verb)
{
    struct testing testing = {.context = context,
                              .is_end = verb == GODWIT__DR_VERB__DR_VERB_TEST_END};
    const char *group = command_text(context->line, "group");
    struct fault fault = {0};
    int exit_code;
    int r = client_of(context, &testing.client, &fault);
    if (r == 0)
        r = loop_timer_new(&testing.timer, client_loop(testing.client), on_tick, &testing, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    loop_timer_start(testing.timer, ASK_MS, ASK_MS);
    exit_code = group ? run_group(&testing, verb, group)
                      : run_one(&testing, verb, context->line->operands[0]);
    testing.timer = loop_timer_free(testing.timer);
    return exit_code;
}

/* ---- commands ---- */
static int misused(struct context *context, const char *words)
{
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_INVALID, "%s", words);
    return error_print_fault(context, &fault);
}

/* Just one of both. */
static bool names_something(const struct context *context)
{
    return (context->line->operand_count > 0) != (command_text(context->line, "group") != NULL);
}

int cmd_dr_test(struct context *context)
{
    bool is_end = command_flag(context->line, "end");
    const char *as = command_text(context->line, "as");
    if (!names_something(context))
        return misused(context, "a VM, or --group G");
    if (as && (is_end || command_text(context->line, "group")))
        return misused(context, "--as names the copy of one VM that begins");
    return run(context, is_end ? GODWIT__DR_VERB__DR_VERB_TEST_END : GODWIT__DR_VERB__DR_VERB_TEST);
}

/* Of a group it is told who is left out: it ends, and has no schedule. */
static void say_drill(struct context *context, const Godwit__DrInfo *info, bool is_wanted)
{
    bool is_away = info->has_drill_every_ms && is_same(info->state, "away");
    char every[UNITS_TEXT_SIZE];
    units_print_duration(info->drill_every_ms * NS_PER_MS, every);
    (void)fprintf(context->talk, "%s is %s%s%s\n", info->vm,
                  info->has_drill_every_ms ? "drilled every "
                  : is_wanted              ? "not drilled: its protection is just being ended"
                                           : "drilled no more",
                  info->has_drill_every_ms ? every : "",
                  is_away ? ", once it has a replica again" : "");
}

static int set_drill(struct context *context)
{
    const struct command_line *line = context->line;
    struct testing testing = {.context = context};
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    Godwit__DrReply *reply = NULL;
    struct fault fault = {0};
    if (client_of(context, &testing.client, &fault) < 0)
        return error_print_fault(context, &fault);
    request.has_verb = request.has_drill_every_ms = true;
    request.verb = GODWIT__DR_VERB__DR_VERB_DRILL;
    request.vm = text_of(line->operand_count > 0 ? line->operands[0] : NULL);
    request.group = text_of(command_text(line, "group"));
    request.drill_every_ms = command_number(line, "every") / NS_PER_MS; /* none with --off */
    int exit_code = ask(&testing, &request, &reply);
    if (exit_code != EXIT_CODE_DONE)
        return exit_code;
    for (size_t i = 0; i < reply->n_vms; i++)
        say_drill(context, reply->vms[i], request.drill_every_ms > 0);
    godwit__dr_reply__free_unpacked(reply, NULL);
    return EXIT_CODE_DONE;
}

int cmd_dr_drill(struct context *context)
{
    const struct command_line *line = context->line;
    bool is_now = command_flag(line, "now"), is_off = command_flag(line, "off");
    if (!names_something(context))
        return misused(context, "a VM, or --group G");
    if (is_now + is_off + command_given(line, "every") != 1)
        return misused(context, "one of --every TIME, --off and --now");
    return is_now ? run(context, GODWIT__DR_VERB__DR_VERB_DRILL_NOW) : set_drill(context);
}

#include "cli/cmd_console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "proto/gw_code.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

/* On a terminal: raw bytes both ways until Ctrl-] or the guest's end.
 *
 * In a script: stdin goes to the guest, output to stdout. A new session begins with the last output
 * before it, and an answer from there would be an answer to somebody else's question. So early
 * output waits until it is known whether stdin has words: if so it is dropped, else printed. It
 * ends with --until     when a line has the text (an unfinished one, like a prompt, once it has
 * been quiet for a moment), without          when stdin is at its end and nothing came for a
 * second, with --timeout   in any case then, with exit 7. */
enum {
    LEAVE_KEY = 0x1d, /* Ctrl-] */
    TICK_MS = 100,
    QUIET_MS = 1000,
    PROMPT_MS = 300,
    EARLY_MS = 700,  /* the last output before comes within this; also word that there is none */
    DECIDE_MS = 300, /* then stdin has words by now, or it is listened to without */
    EARLY_MAX = 64 << 10,
    RECONNECT_MS = 30000,
    LINE_KEPT_MAX = 4096,
    TYPED_MAX = 64 << 10, /* waits to be taken; then no more is read */
    CHUNK_BYTES = 4096,
    AGAIN_MS = 250,       /* none of it was passed on: the VM is nobody's just now */
    UNANSWERED_MS = 3000, /* nobody said what became of it */
    SHOWN_MAX = 40,
};
static_assert(CHUNK_BYTES <= (int)CONSOLE_CHUNK_MAX, "a chunk is one event");

enum stage { STAGE_EARLY, STAGE_DECIDE, STAGE_LIVE };

struct console {
    struct context *context;
    struct client *client;
    const char *vm;
    const char *until;
    uint64_t timeout_ms, began_ms, heard_ms;
    uint64_t session;
    struct loop_timer *timer;
    struct loop_poll *input;
    bool is_terminal;
    struct termios before; /* set when is_raw */
    bool is_raw;
    bool input_ended, input_is_file, left, found, ended;
    char line[LINE_KEPT_MAX]; /* the output's line that is being written */
    size_t line_used;
    enum stage stage;
    uint64_t stage_ms; /* when it began */
    uint8_t *early;    /* ours */
    size_t early_used;
    /* Typed, and not known to be the guest's yet: one chunk is on its way, the rest waits for what
     * becomes of it. So nothing overtakes, and what may have come is said again as just that. */
    uint64_t stream, taken;  /* bytes of the stream that are settled */
    uint8_t *typed;          /* ours */
    size_t typed_used, sent; /* sent: of them, on their way */
    uint64_t sent_ms;
    size_t doubtful; /* of them, were on their way before, and may have come */
    size_t in_doubt; /* bytes that may not have come: the operator was told */
    struct fault broken, ended_by;
};

/* ---- the terminal ---- */

static void set_raw(struct console *console)
{
    struct termios raw;
    if (!console->is_terminal || tcgetattr(STDIN_FILENO, &console->before) != 0)
        return;
    raw = console->before;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST | ONLCR; /* our own words among the guest's stay readable */
    console->is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void unset_raw(struct console *console)
{
    if (console->is_raw)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &console->before);
    console->is_raw = false;
}

/* ---- the guest's words ---- */

static void look_at_line(struct console *console)
{
    console->line[console->line_used] = '\0';
    if (console->until && strstr(console->line, console->until))
        console->found = true;
}

static void take_output(struct console *console, const uint8_t *bytes, size_t count)
{
    console->heard_ms = world_now_ms();
    size_t put = 0; /* with --until nothing after the line that has the text is printed */
    while (put < count && !console->found) {
        char c = (char)bytes[put++];
        if (c == '\n') {
            look_at_line(console);
            console->line_used = 0;
        } else if (console->line_used + 1 < sizeof console->line) {
            console->line[console->line_used++] = c == '\0' ? ' ' : c;
        }
    }
    (void)fwrite(bytes, 1, put, console->context->out);
    (void)fflush(console->context->out);
}

static void set_stage(struct console *console, enum stage stage)
{
    console->stage = stage;
    console->stage_ms = world_now_ms();
    if (stage == STAGE_DECIDE && console->input)
        loop_poll_set(console->input, LOOP_READABLE);
}

static void keep_early(struct console *console, const uint8_t *bytes, size_t count)
{
    size_t room = EARLY_MAX - console->early_used;
    size_t kept = count < room ? count : room;
    if (kept > 0)
        memcpy(console->early + console->early_used, bytes, kept);
    console->early_used += kept;
    console->heard_ms = world_now_ms();
    if (console->stage == STAGE_EARLY)
        set_stage(console, STAGE_DECIDE);
}

/* Nobody asked anything: the early output is what was wanted. */
static void go_live(struct console *console)
{
    set_stage(console, STAGE_LIVE);
    take_output(console, console->early, console->early_used);
    console->early_used = 0;
}

static void send_typed(struct console *console);

static void settle(struct console *console, size_t count)
{
    memmove(console->typed, console->typed + count, console->typed_used - count);
    console->typed_used -= count;
    console->taken += count;
    console->sent = 0;
    console->doubtful = 0;
    if (console->input && console->stage != STAGE_EARLY && !console->input_ended)
        loop_poll_set(console->input, LOOP_READABLE);
}

static void tell_doubt(struct console *console, size_t count)
{
    char shown[SHOWN_MAX + 1];
    size_t used = 0;
    for (size_t i = 0; i < count && used < SHOWN_MAX; i++) {
        uint8_t letter = console->typed[i];
        shown[used++] = letter < 0x20 || letter >= 0x7f ? ' ' : (char)letter;
    }
    shown[used] = '\0';
    console->in_doubt += count;
    (void)fprintf(console->context->talk, "\n[%zu %s may not have reached the guest: \"%s\"%s]\n",
                  count, count == 1 ? "byte that was typed" : "bytes that were typed", shown,
                  used < count ? " ..." : "");
}

static void take_answer(struct console *console, const Godwit__VmConsoleData *event)
{
    if (event->stream != console->stream || console->sent == 0)
        return;
    if (event->unknown) { /* it may have come, to a process that told nobody */
        tell_doubt(console, console->sent);
        settle(console, console->sent);
    } else if (event->taken >= console->taken + console->sent) {
        settle(console, console->sent);
    } else if (event->taken > console->taken) {
        settle(console, (size_t)(event->taken - console->taken));
    } else {
        console->sent = 0; /* none of it: on_tick says it again */
        return;
    }
    console->heard_ms = world_now_ms(); /* what the guest says to it comes now */
    send_typed(console);
}

static void on_event(void *data, uint16_t method, const ProtobufCMessage *message)
{
    struct console *console = data;
    if (method != METHOD_VM_CONSOLE_DATA)
        return;
    const Godwit__VmConsoleData *event = (const Godwit__VmConsoleData *)message;
    /* Data may overtake the reply that names the session. */
    if (console->session != 0 && event->session != console->session)
        return;
    if (event->stream) {
        take_answer(console, event);
        return;
    }
    if (event->has_data && console->stage != STAGE_LIVE)
        keep_early(console, event->data.data, event->data.len);
    else if (event->has_data && event->data.len > 0)
        take_output(console, event->data.data, event->data.len);
    if (event->ended) {
        console->ended = true;
        (void)fault_set(&console->ended_by, ERR_CLOSED, "the console of %.63s ended: %.200s",
                        console->vm,
                        event->reason && event->reason[0] ? event->reason : "the VM stopped");
    }
}

static void on_closed(void *data, const struct fault *fault)
{
    struct console *console = data;
    if (fault)
        console->broken = *fault;
    else
        (void)fault_set(&console->broken, ERR_CLOSED, "the coordinator closed the connection");
}

/* ---- our words ---- */

static void send_typed(struct console *console)
{
    Godwit__VmConsoleData event = GODWIT__VM_CONSOLE_DATA__INIT;
    if (console->sent > 0 || console->typed_used == 0 || console->broken.code < 0)
        return;
    size_t most = console->doubtful > 0 ? console->doubtful : CHUNK_BYTES;
    size_t count = console->typed_used < most ? console->typed_used : most;
    event.has_session = event.has_data = event.has_stream = event.has_at = true;
    event.session = console->session;
    event.data = (ProtobufCBinaryData){.len = count, .data = console->typed};
    event.stream = console->stream;
    event.at = console->taken;
    event.has_again = event.again = console->doubtful > 0;
    console->sent = count;
    console->sent_ms = world_now_ms();
    /* A broken connection is told by on_closed; then it is said again. */
    (void)client_send_event(console->client, METHOD_VM_CONSOLE_DATA, &event.base, NULL);
}

/* The way to the guest is another now, or nothing was heard of it for long: what was on its way may
 * have come. */
static void say_again(struct console *console)
{
    if (console->sent > 0)
        console->doubtful = console->sent;
    console->sent = 0;
    send_typed(console);
}

static void type(struct console *console, const uint8_t *bytes, size_t count)
{
    if (console->stage != STAGE_LIVE) { /* a question: only what comes after it is its answer */
        console->early_used = 0;
        set_stage(console, STAGE_LIVE);
    }
    assert(count <= TYPED_MAX - console->typed_used);
    memcpy(console->typed + console->typed_used, bytes, count);
    console->typed_used += count;
    send_typed(console);
}

static void read_input(struct console *console)
{
    uint8_t bytes[CHUNK_BYTES];
    if (TYPED_MAX - console->typed_used < sizeof bytes) {
        if (console->input)
            loop_poll_set(console->input, 0); /* until some of it is taken */
        return;
    }
    ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got <= 0) {
        console->input_ended = true;
        console->heard_ms = world_now_ms(); /* the quiet second begins now */
        return;
    }
    size_t count = (size_t)got;
    const uint8_t *leave = console->is_terminal ? memchr(bytes, LEAVE_KEY, count) : NULL;
    if (leave) {
        count = (size_t)(leave - bytes);
        console->left = true;
    }
    if (count > 0)
        type(console, bytes, count);
}

static void on_input(void *data, unsigned events)
{
    struct console *console = data;
    (void)events; /* a hang-up is read as the end */
    read_input(console);
    if (console->input_ended)
        loop_poll_set(console->input, 0);
}

static void on_tick(void *data)
{
    struct console *console = data;
    uint64_t stood_ms = world_now_ms() - console->stage_ms;
    if (console->stage == STAGE_EARLY && stood_ms >= EARLY_MS)
        set_stage(console, STAGE_DECIDE);
    if (console->stage == STAGE_EARLY)
        return;
    uint64_t unanswered_ms = world_now_ms() - console->sent_ms;
    if (console->sent > 0 ? unanswered_ms >= UNANSWERED_MS : unanswered_ms >= AGAIN_MS)
        say_again(console);
    if (console->input_is_file && !console->input_ended)
        read_input(console); /* epoll refuses regular files, and they never block */
    if (console->stage == STAGE_DECIDE && (console->input_ended || stood_ms >= DECIDE_MS))
        go_live(console);
}

/* ---- the session ---- */

static int open_session(struct console *console, struct fault *fault)
{
    Godwit__VmConsoleRequest request = GODWIT__VM_CONSOLE_REQUEST__INIT;
    Godwit__VmConsoleReply *reply = NULL;
    request.vm = (char *)console->vm; /* only read */
    console->session = 0;
    int r = client_call(console->client, METHOD_VM_CONSOLE, &request.base,
                        &godwit__vm_console_reply__descriptor, CLIENT_CALL_MS, &reply, fault);
    if (r < 0)
        return r;
    console->session = reply->session;
    godwit__vm_console_reply__free_unpacked(reply, NULL);
    return 0;
}

static int come_back(struct console *console, struct fault *fault)
{
    uint64_t began_ms = world_now_ms(), tried_ms = 0;
    int r = ERR_UNREACHABLE;
    (void)fprintf(console->context->talk,
                  "\n[the coordinator is gone; the guest runs on; trying again for 30 s]\n");
    while (world_now_ms() - began_ms < RECONNECT_MS && !console->left) {
        if (tried_ms == 0 || world_now_ms() - tried_ms >= 1000) {
            tried_ms = world_now_ms();
            r = client_reconnect(console->client, fault);
            if (r == 0)
                r = open_session(console, fault);
            if (r == 0) {
                console->broken = (struct fault){0};
                say_again(console);
                (void)fprintf(console->context->talk, "[the coordinator is back]\n");
                return 0;
            }
        }
        client_turn(console->client);
    }
    return r;
}

static int start(struct console *console, struct fault *fault)
{
    struct loop *loop = client_loop(console->client);
    const struct client_listener listener = {
        .event = on_event, .closed = on_closed, .data = console};
    struct stat status;
    client_listen(console->client, &listener);
    int r = open_session(console, fault);
    if (r == 0)
        r = loop_timer_new(&console->timer, loop, on_tick, console, fault);
    if (r < 0)
        return r;
    loop_timer_start(console->timer, TICK_MS, TICK_MS);
    bool known = fstat(STDIN_FILENO, &status) == 0;
    /* /dev/null, like a file, is nothing that epoll would watch. */
    console->input_is_file =
        known && (S_ISREG(status.st_mode) || (S_ISCHR(status.st_mode) && !console->is_terminal));
    if (!known)
        console->input_ended = true;
    if (!known || console->input_is_file)
        return 0;
    r = loop_poll_new(&console->input, loop, STDIN_FILENO, on_input, console, fault);
    if (r == 0 && console->stage != STAGE_EARLY)
        loop_poll_set(console->input, LOOP_READABLE);
    return r;
}

static bool is_over(struct console *console, uint64_t now_ms)
{
    if (console->left || console->found || console->ended)
        return true;
    if (console->stage != STAGE_LIVE)
        return false;
    uint64_t quiet_ms = now_ms > console->heard_ms ? now_ms - console->heard_ms : 0;
    if (console->until) {
        if (quiet_ms >= PROMPT_MS)
            look_at_line(console);
        return console->found;
    }
    return !console->is_terminal && console->input_ended && console->typed_used == 0 &&
           quiet_ms >= QUIET_MS;
}

static int talk(struct console *console, struct fault *fault)
{
    for (;;) {
        uint64_t now_ms = world_now_ms();
        if (is_over(console, now_ms))
            return 0;
        if (console->timeout_ms && now_ms - console->began_ms >= console->timeout_ms)
            return 1; /* answered by cmd_console */
        if (console->broken.code < 0) {
            int r = come_back(console, fault);
            if (r < 0 && !console->left)
                return r;
        }
        client_turn(console->client);
    }
}

static int tell_timeout(struct console *console)
{
    char after[UNITS_TEXT_SIZE];
    units_print_duration(console->timeout_ms * NS_PER_MS, after);
    if (console->until)
        (void)fprintf(console->context->talk, "no line with '%s' came within %s\n", console->until,
                      after);
    else
        (void)fprintf(console->context->talk, "left after %s\n", after);
    return EXIT_CODE_WAIT_TIMED_OUT;
}

int cmd_console(struct context *context)
{
    struct console console = {
        .context = context,
        .vm = context->line->operands[0],
        .until = command_text(context->line, "until"),
        .timeout_ms = command_number(context->line, "timeout") / NS_PER_MS,
        .began_ms = world_now_ms(),
        .heard_ms = world_now_ms(),
        .is_terminal = isatty(STDIN_FILENO) && !command_given(context->line, "until"),
    };
    struct fault fault = {0};
    AUTO_FREE uint8_t *early = malloc(EARLY_MAX);
    AUTO_FREE uint8_t *typed = malloc(TYPED_MAX);
    world_random(&console.stream, sizeof console.stream);
    console.stream |= 1; /* 0 is none */
    console.typed = typed;
    int r = early && typed ? client_of(context, &console.client, &fault)
                           : fault_set(&fault, ERR_NOMEM, "no memory for a console");
    console.early = early;
    set_stage(&console, console.is_terminal ? STAGE_LIVE : STAGE_EARLY);
    if (r == 0)
        r = start(&console, &fault);
    if (r == 0 && console.is_terminal)
        (void)fprintf(context->talk, "[console of %s; Ctrl-] leaves]\n", console.vm);
    if (r == 0) {
        set_raw(&console);
        r = talk(&console, &fault);
        unset_raw(&console);
    }
    if (r == 0 && console.stage != STAGE_LIVE)
        go_live(&console); /* the guest ended before it was clear */
    console.input = loop_poll_free(console.input);
    console.timer = loop_timer_free(console.timer);
    if (console.client)
        client_listen(console.client, NULL);
    if (console.typed_used > 0 && !console.found && !console.left)
        tell_doubt(&console, console.typed_used);
    if (r < 0)
        return error_print_fault(context, &fault);
    if (r > 0)
        return tell_timeout(&console);
    if (console.is_terminal)
        (void)fprintf(context->talk, "\n[left the console of %s]\n", console.vm);
    if (console.ended && console.until && !console.found)
        return error_print_fault(context, &console.ended_by);
    if (console.in_doubt > 0 && !console.is_terminal && !console.found)
        return EXIT_CODE_PARTLY;
    return EXIT_CODE_DONE;
}

/*   read L --> is it what was expected? --no--> ours already, or lost
 *                 | yes
 *              write ticket aside, sync, link to after-<expected> --name is taken--> read L again
 *                 | made
 *              read L again --> is it ours? --no--> lost: the ticket's place was pruned long ago
 *                 | yes
 *              sync the folder, prune what is old
 */
#include "storage/stamp.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "base/own.h"

enum { TICKET_MAGIC = 0x54535747 /* "GWST" */, TICKET_VERSION = 1, TICKET_SUM_AT = 216, READ_TRIES_MAX = 16 };

static const char name_prefix[] = "after-";
static const char draft_prefix[] = ".draft-";

static_assert(24 + 3 * STAMP_WORD_SIZE == TICKET_SUM_AT, "words fill a ticket up to its sum");
static_assert(TICKET_SUM_AT + 8 == STAMP_TICKET_BYTES, "the sum ends a ticket");

/* ---- pure ---- */
static void put_word(uint8_t *at, const char *word)
{
    memset(at, 0, STAMP_WORD_SIZE);
    memcpy(at, word, strnlen(word, STAMP_WORD_SIZE - 1));
}

/* Zero-ended, zero-filled, nothing but printable letters. */
static bool get_word(const uint8_t *at, char ret_word[static STAMP_WORD_SIZE])
{
    size_t count = strnlen((const char *)at, STAMP_WORD_SIZE);

    if (count == 0 || count == STAMP_WORD_SIZE)
        return false;
    for (size_t i = 0; i < STAMP_WORD_SIZE; i++) {
        if (i < count ? at[i] <= ' ' || at[i] > '~' : at[i] != 0)
            return false;
    }
    memcpy(ret_word, at, STAMP_WORD_SIZE);
    return true;
}

void stamp_ticket_encode(const struct stamp_ticket *ticket,
                         uint8_t ret_bytes[static STAMP_TICKET_BYTES])
{
    assert(ticket->stamp.generation > ticket->after);
    bytes_put_u32(ret_bytes, TICKET_MAGIC);
    bytes_put_u32(ret_bytes + 4, TICKET_VERSION);
    bytes_put_u64(ret_bytes + 8, ticket->after);
    bytes_put_u64(ret_bytes + 16, ticket->stamp.generation);
    put_word(ret_bytes + 24, ticket->vm_id);
    put_word(ret_bytes + 24 + STAMP_WORD_SIZE, ticket->stamp.owner);
    put_word(ret_bytes + 24 + 2 * STAMP_WORD_SIZE, ticket->stamp.incarnation);
    bytes_put_u64(ret_bytes + TICKET_SUM_AT, XXH3_64bits(ret_bytes, TICKET_SUM_AT));
}

int stamp_ticket_decode(const uint8_t *bytes, size_t count, struct stamp_ticket *ret_ticket,
                        struct fault *fault)
{
    struct stamp_ticket ticket = {0};

    if (count < STAMP_TICKET_BYTES || bytes_get_u32(bytes) != TICKET_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "this is no stamp's ticket");
    if (bytes_get_u32(bytes + 4) != TICKET_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "a stamp of version %u, this host knows %d",
                         bytes_get_u32(bytes + 4), TICKET_VERSION);
    if (count != STAMP_TICKET_BYTES ||
        bytes_get_u64(bytes + TICKET_SUM_AT) != XXH3_64bits(bytes, TICKET_SUM_AT))
        return fault_set(fault, ERR_CORRUPT, "a stamp's ticket is damaged");
    ticket.after = bytes_get_u64(bytes + 8);
    ticket.stamp.generation = bytes_get_u64(bytes + 16);
    if (!get_word(bytes + 24, ticket.vm_id) ||
        !get_word(bytes + 24 + STAMP_WORD_SIZE, ticket.stamp.owner) ||
        !get_word(bytes + 24 + 2 * STAMP_WORD_SIZE, ticket.stamp.incarnation) ||
        ticket.stamp.generation <= ticket.after)
        return fault_set(fault, ERR_CORRUPT, "a stamp's ticket says what cannot be");
    *ret_ticket = ticket;
    return 0;
}

void stamp_name_print(uint64_t after, char ret_name[static STAMP_NAME_SIZE])
{
    (void)snprintf(ret_name, STAMP_NAME_SIZE, "%s%" PRIu64, name_prefix, after);
}

bool stamp_name_parse(const char *name, uint64_t *ret_after)
{
    const char *digits = name + strlen(name_prefix);
    uint64_t after = 0;

    if (strncmp(name, name_prefix, strlen(name_prefix)) != 0 || !*digits ||
        (digits[0] == '0' && digits[1]))
        return false;
    for (const char *at = digits; *at; at++) {
        if (*at < '0' || *at > '9' || after > (UINT64_MAX - (uint64_t)(*at - '0')) / 10)
            return false;
        after = after * 10 + (uint64_t)(*at - '0');
    }
    *ret_after = after;
    return true;
}

bool stamp_is_equal(const struct stamp *a, const struct stamp *b)
{
    return a->generation == b->generation && strcmp(a->owner, b->owner) == 0 &&
           strcmp(a->incarnation, b->incarnation) == 0;
}

enum stamp_verdict stamp_judge(const struct stamp *found, const struct stamp *expected,
                               const struct stamp *wanted)
{
    if (stamp_is_equal(found, wanted))
        return STAMP_VERDICT_IS_OURS;
    /* Exactly: "older than ours" is not enough, there may be a third one (SWITCHOVER, weak_cas). */
    if (stamp_is_equal(found, expected) && wanted->generation > found->generation)
        return STAMP_VERDICT_SWAP;
    return STAMP_VERDICT_LOST;
}

/* ---- the folder ---- */
struct places { /* of tickets, in any order */
    uint64_t *afters;
    size_t count, room;
};

static int places_add(struct places *places, uint64_t after, struct fault *fault)
{
    if (places->count == STAMP_TICKETS_MAX)
        return fault_set(fault, ERR_CORRUPT, "a stamp's folder holds more than %d tickets",
                         STAMP_TICKETS_MAX);
    if (places->count == places->room) {
        size_t room = places->room ? 2 * places->room : 128;
        uint64_t *grown = reallocarray(places->afters, room, sizeof *grown);
        if (!grown)
            return fault_set(fault, ERR_NOMEM, "no memory to read a stamp");
        places->afters = grown;
        places->room = room;
    }
    places->afters[places->count++] = after;
    return 0;
}

/* Each entry of the folder; drafts only when wanted. */
static int read_folder(int folder_fd, struct places *ret_places, bool remove_all,
                       struct fault *fault)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    int r = 0;

    if (!folder) {
        r = fault_set_errno(fault, err_from_errno(errno), errno, "reading a stamp's folder");
        close_p(&fd);
        return r;
    }
    errno = 0;
    for (struct dirent *item; r == 0 && (item = readdir(folder)); errno = 0) {
        uint64_t after;
        bool is_ticket = stamp_name_parse(item->d_name, &after);
        if (remove_all && (is_ticket || strncmp(item->d_name, draft_prefix,
                                                strlen(draft_prefix)) == 0))
            (void)unlinkat(folder_fd, item->d_name, 0); /* absent is as good */
        else if (is_ticket)
            r = places_add(ret_places, after, fault);
    }
    if (r == 0 && errno)
        r = fault_set_errno(fault, ERR_IO, errno, "reading a stamp's folder");
    (void)closedir(folder); /* only read */
    return r;
}

static int read_ticket(int folder_fd, const char *vm_id, uint64_t after,
                       struct stamp_ticket *ret_ticket, struct fault *fault)
{
    uint8_t bytes[STAMP_TICKET_BYTES + 1]; /* one more: a longer file shows */
    char name[STAMP_NAME_SIZE];

    stamp_name_print(after, name);
    AUTO_FD int fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno,
                               "reading the stamp %s", name);
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    if (n < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the stamp %s", name);
    int r = stamp_ticket_decode(bytes, (size_t)n, ret_ticket, fault);
    if (r == 0 && (ret_ticket->after != after || strcmp(ret_ticket->vm_id, vm_id) != 0))
        r = fault_set(fault, ERR_CORRUPT, "the stamp %s is another one's", name);
    return r;
}

/* L: the ticket that follows the highest generation, and where all of them are. */
static int read_head(int folder_fd, const char *vm_id, struct stamp *ret_stamp,
                     struct places *ret_places, struct fault *fault)
{
    struct stamp_ticket ticket;
    unsigned tries = 0;
    int r;

    do {
        uint64_t head = 0;
        ret_places->count = 0;
        r = read_folder(folder_fd, ret_places, false, fault);
        for (size_t i = 0; i < ret_places->count; i++)
            head = ret_places->afters[i] > head ? ret_places->afters[i] : head;
        if (r == 0 && ret_places->count == 0) {
            *ret_stamp = (struct stamp){0};
            return 0;
        }
        if (r == 0)
            r = read_ticket(folder_fd, vm_id, head, &ticket, fault);
        /* Pruned between list and read, so later ones are there now: look again. */
    } while (r == ERR_NOT_FOUND && ++tries < READ_TRIES_MAX);
    if (r == 0)
        *ret_stamp = ticket.stamp;
    return r;
}

int stamp_read(int folder_fd, const char *vm_id, struct stamp *ret_stamp, struct fault *fault)
{
    struct places places = {0};

    int r = read_head(folder_fd, vm_id, ret_stamp, &places, fault);
    free(places.afters);
    return r < 0 ? fault_wrap(fault, r, "stamp of VM %s", vm_id) : 0;
}

static int by_after(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return left < right ? -1 : left > right;
}

static void prune(int folder_fd, struct places *places)
{
    char name[STAMP_NAME_SIZE];

    if (places->count <= STAMP_TICKETS_KEPT)
        return;
    qsort(places->afters, places->count, sizeof *places->afters, by_after);
    for (size_t i = 0; i + STAMP_TICKETS_KEPT < places->count; i++) {
        stamp_name_print(places->afters[i], name);
        (void)unlinkat(folder_fd, name, 0); /* next time */
    }
}

static int write_draft(int folder_fd, const char *draft, const struct stamp_ticket *ticket,
                       struct fault *fault)
{
    uint8_t bytes[STAMP_TICKET_BYTES];

    stamp_ticket_encode(ticket, bytes);
    AUTO_FD int fd = openat(folder_fd, draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "writing a stamp");
    ssize_t n = write(fd, bytes, sizeof bytes);
    if (n != (ssize_t)sizeof bytes || fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, n < 0 ? errno : ENOSPC, "writing a stamp");
    return 0;
}

/* Make the name. 0: made; STAMP_E_LOST: it is there already; else nobody knows. */
static int claim(int folder_fd, const struct stamp_ticket *ticket, struct fault *fault)
{
    char name[STAMP_NAME_SIZE], random[ID_TEXT_SIZE], draft[ID_TEXT_SIZE + sizeof draft_prefix];

    id_random(random);
    (void)snprintf(draft, sizeof draft, "%s%s", draft_prefix, random);
    stamp_name_print(ticket->after, name);
    int r = write_draft(folder_fd, draft, ticket, fault);
    if (r == 0 && linkat(folder_fd, draft, folder_fd, name, 0) < 0) {
        struct stat info;
        int error = errno;
        /* An NFS server may have made it and its answer was lost: then there are two names. */
        bool made = fstatat(folder_fd, draft, &info, AT_SYMLINK_NOFOLLOW) == 0 && info.st_nlink == 2;
        if (!made && error == EEXIST)
            r = STAMP_E_LOST;
        else if (!made)
            r = fault_set_errno(fault, err_from_errno(error), error, "taking the stamp %s", name);
    }
    (void)unlinkat(folder_fd, draft, 0); /* a left-over goes with the VM */
    return r;
}

int stamp_swap(int folder_fd, const char *vm_id, const struct stamp *expected,
               const struct stamp *wanted, struct stamp *ret_found, struct fault *fault)
{
    struct places places = {0};
    struct stamp_ticket ticket = {.after = expected->generation, .stamp = *wanted};
    int r = read_head(folder_fd, vm_id, ret_found, &places, fault);

    (void)snprintf(ticket.vm_id, sizeof ticket.vm_id, "%s", vm_id);
    if (r == 0 && stamp_judge(ret_found, expected, wanted) == STAMP_VERDICT_SWAP) {
        r = claim(folder_fd, &ticket, fault);
        if (r >= 0) /* made or taken: in both cases the folder says whose it is */
            r = read_head(folder_fd, vm_id, ret_found, &places, fault);
    }
    if (r == 0 && stamp_judge(ret_found, expected, wanted) != STAMP_VERDICT_IS_OURS)
        r = STAMP_E_LOST;
    if (r == 0 && fsync(folder_fd) < 0)
        r = fault_set_errno(fault, ERR_IO, errno, "keeping a stamp");
    if (r == 0)
        prune(folder_fd, &places);
    free(places.afters);
    return r < 0 ? fault_wrap(fault, r, "stamp of VM %s", vm_id) : r;
}

int stamp_remove(int folder_fd, struct fault *fault)
{
    struct places none = {0};

    int r = read_folder(folder_fd, &none, true, fault);
    free(none.afters);
    return r;
}

/* What a guest under test does all the time, and the far end it talks to.
 *
 *   guest                                    peer (on the test's machine)
 *   block_writer  ext4, fsync ── acks ─────▶ every acknowledged number, in order
 *   stream        bytes of a known sequence ◀──▶ the same, both ways, on a connection out and one in
 *   beat          a datagram every 5 ms ───▶ longest gap, shift of the guest's clock
 *   clock_watch   the guest's own clocks
 *   cpu_hog       one thread a CPU: computes, checks memory, checks time across CPUs
 *   console       answers on the serial port
 *
 * Each noun counts in its own struct; a word that must never be true (bad, broken, back) stays true.
 */
#ifndef GODWIT_NESTED_LOAD_H
#define GODWIT_NESTED_LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PORT_OUT = 7501,  /* the guest connects to the peer */
    PORT_IN = 7502,   /* the peer connects to the guest */
    PORT_ACKS = 7503, /* the guest tells acknowledged blocks */
    PORT_BEATS = 7504,
    CPUS_MAX = 16,
    BLOCK_BYTES = 4096,
    BLOCK_RING = 8192, /* blocks in the file, then around again */
};

uint64_t mix(uint64_t word);
uint64_t now_ns(void);
void sleep_ms(unsigned ms);
void start_thread(void *(*run)(void *data), void *data);
int connect_to(const char *address, uint16_t port);
int listen_at(uint16_t port, int type);
bool send_all(int fd, const void *data, size_t size);

struct stream {
    uint64_t seed_out, seed_in;
    int fd;
    _Atomic uint64_t sent, received, bad_at; /* bad_at: 1 + place of the first wrong byte */
    _Atomic int broken;                      /* errno, or -1 for an end that nobody asked for */
};
void stream_start(struct stream *stream, int fd, uint64_t seed_out, uint64_t seed_in);

struct block_writer {
    const char *path;
    int acks_fd;
    _Atomic bool stop, stopped;
    _Atomic uint64_t next, acked;
    _Atomic int error;
};
void block_writer_start(struct block_writer *writer, const char *path, int acks_fd);
/* Reread every block that must be there, past the page cache. Gives how many were wrong. */
uint64_t block_writer_verify(const struct block_writer *writer, uint64_t *ret_checked);
void block_fill(void *block, uint64_t number);
bool block_is_whole(const void *block, uint64_t *ret_number);
/* Judges a file of blocks after the guest has ended: prints one record, true when all is there. */
bool block_file_check(const char *path, uint64_t acked);

struct clock_watch {
    _Atomic uint64_t turns, back, step_ns_max, shift_ns_max;
};
void clock_watch_start(struct clock_watch *watch);

struct cpu_hog {
    unsigned percent;
    unsigned cpus;
    _Atomic uint64_t turns[CPUS_MAX];
    _Atomic uint64_t back, bad;
};
void cpu_hog_start(struct cpu_hog *hog, unsigned percent);

struct beat {
    uint64_t number, guest_ns;
};
void beat_start(const char *address);

void console_run(struct block_writer *writer, struct stream streams[static 2],
                 struct clock_watch *watch, struct cpu_hog *hog);
int peer_run(const char *guest_address);

#endif

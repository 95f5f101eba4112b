/* One text, given to whoever asks over HTTP: metrics for Prometheus.
 *
 * Flow:   agent/metrics, coordinator/metrics -> [text_server] -> a scraper on this machine
 * Thread: the loop's.
 *
 * It understands "GET PATH" and nothing else, answers once and closes. It is not encrypted, so it
 * listens on loopback addresses only; whoever wants it elsewhere puts a proxy before it.
 */
#ifndef GODWIT_NET_TEXT_SERVER_H
#define GODWIT_NET_TEXT_SERVER_H

#include <stdio.h>

struct fault;
struct loop;
struct text_server;

enum { TEXT_SERVER_REQUEST_MAX = 2048, TEXT_SERVER_CONNECTIONS_MAX = 32 };

/* `write` writes the text anew for every request. */
int text_server_new(struct text_server **ret_server, struct loop *loop, const char *address,
                    const char *path, void (*write)(void *data, FILE *out), void *data,
                    struct fault *fault);
struct text_server *text_server_free(struct text_server *server);

/* Is what was read so far a whole request for `path`? 1: yes; 0: not whole yet; ERR_NOT_FOUND,
 * ERR_INVALID otherwise. */
int text_server_judge(const char *request, size_t count, const char *path);

#endif

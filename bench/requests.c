/* A closed loop of requests: CONNECTIONS keep-alive connections, COUNT requests in all, each sent when the answer to the
 * one before is complete.
 *
 *     requests PORT CONNECTIONS COUNT HEAD
 *
 * HEAD is the whole request, bytes as they go over the wire. Prints one line of JSON: answers, the status of the last,
 * the body bytes of one, microseconds in all.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, HEAD_SIZE = 8192, BUFFER = 1 << 18 };

struct connection {
    int fd, in_head, head_size;
    long left;
    char head[HEAD_SIZE];
};

static int status;
static long body_size;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void die(const char *what) {
    fprintf(stderr, "requests: %s\n", what);
    exit(1);
}

/* Whether this completes the answer. */
static int take(struct connection *c, const char *data, long size) {
    if (!c->in_head) return (c->left -= size) == 0;
    int room = HEAD_SIZE - 1 - c->head_size, copied = size < room ? size : room;
    memcpy(c->head + c->head_size, data, copied);
    c->head[c->head_size + copied] = 0;
    char *end = strstr(c->head, "\r\n\r\n"), *length;
    if (!end) {
        if ((c->head_size += copied) == HEAD_SIZE - 1) die("the head of an answer is too long");
        return 0;
    }
    long body = size - (end + 4 - c->head - c->head_size);
    *end = 0;
    status = atoi(c->head + 9);
    length = strcasestr(c->head, "\r\ncontent-length:");
    if (!length && status != 304) die("an answer without Content-Length");
    body_size = status == 304 ? 0 : atol(length + 17);
    c->in_head = 0;
    return (c->left = body_size - body) == 0;
}

int main(int argc, char **argv) {
    static char buffer[BUFFER];
    struct epoll_event events[BATCH];
    int poller = epoll_create1(0), one = 1;
    if (argc != 5) { fprintf(stderr, "usage: requests PORT CONNECTIONS COUNT HEAD\n"); return 2; }
    int connections = atoi(argv[2]), length = strlen(argv[4]);
    long total = atol(argv[3]), sent = 0, done = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) {
        all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].fd, (void *)&to, sizeof to)) die("cannot connect");
        setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    long start = now();
    for (int i = 0; i < connections && sent < total; i++, sent++) {
        all[i].in_head = 1;
        if (send(all[i].fd, argv[4], length, MSG_NOSIGNAL) != length) die("cannot send");
    }
    while (done < total) {
        int got = epoll_wait(poller, events, BATCH, 30000);
        if (got <= 0) die("no answer in 30 s");
        for (int i = 0; i < got; i++) {
            struct connection *c = events[i].data.ptr;
            long size = recv(c->fd, buffer, sizeof buffer, 0);
            if (size <= 0) die("the server closed a connection");
            if (!take(c, buffer, size)) continue;
            done++;
            c->in_head = 1;
            c->head_size = 0;
            if (sent < total) {
                sent++;
                if (send(c->fd, argv[4], length, MSG_NOSIGNAL) != length) die("cannot send");
            }
        }
    }
    printf("{\"answers\": %ld, \"status\": %d, \"body\": %ld, \"micros\": %ld}\n", done, status, body_size, now() - start);
    return 0;
}

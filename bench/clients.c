/* The load generator: thousands of event-stream clients in one epoll loop, one recv() and no allocation a delivery.
 *
 *     clients PORT PATH READY EVENT
 *
 * READY and EVENT are the bytes, searched for from the start of a line, that tell a client that it is connected and that
 * it got an event. Commands on standard input, each answered with one line of JSON:
 *
 *     connect N EVERY   N clients at once, every EVERY-th of which never reads (0: all read); until each has READY
 *     round MILLIS      says {"listening": …} at once, then the latencies, when every reader has had an event
 *     listen MILLIS     the same, for all that time
 *     close             resets all connections
 *
 * Times are microseconds; `first` is on CLOCK_MONOTONIC, deliveries count from there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 512, SOURCES = 10, CONNECT_SECONDS = 60, STALLED_BUFFER = 4096 };

struct client {
    int fd;
    uint8_t matched;  /* bytes of the pattern it waits for seen so far */
    uint8_t begun;    /* the status line was seen */
    uint8_t ready, reads, lost;
    uint8_t told;     /* in this round */
};

static struct client *clients;
static int count, readers, ready, refused, lost, told;
static long deliveries;
static int64_t *times;
static int poller, port;
static const char *ready_pattern, *event_pattern;
static char request[2048];
static int request_size;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void die(const char *what) {
    fprintf(stderr, "clients: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void drop(struct client *c) {
    if (!c->ready) refused++;
    lost++;
    c->lost = 1;
    close(c->fd);
}

/* Whether the pattern was completed. It begins with a newline and has no other, so a mismatch never hides a start. */
static int find(struct client *c, const char *pattern, const char *data, int size, int *used) {
    int matched = c->matched, i;
    for (i = 0; i < size; i++) {
        if (data[i] == pattern[matched]) {
            if (!pattern[++matched]) { c->matched = 0; *used = i + 1; return 1; }
        } else {
            matched = data[i] == '\n';
        }
    }
    c->matched = matched;
    *used = size;
    return 0;
}

static void take(struct client *c, const char *data, int size) {
    int used;
    if (!c->begun) {
        if (size < 12 || memcmp(data + 9, "200", 3)) { drop(c); return; }
        c->begun = 1;
    }
    while (size) {
        if (!c->ready) {
            if (find(c, ready_pattern, data, size, &used)) { c->ready = 1; times[ready++] = now(); }
        } else if (find(c, event_pattern, data, size, &used)) {
            deliveries++;
            if (!c->told) { c->told = 1; times[told++] = now(); }
        }
        data += used;
        size -= used;
    }
}

/* Connected: send the request. Who never reads leaves the loop. */
static void ask(struct client *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, c->reads ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, c->fd, &event);
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != request_size) drop(c);
}

static void poll_clients(int millis) {
    static struct epoll_event events[BATCH];
    static char buffer[65536];
    int got = epoll_wait(poller, events, BATCH, millis);
    for (int i = 0; i < got; i++) {
        struct client *c = events[i].data.ptr;
        if (events[i].events == EPOLLOUT) { ask(c); continue; }
        int size = recv(c->fd, buffer, sizeof buffer, 0);
        if (size > 0) take(c, buffer, size);
        else if (size == 0 || errno != EAGAIN) drop(c);
    }
}

static void open_client(struct client *c, int number, int reads) {
    int one = 1, small = STALLED_BUFFER;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number % SOURCES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(c, 0, sizeof *c);
    c->reads = reads;
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) die("socket");
    if (!reads) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (void *)&from, sizeof from)) die("bind");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    if (!connect(c->fd, (void *)&to, sizeof to)) ask(c);
    else if (errno != EINPROGRESS) drop(c);
}

static void connect_all(int wanted, int every) {
    struct linger reset = {1, 0};
    count = wanted;
    ready = readers = refused = lost = 0;
    clients = calloc(count, sizeof *clients);
    times = calloc(count, sizeof *times);
    int64_t start = now();
    for (int i = 0; i < count; i++) {
        int reads = !every || i % every;
        readers += reads;
        open_client(&clients[i], i, reads);
        if (i % 64 == 63) poll_clients(0);
    }
    while (ready + refused < readers && now() - start < CONNECT_SECONDS * 1000000LL) poll_clients(100);
    for (int i = 0; i < count; i++)
        if (!clients[i].lost) setsockopt(clients[i].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    printf("{\"ready\": %d, \"refused\": %d, \"p50\": %ld, \"last\": %ld}\n", ready, readers - ready,
           ready ? times[ready / 2] - start : 0, ready ? times[ready - 1] - start : 0);
}

static void listen_for(int millis, int round) {
    told = deliveries = 0;
    for (int i = 0; i < count; i++) clients[i].told = 0;
    printf("{\"listening\": %d}\n", readers - lost);
    fflush(stdout);
    int64_t end = now() + millis * 1000LL;
    while (now() < end && !(round && told >= readers - lost)) poll_clients(round ? 100 : 10);
    int64_t first = told ? times[0] : 0;
    printf("{\"told\": %d, \"deliveries\": %ld, \"lost\": %d, \"first\": %ld, \"p50\": %ld, \"p99\": %ld, "
           "\"last\": %ld}\n", told, deliveries, lost, first, told ? times[told / 2] - first : 0,
           told ? times[told * 99 / 100] - first : 0, told ? times[told - 1] - first : 0);
}

static void close_all(void) {
    for (int i = 0; i < count; i++)
        if (!clients[i].lost) close(clients[i].fd);
    free(clients);
    free(times);
    count = 0;
    printf("{}\n");
}

int main(int argc, char **argv) {
    char line[256];
    int a, b;
    if (argc != 5) { fprintf(stderr, "usage: clients PORT PATH READY EVENT\n"); return 2; }
    port = atoi(argv[1]);
    request_size = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: scoreboard.example.org\r\nConnection: keep-alive\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
        "Accept: text/event-stream\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
        "Cache-Control: no-cache\r\nPragma: no-cache\r\n\r\n", argv[2]);
    asprintf((char **)&ready_pattern, "\n%s", argv[3]);
    asprintf((char **)&event_pattern, "\n%s", argv[4]);
    if ((poller = epoll_create1(0)) < 0) die("epoll_create1");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "connect %d %d", &a, &b) == 2) connect_all(a, b);
        else if (sscanf(line, "round %d", &a) == 1) listen_for(a, 1);
        else if (sscanf(line, "listen %d", &a) == 1) listen_for(a, 0);
        else if (!strncmp(line, "close", 5)) close_all();
        else { fprintf(stderr, "clients: unknown command: %s", line); return 2; }
        fflush(stdout);
    }
    return 0;
}

/* The floor: what the kernel alone asks for a broadcast. One epoll loop; a POST sends its body to all with send().
 *
 *     floor PORT
 *
 * It keeps none of the promises of a broadcaster: no queue, no deadline, whoever lags loses bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 512, MOST = 65536 };

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n"
    "retry: 2714\nid: 7f3a-41\nevent: ready\ndata: {}\n\n";
static const char DONE[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static char streams[MOST]; /* by descriptor: it is one */
static int highest, poller;

static void broadcast(const char *body, int size) {
    for (int fd = 0; fd <= highest; fd++)
        if (streams[fd]) send(fd, body, size, MSG_NOSIGNAL);
}

static void serve(int fd) {
    static char buffer[65536];
    int size = recv(fd, buffer, sizeof buffer - 1, 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN) { streams[fd] = 0; close(fd); }
        return;
    }
    buffer[size] = 0;
    char *body = strstr(buffer, "\r\n\r\n");
    if (!body) return;
    if (!strncmp(buffer, "POST", 4)) {
        broadcast(body + 4, size - (body + 4 - buffer));
        send(fd, DONE, sizeof DONE - 1, MSG_NOSIGNAL);
    } else {
        send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL);
        streams[fd] = 1;
        if (fd > highest) highest = fd;
    }
}

int main(int argc, char **argv) {
    static struct epoll_event events[BATCH];
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 2) { fprintf(stderr, "usage: floor PORT\n"); return 2; }
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 4096)) { perror("floor"); return 1; }
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int got = epoll_wait(poller, events, BATCH, -1);
        for (int i = 0; i < got; i++) {
            if (events[i].data.fd != listener) { serve(events[i].data.fd); continue; }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (fd >= MOST) { close(fd); continue; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.data.fd = fd;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}

/* Make short connections to 127.0.0.1, check every byte, print one line of JSON.
 *
 *   load PORT SHAPE AT_A_TIME RATE SECONDS SOURCE PATIENCE
 *
 * SHAPE is "peer" (we close as soon as the answer is here), "server" (we read to the
 * server's end first) or "datagram" (one there, one back, over UDP). At most AT_A_TIME connections are open. RATE 0: as fast as they end; else so
 * many a second fall due whatever the server does, and their time counts from the due moment.
 * SOURCE is the address to connect from: each one has ports of its own, so that those still in
 * TIME_WAIT from another run are not in the way. TERM ends a run early.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, MOST = 4096 };
#define PAUSE 5000000ull  /* ns that a client who could not connect waits before the next */
#define PRECISE 200000ull /* ns before a due moment from which on we do not sleep */

enum outcome { OK, REFUSED, RESET_CONNECTING, NO_CONNECT, LOST, UNANSWERED, WRONG, UNCLEAN, OTHER, OUTCOMES };
static const char *const names[OUTCOMES] = {
    "ok", "refused", "reset_connecting", "connect_timeout", "lost", "unanswered", "wrong", "unclean_end", "other"};

enum state { FREE, CONNECTING, WAITING };
struct client {
    enum state state;
    int fd;
    unsigned got;
    uint64_t since, resume, serial;
    unsigned char answer[SIZE + 1];
};

static struct client clients[MOST];
static struct sockaddr_in server, source;
static int to_end, kind = SOCK_STREAM, poller, at_a_time, alive, paused;
static uint64_t made, counts[OUTCOMES], patience;
static double *times;
static volatile sig_atomic_t told_to_stop;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void message(uint64_t serial, unsigned char *into) {
    uint64_t word = serial * 0x9e3779b97f4a7c15ull + 1;
    for (int i = 0; i < SIZE; i += 8) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        memcpy(into + i, &word, 8);
    }
}

static void end(struct client *c, enum outcome how) {
    close(c->fd);
    c->state = FREE;
    alive--;
    if (how == OK) {
        if ((counts[OK] & (counts[OK] - 1)) == 0)
            times = realloc(times, (counts[OK] ? counts[OK] * 2 : 1) * sizeof *times);
        times[counts[OK]] = (now() - c->since) / 1e3;
    } else if (how <= NO_CONNECT) {
        c->resume = now() + PAUSE, paused++;
    }
    counts[how]++;
}

static enum outcome not_connected(int error) {
    return error == ECONNREFUSED                       ? REFUSED
           : error == ECONNRESET || error == EPIPE     ? RESET_CONNECTING
           : error == ETIMEDOUT                        ? NO_CONNECT
                                                       : OTHER;
}

static void send_message(struct client *c) {
    unsigned char bytes[SIZE];
    message(c->serial, bytes);
    ssize_t sent = send(c->fd, bytes, SIZE, MSG_NOSIGNAL);
    if (sent == SIZE)
        c->state = WAITING;
    else if (sent >= 0 || errno != EAGAIN)
        end(c, sent >= 0 ? OTHER : not_connected(errno));
}

static void start(struct client *c, uint64_t since) {
    struct epoll_event event = {.data.ptr = c};
    int one = 1;
    c->fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->state = CONNECTING, c->got = 0, c->since = since, c->serial = made++, alive++;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (c->fd < 0 || bind(c->fd, (struct sockaddr *)&source, sizeof source))
        end(c, OTHER);
    else if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        end(c, not_connected(errno));
    else
        send_message(c); /* over loopback the handshake is mostly done by now */
    if (c->state == FREE)
        return;
    event.events = EPOLLIN | (c->state == CONNECTING ? EPOLLOUT : 0);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void finish_connecting(struct client *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        end(c, not_connected(error));
        return;
    }
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    send_message(c);
}

static void receive(struct client *c) {
    unsigned char expected[SIZE];
    for (;;) {
        ssize_t n = recv(c->fd, c->answer + c->got, SIZE + 1 - c->got, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) { /* the end is right only after a whole answer, and where it was waited for */
            end(c, c->got < SIZE ? LOST : n < 0 ? UNCLEAN : OK);
            return;
        }
        c->got += n;
        if (c->got < SIZE)
            continue;
        message(c->serial, expected);
        if (c->got > SIZE || memcmp(expected, c->answer, SIZE))
            end(c, WRONG);
        else if (!to_end)
            end(c, OK);
        if (c->state == FREE)
            return;
    }
}

static void give_up_on_the_late(uint64_t moment) {
    for (int i = 0; i < at_a_time; i++)
        if (clients[i].state != FREE && clients[i].since + patience < moment)
            end(&clients[i], clients[i].state == CONNECTING ? NO_CONNECT : UNANSWERED);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void stop(int number) { (void)number, told_to_stop = 1; }

static void run(double rate, double seconds) {
    struct epoll_event events[256];
    uint64_t begin = now(), finish = begin + seconds * 1e9, checked = begin, due = begin, t;
    while ((t = now()) < finish && !told_to_stop ? 1 : alive) {
        int going = t < finish && !told_to_stop;
        uint64_t wake = t + 250000000;
        for (int i = 0; going && i < at_a_time && alive < at_a_time && (!rate || due <= t); i++) {
            struct client *c = &clients[i];
            if (c->state != FREE || c->resume > t)
                continue;
            if (c->resume)
                c->resume = 0, paused--;
            start(c, rate ? due : t);
            due += rate ? 1e9 / rate : 0;
        }
        if (going && rate && due < wake)
            wake = due;
        for (int i = 0; going && paused && i < at_a_time; i++)
            if (clients[i].state == FREE && clients[i].resume && clients[i].resume < wake)
                wake = clients[i].resume;
        if (going && wake > finish)
            wake = finish;
        t = now();
        uint64_t rest = wake > t + PRECISE ? wake - t - PRECISE : 0;
        if (rest && (rate || paused)) { /* finer than the milliseconds of epoll_wait */
            struct pollfd poll = {poller, POLLIN, 0};
            struct timespec finer = {0, rest};
            ppoll(&poll, 1, &finer, NULL);
            rest = 0;
        }
        int n = epoll_wait(poller, events, 256, (rest + 999999) / 1000000);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (c->state == CONNECTING)
                finish_connecting(c);
            if (c->state == WAITING)
                receive(c);
        }
        if (t - checked > 100000000)
            give_up_on_the_late(t), checked = t;
    }
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: load PORT SHAPE AT_A_TIME RATE SECONDS SOURCE PATIENCE\n");
        return 2;
    }
    double rate = atof(argv[4]);
    server.sin_family = source.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    inet_pton(AF_INET, argv[6], &source.sin_addr);
    to_end = !strcmp(argv[2], "server");
    kind = strcmp(argv[2], "datagram") ? SOCK_STREAM : SOCK_DGRAM;
    at_a_time = atoi(argv[3]) > MOST ? MOST : atoi(argv[3]);
    patience = atof(argv[7]) * 1e9;
    poller = epoll_create1(EPOLL_CLOEXEC);
    prctl(PR_SET_TIMERSLACK, 1);
    signal(SIGTERM, stop);
    uint64_t begin = now();
    run(rate, atof(argv[5]));
    qsort(times, counts[OK], sizeof *times, by_size);
    printf("{\"generator\": \"C\", \"seconds\": %.3f", (now() - begin) / 1e9);
    for (int i = 0; i < OUTCOMES; i++)
        printf(", \"%s\": %llu", names[i], (unsigned long long)counts[i]);
    for (int p = 50; p < 100; p += p == 50 ? 40 : 9)
        printf(", \"p%d_us\": %.1f", p, counts[OK] ? times[counts[OK] * p / 100] : 0.0);
    printf("}\n");
    return 0;
}

/* The least that a server can cost: accept, answer, close, in C and one at a time.
 *
 *   peers_loop peer|server|datagram
 *
 * "peer" sends back what arrives until the peer ends; "server" answers once, ends its side and closes; "datagram" sends
 * each one back. Blocking calls, nothing else: no limits, no stop but by a signal.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static void serve(int connection, int until_end) {
    ssize_t got;
    do {
        got = recv(connection, buffer, sizeof buffer, 0);
        if (got > 0)
            send(connection, buffer, got, MSG_NOSIGNAL);
    } while (until_end && got > 0);
    close(connection);
}

static void serve_datagrams(int sock) {
    struct sockaddr_in peer;
    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(sock, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0)
            sendto(sock, buffer, got, 0, (struct sockaddr *)&peer, length);
    }
}

int main(int count, char **arguments) {
    const char *shape = count == 2 ? arguments[1] : "";
    int is_datagram = !strcmp(shape, "datagram"), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int sock = socket(AF_INET, is_datagram ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (bind(sock, (struct sockaddr *)&address, sizeof address) || (!is_datagram && listen(sock, 2048)))
        return perror("peers_loop"), 1;
    getsockname(sock, (struct sockaddr *)&address, &length);
    fprintf(stderr, "listening on %s://127.0.0.1:%d\n", is_datagram ? "udp" : "tcp", ntohs(address.sin_port));
    if (is_datagram)
        serve_datagrams(sock);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        int connection = accept(sock, NULL, NULL);
        if (connection >= 0)
            serve(connection, !strcmp(shape, "peer"));
    }
}

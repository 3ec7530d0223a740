/* A load for servers that echo, which costs little beside what it measures.
 *
 *     echo_load PORT CONNECTIONS SIZE SECONDS
 *
 * Each connection sends SIZE bytes, and sends them again when they have come back.  It prints how many came back whole in
 * that time, per second; the exit status is 1 if anything else came.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_EVENTS = 256, PATIENCE = 10000 };

typedef struct {
    int socket;
    size_t sent, received;
} Connection;

static char *message, *room;
static size_t size;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void send_more(Connection *connection)
{
    while (connection->sent < size) {
        ssize_t sent = send(connection->socket, message + connection->sent, size - connection->sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (sent < 0)
            fail("send");
        connection->sent += (size_t)sent;
    }
}

/* Returns whether a message has come back whole. */
static int receive_more(Connection *connection)
{
    ssize_t count = recv(connection->socket, room, size - connection->received, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (count <= 0)
        fail("recv");
    if (memcmp(room, message + connection->received, (size_t)count) != 0) {
        fprintf(stderr, "something else came back\n");
        exit(1);
    }
    connection->received += (size_t)count;
    if (connection->received < size)
        return 0;
    connection->sent = connection->received = 0;
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: echo_load PORT CONNECTIONS SIZE SECONDS\n");
        return 2;
    }
    int count = atoi(argv[2]);
    size = strtoul(argv[3], NULL, 10);
    double seconds = atof(argv[4]);
    message = malloc(size);
    room = malloc(size);
    Connection *connections = calloc((size_t)count, sizeof *connections);
    if (message == NULL || room == NULL || connections == NULL)
        fail("malloc");
    for (size_t i = 0; i < size; i++)
        message[i] = (char)(i * 7 + i / 251);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int epoll = epoll_create1(0), one = 1;
    for (int i = 0; i < count; i++) {
        Connection *connection = &connections[i];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
        connection->socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection->socket, (struct sockaddr *)&address, sizeof address) < 0)
            fail("connect");
        setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->socket, &event) < 0)
            fail("epoll_ctl");
    }
    unsigned long messages = 0;
    double began = now(), end = began + seconds;
    while (now() < end) {
        struct epoll_event events[MOST_EVENTS];
        int ready = epoll_wait(epoll, events, MOST_EVENTS, PATIENCE);
        if (ready <= 0)
            fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            Connection *connection = events[i].data.ptr;
            int whole;
            do {
                send_more(connection);
                size_t before = connection->received;
                whole = receive_more(connection);
                messages += (unsigned long)whole;
                if (!whole && connection->received == before)
                    break;
            } while (1);
        }
    }
    printf("%f\n", (double)messages / (now() - began));
    return 0;
}

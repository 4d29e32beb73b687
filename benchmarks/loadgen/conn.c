/* Connections: dialing, sending a whole message, waiting for a token. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A server that takes nothing for this long is stuck. */
#define SEND_SECONDS 10

/* Connect to `host` and `port`. Returns the socket, non-blocking and
 * without Nagle's delay, or exits. */
int lg_dial(const char *host, const char *port)
{
    static const int on = 1;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int problem = getaddrinfo(host, port, &hints, &found);

    if (problem)
        lg_fail("cannot look up %s: %s", host, gai_strerror(problem));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        lg_fail("cannot open a socket: %s", strerror(errno));
    if (connect(fd, found->ai_addr, found->ai_addrlen) < 0)
        lg_fail("cannot connect to %s:%s: %s", host, port, strerror(errno));
    freeaddrinfo(found);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    lg_nonblocking(fd);
    return fd;
}

/* Make calls on `fd` return at once. Cannot fail on an open descriptor. */
void lg_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Send all bytes, waiting for room if necessary.
 * Returns false if the peer has gone or takes nothing. */
bool lg_send_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (poll(&wait, 1, SEND_SECONDS * 1000) <= 0)
                return false;
            continue;
        }
        if (sent < 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

/* Continue to search for `token`, of which `*matched` bytes were found so far.
 * Its first byte must not occur in it again. Returns the number of bytes
 * consumed, which is all of them unless the token is complete. */
size_t lg_match(size_t *matched, struct lg_bytes token, const char *bytes,
                size_t size)
{
    size_t used = 0;

    while (used < size && *matched < token.size) {
        char c = bytes[used++];
        if (c == token.data[*matched])
            (*matched)++;
        else
            *matched = c == token.data[0];
    }
    return used;
}

/* Wait until something is ready, at most LG_STALL_MS. With `spin` this polls
 * without sleeping, so that the server does not pay for wake-ups, which on a
 * virtual machine cost more than the sending. The CPU seconds spent polling
 * are added to `*polling`. Returns the number of events, 0 if there were
 * none. */
int lg_await(int epoll, struct epoll_event *events, int max, bool spin,
             double *polling)
{
    int count = epoll_wait(epoll, events, max, spin ? 0 : LG_STALL_MS);

    if (count != 0 || !spin)
        return count > 0 ? count : 0;
    double cpu = lg_cpu();
    uint64_t stalled = lg_now() + LG_STALL_MS * (LG_SECOND / 1000);
    do
        count = epoll_wait(epoll, events, max, 0);
    while (count == 0 && lg_now() < stalled);
    *polling += lg_cpu() - cpu;
    return count > 0 ? count : 0;
}

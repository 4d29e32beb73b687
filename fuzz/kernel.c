/* The system calls of the core: a kernel that receives and sends in pieces,
 * and fails now and then. */
#include "kernel.h"
#include "fuzz.h"

#include <errno.h>

/* One of this many calls fails, or does only part of its work. */
#define RARE 6

peer peers[MAX_PEERS];

static ssize_t fails(int error) {
    errno = error;
    return -1;
}

/* Make a descriptor's other end that of a new connection. */
void reset_peer(int fd) {
    peer *p = &peers[fd];

    p->sent.len = p->got.len = p->at = p->room = 0;
    p->has_ended = p->is_broken = 0;
}

ssize_t kernel_recv(int fd, void *to, size_t most, int flags) {
    peer *p = &peers[fd];
    size_t n = p->sent.len - p->at;

    if (!(flags & MSG_DONTWAIT) || most == 0)
        abort();
    if (chance(RARE) == 0)
        return fails(chance(2) ? EINTR : EAGAIN);
    if (n == 0)
        return p->has_ended ? 0 : fails(EAGAIN);
    n = n < most ? n : most;
    if (chance(RARE) == 0)
        n = 1 + chance(n);
    memcpy(to, p->sent.data + p->at, n);
    p->at += n;
    return (ssize_t)n;
}

/* Take what fits, or a part of it. */
static ssize_t take(int fd, const struct iovec *iov, size_t spans) {
    peer *p = &peers[fd];
    size_t total = 0, left;

    for (size_t i = 0; i < spans; i++)
        total += iov[i].iov_len;
    if (total == 0)
        abort();
    if (p->is_broken)
        return fails(EPIPE);
    if (chance(RARE) == 0)
        return fails(chance(2) ? EINTR : chance(2) ? ENOBUFS : EAGAIN);
    if (p->room == 0)
        return fails(EAGAIN);
    left = total < p->room ? total : p->room;
    if (chance(RARE) == 0)
        left = 1 + chance(left);
    total = left;
    p->room -= total;
    for (size_t i = 0; left; i++) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;

        add(&p->got, iov[i].iov_base, n);
        left -= n;
    }
    return (ssize_t)total;
}

ssize_t kernel_send(int fd, const void *data, size_t len, int flags) {
    struct iovec iov = {(void *)(uintptr_t)data, len};

    if (!(flags & MSG_NOSIGNAL) || !(flags & MSG_DONTWAIT))
        abort();
    return take(fd, &iov, 1);
}

ssize_t kernel_sendmsg(int fd, const struct msghdr *msg, int flags) {
    if (!(flags & MSG_NOSIGNAL) || !(flags & MSG_DONTWAIT))
        abort();
    return take(fd, msg->msg_iov, msg->msg_iovlen);
}

/* Nothing is known about what is in flight. */
int kernel_ioctl(int fd, unsigned long request, int *bytes) {
    (void)fd;
    (void)request;
    (void)bytes;
    return (int)fails(ENOTTY);
}

/* The ceiling: a program that does nothing but send prepared bytes to every
 * socket, as fast as the kernel takes them. The bytes have the format of what
 * rankserver broadcasts. A byte from any client starts the sending:
 *
 *   'm'  the marker
 *   'g'  all prepared commands
 *   's'  the next prepared command
 *
 * The only command on stdin is "prepare COMMANDS CHUNK". The program ends at
 * the end of stdin.
 *
 * The bytes are sent in chunks of CHUNK bytes, each to every socket that takes
 * it, so that a chunk is read from memory once and then from the cache. The
 * fastest size depends on the machine and the number of sockets, so a
 * benchmark tries several and takes the best. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The most events of one epoll_wait. */
#define BATCH 256

struct target {
    int fd;
    bool blocked;
    size_t pos; /* bytes of the stream sent to it so far */
};

struct ceiling {
    int epoll, listener;
    int writable;       /* a second epoll, edge-triggered: see unblock */
    struct target *targets;
    size_t count, accepted;
    uint32_t senders;
    size_t text, chunk;
    char *stream;
    size_t size, limit; /* bytes prepared, and bytes to send now */
    size_t behind;      /* targets without all bytes up to the limit */
    uint64_t seq;
    unsigned marks;     /* markers requested so far */
    bool open;          /* stdin has not ended */
};

/* Register `fd`; its events carry `data`. Exits on failure. */
static void watch(int epoll, int fd, void *data, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = data};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        lg_fail("epoll_ctl: %s", strerror(errno));
}

/* Listen on a free loopback port and print it. Exits on failure. */
static void listen_anywhere(struct ceiling *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* Reno does not pace, so it is faster than a system default that does. If
     * the system permits only its own algorithm, that one is used. */
    setsockopt(c->listener, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    if (c->listener < 0 ||
        bind(c->listener, (struct sockaddr *)&address, size) < 0 ||
        listen(c->listener, 4096) < 0 ||
        getsockname(c->listener, (struct sockaddr *)&address, &size) < 0)
        lg_fail("cannot listen: %s", strerror(errno));
    lg_nonblocking(c->listener);
    lg_print("{\"event\":\"listening\",\"port\":%d}",
             ntohs(address.sin_port));
}

/* Accept the waiting clients, up to the expected number. */
static void accept_targets(struct ceiling *c)
{
    static const int on = 1;

    while (c->accepted < c->count) {
        struct target *target = &c->targets[c->accepted];
        target->fd = accept4(c->listener, NULL, NULL,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (target->fd < 0)
            return;
        setsockopt(target->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(c->epoll, target->fd, target, EPOLLIN);
        watch(c->writable, target->fd, target, EPOLLOUT | EPOLLET);
        c->accepted++;
    }
    close(c->listener);
}

/* Empty the stream, and make room for the bytes of `commands`. */
static void clear(struct ceiling *c, size_t commands)
{
    free(c->stream);
    c->stream = lg_alloc(commands * (c->text + LG_MAX_WRAP));
    c->size = c->limit = c->behind = 0;
    for (size_t i = 0; i < c->accepted; i++)
        c->targets[i].pos = 0;
}

/* Append a number and a space. printf would take longer than the burst. */
static void append_number(struct ceiling *c, uint64_t number)
{
    char digits[21];
    size_t n = sizeof digits;

    digits[--n] = ' ';
    do
        digits[--n] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(c->stream + c->size, digits + n, sizeof digits - n);
    c->size += sizeof digits - n;
}

/* Append the frame of the sender's command with this index. */
static void append(struct ceiling *c, uint32_t sender, uint32_t index)
{
    memcpy(c->stream + c->size, "CMD ", 4);
    c->size += 4;
    append_number(c, ++c->seq);
    append_number(c, sender);
    lg_text(c->stream + c->size, c->text, sender, index);
    c->size += c->text;
    c->stream[c->size++] = '\n';
}

/* Prepare the stream of `commands`, and report it. */
static void prepare(struct ceiling *c, size_t commands)
{
    clear(c, commands);
    for (size_t i = 0; i < commands; i++)
        append(c, (uint32_t)(i % c->senders), (uint32_t)(i / c->senders));
    lg_print("{\"event\":\"prepared\",\"commands\":%zu,\"bytes\":%zu}",
             commands, c->size);
}

/* Prepare the marker. The number in it counts the markers before it. */
static void prepare_marker(struct ceiling *c)
{
    char mark[32];

    clear(c, 1);
    append(c, 0, 0);
    snprintf(mark, sizeof mark, "@mark:%08x", c->marks++);
    memcpy(c->stream + c->size - 1 - c->text, mark, LG_ID);
}

/* Send the target its bytes before `head`, in one call. */
static void push(struct ceiling *c, struct target *target, size_t head)
{
    ssize_t sent = send(target->fd, c->stream + target->pos,
                        head - target->pos, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (sent < 0) {
        if (errno != EAGAIN)
            lg_fail("a receiver has gone: %s", strerror(errno));
        target->blocked = true;
        return;
    }
    target->pos += (size_t)sent;
    if (target->pos < head)
        target->blocked = true; /* the next send would block */
    if (target->pos == c->limit)
        c->behind--;
}

/* Unblock the targets that have become writable. The epoll is edge-triggered,
 * so no epoll_ctl is needed. With `wait`, wait for at least one of them. */
static void unblock(struct ceiling *c, bool wait)
{
    struct epoll_event events[BATCH];
    int count = epoll_wait(c->writable, events, BATCH, wait ? -1 : 0);

    for (int i = 0; i < count; i++) {
        struct target *target = events[i].data.ptr;
        target->blocked = false;
    }
}

/* Send every target all bytes before the limit. */
static void broadcast(struct ceiling *c)
{
    size_t head = c->targets[0].pos;

    c->behind = c->accepted;
    while (c->behind) {
        bool moved = false;
        head = c->limit - head > c->chunk ? head + c->chunk : c->limit;
        for (size_t i = 0; i < c->accepted; i++) {
            struct target *target = &c->targets[i];
            if (target->blocked || target->pos >= head)
                continue;
            push(c, target, head);
            moved = true;
        }
        if (c->behind)
            unblock(c, !moved && head == c->limit);
    }
}

/* Returns the position behind the frame that begins at `from`. */
static size_t frame_end(const struct ceiling *c, size_t from)
{
    const char *end = memchr(c->stream + from, '\n', c->size - from);

    return end ? (size_t)(end - c->stream) + 1 : c->size;
}

/* Carry out the commands in bytes from a client. */
static void obey(struct ceiling *c, const char *bytes, ssize_t size)
{
    for (ssize_t i = 0; i < size; i++) {
        if (bytes[i] == 'm')
            prepare_marker(c);
        c->limit = bytes[i] == 's' ? frame_end(c, c->limit) : c->size;
        broadcast(c);
    }
}

/* Read what a client sent. */
static void hear(struct ceiling *c, struct target *target)
{
    char bytes[4096];
    ssize_t size = recv(target->fd, bytes, sizeof bytes, 0);

    if (size == 0)
        exit(0); /* the generator has ended */
    obey(c, bytes, size);
}

/* Handle one line from stdin. */
static void ordered(struct ceiling *c)
{
    char line[64], commands[32] = "", chunk[32] = "";

    c->open = lg_command(line, sizeof line);
    if (!c->open)
        return;
    if (strncmp(line, "prepare ", 8) != 0)
        lg_fail("unknown command: %s", line);
    sscanf(line + 8, "%31s %31s", commands, chunk);
    c->chunk = lg_number(chunk, 1, 1 << 30, "CHUNK");
    prepare(c, lg_number(commands, 1, SIZE_MAX / 2, "COMMANDS"));
}

/* Run until stdin ends. */
static void run(struct ceiling *c)
{
    static char on_stdin, on_listener;
    struct epoll_event events[BATCH];

    watch(c->epoll, STDIN_FILENO, &on_stdin, EPOLLIN);
    watch(c->epoll, c->listener, &on_listener, EPOLLIN);
    while (c->open) {
        int count = epoll_wait(c->epoll, events, BATCH, -1);
        for (int i = 0; i < count && c->open; i++) {
            void *data = events[i].data.ptr;
            if (data == &on_stdin)
                ordered(c);
            else if (data == &on_listener)
                accept_targets(c);
            else if (events[i].events & EPOLLIN)
                hear(c, data);
        }
    }
}

/* Run as the ceiling. Returns the exit code. */
int lg_ceiling(int argc, char **argv)
{
    struct ceiling c = {.open = true, .chunk = 1};

    if (argc != 3)
        lg_fail("usage: loadgen ceiling SOCKETS SENDERS SIZE");
    c.count = lg_number(argv[0], 1, 100000, "SOCKETS");
    c.senders = (uint32_t)lg_number(argv[1], 1, LG_MAX_SENDERS, "SENDERS");
    c.text = lg_number(argv[2], LG_ID, 1 << 24, "SIZE");
    c.targets = lg_alloc(c.count * sizeof *c.targets);
    c.epoll = epoll_create1(EPOLL_CLOEXEC);
    c.writable = epoll_create1(EPOLL_CLOEXEC);
    listen_anywhere(&c);
    run(&c);
    return 0;
}

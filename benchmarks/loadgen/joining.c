/* What comes before the phases: connecting and joining, the marker from
 * which all streams are the same, and keeping a server from asking whether
 * anybody lives. */
#define _GNU_SOURCE
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define KEEPALIVE (5 * LG_SECOND) /* pauses longer than this need one */
#define SETTLE_US 50000 /* for the server to have read the keepalives */

/* Returns whether the commands are sent to this connection. */
bool lg_hears(const struct generate *gen, const struct lg_conn *conn)
{
    return conn->sender == NOBODY || gen->proto->echo;
}

/* Take bytes that came before the phases: the answer to the hello, then
 * whatever comes before the marker. */
void lg_prelude(struct generate *gen, struct lg_conn *conn,
                const char *bytes, size_t size)
{
    size_t used = 0;

    snprintf(gen->last, sizeof gen->last, ", after: %.*s",
             (int)(size < LAST ? size : LAST), bytes);
    if (conn->state == LG_GREETING) {
        used = lg_match(&conn->matched, gen->proto->ready, bytes, size);
        if (conn->matched < gen->proto->ready.size)
            return;
        conn->state = LG_JOINED;
        conn->matched = 0;
    }
    if (!lg_hears(gen, conn) || gen->marker.size == 0)
        return;
    used += lg_match(&conn->matched, gen->marker, bytes + used, size - used);
    if (conn->matched < gen->marker.size)
        return;
    conn->state = LG_STREAM;
    gen->marked++;
    if (used < size)
        lg_fail("unexpected bytes behind the marker: %.*s",
                (int)(size - used < 80 ? size - used : 80), bytes + used);
}

/* Connect, say hello and wait until the server has answered. */
static void join(struct generate *gen, struct lg_conn *conn,
                 const char *host, const char *port)
{
    struct lg_bytes hello = conn->sender == NOBODY
                                ? gen->proto->receiver_hello
                                : gen->proto->sender_hello;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    conn->fd = lg_dial(host, port);
    conn->state = gen->proto->ready.size ? LG_GREETING : LG_JOINED;
    if (epoll_ctl(gen->epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0)
        lg_fail("epoll_ctl: %s", strerror(errno));
    if (!lg_send_all(conn->fd, hello.data, hello.size))
        lg_fail("the server did not take a hello");
    while (conn->state == LG_GREETING)
        lg_turn(gen);
}

/* Join with all connections: the receivers, then the senders. */
void lg_join_all(struct generate *gen, const char *host, const char *port)
{
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_conn *conn = &gen->conns[i];
        uint32_t receivers = gen->count - gen->senders;
        conn->id = i;
        conn->sender = i < receivers ? NOBODY : i - receivers;
        gen->streams += lg_hears(gen, conn);
        join(gen, conn, host, port);
    }
    gen->kept_alive = lg_now();
}

/* Send the marker, a command like no other, and wait until all have seen
 * it: from there on all streams are the same. */
void lg_mark(struct generate *gen)
{
    struct lg_conn *conn = &gen->conns[gen->count - gen->senders];
    size_t size = gen->ref.text + gen->proto->tail.size;
    char *frame = lg_alloc(gen->wrap_size + size + 1);
    char *text = frame + gen->wrap_size;
    uint32_t nonce = gen->proto->triggered ? 0 : (uint32_t)lg_now();
    bool sent;

    memcpy(frame, gen->wrap, gen->wrap_size);
    memset(text, 'x', gen->ref.text);
    snprintf(text, gen->ref.text + 1, "@mark:%08x", nonce);
    if (gen->ref.text > LG_ID)
        text[LG_ID] = 'x';
    memcpy(text + gen->ref.text, gen->proto->tail.data,
           gen->proto->tail.size);
    gen->marker = (struct lg_bytes){text, size};
    sent = gen->proto->triggered
               ? lg_send_all(conn->fd, "m", 1)
               : lg_send_all(conn->fd, frame, gen->wrap_size + size);
    if (!sent)
        lg_fail("the server did not take the marker");
    while (gen->marked < gen->streams)
        lg_turn(gen);
    gen->marker = (struct lg_bytes){0};
    free(frame);
}

/* Keep the server from asking whether we live while a phase runs: its
 * question would be in one stream alone. */
void lg_keep_alive(struct generate *gen)
{
    struct lg_bytes bytes = gen->proto->keepalive;

    if (bytes.size == 0 || lg_now() - gen->kept_alive < KEEPALIVE)
        return;
    for (uint32_t i = 0; i < gen->count; i++)
        lg_send_all(gen->conns[i].fd, bytes.data, bytes.size);
    usleep(SETTLE_US);
    gen->kept_alive = lg_now();
}

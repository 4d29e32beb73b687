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
#define QUIET_MS 100 /* nothing arrives for so long: the marker was missed */

/* Returns whether commands are sent to this connection. */
bool lg_hears(const struct generate *gen, const struct lg_conn *conn)
{
    enum lg_hears hears = gen->proto->hears;

    return conn->sender == NOBODY || hears == LG_ALL ||
           (hears == LG_OTHERS && gen->senders > 1);
}

/* Returns what this connection says first. */
static struct lg_hello hello_of(const struct generate *gen,
                                const struct lg_conn *conn)
{
    return conn->sender == NOBODY ? gen->proto->receiver
                                  : gen->proto->sender;
}

/* Send what belongs to joining. Exits if the server does not take it. */
static void say(const struct lg_conn *conn, struct lg_bytes bytes)
{
    if (!lg_send_all(conn->fd, bytes.data, bytes.size))
        lg_fail("the server did not take what connection %u says to join",
                conn->id);
}

/* Go on looking for the token that the connection waits for, and when it is
 * complete put the connection into `state`. Returns the bytes used. */
static size_t look(struct lg_conn *conn, struct lg_bytes token, int state,
                   const char *bytes, size_t size)
{
    size_t used = lg_match(&conn->matched, token, bytes, size);

    if (conn->matched == token.size) {
        conn->matched = 0;
        conn->state = (uint8_t)state;
    }
    return used;
}

/* Note that a connection has seen the marker, and `size` bytes behind it. */
static void marked(struct generate *gen, const char *bytes, size_t size)
{
    gen->unmarked--;
    if (size)
        lg_fail("unexpected bytes behind the marker: %.*s",
                (int)(size < 80 ? size : 80), bytes);
}

/* Take the answer to a hello. Returns the bytes used. */
static size_t greet(const struct generate *gen, struct lg_conn *conn,
                    const char *bytes, size_t size)
{
    struct lg_hello hello = hello_of(gen, conn);
    int joined = gen->proto->question.size ? LG_UNASKED : LG_JOINED;
    size_t used = look(conn, hello.ready, joined, bytes, size);

    if (conn->state != LG_GREETING)
        say(conn, hello.last);
    return used;
}

/* Take bytes that came before the phases: the answer to the hello, the
 * question of the server if it has one, then whatever comes before the
 * marker. Ignore what a sender gets that hears no commands. */
void lg_prelude(struct generate *gen, struct lg_conn *conn,
                const char *bytes, size_t size)
{
    const struct lg_proto *proto = gen->proto;
    size_t used = 0;

    snprintf(gen->last, sizeof gen->last, ", after: %.*s",
             (int)(size < LAST ? size : LAST), bytes);
    if (conn->state == LG_GREETING)
        used = greet(gen, conn, bytes, size);
    if (conn->state == LG_UNASKED) {
        used += look(conn, proto->question, LG_JOINED, bytes + used,
                     size - used);
        if (conn->state == LG_UNASKED)
            return;
        gen->asked++;
        say(conn, proto->answer);
    }
    if (conn->state != LG_JOINED || gen->marker.size == 0 ||
        !lg_hears(gen, conn))
        return;
    used += look(conn, gen->marker, gen->apart ? LG_APART : LG_STREAM,
                 bytes + used, size - used);
    if (conn->state != LG_JOINED)
        marked(gen, bytes + used, size - used);
}

/* Connect, say hello and wait until the server has answered. */
static void join(struct generate *gen, struct lg_conn *conn,
                 const char *host, const char *port)
{
    struct lg_hello hello = hello_of(gen, conn);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    conn->fd = lg_dial(host, port);
    conn->state = hello.ready.size ? LG_GREETING : LG_JOINED;
    if (epoll_ctl(gen->epoll, EPOLL_CTL_ADD, conn->fd, &event) < 0)
        lg_fail("epoll_ctl: %s", strerror(errno));
    say(conn, hello.said);
    while (conn->state == LG_GREETING)
        lg_turn(gen);
}

/* Join with all connections: the receivers, then the senders. `ports` is the
 * port, or that of the receivers, a comma and that of the senders. */
void lg_join_all(struct generate *gen, const char *host, const char *ports)
{
    uint32_t receivers = gen->count - gen->senders;
    size_t length = strcspn(ports, ",");
    const char *sending = ports[length] ? ports + length + 1 : ports;
    char receiving[32];
    uint64_t start = lg_now();

    snprintf(receiving, sizeof receiving, "%.*s", (int)length, ports);
    gen->waiting = "the answer to a hello";
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_conn *conn = &gen->conns[i];
        conn->id = i;
        conn->sender = i < receivers ? NOBODY : i - receivers;
        gen->streams += lg_hears(gen, conn);
        join(gen, conn, host, i < receivers ? receiving : sending);
    }
    gen->join_seconds = (double)(lg_now() - start) / 1e9;
    gen->waiting = "the question of the server";
    while (gen->proto->question.size && gen->asked < gen->count)
        lg_turn(gen);
    gen->waiting = NULL;
    gen->kept_alive = lg_now();
}

/* Send a marker through a sender: a command like no other. */
static void send_marker(struct generate *gen, struct lg_conn *by,
                        char *frame)
{
    struct lg_bytes tail = gen->proto->tail;
    size_t size = gen->ref.text + tail.size;
    char *text = frame + gen->wrap_size;
    char mark[LG_ID + 1];

    snprintf(mark, sizeof mark, "@mark:%08x", gen->nonce++);
    memcpy(frame, gen->wrap, gen->wrap_size);
    memcpy(text, mark, LG_ID);
    memset(text + LG_ID, 'x', gen->ref.text - LG_ID);
    memcpy(text + gen->ref.text, tail.data, tail.size);
    gen->marker = (struct lg_bytes){text, size};
    bool sent = gen->proto->triggered
                    ? lg_send_all(by->fd, "m", 1)
                    : lg_send_all(by->fd, frame, gen->wrap_size + size);
    if (!sent)
        lg_fail("the server did not take the marker");
}

/* Let all streams that hear this sender look for the next marker. */
static void expect_marker(struct generate *gen, const struct lg_conn *by)
{
    gen->unmarked = 0;
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_conn *conn = &gen->conns[i];
        if (!lg_hears(gen, conn) ||
            (conn == by && gen->proto->hears == LG_OTHERS))
            continue;
        conn->state = LG_JOINED;
        conn->matched = 0;
        gen->unmarked++;
    }
}

/* Send markers through a sender, each when it is quiet and a stream has not
 * seen the one before, until all that hear this sender have seen the last. */
static void mark_through(struct generate *gen, struct lg_conn *by)
{
    char *frame = lg_alloc(gen->wrap_size + gen->ref.text +
                           gen->proto->tail.size);
    struct epoll_event event;

    for (int i = 0; i < LG_STALL_MS / QUIET_MS; i++) {
        expect_marker(gen, by);
        send_marker(gen, by, frame);
        while (gen->unmarked &&
               epoll_wait(gen->epoll, &event, 1, QUIET_MS) > 0)
            lg_turn(gen);
        if (gen->unmarked == 0)
            break;
    }
    if (gen->unmarked)
        lg_fail("%zu of %zu streams never got a command before the phases%s",
                gen->unmarked, gen->streams, gen->last);
    gen->marker = (struct lg_bytes){0};
    free(frame);
}

/* Bring all streams to a place from which they hold nothing but commands of
 * phases. A server may not send to a connection yet although it has
 * answered, so a marker can be missed, and is sent again, with a new number.
 *
 * When this returns, each stream has seen the last marker of its sender,
 * which came behind all that this sender had sent before, and nothing was
 * sent since: nothing is on the way to anybody. A sender that does not hear
 * itself sees the marker of another one; all have seen that one before the
 * first marker of the next is sent. */
void lg_mark(struct generate *gen)
{
    gen->nonce = gen->proto->triggered ? 0 : (uint32_t)lg_now();
    if (gen->streams == 0)
        lg_fail("nobody hears the commands: this needs more clients");
    if (gen->proto->hears == LG_OTHERS && gen->senders > 1)
        mark_through(gen, lg_sender(gen, 1));
    mark_through(gen, lg_sender(gen, 0));
}

/* Keep the server from asking whether we live while a phase runs: its
 * question would be in one stream alone. A server whose process is known was
 * started to be measured, without a heartbeat: nothing wakes that one up
 * just before a phase, as nothing does to others. */
void lg_keep_alive(struct generate *gen)
{
    struct lg_bytes bytes = gen->proto->keepalive;

    if (bytes.size == 0 || gen->pid ||
        lg_now() - gen->kept_alive < KEEPALIVE)
        return;
    for (uint32_t i = 0; i < gen->count; i++)
        lg_send_all(gen->conns[i].fd, bytes.data, bytes.size);
    usleep(SETTLE_US);
    gen->kept_alive = lg_now();
}

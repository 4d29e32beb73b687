/* Everything before the phases: connecting, joining, the marker after which
 * all streams are the same, and keepalives, which stop a server from sending
 * heartbeats. */
#define _GNU_SOURCE
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Pauses longer than this need a keepalive. */
#define KEEPALIVE (5 * LG_SECOND)

/* The time in which a server reads the keepalives. */
#define SETTLE_US 50000

/* If nothing arrives for this long, a stream has missed the marker. */
#define QUIET_MS 100

/* Returns whether commands are sent to this connection. */
bool lg_hears(const struct generate *gen, const struct lg_conn *conn)
{
    enum lg_hears hears = gen->proto->hears;

    return conn->sender == NOBODY || hears == LG_ALL ||
           (hears == LG_OTHERS && gen->senders > 1);
}

/* Returns the hello of this connection. */
static struct lg_hello hello_of(const struct generate *gen,
                                const struct lg_conn *conn)
{
    return conn->sender == NOBODY ? gen->proto->receiver
                                  : gen->proto->sender;
}

/* Send bytes of the handshake. Exits if the server does not take them. */
static void say(const struct lg_conn *conn, struct lg_bytes bytes)
{
    if (!lg_send_all(conn->fd, bytes.data, bytes.size))
        lg_fail("the server did not take what connection %u says to join",
                conn->id);
}

/* Continue to search for the token that the connection waits for. When it is
 * complete, set the connection's state to `state`. Returns the number of bytes
 * consumed. */
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

/* Record that a connection has seen the marker. Exits if any bytes follow. */
static void marked(struct generate *gen, const char *bytes, size_t size)
{
    gen->unmarked--;
    if (size)
        lg_fail("unexpected bytes behind the marker: %.*s",
                (int)(size < 80 ? size : 80), bytes);
}

/* Handle the answer to a hello. Returns the number of bytes consumed. */
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

/* Handle bytes that came before the phases: the answer to the hello, the
 * question of the server if it has one, and anything up to the marker. Bytes
 * for a sender that receives no commands are ignored. */
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

/* Join all connections: the receivers, then the senders. `ports` is one port
 * for all, or the receivers' port, a comma, and the senders' port. */
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

/* Let a sender send a marker, a command that differs from all others. */
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

/* Let all streams that receive from this sender wait for the next marker. */
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

/* Send markers through a sender until all streams that receive from it have
 * seen the last one. Another marker is sent when nothing arrives any more and
 * a stream has not seen the previous one. */
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

/* Bring all streams to a position after which they hold only commands of
 * phases. A server may have answered a connection without sending commands to
 * it yet, so a marker can be missed; it is then sent again, with a new number.
 *
 * When this returns, each stream has seen the last marker of its sender, which
 * followed everything that the sender had sent before, and nothing has been
 * sent since. So nothing is on the way to any connection. A sender that does
 * not receive its own commands sees the marker of another sender instead; all
 * streams have seen that one before the first sender's marker is sent. */
void lg_mark(struct generate *gen)
{
    gen->nonce = gen->proto->triggered ? 0 : (uint32_t)lg_now();
    if (gen->streams == 0)
        lg_fail("nobody hears the commands: this needs more clients");
    if (gen->proto->hears == LG_OTHERS && gen->senders > 1)
        mark_through(gen, lg_sender(gen, 1));
    mark_through(gen, lg_sender(gen, 0));
}

/* Keep the server from sending heartbeats during a phase, which would be in
 * single streams only. A server whose process is known was started for the
 * measurement, without a heartbeat. It gets no keepalives, so that it is not
 * woken up just before a phase, just as the other servers are not. */
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

/* Bursts and paced phases: many receivers and some senders on one epoll
 * loop. See loadgen.h for how streams are verified. Commands on stdin:
 *
 *   burst COMMANDS        send them as fast as possible, verify everything
 *   drain COMMANDS        the same, but only the first receiver is verified
 *                         and the others discard their bytes unread, which
 *                         shows how fast the generator can be at most
 *   pace COMMANDS RATE    send RATE commands per second, open loop, and
 *                         measure the latency from the time at which each
 *                         command was due until the last receiver has it
 *
 * Streams that differ between receivers only have bursts, see apart.c.
 */
#define _GNU_SOURCE
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* The most events of one wait. */
#define BATCH 64

/* The most bytes that one recv discards. */
#define SKIM (1 << 30)

/* The most bytes of one phase, which memory holds twice. */
#define MAX_BYTES (1ull << 30)

/* Nothing may arrive for this long after a phase. */
#define SILENCE_MS 5

/* Returns the connection of sender number `sender`. */
struct lg_conn *lg_sender(const struct generate *gen, size_t sender)
{
    return &gen->conns[gen->count - gen->senders + sender];
}

/* Returns the time at which command number `i` is due. */
static uint64_t scheduled(const struct generate *gen, size_t i)
{
    return gen->start + (uint64_t)((double)i * gen->interval);
}

/* Count the commands that the connection has now. If it is the last receiver
 * to get one, record the latency. A sender that receives its own commands is
 * not a receiver, unless there are no others. */
static void note_latency(struct generate *gen, struct lg_conn *conn)
{
    const struct lg_ref *ref = &gen->ref;
    uint32_t receivers = gen->count - gen->senders;
    uint64_t now = lg_now();

    if (receivers && conn->sender != NOBODY)
        return;
    while (conn->seen < ref->seen && ref->ends[conn->seen] <= conn->pos) {
        size_t i = conn->seen++;
        if (++gen->got[i] == (receivers ? receivers : gen->streams))
            gen->latency[i] = now - scheduled(gen, ref->order[i]);
    }
}

/* Record that the connection has `size` more bytes of the phase. */
static void advance(struct generate *gen, struct lg_conn *conn, size_t size)
{
    conn->pos += size;
    if (gen->paced)
        note_latency(gen, conn);
    if (gen->complete) {
        gen->finished += conn->pos == gen->ref.size;
    } else if (lg_ref_complete(&gen->ref)) {
        gen->complete = true;
        for (uint32_t i = 0; i < gen->count; i++)
            gen->finished += lg_hears(gen, &gen->conns[i]) &&
                             gen->conns[i].pos == gen->ref.size;
    }
}

/* Returns the size that recv returned, or 0 if there is nothing yet. Exits if
 * the server has closed the connection. */
static size_t received(const struct generate *gen,
                       const struct lg_conn *conn, ssize_t size)
{
    if (size < 0 && errno == EAGAIN)
        return 0;
    if (size <= 0)
        lg_fail("connection %u was closed by the server after %zu bytes of "
                "the phase (%s)%s", conn->id, conn->pos,
                size ? strerror(errno) : "end of stream", gen->last);
    return (size_t)size;
}

/* Receive up to `room` bytes. Returns their number, 0 if there are none yet.
 * Exits if the server has closed the connection. */
size_t lg_receive(const struct generate *gen, const struct lg_conn *conn,
                  char *out, size_t room)
{
    return received(gen, conn, recv(conn->fd, out, room, 0));
}

/* Read once from a connection that is not in the common stream. */
static void read_other(struct generate *gen, struct lg_conn *conn)
{
    if (conn->state == LG_APART) {
        lg_apart_read(gen, conn);
        return;
    }
    size_t size = lg_receive(gen, conn, gen->buffer, LG_BUFFER);
    if (size)
        lg_prelude(gen, conn, gen->buffer, size);
}

/* Read once from a connection. The one that is furthest ahead reads directly
 * into the reference; the others read and compare. */
static void readable(struct generate *gen, struct lg_conn *conn)
{
    struct lg_ref *ref = &gen->ref;
    size_t size, room;

    if (conn->state != LG_STREAM) {
        read_other(gen, conn);
        return;
    }
    if (gen->drain && conn->id > 0) {
        size = received(gen, conn, recv(conn->fd, NULL, SKIM, MSG_TRUNC));
    } else if (conn->pos == ref->size) {
        char *end = lg_ref_room(ref, &room);
        room = room < LG_BUFFER ? room : LG_BUFFER;
        size = lg_receive(gen, conn, end, room);
        lg_ref_grow(ref, size);
    } else {
        size = lg_receive(gen, conn, gen->buffer, LG_BUFFER);
        lg_ref_take(ref, conn->pos, gen->buffer, size);
    }
    if (size)
        advance(gen, conn, size);
}

/* Send the due bytes of a connection. Watch for EPOLLOUT only while some are
 * left. */
static void writable(struct generate *gen, struct lg_conn *conn)
{
    size_t size = conn->due - conn->sent;
    ssize_t sent = send(conn->fd, conn->bytes + conn->sent,
                        size < LG_SEND ? size : LG_SEND, MSG_NOSIGNAL);

    if (sent < 0 && errno != EAGAIN)
        lg_fail("connection %u was closed by the server while it sent (%s)",
                conn->id, strerror(errno));
    if (sent > 0)
        conn->sent += (size_t)sent;
    bool blocked = conn->sent < conn->due;
    if (blocked == conn->blocked)
        return;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (blocked)
        event.events |= EPOLLOUT;
    epoll_ctl(gen->epoll, EPOLL_CTL_MOD, conn->fd, &event);
    conn->blocked = blocked;
}

/* Make all commands due whose time has come; the senders take turns. */
static void release_due(struct generate *gen)
{
    uint64_t now = lg_now();

    while (gen->released < gen->ref.expected &&
           scheduled(gen, gen->released) <= now)
        lg_sender(gen, gen->released++ % gen->senders)->due += gen->unit;
}

/* Send all commands whose time has come; those of one sender go together. */
static void release(struct generate *gen)
{
    size_t first = gen->released;

    release_due(gen);
    /* Each i is the oldest command that its sender sends now. */
    for (size_t i = first; i < gen->released && i < first + gen->senders;
         i++) {
        struct lg_conn *conn = lg_sender(gen, i % gen->senders);
        uint64_t late = lg_now() - scheduled(gen, i);
        gen->late = late > gen->late ? late : gen->late;
        if (!conn->blocked)
            writable(gen, conn);
    }
}

/* Set the timer to the time of the next command. */
static void set_timer(struct generate *gen)
{
    struct itimerspec when = {0};

    if (gen->released == gen->ref.expected)
        return;
    uint64_t next = scheduled(gen, gen->released);
    when.it_value.tv_sec = (time_t)(next / LG_SECOND);
    when.it_value.tv_nsec = (long)(next % LG_SECOND);
    timerfd_settime(gen->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Exit with an error that says what has not arrived. */
static void stalled(const struct generate *gen)
{
    size_t furthest = gen->ref.seen;

    if (gen->waiting)
        lg_fail("waited %d s for %s%s", LG_STALL_MS / 1000, gen->waiting,
                gen->last);
    for (uint32_t i = 0; gen->apart && i < gen->count; i++)
        if (gen->conns[i].seen > furthest)
            furthest = gen->conns[i].seen;
    lg_fail("nothing arrived for %d s: %zu of %zu receivers have all of %zu "
            "commands, the furthest has %zu", LG_STALL_MS / 1000,
            gen->finished, gen->streams, gen->ref.expected, furthest);
}

/* Wait until something is ready. Returns the number of events. Exits if
 * nothing happens for long. */
static int await(struct generate *gen, struct epoll_event *events)
{
    int count = lg_await(gen->epoll, events, BATCH,
                         gen->spin && gen->running, &gen->polling);

    if (count == 0)
        stalled(gen);
    return count;
}

/* Wait until connections are ready, and handle them. */
void lg_turn(struct generate *gen)
{
    struct epoll_event events[BATCH];
    int count = await(gen, events);

    for (int i = 0; i < count; i++) {
        struct lg_conn *conn = events[i].data.ptr;
        uint64_t expirations;
        if (conn == NULL)
            (void)!read(gen->timer, &expirations, sizeof expirations);
        else if (events[i].events & EPOLLOUT)
            writable(gen, conn);
        if (conn && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            readable(gen, conn);
        /* Not only once per turn: reading may outlast the interval. */
        if (gen->paced)
            release(gen);
    }
    if (gen->paced)
        set_timer(gen);
}

/* Prepare the bytes of all commands of one sender. */
static void prepare_sender(struct generate *gen, struct lg_conn *conn,
                           size_t commands)
{
    struct lg_bytes tail = gen->proto->tail;

    free(conn->bytes);
    conn->due = conn->sent = 0;
    conn->bytes = lg_alloc(commands * gen->unit);
    if (gen->proto->triggered) {
        memset(conn->bytes, gen->paced ? 's' : 'g', commands);
        return;
    }
    for (size_t i = 0; i < commands; i++) {
        char *at = conn->bytes + i * gen->unit;
        memcpy(at, gen->wrap, gen->wrap_size);
        lg_text(at + gen->wrap_size, gen->ref.text, conn->sender,
                (uint32_t)i);
        memcpy(at + gen->wrap_size + gen->ref.text, tail.data, tail.size);
    }
}

/* Returns how many of `commands` this sender sends. */
size_t lg_share(const struct generate *gen, const struct lg_conn *conn,
                size_t commands)
{
    return commands / gen->senders +
           (conn->sender < commands % gen->senders);
}

/* Prepare a phase: the senders' bytes, the reference and the counters. */
static void prepare(struct generate *gen, size_t commands)
{
    lg_keep_alive(gen);
    if (commands * (gen->ref.text + LG_MAX_WRAP) > MAX_BYTES)
        lg_fail("%zu commands of %zu bytes are too much for one phase",
                commands, gen->ref.text);
    lg_ref_start(&gen->ref, commands, gen->paced);
    gen->finished = gen->released = 0;
    gen->late = 0;
    gen->complete = false;
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_conn *conn = &gen->conns[i];
        conn->pos = conn->seen = 0;
        if (conn->sender != NOBODY)
            prepare_sender(gen, conn, lg_share(gen, conn, commands));
    }
    if (gen->apart)
        lg_apart_start(gen, commands);
}

/* Make all prepared bytes due and begin to send them. */
static void send_everything(struct generate *gen, size_t commands)
{
    for (uint32_t i = 0; i < gen->senders; i++) {
        struct lg_conn *conn = lg_sender(gen, i);
        conn->due = lg_share(gen, conn, commands) * gen->unit;
        /* One byte from the first sender starts the whole burst. */
        if (gen->proto->triggered)
            conn->due = conn->sender == 0;
        writable(gen, conn);
    }
}

/* Run until all streams have the whole phase, then check that nothing
 * follows. */
static void finish(struct generate *gen, struct lg_meter *meter)
{
    struct epoll_event event;

    while (gen->finished < gen->streams)
        lg_turn(gen);
    lg_meter_stop(meter, gen->polling);
    gen->running = false;
    while (epoll_wait(gen->epoll, &event, 1, SILENCE_MS) > 0)
        lg_turn(gen);
    lg_meter_watched(meter);
    gen->drain = gen->paced = false;
}

/* Returns the number of deliveries in a phase: each command reaches each
 * receiver or, if there are none, each sender that receives it. */
static size_t deliveries(const struct generate *gen, size_t commands)
{
    size_t receivers = gen->count - gen->senders;

    if (receivers == 0)
        receivers = gen->streams - (gen->proto->hears == LG_OTHERS);
    return commands * receivers;
}

/* Returns the bytes of the phase in a stream; the average if streams
 * differ. */
static size_t stream_bytes(const struct generate *gen)
{
    size_t total = 0;

    if (!gen->apart)
        return gen->ref.size;
    for (uint32_t i = 0; i < gen->count; i++)
        total += gen->conns[i].pos;
    return total / gen->streams;
}

/* Run a burst and print its costs. */
static void burst(struct generate *gen, size_t commands, bool drain)
{
    struct lg_meter meter;
    bool same_order;

    if (drain && gen->apart)
        lg_fail("%s with several senders has no drain: its streams are not "
                "the same", gen->proto->name);
    prepare(gen, commands);
    gen->running = true;
    gen->drain = drain;
    lg_meter_start(&meter, gen->pid, gen->polling);
    send_everything(gen, commands);
    finish(gen, &meter);
    same_order = gen->apart ? lg_apart_same_order(gen) : !drain;
    lg_print("{\"event\":\"burst\",\"commands\":%zu,\"streams\":%zu,"
             "\"deliveries\":%zu,\"seconds\":%.9f,\"stream_bytes\":%zu,"
             "\"same_order\":%s,\"generator_cpu\":%.6f,"
             "\"sender_cpu\":%.6f,\"peak_memory\":%zu}",
             commands, gen->streams, deliveries(gen, commands),
             meter.seconds, stream_bytes(gen), same_order ? "true" : "false",
             meter.own, meter.watched, meter.peak);
}

/* Run a paced phase and print the latencies, in microseconds. */
static void pace(struct generate *gen, size_t commands, size_t rate)
{
    struct lg_meter meter;

    if (gen->apart)
        lg_fail("%s with several senders cannot be paced: its streams are "
                "not the same", gen->proto->name);
    gen->paced = true;
    gen->interval = 1e9 / (double)rate;
    prepare(gen, commands);
    gen->got = lg_alloc_touched(commands * sizeof *gen->got);
    gen->latency = lg_alloc_touched(commands * sizeof *gen->latency);
    gen->running = true;
    lg_meter_start(&meter, gen->pid, gen->polling);
    gen->start = meter.start + LG_SECOND / 1000;
    release(gen);
    set_timer(gen);
    finish(gen, &meter);
    lg_sort(gen->latency, commands);
    lg_print("{\"event\":\"pace\",\"commands\":%zu,\"streams\":%zu,"
             "\"rate\":%zu,\"seconds\":%.9f,\"p50\":%.1f,\"p99\":%.1f,"
             "\"p999\":%.1f,\"max\":%.1f,\"late\":%.1f,"
             "\"generator_cpu\":%.6f,\"sender_cpu\":%.6f,"
             "\"peak_memory\":%zu}",
             commands, gen->streams, rate, meter.seconds,
             lg_quantile(gen->latency, commands, 0.5),
             lg_quantile(gen->latency, commands, 0.99),
             lg_quantile(gen->latency, commands, 0.999),
             lg_quantile(gen->latency, commands, 1), (double)gen->late / 1e3,
             meter.own, meter.watched, meter.peak);
    free(gen->got);
    free(gen->latency);
}

/* Carry out a command line from stdin. */
static void obey(struct generate *gen, const char *line)
{
    char verb[16] = "", first[32] = "", second[32] = "";

    sscanf(line, "%15s %31s %31s", verb, first, second);
    size_t commands = lg_number(first, 1, 99999999, "COMMANDS");
    if (strcmp(verb, "burst") == 0)
        burst(gen, commands, false);
    else if (strcmp(verb, "drain") == 0)
        burst(gen, commands, true);
    else if (strcmp(verb, "pace") == 0)
        pace(gen, commands, lg_number(second, 1, 100000000, "RATE"));
    else
        lg_fail("unknown command: %s", line);
}

/* Open the epoll and the timer for pacing. Exits on failure. */
static void open_loop(struct generate *gen)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};

    gen->epoll = epoll_create1(EPOLL_CLOEXEC);
    gen->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (epoll_ctl(gen->epoll, EPOLL_CTL_ADD, gen->timer, &event) < 0)
        lg_fail("cannot open an epoll with a timer: %s", strerror(errno));
}

/* Run as the generator of bursts. Returns the exit code. */
int lg_generate(int argc, char **argv)
{
    struct generate gen = {0};
    char line[128];

    if (argc != 8)
        lg_fail("usage: loadgen generate HOST PORT PROTO RECEIVERS SENDERS "
                "SIZE PID SPIN");
    gen.proto = lg_find_proto(argv[2]);
    gen.senders = (uint32_t)lg_number(argv[4], 1, LG_MAX_SENDERS, "SENDERS");
    gen.count = gen.senders +
                (uint32_t)lg_number(argv[3], 0, 100000, "RECEIVERS");
    gen.pid = (pid_t)lg_number(argv[6], 0, 1 << 30, "PID");
    gen.spin = lg_number(argv[7], 0, 1, "SPIN");
    lg_ref_open(&gen.ref, gen.proto,
                lg_number(argv[5], LG_ID, 1 << 24, "SIZE"), gen.senders);
    gen.wrap_size = gen.proto->wrap(gen.wrap, gen.ref.text);
    gen.unit = gen.proto->triggered ? 1 : gen.wrap_size + gen.ref.text +
                                          gen.proto->tail.size;
    gen.conns = lg_alloc(gen.count * sizeof *gen.conns);
    gen.buffer = lg_alloc_touched(LG_BUFFER);
    open_loop(&gen);
    lg_join_all(&gen, argv[0], argv[1]);
    if (lg_is_apart(&gen))
        lg_apart_open(&gen);
    lg_mark(&gen);
    lg_print("{\"event\":\"ready\",\"streams\":%zu,"
             "\"join_seconds\":%.6f}", gen.streams, gen.join_seconds);
    while (lg_command(line, sizeof line))
        obey(&gen, line);
    return 0;
}

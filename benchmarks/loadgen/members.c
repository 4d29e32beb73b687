/* Membership: thousands of clients that join one after the other, sit idle,
 * and leave at once. Each derives its rank from the frames that it gets, as
 * any client does, and all ranks are checked. Commands on stdin:
 *
 *   join COUNT        join, each after the WELCOME of the one before
 *   settle            wait until all clients know of all others
 *   drop COUNT SEED   close COUNT random clients, and wait until each survivor
 *                     knows its new rank
 *   roster            compare all ranks with those in the server's roster
 *   idle MS           only answer the server, for MS milliseconds
 *
 * It speaks rankserver's protocol only, because no other server has ranks. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The most events of one wait, which delay a client that joins. */
#define BATCH 32

#define MAX_MEMBERS 100000

struct member {
    int fd; /* -1 once it has left */
    uint32_t id;
    uint64_t rank, clients; /* as derived; clients is 0 before WELCOME */
    char *carry; /* the beginning of an incomplete line */
    size_t carried;
};

struct members {
    const char *host, *port;
    int epoll;
    pid_t pid;
    struct member *list; /* in the order of joining */
    uint32_t count;      /* clients that ever joined */
    size_t alive, agreed; /* agreed: know the right number of clients */
    size_t listed;       /* clients found in the roster so far */
    size_t heard;        /* bytes received */
    bool spin;           /* poll without sleeping */
    double polling;      /* CPU seconds spent polling for nothing */
    char *buffer;
};

/* --- frames ----------------------------------------------------------- */

/* Returns the number at `*at` and moves `*at` behind it. Exits if there is
 * none. */
static uint64_t number(const char **at, const char *end)
{
    const char *from = *at;
    uint64_t value = 0;

    while (*at < end && **at >= '0' && **at <= '9')
        value = value * 10 + (uint64_t)(*(*at)++ - '0');
    if (*at == from)
        lg_fail("expected a number: %.*s",
                (int)(end - from < 60 ? end - from : 60), from);
    return value;
}

/* Read one rank or range from a list of ranks.
 * Returns false if the list is at its end. */
static bool next_range(const char **at, const char *end, uint64_t *low,
                       uint64_t *high)
{
    if (*at >= end)
        return false;
    *low = *high = number(at, end);
    if (*at < end && **at == '-') {
        ++*at;
        *high = number(at, end);
    }
    if (*at < end && *(*at)++ != ',')
        lg_fail("bad list of ranks");
    return true;
}

/* Apply a JOIN with these ranks to a client. */
static void apply_join(struct member *m, const char *at, const char *end)
{
    uint64_t low, high;

    while (next_range(&at, end, &low, &high)) {
        m->clients += high - low + 1;
        if (m->rank >= low)
            m->rank += high - low + 1;
    }
}

/* Apply a LEFT with these ranks to a client. */
static void apply_left(struct member *m, const char *at, const char *end)
{
    uint64_t low, high, before = m->rank;

    while (next_range(&at, end, &low, &high)) {
        m->clients -= high - low + 1;
        if (low <= before && before <= high)
            lg_fail("client %u was told that it has left", m->id);
        if (high < before)
            m->rank -= high - low + 1;
    }
}

/* Returns what follows `key` in a frame of JSON. Exits if it is missing. */
static const char *after(const char *line, size_t size, const char *key)
{
    const char *at = memmem(line, size, key, strlen(key));

    if (at == NULL)
        lg_fail("no %s in: %.*s", key, (int)(size < 60 ? size : 60), line);
    return at + strlen(key);
}

/* Handle the WELCOME of a client. */
static void welcome(struct member *m, const char *line, size_t size)
{
    const char *rank = after(line, size, "\"rank\":");
    const char *clients = after(line, size, "\"clients\":");

    m->rank = number(&rank, line + size);
    m->clients = number(&clients, line + size);
}

/* Compare the ranks in a ROSTER frame with those that the clients derived. */
static void roster(struct members *g, const char *at, const char *end)
{
    static const char rank_key[] = "{\"rank\":", name_key[] = ",\"name\":\"m";

    while ((at = memmem(at, (size_t)(end - at), rank_key,
                        sizeof rank_key - 1)) != NULL) {
        at += sizeof rank_key - 1;
        uint64_t rank = number(&at, end);
        if ((size_t)(end - at) < sizeof name_key ||
            memcmp(at, name_key, sizeof name_key - 1) != 0)
            lg_fail("the roster names a client of somebody else");
        at += sizeof name_key - 1;
        uint64_t id = number(&at, end);
        if (id >= g->count || g->list[id].fd < 0)
            lg_fail("the roster names client %llu, which has left",
                    (unsigned long long)id);
        if (g->list[id].rank != rank)
            lg_fail("client %llu has rank %llu, but believes %llu",
                    (unsigned long long)id, (unsigned long long)rank,
                    (unsigned long long)g->list[id].rank);
        g->listed++;
    }
}

/* Returns whether a line begins with `verb`, which may include a space. */
static bool is(const char *line, size_t size, const char *verb)
{
    size_t length = strlen(verb);

    return size >= length && memcmp(line, verb, length) == 0;
}

/* Handle a JOIN or LEFT. */
static void change(struct members *g, struct member *m, const char *line,
                   size_t size)
{
    const char *end = line + size, *at = line + 5;

    number(&at, end);
    g->agreed -= m->clients == g->alive;
    if (at++ == end)
        lg_fail("a JOIN or LEFT without ranks");
    if (*line == 'J')
        apply_join(m, at, end);
    else
        apply_left(m, at, end);
    g->agreed += m->clients == g->alive;
}

/* Handle one line from the server, without its LF. */
static void take_line(struct members *g, struct member *m, const char *line,
                      size_t size)
{
    if (is(line, size, "JOIN ") || is(line, size, "LEFT ")) {
        change(g, m, line, size);
    } else if (is(line, size, "WELCOME ")) {
        welcome(m, line, size);
    } else if (is(line, size, "ROSTER ")) {
        roster(g, line, line + size);
    } else if (is(line, size, "PING")) {
        lg_send_all(m->fd, "PO", 2);
        lg_send_all(m->fd, line + 2, size - 2);
        lg_send_all(m->fd, "\n", 1);
    } else if (!is(line, size, "INFO ") && !is(line, size, "CMD ")) {
        lg_fail("client %u got: %.*s", m->id,
                (int)(size < 200 ? size : 200), line);
    }
}

/* --- connections ------------------------------------------------------ */

/* Keep bytes of an incomplete line. */
static void keep(struct member *m, const char *bytes, size_t size)
{
    m->carry = realloc(m->carry, m->carried + size + 1);
    if (m->carry == NULL)
        lg_fail("no memory for a line of %zu bytes", m->carried + size);
    memcpy(m->carry + m->carried, bytes, size);
    m->carried += size;
}

/* Split received bytes into lines and handle them. */
static void take(struct members *g, struct member *m, const char *bytes,
                 size_t size)
{
    const char *end = bytes + size, *lf;

    g->heard += size;
    while ((lf = memchr(bytes, '\n', (size_t)(end - bytes))) != NULL) {
        if (m->carry) {
            keep(m, bytes, (size_t)(lf - bytes));
            take_line(g, m, m->carry, m->carried);
            free(m->carry);
            m->carry = NULL;
            m->carried = 0;
        } else {
            take_line(g, m, bytes, (size_t)(lf - bytes));
        }
        bytes = lf + 1;
    }
    if (bytes < end)
        keep(m, bytes, (size_t)(end - bytes));
}

/* Read once from a client. */
static void hear(struct members *g, struct member *m)
{
    ssize_t size = recv(m->fd, g->buffer, LG_BUFFER, 0);

    if (size > 0)
        take(g, m, g->buffer, (size_t)size);
    else if (size == 0 || errno != EAGAIN)
        lg_fail("the server closed the connection of client %u", m->id);
}

/* Wait until clients are ready, and read from them. Exits if nothing happens
 * for LG_STALL_MS; the error names `what` was waited for. */
static void await(struct members *g, const char *what)
{
    struct epoll_event events[BATCH];
    int count = lg_await(g->epoll, events, BATCH, g->spin, &g->polling);

    if (count == 0)
        lg_fail("nothing arrived for %d s while waiting for %s; %zu of %zu "
                "clients know of all", LG_STALL_MS / 1000, what, g->agreed,
                g->alive);
    for (int i = 0; i < count; i++)
        hear(g, events[i].data.ptr);
}

/* Recount `agreed` after the number of clients has changed. */
static void recount(struct members *g)
{
    g->agreed = 0;
    for (uint32_t i = 0; i < g->count; i++)
        g->agreed += g->list[i].fd >= 0 && g->list[i].clients == g->alive;
}

/* Join one more client. Its own answer is read first, because real clients do
 * not wait for each other to read. */
static void join_one(struct members *g)
{
    struct member *m = &g->list[g->count];
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = m};
    char hello[64];

    m->id = g->count++;
    m->fd = lg_dial(g->host, g->port);
    g->alive++;
    if (epoll_ctl(g->epoll, EPOLL_CTL_ADD, m->fd, &event) < 0)
        lg_fail("epoll_ctl: %s", strerror(errno));
    int size = snprintf(hello, sizeof hello, "HELLO {\"name\":\"m%u\"}\n",
                        m->id);
    if (!lg_send_all(m->fd, hello, (size_t)size))
        lg_fail("the server did not take a hello");
    for (hear(g, m); m->clients == 0; hear(g, m))
        await(g, "a WELCOME");
}

/* --- commands --------------------------------------------------------- */

/* Join `count` more clients, one after the other. */
static void join(struct members *g, size_t count)
{
    struct lg_meter meter;

    lg_meter_start(&meter, g->pid, g->polling);
    for (size_t i = 0; i < count; i++)
        join_one(g);
    lg_meter_stop(&meter, g->polling);
    lg_meter_watched(&meter);
    recount(g);
    lg_print("{\"event\":\"join\",\"clients\":%zu,\"seconds\":%.6f,"
             "\"generator_cpu\":%.6f,\"server_cpu\":%.6f}", count,
             meter.seconds, meter.own, meter.watched);
}

/* Check that every client's rank is its place in the order of joining. Exits
 * if not. */
static void check_ranks(const struct members *g)
{
    uint64_t rank = 0;

    for (uint32_t i = 0; i < g->count; i++) {
        const struct member *m = &g->list[i];
        if (m->fd < 0)
            continue;
        if (m->rank != rank)
            lg_fail("client %u believes that its rank is %llu, not %llu",
                    i, (unsigned long long)m->rank,
                    (unsigned long long)rank);
        rank++;
    }
}

/* Wait until all clients know of all others. The caller then checks ranks. */
static void settle(struct members *g, const char *what)
{
    while (g->agreed < g->alive)
        await(g, what);
}

/* Move `count` random ids to the front of `ids`, which holds `all` ids. */
static void choose(uint32_t *ids, size_t all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t other = i + (size_t)random() % (all - i);
        uint32_t id = ids[i];
        ids[i] = ids[other];
        ids[other] = id;
    }
}

/* Close `count` clients at once and wait until all others know. */
static void drop(struct members *g, size_t count, unsigned seed)
{
    uint32_t *ids = lg_alloc(g->alive * sizeof *ids);
    size_t all = 0;
    struct lg_meter meter;

    if (count >= g->alive)
        lg_fail("cannot drop %zu of %zu clients", count, g->alive);
    for (uint32_t i = 0; i < g->count; i++)
        if (g->list[i].fd >= 0)
            ids[all++] = i;
    srandom(seed);
    choose(ids, all, count);
    lg_meter_start(&meter, g->pid, g->polling);
    for (size_t i = 0; i < count; i++) {
        close(g->list[ids[i]].fd);
        g->list[ids[i]].fd = -1;
    }
    double closing = (double)(lg_now() - meter.start) / 1e9;
    g->alive -= count;
    recount(g);
    settle(g, "the new ranks");
    lg_meter_stop(&meter, g->polling);
    lg_meter_watched(&meter);
    check_ranks(g);
    lg_print("{\"event\":\"drop\",\"clients\":%zu,\"survivors\":%zu,"
             "\"seconds\":%.6f,\"closing\":%.6f,\"generator_cpu\":%.6f,"
             "\"server_cpu\":%.6f}", count, g->alive, meter.seconds,
             closing, meter.own, meter.watched);
    free(ids);
}

/* Ask the server for the roster, and compare all ranks with it. */
static void check_roster(struct members *g)
{
    uint32_t i = 0;

    while (i < g->count && g->list[i].fd < 0)
        i++;
    if (i == g->count)
        lg_fail("nobody is there to ask for the roster");
    g->listed = 0;
    if (!lg_send_all(g->list[i].fd, "WHO\n", 4))
        lg_fail("the server did not take a WHO");
    while (g->listed < g->alive)
        await(g, "the roster");
    lg_print("{\"event\":\"roster\",\"clients\":%zu}", g->listed);
}

/* Only answer the server for `ms` milliseconds, and print its costs. */
static void idle(struct members *g, size_t ms)
{
    uint64_t end = lg_now() + ms * (LG_SECOND / 1000);
    struct epoll_event events[BATCH];
    struct lg_meter meter;
    size_t heard = g->heard;

    lg_meter_start(&meter, g->pid, g->polling);
    for (uint64_t now = meter.start; now < end; now = lg_now()) {
        int left = (int)((end - now) / (LG_SECOND / 1000)) + 1;
        int count = epoll_wait(g->epoll, events, BATCH, left);
        for (int i = 0; i < count; i++)
            hear(g, events[i].data.ptr);
    }
    lg_meter_stop(&meter, g->polling);
    lg_meter_watched(&meter);
    lg_print("{\"event\":\"idle\",\"seconds\":%.6f,\"heard\":%zu,"
             "\"server_cpu\":%.6f}", meter.seconds, g->heard - heard,
             meter.watched);
}

/* Carry out a command line from stdin. */
static void obey(struct members *g, const char *line)
{
    char verb[16] = "", first[32] = "", second[32] = "";

    sscanf(line, "%15s %31s %31s", verb, first, second);
    if (strcmp(verb, "join") == 0) {
        join(g, lg_number(first, 1, MAX_MEMBERS - g->count, "COUNT"));
    } else if (strcmp(verb, "settle") == 0) {
        settle(g, "all JOIN frames");
        check_ranks(g);
        lg_print("{\"event\":\"settle\",\"clients\":%zu}", g->alive);
    } else if (strcmp(verb, "drop") == 0) {
        drop(g, lg_number(first, 1, MAX_MEMBERS, "COUNT"),
             (unsigned)lg_number(second, 0, 1u << 31, "SEED"));
    } else if (strcmp(verb, "roster") == 0) {
        check_roster(g);
    } else if (strcmp(verb, "idle") == 0) {
        idle(g, lg_number(first, 1, 1000000, "MS"));
    } else {
        lg_fail("unknown command: %s", line);
    }
}

/* Run as the generator of clients that join and leave. Returns the exit
 * code. */
int lg_members(int argc, char **argv)
{
    struct members g = {0};
    char line[128];

    if (argc != 4)
        lg_fail("usage: loadgen members HOST PORT PID SPIN");
    g.host = argv[0];
    g.port = argv[1];
    g.pid = (pid_t)lg_number(argv[2], 0, 1 << 30, "PID");
    g.spin = lg_number(argv[3], 0, 1, "SPIN");
    g.list = lg_alloc(MAX_MEMBERS * sizeof *g.list);
    g.buffer = lg_alloc(LG_BUFFER);
    g.epoll = epoll_create1(EPOLL_CLOEXEC);
    lg_print("{\"event\":\"ready\"}");
    while (lg_command(line, sizeof line))
        obey(&g, line);
    return 0;
}

/* The C core on a simulated kernel: its system calls and allocations end up
 * here, and fail at random under a seed. The core's own source is compiled
 * unchanged, except for the constants that core.py makes smaller. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "kernel.h"

#define SIM_FDS 256
#define SIM_FIRST_FD 3
#define SIM_SITES 32

/* --- chance and the trace ------------------------------------------------ */

static uint64_t sim_state, sim_hash;
static unsigned sim_io, sim_memory; /* failures per mille */
static int sim_spared;              /* allocations do not fail for now */
static const char *sim_wrong;       /* the last misuse of a system call */
static char *sim_text;              /* the readable trace; NULL for none */
static size_t sim_text_len, sim_text_room;

/* Xorshift (Marsaglia 2003). */
static uint64_t sim_random(void) {
    sim_state ^= sim_state << 13;
    sim_state ^= sim_state >> 7;
    sim_state ^= sim_state << 17;
    return sim_state;
}

static int sim_chance(unsigned per_mille) {
    return per_mille && (sim_random() >> 11) % 1000 < per_mille;
}

/* Add a word to the hash of the trace (FNV-1a on words). */
static void sim_mix(uint64_t word) {
    sim_hash = (sim_hash ^ word) * UINT64_C(0x100000001B3);
}

static void sim_mix_bytes(const char *data, size_t len) {
    uint64_t word;

    for (; len >= sizeof word; data += sizeof word, len -= sizeof word) {
        memcpy(&word, data, sizeof word);
        sim_mix(word);
    }
    while (len--)
        sim_mix((unsigned char)*data++);
}

static void sim_say(const char *format, ...) {
    va_list values;

    if (!sim_text)
        return;
    if (sim_text_room - sim_text_len < 200) {
        char *text = realloc(sim_text, 2 * sim_text_room);

        if (!text)
            return;
        sim_text = text;
        sim_text_room *= 2;
    }
    va_start(values, format);
    sim_text_len += (size_t)vsnprintf(sim_text + sim_text_len, 200, format, values);
    va_end(values);
}

/* --- allocation ---------------------------------------------------------- */

static long sim_live_count;
static const char *sim_sites[SIM_SITES]; /* functions whose allocations failed */

static int sim_fails(const char *site) {
    size_t i = 0;

    if (sim_spared || !sim_chance(sim_memory))
        return 0;
    sim_say("    no memory in %s\n", site);
    while (i < SIM_SITES && sim_sites[i] && strcmp(sim_sites[i], site))
        i++;
    if (i < SIM_SITES)
        sim_sites[i] = site;
    return 1;
}

static void *sim_count(void *memory) {
    sim_live_count += memory != NULL;
    return memory;
}

static void *sim_malloc(size_t size, const char *site) {
    return sim_fails(site) ? NULL : sim_count(malloc(size));
}

static void *sim_calloc(size_t count, size_t size, const char *site) {
    return sim_fails(site) ? NULL : sim_count(calloc(count, size));
}

static void *sim_realloc(void *memory, size_t size, const char *site) {
    void *fresh = sim_fails(site) ? NULL : realloc(memory, size);

    sim_live_count += fresh != NULL && memory == NULL;
    return fresh;
}

static void sim_free(void *memory) {
    sim_live_count -= memory != NULL;
    free(memory);
}

/* --- time ---------------------------------------------------------------- */

/* What a system call costs, and what each byte of it costs with the work of
 * the core on it. */
#define SIM_CALL_NS 2000
#define SIM_BYTE_NS 1

static uint64_t sim_spent_ns;

static void sim_spend_call(size_t bytes) {
    sim_spent_ns += SIM_CALL_NS + SIM_BYTE_NS * (uint64_t)bytes;
}

/* --- connections --------------------------------------------------------- */

static sim_conn *sim_fds[SIM_FDS];
static uint64_t sim_ticks;
/* The log that is watched, NULL for none; how far it was read; and the part of
 * that which Python has not read. */
static const cl_log *sim_watched;
static uint64_t sim_log_at;
static sim_queue sim_log;

static int sim_error(int error, const char *call, int fd) {
    errno = error;
    sim_mix((uint64_t)error);
    sim_say("    %s(%d): %s\n", call, fd, strerror(error));
    return -1;
}

static sim_conn *sim_find(int fd, const char *call) {
    if (fd >= 0 && fd < SIM_FDS && sim_fds[fd])
        return sim_fds[fd];
    sim_wrong = "a system call for a descriptor that is not open";
    sim_error(EBADF, call, fd);
    return NULL;
}

static void sim_append(sim_queue *queue, const char *data, size_t len) {
    if (queue->at == queue->len)
        queue->at = queue->len = 0;
    if (queue->room - queue->len < len) {
        size_t room = 2 * (queue->len + len);
        char *fresh = realloc(queue->data, room);

        if (!fresh)
            abort();
        queue->data = fresh;
        queue->room = room;
    }
    memcpy(queue->data + queue->len, data, len);
    queue->len += len;
}

static size_t sim_waiting(const sim_queue *queue) {
    return queue->len - queue->at;
}

static ssize_t sim_recv(int fd, char *to, size_t most, int flags) {
    sim_conn *conn = sim_find(fd, "recv");
    size_t n;

    if (!conn)
        return -1;
    if (most == 0)
        sim_wrong = "recv of nothing, which looks like the end";
    sim_spend_call(0);
    if (sim_chance(sim_io))
        return sim_error(EINTR, "recv", fd);
    n = sim_waiting(&conn->in);
    if (n == 0 && conn->reset)
        return sim_error(ECONNRESET, "recv", fd);
    if (n == 0 && !conn->fin)
        return sim_error(EAGAIN, "recv", fd);
    if (n > most)
        n = most;
    if (n > 1 && sim_chance(sim_io))
        n = 1 + (sim_random() >> 11) % n;
    if (n)
        memcpy(to, conn->in.data + conn->in.at, n);
    if (flags & MSG_PEEK) {
        sim_say("    peek(%d): %zu\n", fd, n);
        return (ssize_t)n;
    }
    conn->in.at += n;
    sim_ticks++;
    if (conn->received < conn->mark && conn->received + n >= conn->mark)
        conn->mark_tick = sim_ticks;
    conn->received += n;
    sim_spent_ns += SIM_BYTE_NS * n;
    sim_mix((uint64_t)fd << 32 | n);
    if (!conn->sealed)
        sim_mix_bytes(to, n);
    sim_say("    recv(%d): %zu\n", fd, n);
    return (ssize_t)n;
}

/* Put some of the data into the connection's buffer. */
static ssize_t sim_put(int fd, const struct iovec *iov, size_t spans) {
    sim_conn *conn = sim_find(fd, "send");
    static const int errors[] = {EAGAIN, EINTR, ENOBUFS, EAGAIN};
    size_t total = 0, left;

    if (!conn)
        return -1;
    for (size_t i = 0; i < spans; i++)
        total += iov[i].iov_len;
    if (total == 0)
        sim_wrong = "send of nothing";
    if (conn->shut)
        sim_wrong = "send after shutdown";
    sim_spend_call(total);
    if (conn->reset || conn->shut)
        return sim_error(conn->reset++ == 1 ? ECONNRESET : EPIPE, "send", fd);
    if (sim_chance(sim_io))
        return sim_error(errors[sim_random() >> 11 & 3], "send", fd);
    left = conn->room - sim_waiting(&conn->out);
    if (left == 0)
        return sim_error(EAGAIN, "send", fd);
    if (left > total)
        left = total;
    if (left > 1 && sim_chance(sim_io))
        left = 1 + (sim_random() >> 11) % left;
    total = left;
    sim_mix((uint64_t)fd << 32 | total);
    sim_say("    send(%d): %zu in %zu spans\n", fd, total, spans);
    for (size_t i = 0; left; i++) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;

        if (!conn->sealed)
            sim_mix_bytes(iov[i].iov_base, n);
        sim_append(&conn->out, iov[i].iov_base, n);
        left -= n;
    }
    if (conn->deaf) /* the client has closed: its kernel answers with a reset */
        conn->reset = 1;
    return (ssize_t)total;
}

static ssize_t sim_send(int fd, const void *data, size_t len, int flags) {
    struct iovec iov = {(void *)(uintptr_t)data, len};

    if (!(flags & MSG_NOSIGNAL))
        sim_wrong = "send without MSG_NOSIGNAL";
    return sim_put(fd, &iov, 1);
}

static ssize_t sim_sendmsg(int fd, const struct msghdr *msg, int flags) {
    if (!(flags & MSG_NOSIGNAL))
        sim_wrong = "sendmsg without MSG_NOSIGNAL";
    return sim_put(fd, msg->msg_iov, msg->msg_iovlen);
}

/* Only TIOCOUTQ: what the client has not read. */
static int sim_ioctl(int fd, unsigned long request, int *bytes) {
    sim_conn *conn = sim_find(fd, "ioctl");

    if (request != TIOCOUTQ)
        sim_wrong = "an ioctl that is not TIOCOUTQ";
    if (!conn)
        return -1;
    *bytes = (int)(conn->out.len - conn->out.at);
    return 0;
}

/* --- for Python ---------------------------------------------------------- */

void sim_begin(uint64_t seed, int traced) {
    sim_state = seed * UINT64_C(0x9E3779B97F4A7C15) + UINT64_C(0x2545F4914F6CDD1D);
    sim_hash = UINT64_C(0xCBF29CE484222325);
    sim_ticks = sim_log_at = 0;
    sim_watched = NULL;
    sim_log.at = sim_log.len = 0;
    sim_io = sim_memory = 0;
    sim_spared = 0;
    sim_wrong = NULL;
    sim_live_count = 0;
    sim_spent_ns = 0;
    memset(sim_fds, 0, sizeof sim_fds);
    free(sim_text);
    sim_text_room = 1 << 16;
    sim_text = traced ? malloc(sim_text_room) : NULL;
    sim_text_len = 0;
}

void sim_faults(unsigned io, unsigned memory) {
    sim_io = io;
    sim_memory = memory;
}

void sim_spare_memory(int spared) {
    sim_spared = spared;
}

void sim_spend(uint64_t ns) {
    sim_spent_ns += ns;
}

uint64_t sim_spent(void) {
    return sim_spent_ns;
}

void sim_note(uint64_t word) {
    sim_mix(word);
}

uint64_t sim_trace_hash(void) {
    return sim_hash;
}

size_t sim_trace_text(const char **text) {
    size_t len = sim_text_len;

    *text = sim_text;
    sim_text_len = 0;
    return len;
}

const char *sim_misuse(void) {
    return sim_wrong;
}

long sim_live(void) {
    return sim_live_count;
}

const char *sim_site(size_t number) {
    return number < SIM_SITES ? sim_sites[number] : NULL;
}

sim_conn *sim_connect(size_t room) {
    sim_conn *conn = calloc(1, sizeof *conn);

    if (!conn)
        abort();
    conn->room = room;
    conn->fd = -1;
    return conn;
}

void sim_drop(sim_conn *conn) {
    free(conn->in.data);
    free(conn->out.data);
    free(conn);
}

int sim_accept(sim_conn *conn) {
    int fd = SIM_FIRST_FD;

    while (fd < SIM_FDS && sim_fds[fd])
        fd++;
    if (fd == SIM_FDS)
        return -1;
    sim_fds[fd] = conn;
    conn->fd = fd;
    sim_say("    accept: %d\n", fd);
    return fd;
}

ssize_t sim_receive(int fd, char *to, size_t most, int flags) {
    ssize_t n;

    do
        n = sim_recv(fd, to, most, flags);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t sim_transmit(int fd, const char *data, size_t len) {
    ssize_t n;

    do
        n = sim_send(fd, data, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void sim_close(int fd) {
    sim_conn *conn = sim_find(fd, "close");

    sim_mix((uint64_t)fd << 16 | 1);
    sim_say("    close(%d)\n", fd);
    if (!conn)
        return;
    sim_fds[fd] = NULL;
    conn->closed = 1;
    conn->fd = -1;
    conn->unread = sim_waiting(&conn->in) > 0;
}

int sim_shutdown(int fd) {
    sim_conn *conn = sim_find(fd, "shutdown");

    sim_mix((uint64_t)fd << 16 | 2);
    if (!conn || conn->reset)
        return -1;
    conn->shut = 1;
    return 0;
}

int sim_ready(int fd) {
    const sim_conn *conn = sim_fds[fd];

    if (!conn)
        return 0;
    if (conn->reset)
        return 3;
    return (sim_waiting(&conn->in) || conn->fin ? 1 : 0) |
           (sim_waiting(&conn->out) < conn->room ? 2 : 0);
}

size_t sim_feed(sim_conn *conn, const char *data, size_t len, size_t room) {
    size_t waiting = sim_waiting(&conn->in);
    size_t left = waiting < room ? room - waiting : 0;

    if (len > left)
        len = left;
    if (len)
        sim_append(&conn->in, data, len);
    return len;
}

size_t sim_drain(sim_conn *conn, char *to, size_t most) {
    size_t n = sim_waiting(&conn->out);

    if (n > most)
        n = most;
    if (n)
        memcpy(to, conn->out.data + conn->out.at, n);
    conn->out.at += n;
    return n;
}

void sim_forget_input(sim_conn *conn) {
    conn->in.at = conn->in.len;
}

void sim_watch(const cl_log *log) {
    sim_watched = log;
}

static void sim_keep_log(const cl_log *log);

#define malloc(size) sim_malloc(size, __func__)
#define calloc(count, size) sim_calloc(count, size, __func__)
#define realloc(memory, size) sim_realloc(memory, size, __func__)
#define free(memory) sim_free(memory)
#define recv sim_recv
#define send sim_send
#define sendmsg sim_sendmsg
#define ioctl sim_ioctl
#include "_clist.c"
#include "_log.c"
#include "_input.c"
#include "_output.c"
#include "_text.c"
#include "_check.c"

/* Copy what was added to the log, if it is the one that is watched. */
static void sim_keep_log(const cl_log *log) {
    if (log != sim_watched)
        return;
    for (const cl_block *b = log->first; b; b = b->next) {
        uint64_t at = sim_log_at > b->start ? sim_log_at : b->start;

        if (at >= block_end(b))
            continue;
        if (at != sim_log_at)
            sim_wrong = "a part of the log was freed unread";
        sim_append(&sim_log, b->data + (at - b->start), (size_t)(block_end(b) - at));
        sim_log_at = block_end(b);
    }
}

size_t sim_read_log(const char **data) {
    size_t n;

    if (sim_log_at != log_end(sim_watched))
        sim_keep_log(sim_watched);
    n = sim_waiting(&sim_log);
    *data = sim_log.data + sim_log.at;
    sim_log.at = sim_log.len;
    return n;
}

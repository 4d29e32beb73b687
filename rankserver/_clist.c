/* The ranked list and the shared log; see _clist.h for the picture, who owns
 * what, and the invariants that are named here by their numbers. */
#define _GNU_SOURCE
#include "_clist.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Bytes per send: what the kernel copies while it is still in the cache, and
 * about as much as one turn of the server's loop adds to the log at most. */
#define CL_SEND_BYTES (1024 * 1024)
/* Spans per send: one for the log is the rule, private frames the exception. */
#define CL_SEND_SPANS 16
/* Sends per call for one client: the others wait meanwhile. */
#define CL_FLUSH_SENDS 4
/* Private frames that wait behind another share memory of this size. */
#define CL_FRAME_ROOM 4096
/* Blocks kept for reuse: pages that are mapped and warm. */
#define CL_SPARE_BLOCKS 8
/* Of these, those that no command of a client may take: so that a JOIN or LEFT
 * can be logged without memory, too. */
#define CL_KEPT_BLOCKS 1
/* "CMD ", a number, " ", a number, " ": at most 4 + 20 + 1 + 20 + 1 bytes. */
#define CL_STAMP_BYTES 48
/* What a frame may have beyond max_line (protocol: Lines). */
#define CL_FRAME_SLACK 256
/* What is received and kept of a client before it joins, at most. */
#define CL_UNJOINED_BYTES (64 * 1024)

typedef struct cl_block {
    struct cl_block *next;
    uint64_t start; /* position of data[0] in the log */
    size_t used;
    size_t refs;
    char data[];
} cl_block;

typedef struct cl_frame { /* private frames that wait for the same place */
    struct cl_frame *next;
    uint64_t due; /* sent when the log before this position is */
    size_t len, room;
    char data[];
} cl_frame;

typedef struct cl_list {
    cl_client *head, *tail;
    size_t len;
} cl_list;

struct cl_client {
    cl_client *prev, *next;
    cl_block *block; /* NULL when nothing of the log is left to send */
    uint64_t pos, limit;
    cl_frame *first, *last;
    size_t first_sent;    /* bytes of `first` that are out */
    size_t private_bytes; /* of all frames, less first_sent */
    uint64_t private_sent; /* bytes of frames that are out, from the first */
    char *kept; /* input for later: the beginning of a line, or ... */
    size_t kept_len, kept_room;
    int64_t rank;
    uint32_t rank_class; /* lower is higher */
    int fd;
    unsigned char ranked;
    unsigned char joined; /* is ranked, or was: never again */
    unsigned char blocked;
    unsigned char muted;    /* the connection is gone for writing */
    unsigned char external; /* the caller sends, by cl_peek and cl_advance */
    unsigned char aside; /* ... all that cl_set_aside found */
    unsigned char ignored;
};

struct cl_log {
    cl_list ranked, unranked;
    cl_block *first, *last, *spare;
    size_t spares;
    size_t block_size, max_line;
    uint64_t seq, flushed; /* of the last frame, and at the last flush of all */
    int numbered; /* every `rank` is right */
    int on_hold;  /* no command is logged: all are for the caller */
    const cl_client *reader; /* whose input it is; NULL for nobody's */
    size_t at, to;           /* what is left of it */
    size_t line_at;          /* where the line began that came last */
    size_t input_size;       /* of one read, at most */
    char *input;             /* max_line bytes, and those of a read */
};

/* --- lists of clients ---------------------------------------------------- */

/* Insert behind `prev`, or at the head for NULL. O(1). Cannot fail. */
static void list_insert(cl_list *list, cl_client *prev, cl_client *client) {
    client->prev = prev;
    client->next = prev ? prev->next : list->head;
    if (client->next)
        client->next->prev = client;
    else
        list->tail = client;
    if (prev)
        prev->next = client;
    else
        list->head = client;
    list->len++;
}

/* Take out of the list. O(1). Cannot fail. */
static void list_remove(cl_list *list, cl_client *client) {
    if (client->prev)
        client->prev->next = client->next;
    else
        list->head = client->next;
    if (client->next)
        client->next->prev = client->prev;
    else
        list->tail = client->prev;
    list->len--;
}

/* Number all ranks if they are not. O(n) after a change, else O(1). */
static void number_ranks(cl_log *log) {
    int64_t rank = 0;

    if (log->numbered)
        return;
    for (cl_client *c = log->ranked.head; c; c = c->next)
        c->rank = rank++;
    log->numbered = 1;
}

/* --- blocks of the log --------------------------------------------------- */

static uint64_t block_end(const cl_block *block) {
    return block->start + block->used;
}

static uint64_t log_end(const cl_log *log) {
    return block_end(log->last);
}

/* Where this client's part of the log ends for now. */
static uint64_t client_end(const cl_log *log, const cl_client *client) {
    uint64_t end = log_end(log);

    return client->limit < end ? client->limit : end;
}

/* Free blocks that nobody is going to read. O(1) for each. Cannot fail. */
static void trim(cl_log *log) {
    while (log->first != log->last && log->first->refs == 0) {
        cl_block *block = log->first;

        log->first = block->next;
        if (log->spares < CL_SPARE_BLOCKS) {
            block->next = log->spare;
            log->spare = block;
            log->spares++;
        } else {
            free(block);
        }
    }
}

/* Take a spare block or make one, and leave `keep` spare ones for those whose
 * need is greater. Returns NULL without memory. O(1). */
static cl_block *take_block(cl_log *log, size_t keep) {
    cl_block *block = log->spare;

    if (log->spares > keep) {
        log->spare = block->next;
        log->spares--;
    } else {
        block = malloc(sizeof *block + log->block_size);
        if (!block)
            return NULL;
    }
    block->next = NULL;
    block->used = block->refs = 0;
    return block;
}

/* Return room for n bytes at the end of the log, n <= block_size, and leave
 * `keep` spare blocks; NULL without memory. The bytes count once `used` says
 * so. O(1). */
static char *reserve(cl_log *log, size_t n, size_t keep) {
    cl_block *block = log->last;

    if (log->block_size - block->used < n) {
        block = take_block(log, keep);
        if (!block)
            return NULL;
        block->start = log_end(log);
        log->last->next = block;
        log->last = block;
        trim(log);
    }
    return block->data + block->used;
}

/* Point the cursor at a block, or at none. O(1). Cannot fail. */
static void set_block(cl_client *client, cl_block *block) {
    if (client->block)
        client->block->refs--;
    if (block)
        block->refs++;
    client->block = block;
}

/* Let go of the log when the client has all of its part. O(1). */
static void release_if_done(cl_log *log, cl_client *client) {
    if (!client->ranked && client->pos == client->limit) {
        set_block(client, NULL);
        trim(log);
    }
}

/* --- life of a log and of its clients ------------------------------------ */

/* Make an empty log for lines of max_line bytes, in blocks of at least
 * block_size bytes, that reads at most input_size bytes at once. Returns NULL
 * without memory. */
cl_log *cl_new(size_t block_size, size_t max_line, size_t input_size) {
    cl_log *log = calloc(1, sizeof *log);
    size_t least = max_line + CL_FRAME_SLACK;

    if (!log)
        return NULL;
    log->block_size = block_size > least ? block_size : least;
    log->max_line = max_line;
    log->input_size = input_size;
    log->numbered = 1;
    log->input = malloc(max_line + input_size);
    log->first = log->last = take_block(log, 0);
    log->spare = take_block(log, 0);
    if (!log->input || !log->last || !log->spare) {
        free(log->input);
        free(log->last);
        free(log->spare);
        free(log);
        return NULL;
    }
    log->spares = 1;
    log->last->start = 0;
    return log;
}

static void free_blocks(cl_block *block) {
    while (block) {
        cl_block *next = block->next;

        free(block);
        block = next;
    }
}

/* Free the log and all of its clients; NULL is allowed. Cannot fail. */
void cl_free(cl_log *log) {
    if (!log)
        return;
    while (log->ranked.head)
        cl_close(log, log->ranked.head);
    while (log->unranked.head)
        cl_close(log, log->unranked.head);
    free_blocks(log->first);
    free_blocks(log->spare);
    free(log->input);
    free(log);
}

/* Make a client that reads and writes fd, unranked and with nothing to send;
 * an `external` one is read and written by the caller, who uses cl_take,
 * cl_peek and cl_advance. Returns NULL without memory. O(1). */
cl_client *cl_open(cl_log *log, int fd, int external) {
    cl_client *client = calloc(1, sizeof *client);

    if (!client)
        return NULL;
    client->fd = fd;
    client->external = external != 0;
    client->rank = -1;
    list_insert(&log->unranked, log->unranked.tail, client);
    return client;
}

/* Give a client the lowest rank in its class; its part of the log starts here.
 * What it was sent before stays first in line. Returns CL_OK, or CL_MISUSE for
 * a client that joined before. O(clients in classes that rank below), and
 * O(private frames) for those that wait. */
int cl_join(cl_log *log, cl_client *client, uint32_t rank_class) {
    cl_client *prev = log->ranked.tail;

    if (client->joined)
        return CL_MISUSE;
    while (prev && prev->rank_class > rank_class)
        prev = prev->prev;
    list_remove(&log->unranked, client);
    list_insert(&log->ranked, prev, client);
    if (client != log->ranked.tail)
        log->numbered = 0;
    client->rank_class = rank_class;
    client->ranked = client->joined = 1;
    client->rank = (int64_t)log->ranked.len - 1;
    client->pos = client->limit = log_end(log);
    if (client->muted)
        return CL_OK;
    client->limit = UINT64_MAX;
    set_block(client, log->last);
    for (cl_frame *f = client->first; f; f = f->next)
        f->due = client->pos;
    return CL_OK;
}

/* Take a client out of the ranks; its part of the log ends at `limit`, if it
 * has not ended before. */
static void unrank(cl_log *log, cl_client *client, uint64_t limit) {
    if (client != log->ranked.tail)
        log->numbered = 0;
    list_remove(&log->ranked, client);
    list_insert(&log->unranked, log->unranked.tail, client);
    client->ranked = 0;
    client->rank = -1;
    if (!client->muted)
        client->limit = limit;
}

/* Take a client out of the ranks. What is in the log so far is still its to
 * be sent, and nothing after. Returns CL_OK, or CL_MISUSE for a client that
 * is not ranked. O(1). */
int cl_retire(cl_log *log, cl_client *client) {
    if (!client->ranked)
        return CL_MISUSE;
    unrank(log, client, log_end(log));
    release_if_done(log, client);
    return CL_OK;
}

/* Free the private frames after `keep`, or all for NULL. */
static void drop_frames(cl_client *client, cl_frame *keep) {
    cl_frame *frame = keep ? keep->next : client->first;

    while (frame) {
        cl_frame *next = frame->next;

        free(frame);
        frame = next;
    }
    if (keep)
        keep->next = NULL;
    else
        client->first = NULL;
    client->last = keep;
}

/* Bytes of the line that is begun before data[at], from there on: 0 where a
 * line ends. */
static size_t rest_of_line(const char *data, size_t at, size_t len) {
    const char *lf;

    if (at == 0 || data[at - 1] == '\n')
        return 0;
    lf = memchr(data + at, '\n', len - at);
    return (size_t)(lf - (data + at)) + 1;
}

/* Drop the private frames but for the one that is begun. */
static void drop_frames_not_begun(cl_client *client) {
    cl_frame *first = client->first;
    size_t rest = 0;

    if (client->first_sent)
        rest = rest_of_line(first->data, client->first_sent, first->len);
    drop_frames(client, rest ? first : NULL);
    client->private_bytes = rest;
    if (rest)
        first->len = client->first_sent + rest;
    else
        client->first_sent = 0;
}

/* As cl_retire, for a client that is too slow to be sent what is in the log:
 * its part ends with the frame that it has begun to get. The rest of that is
 * made private, so that nothing of the log is kept for it; without memory for
 * that, it is. O(frame, and private frames). */
int cl_cut(cl_log *log, cl_client *client) {
    const cl_block *block = client->block;
    const char *data;
    size_t at, rest = 0;

    if (!client->ranked || client->muted)
        return cl_retire(log, client);
    at = (size_t)(client->pos - block->start);
    data = block->data + at;
    drop_frames_not_begun(client);
    if (!client->first)
        rest = rest_of_line(block->data, at, block->used);
    unrank(log, client, client->pos);
    if (rest && cl_private(log, client, data, rest) == CL_NOMEM)
        client->limit += rest;
    release_if_done(log, client);
    return CL_OK;
}

/* Send no more to a client whose connection is gone for writing: nothing of
 * the log is kept for it. What it has sent still counts, and it keeps its rank
 * until it is retired. O(private frames). Cannot fail. */
void cl_mute(cl_log *log, cl_client *client) {
    client->muted = 1;
    client->blocked = 0;
    client->limit = client->pos;
    drop_frames(client, NULL);
    client->first_sent = client->private_bytes = 0;
    set_block(client, NULL);
    trim(log);
}

/* Free a client, ranked or not. O(private frames). Cannot fail. */
void cl_close(cl_log *log, cl_client *client) {
    if (client->ranked)
        unrank(log, client, client->pos);
    list_remove(&log->unranked, client);
    set_block(client, NULL);
    drop_frames(client, NULL);
    cl_ignore(log, client);
    free(client);
    trim(log);
}

/* --- what goes into the log ---------------------------------------------- */

/* Keep all lines for the caller from now on, or log commands again. O(1). */
void cl_hold(cl_log *log, int on_hold) {
    log->on_hold = on_hold;
}

/* Make sure that the next cl_append of at most `len` bytes of text finds room;
 * a spare block is kept for it. Returns CL_OK, or CL_NOMEM. O(1). */
int cl_reserve(cl_log *log, size_t len) {
    if (len + CL_STAMP_BYTES > log->block_size)
        return CL_NOMEM;
    return reserve(log, len + CL_STAMP_BYTES, 0) ? CL_OK : CL_NOMEM;
}

/* Append "<verb> <seq> <text>\n". Returns the frame's seq, or CL_NOMEM. The
 * caller has checked that the line is at most max_line + 256 bytes. O(len). */
int64_t cl_append(cl_log *log, const char *verb, const char *text, size_t len) {
    char stamp[CL_STAMP_BYTES];
    size_t n = (size_t)snprintf(stamp, sizeof stamp, "%.15s %llu ", verb,
                                (unsigned long long)log->seq + 1);
    char *to;

    if (n + len + 1 > log->block_size)
        return CL_NOMEM;
    to = reserve(log, n + len + 1, CL_KEPT_BLOCKS);
    if (!to)
        return CL_NOMEM;
    memcpy(to, stamp, n);
    memcpy(to + n, text, len);
    to[n + len] = '\n';
    log->last->used += n + len + 1;
    return (int64_t)++log->seq;
}

/* Add an empty piece of private memory for `len` bytes or more; NULL without
 * memory. One that is alone is mostly sent at once, and gets no more. */
static cl_frame *add_frame(cl_client *client, uint64_t due, size_t len) {
    size_t room = client->first && len < CL_FRAME_ROOM ? CL_FRAME_ROOM : len;
    cl_frame *frame = malloc(sizeof *frame + room);

    if (!frame)
        return NULL;
    frame->next = NULL;
    frame->due = due;
    frame->len = 0;
    frame->room = room;
    if (client->last)
        client->last->next = frame;
    else
        client->first = frame;
    client->last = frame;
    return frame;
}

/* Queue one private frame, LF included, after what is in the log now; none
 * for a client that is muted. Returns how many bytes of private frames wait
 * for the client now, CL_NOMEM, or CL_MISUSE for an empty frame. O(len). */
int64_t cl_private(cl_log *log, cl_client *client, const char *data,
                   size_t len) {
    uint64_t due = client_end(log, client);
    cl_frame *frame = client->last;

    if (len == 0)
        return CL_MISUSE;
    if (client->muted)
        return 0;
    if (!frame || frame->due != due || frame->room - frame->len < len) {
        frame = add_frame(client, due, len);
        if (!frame)
            return CL_NOMEM;
    }
    memcpy(frame->data + frame->len, data, len);
    frame->len += len;
    client->private_bytes += len;
    return (int64_t)client->private_bytes;
}

/* --- what goes out ------------------------------------------------------- */

/* Write what is to be sent next into spans: private frames that are due, and
 * the log between them. Returns how many spans it is, at most `room`; 0 when
 * nothing is left. At most CL_SEND_BYTES of the log. O(room). */
size_t cl_peek(const cl_log *log, const cl_client *client, cl_span *spans,
               size_t room) {
    const cl_frame *frame = client->first;
    const cl_block *block = client->block;
    uint64_t pos = client->pos, end = client_end(log, client);
    size_t n = 0, sent = client->first_sent;

    if (end - pos > CL_SEND_BYTES)
        end = pos + CL_SEND_BYTES;
    while (n < room) {
        if (frame && frame->due == pos) {
            spans[n].data = frame->data + sent;
            spans[n++].len = frame->len - sent;
            sent = 0;
            frame = frame->next;
        } else if (pos < end) {
            uint64_t to = frame && frame->due < end ? frame->due : end;

            if (pos == block_end(block))
                block = block->next;
            if (to > block_end(block))
                to = block_end(block);
            spans[n].data = block->data + (pos - block->start);
            spans[n++].len = (size_t)(to - pos);
            pos = to;
        } else {
            break;
        }
    }
    return n;
}

/* Count n bytes of the first private frame as sent; free it when it is out. */
static void advance_frame(cl_client *client, size_t n) {
    cl_frame *frame = client->first;

    client->first_sent += n;
    client->private_bytes -= n;
    client->private_sent += n;
    if (client->first_sent == frame->len) {
        client->first = frame->next;
        if (!client->first)
            client->last = NULL;
        client->first_sent = 0;
        free(frame);
    }
}

/* Move the cursor n bytes on, over as many blocks as that is. */
static void advance_cursor(cl_client *client, size_t n) {
    client->pos += n;
    while (client->pos > block_end(client->block) ||
           (client->pos == block_end(client->block) && client->block->next))
        set_block(client, client->block->next);
}

/* Count `sent` bytes of what cl_peek showed as sent. O(spans). Cannot fail. */
void cl_advance(cl_log *log, cl_client *client, size_t sent) {
    while (sent > 0) {
        const cl_frame *frame = client->first;
        size_t n = sent, most;

        if (frame && frame->due == client->pos) {
            most = frame->len - client->first_sent;
            n = n < most ? n : most;
            advance_frame(client, n);
        } else {
            if (frame && frame->due - client->pos < n)
                n = (size_t)(frame->due - client->pos);
            advance_cursor(client, n);
        }
        sent -= n;
    }
    if (client->block)
        release_if_done(log, client);
    trim(log);
}

static int nothing_left(const cl_log *log, const cl_client *client) {
    return !client->first && client->pos == client_end(log, client);
}

/* Send the spans in one system call; a single one, which is the rule, by the
 * call that costs less. Returns as sendmsg(2). */
static ssize_t send_spans(int fd, const cl_span *spans, size_t n) {
    struct iovec iov[CL_SEND_SPANS];
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};

    if (n == 1)
        return send(fd, spans->data, spans->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    for (size_t i = 0; i < n; i++) {
        iov[i].iov_base = (void *)(uintptr_t)spans[i].data;
        iov[i].iov_len = spans[i].len;
    }
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Send once, at most CL_SEND_BYTES. Returns CL_OK when nothing is left,
 * CL_MORE when there is, CL_BLOCKED or CL_BROKEN as for cl_flush. */
static int send_once(cl_log *log, cl_client *client) {
    cl_span spans[CL_SEND_SPANS];
    size_t n = cl_peek(log, client, spans, CL_SEND_SPANS), total = 0;
    ssize_t sent;

    for (size_t i = 0; i < n; i++)
        total += spans[i].len;
    client->blocked = 1; /* until it turns out otherwise */
    do
        sent = send_spans(client->fd, spans, n);
    while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ||
            errno == ENOMEM)
            return CL_BLOCKED;
        return CL_BROKEN;
    }
    cl_advance(log, client, (size_t)sent);
    if ((size_t)sent < total)
        return CL_BLOCKED;
    client->blocked = 0;
    return nothing_left(log, client) ? CL_OK : CL_MORE;
}

/* Send to one client what it has to get, in a bounded number of system calls.
 * Returns CL_OK when nothing is left, CL_BLOCKED when something is (call again
 * when the socket is writable), and CL_BROKEN when the connection is gone for
 * writing; it may still be readable. */
int cl_flush(cl_log *log, cl_client *client) {
    if (client->muted)
        return CL_BROKEN;
    client->blocked = 0;
    for (int i = 0; i < CL_FLUSH_SENDS; i++) {
        int status;

        if (nothing_left(log, client))
            return CL_OK;
        status = send_once(log, client);
        if (status != CL_MORE)
            return status;
    }
    client->blocked = 1;
    return CL_BLOCKED;
}

/* If all cursors are at the end of the log, write the last block from its
 * start again: the memory that was just sent from is warm. The list is walked
 * only where the block could be one that nobody is behind in: who has left and
 * is still owed something has a cursor as well, and who is muted has none.
 * O(n). */
static void rewind_last(cl_log *log) {
    cl_block *block = log->last;
    size_t at_end = 0;

    if (log->first != block || block->refs > log->ranked.len)
        return;
    for (const cl_client *c = log->ranked.head; c; c = c->next) {
        if (c->block && c->pos != block_end(block))
            return;
        at_end += c->block != NULL;
    }
    if (at_end != block->refs)
        return;
    block->start += block->used;
    block->used = 0;
}

/* Send to every ranked client, in rank order, all that the log holds for it,
 * leaving out those that are blocked or external. All get one piece of the log
 * before any gets the next: it is copied while it is in the cache. Writes into
 * fds the descriptor of each client that is blocked from now on, and the
 * complement (~fd) of one whose connection is gone for writing. Returns how
 * many; each client is named at most once. Stops early when fds is full. */
size_t cl_flush_all(cl_log *log, int *fds, size_t room) {
    size_t named = 0;
    int more = 1;

    while (more) {
        more = 0;
        for (cl_client *c = log->ranked.head; c && named < room; c = c->next) {
            int status;

            if (c->blocked || c->external || nothing_left(log, c))
                continue;
            status = send_once(log, c);
            if (status == CL_MORE)
                more = 1;
            else if (status != CL_OK)
                fds[named++] = status == CL_BROKEN ? ~c->fd : c->fd;
        }
    }
    if (named < room)
        log->flushed = log->seq;
    rewind_last(log);
    return named;
}

/* --- questions ----------------------------------------------------------- */

/* The seq of the last frame in the log, 0 if there is none yet. */
uint64_t cl_seq(const cl_log *log) {
    return log->seq;
}

/* How many frames were logged since all were flushed. */
uint64_t cl_unflushed(const cl_log *log) {
    return log->seq - log->flushed;
}

/* Bytes of the log that are kept for the slowest cursor. O(1). */
uint64_t cl_held(const cl_log *log) {
    return log_end(log) - log->first->start;
}

/* How many clients are ranked. */
size_t cl_clients(const cl_log *log) {
    return log->ranked.len;
}

/* A client's rank, or -1 for one that has none. O(n) after a leave, else
 * O(1). */
int64_t cl_rank(cl_log *log, cl_client *client) {
    if (client->ranked)
        number_ranks(log);
    return client->rank;
}

/* Bytes that wait to be sent to this client. O(1). */
uint64_t cl_lag(const cl_log *log, const cl_client *client) {
    return client_end(log, client) - client->pos + client->private_bytes;
}

/* Bytes that this client was sent, and those of the log before it joined.
 * O(1). */
uint64_t cl_sent(const cl_client *client) {
    return client->pos + client->private_sent;
}

/* Bytes sent to this client that its system has not acknowledged, as far as
 * ours can tell: tcp(7), SIOCOUTQ; on a Unix socket what was not read, and
 * some more. A system call. */
size_t cl_in_flight(const cl_client *client) {
    int bytes = 0;

    return ioctl(client->fd, TIOCOUTQ, &bytes) || bytes < 0 ? 0 : (size_t)bytes;
}

/* Bytes of private frames that wait to be sent to this client. O(1). */
uint64_t cl_queued(const cl_client *client) {
    return client->private_bytes;
}

/* Tell whether the last flush could not send all. */
int cl_is_blocked(const cl_client *client) {
    return client->blocked;
}

/* Write the descriptors of the clients for whom more than `most` bytes of the
 * log are kept, the ranked ones first. Returns how many, at most `room`. O(n),
 * for all clients. */
size_t cl_behind(const cl_log *log, uint64_t most, int *fds, size_t room) {
    const cl_list *lists[] = {&log->ranked, &log->unranked};
    size_t n = 0;

    for (int i = 0; i < 2; i++)
        for (const cl_client *c = lists[i]->head; c && n < room; c = c->next)
            if (c->block && log_end(log) - c->pos > most)
                fds[n++] = c->fd;
    return n;
}

/* Write the descriptors of all ranked clients, by rank. Returns how many, at
 * most `room`. O(n). */
size_t cl_fds(const cl_log *log, int *fds, size_t room) {
    size_t n = 0;

    for (cl_client *c = log->ranked.head; c && n < room; c = c->next)
        fds[n++] = c->fd;
    return n;
}

#include "_input.h"
#include "_check.h"

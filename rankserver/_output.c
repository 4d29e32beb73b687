/* Output to clients: each cursor's part of the log, with its private frames at
 * their places in it. See _core.h for the picture of a cursor's stream. */
#define _GNU_SOURCE
#include "_core.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Bytes of the log in one send: what the kernel copies while it is still in
 * the cache, and about as much as one turn of the server's loop adds at
 * most. */
#define CL_SEND_BYTES (1024 * 1024)

/* Spans in one send. Normally there is only one, of the log; private frames
 * between stretches of the log are the exception. */
#define CL_SEND_SPANS 16

/* Sends in one call for one cursor, because the others wait meanwhile. */
#define CL_FLUSH_SENDS 4

/* A status of send_once in addition to those of cl_status: there is more to
 * send. */
#define CL_MORE 100

/* Write into spans what to send next: private frames that are due, and at most
 * CL_SEND_BYTES of the log between them. Returns how many spans there are, at
 * most `room`; 0 if nothing can be sent for now. The memory is valid until the
 * next call that takes a cl_log * without const. O(room). */
size_t cl_peek(const cl_log *log, const cl_cursor *cursor, cl_span *spans,
               size_t room) {
    const cl_frame *frame = cursor->first;
    const cl_block *block = cursor->block;
    uint64_t pos = cursor->pos, end = sendable_end(log, cursor);
    size_t n = 0;

    if (pos > end)
        return 0;
    if (end - pos > CL_SEND_BYTES)
        end = pos + CL_SEND_BYTES;
    while (n < room) {
        if (frame && frame->due == pos) {
            spans[n].data = frame->data + frame->sent;
            spans[n++].len = frame->len - frame->sent;
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

/* Count n bytes of the first piece of private frames as sent, and free the
 * piece once all of it is. */
static void advance_frame(cl_cursor *cursor, size_t n) {
    cl_frame *frame = cursor->first;

    frame->sent += n;
    cursor->private_bytes -= n;
    cursor->private_sent += n;
    if (frame->sent == frame->len) {
        cursor->first = frame->next;
        if (!cursor->first)
            cursor->last = NULL;
        free(frame);
    }
}

/* Advance the cursor by n bytes of the log, across as many blocks as
 * necessary. */
static void advance_pos(cl_cursor *cursor, size_t n) {
    cursor->pos += n;
    while (cursor->pos > block_end(cursor->block) ||
           (cursor->pos == block_end(cursor->block) && cursor->block->next))
        set_block(cursor, cursor->block->next);
}

/* Count the first `sent` bytes of what cl_peek showed as sent. O(spans).
 * Cannot fail. */
void cl_advance(cl_log *log, cl_cursor *cursor, size_t sent) {
    while (sent > 0) {
        const cl_frame *frame = cursor->first;
        size_t n = sent, size;

        if (frame && frame->due == cursor->pos) {
            size = frame->len - frame->sent;
            n = n < size ? n : size;
            advance_frame(cursor, n);
        } else {
            if (frame && frame->due - cursor->pos < n)
                n = (size_t)(frame->due - cursor->pos);
            advance_pos(cursor, n);
        }
        sent -= n;
    }
    cl_release_if_done(log, cursor);
    cl_trim(log);
}

/* Tell whether nothing can be sent to the cursor for now. */
static int nothing_due(const cl_log *log, const cl_cursor *cursor) {
    uint64_t end = sendable_end(log, cursor);

    if (cursor->pos != end)
        return cursor->pos > end;
    return !cursor->first || cursor->first->due != end;
}

/* Send the spans in one system call. A single span, the normal case, is sent
 * by send, which costs less. Returns the same as sendmsg(2). */
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

/* Send once, at most CL_SEND_BYTES of the log. Returns CL_OK if nothing is
 * left to send, CL_MORE if something is, or CL_BLOCKED or CL_BROKEN like
 * cl_flush. */
static int send_once(cl_log *log, cl_cursor *cursor) {
    cl_span spans[CL_SEND_SPANS];
    size_t n = cl_peek(log, cursor, spans, CL_SEND_SPANS), total = 0;
    ssize_t sent;

    for (size_t i = 0; i < n; i++)
        total += spans[i].len;
    cursor->blocked = 1; /* until it turns out otherwise */
    do
        sent = send_spans(cursor->fd, spans, n);
    while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ||
            errno == ENOMEM)
            return CL_BLOCKED;
        return CL_BROKEN;
    }
    cl_advance(log, cursor, (size_t)sent);
    if ((size_t)sent < total)
        return CL_BLOCKED;
    cursor->blocked = 0;
    return nothing_due(log, cursor) ? CL_OK : CL_MORE;
}

/* Send one cursor its pending output, in a bounded number of system calls.
 * Returns CL_OK if nothing is left that is published; CL_BLOCKED if something
 * is, to be flushed when the socket is writable; CL_BROKEN if the connection
 * can no longer be written, although it may still be readable. */
int cl_flush(cl_log *log, cl_cursor *cursor) {
    if (cursor->muted)
        return CL_BROKEN;
    cursor->blocked = 0;
    for (int i = 0; i < CL_FLUSH_SENDS; i++) {
        int status;

        if (nothing_due(log, cursor))
            return CL_OK;
        status = send_once(log, cursor);
        if (status != CL_MORE)
            return status;
    }
    cursor->blocked = 1;
    return CL_BLOCKED;
}

/* Tell whether the cursor is at the end of the log. If it has a block, add one
 * to *refs. */
static int is_at_end(const cl_log *log, const cl_cursor *cursor, size_t *refs) {
    *refs += cursor->block != NULL;
    return !cursor->block || cursor->pos == log_end(log);
}

/* If all cursors are at the end of the log, reuse the last block from its
 * start: the memory that was just sent from is warm. The lists are walked only
 * if nobody can be behind in the block. A detached cursor that is not done
 * refers to the block as well, and a muted one does not. O(n). */
static void rewind_last(cl_log *log) {
    cl_block *block = log->last;
    size_t refs = 0;

    if (log->first != block ||
        block->refs > log->members.len + log->followers.len)
        return;
    for (const cl_member *m = log->members.head; m; m = m->next)
        if (m->cursor && !is_at_end(log, m->cursor, &refs))
            return;
    for (const cl_cursor *c = log->followers.head; c; c = c->next)
        if (!is_at_end(log, c, &refs))
            return;
    if (refs != block->refs)
        return;
    block->start += block->used;
    block->first_seq = log->seq + 1;
    block->used = 0;
}

/* Send once to a cursor that can be sent to. If it has become blocked or
 * broken, write its descriptor to *fds and advance *fds. Returns whether there
 * is more to send to it. */
static inline int flush_once(cl_log *log, cl_cursor *cursor, int **fds) {
    int status;

    if (cursor->blocked || cursor->external || nothing_due(log, cursor))
        return 0;
    status = send_once(log, cursor);
    if (status == CL_BLOCKED)
        *(*fds)++ = cursor->fd;
    else if (status == CL_BROKEN)
        *(*fds)++ = ~cursor->fd;
    return status == CL_MORE;
}

/* Send every attached cursor its pending output: members' cursors in rank
 * order, then those without a member; blocked and external ones are left out.
 * All are sent one piece of the log before any is sent the next, so that the
 * piece is copied while it is in the cache. Writes into fds the descriptor of
 * each cursor that has become blocked, and the complement (~fd) of each that
 * can no longer be written. Returns how many; no cursor is written twice.
 * Stops early if fds is full. */
size_t cl_flush_all(cl_log *log, int *fds, size_t room) {
    int *to = fds, *full = fds + room;
    int more = 1;

    while (more) {
        more = 0;
        for (cl_member *m = log->members.head; m && to < full; m = m->next)
            if (m->cursor)
                more |= flush_once(log, m->cursor, &to);
        for (cl_cursor *c = log->followers.head; c && to < full; c = c->next)
            more |= flush_once(log, c, &to);
        more &= to < full;
    }
    if (to < full)
        log->flushed = log->seq;
    rewind_last(log);
    return (size_t)(to - fds);
}

/* --- questions ----------------------------------------------------------- */

/* Bytes that are still to be sent to this cursor, published or not. O(1). */
uint64_t cl_lag(const cl_log *log, const cl_cursor *cursor) {
    return cursor_end(log, cursor) - cursor->pos + cursor->private_bytes;
}

/* Bytes that this cursor was sent, plus the position in the log where it was
 * attached. O(1). */
uint64_t cl_sent(const cl_cursor *cursor) {
    return cursor->pos + cursor->private_sent;
}

/* Sent bytes that the peer's system has not acknowledged, or 0 if our system
 * cannot tell: tcp(7), SIOCOUTQ. On a Unix socket, what the peer has not read,
 * and some more. A system call. */
size_t cl_in_flight(const cl_cursor *cursor) {
    int bytes = 0;

    return ioctl(cursor->fd, TIOCOUTQ, &bytes) || bytes < 0 ? 0 : (size_t)bytes;
}

/* Bytes of private frames that are queued for this cursor. O(1). */
uint64_t cl_queued(const cl_cursor *cursor) {
    return cursor->private_bytes;
}

/* Tell whether the last flush could not send everything that was due. */
int cl_is_blocked(const cl_cursor *cursor) {
    return cursor->blocked;
}

/* Tell whether more than `size` bytes of the log are kept for the cursor. */
static int is_behind(const cl_log *log, const cl_cursor *cursor,
                     uint64_t size) {
    return cursor->block && !cursor->retains &&
           log_end(log) - cursor->pos > size;
}

/* Write the descriptors of the cursors for which more than `size` bytes of the
 * log are kept: members' cursors by rank, then followers, then detached ones.
 * Returns how many, at most `room`. O(cursors). */
size_t cl_behind(const cl_log *log, uint64_t size, int *fds, size_t room) {
    const cl_cursor_list *lists[] = {&log->followers, &log->others};
    size_t n = 0;

    for (const cl_member *m = log->members.head; m && n < room; m = m->next)
        if (m->cursor && is_behind(log, m->cursor, size))
            fds[n++] = m->cursor->fd;
    for (int i = 0; i < 2; i++)
        for (const cl_cursor *c = lists[i]->head; c && n < room; c = c->next)
            if (is_behind(log, c, size))
                fds[n++] = c->fd;
    return n;
}

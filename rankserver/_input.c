/* Input from clients: it is received, cut into lines and checked. A line is
 * logged under the rank of its member, or handed to the caller. See _core.h
 * for the picture of the input. */
#include "_core.h"
#include "_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The most bytes of input that are kept for a cursor before it is attached:
 * anybody can connect, and a HELLO is short. */
#define CL_FRESH_BYTES (64 * 1024)

/* --- commands ------------------------------------------------------------ */

/* The bytes in front of a command's text, for the next frame of one sender.
 * The last digit of the seq is kept apart and written into the log by itself:
 * if it were counted up in `text`, each copy of `text` would wait for that
 * store. */
typedef struct stamp {
    char text[CL_STAMP_BYTES];
    size_t len;
    size_t last; /* index of the last digit of the seq */
    char digit;
} stamp;

/* Write a number in decimal. Returns the place after it. */
static char *put_number(char *to, uint64_t number) {
    char digits[20];
    size_t n = sizeof digits;

    do
        digits[--n] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(to, digits + n, sizeof digits - n);
    return to + (sizeof digits - n);
}

/* Set the stamp to a seq and a rank. This is done by hand because it happens
 * for each read, and printf is a lot of code to fetch for a single command. */
static void stamp_set(stamp *s, uint64_t seq, uint32_t rank) {
    char *to = put_number(s->text + 4, seq);

    memcpy(s->text, "CMD ", 4);
    s->last = (size_t)(to - s->text) - 1;
    s->digit = s->text[s->last];
    *to++ = ' ';
    to = put_number(to, rank);
    *to++ = ' ';
    s->len = (size_t)(to - s->text);
}

/* Increment the seq in the stamp; `seq` is the new value. */
static inline void stamp_next(stamp *s, uint64_t seq, uint32_t rank) {
    char *digit = s->text + s->last - 1;

    if (s->digit != '9') {
        s->digit++;
        return;
    }
    s->digit = '0';
    while (*digit == '9')
        *digit-- = '0';
    if (*digit == ' ')
        stamp_set(s, seq, rank);
    else
        ++*digit;
}

/* Append one command with the stamp in front of it. Returns 0 if there is no
 * memory. */
static inline int put_command(cl_log *log, const stamp *s, const char *text,
                       size_t len) {
    /* The whole array is copied, which compiles to a few moves. */
    char *to = reserve(log, CL_STAMP_BYTES + len + 1, CL_KEPT_BLOCKS);

    if (!to)
        return 0;
    memcpy(to, s->text, CL_STAMP_BYTES);
    to[s->last] = s->digit;
    to += s->len;
    memcpy(to, text, len);
    to[len] = '\n';
    log->last->used += s->len + len + 1;
    log->seq++;
    return 1;
}

/* Tell whether p[0..n), a line without its end, is a CMD of the protocol. */
static inline int is_command(text_scan *scan, const char *p, size_t n) {
    return n > 4 && memcmp(p, "CMD ", 4) == 0 && text_line_ok(scan, p, n);
}

/* The length of the line p[0..n), whose LF is at p[n], without its CR. */
static inline size_t without_cr(const char *p, size_t n) {
    return n > 0 && p[n - 1] == '\r' ? n - 1 : n;
}

/* --- what is kept -------------------------------------------------------- */

static size_t kept_len(const cl_cursor *cursor) {
    return cursor->kept ? cursor->kept->len : 0;
}

static void drop_kept(cl_cursor *cursor) {
    free(cursor->kept);
    cursor->kept = NULL;
    cursor->pending = 0;
}

/* Leave nothing in the buffer. */
static void empty_buffer(cl_log *log) {
    log->back = log->at = log->to;
}

/* Append the input from input[from] on to what is kept for the reader, and
 * empty the buffer. Returns CL_OK or CL_NOMEM. O(bytes), amortised. */
static int keep_from(cl_log *log, size_t from) {
    cl_cursor *cursor = log->reader;
    size_t len = log->to - from, need = kept_len(cursor) + len;
    cl_kept *kept = cursor->kept;

    if (len > 0 && (!kept || need > kept->room)) {
        /* Half as much again is allocated, so that a line that comes in many
         * pieces is not copied for each of them. */
        kept = realloc(kept, sizeof *kept + need + need / 2);
        if (!kept)
            return CL_NOMEM;
        kept->len = need - len;
        kept->room = need + need / 2;
        kept->at = 0;
        cursor->kept = kept;
    }
    if (len > 0) {
        memcpy(kept->data + kept->len, log->input + from, len);
        kept->len = need;
    }
    empty_buffer(log);
    return CL_OK;
}

/* Move the rest of the reader's input, with the line that may be put back,
 * into memory of its own, so that others can use the buffer. Returns CL_OK or
 * CL_NOMEM. O(bytes). */
static int stash(cl_log *log) {
    cl_cursor *cursor = log->reader;
    size_t line = log->at - log->back;

    if (log->back != log->to) {
        if (keep_from(log, log->back) != CL_OK)
            return CL_NOMEM;
        cursor->kept->at = line;
        cursor->pending = 1;
    }
    log->reader = NULL;
    return CL_OK;
}

/* Load the buffer with this cursor's input. Returns CL_OK, or CL_NOMEM if the
 * input of another cursor that is in it cannot be kept. O(bytes that are
 * moved). */
static int own_buffer(cl_log *log, cl_cursor *cursor) {
    const cl_kept *kept = cursor->kept;

    if (log->reader == cursor)
        return CL_OK;
    if (log->reader && stash(log) != CL_OK)
        return CL_NOMEM;
    log->reader = cursor;
    if (!cursor->pending)
        return CL_OK;
    memcpy(log->input, kept->data, kept->len);
    log->back = 0;
    log->at = kept->at;
    log->to = kept->len;
    drop_kept(cursor);
    return CL_OK;
}

/* --- receiving ----------------------------------------------------------- */

/* Tell whether there is input of this cursor that is not used up. */
static int has_input(const cl_log *log, const cl_cursor *cursor) {
    if (log->reader == cursor)
        return log->back != log->to;
    return cursor->pending;
}

/* Make the bytes after the first max_line ones the input. An incomplete line
 * that was kept is put in front of them if they contain its end. */
static void set_input(cl_log *log, cl_cursor *cursor, size_t len) {
    log->back = log->at = log->max_line;
    log->to = log->at + len;
    if (cursor->ignored) {
        empty_buffer(log);
    } else if (cursor->kept && memchr(log->input + log->at, '\n', len)) {
        log->at -= cursor->kept->len;
        log->back = log->at;
        memcpy(log->input + log->at, cursor->kept->data, cursor->kept->len);
        drop_kept(cursor);
    }
}

/* The most bytes that a line of this cursor may have, LF included. O(1). */
size_t cl_longest_line(const cl_log *log, const cl_cursor *cursor) {
    if (cursor->stage != CL_FRESH || log->max_line < CL_FRESH_BYTES)
        return log->max_line;
    return CL_FRESH_BYTES;
}

/* Receive once, at most `size` bytes, for cl_line or cl_collect. Returns how
 * many bytes were received, 0 at the end of the stream, or -errno. It is
 * -EAGAIN also while earlier input of this cursor is not used up, which means
 * until cl_line has returned CL_OK. It is -ENOMEM if the input of another
 * cursor cannot be kept. O(bytes). */
int64_t cl_read(cl_log *log, cl_cursor *cursor, size_t size) {
    ssize_t n;

    if (has_input(log, cursor))
        return -EAGAIN;
    if (own_buffer(log, cursor) != CL_OK)
        return -ENOMEM;
    if (size > log->input_size)
        size = log->input_size;
    if (cursor->stage == CL_FRESH && size > CL_FRESH_BYTES - kept_len(cursor))
        size = CL_FRESH_BYTES - kept_len(cursor);
    do
        n = recv(cursor->fd, log->input + log->max_line, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    set_input(log, cursor, (size_t)n);
    return n;
}

/* Do the same as cl_read with bytes that the caller has received. Returns
 * CL_OK; CL_MISUSE if earlier input is not used up, or if there are more bytes
 * than one read may return; or CL_NOMEM. */
int cl_take(cl_log *log, cl_cursor *cursor, const char *data, size_t len) {
    if (has_input(log, cursor) || len > log->input_size)
        return CL_MISUSE;
    if (own_buffer(log, cursor) != CL_OK)
        return CL_NOMEM;
    memcpy(log->input + log->max_line, data, len);
    set_input(log, cursor, len);
    return CL_OK;
}

/* --- going through it ---------------------------------------------------- */

/* Process the input in the buffer up to the first line for the caller, and log
 * the commands of `member`, unless it is NULL. A line must have fewer than
 * `size` bytes before its LF. Returns the same as cl_line; log->at is then
 * after the input that was processed. */
static int feed(cl_log *log, cl_member *member, size_t size, cl_span *line) {
    const char *p = log->input + log->at, *lf;
    text_scan scan = {log->input + log->to, p, p};
    uint32_t rank = 0;
    stamp s = {{0}, 0, 0, 0};

    if (member) {
        rank = (uint32_t)cl_rank(log, member);
        stamp_set(&s, log->seq + 1, rank);
    }
    while ((lf = memchr(p, '\n', (size_t)(scan.end - p)))) {
        size_t n = (size_t)(lf - p);

        log->at = (size_t)(p - log->input);
        if (n >= size)
            return CL_LONG;
        n = without_cr(p, n);
        if (member && is_command(&scan, p, n)) {
            if (!put_command(log, &s, p + 4, n - 4))
                return CL_NOMEM;
            stamp_next(&s, log->seq + 1, rank);
        } else if (n > 0) {
            *line = (cl_span){p, n};
            log->back = log->at;
            log->at += (size_t)(lf - p) + 1;
            return CL_LINE;
        }
        p = lf + 1;
    }
    log->at = (size_t)(p - log->input);
    return CL_OK;
}

/* Process the input of a cursor. With `logs`, the valid CMD lines of an
 * attached member are logged as frames of its rank. Empty lines are skipped.
 * Returns CL_LINE with the first other line, without its CR and LF, which is
 * valid until the next call; CL_OK at the end of the input, with an incomplete
 * line kept for the next read; CL_LONG at a line that is too long, and in all
 * later calls until the cursor is ignored; CL_NOMEM, after which the call may
 * be repeated. O(bytes). */
int cl_line(cl_log *log, cl_cursor *cursor, int logs, cl_span *line) {
    size_t size = cl_longest_line(log, cursor);
    int status;

    if (log->reader != cursor) {
        if (!cursor->pending)
            return CL_OK;
        if (own_buffer(log, cursor) != CL_OK)
            return CL_NOMEM;
    }
    /* If a kept line was not put in front of the input, the input has no
     * LF. */
    status = cursor->kept ? CL_OK
                          : feed(log, logs ? cursor->member : NULL, size, line);
    if (status == CL_LINE)
        return status;
    log->back = log->at;
    if (status != CL_OK)
        return status;
    if (keep_from(log, log->at) != CL_OK)
        return CL_NOMEM;
    if (kept_len(cursor) < size)
        return CL_OK;
    log->reader = NULL;
    cursor->pending = 1;
    return CL_LONG;
}

/* Check data[0..len) as long as its lines are valid commands, or empty, and
 * have fewer than `size` bytes before their LF. Returns the length of these
 * lines, and in *commands the length up to the end of the last command.
 * O(len). */
static size_t check_commands(const char *data, size_t len, size_t size,
                             size_t *commands) {
    const char *p = data, *lf;
    text_scan scan = {data + len, p, p};

    *commands = 0;
    while ((lf = memchr(p, '\n', (size_t)(scan.end - p)))) {
        size_t n = (size_t)(lf - p);

        if (n >= size)
            break;
        n = without_cr(p, n);
        if (n > 0 && !is_command(&scan, p, n))
            break;
        p = lf + 1;
        if (n > 0)
            *commands = (size_t)(p - data);
    }
    return (size_t)(p - data);
}

/* Take the valid CMD lines at the front of an attached member's input without
 * logging them, for cl_apply to log later. There may be empty lines among
 * them. Returns CL_OK with the lines, ends included, which are valid until the
 * next call; their length is 0 if the next line is another one, or if there is
 * none. Returns CL_NOMEM like cl_line. O(bytes). */
int cl_collect(cl_log *log, cl_cursor *cursor, cl_span *batch) {
    *batch = (cl_span){log->input, 0};
    if (!has_input(log, cursor))
        return CL_OK;
    if (own_buffer(log, cursor) != CL_OK)
        return CL_NOMEM;
    log->back = log->at; /* the last line can no longer be put back */
    /* An incomplete line that is kept does not end in this input either. */
    if (!cursor->member || cursor->kept)
        return CL_OK;
    batch->data = log->input + log->at;
    check_commands(batch->data, log->to - log->at, log->max_line, &batch->len);
    log->at += batch->len;
    log->back = log->at;
    return CL_OK;
}

/* Put back the line that cl_line returned last for this cursor, whatever was
 * called for other cursors since. After the next cl_line or cl_collect, the
 * line can no longer be put back. O(1). Cannot fail. */
void cl_unread(cl_log *log, cl_cursor *cursor) {
    if (log->reader == cursor)
        log->at = log->back;
    else if (cursor->pending)
        cursor->kept->at = 0;
}

/* Move the rest of the cursor's input into its own memory now, so that if
 * there is none, this cursor fails and not the one that is read next. Returns
 * CL_OK or CL_NOMEM. O(bytes). */
int cl_keep(cl_log *log, cl_cursor *cursor) {
    return log->reader == cursor ? stash(log) : CL_OK;
}

/* Discard the rest of the cursor's input, and all that it receives from now
 * on. O(1). Cannot fail. */
void cl_ignore(cl_log *log, cl_cursor *cursor) {
    if (log->reader == cursor) {
        empty_buffer(log);
        log->reader = NULL;
    }
    drop_kept(cursor);
    cursor->ignored = 1;
}

/* --- a batch ------------------------------------------------------------- */

/* Count the blocks that the commands of a checked batch need beyond the last
 * one, if they are logged under this rank now. */
static size_t blocks_needed(const cl_log *log, uint32_t rank, const char *p,
                            const char *end) {
    size_t used = log->last->used, blocks = 0;
    uint64_t seq = log->seq + 1;
    stamp s;

    stamp_set(&s, seq, rank);
    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        size_t n = without_cr(p, (size_t)(lf - p));

        p = lf + 1;
        if (n == 0)
            continue;
        if (log->block_size - used < CL_STAMP_BYTES + n - 4 + 1) {
            blocks++;
            used = 0;
        }
        used += s.len + n - 4 + 1;
        stamp_next(&s, ++seq, rank);
    }
    return blocks;
}

/* Log the commands of a checked batch. The caller has made room. */
static void log_commands(cl_log *log, uint32_t rank, const char *p,
                         const char *end) {
    stamp s;

    stamp_set(&s, log->seq + 1, rank);
    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        size_t n = without_cr(p, (size_t)(lf - p));

        if (n > 0) {
            put_command(log, &s, p + 4, n - 4);
            stamp_next(&s, log->seq + 1, rank);
        }
        p = lf + 1;
    }
}

/* Log a batch of valid CMD lines, as cl_collect returns them, for a member
 * with or without a cursor. The log becomes the same, byte for byte, as if
 * cl_line had logged them. Returns CL_OK; CL_MISUSE if a line is not a valid
 * command or the last one has no end; CL_NOMEM. O(len). */
int cl_apply(cl_log *log, cl_member *member, const char *data, size_t len) {
    const char *end = data + len;
    size_t commands;
    uint32_t rank;

    if (check_commands(data, len, log->max_line, &commands) != len)
        return CL_MISUSE;
    rank = (uint32_t)cl_rank(log, member);
    if (cl_make_spares(log, blocks_needed(log, rank, data, end)) != CL_OK)
        return CL_NOMEM;
    log_commands(log, rank, data, end);
    return CL_OK;
}

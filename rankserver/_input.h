/* What clients send: received, cut into lines, checked, stamped and logged.
 * Part of _clist.c, whose structures it works on: it is included at the end
 * of that, and nowhere else. See _clist.h for the picture of the input. */
#include "_text.h"

/* Tell whether the bytes keep the text rule. O(len). */
int cl_text_ok(const char *data, size_t len) {
    return text_ok(data, len);
}

/* The bytes before a command's text, for the next frame of one sender. The
 * last digit of seq is apart, and set in the log: if it were counted up in
 * `text`, each copy of that would wait for the store before it. */
typedef struct stamp {
    char text[CL_STAMP_BYTES];
    size_t len;
    size_t last; /* where the last digit belongs */
    char digit;
} stamp;

/* Write a number in decimal. Returns the place behind it. */
static char *put_number(char *to, uint64_t number) {
    char digits[20];
    size_t n = sizeof digits;

    do
        digits[--n] = (char)('0' + number % 10);
    while (number /= 10);
    memcpy(to, digits + n, sizeof digits - n);
    return to + (sizeof digits - n);
}

/* Begin with this seq. It is done by hand because it is done for each read,
 * and printf is a lot of code to fetch for a command that comes alone. */
static void stamp_set(stamp *s, uint64_t seq, int64_t rank) {
    char *to = put_number(s->text + 4, seq);

    memcpy(s->text, "CMD ", 4);
    s->last = (size_t)(to - s->text) - 1;
    s->digit = s->text[s->last];
    *to++ = ' ';
    to = put_number(to, (uint64_t)rank);
    *to++ = ' ';
    s->len = (size_t)(to - s->text);
}

/* Count the seq in the stamp up by one; `seq` is what it becomes. */
static void stamp_next(stamp *s, uint64_t seq, int64_t rank) {
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

/* Append one command under the stamp. Returns 0 without memory. */
static int put_command(cl_log *log, const stamp *s, const char *text,
                       size_t len) {
    /* A whole stamp is copied, which the compiler does in a few moves. */
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
static int is_command(text_scan *scan, const char *p, size_t n) {
    return n > 4 && memcmp(p, "CMD ", 4) == 0 && text_line_ok(scan, p, n);
}

/* Go through the input, up to the first line that is for the caller, and log
 * the commands of a ranked client, unless they are on hold. Lines may have
 * less than `most` bytes before their LF. Returns as cl_line; log->at is
 * behind what is done. */
static int feed(cl_log *log, cl_client *client, size_t most, cl_span *line) {
    const char *p = log->input + log->at, *lf;
    text_scan scan = {log->input + log->to, p, p};
    int64_t rank = cl_rank(log, client);
    stamp s = {{0}, 0, 0, 0};
    int logs = client->ranked && !log->on_hold;

    if (logs)
        stamp_set(&s, log->seq + 1, rank);
    while ((lf = memchr(p, '\n', (size_t)(scan.end - p)))) {
        size_t n = (size_t)(lf - p);

        log->at = (size_t)(p - log->input);
        if (n >= most)
            return CL_LONG;
        if (n > 0 && p[n - 1] == '\r')
            n--;
        if (logs && is_command(&scan, p, n)) {
            if (!put_command(log, &s, p + 4, n - 4))
                return CL_NOMEM;
            stamp_next(&s, log->seq + 1, rank);
        } else if (n > 0) {
            *line = (cl_span){p, n};
            log->line_at = log->at;
            log->at += (size_t)(lf - p) + 1;
            return CL_LINE;
        }
        p = lf + 1;
    }
    log->at = (size_t)(p - log->input);
    return CL_OK;
}

/* Keep what is left of the input behind what is kept already. Returns CL_OK,
 * or CL_NOMEM. O(bytes), amortised. */
static int keep_rest(cl_log *log, cl_client *client) {
    size_t len = log->to - log->at, need = client->kept_len + len;

    if (need > client->kept_room) {
        /* Half as much again, so that a line in many pieces is not copied
         * for each of them. */
        char *kept = realloc(client->kept, need + need / 2);

        if (!kept)
            return CL_NOMEM;
        client->kept = kept;
        client->kept_room = need + need / 2;
    }
    if (len > 0)
        memcpy(client->kept + client->kept_len, log->input + log->at, len);
    client->kept_len = need;
    log->at = log->to;
    return CL_OK;
}

static void drop_kept(cl_client *client) {
    free(client->kept);
    client->kept = NULL;
    client->kept_len = client->kept_room = 0;
}

/* Put what is kept in front of the input, where there is room for it. */
static void prepend_kept(cl_log *log, cl_client *client) {
    if (client->kept_len == 0)
        return;
    log->at -= client->kept_len;
    memcpy(log->input + log->at, client->kept, client->kept_len);
    drop_kept(client);
}

/* Make the bytes behind the first max_line the input, which are the client's;
 * the line that it has begun comes first if its end is there. */
static void set_input(cl_log *log, cl_client *client, size_t len) {
    log->reader = client;
    log->at = log->max_line;
    log->to = log->at + len;
    if (client->kept_len && client->kept_len < log->max_line &&
        memchr(log->input + log->at, '\n', len))
        prepend_kept(log, client);
}

/* The bytes that a line of this client may have, LF included. O(1). */
size_t cl_longest_line(const cl_log *log, const cl_client *client) {
    if (client->joined || log->max_line < CL_UNJOINED_BYTES)
        return log->max_line;
    return CL_UNJOINED_BYTES;
}

/* Receive once, at most `most` bytes, as the input that cl_line goes through;
 * the end of the input before must have been seen. Returns how many bytes
 * that is, 0 at the end of the stream, or -errno; -EAGAIN also while
 * something is set aside. O(bytes, and those of a line that is begun). */
int64_t cl_read(cl_log *log, cl_client *client, size_t most) {
    ssize_t n;

    if (client->aside)
        return -EAGAIN;
    if (most > log->input_size)
        most = log->input_size;
    if (!client->joined && most > CL_UNJOINED_BYTES - client->kept_len)
        most = CL_UNJOINED_BYTES - client->kept_len;
    do
        n = recv(client->fd, log->input + log->max_line, most, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    set_input(log, client, (size_t)n);
    return n;
}

/* As cl_read, for bytes that the caller has received: the end of the input
 * before must have been seen. Returns CL_OK, or CL_MISUSE while something is
 * set aside and for more than one read's. */
int cl_take(cl_log *log, cl_client *client, const char *data, size_t len) {
    if (client->aside || len > log->input_size)
        return CL_MISUSE;
    memcpy(log->input + log->max_line, data, len);
    set_input(log, client, len);
    return CL_OK;
}

/* Go through the input of the client that was read last. The valid CMD lines
 * of a ranked client are logged as frames of its rank, unless commands are on
 * hold; empty lines are skipped. Returns CL_LINE with the first other line,
 * without its CR and LF: valid until the next call, which goes on behind it;
 * CL_OK at the end, where the beginning of a line is kept for the next read;
 * CL_LONG at a line that is too long, after which the client is to be ignored;
 * and CL_NOMEM, after which the same call may be tried again. O(bytes). */
int cl_line(cl_log *log, cl_client *client, cl_span *line) {
    size_t most = cl_longest_line(log, client);
    int status;

    if (log->reader != client || client->aside || client->ignored)
        return CL_OK;
    if (client->kept_len >= most)
        return CL_LONG; /* was so before, and is not kept on */
    /* Where the line that is begun was not put in front, it goes on here. */
    status = client->kept_len ? CL_OK : feed(log, client, most, line);
    if (status == CL_OK)
        status = keep_rest(log, client);
    if (status == CL_OK && client->kept_len >= most)
        return CL_LONG;
    return status;
}

/* Let the line that cl_line returned last, which must be its last answer, be
 * the next again. O(1). Cannot fail. */
void cl_unread(cl_log *log) {
    log->at = log->line_at;
}

/* Keep what is left of the input until cl_resume. Returns CL_OK, or CL_NOMEM.
 * O(bytes). */
int cl_set_aside(cl_log *log, cl_client *client) {
    int status = CL_OK;

    if (log->reader == client && !client->ignored &&
        client->kept_len < log->max_line) /* no line that is too long */
        status = keep_rest(log, client);
    if (status == CL_OK)
        client->aside = client->kept_len > 0;
    return status;
}

/* Make what was set aside the input again; the end of the input before must
 * have been seen. Cannot fail. O(bytes). */
void cl_resume(cl_log *log, cl_client *client) {
    log->reader = client;
    log->at = log->to = client->kept_len;
    prepend_kept(log, client);
    client->aside = 0;
}

/* Throw away what is kept of a client's input and all that comes. O(1). */
void cl_ignore(cl_log *log, cl_client *client) {
    if (log->reader == client)
        log->reader = NULL;
    drop_kept(client);
    client->aside = 0;
    client->ignored = 1;
}

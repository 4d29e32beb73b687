/* A grammar fuzzer of the core's input path, from cl_read and cl_take to the
 * log.
 *
 * Each input is a stream of bytes that more or less looks like the lines of a
 * client. It is fed in three ways: whole; in pieces, received by the core or
 * handed to it, with another cursor's input in between, lines that are put
 * back, and commands that are collected first and applied later; and to the
 * reference. The lines returned and the frames logged must be the same in all
 * three. */
#include "fuzz.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The most bytes in one input, not counting its last line. */
#define MAX_INPUT 150000

/* The descriptors of the cursor that is fed, and of another. */
enum { FED, OTHER };

static text input, whole, pieces, simple;

/* --- the grammar --------------------------------------------------------- */

static const char *const verbs[] = {
    "CMD",  "CMD", "CMD", "CMD", "ASK",  "RES 1 ok", "HELLO", "WHO",
    "PING", "BYE", "cmd", "CM",  "CMDX", "",         "PONG",
    "\xEF\xBB\xBF" "CMD",
};
static const char *const gaps[] = {
    " ", " ", " ", " ", "", "\t", "  ", "\r", "\xC2\xA0",
};
static const char *const ends[] = {
    "\n", "\n", "\n", "\n", "\r\n", "\n\n", "\r\r\n", "\n\r\n",
};
static const char *const odd[] = {
    /* valid */
    "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF",
    /* too long for the character, a surrogate, too large, cut off */
    "\xC0\xAF", "\xE0\x80\xAF", "\xF0\x80\x80\xAF", "\xED\xA0\x80",
    "\xF4\x90\x80\x80", "\x80", "\xC3", "\xE2\x82", "\xF0\x9F\x98", "\xFF",
    "\xFE",
    /* around the controls, and the ends of ranges */
    "\xC2\x80", "\xC2\x9F", "\xC2\xA0", "\x1B[2J", "\x7F", "\x01", "\t", "\r",
    "\x1F", " ", "\xEF\xBF\xBF", "\xED\x9F\xBF", "\xEE\x80\x80",
};

static void add_line(size_t max_line) {
    size_t start = input.len;

    say(&input, PICK(verbs));
    say(&input, PICK(gaps));
    for (uint64_t parts = chance(4); parts; parts--) {
        add_run(&input, chance(12));
        if (chance(3) == 0)
            say(&input, PICK(odd));
        if (chance(40) == 0)
            add(&input, "\0", 1);
    }
    if (chance(12) == 0) { /* about as long as a line may be */
        size_t due = max_line + chance(5) - 3, len = input.len - start;

        if (due > len)
            add_run(&input, due - len);
    }
    if (chance(60)) /* else the line goes on */
        say(&input, PICK(ends));
}

/* Mostly short lines, so that most inputs are short; but a line may have
 * 65,536 bytes by default, and no more before its sender has joined. */
static size_t pick_max_line(void) {
    static const size_t small[] = {16, 64, 256, 300, 5000};
    static const size_t large[] = {65536, 65537, 70000};

    return chance(50) ? PICK(small) : PICK(large);
}

static terms make_input(void) {
    static const uint64_t seqs[] = {
        0, 0, 0, 7, 98, 999999999, INT64_MAX - 2, UINT64_MAX / 2,
        UINT64_C(9999999999999999998),
    };
    static const size_t ranks[] = {0, 0, 0, 1, 9, 10, 99, 1000};
    terms t = {pick_max_line(), PICK(seqs), PICK(ranks), 0,
               SIZE_MAX, SIZE_MAX, SIZE_MAX};

    if (chance(4000) == 0)
        t.rank = 123456;
    if (chance(3) == 0)
        t.join = chance(3) ? chance(4) : SIZE_MAX;
    if (chance(3) == 0) {
        t.pause = chance(4);
        t.resume = t.pause + chance(4);
    }
    if (chance(12) == 0)
        t.ignore = chance(6);
    input.len = 0;
    for (uint64_t n = 1 + chance(8); n && input.len < MAX_INPUT; n--)
        add_line(t.max_line);
    if (chance(4) == 0)
        input.len -= chance(input.len < 9 ? input.len + 1 : 9);
    return t;
}

/* --- the core ------------------------------------------------------------ */

typedef struct side {
    const terms *t;
    text *to;
    cl_log *log;
    cl_member *member; /* NULL until the cursor's line to join has come */
    cl_cursor *cursor, *other;
    size_t lines;
} side;

/* Do what comes after the number of lines so far: join, and ignore. */
static void count_lines(side *s) {
    if (s->lines == s->t->join) {
        s->member = cl_join(s->log, UINT64_MAX, 0);
        if (cl_attach(s->log, s->cursor, s->member, s->t->seq) != CL_OK)
            say(s->to, "not attached");
    }
    if (s->lines == s->t->ignore)
        cl_ignore(s->log, s->cursor);
}

static side begin(const terms *t, text *to, int external) {
    side s = {t, to, cl_new(256, t->max_line, input.len + 16), NULL, NULL, NULL,
              0};

    to->len = 0;
    continue_after(s.log, t->seq);
    for (size_t rank = 0; rank < t->rank; rank++)
        cl_join(s.log, rank, 0);
    s.cursor = cl_open(s.log, FED, external);
    s.other = cl_open(s.log, OTHER, 1);
    count_lines(&s);
    return s;
}

static void add_result(text *to, const char *data, size_t len) {
    say(to, "line ");
    add(to, data, len);
    say(to, "\n");
}

/* Append the log to the lines that were returned, and free everything. */
static void end(side *s) {
    cl_span spans[8];
    size_t n;

    while (s->member && (n = cl_peek(s->log, s->cursor, spans, 8))) {
        size_t sent = 0;

        for (size_t i = 0; i < n; i++) {
            add(s->to, spans[i].data, spans[i].len);
            sent += spans[i].len;
        }
        cl_advance(s->log, s->cursor, sent);
    }
    if (cl_check(s->log))
        say(s->to, "an invariant is broken");
    cl_free(s->log);
}

/* Feed something to another cursor, and check that it is read. */
static void hear_another(side *s) {
    cl_span line;

    if (cl_take(s->log, s->other, "CMD x\nCMD", 9) != CL_OK ||
        cl_line(s->log, s->other, 1, &line) != CL_LINE || line.len != 5)
        say(s->to, "another client is not heard");
    if (chance(2)) /* else its input is left in the buffer */
        while (cl_line(s->log, s->other, 1, &line) == CL_LINE)
            ;
    if (chance(4) == 0)
        cl_keep(s->log, s->cursor);
}

/* Replace the other cursor with a new one. */
static void forget_another(side *s) {
    cl_close(s->log, s->other);
    s->other = cl_open(s->log, OTHER, 1);
}

/* Collect the commands at the front, and log them as a batch. */
static void log_batch(side *s) {
    cl_span batch;
    char *copy; /* allocated, so that the sanitizer sees a read beyond it */

    if (cl_collect(s->log, s->cursor, &batch) != CL_OK)
        say(s->to, "not collected");
    if (batch.len == 0)
        return;
    copy = malloc(batch.len);
    memcpy(copy, batch.data, batch.len);
    if (chance(3) == 0)
        hear_another(s);
    if (cl_apply(s->log, s->member, copy, batch.len - 1) != CL_MISUSE ||
        cl_apply(s->log, s->member, copy, batch.len) != CL_OK)
        say(s->to, "not applied");
    forget_another(s);
    free(copy);
}

/* Note a line that is too long, after which no more input counts. */
static void note_long(side *s) {
    cl_span line;

    say(s->to, "too long\n");
    if (cl_line(s->log, s->cursor, 1, &line) != CL_LONG)
        say(s->to, "not too long any more");
    cl_ignore(s->log, s->cursor);
    if (cl_line(s->log, s->cursor, 1, &line) != CL_OK)
        say(s->to, "not ignored");
}

/* Process what was received; with `restless`, other things happen in between.
 * Returns 0 if a line is too long. */
static int go_through(side *s, int restless) {
    cl_span line;
    int status;

    for (;;) {
        int logs = s->lines < s->t->pause || s->lines >= s->t->resume, unreads;

        if (restless && logs && chance(3) == 0)
            log_batch(s);
        status = cl_line(s->log, s->cursor, logs, &line);
        if (status != CL_LINE)
            break;
        unreads = restless && chance(8) == 0;
        if (!unreads)
            add_result(s->to, line.data, line.len);
        if (restless && chance(4) == 0) {
            hear_another(s);
            forget_another(s);
        }
        if (unreads) {
            cl_unread(s->log, s->cursor);
        } else {
            s->lines++;
            count_lines(s);
        }
    }
    if (status == CL_LONG)
        note_long(s);
    return status == CL_OK;
}

/* Hand over one piece. */
static void take_piece(side *s, const char *data, size_t len) {
    /* allocated, so that the sanitizer sees a read beyond it */
    char *piece = malloc(len);

    memcpy(piece, data, len);
    if (cl_take(s->log, s->cursor, piece, len) != CL_OK)
        say(s->to, "not taken");
    free(piece);
}

static void feed_whole(const terms *t) {
    side s = begin(t, &whole, 1);

    if (cl_take(s.log, s.cursor, input.data, input.len) != CL_OK)
        say(&whole, "not taken");
    go_through(&s, 0);
    end(&s);
}

/* The most bytes in one piece: a few, but not so few that a long input takes
 * long. */
static size_t pick_piece(void) {
    return (chance(2) ? 1 : 1 + chance(60)) * (1 + input.len / 600);
}

static void feed_in_pieces(const terms *t) {
    side s = begin(t, &pieces, 1);
    size_t at = 0, most = pick_piece();

    while (at < input.len) {
        size_t n = 1 + chance(most);

        if (n > input.len - at)
            n = input.len - at;
        take_piece(&s, input.data + at, n);
        at += n;
        if (!go_through(&s, 1))
            break;
    }
    end(&s);
}

/* Let the core receive the input itself. */
static void feed_by_reading(const terms *t) {
    side s = begin(t, &pieces, 0);
    size_t most = pick_piece();

    reset_peer(FED);
    add(&peers[FED].sent, input.data, input.len);
    peers[FED].has_ended = 1;
    for (;;) {
        int64_t n = cl_read(s.log, s.cursor, 1 + chance(most));

        if (n == 0 || (n > 0 && !go_through(&s, 1)))
            break;
        if (n < 0 && n != -EAGAIN)
            say(&pieces, "not received");
    }
    end(&s);
}

/* ------------------------------------------------------------------------- */

int fuzz_input(int shown, uint64_t *bytes) {
    terms t = make_input();
    int holds;

    simple.len = 0;
    feed_whole(&t);
    if (chance(2))
        feed_in_pieces(&t);
    else
        feed_by_reading(&t);
    feed_reference(&t, &input, &simple);
    *bytes += input.len;
    holds = same(&whole, &pieces) && same(&whole, &simple);
    if (holds && !shown)
        return 1;
    printf("max_line %zu, after %" PRIu64 ", rank %zu, joins at %zu, pauses"
           " from %zu to %zu, ignored from %zu\n",
           t.max_line, t.seq, t.rank, t.join, t.pause, t.resume, t.ignore);
    show("input", &input);
    show("whole", &whole);
    show("pieces", &pieces);
    show("reference", &simple);
    return holds;
}

/* A grammar fuzzer of the core's input path, from cl_take to the log.
 *
 *   input COUNT SEED          fuzz this many inputs
 *   input 1 SEED NUMBER       only this one, and print it as hex
 *
 * Each input is a stream of bytes that more or less looks like the lines of a
 * client. It is fed in three ways: whole; in pieces, with another cursor's
 * input in between, lines that are put back, and commands that are collected
 * first and applied later; and to a reference that is too simple to be wrong.
 * The lines returned and the frames logged must be the same in all three.
 * fuzz/__main__.py builds it with AddressSanitizer and
 * UndefinedBehaviorSanitizer. */
#include "_clist.c"
#include "_log.c"
#include "_input.c"
#include "_output.c"
#include "_text.c"
#include "_check.c"

#include <inttypes.h>
#include <time.h>

/* The most bytes in one input. What becomes of it may be a few times longer. */
#define MAX_INPUT 40000

typedef struct text {
    size_t len;
    char data[4 * MAX_INPUT];
} text;

/* How an input is fed. Commands are returned as lines instead of being logged
 * after `pause` lines were returned, until `resume` were. */
typedef struct terms {
    size_t max_line;
    int joined;
    size_t pause, resume;
} terms;

static uint64_t state;
static text input, whole, pieces, simple;

static uint64_t chance(uint64_t of) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % of;
}

static void add(text *to, const void *data, size_t len) {
    if (len > sizeof to->data - to->len)
        abort(); /* MAX_INPUT is too small */
    memcpy(to->data + to->len, data, len);
    to->len += len;
}

static void say(text *to, const char *word) {
    add(to, word, strlen(word));
}

/* --- the grammar --------------------------------------------------------- */

static const char *const verbs[] = {"CMD", "CMD", "CMD", "CMD", "ASK", "RES 1 ok", "HELLO", "WHO", "PING",
                                    "BYE", "cmd", "CM", "CMDX", "", "PONG", "\xEF\xBB\xBF" "CMD"};
static const char *const gaps[] = {" ", " ", " ", " ", "", "\t", "  ", "\r", "\xC2\xA0"};
static const char *const ends[] = {"\n", "\n", "\n", "\n", "\r\n", "\n\n", "\r\r\n", "\n\r\n"};
static const char *const odd[] = {
    "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF", /* valid */
    "\xC0\xAF", "\xE0\x80\xAF", "\xF0\x80\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80",
    "\xC3", "\xE2\x82", "\xF0\x9F\x98", "\xFF", "\xFE", "\xC2\x80", "\xC2\x9F", "\xC2\xA0",
    "\x1B[2J", "\x7F", "\x01", "\t", "\r", "\x1F", " ", "\xEF\xBF\xBF", "\xED\x9F\xBF", "\xEE\x80\x80",
};

#define PICK(list) list[chance(sizeof list / sizeof *list)]

static void add_run(size_t len) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz {}\"~";
    char run[256];

    while (len) {
        size_t n = len < sizeof run ? len : sizeof run;

        memset(run, letters[chance(sizeof letters - 1)], n);
        add(&input, run, n);
        len -= n;
    }
}

static void add_line(size_t max_line) {
    size_t start = input.len;

    say(&input, PICK(verbs));
    say(&input, PICK(gaps));
    for (uint64_t parts = chance(4); parts; parts--) {
        add_run(chance(12));
        if (chance(3) == 0)
            say(&input, PICK(odd));
        if (chance(40) == 0)
            add(&input, "\0", 1);
    }
    if (chance(12) == 0) { /* about as long as a line may be */
        size_t due = max_line + chance(5) - 3, len = input.len - start;

        if (due > len)
            add_run(due - len);
    }
    if (chance(60)) /* else the line goes on */
        say(&input, PICK(ends));
}

static terms make_input(void) {
    static const size_t most[] = {16, 64, 256, 300, 256, 300, 5000};
    terms t = {PICK(most), chance(5) > 0, 0, 0};

    input.len = 0;
    for (uint64_t lines = 1 + chance(8); lines && input.len < MAX_INPUT / 2 - 6000; lines--)
        add_line(t.max_line);
    if (chance(4) == 0)
        input.len -= chance(input.len < 9 ? input.len + 1 : 9);
    t.pause = chance(3) ? SIZE_MAX : chance(4);
    t.resume = t.pause == SIZE_MAX ? SIZE_MAX : t.pause + chance(4);
    return t;
}

/* --- the core ------------------------------------------------------------ */

typedef struct side {
    cl_log *log;
    cl_member *member;
    cl_cursor *cursor, *other;
    size_t lines;
} side;

static side begin(const terms *t) {
    side s = {cl_new(256, t->max_line, MAX_INPUT), NULL, NULL, NULL, 0};

    s.cursor = cl_open(s.log, -1, 1);
    s.other = cl_open(s.log, -1, 1);
    if (t->joined) {
        s.member = cl_join(s.log, 1, 0);
        cl_attach(s.log, s.cursor, s.member, 0);
    }
    return s;
}

static void add_result(text *to, const char *data, size_t len) {
    say(to, "line ");
    add(to, data, len);
    say(to, "\n");
}

/* Append the log to the lines that were returned, and free everything. */
static void end(side *s, text *to) {
    cl_span spans[8];
    size_t n;

    while (s->member && (n = cl_peek(s->log, s->cursor, spans, 8))) {
        size_t sent = 0;

        for (size_t i = 0; i < n; i++) {
            add(to, spans[i].data, spans[i].len);
            sent += spans[i].len;
        }
        cl_advance(s->log, s->cursor, sent);
    }
    if (cl_check(s->log))
        say(to, "an invariant is broken");
    cl_free(s->log);
}

/* Feed something to another cursor, and check that it is read. */
static void hear_another(side *s, text *to) {
    cl_span line;

    if (cl_take(s->log, s->other, "CMD x\nCMD", 9) != CL_OK ||
        cl_line(s->log, s->other, 1, &line) != CL_LINE || line.len != 5)
        say(to, "another client is not heard");
    if (chance(2)) /* else its input is left in the buffer */
        while (cl_line(s->log, s->other, 1, &line) == CL_LINE)
            ;
    if (chance(4) == 0)
        cl_keep(s->log, s->cursor);
}

/* Replace the other cursor with a new one. */
static void forget_another(side *s) {
    cl_close(s->log, s->other);
    s->other = cl_open(s->log, -1, 1);
}

/* Collect the commands at the front, and log them as a batch. */
static void log_batch(side *s, text *to) {
    cl_span batch;
    char *copy; /* allocated, so that the sanitizer sees a read beyond it */

    if (cl_collect(s->log, s->cursor, &batch) != CL_OK)
        say(to, "not collected");
    if (batch.len == 0)
        return;
    copy = malloc(batch.len);
    memcpy(copy, batch.data, batch.len);
    if (chance(3) == 0)
        hear_another(s, to);
    if (cl_apply(s->log, s->member, copy, batch.len - 1) != CL_MISUSE ||
        cl_apply(s->log, s->member, copy, batch.len) != CL_OK)
        say(to, "not applied");
    forget_another(s);
    free(copy);
}

/* Process what was taken; with `restless`, other things happen in between.
 * Returns 0 if a line is too long. */
static int go_through(side *s, const terms *t, text *to, int restless) {
    cl_span line;
    int status;

    for (;;) {
        int logs = s->lines < t->pause || s->lines >= t->resume, unreads;

        if (restless && logs && chance(3) == 0)
            log_batch(s, to);
        status = cl_line(s->log, s->cursor, logs, &line);
        if (status != CL_LINE)
            break;
        unreads = restless && chance(8) == 0;
        if (!unreads) {
            s->lines++;
            add_result(to, line.data, line.len);
        }
        if (restless && chance(4) == 0) {
            hear_another(s, to);
            forget_another(s);
        }
        if (unreads)
            cl_unread(s->log, s->cursor);
    }
    if (status == CL_LONG)
        say(to, "too long\n");
    return status == CL_OK;
}

static void feed_whole(const terms *t) {
    side s = begin(t);

    whole.len = 0;
    if (cl_take(s.log, s.cursor, input.data, input.len) != CL_OK)
        say(&whole, "not taken");
    go_through(&s, t, &whole, 0);
    end(&s, &whole);
}

static void feed_in_pieces(const terms *t) {
    side s = begin(t);
    size_t at = 0, most = chance(2) ? 1 : 1 + chance(60);

    if (input.len > 3000)
        most *= 50;
    pieces.len = 0;
    while (at < input.len) {
        size_t n = 1 + chance(most);
        char *piece;

        if (n > input.len - at)
            n = input.len - at;
        piece = malloc(n); /* allocated, so that the sanitizer sees a read beyond it */
        memcpy(piece, input.data + at, n);
        if (cl_take(s.log, s.cursor, piece, n) != CL_OK)
            say(&pieces, "not taken");
        free(piece);
        at += n;
        if (!go_through(&s, t, &pieces, 1))
            break;
    }
    end(&s, &pieces);
}

/* --- the reference ------------------------------------------------------- */

static void feed_reference(const terms *t) {
    static text logged;
    size_t at = 0, lines = 0, seq = 0;

    simple.len = logged.len = 0;
    while (at < input.len) {
        const char *p = input.data + at, *lf = memchr(p, '\n', input.len - at);
        size_t n = lf ? (size_t)(lf - p) : input.len - at;
        char stamp[40];

        if (n >= t->max_line) {
            say(&simple, "too long\n");
            break;
        }
        if (!lf)
            break;
        at += n + 1;
        if (n && p[n - 1] == '\r')
            n--;
        if (t->joined && !(lines >= t->pause && lines < t->resume) && n > 4 && !memcmp(p, "CMD ", 4) &&
            cl_text_ok(p, n)) {
            snprintf(stamp, sizeof stamp, "CMD %zu 0 ", ++seq);
            say(&logged, stamp);
            add(&logged, p + 4, n - 4);
            say(&logged, "\n");
        } else if (n) {
            lines++;
            add_result(&simple, p, n);
        }
    }
    add(&simple, logged.data, logged.len);
}

/* ------------------------------------------------------------------------- */

static int same(const text *one, const text *other) {
    return one->len == other->len && !memcmp(one->data, other->data, one->len);
}

static void show(const char *name, const text *what) {
    printf("%s: ", name);
    for (size_t i = 0; i < what->len; i++)
        printf("%02x", (unsigned char)what->data[i]);
    printf("\n");
}

static int fuzz(uint64_t seed, uint64_t number, int shown) {
    terms t;

    state = (seed * UINT64_C(0x9E3779B97F4A7C15)) ^ (number * UINT64_C(0xD1342543DE82EF95) + 1);
    for (int i = 0; i < 4; i++)
        chance(2);
    t = make_input();
    feed_whole(&t);
    feed_in_pieces(&t);
    feed_reference(&t);
    if (same(&whole, &pieces) && same(&whole, &simple) && !shown)
        return 1;
    printf("input %" PRIu64 " of seed %" PRIu64 ", max_line %zu, joined %d\n", number, seed, t.max_line, t.joined);
    show("input", &input);
    show("whole", &whole);
    show("pieces", &pieces);
    show("reference", &simple);
    return same(&whole, &pieces) && same(&whole, &simple);
}

int main(int argc, char **argv) {
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, bytes = 0;
    clock_t start = clock();
    double seconds;

    if (argc > 3)
        return !fuzz(seed, strtoull(argv[3], NULL, 10), 1);
    for (uint64_t number = 0; number < count; number++) {
        if (!fuzz(seed, number, 0))
            return 1;
        bytes += input.len;
    }
    seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("core's input: %" PRIu64 " inputs, %" PRIu64 " bytes in %.1f seconds of CPU (%.0f inputs/s)\n", count,
           bytes, seconds, (double)count / (seconds > 0.001 ? seconds : 0.001));
    return 0;
}

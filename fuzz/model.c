/* A model of what the core sends: members in a plain array, the log as one
 * text, and for each cursor the whole text that it must be sent. After each
 * call, all that the core says and has sent must agree with it. */
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

cl_log *log_;
stream streams[MAX_STREAMS];
member members[MAX_MEMBERS];
size_t member_count;
text logged;
uint64_t first_seq, seq, published;
size_t block_size;
const char *wrong;

static text ends; /* uint64_t for each frame: the position after it */

void expect(int holds, const char *what) {
    if (!holds && !wrong)
        wrong = what;
}

/* --- the model ----------------------------------------------------------- */

size_t max_of(size_t one, size_t other) {
    return one > other ? one : other;
}

/* The position after frame `number`. */
uint64_t end_of(uint64_t number) {
    uint64_t end = 0;

    if (number > first_seq)
        memcpy(&end, ends.data + (number - first_seq - 1) * sizeof end,
               sizeof end);
    return end;
}

int keeps_log(const stream *s) {
    size_t at = s->got;

    if (s->stage == ATTACHED)
        return !s->is_muted;
    while (at < s->due.len && !s->kinds.data[at])
        at++;
    return s->stage == DETACHED && at < s->due.len;
}

/* How far into the log a stream is. */
uint64_t position(const stream *s) {
    uint64_t at = s->start;

    for (size_t i = 0; i < s->got; i++)
        at += (uint64_t)s->kinds.data[i];
    return at;
}

/* Where a stream's part of the log ends for now. */
uint64_t stream_end(const stream *s) {
    if (s->stage == ATTACHED)
        return s->is_muted ? position(s) : logged.len;
    return s->stage == DETACHED ? s->limit : 0;
}

void add_due(stream *s, const char *data, size_t len, uint64_t place,
                    int is_log) {
    char kind = (char)is_log;

    add(&s->due, data, len);
    for (size_t i = 0; i < len; i++) {
        place += (uint64_t)is_log;
        add(&s->places, &place, sizeof place);
        add(&s->kinds, &kind, 1);
    }
}

static uint64_t place_of(const stream *s, size_t at) {
    uint64_t place;

    memcpy(&place, s->places.data + at * sizeof place, sizeof place);
    return place;
}

/* How many bytes a stream may have been sent by now. */
size_t sendable(const stream *s) {
    size_t at = s->got;

    while (at < s->due.len &&
           (s->is_retained || place_of(s, at) <= published))
        at++;
    return at;
}

/* Forget what is due after the first `len` bytes. The rest of what is due
 * counts as private, and is due at `place`. */
void shorten(stream *s, size_t len, uint64_t place) {
    s->due.len = s->kinds.len = len;
    s->places.len = len * sizeof place;
    for (size_t at = s->got; at < len; at++) {
        s->kinds.data[at] = 0;
        memcpy(s->places.data + at * sizeof place, &place, sizeof place);
    }
}

size_t queued(const stream *s) {
    size_t count = 0;

    for (size_t at = s->got; at < s->due.len; at++)
        count += !s->kinds.data[at];
    return count;
}

void end_stream(stream *s, uint64_t limit) {
    for (size_t i = 0; i < member_count; i++)
        if (members[i].stream == s - streams)
            members[i].stream = -1;
    if (s->stage == ATTACHED)
        s->limit = s->is_muted ? position(s) : limit;
    s->stage = DETACHED;
}

/* Log a frame, whose text is `len` bytes. */
void log_frame(const char *verb, const char *data, size_t len) {
    char stamp[64];
    size_t from = logged.len;
    uint64_t end;

    snprintf(stamp, sizeof stamp, "%s %" PRIu64 " ", verb, ++seq);
    say(&logged, stamp);
    add(&logged, data, len);
    say(&logged, "\n");
    end = logged.len;
    add(&ends, &end, sizeof end);
    for (stream *s = streams; s < streams + MAX_STREAMS; s++)
        if (s->stage == ATTACHED && !s->is_muted)
            add_due(s, logged.data + from, logged.len - from, from, 1);
}

void log_command(size_t rank, const char *command, size_t len) {
    text line = {NULL, 0, 0};
    char number[32];

    snprintf(number, sizeof number, "%zu ", rank);
    say(&line, number);
    add(&line, command, len);
    log_frame("CMD", line.data, line.len);
    drop(&line);
}

/* --- what the core must agree with --------------------------------------- */

/* Count what a stream was sent, and compare it with what was due. */
void take_sent(stream *s, const char *data, size_t len) {
    expect(len <= sendable(s) - s->got, "more is sent than may be");
    if (!wrong)
        expect(!memcmp(s->due.data + s->got, data, len), "it is sent otherwise");
    if (!wrong)
        s->got += len;
}

void check_stream(stream *s) {
    const peer *p = &peers[s - streams];

    if (p->got.len > s->taken)
        take_sent(s, p->got.data + s->taken, p->got.len - s->taken);
    s->taken = p->got.len;
    expect(cl_lag(log_, s->cursor) == s->due.len - s->got, "cl_lag");
    expect(cl_queued(s->cursor) == queued(s), "cl_queued");
    expect(cl_sent(s->cursor) == s->start + s->got, "cl_sent");
}

static void check_members(void) {
    uint64_t ids[MAX_MEMBERS];

    expect(cl_count(log_) == member_count, "cl_count");
    expect(cl_members(log_, ids, MAX_MEMBERS) == member_count, "cl_members");
    for (size_t rank = 0; rank < member_count && !wrong; rank++)
        expect(ids[rank] == members[rank].id, "the order of members");
    if (member_count) {
        size_t rank = chance(member_count);

        expect(cl_rank(log_, members[rank].core) == (int64_t)rank, "cl_rank");
    }
}

/* Check which cursors are said to be behind, and how much is kept. */
static void check_kept(void) {
    uint64_t size = chance(3 * block_size), most = 0;
    int fds[MAX_STREAMS], is_behind[MAX_STREAMS] = {0};
    size_t n = cl_behind(log_, size, fds, MAX_STREAMS);

    for (size_t i = 0; i < n; i++) {
        expect(fds[i] >= 0 && !is_behind[fds[i]], "cl_behind");
        is_behind[fds[i] < 0 ? 0 : fds[i]] = 1;
    }
    for (stream *s = streams; s < streams + MAX_STREAMS; s++) {
        uint64_t kept = keeps_log(s) ? logged.len - position(s) : 0;

        most = max_of(most, kept);
        expect(is_behind[s - streams] == (kept > size && !s->is_retained),
               "who is behind");
    }
    expect(cl_held(log_) >= most && cl_held(log_) <= most + block_size,
           "cl_held");
}

void check(void) {
    for (stream *s = streams; s < streams + MAX_STREAMS; s++)
        if (s->stage != UNUSED)
            check_stream(s);
    check_members();
    check_kept();
    expect(cl_seq(log_) == seq && cl_end(log_) == logged.len, "the log's end");
    expect(!cl_check(log_), "an invariant of the core");
}

/* Begin with an empty log, whose first frame has the number after `after`. */
void begin_model(uint64_t after, size_t block, size_t max_line) {
    block_size = block;
    first_seq = seq = after;
    published = UINT64_MAX;
    logged.len = ends.len = member_count = 0;
    memset(members, 0, sizeof members);
    for (stream *s = streams; s < streams + MAX_STREAMS; s++) {
        s->stage = UNUSED;
        s->due.len = s->got = 0;
    }
    wrong = NULL;
    log_ = cl_new(block, max_line, 8 * max_line);
    continue_after(log_, after);
}

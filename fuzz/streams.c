/* A fuzzer of what the core sends: ranks, the log, private frames, and how
 * cursors begin and end. Each input is a series of random calls on one log,
 * with a model that follows them. */
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The most calls in one input. */
#define MAX_CALLS 250
/* The most bytes by which a frame may exceed max_line. */
#define FRAME_SLACK 256

static size_t max_line;
static text calls; /* what was called, for a person */

static void note(const char *call, uint64_t a, uint64_t b) {
    char line[80];

    snprintf(line, sizeof line, "%s %" PRIu64 " %" PRIu64 "\n", call, a, b);
    say(&calls, line);
}

/* --- calls about members and cursors ------------------------------------- */

static stream *any_stream(void) {
    stream *s = &streams[chance(MAX_STREAMS)];

    return s->stage == UNUSED ? NULL : s;
}

static member *any_member(void) {
    return member_count ? &members[chance(member_count)] : NULL;
}

static void call_join(void) {
    static uint64_t next_id;
    uint32_t rank_class = (uint32_t)chance(3);
    size_t rank = member_count;

    if (member_count == MAX_MEMBERS)
        return;
    while (rank && members[rank - 1].rank_class > rank_class)
        rank--;
    memmove(members + rank + 1, members + rank,
            (member_count - rank) * sizeof *members);
    members[rank] = (member){cl_join(log_, ++next_id, rank_class), next_id,
                             rank_class, -1};
    member_count++;
    note("join", next_id, rank_class);
}

static void call_leave(void) {
    member *m = any_member();

    if (!m)
        return;
    note("leave", m->id, 0);
    cl_leave(log_, m->core);
    if (m->stream >= 0)
        end_stream(&streams[m->stream], logged.len);
    member_count--;
    memmove(m, m + 1, (size_t)(members + member_count - m) * sizeof *m);
}

static stream *new_stream(void) {
    for (stream *s = streams; s < streams + MAX_STREAMS; s++) {
        if (s->stage != UNUSED)
            continue;
        s->stage = FRESH;
        s->is_retained = s->is_muted = s->is_ignored = 0;
        s->start = s->limit = s->got = s->taken = 0;
        s->due.len = s->places.len = s->kinds.len = 0;
        reset_peer((int)(s - streams));
        return s;
    }
    return NULL;
}

static void call_open(void) {
    stream *s = new_stream();

    if (!s)
        return;
    s->is_external = chance(4) == 0;
    s->cursor = cl_open(log_, (int)(s - streams), s->is_external);
    note("open", (uint64_t)(s - streams), (uint64_t)s->is_external);
}

static void call_retain(void) {
    stream *s = chance(3) ? NULL : new_stream();

    if (!s)
        return;
    s->is_external = s->is_retained = 1;
    s->stage = ATTACHED;
    s->start = logged.len;
    s->cursor = cl_retain(log_);
    note("retain", (uint64_t)(s - streams), 0);
}

/* Tell whether the frames after `number` are kept for some cursor. */
static int is_kept(uint64_t number) {
    if (number == seq)
        return 1;
    for (const stream *s = streams; s < streams + MAX_STREAMS; s++)
        if (number >= first_seq && keeps_log(s) &&
            position(s) <= end_of(number))
            return 1;
    return 0;
}

/* A number of a frame, mostly one of the last. */
static uint64_t any_seq(void) {
    uint64_t back = chance(3) ? chance(4) : chance(200);

    if (chance(9) == 0)
        return seq + 1;
    return back < seq ? seq - back : seq;
}

static void call_attach(void) {
    stream *s = any_stream();
    member *m = chance(3) ? any_member() : NULL;
    uint64_t after = chance(2) ? seq : any_seq();
    int status;

    if (!s)
        return;
    note("attach", (uint64_t)(s - streams), after);
    status = cl_attach(log_, s->cursor, m ? m->core : NULL, after);
    if (s->stage != FRESH || (m && m->stream >= 0) || after > seq) {
        expect(status == CL_MISUSE, "cl_attach is misused");
        return;
    }
    expect(status == CL_OK || (status == CL_GONE && !is_kept(after)),
           "cl_attach");
    if (status != CL_OK)
        return;
    s->stage = ATTACHED;
    s->start = end_of(after);
    shorten(s, s->due.len, s->start);
    if (!s->is_muted)
        add_due(s, logged.data + s->start, logged.len - s->start, s->start, 1);
    if (m)
        m->stream = (int)(s - streams);
}

static void call_detach(void) {
    stream *s = any_stream();
    int is_attached = s && s->stage == ATTACHED;

    if (!s || chance(2))
        return;
    note("detach", (uint64_t)(s - streams), 0);
    expect(cl_detach(log_, s->cursor) == (is_attached ? CL_OK : CL_MISUSE),
           "cl_detach");
    if (is_attached)
        end_stream(s, logged.len);
}

/* Where the frame ends of which a part was sent; `got` if there is none. */
static size_t begun_to(const stream *s) {
    size_t at = s->got;

    if (at == 0 || s->due.data[at - 1] == '\n')
        return at;
    while (s->due.data[at++] != '\n')
        ;
    return at;
}

static void call_cut(void) {
    stream *s = any_stream();
    size_t rest;
    uint64_t place;

    if (!s || s->is_retained || s->is_muted)
        return;
    note("cut", (uint64_t)(s - streams), s->got);
    cl_cut(log_, s->cursor);
    rest = begun_to(s);
    place = position(s);
    shorten(s, rest, place);
    if (s->stage == FRESH)
        return;
    end_stream(s, place);
    s->limit = place;
}

static void call_mute(void) {
    stream *s = any_stream();

    if (!s || s->is_retained || chance(6))
        return;
    note("mute", (uint64_t)(s - streams), 0);
    cl_mute(log_, s->cursor);
    shorten(s, s->got, 0);
    s->is_muted = 1;
    s->limit = position(s);
}

static void call_close(void) {
    stream *s = any_stream();

    if (!s || chance(3))
        return;
    note("close", (uint64_t)(s - streams), 0);
    cl_close(log_, s->cursor);
    end_stream(s, 0);
    s->stage = UNUSED;
    s->due.len = s->got = 0;
}

/* --- calls that log and queue -------------------------------------------- */

/* A frame's text, mostly a short one. */
static text any_text(size_t most) {
    static text made;

    made.len = 0;
    add_run(&made, 1 + chance(chance(4) ? 20 : most));
    return made;
}

static void call_append(void) {
    text what = any_text(max_line + FRAME_SLACK - 64);
    const char *verb = chance(2) ? "JOIN" : "LEFT";

    note("append", seq + 1, what.len);
    if (chance(2))
        expect(cl_reserve(log_, what.len) == CL_OK, "cl_reserve");
    expect(cl_append(log_, verb, what.data, what.len) == (int64_t)(seq + 1),
           "cl_append");
    log_frame(verb, what.data, what.len);
}

static void call_private(void) {
    stream *s = any_stream();
    text what = any_text(chance(9) ? 200 : 6000);

    if (!s || s->is_retained)
        return;
    what.data[what.len - 1] = '\n';
    note("private", (uint64_t)(s - streams), what.len);
    expect(cl_private(log_, s->cursor, "", 0) == CL_MISUSE, "an empty frame");
    if (!s->is_muted)
        add_due(s, what.data, what.len, stream_end(s), 0);
    expect(cl_private(log_, s->cursor, what.data, what.len) ==
               (int64_t)queued(s),
           "cl_private");
}

/* Log some commands of a member as a batch. */
static void call_apply(void) {
    member *m = any_member();
    text batch = {NULL, 0, 0};

    if (!m)
        return;
    for (uint64_t count = 1 + chance(4); count; count--) {
        text what = any_text(max_line - 6);

        say(&batch, "CMD ");
        add(&batch, what.data, what.len);
        say(&batch, chance(4) ? "\n" : "\r\n\n");
        log_command((size_t)(m - members), what.data, what.len);
    }
    note("apply", m->id, batch.len);
    expect(cl_apply(log_, m->core, batch.data, batch.len) == CL_OK, "cl_apply");
    drop(&batch);
}

/* The rank of a stream's member; SIZE_MAX if it has none. */
static size_t rank_of(const stream *s) {
    for (size_t rank = 0; rank < member_count; rank++)
        if (members[rank].stream == s - streams)
            return rank;
    return SIZE_MAX;
}

/* Hand over lines of a client to its cursor; commands of members are logged,
 * other lines must be returned. */
static void call_take(void) {
    stream *s = any_stream();
    text lines = {NULL, 0, 0}, due = {NULL, 0, 0}, got = {NULL, 0, 0};
    cl_span line;

    if (!s || s->is_retained)
        return;
    for (uint64_t count = 1 + chance(4); count; count--) {
        text what = any_text(max_line - 6);
        int is_command = chance(4) > 0;

        say(&lines, is_command ? "CMD " : "WHO ");
        add(&lines, what.data, what.len);
        say(&lines, "\n");
        if (s->is_ignored)
            continue;
        if (is_command && rank_of(s) != SIZE_MAX)
            log_command(rank_of(s), what.data, what.len);
        else
            add(&due, lines.data + lines.len - what.len - 5, what.len + 5);
    }
    note("take", (uint64_t)(s - streams), lines.len);
    expect(cl_take(log_, s->cursor, lines.data, lines.len) == CL_OK, "cl_take");
    while (cl_line(log_, s->cursor, 1, &line) == CL_LINE) {
        add(&got, line.data, line.len);
        say(&got, "\n");
    }
    expect(same(&got, &due), "the lines that are returned");
    if (chance(30) == 0) {
        cl_ignore(log_, s->cursor);
        s->is_ignored = 1;
    }
    drop(&lines);
    drop(&due);
    drop(&got);
}

/* --- calls that send ----------------------------------------------------- */

static void call_publish(void) {
    uint64_t number = any_seq(), end = UINT64_MAX;

    if (chance(2))
        return;
    if (chance(2) && number <= seq)
        end = end_of(number);
    note("publish", end, 0);
    cl_publish(log_, end);
    published = end;
}

/* Let peers take more, or let one break. */
static void call_kernel(void) {
    peer *p = &peers[chance(MAX_STREAMS)];

    p->room += chance(3) ? chance(100) : chance(9000);
    p->is_broken |= chance(60) == 0;
}

/* Do what the server does with a cursor that cannot be written. */
static void mute_broken(stream *s) {
    check_stream(s);
    cl_mute(log_, s->cursor);
    shorten(s, s->got, 0);
    s->is_muted = 1;
    s->limit = position(s);
}

static void call_flush(void) {
    stream *s = any_stream();
    int status;

    if (!s || s->is_external)
        return;
    note("flush", (uint64_t)(s - streams), 0);
    status = cl_flush(log_, s->cursor);
    check_stream(s);
    if (s->is_muted || status == CL_BROKEN) {
        expect(status == CL_BROKEN, "a muted cursor is flushed");
        mute_broken(s);
        return;
    }
    expect(status == (s->got == sendable(s) ? CL_OK : CL_BLOCKED), "cl_flush");
    expect(cl_is_blocked(s->cursor) == (status == CL_BLOCKED), "cl_is_blocked");
}

static void call_flush_all(void) {
    int fds[MAX_STREAMS], stops[MAX_STREAMS] = {0}, waits[MAX_STREAMS] = {0};
    size_t n;

    for (stream *s = streams; s < streams + MAX_STREAMS; s++)
        waits[s - streams] =
            s->stage != ATTACHED || s->is_external || cl_is_blocked(s->cursor);
    note("flush_all", 0, 0);
    n = cl_flush_all(log_, fds, MAX_STREAMS);
    expect(cl_unflushed(log_) == 0, "cl_unflushed");
    for (size_t i = 0; i < n; i++) {
        stream *s = &streams[fds[i] < 0 ? ~fds[i] : fds[i]];

        expect(!stops[s - streams]++, "a cursor is named twice");
        expect(fds[i] < 0 || cl_is_blocked(s->cursor), "it is not blocked");
        if (fds[i] < 0)
            mute_broken(s);
    }
    for (stream *s = streams; s < streams + MAX_STREAMS; s++) {
        if (waits[s - streams] || s->stage != ATTACHED)
            continue;
        check_stream(s);
        expect(stops[s - streams] || s->got == sendable(s), "cl_flush_all");
    }
}

/* Read a cursor that the core does not write to. */
static void call_peek(void) {
    cl_span spans[5];
    stream *s = any_stream();
    size_t n, room = 1 + chance(5), sent = 0, most = chance(3000);

    if (!s || !s->is_external)
        return;
    note("peek", (uint64_t)(s - streams), most);
    n = cl_peek(log_, s->cursor, spans, room);
    expect(n > 0 || s->got == sendable(s), "nothing to peek at");
    for (size_t i = 0; i < n && sent < most && !wrong; i++) {
        size_t len = spans[i].len < most - sent ? spans[i].len : most - sent;

        take_sent(s, spans[i].data, len);
        sent += len;
    }
    cl_advance(log_, s->cursor, sent);
}

static void call_find(void) {
    uint64_t number = any_seq(), found = 0;
    int status = cl_find(log_, number, &found);

    note("find", number, 0);
    if (number > seq) {
        expect(status == CL_MISUSE, "a frame that is not there is found");
        return;
    }
    expect(status == CL_OK || !is_kept(number), "a frame is not found");
    expect(status != CL_OK || found == end_of(number), "cl_find");
}

/* ------------------------------------------------------------------------- */

static void (*const all_calls[])(void) = {
    call_join,    call_leave,   call_open,      call_open,    call_retain,
    call_attach,  call_attach,  call_attach,    call_attach,  call_detach,
    call_cut,     call_cut,     call_mute,      call_close,   call_append,
    call_append,  call_private, call_private,   call_private, call_apply,
    call_take,    call_take,    call_publish,   call_kernel,  call_kernel,
    call_kernel,  call_kernel,  call_flush,     call_flush,   call_flush,
    call_peek,    call_peek,    call_flush_all, call_find,    call_flush_all,
};

static void begin(void) {
    static const uint64_t seqs[] = {0, 0, 6, 97, INT64_MAX - 40};
    static const size_t lines[] = {64, 256, 300};
    uint64_t after = PICK(seqs);

    max_line = PICK(lines);
    begin_model(after, max_of(400 * chance(3), max_line + FRAME_SLACK),
                max_line);
    calls.len = 0;
}

int fuzz_streams(int shown, uint64_t *bytes) {
    begin();
    for (uint64_t n = 1 + chance(MAX_CALLS); n && !wrong; n--) {
        PICK(all_calls)();
        if (!wrong)
            check();
    }
    *bytes += logged.len;
    cl_free(log_);
    if (wrong || shown)
        printf("max_line %zu, blocks of %zu\n%.*s%s\n", max_line, block_size,
               (int)calls.len, calls.data, wrong ? wrong : "all holds");
    return !wrong;
}

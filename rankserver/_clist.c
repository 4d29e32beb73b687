/* The ranked list: members and their ranks, and how logs and cursors are made
 * and freed. See _core.h for the picture and the invariants. */
#include "_core.h"

#include <stdlib.h>
#include <string.h>

/* Bytes that a frame may have beyond max_line (protocol: Lines). */
#define CL_FRAME_SLACK 256

/* --- lists --------------------------------------------------------------- */

/* Insert after `prev`, or at the head if it is NULL. O(1). Cannot fail. */
static void insert_member(cl_members_list *list, cl_member *prev,
                          cl_member *member) {
    member->prev = prev;
    member->next = prev ? prev->next : list->head;
    if (member->next)
        member->next->prev = member;
    else
        list->tail = member;
    if (prev)
        prev->next = member;
    else
        list->head = member;
    list->len++;
}

/* Remove from the list. O(1). Cannot fail. */
static void remove_member(cl_members_list *list, cl_member *member) {
    if (member->prev)
        member->prev->next = member->next;
    else
        list->head = member->next;
    if (member->next)
        member->next->prev = member->prev;
    else
        list->tail = member->prev;
    list->len--;
}

/* Append to the list. O(1). Cannot fail. */
static void append_cursor(cl_cursor_list *list, cl_cursor *cursor) {
    cursor->prev = list->tail;
    cursor->next = NULL;
    if (list->tail)
        list->tail->next = cursor;
    else
        list->head = cursor;
    list->tail = cursor;
    list->len++;
}

/* Remove from the list. O(1). Cannot fail. */
static void remove_cursor(cl_cursor_list *list, cl_cursor *cursor) {
    if (cursor->prev)
        cursor->prev->next = cursor->next;
    else
        list->head = cursor->next;
    if (cursor->next)
        cursor->next->prev = cursor->prev;
    else
        list->tail = cursor->prev;
    cursor->prev = cursor->next = NULL;
    list->len--;
}

/* --- life of a log ------------------------------------------------------- */

/* Make an empty log for lines of at most max_line bytes. Its blocks have at
 * least block_size bytes, and it reads at most input_size bytes at once.
 * Returns NULL if there is no memory. */
cl_log *cl_new(size_t block_size, size_t max_line, size_t input_size) {
    cl_log *log = calloc(1, sizeof *log);
    size_t least = max_line + CL_FRAME_SLACK;

    if (!log)
        return NULL;
    log->block_size = block_size > least ? block_size : least;
    log->max_line = max_line;
    log->input_size = input_size;
    log->published = UINT64_MAX;
    log->numbered = 1;
    log->input = malloc(max_line + input_size);
    log->first = log->last = cl_take_block(log, 0);
    log->spare = cl_take_block(log, 0);
    if (!log->input || !log->last || !log->spare) {
        free(log->input);
        free(log->last);
        free(log->spare);
        free(log);
        return NULL;
    }
    log->spares = 1;
    log->last->start = 0;
    log->last->first_seq = 1;
    return log;
}

static void free_blocks(cl_block *block) {
    while (block) {
        cl_block *next = block->next;

        free(block);
        block = next;
    }
}

/* Free the log with all its members and cursors; NULL is allowed. Cannot
 * fail. */
void cl_free(cl_log *log) {
    if (!log)
        return;
    while (log->members.head)
        cl_leave(log, log->members.head);
    while (log->followers.head)
        cl_close(log, log->followers.head);
    while (log->others.head)
        cl_close(log, log->others.head);
    free_blocks(log->first);
    free_blocks(log->spare);
    free(log->input);
    free(log);
}

/* --- members ------------------------------------------------------------- */

/* Add a member with the lowest rank in its class, and without a cursor. The id
 * is chosen by the caller. Returns NULL if there is no memory. O(members in
 * classes that rank below). */
cl_member *cl_join(cl_log *log, uint64_t id, uint32_t rank_class) {
    cl_member *member = malloc(sizeof *member), *prev = log->members.tail;

    if (!member)
        return NULL;
    while (prev && prev->rank_class > rank_class)
        prev = prev->prev;
    insert_member(&log->members, prev, member);
    if (member != log->members.tail)
        log->numbered = 0;
    member->cursor = NULL;
    member->id = id;
    member->rank = (uint32_t)log->members.len - 1;
    member->rank_class = rank_class;
    return member;
}

/* Remove a member from the ranks and free it; its cursor is detached. O(1).
 * Cannot fail. */
void cl_leave(cl_log *log, cl_member *member) {
    if (member->cursor)
        cl_detach(log, member->cursor);
    if (member != log->members.tail)
        log->numbered = 0;
    remove_member(&log->members, member);
    free(member);
}

/* The number of members. */
size_t cl_count(const cl_log *log) {
    return log->members.len;
}

/* Assign all ranks unless they are right already. O(n) after a change, else
 * O(1). */
static void number_ranks(cl_log *log) {
    uint32_t rank = 0;

    if (log->numbered)
        return;
    for (cl_member *m = log->members.head; m; m = m->next)
        m->rank = rank++;
    log->numbered = 1;
}

/* A member's rank, 0 for the highest. O(n) after a change in the middle of the
 * list, else O(1). */
int64_t cl_rank(cl_log *log, cl_member *member) {
    number_ranks(log);
    return member->rank;
}

/* Write the ids of all members, by rank. Returns how many, at most `room`.
 * O(n). */
size_t cl_members(const cl_log *log, uint64_t *ids, size_t room) {
    size_t n = 0;

    for (const cl_member *m = log->members.head; m && n < room; m = m->next)
        ids[n++] = m->id;
    return n;
}

/* --- cursors ------------------------------------------------------------- */

/* Make a cursor that reads and writes fd. Until it is attached, it is sent
 * only private frames. If it is `external`, the caller reads and writes, with
 * cl_take, cl_peek and cl_advance. Returns NULL if there is no memory.
 * O(1). */
cl_cursor *cl_open(cl_log *log, int fd, int external) {
    cl_cursor *cursor = calloc(1, sizeof *cursor);

    if (!cursor)
        return NULL;
    cursor->fd = fd;
    cursor->external = external != 0;
    append_cursor(&log->others, cursor);
    return cursor;
}

/* Make a cursor that belongs to no client and keeps the log from its current
 * end on. It has no descriptor and is read with cl_peek and cl_advance. It
 * sees frames that are not published yet, and cl_behind never returns it.
 * Returns NULL if there is no memory. O(1). */
cl_cursor *cl_retain(cl_log *log) {
    cl_cursor *cursor = cl_open(log, -1, 1);

    if (!cursor)
        return NULL;
    cursor->retains = 1;
    cl_attach(log, cursor, NULL, log->seq);
    return cursor;
}

/* Release the log if the cursor has been sent all of its part. O(1). */
void cl_release_if_done(cl_log *log, cl_cursor *cursor) {
    if (cursor->block && cursor->pos == cursor->limit) {
        set_block(cursor, NULL);
        cl_trim(log);
    }
}

/* Send the cursor the frames after `seq`, following the private ones that are
 * queued already. With a member, the cursor's input is that member's; without
 * one, it follows the log and has no rank. Returns CL_OK; CL_MISUSE if it was
 * attached before, if the member has a cursor, or if there is no frame `seq`
 * yet; CL_GONE if the frames after `seq` are not all kept. O(queued private
 * frames), plus the cost of cl_find. */
int cl_attach(cl_log *log, cl_cursor *cursor, cl_member *member, uint64_t seq) {
    cl_block *block;
    uint64_t pos;
    int status;

    if (cursor->stage != CL_FRESH || (member && member->cursor))
        return CL_MISUSE;
    status = cl_locate(log, seq, &block, &pos);
    if (status != CL_OK)
        return status;
    remove_cursor(&log->others, cursor);
    cursor->stage = CL_ATTACHED;
    cursor->member = member;
    if (member)
        member->cursor = cursor;
    else
        append_cursor(&log->followers, cursor);
    cursor->pos = cursor->limit = pos;
    if (cursor->muted)
        return CL_OK;
    cursor->limit = UINT64_MAX;
    set_block(cursor, block);
    for (cl_frame *f = cursor->first; f; f = f->next)
        f->due = pos;
    return CL_OK;
}

/* Detach an attached cursor. Its part of the log ends at `limit`, unless it is
 * muted. */
static void detach_at(cl_log *log, cl_cursor *cursor, uint64_t limit) {
    if (cursor->member) {
        cursor->member->cursor = NULL;
        cursor->member = NULL;
    } else {
        remove_cursor(&log->followers, cursor);
    }
    append_cursor(&log->others, cursor);
    cursor->stage = CL_DETACHED;
    if (!cursor->muted)
        cursor->limit = limit;
}

/* Detach the cursor: it is still sent what is in the log now, and nothing
 * after that. The member keeps its rank, and may be given another cursor.
 * Returns CL_OK, or CL_MISUSE if the cursor is not attached. O(1). */
int cl_detach(cl_log *log, cl_cursor *cursor) {
    if (cursor->stage != CL_ATTACHED)
        return CL_MISUSE;
    detach_at(log, cursor, log_end(log));
    cl_release_if_done(log, cursor);
    return CL_OK;
}

/* The number of bytes missing from the line that has begun before data[at]; 0
 * if a line ends there. */
static size_t rest_of_line(const char *data, size_t at, size_t len) {
    const char *lf;

    if (at == 0 || data[at - 1] == '\n')
        return 0;
    lf = memchr(data + at, '\n', len - at);
    return (size_t)(lf - (data + at)) + 1;
}

/* Drop all private frames except for the rest of one that was sent in part. */
static void drop_frames_not_begun(cl_cursor *cursor) {
    cl_frame *begun = cursor->first;
    size_t rest = 0;

    if (begun)
        rest = rest_of_line(begun->data, begun->sent, begun->len);
    if (rest)
        cursor->first = begun->next;
    cl_drop_frames(cursor);
    if (!rest)
        return;
    begun->next = NULL;
    begun->len = begun->sent + rest;
    cursor->first = cursor->last = begun;
    cursor->private_bytes = rest;
}

/* Queue `rest` bytes of the log, from `data` on, as a private frame: the rest
 * of a frame that was sent in part. The byte before them is included as
 * already sent, so that the private frame counts as begun. Returns CL_OK or
 * CL_NOMEM. */
static int make_rest_private(cl_log *log, cl_cursor *cursor, const char *data,
                             size_t rest) {
    if (cl_private(log, cursor, data - 1, rest + 1) == CL_NOMEM)
        return CL_NOMEM;
    cursor->first->sent = 1;
    cursor->private_bytes = rest;
    return CL_OK;
}

/* Detach the cursor if it is attached, and drop its output except for the rest
 * of a frame that was sent in part. That rest is made private, so that nothing
 * of the log is kept for it; if there is no memory for that, its block is
 * kept. O(frame, and private frames). Cannot fail. */
void cl_cut(cl_log *log, cl_cursor *cursor) {
    const cl_block *block = cursor->block;
    const char *data = NULL;
    size_t rest = 0;

    drop_frames_not_begun(cursor);
    if (block && !cursor->first) {
        size_t at = (size_t)(cursor->pos - block->start);

        data = block->data + at;
        rest = rest_of_line(block->data, at, block->used);
    }
    if (cursor->stage == CL_ATTACHED)
        detach_at(log, cursor, cursor->pos);
    cursor->limit = cursor->pos;
    if (rest && make_rest_private(log, cursor, data, rest) == CL_NOMEM)
        cursor->limit += rest;
    cl_release_if_done(log, cursor);
}

/* Send nothing more to a cursor whose connection can no longer be written, and
 * keep nothing of the log for it. It stays attached, and its input still
 * counts. O(private frames). Cannot fail. */
void cl_mute(cl_log *log, cl_cursor *cursor) {
    cursor->muted = 1;
    cursor->blocked = 0;
    cursor->limit = cursor->pos;
    cl_drop_frames(cursor);
    set_block(cursor, NULL);
    cl_trim(log);
}

/* Free a cursor, attached or not. O(private frames). Cannot fail. */
void cl_close(cl_log *log, cl_cursor *cursor) {
    if (cursor->stage == CL_ATTACHED)
        detach_at(log, cursor, cursor->pos);
    remove_cursor(&log->others, cursor);
    set_block(cursor, NULL);
    cl_drop_frames(cursor);
    cl_ignore(log, cursor);
    free(cursor);
    cl_trim(log);
}

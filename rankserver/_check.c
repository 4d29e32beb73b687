/* Checks of the invariants in _core.h. */
#include "_core.h"

/* Invariants 1 to 3 for the members. Returns the broken one, or 0. */
static int check_members(const cl_log *log) {
    const cl_member *prev = NULL;
    size_t n = 0;

    for (const cl_member *m = log->members.head; m; prev = m, m = m->next) {
        const cl_cursor *c = m->cursor;

        if (m->prev != prev)
            return 1;
        if (c && (c->member != m || c->stage != CL_ATTACHED || c->prev ||
                  c->next))
            return 1;
        if (log->numbered && m->rank != n)
            return 3;
        if (prev && prev->rank_class > m->rank_class)
            return 3;
        if (++n > log->members.len)
            return 2;
    }
    if (log->members.tail != prev)
        return 1;
    return n == log->members.len ? 0 : 2;
}

/* Invariants 1 and 2 for one list of cursors. */
static int check_list(const cl_cursor_list *list, int attached) {
    const cl_cursor *prev = NULL;
    size_t n = 0;

    for (const cl_cursor *c = list->head; c; prev = c, c = c->next) {
        if (c->prev != prev || c->member)
            return 1;
        if ((c->stage == CL_ATTACHED) != attached)
            return 1;
        if (++n > list->len)
            return 2;
    }
    if (list->tail != prev)
        return 1;
    return n == list->len ? 0 : 2;
}

/* Count the frames in a block, each of which ends with an LF. */
static uint64_t count_frames(const cl_block *block) {
    uint64_t frames = 0;

    for (size_t i = 0; i < block->used; i++)
        frames += block->data[i] == '\n';
    return frames;
}

/* Invariant 4. */
static int check_blocks(const cl_log *log) {
    const cl_block *block = log->first;

    if (block->refs == 0 && block != log->last)
        return 4;
    for (;; block = block->next) {
        uint64_t next_seq = block->first_seq + count_frames(block);

        if (block->used > log->block_size)
            return 4;
        if (!block->next)
            return block == log->last && next_seq == log->seq + 1 ? 0 : 4;
        if (block->next->start != block_end(block) || block->used == 0 ||
            block->next->first_seq != next_seq)
            return 4;
    }
}

/* Invariant 5: count every cursor against its block. */
static int check_refs(const cl_log *log) {
    const cl_cursor_list *lists[] = {&log->followers, &log->others};

    for (const cl_block *block = log->first; block; block = block->next) {
        size_t refs = 0;

        for (const cl_member *m = log->members.head; m; m = m->next)
            refs += m->cursor && m->cursor->block == block;
        for (int i = 0; i < 2; i++)
            for (const cl_cursor *c = lists[i]->head; c; c = c->next)
                refs += c->block == block;
        if (refs != block->refs)
            return 5;
    }
    return 0;
}

/* Invariant 6 for one cursor. */
static int check_place(const cl_log *log, const cl_cursor *c) {
    if (c->pos > cursor_end(log, c))
        return 6;
    if ((c->block == NULL) != (c->pos == c->limit))
        return 6;
    if (c->muted && (c->block || c->first))
        return 6;
    if (c->stage == CL_ATTACHED && !c->muted && c->limit != UINT64_MAX)
        return 6;
    if (c->block && (c->pos < c->block->start || c->pos > block_end(c->block)))
        return 6;
    return 0;
}

/* Invariants 7 and 8 for one cursor. */
static int check_frames(const cl_log *log, const cl_cursor *c) {
    uint64_t end = cursor_end(log, c), due = c->pos;
    size_t bytes = 0;

    if (!c->first != !c->last)
        return 7;
    for (const cl_frame *f = c->first; f; f = f->next) {
        if (f->due < due || f->due > end || (!f->next && f != c->last))
            return 7;
        if (f->len > f->room || f->sent >= f->len)
            return 7;
        if (f->sent && (f != c->first || f->due != c->pos))
            return 8;
        due = f->due;
        bytes += f->len - f->sent;
    }
    return bytes == c->private_bytes ? 0 : 7;
}

/* Invariant 9 for one cursor. */
static int check_input(const cl_log *log, const cl_cursor *c) {
    const cl_kept *kept = c->kept;

    if (c->pending && (!kept || log->reader == c))
        return 9;
    if (c->ignored && (kept || (log->reader == c && log->back != log->to)))
        return 9;
    if (!kept)
        return 0;
    if (kept->len == 0 || kept->len > log->max_line + log->input_size)
        return 9;
    return kept->len <= kept->room && kept->at <= kept->len &&
                   (c->pending || kept->at == 0)
               ? 0
               : 9;
}

/* Invariants 6 to 9 for one cursor. */
static int check_cursor(const cl_log *log, const cl_cursor *cursor) {
    int broken = check_place(log, cursor);

    if (!broken)
        broken = check_frames(log, cursor);
    if (!broken)
        broken = check_input(log, cursor);
    return broken;
}

/* Invariant 9 for the buffer. */
static int check_buffer(const cl_log *log) {
    if (log->back > log->at || log->at > log->to ||
        log->to > log->max_line + log->input_size)
        return 9;
    return log->reader || log->back == log->to ? 0 : 9;
}

/* Check every invariant of _core.h. Returns 0, or the number of the first that
 * is broken. O(blocks x cursors): for tests. */
int cl_check(const cl_log *log) {
    const cl_cursor_list *lists[] = {&log->followers, &log->others};
    int broken = check_members(log);

    for (int i = 0; i < 2 && !broken; i++)
        broken = check_list(lists[i], lists[i] == &log->followers);
    if (!broken)
        broken = check_blocks(log);
    if (!broken)
        broken = check_refs(log);
    if (!broken)
        broken = check_buffer(log);
    for (const cl_member *m = log->members.head; m && !broken; m = m->next)
        if (m->cursor)
            broken = check_cursor(log, m->cursor);
    for (int i = 0; i < 2; i++)
        for (const cl_cursor *c = lists[i]->head; c && !broken; c = c->next)
            broken = check_cursor(log, c);
    return broken;
}

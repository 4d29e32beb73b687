/* The invariants of _clist.h, walked. Part of _clist.c, whose structures it
 * looks into: it is included at the end of that, and nowhere else. */

/* Invariants 1 to 3 for one list. Returns the broken one, or 0. */
static int check_list(const cl_log *log, const cl_list *list, int ranked) {
    const cl_client *prev = NULL;
    size_t n = 0;

    for (const cl_client *c = list->head; c; prev = c, c = c->next, n++) {
        if (c->prev != prev || c->ranked != ranked)
            return 1;
        if (ranked && log->numbered && c->rank != (int64_t)n)
            return 3;
        if (ranked && prev && prev->rank_class > c->rank_class)
            return 3;
        if (n > list->len)
            return 2;
    }
    if (list->tail != prev)
        return 1;
    return n == list->len ? 0 : 2;
}

/* Invariant 4. */
static int check_blocks(const cl_log *log) {
    const cl_block *block = log->first;

    if (block->refs == 0 && block != log->last)
        return 4;
    for (; block->next; block = block->next)
        if (block->next->start != block_end(block) || block->used == 0)
            return 4;
    return block == log->last && block->used <= log->block_size ? 0 : 4;
}

/* Invariant 5: count every cursor against its block. */
static int check_refs(const cl_log *log) {
    const cl_list *lists[] = {&log->ranked, &log->unranked};

    for (const cl_block *block = log->first; block; block = block->next) {
        size_t refs = 0;

        for (int i = 0; i < 2; i++)
            for (const cl_client *c = lists[i]->head; c; c = c->next)
                refs += c->block == block;
        if (refs != block->refs)
            return 5;
    }
    return 0;
}

/* Invariants 6 to 8 for one client. */
static int check_client(const cl_log *log, const cl_client *c) {
    uint64_t end = client_end(log, c), due = c->pos;
    size_t bytes = 0;

    if (c->pos > end || (c->block == NULL) != (c->pos == c->limit))
        return 6;
    if (c->muted ? c->block || c->first : c->ranked && !c->block)
        return 6;
    if (c->block && (c->pos < c->block->start || c->pos > block_end(c->block)))
        return 6;
    for (const cl_frame *f = c->first; f; f = f->next) {
        if (f->due < due || f->due > end || (!f->next && f != c->last))
            return 7;
        due = f->due;
        bytes += f->len;
    }
    if (!c->first && (c->last || c->first_sent))
        return 8;
    if (c->first_sent && (c->first_sent >= c->first->len ||
                          c->first->due != c->pos))
        return 8;
    return bytes - c->first_sent == c->private_bytes ? 0 : 7;
}

/* Invariant 9, for one list. */
static int check_input(const cl_log *log, const cl_list *list) {
    size_t room = log->max_line + log->input_size;

    if (log->at > log->to || log->to > room)
        return 9;
    for (const cl_client *c = list->head; c; c = c->next)
        if ((c->kept == NULL) != (c->kept_len == 0) || c->kept_len > room ||
            c->kept_len > c->kept_room || (c->aside && !c->kept) ||
            (c->ignored && c->kept))
            return 9;
    return 0;
}

/* Walk every invariant of _clist.h. Returns 0, or the number of the first that
 * is broken. O(blocks x clients): for tests. */
int cl_check(cl_log *log) {
    int broken = check_list(log, &log->ranked, 1);

    if (!broken)
        broken = check_list(log, &log->unranked, 0);
    if (!broken)
        broken = check_blocks(log);
    if (!broken)
        broken = check_refs(log);
    if (!broken)
        broken = check_input(log, &log->ranked);
    if (!broken)
        broken = check_input(log, &log->unranked);
    for (const cl_client *c = log->ranked.head; c && !broken; c = c->next)
        broken = check_client(log, c);
    for (const cl_client *c = log->unranked.head; c && !broken; c = c->next)
        broken = check_client(log, c);
    return broken;
}

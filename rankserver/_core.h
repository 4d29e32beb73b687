/* What the sources of the C core share: the structures, their invariants, and
 * helpers, some inlined for the loops over commands and cursors. Private to the
 * core; the public header is _clist.h.
 *
 *   members:    head                                  tail
 *               rank 0 <------> rank 1 <------> rank 2       in rank order
 *                 |                                |
 *               cursor         (no cursor)      cursor
 *                 |                                |
 *                 v                                v
 *   blocks:  [ block refs=1 ] ---------> [ block refs=3 ] ---> NULL
 *              first                       last (appended to)
 *                                             ^      ^
 *                                             |      |
 *   followers:                             cursor    |         without a rank
 *                                                    |
 *   others:                       cursor          cursor
 *                                 not attached    detached, but not done
 *
 * A cursor is a place in the log, (block, pos). A block is freed when no cursor
 * points into it or into one before it.
 *
 *   One cursor's stream, in the order in which it is sent:
 *
 *     log from pos ........ | private | log ...... | private, private | log
 *                           due                    due
 *
 * Ownership. A cl_log owns its blocks, its spare blocks, every member until it
 * leaves and every cursor until it is closed. A cl_cursor owns its private
 * frames and its kept input. Descriptors belong to the caller; the core only
 * reads and writes them.
 *
 * Positions count bytes since the log began, so they never repeat. Each frame
 * lies in a single block, and each block knows the seq of its first frame.
 *
 *     0 ....... first->start ......... published ............ end
 *       freed                 sent as cursors can take it      not sent yet
 *
 * A cursor's part of the log ends at its `limit`. That is UINT64_MAX while the
 * cursor is attached. A muted cursor, even if attached, is sent nothing more,
 * and its limit is where it is. No client is sent anything at or after
 * `published`, neither the log nor private frames that are due behind it. Only
 * a cursor that `retains` sees the log to its end: it belongs to no client, and
 * keeps the log from its place on.
 *
 * Input. The log has one buffer, a cache for the input of its `reader`:
 *
 *     max_line bytes        input_size bytes
 *   [     begun line ][ received by one read ......... ]
 *         ^ back   ^ at                    ^ to
 *
 * Input before `at` was processed. From `back` to `at` lies the line that was
 * handed to the caller last, which cl_unread can put back; the two are equal if
 * there is none. When another cursor needs the buffer, the input from `back` on
 * is moved into memory of the reader's own. This is its `kept` input, which is
 * then `pending`. Kept input that is not pending is an incomplete line. It is
 * copied in front of the read that brings its end.
 *
 * Invariants, all checked by cl_check:
 *   1. links agree in both directions, in all three lists; members and their
 *      cursors point at each other; a cursor is in the list of its stage;
 *   2. each list has as many elements as it says;
 *   3. classes ascend in member order; when ranks are numbered, they are
 *      0, 1, 2, ... in that order;
 *   4. blocks follow each other without a gap, in positions and in seqs, and
 *      only the last may be empty; the first is referenced, or it is the last;
 *   5. a block's refs are the number of cursors that point into it;
 *   6. a cursor's pos lies inside its block and not after its limit; it has a
 *      block if and only if its limit is ahead of its pos, which it always is
 *      while the cursor is attached and not muted;
 *   7. private frames are in ascending order of due, none before pos, none
 *      after the cursor's end, and their bytes add up;
 *   8. only the first private frame may be sent in part, and only where the
 *      log before it is sent;
 *   9. the rest of the input lies inside the buffer; the reader's input is not
 *      pending; pending input is kept; an ignored cursor has no input.
 */
#ifndef CORE_H
#define CORE_H

#include "_clist.h"

/* The number of spare blocks that commands and JOINs leave for cl_reserve, so
 * that a departure can be logged without allocating. */
#define CL_KEPT_BLOCKS 1

/* Bytes of a stamp: "CMD ", a seq, " ", a rank, " " take at most 4 + 20 + 1 +
 * 20 + 1 bytes. A round number makes the copy a few moves. */
#define CL_STAMP_BYTES 48

typedef struct cl_block {
    struct cl_block *next;
    uint64_t start;     /* position of data[0] in the log */
    uint64_t first_seq; /* of the frame at data[0], or of the one to come */
    size_t used;
    size_t refs;
    char data[];
} cl_block;

/* Private frames that are due at the same place. */
typedef struct cl_frame {
    struct cl_frame *next;
    uint64_t due; /* sent after the log before this position */
    size_t len, room;
    size_t sent; /* of `len`; only the first piece is sent in part */
    char data[];
} cl_frame;

/* Input that lies outside the buffer. */
typedef struct cl_kept {
    size_t len, room;
    size_t at; /* after the line that cl_unread can put back */
    char data[];
} cl_kept;

struct cl_member {
    cl_member *prev, *next;
    cl_cursor *cursor; /* NULL for none */
    uint64_t id;
    uint32_t rank; /* valid if the log's ranks are `numbered` */
    uint32_t rank_class;
};

/* A cursor passes through these stages in order. */
enum { CL_FRESH, CL_ATTACHED, CL_DETACHED };

struct cl_cursor {
    cl_cursor *prev, *next; /* in followers or others; NULL with a member */
    cl_member *member;
    cl_block *block; /* NULL when nothing of the log is left to send */
    uint64_t pos, limit;
    cl_frame *first, *last;
    size_t private_bytes;  /* bytes of private frames to be sent */
    uint64_t private_sent; /* bytes of private frames sent so far */
    cl_kept *kept;
    int fd;
    unsigned char stage;
    unsigned char blocked;
    unsigned char muted;    /* the connection can no longer be written */
    unsigned char external; /* read and written by the caller */
    unsigned char retains;  /* it sees the log beyond `published` */
    unsigned char pending;  /* the kept input is not processed */
    unsigned char ignored;
};

typedef struct cl_members_list {
    cl_member *head, *tail;
    size_t len;
} cl_members_list;

typedef struct cl_cursor_list {
    cl_cursor *head, *tail;
    size_t len;
} cl_cursor_list;

struct cl_log {
    cl_members_list members;
    cl_cursor_list followers, others;
    cl_block *first, *last, *spare;
    size_t spares;
    size_t block_size, max_line;
    uint64_t published;
    uint64_t seq, flushed; /* of the last frame; at the last flush of all */
    int numbered;          /* every member's rank is valid */
    cl_cursor *reader;     /* whose input is in the buffer; NULL for none */
    size_t back, at, to;
    size_t input_size; /* of one read, at most */
    char *input;       /* max_line + input_size bytes */
};

/* --- shared between the sources ------------------------------------------ */

void cl_trim(cl_log *log);
cl_block *cl_take_block(cl_log *log, size_t keep);
int cl_make_spares(cl_log *log, size_t count);
char *cl_extend(cl_log *log, size_t n, size_t keep);
int cl_locate(const cl_log *log, uint64_t seq, cl_block **block,
              uint64_t *position);
void cl_drop_frames(cl_cursor *cursor);
void cl_release_if_done(cl_log *log, cl_cursor *cursor);

static inline uint64_t block_end(const cl_block *block) {
    return block->start + block->used;
}

static inline uint64_t log_end(const cl_log *log) {
    return block_end(log->last);
}

/* Where this cursor's part of the log ends for now. */
static inline uint64_t cursor_end(const cl_log *log, const cl_cursor *cursor) {
    uint64_t end = log_end(log);

    return cursor->limit < end ? cursor->limit : end;
}

/* How far the log may be sent to this cursor for now. */
static inline uint64_t sendable_end(const cl_log *log,
                                    const cl_cursor *cursor) {
    uint64_t end = cursor_end(log, cursor);

    return end > log->published && !cursor->retains ? log->published : end;
}

/* Point the cursor at a block, or at none. O(1). Cannot fail. */
static inline void set_block(cl_cursor *cursor, cl_block *block) {
    if (cursor->block)
        cursor->block->refs--;
    if (block)
        block->refs++;
    cursor->block = block;
}

/* Return room for n bytes at the end of the log, n <= block_size, and leave
 * `keep` blocks spare; NULL if there is no memory. The bytes are part of the
 * log once `used` is increased. O(1). */
static inline char *reserve(cl_log *log, size_t n, size_t keep) {
    cl_block *block = log->last;

    if (log->block_size - block->used < n)
        return cl_extend(log, n, keep);
    return block->data + block->used;
}

#endif

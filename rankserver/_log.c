/* The shared log: its blocks, appending to it, and private frames, which are
 * due at a place in the log. See _core.h for the picture. */
#include "_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number of blocks that are kept for reuse: their pages are mapped and
 * warm. */
#define CL_SPARE_BLOCKS 8

/* Private frames that are due at the same place share pieces of at most this
 * many bytes. */
#define CL_FRAME_ROOM 4096

/* --- blocks -------------------------------------------------------------- */

/* Release the blocks at the front that no cursor needs any more. O(1) for
 * each. Cannot fail. */
void cl_trim(cl_log *log) {
    while (log->first != log->last && log->first->refs == 0) {
        cl_block *block = log->first;

        log->first = block->next;
        if (log->spares < CL_SPARE_BLOCKS) {
            block->next = log->spare;
            log->spare = block;
            log->spares++;
        } else {
            free(block);
        }
    }
}

/* Take a spare block, or allocate one if at most `keep` are spare. Returns
 * NULL if there is no memory. O(1). */
cl_block *cl_take_block(cl_log *log, size_t keep) {
    cl_block *block = log->spare;

    if (log->spares > keep) {
        log->spare = block->next;
        log->spares--;
    } else {
        block = malloc(sizeof *block + log->block_size);
        if (!block)
            return NULL;
    }
    block->next = NULL;
    block->used = block->refs = 0;
    return block;
}

/* Free one spare block. Cannot fail. */
static void free_spare(cl_log *log) {
    cl_block *block = log->spare;

    log->spare = block->next;
    log->spares--;
    free(block);
}

/* Begin the next block. `reserve` does this when the last block has no room
 * for n bytes. Returns the new block's data, or NULL if there is no memory.
 * O(1). */
char *cl_extend(cl_log *log, size_t n, size_t keep) {
    cl_block *block = n > log->block_size ? NULL : cl_take_block(log, keep);

    if (!block)
        return NULL;
    block->start = log_end(log);
    block->first_seq = log->seq + 1;
    log->last->next = block;
    log->last = block;
    cl_trim(log);
    return block->data;
}

/* Make sure that commands can take `count` blocks without allocating: they
 * leave CL_KEPT_BLOCKS spare. Returns CL_OK or CL_NOMEM. O(count). */
int cl_make_spares(cl_log *log, size_t count) {
    size_t before = log->spares;

    while (count > 0 && log->spares < count + CL_KEPT_BLOCKS) {
        cl_block *block = malloc(sizeof *block + log->block_size);

        if (!block) {
            while (log->spares > before)
                free_spare(log);
            return CL_NOMEM;
        }
        block->next = log->spare;
        log->spare = block;
        log->spares++;
    }
    return CL_OK;
}

/* The length in bytes of the first `count` frames of a block, which must have
 * that many. */
static size_t frames_bytes(const cl_block *block, uint64_t count) {
    const char *p = block->data;

    while (count--)
        p = (const char *)memchr(p, '\n',
                                 block->used - (size_t)(p - block->data)) + 1;
    return (size_t)(p - block->data);
}

/* Find the position right after frame `seq`, and the block that the next frame
 * is in or will be in. Returns CL_OK; CL_GONE if the frames after it are not
 * all kept; CL_MISUSE if there is no such frame yet. O(1) for the last frame,
 * else O(blocks, and bytes of one). */
int cl_locate(const cl_log *log, uint64_t seq, cl_block **block,
              uint64_t *position) {
    cl_block *at = log->first;

    if (seq > log->seq)
        return CL_MISUSE;
    if (seq == log->seq) {
        *block = log->last;
        *position = log_end(log);
        return CL_OK;
    }
    if (at->first_seq > seq + 1)
        return CL_GONE;
    while (at != log->last && at->next->first_seq <= seq + 1)
        at = at->next;
    *block = at;
    *position = at->start + frames_bytes(at, seq + 1 - at->first_seq);
    return CL_OK;
}

/* --- frames for all ------------------------------------------------------ */

/* Make sure that the next cl_append of at most `len` bytes of text has room,
 * if necessary by using the spare block that is set aside for this. Returns
 * CL_OK or CL_NOMEM. O(1). */
int cl_reserve(cl_log *log, size_t len) {
    return reserve(log, len + CL_STAMP_BYTES, 0) ? CL_OK : CL_NOMEM;
}

/* Append "<verb> <seq> <text>\n". Returns the frame's seq, or CL_NOMEM. The
 * caller must make sure that the frame follows the protocol and has at most
 * max_line + 256 bytes. O(len). */
int64_t cl_append(cl_log *log, const char *verb, const char *text, size_t len) {
    char stamp[CL_STAMP_BYTES];
    size_t n = (size_t)snprintf(stamp, sizeof stamp, "%.15s %llu ", verb,
                                (unsigned long long)log->seq + 1);
    char *to = reserve(log, n + len + 1, CL_KEPT_BLOCKS);

    if (!to)
        return CL_NOMEM;
    memcpy(to, stamp, n);
    memcpy(to + n, text, len);
    to[n + len] = '\n';
    log->last->used += n + len + 1;
    return (int64_t)++log->seq;
}

/* Let the log be sent up to `position`, the end of a frame, and no further.
 * UINT64_MAX publishes each frame as soon as it is logged, as in a new log.
 * What was sent already stays sent. O(1). Cannot fail. */
void cl_publish(cl_log *log, uint64_t position) {
    log->published = position;
}

/* --- frames for one ------------------------------------------------------ */

/* Add an empty piece of memory for private frames, with room for `len` bytes
 * or more; NULL if there is no memory. The first piece at a place has no more
 * room than that, because it is mostly the only one. Each other one has eight
 * times as much as the one before: pieces cost time when they are sent, and
 * the memory that is not used stays a small multiple of what is. */
static cl_frame *add_frame(cl_cursor *cursor, uint64_t due, size_t len) {
    const cl_frame *last = cursor->last;
    size_t room = last && last->due == due ? 8 * last->room : 0;
    cl_frame *frame;

    if (room > CL_FRAME_ROOM)
        room = CL_FRAME_ROOM;
    if (room < len)
        room = len;
    frame = malloc(sizeof *frame + room);
    if (!frame)
        return NULL;
    frame->next = NULL;
    frame->due = due;
    frame->len = frame->sent = 0;
    frame->room = room;
    if (cursor->last)
        cursor->last->next = frame;
    else
        cursor->first = frame;
    cursor->last = frame;
    return frame;
}

/* Queue one private frame, LF included, to be sent after what is in the log
 * now; nothing is queued for a muted cursor. Returns how many bytes of private
 * frames are now queued, CL_NOMEM, or CL_MISUSE for an empty frame. O(len). */
int64_t cl_private(cl_log *log, cl_cursor *cursor, const char *data,
                   size_t len) {
    uint64_t due = cursor_end(log, cursor);
    cl_frame *frame = cursor->last;

    if (len == 0)
        return CL_MISUSE;
    if (cursor->muted)
        return 0;
    if (!frame || frame->due != due || frame->room - frame->len < len) {
        frame = add_frame(cursor, due, len);
        if (!frame)
            return CL_NOMEM;
    }
    memcpy(frame->data + frame->len, data, len);
    frame->len += len;
    cursor->private_bytes += len;
    return (int64_t)cursor->private_bytes;
}

/* Free all private frames. Cannot fail. */
void cl_drop_frames(cl_cursor *cursor) {
    while (cursor->first) {
        cl_frame *next = cursor->first->next;

        free(cursor->first);
        cursor->first = next;
    }
    cursor->last = NULL;
    cursor->private_bytes = 0;
}

/* --- questions ----------------------------------------------------------- */

/* The seq of the last frame in the log; 0 before the first. */
uint64_t cl_seq(const cl_log *log) {
    return log->seq;
}

/* The position after the last frame in the log. */
uint64_t cl_end(const cl_log *log) {
    return log_end(log);
}

/* Find the position right after frame `seq`; seq 0 means the start of the log.
 * Returns CL_OK; CL_GONE if the frames after it are not all kept; CL_MISUSE if
 * there is no such frame yet. O(1) for the last frame, else O(blocks, and
 * bytes of one). */
int cl_find(const cl_log *log, uint64_t seq, uint64_t *position) {
    cl_block *block;

    return cl_locate(log, seq, &block, position);
}

/* How many frames were logged since the last complete cl_flush_all. */
uint64_t cl_unflushed(const cl_log *log) {
    return log->seq - log->flushed;
}

/* Bytes of the log that are kept for the slowest cursor. O(1). */
uint64_t cl_held(const cl_log *log) {
    return log_end(log) - log->first->start;
}

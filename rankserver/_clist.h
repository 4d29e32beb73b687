/* The C core: a ranked list of members, and the shared log that is broadcast
 * to them.
 *
 * A *member* holds a rank. A *cursor* is one connection's place in the log,
 * with its descriptor, its input and its pending output. A cursor that is
 * attached to a member is sent the log, and its commands are logged under that
 * member's rank. A member may be without a cursor for any time.
 *
 * What each function does, costs and guarantees is described above its
 * definition: members, cursors and ranks in _clist.c, the log in _log.c, input
 * in _input.c, output in _output.c. The structures, with their invariants, are
 * in _core.h. The declarations for cffi are made from this file, so it has one
 * declaration per statement and no macros.
 *
 * No function blocks, and none keeps state outside the structures. Unless a
 * comment says otherwise, a failure leaves everything as it was. */
#ifndef CLIST_H
#define CLIST_H

#include <stddef.h>
#include <stdint.h>

enum cl_status {
    CL_OK = 0,      /* done; flush: nothing is left to send for now */
    CL_LINE = 1,    /* input: stopped at a line for the caller */
    CL_LONG = 2,    /* input: stopped at a line that is too long */
    CL_BLOCKED = 3, /* flush: the socket takes no more for now */
    CL_BROKEN = 4,  /* flush: the connection can no longer be written */
    CL_NOMEM = -1,  /* there is no memory */
    CL_MISUSE = -2, /* the call is wrong for this member, cursor or data */
    CL_GONE = -3    /* the requested frames are no longer kept */
};

typedef struct cl_log cl_log;
typedef struct cl_member cl_member;
typedef struct cl_cursor cl_cursor;

/* One stretch of memory. */
typedef struct cl_span {
    const void *data;
    size_t len;
} cl_span;

/* Logs, their members and their cursors. */
cl_log *cl_new(size_t block_size, size_t max_line, size_t input_size);
void cl_free(cl_log *log);
cl_member *cl_join(cl_log *log, uint64_t id, uint32_t rank_class);
void cl_leave(cl_log *log, cl_member *member);
cl_cursor *cl_open(cl_log *log, int fd, int external);
cl_cursor *cl_retain(cl_log *log);
int cl_attach(cl_log *log, cl_cursor *cursor, cl_member *member, uint64_t seq);
int cl_detach(cl_log *log, cl_cursor *cursor);
void cl_cut(cl_log *log, cl_cursor *cursor);
void cl_mute(cl_log *log, cl_cursor *cursor);
void cl_close(cl_log *log, cl_cursor *cursor);

/* Input. */
int64_t cl_read(cl_log *log, cl_cursor *cursor, size_t size);
int cl_take(cl_log *log, cl_cursor *cursor, const char *data, size_t len);
int cl_line(cl_log *log, cl_cursor *cursor, int logs, cl_span *line);
int cl_collect(cl_log *log, cl_cursor *cursor, cl_span *batch);
void cl_unread(cl_log *log, cl_cursor *cursor);
int cl_keep(cl_log *log, cl_cursor *cursor);
void cl_ignore(cl_log *log, cl_cursor *cursor);
size_t cl_longest_line(const cl_log *log, const cl_cursor *cursor);
int cl_text_ok(const char *data, size_t len);

/* Frames, for all and for one. */
int cl_reserve(cl_log *log, size_t len);
int64_t cl_append(cl_log *log, const char *verb, const char *text, size_t len);
int cl_apply(cl_log *log, cl_member *member, const char *data, size_t len);
int64_t cl_private(cl_log *log, cl_cursor *cursor, const char *data,
                   size_t len);
void cl_publish(cl_log *log, uint64_t position);

/* Output. */
int cl_flush(cl_log *log, cl_cursor *cursor);
size_t cl_flush_all(cl_log *log, int *fds, size_t room);
size_t cl_peek(const cl_log *log, const cl_cursor *cursor, cl_span *spans,
               size_t room);
void cl_advance(cl_log *log, cl_cursor *cursor, size_t sent);

/* Questions about members. */
size_t cl_count(const cl_log *log);
int64_t cl_rank(cl_log *log, cl_member *member);
size_t cl_members(const cl_log *log, uint64_t *ids, size_t room);

/* Questions about the log. */
uint64_t cl_seq(const cl_log *log);
uint64_t cl_end(const cl_log *log);
int cl_find(const cl_log *log, uint64_t seq, uint64_t *position);
uint64_t cl_unflushed(const cl_log *log);
uint64_t cl_held(const cl_log *log);
int cl_check(const cl_log *log);

/* Questions about cursors. */
size_t cl_behind(const cl_log *log, uint64_t size, int *fds, size_t room);
uint64_t cl_lag(const cl_log *log, const cl_cursor *cursor);
uint64_t cl_sent(const cl_cursor *cursor);
size_t cl_in_flight(const cl_cursor *cursor);
uint64_t cl_queued(const cl_cursor *cursor);
int cl_is_blocked(const cl_cursor *cursor);

#endif

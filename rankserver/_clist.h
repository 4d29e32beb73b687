/* The ranked list of clients and the shared log that is broadcast to them.
 *
 *   ranked:   head                                tail
 *             rank 0 <----> rank 1 <----> rank 2
 *               |             |             |
 *               |       .-----'             |    a cursor is (block, pos)
 *               v       v                   v
 *   blocks: [ block refs=2 ] -----> [ block refs=1 ] ---> NULL
 *             first                    last (appended to)
 *
 *   One client's stream, in the order in which it is sent:
 *
 *     log from pos ........ | private | log ...... | private, private | log
 *                           due                    due
 *
 * Ownership. A cl_log owns its blocks, its spare blocks and every client that
 * was opened and not yet closed. A cl_client owns its private frames and what
 * it keeps of its input. File descriptors belong to the caller; the core only
 * reads and writes them.
 *
 * Positions count bytes since the log began, so they never repeat. A frame
 * lies whole in one block. The log can be sent up to `end`; a client's part
 * of it ends at its `limit`, which is UINT64_MAX while the client is ranked,
 * unless it is muted: then nothing more is sent to it, whatever it is owed.
 *
 * Input. The log has one input buffer, which holds what the client that was
 * read last has sent, and which the next read writes over:
 *
 *     max_line bytes        input_size bytes
 *   [          begun ][ received by one read ......... ]
 *              ^ at                            ^ to
 *
 * A client keeps the beginning of a line, which is copied in front of the
 * read that brings its end; or what cl_set_aside found, which cl_resume puts
 * at the start of the buffer.
 *
 * A client is `ranked` from cl_join to cl_retire and in the list `unranked`
 * before and after. What it is sent before it joins is private frames alone.
 * An `external` client is read and written by the caller, by cl_take, cl_peek
 * and cl_advance; it is never blocked.
 *
 * Invariants, all checked by cl_check:
 *   1. links agree in both directions, in both lists of clients;
 *   2. the number of ranked clients is the length of their list;
 *   3. classes ascend in list order; when ranks are numbered, they are
 *      0, 1, 2, ... in list order;
 *   4. blocks follow each other without a gap, up to `end`, and none but the
 *      last is empty of both bytes and purpose: the first is referenced, or
 *      it is the last;
 *   5. a block's refs are the number of cursors that point into it;
 *   6. a cursor's pos lies inside its block, and not after its limit;
 *   7. private frames are in ascending order of due, none before pos, none
 *      after the client's end, and their bytes add up;
 *   8. only the first private frame may be sent in part, and only where the
 *      log before it is sent;
 *   9. what is left of the input lies inside the buffer; a client that is
 *      ignored keeps none, and what is set aside is kept.
 *
 * No function blocks, and none keeps state outside the structures here.
 * Unless a comment says otherwise, a failure leaves everything as it was.
 */
#ifndef CLIST_H
#define CLIST_H

#include <stddef.h>
#include <stdint.h>

enum cl_status {
    CL_OK = 0,      /* done; for a flush: nothing is left to send */
    CL_LINE = 1,    /* input: stopped at a line that is for the caller */
    CL_LONG = 2,    /* input: stopped at a line that is too long */
    CL_BLOCKED = 3, /* flush: the socket takes no more for now */
    CL_BROKEN = 4,  /* flush: the connection is gone for writing */
    CL_MORE = 5,    /* inside the core: there is more to send */
    CL_NOMEM = -1,  /* no memory */
    CL_MISUSE = -2, /* the client or the frame is not one for this call */
};

typedef struct cl_log cl_log;
typedef struct cl_client cl_client;

/* One stretch of memory. */
typedef struct cl_span {
    const void *data;
    size_t len;
} cl_span;

cl_log *cl_new(size_t block_size, size_t max_line, size_t input_size);
void cl_free(cl_log *log);

cl_client *cl_open(cl_log *log, int fd, int external);
int cl_join(cl_log *log, cl_client *client, uint32_t rank_class);
int cl_retire(cl_log *log, cl_client *client);
int cl_cut(cl_log *log, cl_client *client);
void cl_mute(cl_log *log, cl_client *client);
void cl_close(cl_log *log, cl_client *client);

int64_t cl_read(cl_log *log, cl_client *client, size_t most);
int cl_take(cl_log *log, cl_client *client, const char *data, size_t len);
int cl_line(cl_log *log, cl_client *client, cl_span *line);
size_t cl_longest_line(const cl_log *log, const cl_client *client);
void cl_unread(cl_log *log);
int cl_set_aside(cl_log *log, cl_client *client);
void cl_resume(cl_log *log, cl_client *client);
void cl_ignore(cl_log *log, cl_client *client);

void cl_hold(cl_log *log, int on_hold);
int cl_reserve(cl_log *log, size_t len);
int64_t cl_append(cl_log *log, const char *verb, const char *text, size_t len);
int64_t cl_private(cl_log *log, cl_client *client, const char *data,
                   size_t len);

int cl_flush(cl_log *log, cl_client *client);
size_t cl_flush_all(cl_log *log, int *fds, size_t room);
size_t cl_peek(const cl_log *log, const cl_client *client, cl_span *spans,
               size_t room);
void cl_advance(cl_log *log, cl_client *client, size_t sent);

uint64_t cl_seq(const cl_log *log);
uint64_t cl_unflushed(const cl_log *log);
uint64_t cl_held(const cl_log *log);
size_t cl_clients(const cl_log *log);
int64_t cl_rank(cl_log *log, cl_client *client);
uint64_t cl_lag(const cl_log *log, const cl_client *client);
uint64_t cl_sent(const cl_client *client);
size_t cl_in_flight(const cl_client *client);
uint64_t cl_queued(const cl_client *client);
int cl_is_blocked(const cl_client *client);
size_t cl_behind(const cl_log *log, uint64_t most, int *fds, size_t room);
size_t cl_fds(const cl_log *log, int *fds, size_t room);
int cl_text_ok(const char *data, size_t len);
int cl_check(cl_log *log);

#endif

/* The load generator: what its parts share.
 *
 *   main.c      arguments, the JSON lines and errors
 *   meter.c     clocks and CPU times
 *   proto.c     one table entry for each protocol that it can speak
 *   verify.c    the reference stream that every receiver is compared with
 *   apart.c     streams that are not the same, verified one by one
 *   conn.c      connections, and waiting for them
 *   generate.c  bursts and paced phases over many connections
 *   joining.c   how these connections get ready
 *   members.c   joining and dropping thousands of clients
 *   ceiling.c   a program that only sends prepared bytes, to compare with
 *
 * It is driven by lines on stdin and answers each with one line of JSON on
 * stdout. It is a program for one measurement, not a service: any error ends
 * it, with {"event":"error"} and exit code 1.
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LG_ID 14          /* "@1234:12345678": the sender and its index */
#define LG_MAX_SENDERS 10000 /* what four digits can tell apart */
#define LG_MAX_WRAP 128   /* bytes around the text of one command */
#define LG_BUFFER (256 * 1024) /* of one recv */
#define LG_SEND (1024 * 1024) /* of one send: a server is kept busy with it
                               * while the receivers take their turns */
#define LG_STALL_MS 10000 /* nothing happens for so long: something is lost */
#define LG_SECOND 1000000000ull /* in nanoseconds */

struct lg_bytes {
    const char *data;
    size_t size;
};

/* What tells a command from all others of a phase. */
struct lg_id {
    uint32_t sender, index;
};

struct lg_ref;

/* What a connection says on connecting, and the bytes in the answer to it
 * from which one knows that it is ready; none if there is no answer. Their
 * first byte does not occur in them again: see lg_match. `last` is what may
 * not be said before that. */
struct lg_hello {
    struct lg_bytes said, ready, last;
};

/* Which commands a sender hears. */
enum lg_hears { LG_NOTHING, LG_OTHERS, LG_ALL };

/* How to speak one protocol. All that differs between servers is in here. */
struct lg_proto {
    const char *name;
    struct lg_hello receiver, sender;
    struct lg_bytes question;  /* the server asks it once, seconds after a */
    struct lg_bytes answer;    /* connection came: nothing is sent before */
    struct lg_bytes keepalive; /* sent by each client in every long pause
                                * to a server that may have a heartbeat */
    struct lg_bytes tail;      /* behind a text, when sent and when received */
    enum lg_hears hears;       /* what senders hear; receivers hear all */
    bool own_order; /* each stream may mix several senders in its own way */
    bool triggered; /* senders send one byte that stands for commands */
    /* Write what goes in front of a text of `size` bytes that is sent;
     * returns its length, at most LG_MAX_WRAP. */
    size_t (*wrap)(char *out, size_t size);
    /* The same for a text that is received, where that is always the same;
     * NULL where it is not. */
    size_t (*head)(char *out, size_t size);
    /* Check all between two received texts, or fail. */
    void (*check)(struct lg_ref *ref, const char *from, const char *to);
};

/* The stream of one phase as seen by the receiver that is furthest ahead.
 *
 *   data  [frame][frame][frame][fra             capacity
 *                        ^      ^  ^
 *                        frame  |  size: a receiver that is here appends
 *                               look: no '@' of a text is before this
 *
 * Everybody else compares what it gets with the reference, at its own
 * place, so all have the same bytes; appended bytes are parsed once, so
 * these bytes are every command of every sender once, in its order. */
struct lg_ref {
    const struct lg_proto *proto;
    char *data;
    size_t size, capacity;
    size_t frame;    /* the end of the last whole command */
    size_t look;
    size_t text;     /* bytes of the text of a command */
    char *filler;    /* what a text holds behind its id */
    char head[LG_MAX_WRAP]; /* what its protocol's `head` has written */
    size_t head_size;
    uint32_t senders;
    uint32_t *next;  /* the index that is next from each sender */
    size_t seen, expected; /* commands */
    size_t *ends;    /* where each command ends, in the order of the stream */
    uint32_t *order; /* which command it is: index * senders + sender */
    uint64_t seq;    /* of the last log frame, 0 before the first */
    /* What comes next if there is one sender: how the frame begins, up to its
     * id, and where a number ends in it that counts, or 0. */
    char guess[LG_MAX_WRAP + LG_ID];
    size_t guessed, counts;
};

struct lg_conn {
    int fd;
    uint32_t id;
    uint32_t sender; /* its number, or UINT32_MAX */
    uint8_t state;
    bool blocked;    /* waits until it can send more */
    size_t matched;  /* bytes of the token that it waits for */
    size_t pos;      /* bytes received in this phase */
    size_t seen;     /* whole commands received: kept when paced */
    size_t due, sent; /* of its prepared bytes */
    char *bytes;     /* prepared */
};

/* main.c */
void lg_fail(const char *format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
void lg_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
char *lg_quote(char *out, size_t room, const char *bytes, size_t size);
void *lg_alloc(size_t size);
void *lg_alloc_touched(size_t size);
bool lg_command(char *line, size_t room);
size_t lg_number(const char *text, size_t low, size_t high, const char *what);

/* meter.c */
struct lg_meter {
    pid_t pid;       /* of the other process, or 0 */
    uint64_t start;
    double seconds;  /* by the clock */
    double own, watched; /* CPU seconds of this process and the other */
    size_t peak;     /* resident bytes of the other, at most; while
                      * measuring: whether that is possible */
};

uint64_t lg_now(void);
double lg_cpu(void);
void lg_meter_start(struct lg_meter *meter, pid_t pid, double polling);
void lg_meter_stop(struct lg_meter *meter, double polling);
void lg_meter_watched(struct lg_meter *meter);
void lg_sort(uint64_t *values, size_t count);
double lg_quantile(const uint64_t *values, size_t count, double q);

/* proto.c */
const struct lg_proto *lg_find_proto(const char *name);

/* verify.c */
void lg_ref_open(struct lg_ref *ref, const struct lg_proto *proto,
                 size_t text, uint32_t senders);
void lg_ref_start(struct lg_ref *ref, size_t commands, bool keep_ends);
void lg_ref_take(struct lg_ref *ref, size_t pos, const char *bytes,
                 size_t size);
char *lg_ref_room(struct lg_ref *ref, size_t *room);
void lg_ref_grow(struct lg_ref *ref, size_t size);
bool lg_ref_complete(const struct lg_ref *ref);
void lg_text(char *out, size_t size, uint32_t sender, uint32_t index);
void lg_take_text(const struct lg_ref *ref, const char *at,
                  struct lg_id *id, uint32_t *next, size_t seen);

/* conn.c */
enum {
    LG_GREETING, /* waits for the answer to its hello */
    LG_UNASKED,  /* waits for the question of its server */
    LG_JOINED,   /* waits for the marker; or hears nothing */
    LG_STREAM,   /* hears the same as all others */
    LG_APART,    /* hears commands in an order of its own */
};
int lg_dial(const char *host, const char *port);
void lg_nonblocking(int fd);
bool lg_send_all(int fd, const char *bytes, size_t size);
size_t lg_match(size_t *matched, struct lg_bytes token, const char *bytes,
                size_t size);

struct epoll_event;
int lg_await(int epoll, struct epoll_event *events, int max, bool spin,
             double *polling);

/* the modes */
int lg_generate(int argc, char **argv);
int lg_members(int argc, char **argv);
int lg_ceiling(int argc, char **argv);

#endif

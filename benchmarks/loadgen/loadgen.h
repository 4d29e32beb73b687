/* Declarations that the parts of the load generator share.
 *
 *   main.c      arguments, the JSON lines and errors
 *   meter.c     clocks and CPU times
 *   proto.c     one table entry for each protocol that it can speak
 *   verify.c    the reference stream that every receiver is compared with
 *   apart.c     streams that differ, verified one by one
 *   conn.c      connections, and waiting for them
 *   generate.c  bursts and paced phases over many connections
 *   joining.c   getting these connections ready
 *   members.c   joining and dropping thousands of clients
 *   ceiling.c   a program that only sends prepared bytes, for comparison
 *
 * The generator reads commands as lines on stdin and answers each with one
 * line of JSON on stdout. It runs one measurement and is not a service: any
 * error ends it, with {"event":"error"} and exit code 1.
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The bytes of an id, "@1234:12345678": the sender and the index. */
#define LG_ID 14

/* The number of senders that four digits can tell apart. */
#define LG_MAX_SENDERS 10000

/* The most bytes around the text of one command. */
#define LG_MAX_WRAP 128

/* The most bytes that one recv reads. */
#define LG_BUFFER (256 * 1024)

/* The most bytes of one send: enough to keep a server busy while the
 * receivers take their turns. */
#define LG_SEND (1024 * 1024)

/* If nothing happens for this long, something is lost. */
#define LG_STALL_MS 10000

/* One second in nanoseconds. */
#define LG_SECOND 1000000000ull

struct lg_bytes {
    const char *data;
    size_t size;
};

/* Identifies a command within a phase. */
struct lg_id {
    uint32_t sender, index;
};

struct lg_ref;

/* A connection sends `said` first. It is ready once `ready` has occurred in
 * the answer; `ready` is empty if there is no answer. Its first byte does not
 * occur in it again, see lg_match. `last` is sent when it is ready. */
struct lg_hello {
    struct lg_bytes said, ready, last;
};

/* The commands that a sender receives. */
enum lg_hears { LG_NOTHING, LG_OTHERS, LG_ALL };

/* One protocol: everything that differs between servers. */
struct lg_proto {
    const char *name;
    struct lg_hello receiver, sender;
    /* The server asks `question` once, seconds after a connection was made;
     * nothing is sent before the `answer`. */
    struct lg_bytes question;
    struct lg_bytes answer;
    /* Each client sends this in every long pause, if the server may have a
     * heartbeat. */
    struct lg_bytes keepalive;
    /* The bytes behind a text, both sent and received. */
    struct lg_bytes tail;
    /* The commands that senders receive; receivers get all. */
    enum lg_hears hears;
    /* Each stream may have the commands of several senders in another order. */
    bool own_order;
    /* Senders trigger the sending of commands by single bytes. */
    bool triggered;
    /* Write the bytes in front of a text of `size` bytes that is sent.
     * Returns their number, at most LG_MAX_WRAP. */
    size_t (*wrap)(char *out, size_t size);
    /* The same for a text that is received; NULL if those bytes vary. */
    size_t (*head)(char *out, size_t size);
    /* Check all bytes between two received texts. Exits if any is wrong. */
    void (*check)(struct lg_ref *ref, const char *from, const char *to);
};

/* The stream of one phase as the receiver that is furthest ahead sees it.
 *
 *   data  [frame][frame][frame][fra             capacity
 *                        ^      ^  ^
 *                        frame  |  size: a receiver that is here appends
 *                               look: no text begins between frame and here
 *
 * Every other receiver compares its bytes with the reference, at its own
 * position, so all receivers have the same bytes. Appended bytes are parsed
 * once, so these bytes are known to be every command of every sender once, in
 * the order of the sender. */
struct lg_ref {
    const struct lg_proto *proto;
    char *data;
    size_t size, capacity;
    size_t frame;    /* end of the last whole command */
    size_t look;
    size_t text;     /* bytes of the text of a command */
    char *filler;    /* the bytes of a text behind its id */
    char head[LG_MAX_WRAP]; /* written by the protocol's `head` */
    size_t head_size;
    uint32_t senders;
    uint32_t *next;  /* the next index of each sender */
    size_t seen, expected; /* numbers of commands */
    size_t *ends;    /* end of each command, in the order of the stream */
    uint32_t *order; /* its number: index * senders + sender */
    uint64_t seq;    /* of the last log frame, 0 before the first */
    /* The expected beginning of the next frame, up to and including the id,
     * if there is one sender. `counts` is where the number ends in it that
     * goes up by one in each frame, or 0. */
    char guess[LG_MAX_WRAP + LG_ID];
    size_t guessed, counts;
};

struct lg_conn {
    int fd;
    uint32_t id;
    uint32_t sender; /* its number, or UINT32_MAX */
    uint8_t state;
    bool blocked;    /* waits until it can send more */
    size_t matched;  /* bytes found of the token that it waits for */
    size_t pos;      /* bytes received in this phase */
    size_t seen;     /* whole commands received, if paced or apart */
    size_t due, sent; /* counts of its prepared bytes */
    char *bytes;     /* prepared bytes */
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
    pid_t pid;       /* the watched process, or 0 */
    uint64_t start;
    double seconds;  /* wall-clock time */
    double own, watched; /* CPU seconds of this and the watched process */
    /* The peak of the watched process's resident bytes. While measuring, it
     * is nonzero if the peak can be measured. */
    size_t peak;
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
    LG_JOINED,   /* waits for the marker, or receives no commands */
    LG_STREAM,   /* receives the same stream as all others */
    LG_APART,    /* receives commands in its own order */
};
int lg_dial(const char *host, const char *port);
void lg_nonblocking(int fd);
bool lg_send_all(int fd, const char *bytes, size_t size);
size_t lg_match(size_t *matched, struct lg_bytes token, const char *bytes,
                size_t size);

struct epoll_event;
int lg_await(int epoll, struct epoll_event *events, int max, bool spin,
             double *polling);

/* The modes, in generate.c, members.c and ceiling.c. */
int lg_generate(int argc, char **argv);
int lg_members(int argc, char **argv);
int lg_ceiling(int argc, char **argv);

#endif

/* Declarations that the files of the generator of bursts share. generate.c
 * runs the phases, joining.c does everything before them, and apart.c verifies
 * streams that differ. */
#ifndef LOADGEN_GENERATE_H
#define LOADGEN_GENERATE_H

#include "loadgen.h"

/* The most bytes from a server that an error message quotes. */
#define LAST 60

/* The sender number of a connection that only receives. */
#define NOBODY UINT32_MAX

struct generate {
    const struct lg_proto *proto;
    struct lg_ref ref;
    int epoll, timer;
    struct lg_conn *conns;
    struct lg_apart *apart; /* one for each; NULL if all streams are equal */
    uint32_t count, senders;
    size_t streams;  /* connections that receive commands */
    size_t asked;    /* connections that the server has asked */
    size_t unmarked; /* streams that have yet to see the marker */
    uint32_t nonce;  /* number of the next marker */
    size_t finished; /* streams that have the whole phase */
    bool complete;   /* the reference has the whole phase */
    bool spin;       /* poll without sleeping in phases */
    bool running;    /* a phase is running */
    bool drain;      /* the phase is not verified */
    double polling;  /* CPU seconds spent polling for nothing */
    pid_t pid;       /* server whose CPU time is measured, or 0 */
    char *buffer;
    char last[LAST + 16]; /* last bytes before the marker, for errors */
    struct lg_bytes marker;
    char wrap[LG_MAX_WRAP];
    size_t wrap_size, unit; /* unit: bytes that a sender sends per command */
    const char *waiting; /* what it waits for before the phases, or NULL */
    double join_seconds;
    uint64_t kept_alive;
    /* For paced phases. */
    bool paced;
    double interval; /* between two commands, in nanoseconds */
    uint64_t start, late; /* late: the worst delay of a sender */
    size_t released; /* commands that are due */
    uint32_t *got;   /* streams that have each command, in stream order */
    uint64_t *latency; /* of each command, in nanoseconds */
};

/* joining.c */
bool lg_hears(const struct generate *gen, const struct lg_conn *conn);
void lg_prelude(struct generate *gen, struct lg_conn *conn,
                const char *bytes, size_t size);
void lg_join_all(struct generate *gen, const char *host, const char *ports);
void lg_mark(struct generate *gen);
void lg_keep_alive(struct generate *gen);

/* apart.c */
bool lg_is_apart(const struct generate *gen);
void lg_apart_open(struct generate *gen);
void lg_apart_start(struct generate *gen, size_t commands);
void lg_apart_read(struct generate *gen, struct lg_conn *conn);
bool lg_apart_same_order(const struct generate *gen);

/* generate.c */
struct lg_conn *lg_sender(const struct generate *gen, size_t sender);
void lg_turn(struct generate *gen);
size_t lg_receive(const struct generate *gen, const struct lg_conn *conn,
                  char *out, size_t room);
size_t lg_share(const struct generate *gen, const struct lg_conn *conn,
                size_t commands);

#endif

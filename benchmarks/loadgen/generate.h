/* The generator of bursts and paced phases: what its files share.
 * generate.c runs the phases, joining.c is all that comes before them, and
 * apart.c verifies streams that are not the same. */
#ifndef LOADGEN_GENERATE_H
#define LOADGEN_GENERATE_H

#include "loadgen.h"

#define LAST 60 /* bytes of what a server said that an error shows */
#define NOBODY UINT32_MAX /* the sender's number of a receiver */

struct generate {
    const struct lg_proto *proto;
    struct lg_ref ref;
    int epoll, timer;
    struct lg_conn *conns;
    struct lg_apart *apart; /* for each; NULL if all streams are the same */
    uint32_t count, senders;
    size_t streams;  /* connections that hear the commands */
    size_t asked;    /* connections that the server has asked */
    size_t unmarked; /* streams that have yet to see the marker */
    uint32_t nonce;  /* of the next marker */
    size_t finished; /* streams that have the whole phase */
    bool complete;   /* the reference has the whole phase */
    bool spin;       /* poll without sleeping in phases */
    bool running;    /* a phase is */
    bool drain;      /* it is one without verification */
    double polling;  /* CPU seconds of polling for nothing */
    pid_t pid;       /* the server, whose CPU time is measured, and which
                      * has no heartbeat then; or 0 */
    char *buffer;
    char last[LAST + 16]; /* what came last before the marker, for errors */
    struct lg_bytes marker;
    char wrap[LG_MAX_WRAP];
    size_t wrap_size, unit; /* bytes that a sender sends for a command */
    const char *waiting; /* for what, before the phases; else NULL */
    double join_seconds;
    uint64_t kept_alive;
    /* paced phases */
    bool paced;
    double interval; /* nanoseconds */
    uint64_t start, late; /* the worst delay of a sender */
    size_t released; /* commands whose time has come */
    uint32_t *got;   /* streams that have a command, in stream order */
    uint64_t *latency;
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

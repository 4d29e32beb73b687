/* What the parts of the core's fuzzer share. They use the core through its
 * public header alone. */
#ifndef FUZZ_H
#define FUZZ_H

#include "_clist.h"

/* --- chance and texts (support.c) ---------------------------------------- */

/* Bytes that grow as they are added. A text that is all zero is empty. */
typedef struct text {
    char *data;
    size_t len, room;
} text;

#define PICK(list) list[chance(sizeof list / sizeof *list)]

void set_seed(uint64_t seed, uint64_t number);
uint64_t chance(uint64_t of);
void add(text *to, const void *data, size_t len);
void say(text *to, const char *word);
void add_run(text *to, size_t len);
int same(const text *one, const text *other);
void show(const char *name, const text *what);
void drop(text *what);

/* --- the kernel that the core calls (kernel.c) --------------------------- */

/* More descriptors than an input uses at a time. */
#define MAX_PEERS 16

/* The other end of a connection; its descriptor is its index. */
typedef struct peer {
    text sent;          /* what it has sent, received by the core up to `at` */
    size_t at;
    text got;           /* what it was sent */
    size_t room;        /* bytes that it can be sent before the core must wait */
    int has_ended;      /* it sends nothing more */
    int is_broken;      /* it can be sent nothing more */
} peer;

extern peer peers[MAX_PEERS];

void reset_peer(int fd);

/* --- the core, with that kernel (core.c) --------------------------------- */

/* Let the next frame of an empty log have the number after `seq`. */
void continue_after(cl_log *log, uint64_t seq);

/* --- input --------------------------------------------------------------- */

/* How an input is handled. Lines are counted as they are returned. */
typedef struct terms {
    size_t max_line;
    uint64_t seq;         /* of the last frame before it */
    size_t rank;
    size_t join;          /* its sender joins after this many lines */
    size_t pause, resume; /* between these, commands are returned as lines */
    size_t ignore;        /* all is ignored after this many lines */
} terms;

/* Handle an input the slow and obvious way, without the core
 * (reference.c). */
void feed_reference(const terms *t, const text *input, text *to);

/* --- the fuzzers --------------------------------------------------------- */

/* Each makes one input from chance alone, and feeds it. They return whether
 * everything held, and add the bytes that they fed to *bytes. If something did
 * not hold, or `shown` is set, they print the input. */
int fuzz_input(int shown, uint64_t *bytes);
int fuzz_streams(int shown, uint64_t *bytes);

#endif

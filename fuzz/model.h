/* The model of what the core sends; see model.c. */
#ifndef MODEL_H
#define MODEL_H

#include "fuzz.h"

/* Cursors at a time, each with its index as descriptor, and members. */
#define MAX_STREAMS 8
#define MAX_MEMBERS 6

enum stage { UNUSED, FRESH, ATTACHED, DETACHED };

/* What one cursor must be sent. */
typedef struct stream {
    cl_cursor *cursor;
    enum stage stage;
    int is_external, is_retained, is_muted, is_ignored;
    uint64_t start; /* the position where it was attached */
    uint64_t limit; /* where its part of the log ends, once detached */
    text due;       /* all that it must be sent, from the first byte on */
    text places;    /* uint64_t for each byte: due once this is published */
    text kinds;     /* for each byte: 1 if it is of the log */
    size_t got;     /* bytes that it was sent */
    size_t taken;   /* of those, bytes that its peer has */
} stream;

typedef struct member {
    cl_member *core;
    uint64_t id;
    uint32_t rank_class;
    int stream; /* -1 for none */
} member;

extern cl_log *log_;
extern stream streams[MAX_STREAMS];
extern member members[MAX_MEMBERS]; /* by rank */
extern size_t member_count;
extern text logged;             /* the whole log */
extern uint64_t first_seq, seq; /* before the first frame; of the last */
extern uint64_t published;
extern size_t block_size;
extern const char *wrong; /* what did not hold; NULL for nothing */

void begin_model(uint64_t after, size_t block, size_t max_line);
void expect(int holds, const char *what);
void check(void);
void check_stream(stream *s);
void take_sent(stream *s, const char *data, size_t len);

size_t max_of(size_t one, size_t other);
uint64_t end_of(uint64_t number);
int keeps_log(const stream *s);
uint64_t position(const stream *s);
uint64_t stream_end(const stream *s);
size_t sendable(const stream *s);
size_t queued(const stream *s);
void add_due(stream *s, const char *data, size_t len, uint64_t place,
             int is_log);
void shorten(stream *s, size_t len, uint64_t place);
void end_stream(stream *s, uint64_t limit);
void log_frame(const char *verb, const char *data, size_t len);
void log_command(size_t rank, const char *command, size_t len);

#endif

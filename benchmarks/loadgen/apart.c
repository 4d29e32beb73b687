/* Streams that are verified one by one. If a server has a thread for each
 * connection, receivers may get the commands of several senders in different
 * orders, so there is no reference to compare with. Instead, each stream is
 * parsed: it must have every command of every sender once, in the sender's
 * order, with every byte of every text. This costs more than comparing. */
#define _GNU_SOURCE
#include "generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The multiplier of the hash. It is odd, so no bit of a hash is lost. */
#define PRIME 0x9e3779b97f4a7c15ull

/* One stream. */
struct lg_apart {
    uint32_t *next;  /* the next index of each sender */
    char *carry;     /* the beginning of an incomplete frame */
    size_t carried;  /* bytes of it */
    size_t expected; /* commands in the phase */
    uint64_t order;  /* hash of the order of the commands so far */
};

/* Returns whether receivers may get the commands in different orders. */
bool lg_is_apart(const struct generate *gen)
{
    return gen->proto->own_order && gen->senders > 1;
}

/* Returns the most bytes that a frame can have. */
static size_t longest(const struct generate *gen)
{
    return gen->ref.text + LG_MAX_WRAP;
}

/* Set up the streams of all connections. */
void lg_apart_open(struct generate *gen)
{
    gen->apart = lg_alloc(gen->count * sizeof *gen->apart);
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_apart *apart = &gen->apart[i];
        apart->next = lg_alloc(gen->senders * sizeof *apart->next);
        apart->carry = lg_alloc_touched(longest(gen));
    }
    /* The buffer needs room for a carried frame and for one recv. */
    free(gen->buffer);
    gen->buffer = lg_alloc_touched(longest(gen) + LG_BUFFER);
}

/* Begin a phase of `commands`. */
void lg_apart_start(struct generate *gen, size_t commands)
{
    for (uint32_t i = 0; i < gen->count; i++) {
        struct lg_apart *apart = &gen->apart[i];
        const struct lg_conn *conn = &gen->conns[i];
        memset(apart->next, 0, gen->senders * sizeof *apart->next);
        apart->carried = 0;
        apart->order = 0;
        apart->expected = commands;
        if (conn->sender != NOBODY && gen->proto->hears == LG_OTHERS)
            apart->expected -= lg_share(gen, conn, commands);
        gen->finished += lg_hears(gen, conn) && apart->expected == 0;
    }
}

/* Returns the half of the streams that a connection belongs to. If senders do
 * not receive their own commands, the streams of one half are compared by the
 * order of the commands that senders of the other half sent. */
static uint32_t half(const struct lg_conn *conn)
{
    return conn->sender & 1;
}

/* Add a command to the hash of the order of the connection's stream. */
static void note_order(const struct generate *gen,
                       const struct lg_conn *conn, struct lg_id id)
{
    struct lg_apart *apart = &gen->apart[conn->id];
    uint64_t command = (uint64_t)id.index * gen->senders + id.sender + 1;

    if (gen->proto->hears == LG_OTHERS && (id.sender & 1) == half(conn))
        return;
    apart->order = (apart->order ^ command) * PRIME;
    apart->order ^= apart->order >> 32;
}

/* Returns whether all streams had the commands in the same order. If senders
 * do not receive their own commands, the halves are compared, see `half`. */
bool lg_apart_same_order(const struct generate *gen)
{
    const struct lg_apart *first[2] = {NULL, NULL};

    for (uint32_t i = 0; i < gen->count; i++) {
        uint32_t group = 0;
        if (!lg_hears(gen, &gen->conns[i]))
            continue;
        if (gen->proto->hears == LG_OTHERS)
            group = half(&gen->conns[i]);
        if (first[group] == NULL)
            first[group] = &gen->apart[i];
        if (gen->apart[i].order != first[group]->order)
            return false;
    }
    return true;
}

/* Verify the frame that begins at `from`. Returns its size, or 0 if it is not
 * complete yet. Exits if anything is wrong with it. */
static size_t take_frame(struct generate *gen, struct lg_conn *conn,
                         const char *from, size_t size)
{
    struct lg_ref *ref = &gen->ref;
    struct lg_apart *apart = &gen->apart[conn->id];
    size_t header = size < LG_MAX_WRAP ? size : LG_MAX_WRAP;
    const char *at = memchr(from, '@', header);
    struct lg_id id;

    if (at == NULL && size >= LG_MAX_WRAP)
        lg_fail("connection %u got what is no command: %.60s", conn->id,
                from);
    if (at == NULL)
        return 0;
    size_t frame = (size_t)(at - from) + ref->text + ref->proto->tail.size;
    if (frame > size)
        return 0;
    if (conn->seen == apart->expected)
        lg_fail("connection %u got %.14s, but has all %zu commands",
                conn->id, at, conn->seen);
    lg_take_text(ref, at, &id, apart->next, conn->seen);
    if (gen->proto->hears == LG_OTHERS && id.sender == conn->sender)
        lg_fail("connection %u got its own command %.14s", conn->id, at);
    ref->proto->check(ref, from, at);
    note_order(gen, conn, id);
    conn->seen++;
    return frame;
}

/* Read once from a connection: put the carried bytes in front, verify all
 * complete frames, and carry the rest. */
void lg_apart_read(struct generate *gen, struct lg_conn *conn)
{
    struct lg_apart *apart = &gen->apart[conn->id];
    const char *at = gen->buffer;
    size_t frame;

    memcpy(gen->buffer, apart->carry, apart->carried);
    size_t size = lg_receive(gen, conn, gen->buffer + apart->carried,
                             LG_BUFFER);
    if (size == 0)
        return;
    conn->pos += size;
    size += apart->carried;
    bool had_all = conn->seen == apart->expected;
    while (size && (frame = take_frame(gen, conn, at, size)) > 0) {
        at += frame;
        size -= frame;
    }
    if (size && conn->seen == apart->expected)
        lg_fail("connection %u: unexpected bytes behind the last command: "
                "%.*s", conn->id, (int)(size < 60 ? size : 60), at);
    memcpy(apart->carry, at, size);
    apart->carried = size;
    gen->finished += !had_all && conn->seen == apart->expected;
}

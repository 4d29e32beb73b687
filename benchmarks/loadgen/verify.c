/* Verification against the reference stream, see loadgen.h. It costs one
 * memcmp for each receiver, and parsing once for all of them. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The most bytes that an error shows before the first difference. */
#define BEFORE 20

/* The most bytes that an error shows of each stream. */
#define SHOWN 60

/* Write `number` with exactly `digits` decimal digits. */
static void put_digits(char *out, int digits, uint32_t number)
{
    while (digits-- > 0) {
        out[digits] = (char)('0' + number % 10);
        number /= 10;
    }
}

/* Write the text of one command: its id and a filler up to `size` bytes. */
void lg_text(char *out, size_t size, uint32_t sender, uint32_t index)
{
    out[0] = '@';
    put_digits(out + 1, 4, sender);
    out[5] = ':';
    put_digits(out + 6, 8, index);
    memset(out + LG_ID, 'x', size - LG_ID);
}

/* Set up a reference for texts of `text` bytes from `senders` senders. */
void lg_ref_open(struct lg_ref *ref, const struct lg_proto *proto,
                 size_t text, uint32_t senders)
{
    memset(ref, 0, sizeof *ref);
    ref->proto = proto;
    ref->text = text;
    ref->senders = senders;
    ref->next = lg_alloc(senders * sizeof *ref->next);
    ref->filler = lg_alloc(text + 1);
    memset(ref->filler, 'x', text);
    if (proto->head)
        ref->head_size = proto->head(ref->head, text);
}

/* Begin a phase of `commands`; with `keep_ends`, record where each one ends.
 * Memory of the previous phase is reused. */
void lg_ref_start(struct lg_ref *ref, size_t commands, bool keep_ends)
{
    size_t capacity = commands * (ref->text + LG_MAX_WRAP);

    if (capacity > ref->capacity) {
        free(ref->data);
        ref->data = lg_alloc_touched(capacity);
        ref->capacity = capacity;
    }
    free(ref->ends);
    free(ref->order);
    ref->ends = NULL;
    ref->order = NULL;
    if (keep_ends) {
        ref->ends = lg_alloc_touched(commands * sizeof *ref->ends);
        ref->order = lg_alloc_touched(commands * sizeof *ref->order);
    }
    memset(ref->next, 0, ref->senders * sizeof *ref->next);
    ref->size = ref->frame = ref->look = ref->seen = ref->guessed = 0;
    ref->expected = commands;
}

/* Returns whether the reference holds all commands of the phase. */
bool lg_ref_complete(const struct lg_ref *ref)
{
    return ref->seen == ref->expected;
}

/* Parse the `digits` bytes at `at` as a number.
 * Returns false if one of them is not a digit. */
static inline bool fixed_number(const char *at, int digits, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        unsigned digit = (unsigned char)at[i] - (unsigned)'0';
        if (digit > 9)
            return false;
        *value = *value * 10 + digit;
    }
    return true;
}

/* Parse the id that begins with the '@' at `at`. Returns false if there is
 * none. */
static inline bool read_id(const char *at, struct lg_id *id)
{
    return fixed_number(at + 1, 4, &id->sender) && at[5] == ':' &&
           fixed_number(at + 6, 8, &id->index);
}

/* Check every byte of the text at `at`, which has this id, and of the tail
 * behind it. It must be the next command of its sender, according to `next`.
 * `seen` is its number in the stream, for errors. Exits if it is wrong. */
static inline void check_text(const struct lg_ref *ref, const char *at,
                              struct lg_id id, uint32_t *next, size_t seen)
{
    struct lg_bytes tail = ref->proto->tail;

    if (id.sender >= ref->senders || id.index != next[id.sender])
        lg_fail("command %zu of the stream is %.14s, expected index %u",
                seen, at, id.sender < ref->senders ? next[id.sender] : 0);
    next[id.sender]++;
    if (memcmp(at + LG_ID, ref->filler, ref->text - LG_ID) != 0)
        lg_fail("the text of command %.14s arrived changed", at);
    if (memcmp(at + ref->text, tail.data, tail.size) != 0)
        lg_fail("the frame of command %.14s does not end behind it", at);
}

/* The same for the text at `at` in a stream that is not compared with the
 * reference. */
void lg_take_text(const struct lg_ref *ref, const char *at,
                  struct lg_id *id, uint32_t *next, size_t seen)
{
    if (!read_id(at, id))
        lg_fail("command %zu of the stream has no id: %.14s", seen, at);
    check_text(ref, at, *id, next, seen);
}

/* Count the command that begins at `ref->frame` and whose text is at `at`. */
static void count_text(struct lg_ref *ref, const char *at, struct lg_id id)
{
    ref->frame = ref->look = (size_t)(at - ref->data) + ref->text +
                             ref->proto->tail.size;
    if (ref->ends) {
        ref->ends[ref->seen] = ref->frame;
        ref->order[ref->seen] = id.index * ref->senders + id.sender;
    }
    ref->seen++;
}

/* Increment the decimal number that ends before `end`. Returns false if it
 * would get longer. */
static bool count_up(char *end)
{
    while (*--end == '9')
        *end = '0';
    if (*end < '0' || *end > '8')
        return false;
    ++*end;
    return true;
}

/* Guess the frame that follows the one that begins at `from` and whose text is
 * at `at`, or guess nothing. */
static void guess_next(struct lg_ref *ref, const char *from, const char *at)
{
    const char *space = ref->seq ? memchr(from + 4, ' ', 20) : NULL;

    ref->guessed = 0;
    if (ref->senders > 1 || (size_t)(at - from) > LG_MAX_WRAP ||
        (ref->seq && memchr(from, '\n', (size_t)(at - from))))
        return; /* it has a JOIN in front, or is unusual otherwise */
    memcpy(ref->guess, from, (size_t)(at - from) + LG_ID);
    ref->counts = space ? (size_t)(space - from) : 0;
    if (count_up(ref->guess + (at - from) + LG_ID) &&
        (!ref->counts || count_up(ref->guess + ref->counts)))
        ref->guessed = (size_t)(at - from) + LG_ID;
}

/* Accept the next command if it equals the guess to the last byte, which is
 * faster than parsing it. Returns false if it does not. */
static bool take_guessed(struct lg_ref *ref)
{
    struct lg_bytes tail = ref->proto->tail;
    const char *from = ref->data + ref->frame;
    const char *at = from + ref->guessed - LG_ID;
    struct lg_id id = {.sender = 0, .index = ref->next[0]};

    if (ref->size - ref->frame <
            ref->guessed - LG_ID + ref->text + tail.size ||
        memcmp(from, ref->guess, ref->guessed) != 0 ||
        memcmp(at + LG_ID, ref->filler, ref->text - LG_ID) != 0 ||
        memcmp(at + ref->text, tail.data, tail.size) != 0)
        return false;
    ref->next[0]++;
    ref->seq += ref->counts > 0;
    count_text(ref, at, id);
    if (!count_up(ref->guess + ref->guessed) ||
        (ref->counts && !count_up(ref->guess + ref->counts)))
        ref->guessed = 0;
    return true;
}

/* Accept the whole text at `at`, which has this id. Exits if anything is wrong
 * with it. */
static void accept_text(struct lg_ref *ref, const char *at, struct lg_id id)
{
    const char *from = ref->data + ref->frame;

    check_text(ref, at, id, ref->next, ref->seen);
    ref->proto->check(ref, from, at);
    count_text(ref, at, id);
    guess_next(ref, from, at);
}

/* Parse the appended bytes. A '@' without an id belongs to the header of a
 * binary protocol. */
static void scan(struct lg_ref *ref)
{
    size_t whole = ref->text + ref->proto->tail.size;

    while (ref->seen < ref->expected) {
        struct lg_id id;
        if (ref->guessed && take_guessed(ref))
            continue;
        const char *from = ref->data + ref->look;
        const char *at = memchr(from, '@', ref->size - ref->look);
        if (at == NULL) {
            ref->look = ref->size;
            return;
        }
        ref->look = (size_t)(at - ref->data);
        if (ref->size - ref->look < whole)
            return;
        if (read_id(at, &id))
            accept_text(ref, at, id);
        else
            ref->look++;
    }
}

/* Exit with the position at which two streams differ, and a few bytes before
 * it, which show the command. */
static void differ(const struct lg_ref *ref, size_t pos, const char *bytes,
                   size_t size)
{
    size_t i = 0;
    char here[200], there[200];

    while (i < size && ref->data[pos + i] == bytes[i])
        i++;
    size_t from = i < BEFORE ? 0 : i - BEFORE;
    size_t show = size - from < SHOWN ? size - from : SHOWN;
    lg_fail("two receivers differ at byte %zu of the phase: \"%s\" is not "
            "\"%s\"", pos + i,
            lg_quote(here, sizeof here, bytes + from, show),
            lg_quote(there, sizeof there, ref->data + pos + from, show));
}

/* Returns where to put the next bytes of the receiver that is furthest ahead;
 * `*room` becomes the number that fit. The caller then calls lg_ref_grow.
 * Exits if there is no room. */
char *lg_ref_room(struct lg_ref *ref, size_t *room)
{
    *room = ref->capacity - ref->size;
    if (*room == 0)
        lg_fail("more bytes arrived than %zu commands can have",
                ref->expected);
    return ref->data + ref->size;
}

/* Parse `size` more bytes that were put behind the reference. Exits if
 * anything is wrong. */
void lg_ref_grow(struct lg_ref *ref, size_t size)
{
    ref->size += size;
    scan(ref);
    size_t more = ref->size - ref->frame;
    if (lg_ref_complete(ref) && more)
        lg_fail("unexpected bytes behind the last command: %.*s",
                (int)(more < 80 ? more : 80), ref->data + ref->frame);
}

/* Compare `bytes` that a receiver got at its position `pos` with the
 * reference, and append what is new. Exits if anything is wrong. */
void lg_ref_take(struct lg_ref *ref, size_t pos, const char *bytes,
                 size_t size)
{
    size_t known = ref->size - pos < size ? ref->size - pos : size;
    size_t room;

    if (memcmp(ref->data + pos, bytes, known) != 0)
        differ(ref, pos, bytes, known);
    if (known == size)
        return;
    char *end = lg_ref_room(ref, &room);
    size = size - known < room ? size - known : room;
    memcpy(end, bytes + known, size);
    lg_ref_grow(ref, size);
}

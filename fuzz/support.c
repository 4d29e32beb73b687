/* Chance that a seed determines, and texts. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

/* Begin the chances of one input. */
void set_seed(uint64_t seed, uint64_t number) {
    state = (seed * UINT64_C(0x9E3779B97F4A7C15)) ^
            (number * UINT64_C(0xD1342543DE82EF95) + 1);
    for (int i = 0; i < 4; i++)
        chance(2);
}

/* A number from 0 to of - 1: xorshift (Marsaglia 2003). */
uint64_t chance(uint64_t of) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % of;
}

/* Append bytes to a text. */
void add(text *to, const void *data, size_t len) {
    if (len > to->room - to->len) {
        size_t room = 2 * (to->len + len);

        to->data = realloc(to->data, room);
        if (!to->data)
            abort();
        to->room = room;
    }
    if (len)
        memcpy(to->data + to->len, data, len);
    to->len += len;
}

/* Append a string to a text. */
void say(text *to, const char *word) {
    add(to, word, strlen(word));
}

/* Append printable characters, a few different ones at most. */
void add_run(text *to, size_t len) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz {}\"~";
    char run[256];

    while (len) {
        size_t n = len < sizeof run ? len : sizeof run;

        memset(run, letters[chance(sizeof letters - 1)], n);
        add(to, run, n);
        len -= n;
    }
}

int same(const text *one, const text *other) {
    return one->len == other->len &&
           (one->len == 0 || !memcmp(one->data, other->data, one->len));
}

/* Print a text as hex. */
void show(const char *name, const text *what) {
    printf("%s: ", name);
    for (size_t i = 0; i < what->len; i++)
        printf("%02x", (unsigned char)what->data[i]);
    printf("\n");
}

/* Free a text's memory, and empty it. */
void drop(text *what) {
    free(what->data);
    *what = (text){NULL, 0, 0};
}

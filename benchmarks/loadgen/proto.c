/* The protocols that the generator speaks: one table entry for each. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <string.h>

#define BYTES(text) {text, sizeof(text) - 1}

/* Returns what goes in front of a command for rankserver. */
static size_t wrap_rank(char *out, size_t size)
{
    (void)size;
    memcpy(out, "CMD ", 4);
    return 4;
}

/* Read digits from `*at` up to `to`, and the one `end` behind them, and
 * move `*at` behind that. Returns the number, or exits. */
static uint64_t number(const char **at, const char *to, char end)
{
    uint64_t value = 0;
    const char *from = *at;

    while (*at < to && **at >= '0' && **at <= '9')
        value = value * 10 + (uint64_t)(*(*at)++ - '0');
    if (*at == from || *at == to || *(*at)++ != end)
        lg_fail("bad frame: %.*s", (int)(to - from < 80 ? to - from : 80),
                from);
    return value;
}

/* Check the frames between two texts: every log frame's number is one more
 * than that of the one before, and the last is the text's own CMD. A JOIN
 * or LEFT may come before it. Exits if anything is wrong. */
static void check_rank(struct lg_ref *ref, const char *from, const char *to)
{
    const char *at = from;
    bool command = false;

    while (at < to) {
        const char *verb = at;
        if (to - at < 5 || command)
            lg_fail("unexpected bytes before a command: %.*s",
                    (int)(to - from < 80 ? to - from : 80), from);
        command = memcmp(verb, "CMD ", 4) == 0;
        at += command ? 4 : 5;
        uint64_t seq = number(&at, to, ' ');
        if (ref->seq && seq != ref->seq + 1)
            lg_fail("log frame %llu follows on %llu",
                    (unsigned long long)seq, (unsigned long long)ref->seq);
        ref->seq = seq;
        if (command)
            number(&at, to, ' ');
        else if ((at = memchr(at, '\n', (size_t)(to - at))) != NULL)
            at++;
        else
            lg_fail("a frame without an end");
    }
    if (!command)
        lg_fail("a text without a command in front");
}

static const struct lg_proto protos[] = {
    {
        .name = "rank",
        .receiver_hello = BYTES("HELLO\n"),
        .sender_hello = BYTES("HELLO\n"),
        .ready = BYTES("WELCOME "),
        .keepalive = BYTES("PONG\n"),
        .tail = BYTES("\n"),
        .echo = true,
        .wrap = wrap_rank,
        .check = check_rank,
    },
    {
        .name = "ceiling",
        .tail = BYTES("\n"),
        .echo = true,
        .triggered = true,
        .wrap = wrap_rank,
        .check = check_rank,
    },
};

/* Returns the protocol of that name, or exits if there is none. */
const struct lg_proto *lg_find_proto(const char *name)
{
    for (size_t i = 0; i < sizeof protos / sizeof *protos; i++)
        if (strcmp(protos[i].name, name) == 0)
            return &protos[i];
    lg_fail("unknown protocol %s", name);
}

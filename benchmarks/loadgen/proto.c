/* The protocols that the generator speaks: one table entry for each. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <string.h>

#define BYTES(text) {text, sizeof(text) - 1}
#define NONE {NULL, 0}

/* Write what goes in front of a command to rankserver. Returns its size, as
 * all functions below do. */
static size_t wrap_rank(char *out, size_t size)
{
    (void)size;
    memcpy(out, "CMD ", 4);
    return 4;
}

/* Read digits from `*at`, before `to`, and the byte `end` behind them, and
 * move `*at` behind that byte. Returns the number, or exits. */
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

/* Returns whether a log frame begins at `at`, where five bytes are. */
static bool is_log_frame(const char *at)
{
    return memcmp(at, "CMD ", 4) == 0 || memcmp(at, "JOIN ", 5) == 0 ||
           memcmp(at, "LEFT ", 5) == 0;
}

/* Check the frames between two texts. Each log frame's number must be one more
 * than the previous one's, and the last frame must be the CMD that the text
 * belongs to. JOIN and LEFT frames may come before it. Exits if anything is
 * wrong. */
static void check_rank(struct lg_ref *ref, const char *from, const char *to)
{
    const char *at = from;
    bool command = false;

    while (at < to) {
        const char *verb = at;
        if (to - at < 5 || command || !is_log_frame(at))
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

/* Check that the constant head is in front of a text. Exits if not. */
static void check_head(struct lg_ref *ref, const char *from, const char *to)
{
    size_t size = (size_t)(to - from);
    char here[200], there[200];

    if (size == ref->head_size && memcmp(from, ref->head, size) == 0)
        return;
    lg_fail("in front of a command is \"%s\", not \"%s\"",
            lg_quote(here, sizeof here, from, size < 60 ? size : 60),
            lg_quote(there, sizeof there, ref->head, ref->head_size));
}

/* Write what goes in front of a command to Redis. */
static size_t wrap_redis(char *out, size_t size)
{
    return (size_t)sprintf(
        out, "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$%zu\r\n", size);
}

/* Write what Redis puts in front of one: an array of three strings. */
static size_t head_redis(char *out, size_t size)
{
    return (size_t)sprintf(
        out, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%zu\r\n", size);
}

/* The same in RESP3, where it is a push. */
static size_t head_redis_push(char *out, size_t size)
{
    size = head_redis(out, size);
    *out = '>';
    return size;
}

/* Write what goes in front of a command to NATS. */
static size_t wrap_nats(char *out, size_t size)
{
    return (size_t)sprintf(out, "PUB c %zu\r\n", size);
}

/* Write what NATS puts in front of one. */
static size_t head_nats(char *out, size_t size)
{
    return (size_t)sprintf(out, "MSG c 1 %zu\r\n", size);
}

/* Write the fixed header, the length and the topic of a PUBLISH with QoS 0,
 * as sent and received in MQTT 3.1.1, section 3.3. */
static size_t wrap_mqtt(char *out, size_t size)
{
    static const char topic[] = {0, 1, 'c'};
    size_t left = sizeof topic + size, used = 0;

    out[used++] = '\x30';
    /* Seven bits in each byte, the lowest first: section 2.2.3. */
    do {
        out[used++] = (char)(left % 128 + (left >= 128 ? 128 : 0));
        left /= 128;
    } while (left);
    memcpy(out + used, topic, sizeof topic);
    return used + sizeof topic;
}

/* Write the header of a ZeroMQ message of one part, as sent and received:
 * flags and length, see ZMTP 3.0, "Framing". */
static size_t wrap_zmq(char *out, size_t size)
{
    if (size < 256) {
        out[0] = 0;
        out[1] = (char)size;
        return 2;
    }
    /* A long message: eight bytes of length, the highest first. */
    out[0] = 2;
    for (int i = 8; i > 0; i--, size /= 256)
        out[i] = (char)(size % 256);
    return 9;
}

/* Write nothing: the plain protocol has nothing in front of a sent command. */
static size_t wrap_plain(char *out, size_t size)
{
    (void)out;
    (void)size;
    return 0;
}

/* Check that the rank of the sender is in front of a text. Exits if not. */
static void check_plain(struct lg_ref *ref, const char *from, const char *to)
{
    (void)ref;
    number(&from, to, ' ');
    if (from != to)
        lg_fail("unexpected bytes behind a rank: %.*s",
                (int)(to - from < 80 ? to - from : 80), from);
}

/* The hellos of clients that receive commands, see struct lg_hello. */

#define RANK_CLIENT {BYTES("HELLO\n"), BYTES("WELCOME "), NONE}

/* REPLY OFF stops the replies to PUBLISH but, in RESP3, not the messages. */
#define REDIS_CLIENT {BYTES("HELLO 3\r\nSUBSCRIBE c\r\n"), \
                      BYTES("c\r\n:1\r\n"), BYTES("CLIENT REPLY OFF\r\n")}

#define NATS_CONNECT "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n"
#define NATS_CLIENT {BYTES(NATS_CONNECT "SUB c 1\r\nPING\r\n"), \
                     BYTES("PONG\r\n"), NONE}

/* MQTT 3.1.1, sections 3.1 and 3.8: a clean session without a client name or
 * keepalive, and a subscription to the topic c. It is ready at SUBACK. */
#define MQTT_CONNECT "\x10\x0c\0\4MQTT\4\2\0\0\0\0"
#define MQTT_CLIENT {BYTES(MQTT_CONNECT "\x82\x06\0\1\0\1c\0"), \
                     BYTES("\x90\3\0\1\0"), NONE}

/* ZMTP 3.0: a greeting for the mechanism NULL, and the command READY up to the
 * type of the socket. No answer is needed between the two. */
#define ZEROS_8 "\0\0\0\0\0\0\0\0"
#define ZMQ_MECHANISM "NULL" ZEROS_8 ZEROS_8
#define ZMQ_FILLER ZEROS_8 ZEROS_8 ZEROS_8 "\0\0\0\0\0\0\0"
#define ZMQ_HELLO "\xff" ZEROS_8 "\x7f\3\0" ZMQ_MECHANISM "\0" ZMQ_FILLER \
                  "\4\x19\5READY\xbSocket-Type\0\0\0\3"

/* Subscribes to the empty prefix, which all messages have. */
#define ZMQ_SUBSCRIBE "\0\1\1"

#define PLAIN_CLIENT {NONE, BYTES("hello "), NONE}

static const struct lg_proto protos[] = {
    {
        .name = "rank",
        .receiver = RANK_CLIENT,
        .sender = RANK_CLIENT,
        .keepalive = BYTES("PONG\n"),
        .tail = BYTES("\n"),
        .hears = LG_ALL,
        .wrap = wrap_rank,
        .check = check_rank,
    },
    {
        .name = "ceiling",
        .tail = BYTES("\n"),
        .hears = LG_ALL,
        .triggered = true,
        .wrap = wrap_rank,
        .check = check_rank,
    },
    {
        .name = "redis",
        .receiver = {BYTES("SUBSCRIBE c\r\n"), BYTES("c\r\n:1\r\n"), NONE},
        .sender = {BYTES("PING\r\n"), BYTES("+PONG\r\n"),
                   BYTES("CLIENT REPLY OFF\r\n")},
        .tail = BYTES("\r\n"),
        .wrap = wrap_redis,
        .head = head_redis,
        .check = check_head,
    },
    {
        .name = "redis-all",
        .receiver = REDIS_CLIENT,
        .sender = REDIS_CLIENT,
        .tail = BYTES("\r\n"),
        .hears = LG_ALL,
        .wrap = wrap_redis,
        .head = head_redis_push,
        .check = check_head,
    },
    /* NATS asks two seconds after a connection was made, and then at its
     * ping_interval, which must be longer than a run. */
    {
        .name = "nats",
        .receiver = NATS_CLIENT,
        .sender = {BYTES(NATS_CONNECT "PING\r\n"), BYTES("PONG\r\n"), NONE},
        .question = BYTES("PING\r\n"),
        .answer = BYTES("PONG\r\n"),
        .tail = BYTES("\r\n"),
        /* It has a thread for each connection. */
        .own_order = true,
        .wrap = wrap_nats,
        .head = head_nats,
        .check = check_head,
    },
    {
        .name = "nats-all",
        .receiver = NATS_CLIENT,
        .sender = NATS_CLIENT,
        .question = BYTES("PING\r\n"),
        .answer = BYTES("PONG\r\n"),
        .tail = BYTES("\r\n"),
        .hears = LG_ALL,
        .own_order = true,
        .wrap = wrap_nats,
        .head = head_nats,
        .check = check_head,
    },
    {
        .name = "mqtt",
        .receiver = MQTT_CLIENT,
        .sender = {BYTES(MQTT_CONNECT), BYTES("\x20\2\0\0"), NONE},
        .tail = BYTES(""),
        .wrap = wrap_mqtt,
        .head = wrap_mqtt,
        .check = check_head,
    },
    {
        .name = "mqtt-all",
        .receiver = MQTT_CLIENT,
        .sender = MQTT_CLIENT,
        .tail = BYTES(""),
        .hears = LG_ALL,
        .wrap = wrap_mqtt,
        .head = wrap_mqtt,
        .check = check_head,
    },
    /* Receivers are SUB sockets at an XPUB, and senders are PUB sockets at an
     * XSUB. They are ready when the READY of the other socket names its
     * type. */
    {
        .name = "zmq",
        .receiver = {BYTES(ZMQ_HELLO "SUB"), BYTES("XPUB"),
                     BYTES(ZMQ_SUBSCRIBE)},
        .sender = {BYTES(ZMQ_HELLO "PUB"), BYTES("XSUB"), NONE},
        .tail = BYTES(""),
        .wrap = wrap_zmq,
        .head = wrap_zmq,
        .check = check_head,
    },
    {
        .name = "plain",
        .receiver = PLAIN_CLIENT,
        .sender = PLAIN_CLIENT,
        .tail = BYTES("\n"),
        /* Some of these servers have threads. */
        .own_order = true,
        .wrap = wrap_plain,
        .check = check_plain,
    },
    {
        .name = "plain-all",
        .receiver = PLAIN_CLIENT,
        .sender = PLAIN_CLIENT,
        .tail = BYTES("\n"),
        .hears = LG_OTHERS,
        .own_order = true,
        .wrap = wrap_plain,
        .check = check_plain,
    },
};

/* Returns the protocol called `name`, or exits if there is none. */
const struct lg_proto *lg_find_proto(const char *name)
{
    for (size_t i = 0; i < sizeof protos / sizeof *protos; i++)
        if (strcmp(protos[i].name, name) == 0)
            return &protos[i];
    lg_fail("unknown protocol %s", name);
}

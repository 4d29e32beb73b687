/* The reference for input: what docs/protocol.md says about lines, in the
 * slow and obvious way. It calls nothing of the core and shares no code with
 * it. */
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the longest line of a client that has not joined. */
#define MAX_FRESH_LINE 65536

/* Decode one character of UTF-8. Returns its length, or 0 if the bytes do not
 * begin with one. (RFC 3629, section 3.) */
static size_t decode(const unsigned char *p, size_t len, uint32_t *character) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80   ? 1
               : p[0] < 0xC0 ? 0
               : p[0] < 0xE0 ? 2
               : p[0] < 0xF0 ? 3
               : p[0] < 0xF8 ? 4
                             : 0;
    uint32_t value = n == 1 ? p[0] : p[0] & (0x7Fu >> n);

    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 2)
            return 0;
        value = value << 6 | (p[i] & 0x3Fu);
    }
    if (value < least[n] || value > 0x10FFFF)
        return 0;
    if (value >= 0xD800 && value <= 0xDFFF)
        return 0;
    *character = value;
    return n;
}

/* Tell whether a line is UTF-8 without control characters other than TAB. */
static int follows_text_rule(const char *line, size_t len) {
    uint32_t character;

    while (len) {
        size_t n = decode((const unsigned char *)line, len, &character);

        if (n == 0)
            return 0;
        if (character != '\t' &&
            (character < 0x20 || (character >= 0x7F && character <= 0x9F)))
            return 0;
        line += n;
        len -= n;
    }
    return 1;
}

static int is_command(const char *line, size_t len) {
    return len >= 5 && !strncmp(line, "CMD ", 4) &&
           follows_text_rule(line, len);
}

/* The number of bytes before the first LF, or of all bytes. */
static size_t line_length(const char *p, size_t len) {
    size_t n = 0;

    while (n < len && p[n] != '\n')
        n++;
    return n;
}

/* Add the lines that the input has for the caller, then the frames that it
 * logs. */
void feed_reference(const terms *t, const text *input, text *to) {
    text logged = {NULL, 0, 0};
    uint64_t seq = t->seq;
    size_t at = 0, lines = 0;
    char stamp[64];

    while (lines < t->ignore) {
        const char *line = input->data + at;
        size_t left = input->len - at, n = line_length(line, left);
        size_t most = t->max_line;

        if (lines < t->join && most > MAX_FRESH_LINE)
            most = MAX_FRESH_LINE;
        if (n >= most)
            say(to, "too long\n");
        if (n >= most || n == left)
            break;
        at += n + 1;
        if (n && line[n - 1] == '\r')
            n--;
        if (lines >= t->join && (lines < t->pause || lines >= t->resume) &&
            is_command(line, n)) {
            snprintf(stamp, sizeof stamp, "CMD %" PRIu64 " %zu ", ++seq,
                     t->rank);
            say(&logged, stamp);
            add(&logged, line + 4, n - 4);
            say(&logged, "\n");
        } else if (n) {
            lines++;
            say(to, "line ");
            add(to, line, n);
            say(to, "\n");
        }
    }
    add(to, logged.data, logged.len);
    drop(&logged);
}

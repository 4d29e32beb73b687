/* The check of the text rule, which _text.h states. */
#include "_text.h"
#include "_clist.h"

/* Bytes that are checked ahead: they stay in the first-level cache. */
#define TEXT_PIECE 4096

/* Length of the valid UTF-8 sequence of a character above U+009F at p, or 0.
 * (Unicode 15, table 3-7.) */
static size_t text_utf8_len(const unsigned char *p, size_t n) {
    unsigned char low = 0x80, high = 0xBF;
    size_t len;

    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        len = 2;
    else if (p[0] >= 0xE0 && p[0] <= 0xEF)
        len = 3;
    else if (p[0] >= 0xF0 && p[0] <= 0xF4)
        len = 4;
    else
        return 0;
    if (p[0] == 0xC2 || p[0] == 0xE0)
        low = 0xA0; /* no C1 control; nothing overlong */
    else if (p[0] == 0xED)
        high = 0x9F; /* no surrogate */
    else if (p[0] == 0xF0)
        low = 0x90; /* nothing overlong */
    else if (p[0] == 0xF4)
        high = 0x8F; /* nothing above U+10FFFF */
    if (n < len || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

/* Tell whether the bytes follow the text rule. O(len). */
int cl_text_ok(const char *data, size_t len) {
    const unsigned char *p = (const unsigned char *)data;
    size_t i = 0;

    while (i < len) {
        if ((p[i] >= 0x20 && p[i] < 0x7F) || p[i] == '\t') {
            i++;
        } else {
            size_t n = text_utf8_len(p + i, len - i);

            if (n == 0)
                return 0;
            i += n;
        }
    }
    return 1;
}

/* Tell whether all bytes are printable ASCII or LF. No branch depends on a
 * byte, so that the compiler can check many at once. */
static int text_is_plain(const char *data, size_t len) {
    unsigned char bad = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)data[i];

        bad |= ((unsigned char)(c - 0x20) > 0x7E - 0x20) & (c != '\n');
    }
    return !bad;
}

/* Do the work of text_line_ok for a line that is not in a stretch known to be
 * plain: check a piece ahead, or this line alone. */
int text_check_line(text_scan *scan, const char *p, size_t len) {
    const char *to = p + len;

    if (to > scan->rough_to) {
        if (len < TEXT_PIECE)
            to = scan->end - p < TEXT_PIECE ? scan->end : p + TEXT_PIECE;
        if (text_is_plain(p, (size_t)(to - p))) {
            scan->plain_to = to;
            return 1;
        }
        scan->rough_to = to;
    }
    return cl_text_ok(p, len);
}

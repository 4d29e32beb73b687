/* The text rule (protocol: Lines): a line is UTF-8, and has no control
 * character (U+0000-U+001F, U+007F-U+009F) but TAB. Private to the core. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

/* How far input was checked. Most input is plain, and is checked ahead in
 * large pieces. */
typedef struct text_scan {
    const char *end;
    const char *plain_to; /* everything before it is plain */
    const char *rough_to; /* not all before it is plain: check each line */
} text_scan;

int text_check_line(text_scan *scan, const char *p, size_t len);

/* Tell whether the line p[0..len) follows the text rule. */
static inline int text_line_ok(text_scan *scan, const char *p, size_t len) {
    return p + len <= scan->plain_to || text_check_line(scan, p, len);
}

#endif

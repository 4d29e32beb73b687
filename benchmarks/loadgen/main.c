/* The entry point of the load generator, and functions that all modes use:
 * JSON lines on stdout, command lines on stdin, and fatal errors. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Print one line on stdout and flush it. Cannot fail. */
void lg_print(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* Write `bytes` to `out` as the inside of a JSON string, truncated to fit.
 * Returns `out`. Cannot fail. */
char *lg_quote(char *out, size_t room, const char *bytes, size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < size && used + 7 < room; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c < 32 || c > 126)
            used += (size_t)sprintf(out + used, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            used += (size_t)sprintf(out + used, "\\%c", c);
        else
            out[used++] = (char)c;
    }
    out[used] = '\0';
    return out;
}

/* Report an error as the last line of JSON and exit with 1. */
void lg_fail(const char *format, ...)
{
    char text[512], quoted[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lg_quote(quoted, sizeof quoted, text, strlen(text));
    lg_print("{\"event\":\"error\",\"message\":\"%s\"}", quoted);
    exit(1);
}

/* Returns `size` bytes of zeros. Exits if there is no memory. */
void *lg_alloc(size_t size)
{
    void *memory = calloc(1, size ? size : 1);

    if (memory == NULL)
        lg_fail("no memory for %zu bytes", size);
    return memory;
}

/* The same, with every page already mapped. The kernel maps a page when it is
 * first written to, which would take time in the middle of a phase. (The
 * compiler may drop a memset to zero of memory from calloc.) */
void *lg_alloc_touched(size_t size)
{
    void *memory = lg_alloc(size);

    explicit_bzero(memory, size);
    return memory;
}

/* Read the next command from stdin into `line`, without its LF.
 * Returns false at the end of stdin. */
bool lg_command(char *line, size_t room)
{
    if (fgets(line, (int)room, stdin) == NULL)
        return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}

/* Returns the number in `text`. Exits if it is not between `low` and `high`;
 * the error calls it `what`. */
size_t lg_number(const char *text, size_t low, size_t high, const char *what)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || value < low || value > high)
        lg_fail("%s must be %zu to %zu, not %s", what, low, high, text);
    return (size_t)value;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";

    if (strcmp(mode, "generate") == 0)
        return lg_generate(argc - 2, argv + 2);
    if (strcmp(mode, "members") == 0)
        return lg_members(argc - 2, argv + 2);
    if (strcmp(mode, "ceiling") == 0)
        return lg_ceiling(argc - 2, argv + 2);
    fprintf(stderr,
            "usage: loadgen generate HOST PORT PROTO RECEIVERS SENDERS SIZE "
            "PID SPIN\n"
            "       loadgen members HOST PORT PID SPIN\n"
            "       loadgen ceiling SOCKETS SENDERS SIZE\n"
            "PORT of generate may be P1,P2: for receivers and senders\n");
    return 2;
}

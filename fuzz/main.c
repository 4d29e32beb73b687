/* The core's fuzzer.
 *
 *   core COUNT SEED          fuzz this many inputs
 *   core 1 SEED NUMBER       only this one, and print it
 *
 * fuzz/__main__.py builds it with AddressSanitizer and
 * UndefinedBehaviorSanitizer. */
#include "fuzz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* One of this many inputs is a series of calls; the others are what a client
 * sends. */
#define STREAMS_SHARE 5

static int fuzz(uint64_t seed, uint64_t number, int shown, uint64_t *bytes) {
    int holds;

    set_seed(seed, number);
    holds = number % STREAMS_SHARE ? fuzz_input(shown, bytes)
                                   : fuzz_streams(shown, bytes);
    if (!holds)
        printf("the core: input %" PRIu64 " of seed %" PRIu64 " fails\n",
               number, seed);
    return holds;
}

int main(int argc, char **argv) {
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, bytes = 0;
    clock_t start = clock();
    double seconds;

    if (argc > 3)
        return !fuzz(seed, strtoull(argv[3], NULL, 10), 1, &bytes);
    for (uint64_t number = 0; number < count; number++)
        if (!fuzz(seed, number, 0, &bytes))
            return 1;
    seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("core: %" PRIu64 " inputs, %" PRIu64
           " bytes in %.1f seconds of CPU (%.0f inputs/s)\n",
           count, bytes, seconds,
           (double)count / (seconds > 0.001 ? seconds : 0.001));
    return 0;
}

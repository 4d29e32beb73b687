/* The C core with an allocator that fails on request, for
 * test_clist_fault.py. The core's source is compiled unchanged. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>

/* The number of allocations before the one that fails. If it is negative,
 * none fails. */
static long fault_countdown = -1;
static long fault_live_count;

static int fails(void) {
    return fault_countdown >= 0 && fault_countdown-- == 0;
}

static void *count_live(void *memory) {
    fault_live_count += memory != NULL;
    return memory;
}

static void *fault_malloc(size_t size) {
    return fails() ? NULL : count_live(malloc(size));
}

static void *fault_calloc(size_t count, size_t size) {
    return fails() ? NULL : count_live(calloc(count, size));
}

static void *fault_realloc(void *memory, size_t size) {
    void *fresh = fails() ? NULL : realloc(memory, size);

    fault_live_count += fresh != NULL && memory == NULL;
    return fresh;
}

static void fault_free(void *memory) {
    fault_live_count -= memory != NULL;
    free(memory);
}

/* Let the allocation after the next `after` ones fail, and no other. */
void fault_arm(long after) {
    fault_countdown = after;
}

/* Let no allocation fail any more. Returns whether the armed one failed. */
int fault_disarm(void) {
    int failed = fault_countdown < 0;

    fault_countdown = -1;
    return failed;
}

/* Returns the number of live allocations. */
long fault_live(void) {
    return fault_live_count;
}

#define malloc fault_malloc
#define calloc fault_calloc
#define realloc fault_realloc
#define free fault_free
#include "_clist.c"
#include "_log.c"
#include "_input.c"
#include "_output.c"
#include "_text.c"
#include "_check.c"

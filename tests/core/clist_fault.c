/* The C core with an allocator that fails when it is told to, for
 * test_clist_fault.py. The core's own source is compiled as it is. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>

/* The allocation that fails, counted down to 0 from when it was set; never,
 * while it is negative. */
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

/* Let the allocation fail that comes after `after` others, and no other. */
void fault_arm(long after) {
    fault_countdown = after;
}

/* Let no allocation fail. Returns whether the one that was to fail has. */
int fault_disarm(void) {
    int failed = fault_countdown < 0;

    fault_countdown = -1;
    return failed;
}

/* Allocations that were not freed. */
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

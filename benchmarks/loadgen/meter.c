/* The costs of a phase: wall-clock time, the CPU time of both sides, and the
 * memory of the watched process. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Returns the monotonic time in nanoseconds. Cannot fail. */
uint64_t lg_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * LG_SECOND + (uint64_t)now.tv_nsec;
}

/* Returns the CPU seconds that `clock` shows, 0 if it cannot be read. */
static double cpu_seconds(clockid_t clock)
{
    struct timespec used;

    if (clock_gettime(clock, &used) < 0)
        return 0;
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* Returns the CPU seconds that this process has used. Cannot fail. */
double lg_cpu(void)
{
    return cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

/* Returns the CPU seconds that all threads of process `pid` have used
 * together; 0 for pid 0 and for a process that is gone. The kernel accounts
 * for the time of another process's thread when the thread stops running, or
 * at the next tick of the scheduler. Cannot fail. */
static double cpu_of(pid_t pid)
{
    clockid_t clock;

    if (pid == 0 || clock_getcpuclockid(pid, &clock) != 0)
        return 0;
    return cpu_seconds(clock);
}

/* Open the file `name` of process `pid` in /proc. Returns NULL for pid 0, if
 * it is not permitted, or if the process is gone. */
static FILE *open_proc(pid_t pid, const char *name, const char *mode)
{
    char path[64];

    if (pid == 0)
        return NULL;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return fopen(path, mode);
}

/* Reset the peak of the process's resident memory to the current value, by
 * writing 5, see proc(5). Returns false on failure. */
static bool reset_peak(pid_t pid)
{
    FILE *file = open_proc(pid, "clear_refs", "w");

    if (file == NULL)
        return false;
    bool written = fputs("5", file) >= 0;
    return fclose(file) == 0 && written;
}

/* Returns the peak of the process's resident memory in bytes, 0 if it is
 * unknown. */
static size_t read_peak(pid_t pid)
{
    FILE *file = open_proc(pid, "status", "r");
    char line[256];
    size_t kib = 0;

    if (file == NULL)
        return 0;
    while (kib == 0 && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "VmHWM: %zu kB", &kib);
    fclose(file);
    return kib * 1024;
}

/* Begin to measure. `polling` is the number of CPU seconds that this process
 * has spent polling for nothing so far. */
void lg_meter_start(struct lg_meter *meter, pid_t pid, double polling)
{
    meter->pid = pid;
    meter->peak = reset_peak(pid);
    meter->watched = cpu_of(pid);
    meter->own = lg_cpu() - polling;
    meter->start = lg_now();
}

/* Stop measuring: set `seconds` and `own` to the costs since the start. */
void lg_meter_stop(struct lg_meter *meter, double polling)
{
    meter->seconds = (double)(lg_now() - meter->start) / 1e9;
    meter->own = lg_cpu() - polling - meter->own;
}

/* Set `watched` to the CPU seconds that the watched process used since the
 * start, and `peak` to its peak memory, 0 if unknown. Call this when the
 * process has come to rest, so that its time is complete. */
void lg_meter_watched(struct lg_meter *meter)
{
    if (meter->peak)
        meter->peak = read_peak(meter->pid);
    meter->watched = cpu_of(meter->pid) - meter->watched;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Sort values, for lg_quantile. O(n log n) */
void lg_sort(uint64_t *values, size_t count)
{
    qsort(values, count, sizeof *values, by_size);
}

/* Returns the quantile `q` of sorted nanoseconds, in microseconds: the value
 * that a share `q` of them does not exceed. */
double lg_quantile(const uint64_t *values, size_t count, double q)
{
    size_t rank = (size_t)(q * (double)count);

    return (double)values[rank < count ? rank : count - 1] / 1e3;
}

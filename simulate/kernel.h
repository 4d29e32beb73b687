/* The simulated kernel, as Python and the core see it; see kernel.c. The
 * compiler reads all of it, cffi the part between the marks. */
#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "_clist.h"
/* --- cffi --- */

typedef struct sim_queue {
    char *data;
    size_t at, len, room;
} sim_queue;

/* One connection, from a client's connect on. */
typedef struct sim_conn {
    sim_queue in, out; /* to the server, and from it */
    size_t room;        /* the most bytes in `out` */
    uint64_t received;  /* bytes that the server has received */
    uint64_t mark;      /* a place in the bytes from the client */
    uint64_t mark_tick; /* the call of recv that received the mark; 0 before */
    int fd;
    unsigned char fin;    /* the client sends no more */
    unsigned char deaf;   /* the client has closed, and reads no more */
    unsigned char reset;  /* the connection was reset */
    unsigned char shut;   /* the server sends no more */
    unsigned char closed; /* the server has closed */
    unsigned char unread; /* the server closed with input in `in` */
    unsigned char sealed; /* encrypted: its bytes are no part of the trace */
} sim_conn;

void sim_begin(uint64_t seed, int traced);
void sim_faults(unsigned io, unsigned memory);
/* Let all allocations succeed, or let chance decide again. */
void sim_spare_memory(int spared);
/* The time that work has taken, in nanoseconds: system calls add to it by
 * themselves. */
void sim_spend(uint64_t ns);
uint64_t sim_spent(void);
void sim_note(uint64_t word);
uint64_t sim_trace_hash(void);
size_t sim_trace_text(const char **text);
const char *sim_misuse(void);
long sim_live(void);
const char *sim_site(size_t number);

sim_conn *sim_connect(size_t room);
void sim_drop(sim_conn *conn);
int sim_accept(sim_conn *conn);
/* What Python calls to receive and send; -errno if that fails. */
ssize_t sim_receive(int fd, char *to, size_t most, int flags);
ssize_t sim_transmit(int fd, const char *data, size_t len);
void sim_close(int fd);
int sim_shutdown(int fd);
int sim_ready(int fd);
size_t sim_feed(sim_conn *conn, const char *data, size_t len, size_t room);
size_t sim_drain(sim_conn *conn, char *to, size_t most);
void sim_forget_input(sim_conn *conn);
/* Watch an empty log: sim_read_log returns what is appended to it. */
void sim_watch(const cl_log *log);
/* What was logged since the last call; the memory is valid until the next. */
size_t sim_read_log(const char **data);
/* --- end --- */
#endif

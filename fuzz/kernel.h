/* The system calls that the core makes in the fuzzer; see kernel.c. */
#ifndef KERNEL_H
#define KERNEL_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

ssize_t kernel_recv(int fd, void *to, size_t most, int flags);
ssize_t kernel_send(int fd, const void *data, size_t len, int flags);
ssize_t kernel_sendmsg(int fd, const struct msghdr *msg, int flags);
int kernel_ioctl(int fd, unsigned long request, int *bytes);

#endif

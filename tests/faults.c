/* Makes one system call on one descriptor go wrong; for speedups/test_system_calls.py, which
 * loads it by LD_PRELOAD, before the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, SHORT, BLOCKED, INTERRUPTED, RESET, ABORTED, EXHAUSTED };

static int watched = -1, kind, touched;
static long number;

/* Have the at-th call on fd go wrong from now on. */
void fault_arm(int fd, long at, int how)
{
    watched = fd;
    number = at;
    kind = how;
    touched = 0;
}

/* Whether it did. */
int fault_touched(void)
{
    return touched;
}

/* 1: this call must do less than was asked; -1: it fails with errno; 0: it is fine. */
static int goes_wrong(int fd)
{
    static const int errors[] = {0,      0,          EAGAIN,      EINTR,
                                 ECONNRESET, ECONNABORTED, EMFILE};
    if (fd != watched || fd < 0 || kind == NOTHING || --number)
        return 0;
    touched = 1;
    if (kind == SHORT)
        return 1;
    errno = errors[kind];
    return -1;
}

/* The next realloc of a size from `low` to `high` fails; then `fault_touched`. */
static size_t lowest = 1, highest;

void fault_no_memory(size_t low, size_t high)
{
    lowest = low;
    highest = high;
    touched = 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *realloc(void *block, size_t size)
{
    if (size < lowest || size > highest)
        return REAL(realloc)(block, size);
    lowest = 1, highest = 0;
    touched = 1;
    errno = ENOMEM;
    return NULL;
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
    int wrong = goes_wrong(fd);
    if (wrong < 0)
        return -1;
    return REAL(recv)(fd, to, wrong && size ? 1 : size, flags);
}

ssize_t readv(int fd, const struct iovec *parts, int count)
{
    int wrong = goes_wrong(fd);
    if (wrong < 0)
        return -1;
    if (wrong && parts[0].iov_len)
        return REAL(recv)(fd, parts[0].iov_base, 1, 0);
    return REAL(readv)(fd, parts, count);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    int wrong = goes_wrong(fd);
    if (wrong < 0)
        return -1;
    return REAL(send)(fd, data, wrong && size ? 1 : size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    int wrong = goes_wrong(fd);
    if (wrong < 0)
        return -1;
    if (wrong && message->msg_iovlen && message->msg_iov[0].iov_len)
        return REAL(send)(fd, message->msg_iov[0].iov_base, 1, flags);
    return REAL(sendmsg)(fd, message, flags);
}

int shutdown(int fd, int how)
{
    if (goes_wrong(fd) < 0)
        return -1;
    return REAL(shutdown)(fd, how);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    if (goes_wrong(fd) < 0)
        return -1;
    return REAL(accept4)(fd, address, size, flags);
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout)
{
    if (goes_wrong(fd) < 0)
        return -1;
    return REAL(epoll_wait)(fd, events, count, timeout);
}

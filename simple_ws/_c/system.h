/* The system calls of the extension, and what stands in for them where there are none;
 * the only file that knows the systems apart. Included by `_c/system.pxi`.
 *
 * Windows: a socket is no descriptor there, so every socket is used by its methods
 * (SOCKET_CALLS is 0), as one with TLS is elsewhere. The functions that take a
 * descriptor fail there, and nothing calls them. */

#ifndef SIMPLE_WS_SYSTEM_H
#define SIMPLE_WS_SYSTEM_H

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32

#include <winsock2.h>
#include <ws2tcpip.h>

#ifdef _MSC_VER
#include <BaseTsd.h>
typedef SSIZE_T ssize_t;
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL __thread
#endif

struct iovec { void *iov_base; size_t iov_len; };
struct msghdr { struct iovec *msg_iov; size_t msg_iovlen; };
#define SHUT_RDWR SD_BOTH
#define same_letters _strnicmp

#else

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#define THREAD_LOCAL __thread
#define same_letters strncasecmp

#endif

/* SOCKET_CALLS_OFF: what Windows does, on the system at hand (`make methods`). */
#if defined(_WIN32) || defined(SOCKET_CALLS_OFF)

#define SOCKET_CALLS 0
static inline ssize_t no_call(void) { errno = ENOSYS; return -1; }
#define system_recv(fd, to, size, flags) \
    ((void)(fd), (void)(to), (void)(size), no_call())
#define system_send(fd, data, size, flags) \
    ((void)(fd), (void)(data), (void)(size), no_call())
#define system_sendmsg(fd, message, flags) ((void)(fd), (void)(message), no_call())
#define system_readv(fd, parts, count) \
    ((void)(fd), (void)(parts), (void)(count), no_call())
#define system_shutdown(fd, how) ((void)(fd), (int)no_call())
#define system_close(fd) ((void)(fd), (int)no_call())

#else

#define SOCKET_CALLS 1
#define system_recv recv
#define system_send send
#define system_sendmsg sendmsg
#define system_readv readv
#define system_shutdown shutdown
#define system_close close

#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS; Python ignores SIGPIPE anyway */
#endif

static inline int would_block(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

#if defined(__linux__) && SOCKET_CALLS

#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#define SIMPLE_WS_EPOLL 1
#define HAVE_ACCEPT4 1
#define HAVE_MONOTONIC 1

/* What time.monotonic() reads on Linux, without a Python object (22 ns). */
static inline double monotonic_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int accept_at_once(int fd, struct sockaddr *a, socklen_t *n) {
    return accept4(fd, a, n, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* Bytes that the peer has not acknowledged, see `reactor.unsent_by_system`. */
static inline int unsent_by_system(int fd) {
    int left = 0;
    return ioctl(fd, SIOCOUTQ, &left) < 0 ? 0 : left;
}

#else

/* Elsewhere `Poller` is None and selectors.DefaultSelector serves. */
#define SIMPLE_WS_EPOLL 0
#define HAVE_ACCEPT4 0
#define HAVE_MONOTONIC 0
#define EPOLLIN 1
#define EPOLLOUT 4
#define EPOLLERR 8
#define EPOLLHUP 16
#define EPOLL_CTL_ADD 1
#define EPOLL_CTL_DEL 2
#define EPOLL_CTL_MOD 3
#define EPOLL_CLOEXEC 0
typedef union { uint64_t u64; } epoll_data_t;
struct epoll_event { uint32_t events; epoll_data_t data; };

static inline int epoll_create1(int f) { (void)f; errno = ENOSYS; return -1; }
static inline int epoll_ctl(int e, int o, int f, struct epoll_event *v) {
    (void)e, (void)o, (void)f, (void)v;
    errno = ENOSYS;
    return -1;
}
static inline int epoll_wait(int e, struct epoll_event *v, int n, int t) {
    (void)e, (void)v, (void)n, (void)t;
    errno = ENOSYS;
    return -1;
}
static inline double monotonic_seconds(void) { return 0.0; }
static inline int accept_at_once(int fd, struct sockaddr *a, socklen_t *n) {
    (void)fd, (void)a, (void)n;
    errno = ENOSYS;
    return -1;
}
static inline int unsent_by_system(int fd) { (void)fd; return 0; }

#endif

#endif

# The system calls used by the files that are included after this one; `_c/system.h`
# has what stands in for them where there are none.

cdef extern from "_c/system.h":
    #: Whether a plain socket is used by its descriptor; else by its methods.
    bint SOCKET_CALLS
    bint SIMPLE_WS_EPOLL
    bint HAVE_ACCEPT4
    bint HAVE_MONOTONIC

    int errno
    int EAGAIN, ECONNABORTED, EINTR, ENOSYS
    int64_t INT64_MAX, INT64_MIN
    double INFINITY, NAN
    bint isnan(double number) nogil
    bint would_block(int error) nogil
    double monotonic_seconds() nogil
    int same_letters(const char* one, const char* other, size_t size) nogil

    int MSG_NOSIGNAL
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_recv "system_recv"(int fd, void* to, size_t size, int flags) nogil
    ssize_t c_send "system_send"(
        int fd, const void* data, size_t size, int flags
    ) nogil
    ssize_t c_sendmsg "system_sendmsg"(int fd, const msghdr* message, int flags) nogil
    ssize_t c_readv "system_readv"(int fd, const iovec* parts, int count) nogil
    enum:
        SHUT_RDWR
    int c_shutdown "system_shutdown"(int fd, int how) nogil
    int c_close "system_close"(int fd) nogil
    int unsent_by_system(int fd) nogil

    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) nogil
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout) nogil

    enum:
        AF_INET, AF_INET6
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct in_addr:
        pass
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct sockaddr_storage:
        unsigned short ss_family
    int accept_at_once(int fd, sockaddr* address, socklen_t* size) nogil
    const char* inet_ntop(int family, const void* source, char* to, socklen_t n) nogil
    uint16_t ntohs(uint16_t number) nogil
    bint IN6_IS_ADDR_V4MAPPED(const in6_addr* address) nogil

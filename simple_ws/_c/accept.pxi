# Accepting connections from a listening socket; included by `_speedups.pyx`.
#
# `socket.accept` and `setblocking` take 7.8 µs, two system calls more than needed and a
# Python frame; this takes half of that, of some 65 µs for a whole handshake.

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <sys/socket.h>
    #ifdef __linux__
    #define HAVE_ACCEPT4 1
    static inline int accept_at_once(int fd, struct sockaddr *a, socklen_t *n) {
        return accept4(fd, a, n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    #else
    #define HAVE_ACCEPT4 0
    static inline int accept_at_once(int fd, struct sockaddr *a, socklen_t *n) {
        errno = ENOSYS;
        return -1;
    }
    #endif
    """
    bint HAVE_ACCEPT4
    enum:
        AF_INET, AF_INET6, SOCK_STREAM
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


cdef object accept_by_method(object sock):
    accepted, address = sock.accept()
    accepted.setblocking(False)
    return accepted, readable(address)


cdef object readable(object address):
    """(host, port) of a peer; IPv4 peers have IPv4 addresses on dual-stack sockets."""
    if not isinstance(address, tuple):
        return address
    return shared_text(address[0].removeprefix("::ffff:")), address[1]


cdef object address_of(sockaddr_storage* address):
    """The same for the system's own form; None if Python must convert it."""
    cdef char text[64]
    cdef sockaddr_in* four = <sockaddr_in*> address
    cdef sockaddr_in6* six = <sockaddr_in6*> address
    cdef uint16_t port
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text))
        port = four.sin_port
    elif address.ss_family == AF_INET6 and six.sin6_scope_id == 0:
        if IN6_IS_ADDR_V4MAPPED(&six.sin6_addr):
            inet_ntop(AF_INET, &six.sin6_addr.s6_addr[12], text, sizeof(text))
        else:
            inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
        port = six.sin6_port
    else:
        return None
    return shared_text(text.decode("ascii")), ntohs(port)


def accept_from(sock: socket.socket) -> tuple[socket.socket, Any]:
    """Accept a connection, non-blocking, with the address of its peer.

    Returns:
        The socket, and (host, port) or the address format of its family; IPv4 peers
        have an IPv4 address even on a socket for both families.

    Raises:
        OSError: As from `socket.accept`.
    """
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef int fd
    if not HAVE_ACCEPT4 or type(sock) is not _plain_socket:
        return accept_by_method(sock)
    fd = accept_at_once(sock.fileno(), <sockaddr*> &address, &size)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    # `sock.family` and `sock.type` would look up members of enums.
    try:
        accepted = _plain_socket(address.ss_family, SOCK_STREAM, 0, fd)
    except BaseException:
        c_close(fd)
        raise
    try:
        # From `socket.setdefaulttimeout`: Python itself would wait for the peer.
        if accepted.gettimeout() is not None:
            accepted.setblocking(False)
        peer = address_of(&address)
        if peer is None:
            peer = readable(accepted.getpeername())
    except BaseException:
        accepted.close()
        raise
    return accepted, peer

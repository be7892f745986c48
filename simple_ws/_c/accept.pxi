# Accepting connections from a listening socket; included by `_speedups.pyx`.
#
# `socket.accept` and `setblocking` take 7.8 µs, two system calls more than needed and a
# Python frame; this takes half of that, of some 65 µs for a whole handshake.


cdef enum:
    HOST_SIZE = 64  # of an IPv6 address as text: 46


cdef object accept_by_method(object sock):
    accepted, address = sock.accept()
    accepted.setblocking(False)
    return accepted, readable(address)


cdef object readable(object address):
    """(host, port) of a peer; IPv4 peers have IPv4 addresses on dual-stack sockets."""
    if not isinstance(address, tuple):
        return address
    return shared_text(address[0].removeprefix("::ffff:")), address[1]


cdef int peer_of(sockaddr_storage* address, char* host) noexcept:
    """Write the host of an address, 64 bytes at most; return the port, or -1 if Python
    must convert it."""
    cdef sockaddr_in* four = <sockaddr_in*> address
    cdef sockaddr_in6* six = <sockaddr_in6*> address
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, host, HOST_SIZE)
        return ntohs(four.sin_port)
    if address.ss_family != AF_INET6 or six.sin6_scope_id != 0:
        return -1
    if IN6_IS_ADDR_V4MAPPED(&six.sin6_addr):
        inet_ntop(AF_INET, &six.sin6_addr.s6_addr[12], host, HOST_SIZE)
    else:
        inet_ntop(AF_INET6, &six.sin6_addr, host, HOST_SIZE)
    return ntohs(six.sin6_port)


cdef object shared_address(const char* host, int port):
    return shared_text(host.decode("ascii")), port


cdef object socket_of(int fd):
    """A socket object for a connection; a closed one if it is closed."""
    cdef object sock
    if fd < 0:
        sock = _plain_socket()
        sock.close()
        return sock
    sock = _plain_socket(fileno=fd)
    # From `socket.setdefaulttimeout`: Python itself would wait for the peer.
    if sock.gettimeout() is not None:
        sock.setblocking(False)
    return sock


cdef int accept_fd(object sock, sockaddr_storage* address) except -1:
    """Accept a connection, non-blocking, without an object for its socket."""
    cdef socklen_t size = sizeof(sockaddr_storage)
    cdef int fd = accept_at_once(sock.fileno(), <sockaddr*> address, &size)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    return fd


cdef object owned_socket(int fd):
    """`socket_of`; the descriptor is closed if that fails."""
    try:
        return socket_of(fd)
    except BaseException:
        c_close(fd)
        raise


cdef tuple named_socket(int fd):
    """A socket for a connection, and its peer's address as Python converts it."""
    accepted = owned_socket(fd)
    try:
        return accepted, readable(accepted.getpeername())
    except BaseException:
        accepted.close()
        raise


def accept_from(sock: socket.socket) -> tuple[socket.socket, Any]:
    """Accept a connection, non-blocking, with the address of its peer.

    Returns:
        The socket, and (host, port) or the address format of its family; IPv4 peers
        have an IPv4 address even on a socket for both families.

    Raises:
        OSError: As from `socket.accept`.
    """
    cdef sockaddr_storage address
    cdef char host[HOST_SIZE]
    cdef int fd, port
    if not HAVE_ACCEPT4 or type(sock) is not _plain_socket:
        return accept_by_method(sock)
    fd = accept_fd(sock, &address)
    port = peer_of(&address, host)
    if port < 0:
        return named_socket(fd)
    return owned_socket(fd), shared_address(host, port)

# The beginning and the end of connections that plans have opened, as far as Python has
# nothing to decide about them; included by `_speedups.pyx` before `_c/opening.pxi`.
#
# What is done here is what `connection.client`, `connection.keepalive` and
# `connection.closing` do, in the same order.


cdef int watch_anew(LoopState loop, ConnectionCore client) except -1:
    """Register a connection for reading."""
    if client.fd >= 0 and type(loop._poller) is Poller:
        (<Poller> loop._poller).watch(client.fd, READ_READY, client)
        if loop.eager:
            loop.on_dirty()
    else:
        loop.register(client._sock, READ_READY, client)
    return 0


cdef int start_heartbeat(ConnectionCore client) except -1:
    """As `KeepAlive.start`: a plan's connections have no other."""
    cdef double when
    client._pings_itself = True
    when = next_look(client, client._loop.now)
    if when != NEVER:
        (<Wheel?> client._loop.wheel).insert(client, when)
    return 0


cdef int call_user(ConnectionCore client, object callback) except -1:
    """Call a callback of a connection, as `UserCalls.call` does."""
    cdef LoopState loop = client._loop
    cdef double began = loop.read_clock()
    cdef double spent
    cdef object failure = None
    try:
        callback(client)
    except BaseException as error:
        failure = error
    spent = loop.read_clock() - began
    if spent > loop.slow:
        owner = client._handler._log_name
        client._host._log.note_slow_call(client, owner, callback, spent)
    if isinstance(failure, Exception):
        client._on_callback_error(failure)
    elif failure is not None:
        client._interrupt(failure)
    return 0


cdef bint end_by_plan(ConnectionCore client, int error) except -1:
    """End a connection that its peer has ended, or by an error; false where
    `connection.closing` must.

    Nothing waits to be sent, and no close frame has passed.
    """
    cdef LoopState loop = client._loop
    if (
        client.own_protocol is not None
        or client.waiting
        or client._timer is not None
        or client._unregistered
        or client._ended
        or not client._attached
        or client.fd < 0
        or type(loop._poller) is not Poller
    ):
        return False
    client._protocol = client.plan.ended(os.strerror(error) if error else None)
    client._sync()
    give_back_socket(client, <Poller> loop._poller, error == 0)
    client._ended = True
    unlink(&client.in_wheel)
    client.plan.leave(client)
    call_user(client, client._handler.on_close)
    return True


cdef int give_back_socket(
    ConnectionCore client, Poller poller, bint shut
) except -1:
    """As `Closing._release`; `shut`: so that the peer sees its end (`forks`)."""
    client._attached = False
    client.discard()
    poller.forget(client.fd)
    if shut:
        c_shutdown(client.fd, SHUT_RDWR)
    if client.owns_fd:
        c_close(client.fd)
    else:
        client.own_sock.close()
    client.fd = -1
    return 0

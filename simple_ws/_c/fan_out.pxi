# One message to many connections; included by `_speedups.pyx` after
# `_c/connection.pxi`.

def fan_out(
    members: Iterable[ConnectionCore], msg: object, exclude: Collection[ConnectionCore]
) -> int:
    """Send one message to many clients: encoded once, and compressed once.

    Args:
        members: the receivers, except for those in `exclude`.
        msg: as for `ConnectionCore.write_message`.
        exclude: clients that do not receive it.

    Returns:
        How many clients accepted it.

    Raises:
        TypeError: A message of a type that cannot be sent.
    """
    cdef int taken = 0
    cdef uint8_t opcode
    cdef Py_ssize_t size
    cdef const uint8_t* data
    cdef object owner = msg
    cdef bytes payload
    cdef ConnectionCore member
    if type(msg) is str:
        opcode = TEXT_OPCODE
        data = <const uint8_t*> PyUnicode_AsUTF8AndSize(msg, &size)
    else:
        opcode, owner = encode_message(msg, None)
        payload = owner = exact_bytes(owner)
        data = <const uint8_t*> PyBytes_AS_STRING(payload)
        size = PyBytes_GET_SIZE(payload)
    for client in members:
        member = <ConnectionCore?> client
        if exclude and member in exclude:
            continue
        if member.own_write:
            taken += 1 if member.write_message(msg) else 0
            continue
        if member._loop.source is not owner:
            member._loop.source = owner
            member._loop.packed = None
        if member.write(opcode, owner, data, <size_t> size) is not _DROPPED:
            taken += 1
    return taken

# One message to many connections; included by `_speedups.pyx` after
# `_c/latest.pxi`.

cdef enum:
    #: A message to so many is framed once, and referred to; to fewer it is copied.
    MANY_RECEIVERS = 4


cdef struct Encoded:
    const uint8_t* data
    size_t size
    uint8_t opcode


cdef inline object encode_for_all(object msg, Encoded* encoded):
    """Encode a message; the result keeps its bytes alive."""
    cdef Py_ssize_t size
    cdef bytes payload
    if type(msg) is str:
        encoded.opcode = TEXT_OPCODE
        encoded.data = <const uint8_t*> PyUnicode_AsUTF8AndSize(msg, &size)
        encoded.size = <size_t> size
        return msg
    if type(msg) is bytes:
        encoded.opcode, payload = BINARY_OPCODE, msg
    elif type(msg) is dict or type(msg) is list:
        encoded.opcode, payload = TEXT_OPCODE, json_bytes(msg)
    else:
        encoded.opcode, owner = encode_message(msg, None)
        payload = exact_bytes(owner)
    encoded.data = <const uint8_t*> PyBytes_AS_STRING(payload)
    encoded.size = <size_t> PyBytes_GET_SIZE(payload)
    return payload


cdef inline int write_shared(
    ConnectionCore member, object msg, object owner, const Encoded* encoded
) except -1:
    """Write a message that goes to others, too; return whether it was accepted."""
    if encoded == NULL or member.own_write:
        return bool(member.write_message(msg))
    return write_encoded(member, owner, encoded)


cdef inline int write_encoded(
    ConnectionCore member, object owner, const Encoded* encoded
) except -1:
    """Write it as it is; return whether it was accepted."""
    cdef LoopState loop = member._loop
    if member.packing and loop.source is not owner:
        loop.source = owner
        loop.packed = None
    return (
        member.write(encoded.opcode, owner, encoded.data, encoded.size) is not _DROPPED
    )


def fan_out(
    members: Iterable[ConnectionCore],
    msg: object,
    exclude: Collection[ConnectionCore],
    raw: bool = False,
) -> int:
    """Send one message to many clients: encoded once, and compressed once.

    Args:
        members: the receivers, except for those in `exclude`.
        msg: as for `ConnectionCore.write_message`.
        exclude: clients that do not receive it.
        raw: it is sent as it is: a `write_message` of their own would change it.

    Returns:
        How many clients accepted it.

    Raises:
        TypeError: A message of a type that cannot be sent.
    """
    cdef list receivers = members if type(members) is list else list(members)
    cdef ConnectionCore receiver
    for client in receivers:
        receiver = <ConnectionCore?> client
    return write_to_each(receivers, msg, exclude, None, raw)


cdef int write_to_each(
    list receivers, object msg, object exclude, ConnectionCore sender, bint raw
) except -1:
    """See `fan_out`; `sender` does not receive it either."""
    cdef int taken = 0
    cdef Encoded encoded
    cdef object owner = encode_for_all(msg, &encoded)
    cdef bint some_excluded = exclude is not _NOBODY and bool(exclude)
    cdef bytes frame = None
    cdef size_t limit = 0
    cdef ConnectionCore member
    cdef LoopState told = None
    if len(receivers) >= MANY_RECEIVERS and encoded.size <= COPY_LIMIT:
        limit = (<ConnectionCore> receivers[0]).max_frame_size
        frame = frame_for_all(&encoded, limit)
    for client in receivers:
        member = <ConnectionCore> client
        if member is sender or (some_excluded and member in exclude):
            continue
        if frame is not None and (raw or not member.own_write) and (
            member.takes_frame(encoded.size, limit)
        ):
            member.write_frame_of_all(frame)
            taken += 1
            if member._loop is not told:
                told = member._loop
                if told.eager:
                    told.on_dirty()
        elif raw:
            taken += write_encoded(member, owner, &encoded)
        else:
            taken += write_shared(member, msg, owner, &encoded)
    return taken


cdef bytes frame_for_all(const Encoded* encoded, size_t limit):
    """A message as a frame, or several, that many outboxes refer to."""
    cdef size_t wire = wire_size(encoded.size, limit)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> wire)
    write_frames(
        <uint8_t*> PyBytes_AS_STRING(frame),
        encoded.opcode,
        encoded.data,
        encoded.size,
        limit,
    )
    return frame


def fan_out_latest(
    members: Iterable[ConnectionCore],
    msg: object,
    exclude: Collection[ConnectionCore],
    slot: object,
) -> int:
    """Like `fan_out`, where it replaces what waits of the same slot.

    While a client does not take its output, only the newest message of each slot waits
    for it, in the place of the older one. A message that the system has taken in part
    is not replaced.

    Args:
        members: the receivers, except for those in `exclude`.
        msg: as for `ConnectionCore.write_message`.
        exclude: clients that do not receive it.
        slot: stands for what the message is about; compared by identity.

    Returns:
        How many clients accepted it.

    Raises:
        TypeError: A message of a type that cannot be sent.
    """
    cdef int taken = 0
    cdef Encoded encoded
    cdef object owner = encode_for_all(msg, &encoded)
    cdef ConnectionCore member
    for client in members:
        member = <ConnectionCore?> client
        if exclude and member in exclude:
            continue
        taken += write_slot(member, msg, owner, &encoded, slot)
    return taken


def write_latest(member: ConnectionCore, msg: object, slot: object) -> bool:
    """Like `member.write_message(msg)`, where it replaces what waits of the same slot.

    Args:
        member: the receiver.
        msg: what its `write_message` takes.
        slot: as for `fan_out_latest`.

    Returns:
        Whether it was accepted.

    Raises:
        Exception: What `write_message` raises.
    """
    return bool(write_slot(<ConnectionCore?> member, msg, None, NULL, slot))


cdef int write_slot(
    ConnectionCore member,
    object msg,
    object owner,
    const Encoded* encoded,
    object slot,
) except -1:
    """Write a message of a slot; return whether it was accepted."""
    cdef int64_t before = member.messages_sent
    cdef Latest latest = member.latest
    cdef int taken = False
    cdef bint noted = False
    if latest is not None:
        latest.spare = latest.size_of(member, slot)
    member.alone = True
    try:
        taken = write_shared(member, msg, owner, encoded)
        if taken and member.messages_sent == before + 1:
            note_slot(member, slot)
            noted = True
    finally:
        member.alone = False
        if latest is not None:
            latest.spare = 0
        # It was sent as several messages, by an exception half, or not by itself.
        if not noted and member.messages_sent != before:
            forget_slot(member, slot)
    return taken

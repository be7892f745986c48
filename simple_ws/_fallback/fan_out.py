"""One message to many connections; the twin of `_c/fan_out.pxi`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from ..messages import encode_message
from .connection import ConnectionCore
from .latest import forget_slot, note_slot

__all__ = ["fan_out", "fan_out_latest", "write_latest"]


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
    opcode, payload = encode_message(msg, None)
    source = msg if type(msg) is str else payload
    taken = 0
    for member in members:
        if exclude and member in exclude:
            continue
        # `_write_shared`, without the call for each receiver.
        if not raw and type(member).write_message is not ConnectionCore.write_message:
            taken += bool(member.write_message(msg))
            continue
        if member._loop._source is not source:
            member._loop._note_source(source)
        taken += bool(member._send_from(source, opcode, payload))
    return taken


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
    opcode, payload = encode_message(msg, None)
    source = msg if type(msg) is str else payload
    taken = 0
    for member in members:
        if not exclude or member not in exclude:
            write = partial(_write_shared, member, msg, source, opcode, payload)
            taken += _write_slot(member, write, slot)
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
    return _write_slot(member, partial(member.write_message, msg), slot)


def _write_shared(
    member: ConnectionCore, msg: object, source: object, opcode: int, payload: bytes
) -> object:
    """Write a message that goes to others, too; return whether it was accepted."""
    if type(member).write_message is not ConnectionCore.write_message:
        return member.write_message(msg)
    if member._loop._source is not source:
        member._loop._note_source(source)
    return member._send_from(source, opcode, payload)


def _write_slot(
    member: ConnectionCore, write: Callable[[], object], slot: object
) -> bool:
    """Write a message of a slot; return whether it was accepted."""
    before, latest, noted = member.messages_sent, member._latest, False
    if latest is not None:
        latest.spare = latest.size_of(member, slot)
    member._alone = True
    try:
        taken = bool(write())
        # Read together, without a call: a signal handler may write after any.
        end, frame = member.bytes_sent + member._waiting, None
        if member._outbox:
            frame = member._outbox[-1]
        if taken and member.messages_sent == before + 1:
            note_slot(member, slot, end, frame)
            noted = True
    finally:
        member._alone = False
        if latest is not None:
            latest.spare = 0
        # It was sent as several messages, by an exception half, or not by itself.
        if not noted and member.messages_sent != before:
            forget_slot(member, slot)
    return taken

"""Conflation: of messages that wait for a slow peer, the newest takes the place of an
older one; the twin of `_c/latest.pxi`.

A slot stands for what messages are about: a topic and a key. It is any object, and
compared by identity, so that no code of users runs in here.

While the peer takes everything, it is only noted where each message with a slot ends in
the stream (a mark). When the system takes no more, places are given to those that wait;
from then on a new message is put into the outbox as any other, and moved to the place
of the older one. Messages sent in part, or passed to a socket's method, stay.

A signal handler may run after any call, and write: it only queues while `_writing` is
set, and what must not be torn apart contains no call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import ConnectionCore
    from .outbox import Outbox

__all__ = ["Latest", "forget_slot", "note_slot"]

_CONTROL = 0x08


class Latest:
    """Which of the waiting messages of one connection may be replaced.

    Attributes:
        marks: where messages end in the stream of output, with their slots.
        spare: bytes that the message being written replaces.
    """

    __slots__ = ("_places", "_slots", "marks", "spare")

    def __init__(self) -> None:
        self.marks: list[tuple[int, object]] = []
        self.spare = 0
        # The place of the newest message, by slot, and the slot, by place: how many
        # messages left the outbox before, and its index. Places only grow.
        self._places: dict[object, int] = {}
        self._slots: dict[int, object] = {}

    def takes(self, outbox: Outbox, size: int) -> bool:
        """Whether a message has room in the place of the one that it replaces."""
        if not self.spare:
            return False
        waiting, loop = outbox._waiting - outbox._offering, outbox._loop
        return size <= self.spare or (
            waiting + size <= outbox._write_limit + self.spare
            and loop.buffered <= loop.buffered_limit
        )

    def find(self, outbox: Outbox, slot: object) -> int | None:
        """The index of the waiting message of a slot that may be replaced, or None."""
        place = self._places.get(slot)
        if place is None:
            return None
        index = place - outbox._popped
        return index if index >= outbox._begun() else None

    def size_of(self, outbox: Outbox, slot: object) -> int:
        """Bytes of the waiting message of a slot that may be replaced, or 0."""
        index = self.find(outbox, slot)
        try:
            return 0 if index is None else len(outbox._outbox[index])
        except IndexError:
            return 0  # the connection has ended meanwhile

    def forget(self, slot: object) -> None:
        """What waits of a slot is sent as it is: something newer is behind it that
        cannot be replaced."""
        self._places.pop(slot, None)
        self.marks = [mark for mark in self.marks if mark[1] is not slot]

    def forget_place(self, place: int) -> None:
        """The message there leaves, or must stay as it is."""
        slot = self._slots.pop(place, None)
        if slot is not None and self._places.get(slot) == place:
            del self._places[slot]

    def begin(self, member: ConnectionCore) -> None:
        """The peer has fallen behind: what waits is conflated, too."""
        outer, member._writing = member._writing, True
        marks, self.marks = self.marks, []
        sent, done = member.messages_sent, bool(self._places)
        try:
            if not done:
                self._tag_marked(member, marks)
            done = member.messages_sent == sent
        except IndexError:
            pass  # other code has ended the connection
        finally:
            if not done:  # other code has published or raised: all is sent as it is
                self._places.clear()
            member._writing = outer

    def _tag_marked(self, outbox: Outbox, marks: list[tuple[int, object]]) -> None:
        waiting, begun = outbox._outbox, outbox._begun()
        end, count = outbox.bytes_sent, 0
        for mark, slot in marks:
            while count < len(waiting) and end < mark:
                end += len(waiting[count])
                count += 1
            if count <= begun:
                continue  # it has left, or must
            if end == mark and not waiting[count - 1][0] & _CONTROL:
                count -= self.tag(outbox, count - 1, slot)
            else:
                self.forget(slot)

    def tag(self, outbox: Outbox, index: int, slot: object) -> bool:
        """The message there is of a slot; return whether it was moved to the place of
        an older one.

        Raises:
            IndexError: The connection has ended meanwhile.
        """
        waiting = outbox._outbox
        newer, older = waiting[index], self.find(outbox, slot)
        if older is None:
            place = outbox._popped + index
            self._slots[place] = slot
            self._places[slot] = place
            return False
        size = len(waiting[older])
        if waiting[index] is not newer:
            raise IndexError
        # Without a call from here on.
        waiting[older] = newer
        del waiting[index]
        outbox._waiting -= size
        outbox._loop.buffered -= size
        outbox._checked_counters.conflated += 1
        return True

    def forget_gone(self, outbox: Outbox) -> None:
        """Forget the places that have left the outbox."""
        while self._slots:
            place = next(iter(self._slots))
            if place >= outbox._popped:
                return
            self.forget_place(place)


def note_slot(
    member: ConnectionCore, slot: object, end: int, frame: bytes | memoryview | None
) -> None:
    """The message that was accepted last is of this slot.

    Args:
        member: who it was sent to.
        slot: what it is about.
        end: its end in the stream of output.
        frame: the last in the outbox, or None.
    """
    latest, sent = member._latest, member.messages_sent
    if latest is None:
        if frame is None:
            return
        latest = member._latest = Latest()
    if not member._write_blocked:
        latest.marks.append((end, slot))
        return
    if member._writing and not member._offering:
        latest.forget(slot)  # called by code that interrupts a write: only queue
        return
    outer, member._writing = member._writing, True
    done = False
    try:
        latest.forget_gone(member)
        index = len(member._outbox) - 1
        is_last = index >= member._begun() and member._outbox[index] is frame
        if is_last and not member._outbox[index][0] & _CONTROL:
            latest.tag(member, index, slot)
            done = member.messages_sent == sent
    except IndexError:
        pass  # other code has ended the connection
    finally:
        if not done:  # other code has published or raised
            latest.forget(slot)
        member._writing = outer


def forget_slot(member: ConnectionCore, slot: object) -> None:
    """What waits of this slot is sent as it is."""
    if member._latest is not None:
        member._latest.forget(slot)

# Conflation: of messages that wait for a slow peer, the newest takes the place of an
# older one; the twin of `_fallback/latest.py`. Included by `_speedups.pyx` after
# `_c/connection.pxi`.
#
# A slot stands for what messages are about: a topic and a key. It is any object, and
# compared by identity, so that no code of users runs in here.
#
# While the peer takes everything, it is only noted where each message with a slot ends
# in the stream (a mark). When the system takes no more, the marks become tags of the
# items that wait; from then on a new message is put into the queue as any other, and
# moved to the place of the older one. Messages sent in part, or passed to a socket's
# method, stay.

cdef struct Mark:
    int64_t end  # offset in the stream of output
    PyObject* slot


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Latest:
    """Which of the waiting messages of one connection may be replaced."""

    cdef dict index  # place of the newest message, by slot; None until the peer blocks
    cdef Mark* marks
    cdef uint32_t count
    cdef uint32_t room
    cdef size_t spare  # bytes that the message being written replaces

    def __dealloc__(self):
        self.forget_marks()
        free(self.marks)

    cdef void forget_marks(self) noexcept:
        while self.count:
            self.count -= 1
            Py_XDECREF(self.marks[self.count].slot)

    cdef int mark(self, int64_t end, object slot) except -1:
        """A message of a slot ends here."""
        cdef Mark* moved
        cdef uint32_t room
        if self.count == self.room:
            room = max(<uint32_t> 4, self.room * 2)
            moved = <Mark*> realloc(self.marks, room * sizeof(Mark))
            if moved == NULL:
                raise MemoryError
            self.marks = moved
            self.room = room
        Py_INCREF(slot)
        self.marks[self.count].end = end
        self.marks[self.count].slot = <PyObject*> slot
        self.count += 1
        return 0

    cdef int forget(self, object slot) except -1:
        """What waits of a slot is sent as it is: something newer is behind it that
        cannot be replaced."""
        cdef uint32_t index
        cdef uint32_t kept = 0
        if self.index is not None:
            self.index.pop(slot, None)
        for index in range(self.count):
            if self.marks[index].slot == <PyObject*> slot:
                Py_XDECREF(self.marks[index].slot)
            else:
                self.marks[kept] = self.marks[index]
                kept += 1
        self.count = kept
        return 0

    cdef Item* find(self, Outbox outbox, object slot) except? NULL:
        """The waiting message of a slot that may be replaced, or NULL."""
        cdef uint32_t number
        cdef Item* item
        if self.index is None:
            return NULL
        place = self.index.get(slot)
        if place is None:
            return NULL
        number = <uint32_t> place - outbox.popped
        if number >= outbox.queue_used or number < outbox.begun():
            return NULL
        item = outbox.queue + outbox.queue_start + number
        return item if item.slot == <PyObject*> slot else NULL

    cdef size_t size_of(self, Outbox outbox, object slot) except? 0:
        """Bytes of the waiting message of a slot that may be replaced, or 0."""
        cdef Item* item = self.find(outbox, slot)
        return item.wire if item != NULL else 0

    cdef bint takes(self, ConnectionCore outbox, size_t size) noexcept:
        """Whether a message has room in the place of the one that it replaces."""
        cdef size_t waiting = outbox.waiting - outbox.offering
        cdef LoopState loop = outbox._loop
        if not self.spare:
            return False
        return size <= self.spare or (
            waiting + size <= outbox._write_limit + self.spare
            and loop.buffered <= loop.buffered_limit
        )

    cdef int begin(self, Outbox outbox) except -1:
        """The peer has fallen behind: what waits is conflated, too."""
        if self.index is None:
            self.index = {}  # the first step: this may run other code
        outbox.queue_small()
        self.tag_marked(outbox)
        self.forget_marks()
        return self.conflate_tagged(outbox)

    cdef int tag_marked(self, Outbox outbox) except -1:
        cdef uint32_t begun = outbox.begun()
        cdef int64_t end = outbox.bytes_sent
        cdef uint32_t number = 0
        cdef uint32_t index
        cdef Item* item = NULL
        for index in range(self.count):
            while number < outbox.queue_used and end < self.marks[index].end:
                item = outbox.queue + outbox.queue_start + number
                end += <int64_t> (item.wire - item.sent)
                number += 1
            if item == NULL or number <= begun:
                continue  # it has left, or must
            if end == self.marks[index].end and item.slot == NULL and may_drop(item):
                Py_XINCREF(self.marks[index].slot)
                item.slot = self.marks[index].slot
            else:
                self.untag_all(outbox, number, self.marks[index].slot)
        return 0

    cdef int untag_all(
        self, Outbox outbox, uint32_t end, PyObject* slot
    ) except -1:
        """What is before `end` of a slot is sent as it is."""
        cdef uint32_t number
        cdef Item* item
        for number in range(end):
            item = outbox.queue + outbox.queue_start + number
            if item.slot == slot:
                outbox.untag(item)
        return 0

    cdef int conflate_tagged(self, Outbox outbox) except -1:
        """Of each slot keep the newest message, in the place of the oldest."""
        cdef uint32_t number
        cdef uint32_t kept = 0
        cdef uint32_t used = outbox.queue_used
        cdef Item* items = outbox.queue + outbox.queue_start
        cdef Item* older
        try:
            for number in range(used):
                if items[number].slot != NULL:
                    older = self.find(outbox, <object> items[number].slot)
                    if older != NULL and older < items + number:
                        replace_item(outbox, older, items + number)
                        continue
                    self.index[<object> items[number].slot] = outbox.popped + kept
                items[kept] = items[number]
                kept += 1
        except MemoryError:  # the rest is sent as it is
            while number < used:
                items[kept] = items[number]
                kept += 1
                number += 1
            self.index.clear()
        outbox.queue_used = kept
        return 0


cdef void replace_item(Outbox outbox, Item* older, Item* newer) noexcept:
    """Put a message in the place of an older one of its slot; the newer item is void
    afterwards."""
    cdef Item gone = older[0]
    outbox.waiting -= gone.wire
    outbox._loop.buffered -= <int64_t> gone.wire
    outbox.counters.conflated += 1
    older[0] = newer[0]
    older.slot = gone.slot
    Py_XDECREF(newer.slot)
    outbox.release_item(&gone)


cdef int note_slot(ConnectionCore member, object slot) except -1:
    """The message that was accepted last is of this slot."""
    cdef Item* older
    cdef Item* newer
    cdef Latest latest = member.latest
    if latest is None:
        if not member.waiting:
            return 0
        latest = member.latest = Latest()
    if not member._write_blocked:
        return latest.mark(member.bytes_sent + <int64_t> member.waiting, slot)
    if latest.index is None:
        latest.index = {}  # the first step: this may run other code
    member.queue_small()
    newer = member.queue + member.queue_start + member.queue_used - 1
    if member.begun() >= member.queue_used or not may_drop(newer):
        return latest.forget(slot)
    older = latest.find(member, slot)
    if older == NULL:
        latest.index[slot] = member.popped + member.queue_used - 1
        Py_INCREF(slot)
        newer.slot = <PyObject*> slot
    else:
        member.queue_used -= 1
        replace_item(member, older, newer)
    return 0


cdef int forget_slot(ConnectionCore member, object slot) except -1:
    """What waits of this slot is sent as it is."""
    if member.latest is not None:
        member.latest.forget(slot)
    return 0

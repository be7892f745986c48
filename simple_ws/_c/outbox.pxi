# Output that waits to be sent to one peer; the twin of `_fallback/outbox.py`. Included
# by `_speedups.pyx` after `_c/loop.pxi`.
#
#   `small`   output of this turn, frames copied one after the other; without a room
#             (`small_room` is 0) the one frame that other outboxes refer to, too
#   `queue`   output that is too large to copy, or that waits for the peer
#
# `small` is always sent before `queue`, and takes nothing once `queue` holds output.
#
# User code may run wherever Python is called, and wherever an object is created that
# the garbage collector tracks (a list, a memoryview, an exception; not bytes): signal
# handlers, `__del__`, `gc.callbacks`, the methods of a socket. It may write, drop and
# end the connection. So nothing that can run Python comes between inspecting the queue
# and using the result; owners are exactly bytes or str, whose deallocation runs no
# code; and output passed to a socket's method (`offering`) stays in its place.

cdef extern from *:
    """
    /* Give back a reference to the bytes object with this content. */
    static inline void release_bytes(uint8_t *content) {
        Py_DECREF((PyObject *)(content - offsetof(PyBytesObject, ob_sval)));
    }
    """
    void release_bytes(uint8_t* content) noexcept


cdef enum:
    FINAL = 0x80
    CONTROL = 0x08
    #: Buffers of one sendmsg: 1 MiB in frames of 8 KiB takes 256.
    MAX_PARTS = 256
    MAX_HEADS = 128
    HEAD_ROOM = 10
    #: Bytes of `small`; further output of a turn goes to the queue.
    SMALL_LIMIT = 262144
    #: Bytes of `write_limit` that a message which waits takes at least, but for a few:
    #: each is an object, and a million of them for a byte each would take 100 MB.
    MESSAGE_COST = 64
    FEW_MESSAGES = 64


cdef struct Item:
    PyObject* owner  # keeps `data` alive: exactly bytes or str
    const uint8_t* data
    size_t size
    size_t wire  # bytes on the wire in all, headers included
    size_t sent  # of these
    PyObject* slot  # see `Latest`: a newer message may take its place; or NULL
    uint8_t first  # opcode and RSV1 of a payload to be framed; 0: frames as they are
    bint partial  # a frame whose beginning was sent before it was queued


cdef inline size_t wire_size(size_t size, size_t limit) noexcept nogil:
    """The size of a payload on the wire when it is split at `limit`."""
    cdef size_t whole
    if size <= limit:
        return header_size(size) + size
    whole = (size - 1) // limit
    return (
        whole * (header_size(limit) + limit)
        + header_size(size - whole * limit)
        + size
        - whole * limit
    )


cdef uint8_t* write_frames(
    uint8_t* to, uint8_t first, const uint8_t* data, size_t size, size_t limit
) noexcept nogil:
    """Write a message as one frame or several; return its end (RFC 6455 §5.4)."""
    while size > limit:
        to += write_header(to, first, limit, False)
        memcpy(to, data, limit)
        to += limit
        data += limit
        size -= limit
        first = 0
    to += write_header(to, first | FINAL, size, False)
    memcpy(to, data, size)
    return to + size


cdef class Latest


cdef class Outbox:
    """Messages and control frames that the system has not taken yet."""

    cdef readonly LoopState _loop
    cdef Counters counters
    cdef public size_t _write_limit
    cdef readonly int64_t bytes_sent
    cdef size_t max_frame_size
    cdef flag whole_packed  # what is compressed is not split
    cdef uint8_t* small
    cdef uint32_t small_room
    cdef uint32_t small_used
    cdef uint32_t small_sent
    cdef Item* queue
    cdef uint32_t queue_room
    cdef uint32_t queue_start
    cdef uint32_t queue_used
    cdef uint32_t popped  # messages that have left the front of the queue
    cdef Latest latest  # None: no message here is of a slot
    cdef size_t waiting
    cdef uint32_t offering  # bytes at the front passed to a socket's method
    cdef flag writing  # output is being written: re-entrant calls only queue
    cdef flag sent_since_beat  # anything, since the last ping of the heartbeat

    def __cinit__(self, *args, **kwargs):
        # If a subclass forgets __init__, this object must do nothing, not crash.
        self._loop = _nowhere
        self.counters = _nobody
        self.max_frame_size = _NO_FRAME_LIMIT

    def __dealloc__(self):
        self.drop_small()
        self.clear_queue()
        free(self.queue)

    @property
    def buffered_amount(self) -> int:
        """Bytes of output that the system has not taken yet."""
        return self.waiting

    @property
    def _counters(self) -> Counters:
        return self.counters

    @_counters.setter
    def _counters(self, counters: Counters) -> None:
        if not isinstance(counters, Counters):
            raise TypeError(f"counters must be Counters, not {counters!r}")
        self.counters = counters

    cdef inline bint has_too_many(self) noexcept:
        return self.queue_used > FEW_MESSAGES + self._write_limit // MESSAGE_COST

    cdef inline bint has_many(self) noexcept:
        """Half of that."""
        return self.queue_used > (FEW_MESSAGES + self._write_limit // MESSAGE_COST) >> 1

    def _has_too_many(self) -> bool:
        """Whether so many messages wait that their objects exceed their bytes."""
        return self.has_too_many()

    cdef inline size_t frame_limit(self, uint8_t first) noexcept:
        """Bytes of a frame's payload at most."""
        if first & PACKED and self.whole_packed:
            return _NO_FRAME_LIMIT
        return self.max_frame_size

    cdef int write_small(
        self, uint8_t first, const uint8_t* data, size_t size
    ) except -1:
        cdef size_t limit = self.frame_limit(first)
        cdef size_t wire = wire_size(size, limit)
        cdef size_t wanted = self.small_used + wire
        cdef size_t room
        if wanted > self.small_room:
            room = max(<size_t> 256, <size_t> self.small_room)
            while room < wanted:
                room *= 2
            self.resize_small(room)
        write_frames(self.small + self.small_used, first, data, size, limit)
        self.add_to_small(wire)
        return 0

    cdef inline void add_to_small(self, size_t wire) noexcept:
        """So many bytes more are in `small`."""
        self.small_used += <uint32_t> wire
        self.waiting += wire
        self._loop.buffered += <int64_t> wire

    cdef int resize_small(self, size_t room) except -1:
        cdef uint8_t* shared = NULL if self.small_room else self.small
        cdef uint8_t* moved
        moved = <uint8_t*> realloc(NULL if shared != NULL else self.small, room)
        if moved == NULL:
            raise MemoryError
        if shared != NULL:
            memcpy(moved, shared, self.small_used)
            release_bytes(shared)
        self.small = moved
        self.small_room = <uint32_t> room
        return 0

    cdef inline void share_small(self, bytes frame) noexcept:
        """Let an empty `small` be a frame that goes to others, too."""
        cdef size_t size = <size_t> PyBytes_GET_SIZE(frame)
        Py_INCREF(frame)
        self.small = <uint8_t*> PyBytes_AS_STRING(frame)
        self.small_used = <uint32_t> size
        self.waiting = size
        self._loop.buffered += <int64_t> size

    cdef inline void drop_small(self) noexcept:
        if self.small_room:
            free(self.small)
        elif self.small != NULL:
            release_bytes(self.small)
        self.small = NULL
        self.small_room = self.small_used = self.small_sent = 0

    cdef int write_frame(
        self, uint8_t first, const uint8_t* data, size_t size
    ) except -1:
        """Queue a small message, framed, as a separate object."""
        cdef size_t limit = self.frame_limit(first)
        cdef size_t wire = wire_size(size, limit)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> wire)
        cdef uint8_t* to = <uint8_t*> PyBytes_AS_STRING(frame)
        write_frames(to, first, data, size, limit)
        return self.push(frame, to, wire, wire, 0, False)

    cdef int push(
        self,
        object owner,
        const uint8_t* data,
        size_t size,
        size_t wire,
        uint8_t first,
        bint partial,
    ) except -1:
        cdef Item* item
        if self.queue_start + self.queue_used == self.queue_room:
            self.make_queue_room()
        item = self.queue + self.queue_start + self.queue_used
        Py_INCREF(owner)
        item.owner = <PyObject*> owner
        item.data = data
        item.size = size
        item.wire = wire
        item.sent = 0
        item.slot = NULL
        item.first = first
        item.partial = partial
        self.queue_used += 1
        self.waiting += wire
        self._loop.buffered += <int64_t> wire
        return 0

    cdef int make_queue_room(self) except -1:
        cdef Item* moved
        if self.queue_start > self.queue_used:
            memcpy(
                self.queue,
                self.queue + self.queue_start,
                self.queue_used * sizeof(Item),
            )
            self.queue_start = 0
            return 0
        moved = <Item*> realloc(
            self.queue, (max(4, self.queue_room * 2)) * sizeof(Item)
        )
        if moved == NULL:
            raise MemoryError
        self.queue = moved
        self.queue_room = max(4, self.queue_room * 2)
        return 0

    cdef int push_frames(self, object frames) except -1:
        """Queue frames as they are; a memoryview is the rest of a started one."""
        cdef bint partial = not isinstance(frames, bytes)
        cdef bytes whole = exact_bytes(frames)
        cdef size_t size = <size_t> PyBytes_GET_SIZE(whole)
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(whole)
        return self.push(whole, data, size, size, 0, partial)

    cdef int gather(
        self, iovec* parts, uint8_t* heads, int count, size_t* offered
    ) noexcept:
        """List the bytes of the queue, as many parts as fit."""
        cdef int head = 0
        cdef uint32_t index
        cdef Item* item
        cdef size_t pos
        for index in range(self.queue_start, self.queue_start + self.queue_used):
            item = self.queue + index
            pos = item.sent
            while pos < item.wire:
                if count + 2 > MAX_PARTS or head == MAX_HEADS:
                    return count
                count = list_part(
                    item,
                    &pos,
                    self.frame_limit(item.first),
                    parts,
                    heads + head * HEAD_ROOM,
                    count,
                    offered,
                )
                head += 1
        return count

    cdef void consume(self, size_t sent) noexcept:
        """Remove sent bytes from the outbox."""
        cdef size_t part = min(sent, <size_t> (self.small_used - self.small_sent))
        cdef Item* item
        self.waiting -= sent
        self.sent_since_beat = True
        self._loop.buffered -= <int64_t> sent
        self.bytes_sent += <int64_t> sent
        self.counters.bytes_sent += <int64_t> sent
        self.small_sent += <uint32_t> part
        sent -= part
        while sent:
            item = self.queue + self.queue_start
            part = min(sent, item.wire - item.sent)
            item.sent += part
            sent -= part
            if item.sent == item.wire:
                if item.slot != NULL:
                    self.untag(item)
                self.queue_start += 1
                self.queue_used -= 1
                self.popped += 1
                self.release_item(item)
        if not self.queue_used:
            self.queue_start = 0

    cdef void release_item(self, Item* item) noexcept:
        cdef PyObject* owner = item.owner
        item.owner = NULL
        if PyBytes_CheckExact(<object> owner):
            self._loop.give_block(owner)
        else:
            Py_XDECREF(owner)

    cdef void untag(self, Item* item) noexcept:
        """A message of a slot leaves, or must stay as it is."""
        cdef PyObject* slot = item.slot
        cdef uint32_t place = self.popped + <uint32_t> (
            item - self.queue - self.queue_start
        )
        item.slot = NULL
        if self.latest is not None and self.latest.index is not None:
            if self.latest.index.get(<object> slot) == place:
                del self.latest.index[<object> slot]
        Py_XDECREF(slot)

    cdef void clear_queue(self) noexcept:
        cdef uint32_t index
        for index in range(self.queue_start, self.queue_start + self.queue_used):
            Py_XDECREF(self.queue[index].owner)
            Py_XDECREF(self.queue[index].slot)
        self.popped += self.queue_used
        self.queue_start = self.queue_used = 0

    cdef bytes joined(self, size_t enough):
        """The next whole messages: as many as make `enough` bytes."""
        cdef size_t end = 0
        cdef size_t total = 0
        cdef uint32_t count = 0
        cdef uint32_t index
        cdef bytes data
        cdef uint8_t* to
        cdef Item* item
        while end < self.small_used and total < enough:
            end = message_end(self.small, end)
            if end > self.small_sent:
                total = end - self.small_sent
        while count < self.queue_used and total < enough:
            item = self.queue + self.queue_start + count
            total += item.wire - item.sent
            count += 1
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> total)
        to = <uint8_t*> PyBytes_AS_STRING(data)
        if end > self.small_sent:
            memcpy(to, self.small + self.small_sent, end - self.small_sent)
            to += end - self.small_sent
        for index in range(count):
            item = self.queue + self.queue_start + index
            to = copy_rest(to, item, self.frame_limit(item.first))
        return data

    cdef int queue_small(self) except -1:
        """Move all output to the queue, one item for each message."""
        cdef size_t start = 0
        cdef size_t end
        cdef uint32_t count = 0
        cdef Item* items
        if self.small_used <= self.small_sent:
            return 0
        while start < self.small_used:
            start = message_end(self.small, start)
            count += start > self.small_sent
        items = <Item*> malloc((count + self.queue_used) * sizeof(Item))
        if items == NULL:
            raise MemoryError
        count = start = 0
        try:
            while start < self.small_used:
                end = message_end(self.small, start)
                if end > self.small_sent:
                    self.make_item(items + count, start, end)
                    count += 1
                start = end
        except MemoryError:
            while count:
                count -= 1
                Py_XDECREF(items[count].owner)
            free(items)
            raise
        if self.queue_used:
            memcpy(
                items + count,
                self.queue + self.queue_start,
                self.queue_used * sizeof(Item),
            )
        free(self.queue)
        self.queue = items
        self.queue_start = 0
        self.queue_used += count
        self.popped -= count
        self.queue_room = self.queue_used
        self.small_used = self.small_sent = 0
        return 0

    cdef int make_item(self, Item* item, size_t start, size_t end) except -1:
        """Make an item of a message in `small`, which may be partly sent."""
        cdef size_t begin = max(start, <size_t> self.small_sent)
        cdef PyObject* frames = new_block(
            <char*> self.small + begin, <Py_ssize_t> (end - begin)
        )
        item.owner = frames
        item.data = <const uint8_t*> PyBytes_AS_STRING(<object> frames)
        item.size = item.wire = end - begin
        item.sent = 0
        item.slot = NULL
        item.first = 0
        item.partial = begin > start
        return 0

    cdef uint32_t begun(self) noexcept:
        """Messages at the front of the queue that must leave, once `small` is in it:
        sent in part, or passed to a socket's method."""
        cdef size_t covered = 0
        cdef uint32_t count = 0
        cdef Item* item = self.queue + self.queue_start
        if self.queue_used and (item.sent or item.partial):
            count = 1
            covered = item.wire - item.sent
        while count < self.queue_used and covered < self.offering:
            covered += item[count].wire - item[count].sent
            count += 1
        return count

    def _unfinished(self) -> int:
        """Bytes left of messages that were sent in part, or are being sent."""
        cdef size_t left = 0
        cdef uint32_t index
        cdef Item* item
        self.queue_small()
        for index in range(self.begun()):
            item = self.queue + self.queue_start + index
            left += item.wire - item.sent
        return left

    def _drop_oldest(self, size_t excess) -> int:
        """Drop messages, the oldest first, until at least `excess` bytes are gone.

        Messages sent in part must be finished; messages being sent and control frames
        stay.

        Returns:
            How many messages were dropped.
        """
        cdef uint32_t index, end, first
        cdef uint32_t stay = 0
        cdef uint32_t dropped = 0
        cdef size_t gone = 0
        cdef Item* item
        self.queue_small()
        if self.latest is not None:
            self.latest.forget_marks()
        index = self.queue_start
        first = index + self.begun()
        end = index + self.queue_used
        while index < end and gone < excess:
            item = self.queue + index
            if item.slot != NULL:
                self.untag(item)
            if index >= first and may_drop(item):
                gone += item.wire
                dropped += 1
                self.release_item(item)
            else:
                self.queue[self.queue_start + stay] = item[0]
                stay += 1
            index += 1
        if stay:  # they precede the rest
            memmove(
                self.queue + (index - stay),
                self.queue + self.queue_start,
                stay * sizeof(Item),
            )
        self.queue_used -= dropped
        self.popped += dropped
        self.queue_start = index - stay if self.queue_used else 0
        self.waiting -= gone
        self._loop.buffered -= <int64_t> gone
        return dropped

    cdef void discard(self) noexcept:
        self.small_used = self.small_sent = 0
        self.clear_queue()
        self.latest = None
        self._loop.buffered -= <int64_t> self.waiting
        self.waiting = 0
        self.offering = 0

    def _discard_output(self) -> None:
        self.discard()


cdef size_t message_end(const uint8_t* data, size_t start) noexcept:
    """Where the message ends whose frames begin at `start`; our own frames."""
    cdef FrameHeader header
    header.size = header.first = 0
    while True:
        read_header(data + start, 14, &header)
        start += header.size + <size_t> header.length
        if header.first & FINAL:
            return start


cdef int list_part(
    Item* item,
    size_t* pos,
    size_t limit,
    iovec* parts,
    uint8_t* head,
    int count,
    size_t* offered,
) noexcept:
    """List the rest of one frame of an item, header and payload."""
    cdef size_t step, index, skip, size, wide
    if item.first == 0:
        parts[count].iov_base = <void*> (item.data + pos[0])
        parts[count].iov_len = item.wire - pos[0]
        offered[0] += item.wire - pos[0]
        pos[0] = item.wire
        return count + 1
    step = header_size(limit) + limit
    index = min(pos[0] // step, (item.size - 1) // limit)
    skip = pos[0] - index * step
    size = min(limit, item.size - index * limit)
    wide = write_header(
        head,
        (item.first if index == 0 else 0)
        | (FINAL if (index + 1) * limit >= item.size else 0),
        size,
        False,
    )
    if skip < wide:
        parts[count].iov_base = head + skip
        parts[count].iov_len = wide - skip
        count += 1
    parts[count].iov_base = <void*> (
        item.data + index * limit + (skip - wide if skip > wide else 0)
    )
    parts[count].iov_len = size - (skip - wide if skip > wide else 0)
    offered[0] += wide + size - skip
    pos[0] += wide + size - skip
    return count + 1


cdef inline bint may_drop(Item* item) noexcept:
    """Whether this is a message that has not been sent in part."""
    if item.sent or item.partial:
        return False
    return item.first != 0 or not item.data[0] & CONTROL


cdef uint8_t* copy_rest(uint8_t* to, Item* item, size_t limit) noexcept:
    """Write the rest of an item as frames; return its end."""
    cdef iovec parts[2]
    cdef uint8_t head[HEAD_ROOM]
    cdef size_t pos = item.sent
    cdef size_t size = 0
    cdef int count, index
    while pos < item.wire:
        count = list_part(item, &pos, limit, parts, head, 0, &size)
        for index in range(count):
            memcpy(to, parts[index].iov_base, parts[index].iov_len)
            to += parts[index].iov_len
    return to

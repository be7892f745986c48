# What waits to be sent to one peer; the twin of `_fallback/outbox.py`. Included by
# `_speedups.pyx`, behind `_loop.pxi`.
#
#   `small`   output of this turn, frames copied one behind the other
#   `queue`   output that is too large to copy, or that waits for the peer
#
# `small` always leaves before `queue`, and takes nothing once `queue` holds output.

cdef enum:
    FINAL = 0x80
    CONTROL = 0x08
    #: Buffers of one sendmsg: 1 MiB in frames of 8 KiB takes 256.
    MAX_PARTS = 256
    MAX_HEADS = 128
    HEAD_ROOM = 10
    #: Bytes of `small`; more output in a turn goes to the queue.
    SMALL_LIMIT = 262144
    #: Bytes of `write_limit` that a message which waits takes at least, but for a few:
    #: each is an object, and a million of them for a byte each would take 100 MB.
    MESSAGE_COST = 64
    FEW_MESSAGES = 64


cdef struct Item:
    PyObject* owner  # keeps `data` alive: bytes or str
    const uint8_t* data
    size_t size
    size_t wire  # bytes on the wire in all, headers included
    size_t sent  # of these
    uint8_t first  # opcode and RSV1 of a payload to be framed; 0: frames as they are
    bint partial  # a frame whose beginning has left before it came here


cdef inline size_t wire_size(size_t size, size_t limit) noexcept nogil:
    """What a payload takes on the wire when it is split at `limit`."""
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
    """Write a message as one frame or several; where it ended (RFC 6455 §5.4)."""
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


cdef class Outbox:
    """Messages and control frames that the system has not taken yet."""

    cdef readonly LoopState _loop
    cdef public Tally _tally
    cdef public size_t _write_limit
    cdef readonly int64_t bytes_sent
    cdef size_t max_frame_size
    cdef uint8_t* small
    cdef uint32_t small_room
    cdef uint32_t small_used
    cdef uint32_t small_sent
    cdef Item* queue
    cdef uint32_t queue_room
    cdef uint32_t queue_start
    cdef uint32_t queue_used
    cdef size_t waiting

    def __cinit__(self, *args, **kwargs):
        # What a subclass that forgets __init__ leaves must do nothing, not crash.
        self._loop = _nowhere
        self._tally = _nobody

    def __dealloc__(self):
        free(self.small)
        self.clear_queue()
        free(self.queue)

    @property
    def buffered_amount(self) -> int:
        """Bytes of output that the system has not taken yet."""
        return self.waiting

    cdef inline bint has_too_many(self) noexcept:
        return self.queue_used > FEW_MESSAGES + self._write_limit // MESSAGE_COST

    cdef inline bint has_many(self) noexcept:
        """Half of that."""
        return self.queue_used > (FEW_MESSAGES + self._write_limit // MESSAGE_COST) >> 1

    def _has_too_many(self) -> bool:
        """Whether so many messages wait that they take more than their bytes."""
        return self.has_too_many()

    cdef int write_small(
        self, uint8_t first, const uint8_t* data, size_t size
    ) except -1:
        cdef size_t limit = self.max_frame_size
        cdef size_t wire = wire_size(size, limit)
        cdef size_t wanted = self.small_used + wire
        cdef size_t room
        if wanted > self.small_room:
            room = max(<size_t> 256, <size_t> self.small_room)
            while room < wanted:
                room *= 2
            self.resize_small(room)
        write_frames(self.small + self.small_used, first, data, size, limit)
        self.small_used += <uint32_t> wire
        self.waiting += wire
        self._loop.buffered += <int64_t> wire
        return 0

    cdef int resize_small(self, size_t room) except -1:
        cdef uint8_t* moved = <uint8_t*> realloc(self.small, room)
        if moved == NULL:
            raise MemoryError
        self.small = moved
        self.small_room = <uint32_t> room
        return 0

    cdef int write_frame(
        self, uint8_t first, const uint8_t* data, size_t size
    ) except -1:
        """Queue a small message, framed, as an object of its own."""
        cdef size_t wire = wire_size(size, self.max_frame_size)
        cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> wire)
        cdef uint8_t* to = <uint8_t*> PyBytes_AS_STRING(frame)
        write_frames(to, first, data, size, self.max_frame_size)
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

    cdef int push_frames(self, frames: bytes | memoryview) except -1:
        """Queue frames as they are; in a memoryview the rest of what has begun."""
        cdef bint partial = not isinstance(frames, bytes)
        cdef bytes whole = bytes(frames)
        cdef size_t size = <size_t> PyBytes_GET_SIZE(whole)
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(whole)
        return self.push(whole, data, size, size, 0, partial)

    cdef int gather(
        self, iovec* parts, uint8_t* heads, int count, size_t* offered
    ) noexcept:
        """List the bytes of the queue, as many parts as there is room for."""
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
                    self.max_frame_size,
                    parts,
                    heads + head * HEAD_ROOM,
                    count,
                    offered,
                )
                head += 1
        return count

    cdef void consume(self, size_t sent) noexcept:
        """Take what was sent off the outbox."""
        cdef size_t part = min(sent, <size_t> (self.small_used - self.small_sent))
        cdef Item* item
        self.waiting -= sent
        self._loop.buffered -= <int64_t> sent
        self.bytes_sent += <int64_t> sent
        self._tally.bytes_sent += <int64_t> sent
        self.small_sent += <uint32_t> part
        sent -= part
        while sent:
            item = self.queue + self.queue_start
            part = min(sent, item.wire - item.sent)
            item.sent += part
            sent -= part
            if item.sent == item.wire:
                self.queue_start += 1
                self.queue_used -= 1
                self.release_item(item)
        if not self.queue_used:
            self.queue_start = 0
            if self.queue_room > 64:
                free(self.queue)
                self.queue = NULL
                self.queue_room = 0

    cdef void release_item(self, Item* item) noexcept:
        cdef PyObject* owner = item.owner
        item.owner = NULL
        if PyBytes_CheckExact(<object> owner):
            self._loop.give_block(owner)
        else:
            Py_XDECREF(owner)

    cdef void clear_queue(self) noexcept:
        cdef uint32_t index
        for index in range(self.queue_start, self.queue_start + self.queue_used):
            Py_XDECREF(self.queue[index].owner)
        self.queue_start = self.queue_used = 0

    cdef list outbox_items(self, size_t enough):
        """Messages and control frames as bytes; what has left in part as the rest of
        it, in a memoryview. No more when there are `enough` bytes."""
        cdef list items = []
        cdef size_t start = 0
        cdef size_t total = 0
        cdef size_t end
        cdef uint32_t index
        while start < self.small_used and total < enough:
            end = message_end(self.small, start)
            if end > self.small_sent:
                frames = PyBytes_FromStringAndSize(
                    <char*> self.small + start, <Py_ssize_t> (end - start)
                )
                if start < self.small_sent:
                    frames = memoryview(frames)[self.small_sent - start:]
                items.append(frames)
                total += <size_t> len(frames)
            start = end
        for index in range(self.queue_start, self.queue_start + self.queue_used):
            if total >= enough:
                break
            frames = item_bytes(self.queue + index, self.max_frame_size)
            items.append(frames)
            total += <size_t> len(frames)
        return items

    cdef int queue_small(self) except -1:
        """Have all output in the queue, an item a message."""
        if self.small_used > self.small_sent:
            items = self.outbox_items(self.waiting)
            self.discard()
            for frames in items:
                self.push_frames(frames)
        return 0

    def _unfinished(self) -> int:
        """Bytes that are left of a message that was sent in part."""
        cdef Item* item
        self.queue_small()
        item = self.queue + self.queue_start
        if self.queue_used and (item.sent or item.partial):
            return item.wire - item.sent
        return 0

    def _drop_oldest(self, size_t excess) -> int:
        """Drop messages, the oldest first, until so many bytes are gone.

        What was sent in part must be finished, and control frames stay.

        Returns:
            How many messages were dropped.
        """
        cdef uint32_t index, end
        cdef uint32_t stay = 0
        cdef uint32_t dropped = 0
        cdef size_t gone = 0
        cdef Item* item
        self.queue_small()
        index = self.queue_start
        end = index + self.queue_used
        while index < end and gone < excess:
            item = self.queue + index
            if may_drop(item):
                gone += item.wire
                dropped += 1
                self.release_item(item)
            else:
                self.queue[self.queue_start + stay] = item[0]
                stay += 1
            index += 1
        if stay:  # they stand before the rest
            memmove(
                self.queue + (index - stay),
                self.queue + self.queue_start,
                stay * sizeof(Item),
            )
        self.queue_used -= dropped
        self.queue_start = index - stay if self.queue_used else 0
        self.waiting -= gone
        self._loop.buffered -= <int64_t> gone
        return dropped

    cdef void discard(self) noexcept:
        self.small_used = self.small_sent = 0
        self.clear_queue()
        self._loop.buffered -= <int64_t> self.waiting
        self.waiting = 0

    def _discard_output(self) -> None:
        self.discard()


cdef size_t message_end(const uint8_t* data, size_t start) noexcept:
    """Where the message ends whose frames begin at `start`; frames of our own."""
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
    """List what is left of one frame of an item, header and payload."""
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
    """Whether this is a message, and has not begun to be sent."""
    if item.sent or item.partial:
        return False
    return item.first != 0 or not item.data[0] & CONTROL


cdef object item_bytes(Item* item, size_t limit):
    """A queued message as bytes; the rest of it in a memoryview if it has begun."""
    cdef bytes frames
    cdef uint8_t* to
    if item.first == 0:
        frames = <bytes> item.owner
    else:
        frames = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> item.wire)
        to = <uint8_t*> PyBytes_AS_STRING(frames)
        write_frames(to, item.first, item.data, item.size, limit)
    if item.sent or item.partial:
        return memoryview(frames)[item.sent:]
    return frames

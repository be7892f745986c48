# The byte path of a connection in C, the twin of `_fallback/connection.py`; included by
# `_speedups.pyx` after `_c/outbox.pxi` and `_c/token_bucket.pxi`. It uses their helpers
# on raw pointers.
#
# Where input bytes are kept (for output see `_c/outbox.pxi`):
#
#   the loop's buffer   bytes read just now; taken out of the loop until `feed`
#                       returns, so that no other code reads into it meanwhile
#   `tail`              the beginning of a small frame that is not complete
#   `large`             a large message that is received into its final place

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030B0000 && defined(__GNUC__)
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
    /* Cython makes the dict at once; Python makes it when an attribute is set. */
    static inline void drop_dict(PyObject *owner) {
        PyObject **place = _PyObject_GetDictPtr(owner);
        if (place != NULL) Py_CLEAR(*place);
    }
    /* Whether the user may have set attributes, `write_message` among them. */
    static inline int has_dict(PyObject *owner) {
        PyObject **place = _PyObject_GetDictPtr(owner);
        return place != NULL && *place != NULL;
    }
    """
    void drop_dict(object owner)
    bint has_dict(object owner) noexcept


cdef enum:
    READ_READY = 1  # selectors.EVENT_READ
    WRITE_READY = 2
    PACKED = 0x40  # RSV1: the message is compressed (RFC 7692 §6)
    TEXT_OPCODE = 1
    BINARY_OPCODE = 2
    PONG_FRAME = 0x8A
    #: Payloads up to this size are copied into `small`; larger ones are referenced and
    #: sent by writev. The limit is from an early prototype and was not measured here.
    COPY_LIMIT = 16384
    #: Bytes of a large message that are reserved because its header says so; more are
    #: reserved as they arrive: a header costs an attacker nothing.
    TRUST_LIMIT = 262144
    #: Messages and events of one connection in one turn; the rest waits for the next,
    #: so that others have their turn.
    MANY_MESSAGES = 1024
    #: Messages after which the clock is looked at, see `LoopState.share`; a power of
    #: two. Small ones take a microsecond each; those that are inflated may take
    #: milliseconds, and have a look each.
    LOOK_EVERY = 8
    #: Compressed frames up to this size are inflated in one step: into half a mebibyte
    #: at most. `protocol` does the others, in pieces.
    PACKED_LIMIT = 512
    #: Bytes passed to `protocol` at once, unless they are of one frame: that many
    #: fragments of one byte take it some milliseconds.
    SLICE = 4096
    #: Pongs per turn that are all sent; of further ones only the last is sent.
    MANY_PONGS = 128
    #: Bytes, in whole messages, passed at once to a socket that is not a plain one.
    JOIN_LIMIT = 65536
    #: The golden section of 65,536: phases that are apart by it are spread evenly,
    #: however many there are.
    _GOLDEN = 40503
    # Results of offering output to the system.
    ALL_TAKEN = 0
    SOME_LEFT = 1
    GONE = 2

cdef object _NO_LIMIT = 2**62
cdef object _OPEN_STATE = int(State.OPEN)
cdef object _CLOSED_STATE = int(State.CLOSED)
cdef object _SENT = SendStatus.SENT
cdef object _DROPPED = SendStatus.DROPPED
cdef object _BACKPRESSURE = SendStatus.BACKPRESSURE
cdef object _plain_socket = socket.socket
#: `lambda msg, client: client.write_message(msg)` is a callback, too, and has replied.
cdef object _send_status = SendStatus
cdef object _delivered = Delivered


cdef int64_t _last_id = 0


cdef struct Large:
    PyObject* block  # the bytes object, as far as it is reserved
    size_t size
    size_t have  # bytes received
    uint8_t first
    uint8_t key[4]
    Utf8State text


cdef struct Link:
    Link* before
    Link* after


cdef inline void unlink(Link* link) noexcept:
    """Take out of a ring; no harm when it is in none."""
    if link.after != NULL:
        link.before.after = link.after
        link.after.before = link.before
        link.before = link.after = NULL


cdef class Aside
cdef class Plan


cdef class ConnectionCore(Outbox):
    """ConnectionCore(sock, loop, rules, buffer_size, write_limit)
--

Moves messages between a socket and a callback; subclasses do the rest.

    Args:
        sock: connected and non-blocking.
        loop: of the thread that drives it.
        rules: makes its protocol when that is needed (`protocol.websocket.Rules`).
        buffer_size: bytes of the first read.
        write_limit: bytes of unsent output beyond which `_make_room` is called.
    """

    # User attributes; declared here, so that subclasses have no second dict, which
    # Python would create for each instance, 300 bytes, before anything is set.
    cdef dict __dict__
    cdef object __weakref__
    # Ordered by size, to avoid padding: a server holds 50,000 of these.
    # Fields of the owner; some are no objects: `id`, `opened_at`, `_attached`,
    # `_unregistered` and `_ended`.
    cdef public int64_t id
    cdef public double opened_at
    cdef public object _host
    cdef public object _handler
    cdef public object _request_kept
    cdef public object subprotocol
    cdef public object _timer
    cdef public object _client_id
    cdef public object _session
    cdef public object _topics
    cdef Plan plan  # by which it was opened, or None
    cdef object own_sock  # None: it was not asked for yet, see `_sock`
    cdef readonly object _rules
    cdef object own_protocol  # the protocol, if it was needed
    cdef object message_callback
    cdef public double _last_received
    cdef public double _last_message
    cdef readonly int64_t messages_received
    cdef readonly int64_t messages_sent
    cdef readonly int64_t bytes_received
    cdef Bucket* bucket_of_rate
    # Of the heartbeat, see `_c/heartbeat.pxi`.
    cdef Link in_wheel
    cdef double pinged_at  # NAN: no ping of it is unanswered
    cdef double last_latency  # NAN: no ping was answered
    cdef Aside aside  # None: there is nothing in it
    cdef uint32_t beat  # number of the last ping of the heartbeat; 0: none
    cdef uint32_t answered  # the beat whose pong was the last one; 0: none
    # The agreement; copied here because it is needed for every message.
    cdef size_t max_size
    cdef size_t threshold
    cdef Inflater inflater
    cdef Deflater deflater
    # Input that is incomplete, or waits for another turn.
    cdef bytes rest
    cdef uint8_t* tail
    cdef Large* large
    cdef readonly int64_t _buffered_input  # as told to the loop
    cdef uint32_t tail_size
    cdef uint32_t buffer_size
    cdef uint32_t read_size
    cdef uint32_t pongs  # pushed since the last write
    cdef int fd
    cdef uint16_t phase  # of the heartbeat: in 65,536ths of its spread
    cdef flag beat_pending  # `beat` is unanswered
    cdef public flag _pings_itself  # it is pinged as is usual: here, if that can be
    cdef public flag _attached
    cdef public flag _unregistered
    cdef public flag _ended
    cdef public flag _open
    cdef public flag _on_fast_path
    cdef public flag _write_blocked
    cdef public flag _await_drain
    cdef public flag _paused_by_callbacks  # by `_pause_reading`
    #: No reads either until the peer has read more of our output.
    cdef public flag _paused_by_backpressure
    cdef flag dirty
    cdef flag packing  # compression was agreed
    cdef flag stale  # the peer's window is ahead of `deflater`
    cdef flag alone  # what is sent now may be dropped later: compressed without context
    cdef flag own_write  # a subclass has its own write_message
    cdef flag feeding  # input is being processed: no further reads
    cdef flag queued  # in the loop's run queue: not read before its turn there
    cdef flag owns_fd  # no socket object does

    def __cinit__(self, *args, **kwargs):
        drop_dict(self)
        self.fd = -1
        self.pinged_at = self.last_latency = NAN

    def __init__(
        self,
        sock: socket.socket,
        loop: LoopState,
        rules: Any,
        buffer_size: int,
        write_limit: int,
    ) -> None:
        if not isinstance(loop, LoopState):
            raise TypeError(f"loop must be a LoopState, not {loop!r}")
        self.own_sock = sock
        self.fd = descriptor_of(sock)
        self.set_up(
            loop, rules, min(buffer_size, _MAX_READ), min(write_limit, _NO_LIMIT)
        )

    cdef int set_up(
        self, LoopState loop, object rules, size_t buffer_size, size_t write_limit
    ) except -1:
        """What `__init__` does when the socket is known."""
        self.id = next_id(&_last_id)
        self.opened_at = time.time()
        self._loop = loop
        self._rules = rules
        self.message_callback = _ignore
        self.phase = loop.phase
        loop.phase += _GOLDEN
        self._last_received = self._last_message = loop.now
        self._write_limit = write_limit
        self.buffer_size = self.read_size = <uint32_t> buffer_size
        self.max_size = rules.max_size
        self.max_frame_size = rules.max_frame_size
        agreement = rules.agreement
        self.packing = agreement is not None
        self.whole_packed = self.packing and not agreement.splits
        self.threshold = min(agreement.threshold, _NO_LIMIT) if self.packing else 0
        self._open = True
        self._on_fast_path = True
        self.own_write = type(self).write_message is not _write_message
        return 0

    @property
    def _on_message(self) -> Callable[[Any, Any], object]:
        """Called with each message and this object."""
        with cython.critical_section(self):
            return self.message_callback

    @_on_message.setter
    def _on_message(self, callback: Callable[[Any, Any], object]) -> None:
        with cython.critical_section(self):
            self.message_callback = callback

    def __dealloc__(self):
        if self.owns_fd and self.fd >= 0:
            c_close(self.fd)
        unlink(&self.in_wheel)
        free(self.bucket_of_rate)
        free(self.tail)
        self.drop_large()

    @property
    def _sock(self) -> Any:
        """The socket; most connections need none, but for their descriptor."""
        with cython.critical_section(self):
            if self.own_sock is None:
                self.own_sock = socket_of(self.fd)
                self.owns_fd = False
            return self.own_sock

    @_sock.setter
    def _sock(self, sock: Any) -> None:
        self.own_sock = sock

    @property
    def _protocol(self) -> Any:
        if self.own_protocol is None:
            self._protocol = self._rules.begin()
        return self.own_protocol

    @_protocol.setter
    def _protocol(self, protocol: Any) -> None:
        with cython.critical_section(self):
            self.own_protocol = protocol

    @property
    def _own_protocol(self) -> Any:
        """The protocol, if it was needed; other threads look at it."""
        with cython.critical_section(self):
            return self.own_protocol

    def _limit_rate(self, rate: float, burst: float) -> None:
        """Set a message rate; `_on_rate` is called for messages that exceed it."""
        if self.bucket_of_rate == NULL:
            self.bucket_of_rate = <Bucket*> malloc(sizeof(Bucket))
            if self.bucket_of_rate == NULL:
                raise MemoryError
        self.bucket_of_rate.rate = rate
        self.bucket_of_rate.burst = self.bucket_of_rate.tokens = burst
        self.bucket_of_rate.filled_at = self._loop.now

    def _sync(self) -> None:
        """Copy the protocol's state; call it after anything that may change it."""
        protocol = self.own_protocol
        if protocol is None:
            self._open = self._on_fast_path = True
            return
        self._open = protocol.state == _OPEN_STATE
        self._on_fast_path = protocol.between_messages
        if not self._open:
            self.deflater = None  # nothing is written or delivered any more
            self.inflater = None
            if protocol.state == _CLOSED_STATE:
                self.rest = None
                self.drop_tail()
                self.drop_large()
                self.set_buffered_input(0)

    # Receiving

    def __call__(self, int events: int) -> None:
        """Handle ready events; called by the selector."""
        self.ready(events)

    cdef int ready(self, int events) except -1:
        if events & READ_READY and self.rest is None and not (
            self._paused_by_backpressure
            | self._paused_by_callbacks
            | self.feeding
            | self.queued
        ):
            if not self.waiting or self.may_take(self.expected()):
                self.read_in()
                self.note_input()
        if events & WRITE_READY and self._write_blocked:
            self.write_out()
        return 0

    cdef size_t expected(self) except? 0xFFFFFFFF:
        """Bytes of the current message, as far as its headers have been read."""
        if self.large != NULL:
            return self.large.size
        return 0 if self._on_fast_path else self._protocol.expected

    cdef int may_take(self, size_t size) except -1:
        """Whether a message of this size may be delivered: there must be room for a
        reply of the same size.

        The server does not read from a peer that does not read. Otherwise a peer that
        sends without reading the replies would fill the memory, and one that does read
        them would be disconnected for sending quickly.
        """
        cdef size_t limit = self._write_limit
        cdef int attempt
        for attempt in range(2):
            if not self.waiting or (
                self.waiting <= limit >> 1 and self.waiting + size <= limit
            ):
                return True
            if self._write_blocked or not self._open:
                break
            self.write_out()  # this turn's output may simply not be flushed yet
        if not self._open or not self._write_blocked:
            return True  # no more replies; the peer's close frame may still come
        self._paused_by_backpressure = True
        self._watch(WRITE_READY)
        return False

    cdef int may_go_on(self, int steps) except -1:
        """Whether this turn has time for more of this connection."""
        cdef LoopState loop = self._loop
        loop.credit -= steps
        if loop.credit < 0 or self._paused_by_callbacks or loop.interrupted:
            return False
        return loop.read_clock() - loop.mark <= loop.share

    cdef int read_in(self) except -1:
        cdef LoopState loop = self._loop
        cdef uint8_t* buffer
        if self.fd < 0 and not isinstance(self.own_sock, TLSRecords):
            return self.read_by_method()
        buffer = loop.borrow_buffer()
        self.feeding = True
        try:
            if self.fd < 0:
                return self.read_encrypted(<TLSRecords> self.own_sock, buffer)
            if self.large != NULL:
                return self.read_large(buffer)
            return self.read_small(buffer)
        finally:
            self.feeding = False
            loop.return_buffer(buffer)

    cdef int read_small(self, uint8_t* buffer) except -1:
        """Read after the kept part of a small frame."""
        cdef size_t before = self.tail_size
        cdef ssize_t got = c_recv(self.fd, buffer + before, self.read_size, 0)
        if got <= 0:
            return self.not_read(got)
        self.note_read(<size_t> got)
        return self.feed_behind_tail(buffer, before, <size_t> got)

    cdef int feed_behind_tail(
        self, uint8_t* buffer, size_t before, size_t got
    ) except -1:
        if before:
            memcpy(buffer, self.tail, before)
            self.drop_tail()
        return self.feed(buffer, before + got)

    cdef int not_read(self, ssize_t got) except -1:
        cdef int error = errno if got else 0
        if got and would_block(error):
            return 0
        if self.plan is None or not end_by_plan(self, error):
            failure = OSError(error, os.strerror(error)) if error else None
            self._on_lost(failure, True)
        return 0

    cdef int read_encrypted(self, TLSRecords records, uint8_t* buffer) except -1:
        """Read what is decrypted, as `read_small` and `read_large` do."""
        cdef size_t before = self.tail_size
        cdef PyObject* block = NULL
        cdef size_t start = 0
        cdef Py_ssize_t got
        if self.large != NULL:
            # What is read may exceed the place reserved so far.
            self.grow_large(self.large.have + TLS_BUFFER)
            block = self.large.block
            start = self.large.have
            # Code that runs meanwhile may end the connection and drop it.
            Py_XINCREF(block)
        try:
            got = records.read(block, start, buffer + before, _LARGEST_READ - before)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._on_lost(error)
            return 0
        finally:
            Py_XDECREF(block)
        if got <= 0:
            if got == 0:
                self._on_lost(None)
            return 0
        self.note_read(<size_t> got)
        if self.tail_size != before or (self.large == NULL) != (block == NULL):
            return 0  # it was ended meanwhile
        if block != NULL:
            return self.feed_large(buffer, <size_t> got)
        return self.feed_behind_tail(buffer, before, <size_t> got)

    cdef int read_by_method(self) except -1:
        self.feeding = True
        try:
            return self.read_some_by_method()
        finally:
            self.feeding = False

    cdef int read_some_by_method(self) except -1:
        cdef object data
        try:
            data = self.own_sock.recv(self.read_size)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._on_lost(error)
            return 0
        data = exact_bytes(data)
        if not data:
            self._on_lost(None)
            return 0
        self.note_read(<size_t> PyBytes_GET_SIZE(data))
        self._feed(data)
        return 0

    cdef void note_read(self, size_t size) noexcept:
        """Enlarge the reads while they are full; shrink them when they are not."""
        self._last_received = self._loop.now
        self.bytes_received += <int64_t> size
        self.counters.bytes_received += <int64_t> size
        if size == self.read_size:
            self.read_size = <uint32_t> min(size * 2, _MAX_READ)
        elif size < self.read_size >> 2 and self.read_size > self.buffer_size:
            self.read_size >>= 1

    def _feed(self, data: bytes) -> None:
        """Process received bytes, one message or event after the other."""
        cdef bytes whole = exact_bytes(data)
        cdef size_t size = <size_t> PyBytes_GET_SIZE(whole)
        cdef size_t before = self.tail_size
        cdef size_t part = 0
        cdef flag nested = self.feeding
        self.feeding = True
        try:
            if self.large != NULL:
                part = min(size, self.large.size - self.large.have)
                self.grow_large(self.large.have + part)
                memcpy(self.large_end(), PyBytes_AS_STRING(whole), part)
                self.add_to_large(part)
            if before:
                whole = PyBytes_FromStringAndSize(<char*> self.tail, before) + whole
                self.drop_tail()
            else:
                # Unmasking is done in place: not in bytes that others may hold.
                whole = PyBytes_FromStringAndSize(
                    PyBytes_AS_STRING(whole) + part, <Py_ssize_t> (size - part)
                )
            self.feed(
                <uint8_t*> PyBytes_AS_STRING(whole), <size_t> PyBytes_GET_SIZE(whole)
            )
        finally:
            self.feeding = nested

    cdef int feed(self, uint8_t* data, size_t size) except -1:
        cdef size_t pos = 0
        cdef size_t step
        cdef bytes rest
        self._loop.credit = MANY_MESSAGES
        if self._on_fast_path:
            pos = self.receive_whole(data, size)
        if pos == size:
            return 0
        # The slow path. From here on the bytes are in an object, copied once, because
        # `protocol` takes no pointers.
        rest = PyBytes_FromStringAndSize(<char*> data + pos, <Py_ssize_t> (size - pos))
        data = <uint8_t*> PyBytes_AS_STRING(rest)
        size -= pos
        pos = 0
        while self.may_take_slow_path():
            # A single frame is always little work; many frames are not.
            step = max(<size_t> SLICE, <size_t> self._protocol.remaining)
            pos = self._receive_slow_path(rest, pos, min(size, pos + step))
            if pos > size:
                raise ValueError("read beyond the end")
            # Every callback may have closed this connection: check again.
            if self._on_fast_path and pos < size:
                pos += self.receive_whole(data + pos, size - pos)
            if pos == size:
                return 0
        self.keep(data + pos, size - pos)
        return 0

    cdef int may_take_slow_path(self) except -1:
        """Whether `protocol` may process more of the input."""
        if self.waiting and not self.may_take(self.expected() + SLICE):
            return False
        return self.may_go_on(1)

    cdef int keep(self, const uint8_t* data, size_t size) except -1:
        """Keep input for another turn."""
        self.rest = PyBytes_FromStringAndSize(<const char*> data, <Py_ssize_t> size)
        if not self._paused_by_backpressure and not self._paused_by_callbacks:
            # Many small frames: fewer at once.
            self.read_size = max(self.buffer_size, self.read_size >> 2)
            self.join_run_queue()
        return 0

    cdef inline int note_input(self) except -1:
        """Tell the loop how much input is kept here, if that may have changed."""
        if (
            (self._on_fast_path or not self._attached)
            and self.rest is None
            and self.large == NULL
            and not self.tail_size
            and not self._buffered_input
        ):
            return 0
        return self.count_input()

    cdef int count_input(self) except -1:
        cdef int64_t size = <int64_t> self.tail_size
        if self.rest is not None:
            size += PyBytes_GET_SIZE(self.rest)
        if self.large != NULL:
            size += PyBytes_GET_SIZE(<object> self.large.block)
        if not self._on_fast_path:
            size += self._protocol.buffered_input
        return self.set_buffered_input(size)

    cdef int set_buffered_input(self, int64_t size) except -1:
        cdef int64_t before = self._buffered_input
        if size != before:
            self._buffered_input = size
            (<LoopState> self._loop).count_input(self, before, size)
        return 0

    cdef int join_run_queue(self) except -1:
        """Go on when the others have had their turn."""
        if not self.queued:
            self.queued = True
            self._loop.run_queue.append(self)
            store_word(&self._loop.attention_word, True)
            if self._loop.eager:
                self._loop.on_dirty()
        return 0

    def _yield_turn(self) -> None:
        """It took more than its share: from now on it waits until others had theirs."""
        if self._open and not (
            self._paused_by_backpressure | self._paused_by_callbacks
        ):
            self.join_run_queue()

    def _receive_more(self) -> None:
        """Handle what was kept, or read; for the loop, from its run queue."""
        cdef LoopState loop = self._loop
        self.queued = False
        if self._paused_by_backpressure | self._paused_by_callbacks | self.feeding:
            return
        loop.mark = loop.read_clock()
        try:
            if self.rest is not None:
                self.receive_rest()
                self.note_input()
            elif self._open:
                self.ready(READ_READY)
        except BaseException as error:
            loop.on_failure(self, error)
        loop.account(self, self.counters)

    cdef int receive_rest(self) except -1:
        cdef bytes rest = self.rest
        self._sync()
        self.rest = None
        self._last_received = self._loop.now  # it is we who are late
        self.feeding = True
        try:
            self.feed(
                <uint8_t*> PyBytes_AS_STRING(rest), <size_t> PyBytes_GET_SIZE(rest)
            )
        finally:
            self.feeding = False
        return 0

    cdef size_t receive_whole(self, uint8_t* data, size_t size) except? 0xFFFFFFFF:
        """Deliver the plain messages at the front: whole and in one frame.

        Returns:
            Where it stopped: at `size`, or before anything that `protocol` handles,
            faults included. Input that exceeds this turn is kept, and counts as
            processed.
        """
        cdef FrameHeader header
        cdef size_t pos = 0
        cdef size_t end
        cdef int result
        cdef bint odd  # no plain message
        while pos < size:
            if not self.fits_fast_path(data + pos, size - pos):
                return pos
            result = read_header(data + pos, size - pos, &header)
            if result == HEADER_INCOMPLETE:
                return self.keep_tail(data, pos, size)
            if result != HEADER_READY or header.length > self.max_size:
                return pos
            if header.first & PACKED and header.length > PACKED_LIMIT:
                return pos
            end = pos + header.size + <size_t> header.length
            if end > size:
                return self.keep_part(data, pos, size, &header)
            if self.waiting + header.length > self._write_limit >> 1:
                if not self.may_take(<size_t> header.length):
                    self.keep(data + pos, size - pos)
                    return size
                if not self._on_fast_path:
                    return pos  # the callback's output has ended it
            if header.first & CONTROL:
                if not take_control(self, data + pos + header.size, &header):
                    return pos
            elif not self.receive_frame(data + pos + header.size, &header):
                return pos
            pos = end
            if not self._on_fast_path:
                return pos
            odd = header.first & (PACKED | CONTROL)
            if pos < size and (odd or not self.messages_received & (LOOK_EVERY - 1)):
                if not self.may_go_on(1 if odd else LOOK_EVERY):
                    self.keep(data + pos, size - pos)
                    return size
        return pos

    cdef inline bint fits_fast_path(self, const uint8_t* data, size_t size) noexcept:
        """Whether, as far as received, this is a masked and final data frame, or a
        ping or pong that nobody is to be told of."""
        cdef uint8_t first = data[0]
        if size > 1 and not data[1] & 0x80:
            return False
        if first == (FINAL | TEXT_OPCODE) or first == (FINAL | BINARY_OPCODE):
            return True
        if first == (FINAL | PING_OPCODE) or first == (FINAL | PONG_OPCODE):
            return self.counters.quiet and self._pings_itself
        return self.packing and (
            first == (FINAL | PACKED | TEXT_OPCODE)
            or first == (FINAL | PACKED | BINARY_OPCODE)
        )

    cdef bint receive_frame(self, uint8_t* payload, FrameHeader* header) except -1:
        """Deliver one whole message; false when `protocol` must refuse it."""
        cdef size_t size = <size_t> header.length
        cdef uint64_t wide = wide_key(header.key, 0)
        cdef bytes data
        if header.first & PACKED:
            mask_in_place(payload, size, wide)
            self.receive_packed(payload, size, header.first)
        elif header.first & TEXT_OPCODE:
            mask_in_place(payload, size, wide)
            try:
                text = PyUnicode_DecodeUTF8(<char*> payload, <Py_ssize_t> size, NULL)
            except UnicodeDecodeError:
                mask_in_place(payload, size, wide)
                return False
            self.deliver(text)
        else:
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> size)
            mask_copy(<uint8_t*> PyBytes_AS_STRING(data), payload, size, wide)
            self.deliver(data)
        return True

    cdef int receive_packed(self, uint8_t* data, size_t size, uint8_t first) except -1:
        cdef double began = self._loop.read_clock()
        try:
            message = self.unpack(data, size, first)
        except ProtocolError as error:
            self._on_fault(error)
        else:
            self._loop.note_own_work(began)
            self.deliver(message)
        return 0

    cdef object unpack(self, uint8_t* data, size_t size, uint8_t first):
        """Inflate a whole message; in the same order of steps as `protocol`."""
        cdef Utf8State state
        cdef bytes plain
        # Held here: the connection may end meanwhile and release it.
        cdef Inflater inflater = self.inflater
        if inflater is None:
            inflater = self.inflater = <Inflater?> self._protocol.inflater()
        plain = inflater._feed(data, size, <Py_ssize_t> self.max_size)
        state.missing = state.low = state.high = 0
        self.check_inflated(&state, plain, first)
        inflater.finish()
        if first & TEXT_OPCODE and state.missing:
            raise InvalidData("text ends inside a UTF-8 sequence")
        self.counters.packed_received += <int64_t> size
        self.counters.plain_received += PyBytes_GET_SIZE(plain)
        if not first & TEXT_OPCODE:
            return plain
        return PyUnicode_DecodeUTF8(
            PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain), NULL
        )

    cdef int check_inflated(
        self, Utf8State* state, bytes plain, uint8_t first
    ) except -1:
        """Validate only what is within the limit first, as in `protocol`."""
        cdef size_t size = <size_t> PyBytes_GET_SIZE(plain)
        cdef const uint8_t* data = <const uint8_t*> PyBytes_AS_STRING(plain)
        if first & TEXT_OPCODE:
            if not utf8_feed(state, data, min(size, self.max_size)):
                raise InvalidData("text is not valid UTF-8")
        if size > self.max_size:
            raise MessageTooBig(f"message exceeds max_size {self.max_size:,} inflated")
        return 0

    cdef int deliver(self, object message) except -1:
        """Call back with a message; the return value is the reply."""
        self._last_message = self._loop.now
        self.messages_received += 1
        self.counters.messages_received += 1
        if self.bucket_of_rate != NULL:
            if not take_token(self.bucket_of_rate, self._loop.now):
                self._on_rate()
                return 0
        try:
            with cython.critical_section(self):  # another thread may replace it
                callback = self.message_callback
            answer = callback(message, self)
            if answer is None or type(answer) is _send_status:
                pass
            elif is_plain_message(answer):
                if self.own_write or has_dict(self):
                    self.write_message(answer)
                else:
                    self.write_any(answer, None)
            elif type(answer) is not _delivered:
                self._answer(answer)
        except Exception as error:
            self._on_callback_error(error)
        except BaseException as error:
            self._interrupt(error)
        return 0

    def _interrupt(self, error: BaseException) -> None:
        """A callback raised an exception that ends programs: further input waits."""
        # Until `_receive_more`, or until `protocol` has read some.
        self._on_fast_path = False
        self._loop.on_interrupt(error)

    def _deliver(self, msg: str | bytes) -> None:
        """Call back with a message; the return value is the reply."""
        self.deliver(msg)

    # The heartbeat

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping to its pong, or None."""
        return None if isnan(self.last_latency) else self.last_latency

    @latency.setter
    def latency(self, double seconds: float) -> None:
        self.last_latency = seconds

    @property
    def ping_payload(self) -> bytes:
        """The bytes of the last ping, from either side."""
        if self.aside is not None and self.aside.ping_payload is not None:
            return self.aside.ping_payload
        return beat_payload(self.beat)

    @ping_payload.setter
    def ping_payload(self, bytes payload: bytes) -> None:
        note_ping(self, payload)

    @property
    def pong_payload(self) -> bytes:
        """The bytes of the last pong."""
        if self.aside is not None and self.aside.pong_payload is not None:
            return self.aside.pong_payload
        return beat_payload(self.answered)

    @pong_payload.setter
    def pong_payload(self, bytes payload: bytes) -> None:
        aside_of(self).pong_payload = payload

    @property
    def _pinged_at(self) -> float | None:
        return None if isnan(self.pinged_at) else self.pinged_at

    @_pinged_at.setter
    def _pinged_at(self, when: float | None) -> None:
        self.pinged_at = NAN if when is None else when

    @property
    def _pings(self) -> Any:
        return None if self.aside is None else self.aside.pings

    @_pings.setter
    def _pings(self, pings: Any) -> None:
        aside_of(self).pings = pings
        drop_empty_aside(self)

    @property
    def _ahead(self) -> Any:
        return None if self.aside is None else self.aside.ahead

    @_ahead.setter
    def _ahead(self, ahead: Any) -> None:
        aside_of(self).ahead = ahead
        drop_empty_aside(self)

    @property
    def _ping_delay(self) -> float:
        """Seconds by which its pings are later than those of others."""
        return delay_of(self)

    def _take_beat(self) -> tuple[bytes, float] | None:
        """The unanswered ping that was sent from here, and when; it is told once."""
        if not self.beat_pending:
            return None
        self.beat_pending = False
        return beat_payload(self.beat), self.pinged_at

    # Incomplete input

    cdef size_t keep_part(
        self, uint8_t* data, size_t pos, size_t size, FrameHeader* header
    ) except? 0xFFFFFFFF:
        """Keep the beginning of a plain frame; `pos` when `protocol` must read it.

        That is when it is compressed, or when its text is invalid already: failing must
        not wait for the rest (RFC 6455 §8.1 as the test suites understand it).
        """
        cdef uint8_t* payload = data + pos + header.size
        cdef size_t have = size - pos - header.size
        cdef uint64_t wide = wide_key(header.key, 0)
        cdef Utf8State state
        cdef bint right
        if header.first & (PACKED | CONTROL):
            return pos
        state.missing = state.low = state.high = 0
        if header.first & TEXT_OPCODE:
            mask_in_place(payload, have, wide)
            right = utf8_feed(&state, payload, have)
            mask_in_place(payload, have, wide)
            if not right:
                return pos
        if header.length + header.size <= TAIL_LIMIT:
            return self.keep_tail(data, pos, size)
        self.begin_large(header, payload, have)
        self.large.text = state
        return size

    cdef size_t keep_tail(
        self, uint8_t* data, size_t pos, size_t size
    ) except? 0xFFFFFFFF:
        self.drop_tail()
        self.tail = <uint8_t*> malloc(size - pos)
        if self.tail == NULL:
            raise MemoryError
        self.tail_size = <uint32_t> (size - pos)
        memcpy(self.tail, data + pos, size - pos)
        return size

    cdef void drop_tail(self) noexcept:
        free(self.tail)
        self.tail = NULL
        self.tail_size = 0

    cdef int begin_large(
        self, FrameHeader* header, const uint8_t* payload, size_t have
    ) except -1:
        cdef size_t size = <size_t> header.length
        cdef size_t first = min(size, max(<size_t> TRUST_LIMIT, have))
        cdef PyObject* block = self._loop.take_block(size, first)
        self.drop_large()
        self.large = <Large*> malloc(sizeof(Large))
        if self.large == NULL:
            Py_XDECREF(block)
            raise MemoryError
        self.large.block = block
        self.large.size = size
        self.large.have = have
        self.large.first = header.first
        memcpy(self.large.key, header.key, 4)
        mask_copy(
            <uint8_t*> PyBytes_AS_STRING(<object> self.large.block),
            payload,
            have,
            wide_key(header.key, 0),
        )
        return 0

    cdef inline uint8_t* large_end(self) noexcept:
        return <uint8_t*> PyBytes_AS_STRING(<object> self.large.block) + self.large.have

    cdef int grow_large(self, size_t wanted) except -1:
        """Make room for `wanted` bytes of the large message by doubling it."""
        cdef size_t room = <size_t> PyBytes_GET_SIZE(<object> self.large.block)
        if wanted > room:
            room = min(self.large.size, max(room * 2, wanted))
            try:
                _PyBytes_Resize(&self.large.block, <Py_ssize_t> room)
            except MemoryError:  # and the block is gone
                self.drop_large()
                raise
        return 0

    cdef int read_large(self, uint8_t* buffer) except -1:
        """Read into the message's place, and the bytes after it into the buffer."""
        cdef iovec parts[2]
        cdef size_t room
        cdef ssize_t got
        cdef int count
        if self.large.have == <size_t> PyBytes_GET_SIZE(<object> self.large.block):
            self.grow_large(self.large.have + 1)
        room = <size_t> PyBytes_GET_SIZE(<object> self.large.block) - self.large.have
        parts[0].iov_base = self.large_end()
        parts[0].iov_len = room
        parts[1].iov_base = buffer
        parts[1].iov_len = self.read_size
        # After an incomplete message nothing else can follow.
        count = 2 if self.large.have + room == self.large.size else 1
        got = c_readv(self.fd, parts, count)
        if got <= 0:
            return self.not_read(got)
        self._last_received = self._loop.now
        self.bytes_received += got
        self.counters.bytes_received += got
        return self.feed_large(buffer, <size_t> got)

    cdef int feed_large(self, uint8_t* buffer, size_t got) except -1:
        """Add what was read to the large message; what exceeds its place is in the
        buffer."""
        cdef size_t room = (
            <size_t> PyBytes_GET_SIZE(<object> self.large.block) - self.large.have
        )
        self.add_to_large(min(got, room))
        if got > room:
            self.feed(buffer, got - room)
        return 0

    cdef int add_to_large(self, size_t size) except -1:
        """Add `size` bytes that are in their final place, still masked."""
        cdef uint8_t* piece = self.large_end()
        mask_in_place(piece, size, wide_key(self.large.key, self.large.have))
        self.large.have += size
        if self._open and self.large.first & TEXT_OPCODE:
            if not utf8_feed(&self.large.text, piece, size):
                self.drop_large()
                self._on_fault(InvalidData("text is not valid UTF-8"))
                return 0
        if self.large.have == self.large.size:
            self.end_large()
        return 0

    cdef int end_large(self) except -1:
        cdef Large whole = self.large[0]
        cdef object message
        free(self.large)
        self.large = NULL
        try:
            if not self._open:
                return 0  # our close frame is sent: nothing is delivered any more
            if whole.first & TEXT_OPCODE:
                if whole.text.missing:
                    self._on_fault(InvalidData("text ends inside a UTF-8 sequence"))
                    return 0
                message = PyUnicode_DecodeUTF8(
                    PyBytes_AS_STRING(<object> whole.block),
                    <Py_ssize_t> whole.size,
                    NULL,
                )
            else:
                message = <object> whole.block
            self.deliver(message)
            message = None
        finally:
            # If echoed, it is still in the queue, and comes back by `release_item`.
            self._loop.give_block(whole.block)
        return 0

    cdef void drop_large(self) noexcept:
        if self.large != NULL:
            Py_XDECREF(self.large.block)
            free(self.large)
            self.large = NULL

    # Sending

    def write_message(self, msg: object, binary: bool | None = None) -> SendStatus:
        """Send a message (RFC 6455 §6.1); from any thread.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary, so
                that a received message can be passed on; dict and list as JSON text.
            binary: True sends either as binary, False either as text.

        Returns:
            `SendStatus.SENT`, `BACKPRESSURE` (accepted; output waits for the peer to
            read) or `DROPPED` (false: not open, or the slow-consumer policy).
            Never raises because the peer has gone.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
        """
        return self.write_any(msg, binary)

    def send(self, msg: object, binary: bool | None = None) -> SendStatus:
        """The same as `write_message`."""
        if self.own_write or has_dict(self):
            return self.write_message(msg, binary)
        return self.write_any(msg, binary)

    def publish(self, topic: str, msg: object, *, key: str | None = None) -> int:
        """Send a message to all subscribers of a topic except this client.

        Args:
            topic: any name; this client does not need to be subscribed.
            msg: as for `write_message`, also for the errors raised.
            key: for a topic with history, see `Server.publish`.

        Returns:
            How many clients accepted it; 0 from a thread other than the loop's; with an
            engine see `Server.publish`.

        Raises:
            TypeError, ValueError: See `Server.publish`.
        """
        return publish_from(self, topic, msg, key)

    cdef object write_any(self, object msg, object binary):
        """See `write_message`; what needs no Python code is sent from here."""
        cdef const char* data
        cdef Py_ssize_t size
        if not runs_here(self._loop):
            return self._write_elsewhere(msg, binary)
        if binary is None or binary is True or binary is False:
            if type(msg) is not str and type(msg) is not bytes:
                if binary is not False and self.write_view(msg):
                    return _SENT
                msg = exact_copy(msg)
            if type(msg) is str:
                data = PyUnicode_AsUTF8AndSize(msg, &size)
                return self.write(
                    BINARY_OPCODE if binary is True else TEXT_OPCODE,
                    msg,
                    <const uint8_t*> data,
                    <size_t> size,
                )
            if type(msg) is bytes and (binary is not False or is_utf8(msg)):
                return self.write(
                    TEXT_OPCODE if binary is False else BINARY_OPCODE,
                    msg,
                    <const uint8_t*> PyBytes_AS_STRING(msg),
                    <size_t> PyBytes_GET_SIZE(msg),
                )
            if type(msg) is dict or type(msg) is list:
                return self.send_bytes(
                    BINARY_OPCODE if binary is True else TEXT_OPCODE, json_bytes(msg)
                )
        return self._send(*encode_message(msg, binary))

    cdef bint write_view(self, object msg) except -1:
        """Write a small bytearray or memoryview behind others, without a copy of it;
        false where it must be copied first."""
        cdef View view
        if not self.dirty or not (type(msg) is bytearray or type(msg) is memoryview):
            return False
        try:
            take_buffer(msg, &view)
        except BufferError:
            return False
        try:
            return self.write_behind(
                BINARY_OPCODE, <const uint8_t*> view.buf, <size_t> view.len
            )
        finally:
            PyBuffer_Release(&view)

    def _send(self, int opcode: int, payload: bytes) -> SendStatus:
        return self.send_bytes(<uint8_t> opcode, payload)

    cdef object send_bytes(self, uint8_t opcode, bytes payload):
        if payload is None:
            raise TypeError("a payload must be bytes, not None")
        return self.write(
            opcode,
            payload,
            <const uint8_t*> PyBytes_AS_STRING(payload),
            <size_t> PyBytes_GET_SIZE(payload),
        )

    cdef object write(
        self, uint8_t first, object owner, const uint8_t* data, size_t size
    ):
        """Accept or drop a message; `owner` keeps its bytes alive."""
        if self.write_behind(first, data, size):
            return _SENT
        # Before compressing: a message that enters the context must be sent.
        if not self.may_write(size):
            return _DROPPED
        if (
            self.packing
            and size >= self.threshold
            and self.deflater is None
            and self._loop.source is not owner
            and not self.alone
        ):
            self.deflater = <Deflater?> self._protocol.deflater()
        if not self._open:
            return _DROPPED  # the policy has ended the connection
        self.count_sent()
        if self.packing and size >= self.threshold:
            self.counters.plain_sent += <int64_t> size
            owner = self.pack(owner, data, size)
            if not self._open:
                return _DROPPED
            data = <const uint8_t*> PyBytes_AS_STRING(owner)
            size = <size_t> PyBytes_GET_SIZE(owner)
            self.counters.packed_sent += <int64_t> size
            first |= PACKED
        if (
            size <= COPY_LIMIT
            and not self._write_blocked
            and not self.queue_used
            and self.small_used < SMALL_LIMIT
        ):
            self.write_small(first, data, size)
        elif size <= COPY_LIMIT:
            self.write_frame(first, data, size)
        else:
            self.push(
                owner,
                data,
                size,
                wire_size(size, self.frame_limit(first)),
                first,
                False,
            )
        self.mark_dirty()
        return self.written()

    cdef inline bint write_behind(
        self, uint8_t first, const uint8_t* data, size_t size
    ) noexcept:
        """Write a message behind others of this turn, where nothing else is to be done:
        no limit is near, there is room, and it is flushed with them."""
        cdef uint8_t* to = self.small + self.small_used
        cdef size_t head
        if (
            size > COPY_LIMIT
            or self.small_used + size + HEAD_ROOM > self.small_room
            or self.waiting + size > self._write_limit >> 1
            or size > self.max_frame_size
            or self.queue_used
            or not (self.dirty and self._open)
            or self._write_blocked | self.packing
            or self._loop.buffered > self._loop.buffered_limit
        ):
            return False
        head = write_header(to, first | FINAL, size, False)
        memcpy(to + head, data, size)
        self.add_to_small(head + size)
        self.count_sent()
        return True

    cdef inline void count_sent(self) noexcept:
        """A message was accepted."""
        self.messages_sent += 1
        self.counters.messages_sent += 1

    cdef inline bint takes_frame(self, size_t size, size_t limit) noexcept:
        """Whether a message framed for many can leave from here as it is, next."""
        return (
            self._open
            and not self.waiting
            and not self._write_blocked
            and self.small == NULL
            and self.max_frame_size == limit
            and not (self.packing and size >= self.threshold)
        )

    cdef inline int write_frame_of_all(self, bytes frame) except -1:
        """Accept a message framed for many; the loop learns of it by the caller."""
        self.count_sent()
        self.share_small(frame)
        if not self.dirty:
            self.dirty = True
            self._loop.dirty.append(self)
        if self.waiting > self._write_limit >> 1:
            self.written()
        return 0

    def _send_framed(self, data: bytes) -> SendStatus:
        """Accept or drop a message that is sent as it is, without a header."""
        if not self.may_write(len(data)) or not self._open:
            return _DROPPED
        self.count_sent()
        self._enqueue(data)
        return self.written()

    cdef inline bint may_write(self, size_t size) except -1:
        """Whether a message may enter the outbox; the policy may end the connection."""
        if not self._open:
            return False
        # Output being written does not count: it is nearly gone.
        if (
            self.waiting
            and (
                self.waiting - self.offering + size > self._write_limit
                or self.has_too_many()
                or self._loop.buffered > self._loop.buffered_limit
            )
            and not self.has_room(size)
        ):
            self.counters.dropped += 1
            return False
        return True

    cdef inline object written(self):
        """A message is in the outbox: write it if that is half full."""
        # BACKPRESSURE must be reported while there is still room.
        if not self._write_blocked and (
            self.waiting > self._write_limit >> 1 or self.has_many()
        ):
            self.write_out()
        if self._write_blocked:
            self._await_drain = True
            return _BACKPRESSURE
        return _SENT

    cdef int has_room(self, size_t size) except -1:
        """Whether a message may enter a full outbox: in the place of an older one, or
        because of the policy."""
        if self.latest is not None and self.latest.takes(self, size):
            return True
        return self._make_room(size)

    cdef bytes pack(self, object owner, const uint8_t* data, size_t size):
        """Compress a message: with this peer's context, unless it goes to others too.

        A second receiver of the same object in one turn shows that. The shared form
        refers to no earlier message, so any peer can inflate it; but it moves the
        peer's window, so our context must be reset before its next use. No Python code
        runs between here and the queue: messages leave in the order of compression.
        """
        cdef LoopState loop = self._loop
        cdef Deflater deflater = self.deflater
        if self.alone and loop.source is not owner:
            loop.source = owner
            loop.packed = None
        if loop.source is owner:
            self.stale = True
            return loop.pack_for_all(self._rules.agreement, data, size)
        loop.source = owner
        loop.packed = None
        if self.stale:
            deflater.reset()
        self.stale = False
        return loop.compress(deflater, data, size)

    cdef inline int mark_dirty(self) except -1:
        if not self.dirty and not self._write_blocked:
            self.dirty = True
            self._loop.dirty.append(self)
            if self._loop.eager:
                self._loop.on_dirty()
        return 0

    def _pause_reading(self, paused: bool) -> None:
        """Pause or resume reading; for callbacks that have enough to do."""
        self._paused_by_callbacks = paused
        if self._write_blocked:
            if paused or self._paused_by_backpressure:
                self._watch(WRITE_READY)
            else:
                self._watch(READ_READY | WRITE_READY)
        else:
            self._watch(0 if paused else READ_READY)
        if not paused and self.rest is not None:
            self.join_run_queue()

    def _enqueue(self, frame: bytes | memoryview) -> None:
        """Put a message or control frame into the outbox."""
        self.push_frames(frame)
        self.mark_dirty()

    def _enqueue_pong(self, frame: bytes) -> None:
        """Put a pong into the outbox; it replaces one that has not been sent yet.

        RFC 6455 §5.5.3: an endpoint that has not sent the pongs of earlier pings yet
        "MAY elect to send a Pong frame for only the most recently processed Ping".
        """
        cdef Item* last
        self.pongs += 1
        if (
            self.queue_used
            and not self.offering
            and (self._write_blocked or self.pongs > MANY_PONGS)
        ):
            last = self.queue + self.queue_start + self.queue_used - 1
            if last.sent == 0 and not last.partial and last.first == 0:
                if last.data[0] == PONG_FRAME:
                    self.waiting -= last.wire
                    self._loop.buffered -= <int64_t> last.wire
                    self.queue_used -= 1
                    self.release_item(last)
        self._enqueue(frame)

    def _flush(self) -> None:
        """Write waiting output, as much as the system takes."""
        self.write_out()

    def _detach(self) -> None:
        """The socket is closed: its descriptor may belong to another one now."""
        self.fd = -1

    cdef int write_out(self) except -1:
        """Write waiting output. Re-entrant calls only queue: from a signal handler or
        `__del__` that runs inside a socket's method."""
        cdef int outcome
        if self.writing:
            return 0
        self.writing = True
        try:
            outcome = self.offer_all()
        finally:
            self.writing = False
            self.offering = 0
        if outcome == ALL_TAKEN:
            return self.all_out()
        if outcome == SOME_LEFT:
            return self.block()
        return 0

    cdef int offer_all(self) except -1:
        """Write waiting output until the system takes no more."""
        cdef size_t offered = 0
        cdef ssize_t sent
        cdef int error
        self.pongs = 0
        while self.waiting:
            if self.fd < 0:
                if isinstance(self.own_sock, TLSRecords):
                    sent = self.send_encrypted(<TLSRecords> self.own_sock, &offered)
                else:
                    sent = self.send_by_method(&offered)
                if not self.offering:
                    return GONE  # lost, or ended while the method ran
            else:
                sent = self.send_some(&offered)
            if sent < 0:
                error = errno
                if not would_block(error):
                    self._on_lost(OSError(error, os.strerror(error)))
                    return GONE
                sent = 0
            self.consume(<size_t> sent)
            self.offering = 0
            if sent and self._write_blocked:
                self._last_received = self._loop.now  # a peer that reads is alive
            if <size_t> sent < offered:
                return SOME_LEFT
        return ALL_TAKEN

    cdef int block(self) except -1:
        """Wait for the peer to read; read from it again when it has read enough."""
        if not self._write_blocked:
            self._write_blocked = True
            if self.latest is not None:
                self.latest.begin(self)
            self._watch(
                WRITE_READY if self._paused_by_callbacks else READ_READY | WRITE_READY
            )
        elif self._paused_by_backpressure and self.waiting <= self._write_limit >> 2:
            self.resume_reading(WRITE_READY)
        return 0

    cdef int resume_reading(self, int events) except -1:
        """Read from the peer again, unless reading is paused for another reason."""
        self._paused_by_backpressure = False
        self._watch(events if self._paused_by_callbacks else READ_READY | events)
        if self.rest is not None and not self._paused_by_callbacks:
            self.join_run_queue()
        return 0

    cdef int all_out(self) except -1:
        self.drop_small()
        if self.queue != NULL and not self.queue_used:
            # It may have held nothing but the answer to the handshake.
            free(self.queue)
            self.queue = NULL
            self.queue_room = self.queue_start = 0
        if self.latest is not None:
            self.latest = None
        if self._write_blocked:
            self._write_blocked = False
            self.resume_reading(0)
        if self._await_drain and not self._write_blocked:
            self._await_drain = False
            self._on_drained()
        return 0

    cdef ssize_t send_some(self, size_t* offered) noexcept:
        """Offer `small`, or it and the queue, to the system."""
        cdef iovec parts[MAX_PARTS]
        cdef uint8_t heads[MAX_HEADS * HEAD_ROOM]
        cdef msghdr message
        cdef size_t left = self.small_used - self.small_sent
        cdef int count
        if not self.queue_used:
            offered[0] = left
            return c_send(self.fd, self.small + self.small_sent, left, MSG_NOSIGNAL)
        count = self.list_output(parts, heads, offered)
        memset(&message, 0, sizeof(msghdr))
        message.msg_iov = parts
        message.msg_iovlen = count
        return c_sendmsg(self.fd, &message, MSG_NOSIGNAL)

    cdef int list_output(
        self, iovec* parts, uint8_t* heads, size_t* offered
    ) noexcept:
        """List `small` and the queue, as many parts as fit."""
        cdef size_t left = self.small_used - self.small_sent
        offered[0] = left
        if left:
            parts[0].iov_base = self.small + self.small_sent
            parts[0].iov_len = left
        return self.gather(parts, heads, 1 if left else 0, offered)

    cdef ssize_t send_encrypted(
        self, TLSRecords records, size_t* offered
    ) except -2:
        """The same through TLS."""
        cdef iovec parts[MAX_PARTS]
        cdef uint8_t heads[MAX_HEADS * HEAD_ROOM]
        cdef int count
        if records.fd < 0:  # a method of the socket may change the outbox
            return self.send_by_method(offered)
        count = self.list_output(parts, heads, offered)
        self.offering = <uint32_t> min(offered[0], <size_t> 0xFFFFFFFF)
        try:
            return <ssize_t> records.write(parts, count, offered[0])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._on_lost(error)
            self.discard()
            return 0
        except BaseException:
            # It is unknown how much was sent, and nothing may be sent twice.
            self._abandon()
            self.discard()
            raise

    cdef ssize_t send_by_method(self, size_t* offered) except -2:
        """The same through the methods of a socket that is not a plain one."""
        cdef bytes data = self.joined(JOIN_LIMIT)
        cdef size_t size = <size_t> PyBytes_GET_SIZE(data)
        cdef ssize_t sent
        offered[0] = size
        self.offering = <uint32_t> min(size, <size_t> 0xFFFFFFFF)
        try:
            sent = self.own_sock.send(data)
            if sent < 0 or <size_t> sent > size:
                raise ValueError(f"send returned {sent} for {size} bytes")
            return sent
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._on_lost(error)
            self.discard()
            return 0
        except BaseException:
            # It is unknown how much was sent, and nothing may be sent twice.
            self._abandon()
            self.discard()
            raise


def _ignore(msg, client):
    """Placeholder until the connection has a callback."""


_write_message = ConnectionCore.write_message

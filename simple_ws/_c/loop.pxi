# State and statistics that connections share with the loop that drives them; the twin
# of `_fallback/loop.py`. Included by `_speedups.pyx`.

cdef extern from "<stdbool.h>":
    #: One byte instead of the four of `bint`: a server holds 50,000 connections.
    ctypedef bint flag "bool"


cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    object PyUnicode_DecodeUTF8(const char* data, Py_ssize_t size, const char* errors)


cdef extern from *:
    """
    /* A user may have hashed the bytes that stood here before. */
    static inline void forget_hash(PyObject *block) {
        ((PyBytesObject *)block)->ob_shash = -1;
    }
    """
    void forget_hash(PyObject* block)


cdef enum:
    #: Incomplete frames are copied into `tail` below this size, and received into their
    #: final place above it, which saves the copy and costs a `readv`.
    TAIL_LIMIT = 4096
    #: A smaller spare message buffer is not worth keeping: malloc keeps it itself.
    SPARE_LIMIT = 65536
    #: Spare message buffers of a loop, and their total size in bytes.
    SPARES = 16
    SPARE_BYTES = 8388608

cdef size_t _MAX_READ = MAX_READ
#: Room for a tail and for the largest read after it.
cdef size_t _LARGEST_READ = TAIL_LIMIT + 16 + _MAX_READ
cdef double _TURN = TURN
cdef int _MOST_SWEPT = MOST_SWEPT
cdef double _SWEEP_TIME = SWEEP_TIME
cdef double _LATEST_PING = LATEST_PING
cdef double _LONGEST_SHARE = LONGEST_SHARE
cdef double _LEAST_SHARE = LEAST_SHARE
#: No frame is longer, so none is split.
cdef size_t _NO_FRAME_LIMIT = 2**62


cdef class Counters:
    """Counters()
--

Counts of all connections of one handler, since it was created, and the rules of
    their heartbeat.

    Attributes:
        messages_received, messages_sent: data messages.
        bytes_received, bytes_sent: on the wire, after the handshake, without TLS.
        plain_sent, packed_sent: bytes of compressed messages before and after.
        packed_received, plain_received: the same for received messages.
        dropped: messages refused or dropped by the slow-consumer policy.
        conflated: messages replaced by newer ones before they were sent.
        busy: seconds spent on input, callbacks included.
        ping_interval, ping_timeout, idle_timeout: the options in force, in seconds;
            infinite ones never pass.
        quiet: nobody is to be told of pings and pongs.
    """

    cdef public int64_t messages_received
    cdef public int64_t messages_sent
    cdef public int64_t bytes_received
    cdef public int64_t bytes_sent
    cdef public int64_t plain_sent
    cdef public int64_t packed_sent
    cdef public int64_t packed_received
    cdef public int64_t plain_received
    cdef public int64_t dropped
    cdef public int64_t conflated
    cdef public double busy
    cdef public double ping_interval
    cdef public double ping_timeout
    cdef public double idle_timeout
    cdef public bint quiet

    def __init__(self) -> None:
        self.ping_interval = self.ping_timeout = self.idle_timeout = INFINITY


cdef Counters _nobody = Counters()


cdef class LoopState:
    """LoopState(clock)
--

State that connections share with the loop that drives them.

    Args:
        clock: seconds that never run backwards.

    Attributes:
        now: the clock at the beginning of this turn, in seconds.
        owner: ident of the thread that runs the loop.
        dirty: connections to be flushed at the end of the turn.
        run_queue: connections that continue after the others were served, in order.
        share: seconds that one connection may take at once, checked before each message
            and event.
        attention: something other than readiness needs the loop: a call, a deadline.
        eager: call `on_dirty` for output that is written outside of a turn.
        buffered: bytes of unsent output of all connections.
        buffered_limit: beyond it, `_make_room` is called if output is waiting.
        buffered_input: bytes of input kept by `input_holders`, by their `id`: what is
            incomplete, or waits for a callback.
        buffered_input_limit: beyond it, `on_too_much_input` is called.
        slow: seconds that the callbacks of one connection may block the loop before
            `on_slow` is called; inflating and compressing do not count.
        pause: seconds after which a turn counts as a pause, in which no socket was
            read; `on_pause` is called then.
        longest_turn: seconds of the longest turn since this was set to 0.
        interrupted: an exception that ends programs was raised; it is raised again at
            the end of the turn, and nothing more is called in it.
    """

    cdef public double now
    cdef uint16_t phase  # of the next connection
    cdef public bint eager
    cdef public bint interrupted
    cdef public int64_t buffered
    cdef public int64_t buffered_limit
    cdef public int64_t buffered_input
    cdef public int64_t buffered_input_limit
    cdef public double slow
    cdef public double pause
    cdef public double longest_turn
    cdef readonly double share
    cdef double fair_share  # the share at the beginning of this turn
    cdef double own_work  # seconds since `mark` that callbacks did not take
    cdef double mark  # time is accounted for up to here
    cdef int credit  # messages and events left for the connection being read
    cdef unsigned long owner_word  # see `_c/threads.pxi`
    cdef unsigned long attention_word
    cdef readonly list dirty
    cdef readonly list run_queue
    cdef readonly dict input_holders
    cdef Py_ssize_t carried_over  # of them, who waited when this turn began
    cdef public object _poller  # `Poller`, if the loop waits by it
    cdef readonly object clock
    cdef bint monotonic
    # The last message given to a compressing connection in this turn, and its
    # shared compressed forms, by agreement.
    cdef object source
    cdef dict packed
    cdef uint8_t* buffer
    cdef PyObject* spares[SPARES]  # bytes objects that are not used elsewhere
    cdef int spare_count
    cdef size_t spare_bytes

    def __cinit__(self, *args, **kwargs):
        self.now = self.mark = self.longest_turn = 0.0
        self.phase = 0
        self.buffered = 0
        self.buffered_limit = INT64_MAX
        self.buffered_input = 0
        self.buffered_input_limit = INT64_MAX
        self.input_holders = {}
        self.slow = self.pause = INFINITY
        store_word(&self.owner_word, PyThread_get_thread_ident())
        store_word(&self.attention_word, False)
        self.dirty = []
        self.run_queue = []
        self.share = self.fair_share = _LONGEST_SHARE
        self.own_work = 0.0
        self.buffer = NULL
        self.spare_count = 0
        self.spare_bytes = 0

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.monotonic = clock is time.monotonic and HAVE_MONOTONIC
        self.look_at_clock()

    def __dealloc__(self):
        cdef int index
        free(self.buffer)
        for index in range(self.spare_count):
            Py_XDECREF(self.spares[index])

    @property
    def owner(self) -> int:
        """Ident of the thread that runs the loop."""
        return load_word(&self.owner_word)

    @owner.setter
    def owner(self, unsigned long ident: int) -> None:
        store_word(&self.owner_word, ident)

    @property
    def attention(self) -> bool:
        """Whether something other than readiness needs the loop."""
        return <bint> load_word(&self.attention_word)

    @attention.setter
    def attention(self, bint needed: bool) -> None:
        store_word(&self.attention_word, needed)

    def tick(self) -> None:
        """Read the clock; called at the beginning of a turn."""
        self.look_at_clock()

    def on_failure(self, target: object, error: BaseException) -> None:
        """A target called for readiness raised; the loop must continue."""
        raise error

    def on_interrupt(self, error: BaseException) -> None:
        """A callback raised a BaseException; the loop must raise it again."""
        raise error

    def on_dirty(self) -> None:
        """Output was written outside of a turn, so nothing will flush it yet."""

    def on_slow(self, target: object, seconds: float) -> None:
        """Callbacks of what was heard have held the loop for longer than `slow`."""

    def note_input(self, holder: Any, before: int, size: int) -> None:
        """A holder of input has so many bytes now; it says how many it had before."""
        self.count_input(holder, before, size)

    cdef int count_input(
        self, object holder, int64_t before, int64_t size
    ) except -1:
        if not size:
            self.input_holders.pop(<uintptr_t> <PyObject*> holder, None)
        elif not before:
            self.input_holders[<uintptr_t> <PyObject*> holder] = holder
        self.buffered_input += size - before
        if self.buffered_input > self.buffered_input_limit:
            self.on_too_much_input()
        return 0

    def on_too_much_input(self) -> None:
        """More than `buffered_input_limit` is kept."""

    def on_pause(self, began: float, ended: float) -> None:
        """No socket was read between these two times."""

    def _account(self, target: object) -> None:
        counters = None
        if isinstance(target, ConnectionCore):
            counters = (<ConnectionCore> target).counters
        self.account(target, counters)

    def _end_turn(self) -> None:
        self.end_turn()

    cdef int account(self, object target, Counters counters) except -1:
        """Account for the time since the clock was last read."""
        cdef double now = self.read_clock()
        cdef double spent = now - self.mark
        self.mark = now
        if counters is not None:
            counters.busy += spent
            if spent > self.fair_share:
                (<ConnectionCore> target)._yield_turn()
        if spent - self.own_work > self.slow:
            self.on_slow(target, spent - self.own_work)
        self.own_work = 0.0
        return 0

    def _allot(self, int ready) -> None:
        """Divide this turn among so many."""
        self.allot(ready)

    cdef int allot(self, int ready) noexcept:
        self.fair_share = max(_LEAST_SHARE, min(_LONGEST_SHARE, _TURN / max(ready, 1)))
        self.share = self.fair_share
        self.own_work = 0.0
        self.carried_over = len(self.run_queue)
        return 0

    def _is_spent(self) -> bool:
        """Whether those who were heard have used this turn up."""
        return self.is_spent()

    cdef inline bint is_spent(self) noexcept:
        return self.mark - self.now > _TURN

    def serve_run_queue(self) -> None:
        """Let those go on who waited for that when this turn began, until it is used
        up; the others are the first of the next."""
        cdef list waiting = self.run_queue
        cdef double end
        cdef Py_ssize_t done = 0
        if not self.carried_over:
            return
        self.run_queue = []
        self.share = _LONGEST_SHARE
        end = max(self.now + _TURN, self.read_clock() + _LEAST_SHARE)
        try:
            while done < self.carried_over and not self.interrupted:
                done += 1
                (<ConnectionCore?> waiting[done - 1])._receive_more()
                if self.mark > end:
                    break
        finally:
            self.carried_over = 0
            self.run_queue[:0] = waiting[done:]

    def _note_own_work(self, began: float) -> None:
        """What was done since then is no callback's."""
        self.note_own_work(began)

    cdef int note_own_work(self, double began) except -1:
        self.own_work += self.read_clock() - began
        return 0

    cdef bytes compress(self, Deflater deflater, const uint8_t* data, size_t size):
        cdef double began = self.read_clock()
        cdef bytes result = deflater._compress(data, size)
        self.note_own_work(began)
        return result

    cdef double read_clock(self) except? -1:
        return monotonic_seconds() if self.monotonic else self.clock()

    cdef int end_turn(self) except -1:
        """Note how long no socket was read, and report it if it was too long."""
        if self.mark - self.now > self.longest_turn:
            self.longest_turn = self.mark - self.now
        if self.mark - self.now > self.pause:
            self.on_pause(self.now, self.mark)
        return 0

    cdef int look_at_clock(self) except -1:
        self.now = self.mark = self.read_clock()
        return 0

    def flush(self) -> None:
        """Write waiting output, once per connection; callbacks may refill outboxes."""
        self.write_all()

    cdef int write_all(self) except -1:
        cdef list dirty
        self.source = self.packed = None
        while self.dirty and not self.interrupted:
            dirty = self.dirty
            self.dirty = []
            for connection in dirty:
                if self.interrupted:
                    self.dirty.append(connection)
                    continue
                try:
                    if isinstance(connection, ConnectionCore):
                        (<ConnectionCore> connection).dirty = False
                        (<ConnectionCore> connection).write_out()
                    else:  # see `Reactor.flush_soon`
                        connection._dirty = False
                        connection._flush()
                except BaseException as error:
                    self.on_failure(connection, error)
        return 0

    cdef bytes pack_for_all(self, object agreement, const uint8_t* data, size_t size):
        """A message compressed without reference to any other, once for all receivers
        with the same agreement."""
        cdef Deflater deflater
        cdef dict forms
        if self.packed is None:
            self.packed = {}
        # Held here: code that runs meanwhile may send another message. The agreement is
        # stored with the entry it identifies; otherwise another could get its id.
        forms = self.packed
        form = forms.get(id(agreement))
        if form is None:
            deflater = Deflater(
                agreement.level, agreement.mem_level, agreement.send_window_bits, False
            )
            form = agreement, self.compress(deflater, data, size)
            forms[id(agreement)] = form
        return form[1]

    cdef uint8_t* borrow_buffer(self) except NULL:
        """A buffer to read into: room for a tail and for the largest read after it. It
        is not shared until it is given back."""
        cdef uint8_t* buffer = self.buffer
        self.buffer = NULL
        if buffer == NULL:
            buffer = <uint8_t*> malloc(_LARGEST_READ)
            if buffer == NULL:
                raise MemoryError
        return buffer

    cdef void return_buffer(self, uint8_t* buffer) noexcept:
        if self.buffer == NULL:
            self.buffer = buffer
        else:
            free(buffer)

    cdef PyObject* take_block(self, size_t size, size_t first) except NULL:
        """A bytes object of `size` to write into, or a new one of `first` bytes.

        For a new block the kernel zeroes page after page on first access, which cost
        two thirds of the time of a 1 MiB echo.
        """
        cdef int index
        cdef PyObject* block
        for index in range(self.spare_count):
            block = self.spares[index]
            if <size_t> PyBytes_GET_SIZE(<object> block) == size:
                self.spare_count -= 1
                self.spares[index] = self.spares[self.spare_count]
                self.spare_bytes -= size
                forget_hash(block)
                return block
        return new_block(NULL, <Py_ssize_t> first)

    cdef void give_block(self, PyObject* block) noexcept:
        """Take a reference; keep the block if it is not used elsewhere."""
        cdef size_t size = <size_t> PyBytes_GET_SIZE(<object> block)
        if not has_one_owner(block) or size < SPARE_LIMIT or size > SPARE_BYTES:
            Py_XDECREF(block)
            return
        # The oldest ones are freed: sizes that are no longer needed must not stay.
        while self.spare_count == SPARES or self.spare_bytes + size > SPARE_BYTES:
            self.drop_oldest_spare()
        self.spares[self.spare_count] = block
        self.spare_count += 1
        self.spare_bytes += size

    cdef void drop_oldest_spare(self) noexcept:
        cdef PyObject* oldest = self.spares[0]
        cdef int index
        for index in range(1, self.spare_count):
            self.spares[index - 1] = self.spares[index]
        self.spare_count -= 1
        self.spare_bytes -= <size_t> PyBytes_GET_SIZE(<object> oldest)
        Py_XDECREF(oldest)


cdef inline bint runs_here(LoopState loop) noexcept:
    """Whether the caller is the loop's thread."""
    return load_word(&loop.owner_word) == PyThread_get_thread_ident()


cdef LoopState _nowhere = LoopState(time.monotonic)

# Compressing and inflating messages with zlib (RFC 7692 §7.2); the twin of `Deflater`
# and `Inflater` in `_fallback/codecs.py`. Included by `_speedups.pyx`, whose buffers it
# uses.

cdef extern from *:
    """
    #include <zlib.h>
    #undef Byte /* a macro of zlib's Z_PREFIX, and a member of in6_addr on Windows */
    """

cdef extern from * nogil:
    ctypedef unsigned int uInt
    ctypedef struct z_stream:
        uint8_t* next_in  # const in fact, but only if ZLIB_CONST is defined
        uInt avail_in
        uint8_t* next_out
        uInt avail_out
        unsigned long total_in
        int data_type

    enum:
        Z_BUF_ERROR
        Z_DEFAULT_STRATEGY
        Z_DEFLATED
        Z_MEM_ERROR
        Z_NO_FLUSH
        Z_OK
        Z_STREAM_END
        Z_SYNC_FLUSH

    int deflateInit2(
        z_stream* stream,
        int level,
        int method,
        int window_bits,
        int mem_level,
        int strategy,
    )
    int deflate(z_stream* stream, int flush)
    int deflateReset(z_stream* stream)
    int deflateEnd(z_stream* stream)
    int inflateInit2(z_stream* stream, int window_bits)
    int inflate(z_stream* stream, int flush)
    int inflateReset(z_stream* stream)
    int inflateGetDictionary(z_stream* stream, uint8_t* dictionary, uInt* size)
    int inflateSetDictionary(z_stream* stream, const uint8_t* dictionary, uInt size)
    int inflateEnd(z_stream* stream)


cdef enum:
    #: Results up to this size are built on the stack and copied once into bytes of the
    #: right size, which is cheaper than guessing, allocating and shrinking.
    SCRATCH = 8192
    #: zlib counts in 32 bits: longer input and output is processed in pieces.
    LONGEST = 1 << 30
    #: The largest window of deflate (RFC 1951 §2).
    WINDOW = 32768
    #: `data_type` after `inflate`: a block has ended, and no input bit is left.
    BETWEEN_BLOCKS = 128


cdef struct Output:
    uint8_t* start
    size_t room  # bytes available
    size_t used  # bytes written
    PyObject* block  # the bytes object with the output; NULL: it is on the stack


cdef inline Output on_stack(uint8_t* scratch) noexcept nogil:
    """An output that starts with SCRATCH bytes on the caller's stack."""
    cdef Output out
    out.start = scratch
    out.room = SCRATCH
    out.used = 0
    out.block = NULL
    return out


cdef int grow(Output* out, size_t wanted) except -1:
    """Enlarge to `wanted` bytes, more than available; written bytes are kept."""
    cdef PyObject* block
    if out.block != NULL:
        # Drops the block and leaves NULL when there is no memory.
        _PyBytes_Resize(&out.block, <Py_ssize_t> wanted)
    else:
        block = new_block(NULL, <Py_ssize_t> wanted)
        memcpy(PyBytes_AS_STRING(<object> block), out.start, out.used)
        out.block = block
    out.start = <uint8_t*> PyBytes_AS_STRING(<object> out.block)
    out.room = wanted
    return 0


cdef bytes finished(Output* out, size_t size):
    """The first `size` bytes of the output, which is empty afterwards."""
    cdef PyObject* block
    cdef bytes result
    if out.block == NULL:
        return PyBytes_FromStringAndSize(<char*> out.start, <Py_ssize_t> size)
    _PyBytes_Resize(&out.block, <Py_ssize_t> size)
    block = out.block
    out.block = NULL
    result = <bytes> block
    Py_XDECREF(block)  # `result` holds it now
    return result


@cython.final
cdef class Deflater:
    """Deflater(level, mem_level, window_bits, takeover)
--

Compresses messages (RFC 7692 §7.2.1).

    Args:
        level: 0 (none) to 9 (smallest), or -1 for zlib's default.
        mem_level: 1 to 9; zlib then takes 2 ** (mem_level + 9) bytes.
        window_bits: LZ77 window, 8 to 15.
        takeover: keep the window from message to message.
    """

    cdef z_stream _stream
    cdef bint _ready
    cdef bint _takeover

    def __cinit__(self, int level, int mem_level, int window_bits, bint takeover):
        cdef int result
        memset(&self._stream, 0, sizeof(z_stream))
        self._takeover = takeover
        # zlib refuses a raw deflate stream with a window of 2 ** 8 bytes. One of 2 ** 9
        # obeys the same bound: it never looks back further than its window less 262
        # bytes (deflate.h, MAX_DIST), which is 250 and fits into 256.
        if window_bits > 15:
            raise ValueError("Invalid initialization option")
        result = deflateInit2(
            &self._stream,
            level,
            Z_DEFLATED,
            -max(window_bits, 9),
            mem_level,
            Z_DEFAULT_STRATEGY,
        )
        if result == Z_MEM_ERROR:
            raise MemoryError("Can't allocate memory for compression object")
        if result != Z_OK:
            raise ValueError("Invalid initialization option")
        self._ready = True

    def __dealloc__(self):
        if self._ready:
            deflateEnd(&self._stream)

    @cython.critical_section
    def reset(self) -> None:
        """Forget the window: start without context."""
        deflateReset(&self._stream)

    @cython.critical_section
    def compress(self, data: Buffer) -> bytes:
        """Compress one whole message, without the tail that RFC 7692 removes."""
        cdef View view
        take_buffer(data, &view)
        try:
            return self._compress(<const uint8_t*> view.buf, <size_t> view.len)
        finally:
            PyBuffer_Release(&view)

    cdef bytes _compress(self, const uint8_t* data, size_t size):
        cdef uint8_t scratch[SCRATCH]
        cdef Output out = on_stack(scratch)
        if not size:
            # RFC 7692 §7.2.3.6. zlib produces nothing for a second flush in a row.
            return b"\x00"
        try:
            if size >= SCRATCH:
                grow(&out, size // 2)
            self._run(data, size, &out)
            if not self._takeover:
                deflateReset(&self._stream)
            return finished(&out, out.used - 4)
        finally:
            Py_XDECREF(out.block)

    cdef int _run(self, const uint8_t* data, size_t size, Output* out) except -1:
        cdef z_stream* stream = &self._stream
        cdef uInt given, space
        stream.next_in = <uint8_t*> data
        while True:
            given = <uInt> min(size, <size_t> LONGEST)
            space = <uInt> min(out.room - out.used, <size_t> LONGEST)
            stream.avail_in = given
            stream.next_out = out.start + out.used
            stream.avail_out = space
            deflate(stream, Z_SYNC_FLUSH if given == size else Z_NO_FLUSH)
            size -= given - stream.avail_in
            out.used += space - stream.avail_out
            # Done only when room is left: a full output may hide pending bytes.
            if stream.avail_out and not size:
                return 0
            if out.used == out.room:
                grow(out, out.room * 2)


@cython.final
cdef class Inflater:
    """Inflater(window_bits, takeover)
--

Decompresses messages, in pieces and up to a limit (RFC 7692 §7.2.2).

    Args:
        window_bits: LZ77 window the peer may have used, 8 to 15.
        takeover: the peer keeps its window from message to message.
    """

    cdef z_stream _stream
    cdef bint _ready
    cdef bint _takeover
    cdef int _ended

    def __cinit__(self, int window_bits, bint takeover):
        cdef int result
        memset(&self._stream, 0, sizeof(z_stream))
        self._takeover = takeover
        self._ended = 0
        if not 8 <= window_bits <= 15:
            raise ValueError("Invalid initialization option")
        result = inflateInit2(&self._stream, -window_bits)
        if result == Z_MEM_ERROR:
            raise MemoryError("Can't allocate memory for decompression object")
        if result != Z_OK:
            raise ValueError("Invalid initialization option")
        self._ready = True

    def __dealloc__(self):
        if self._ready:
            inflateEnd(&self._stream)

    @cython.critical_section
    def feed(self, data: Buffer, Py_ssize_t limit: int) -> bytes:
        """Inflate a piece of a message.

        Args:
            data: compressed bytes.
            limit: most bytes of output that are allowed.

        Returns:
            At most `limit` + 1 bytes. More than `limit` means that the message is too
            big; the rest of it is lost then, and the object must not be used again.

        Raises:
            InvalidData: Not deflate data, or too many empty streams.
        """
        cdef View view
        take_buffer(data, &view)
        try:
            return self._feed(<const uint8_t*> view.buf, <size_t> view.len, limit)
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def finish(self) -> None:
        """Inflate the tail that the peer removed, which ends the message.

        Raises:
            InvalidData: The message was cut off in the middle of a block.
        """
        # RFC 7692 §7.2.3.4: the peer may end its stream together with the message.
        cdef bint complete = self._ended and not self._stream.total_in
        cdef int streams = self._ended
        cdef bytes plain = self._feed(
            <const uint8_t*> PyBytes_AS_STRING(_TAIL),
            <size_t> PyBytes_GET_SIZE(_TAIL),
            0,
        )
        if not complete and (
            PyBytes_GET_SIZE(plain)
            or streams != self._ended
            or self._stream.data_type != BETWEEN_BLOCKS
        ):
            # The tail was not an empty block, but completed an unfinished one.
            raise InvalidData("deflate data ends inside a block")
        if not self._takeover:
            inflateReset(&self._stream)
        elif self._ended:
            # A stream that ended by itself may leave part of the tail unread.
            self._restart()
        self._ended = 0

    cdef bytes _feed(self, const uint8_t* data, size_t size, Py_ssize_t limit):
        cdef uint8_t scratch[SCRATCH]
        cdef Output out = on_stack(scratch)
        if limit < 0:
            raise ValueError(f"limit must not be negative, got {limit}")
        try:
            self._run(data, size, &out, <size_t> limit + 1)
            return finished(&out, out.used)
        finally:
            Py_XDECREF(out.block)

    cdef int _run(
        self, const uint8_t* data, size_t size, Output* out, size_t most
    ) except -1:
        """Inflate until the input ends or `most` bytes of output are produced."""
        cdef z_stream* stream = &self._stream
        cdef uInt given, space
        cdef int result
        out.room = min(out.room, most)
        stream.next_in = <uint8_t*> data
        while True:
            given = <uInt> min(size, <size_t> LONGEST)
            space = <uInt> min(out.room - out.used, <size_t> LONGEST)
            stream.avail_in = given
            stream.next_out = out.start + out.used
            stream.avail_out = space
            result = inflate(stream, Z_SYNC_FLUSH)
            size -= given - stream.avail_in
            out.used += space - stream.avail_out
            if result == Z_STREAM_END:
                if out.used == most:
                    return 0
                self._next_stream()
                if not size:
                    return 0
            elif result != Z_OK and result != Z_BUF_ERROR:
                raise fault(result)
            elif out.used == most or (stream.avail_out and not size):
                return 0
            if out.used == out.room:
                grow(out, min(most, out.room * 2))

    cdef int _next_stream(self) except -1:
        """The peer ended a deflate stream inside the message (BFINAL, RFC 7692
        §7.2.3.4); another one with the same window follows."""
        self._restart()
        self._ended += 1
        if self._ended > _MAX_STREAMS:
            raise InvalidData(f"more than {_MAX_STREAMS} deflate streams")
        return 0

    cdef int _restart(self) except -1:
        cdef uint8_t window[WINDOW]
        cdef uInt known = 0
        cdef int result = inflateGetDictionary(&self._stream, window, &known)
        if result == Z_OK:
            result = inflateReset(&self._stream)
        if result == Z_OK and known:
            result = inflateSetDictionary(&self._stream, window, known)
        if result != Z_OK:
            raise fault(result)
        return 0


cdef object fault(int result):
    """The exception for a result of zlib."""
    if result == Z_MEM_ERROR:
        return MemoryError("Can't allocate memory while decompressing data")
    return InvalidData("invalid deflate data")

# Headers of frames, and frames as bytes (RFC 6455 §5.2); the twin of `parse_header` and
# `build_frame` in `_fallback/codecs.py`. Included by `_speedups.pyx` after
# `_c/masking.pxi`.

cdef enum:
    HEADER_INCOMPLETE = 0
    HEADER_READY = 1
    HEADER_TOP_BIT = -1
    HEADER_NOT_MINIMAL = -2


cdef struct FrameHeader:
    uint64_t length  # of the payload; in bytes, like all lengths here
    uint8_t size  # of the header itself
    uint8_t first  # FIN, RSV and opcode
    bint masked
    uint8_t key[4]


cdef inline int read_header(
    const uint8_t* data, size_t size, FrameHeader* header
) noexcept nogil:
    """Parse a frame header; returns one of HEADER_*, negative ones are faults.

    The length is complete and checked before the key has arrived, as in the fallback.
    """
    cdef uint64_t length
    cdef size_t pos = 2
    cdef size_t index
    if size < 2:
        return HEADER_INCOMPLETE
    header.first = data[0]
    header.masked = data[1] >> 7
    length = data[1] & 0x7F
    if length == 126:
        if size < 4:
            return HEADER_INCOMPLETE
        length = (<uint64_t> data[2] << 8) | data[3]
        pos = 4
        header.length = length
        if length < 126:
            return HEADER_NOT_MINIMAL
    elif length == 127:
        if size < 10:
            return HEADER_INCOMPLETE
        length = 0
        for index in range(2, 10):
            length = (length << 8) | data[index]
        pos = 10
        header.length = length
        if length >> 63:
            return HEADER_TOP_BIT
        if length < 65536:
            return HEADER_NOT_MINIMAL
    header.length = length
    if header.masked:
        if size < pos + 4:
            return HEADER_INCOMPLETE
        memcpy(header.key, data + pos, 4)
        pos += 4
    header.size = <uint8_t> pos
    return HEADER_READY


cdef inline size_t write_header(
    uint8_t* to, uint8_t first, uint64_t length, bint masked
) noexcept nogil:
    """Write a frame header without its key; return its size, at most 10 bytes."""
    cdef uint8_t mark = 0x80 if masked else 0
    cdef size_t index
    to[0] = first
    if length < 126:
        to[1] = mark | <uint8_t> length
        return 2
    if length < 65536:
        to[1] = mark | 126
        to[2] = <uint8_t> (length >> 8)
        to[3] = <uint8_t> (length & 0xFF)
        return 4
    to[1] = mark | 127
    for index in range(8):
        to[2 + index] = <uint8_t> ((length >> (56 - 8 * index)) & 0xFF)
    return 10


cdef inline size_t header_size(uint64_t length) noexcept nogil:
    """The size that write_header will need."""
    return 2 if length < 126 else 4 if length < 65536 else 10


cdef object header_fault(int fault, uint64_t length):
    """RFC 6455 §5.2: "the minimal number of bytes MUST be used to encode the length"
    and "the most significant bit MUST be 0"."""
    if fault == HEADER_TOP_BIT:
        return ProtocolError("the most significant bit of a frame length is set")
    return ProtocolError(f"frame length {length:,} is not encoded minimally")


cdef tuple header_tuple(const uint8_t* data, size_t size):
    """The result of parse_header; None while the header is incomplete."""
    cdef FrameHeader header
    cdef int result = read_header(data, size, &header)
    if result == HEADER_READY:
        return (
            header.size,
            header.first,
            header.length,
            PyBytes_FromStringAndSize(<char*> header.key, 4) if header.masked else None,
        )
    if result == HEADER_INCOMPLETE:
        return None
    raise header_fault(result, header.length)


def parse_header(
    data: Buffer, Py_ssize_t start: int, Py_ssize_t end: int
) -> tuple[int, int, int, bytes | None] | None:
    """Parse a frame header (RFC 6455 §5.2).

    Args:
        data: bytes received.
        start: where the frame begins.
        end: where to stop looking.

    Returns:
        (size of the header, first byte with FIN, RSV and opcode, payload length in
        bytes, masking key or None), or None while the header is incomplete.

    Raises:
        ProtocolError: The length is not minimal, or its most significant bit is set.
    """
    cdef View view
    # Unsigned, because the difference of two signed numbers may not fit.
    if end < start or <size_t> end - <size_t> start < 2:
        return None
    take_buffer(data, &view)
    try:
        if start < 0 or end > view.len:
            raise IndexError("index out of range")
        return header_tuple(
            <const uint8_t*> view.buf + start, <size_t> end - <size_t> start
        )
    finally:
        PyBuffer_Release(&view)


cdef bytes make_frame(
    uint8_t first, const uint8_t* payload, size_t size, const uint8_t* key
):
    """Serialize a frame; key NULL sends the payload as it is."""
    cdef size_t head = header_size(size) + (0 if key == NULL else 4)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (head + size))
    cdef uint8_t* to = <uint8_t*> PyBytes_AS_STRING(frame)
    write_header(to, first, size, key != NULL)
    if key != NULL:
        memcpy(to + head - 4, key, 4)
        mask_copy(to + head, payload, size, wide_key(key, 0))
    elif size:
        memcpy(to + head, payload, size)
    return frame


cdef bytes make_masked_frame(uint8_t first, View* view, object key):
    cdef View key_view
    take_key(key, &key_view)
    try:
        return make_frame(
            first,
            <const uint8_t*> view.buf,
            <size_t> view.len,
            <const uint8_t*> key_view.buf,
        )
    finally:
        PyBuffer_Release(&key_view)


def build_frame(int first: int, payload: Buffer, key: bytes | None = None) -> bytes:
    """Serialize a frame (RFC 6455 §5.2).

    Args:
        first: its first byte: FIN, RSV bits and opcode.
        payload: not masked yet.
        key: masking key, four bytes; None sends the payload unmasked.
    """
    cdef View view
    if not 0 <= first <= 255:
        raise ValueError("bytes must be in range(0, 256)")
    take_buffer(payload, &view)
    try:
        if key is None:
            return make_frame(
                <uint8_t> first, <const uint8_t*> view.buf, <size_t> view.len, NULL
            )
        return make_masked_frame(<uint8_t> first, &view, key)
    finally:
        PyBuffer_Release(&view)

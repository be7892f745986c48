# Masking of payloads, eight bytes at once (RFC 6455 §5.3); the twin of `apply_mask` in
# `_fallback/codecs.py`. Included by `_speedups.pyx`, whose buffers it uses.

cdef inline uint64_t wide_key(const uint8_t* key, size_t offset) noexcept nogil:
    """Repeat a masking key to eight bytes, beginning `offset` bytes into it."""
    cdef uint8_t lanes[8]
    cdef uint64_t wide
    cdef uint32_t word
    cdef size_t lane
    if offset & 3 == 0:  # the compiler knows that where it is 0
        memcpy(&word, key, 4)
        return <uint64_t> word << 32 | word
    for lane in range(8):
        lanes[lane] = key[(offset + lane) & 3]
    memcpy(&wide, lanes, 8)
    return wide


cdef inline void mask_tail(
    uint8_t* to, const uint8_t* data, size_t size, uint64_t wide
) noexcept nogil:
    """Mask fewer than eight bytes."""
    cdef const uint8_t* lanes = <const uint8_t*> &wide
    cdef size_t pos
    for pos in range(size):
        to[pos] = data[pos] ^ lanes[pos & 7]


cdef inline void mask_in_place(
    uint8_t* data, size_t size, uint64_t wide
) noexcept nogil:
    """Mask or unmask in place.

    Not `mask_copy` with equal pointers: a compiler that cannot rule out an overlap
    leaves the loop scalar. memcpy of a word is one unaligned load.
    """
    cdef size_t words = size >> 3
    cdef size_t index
    cdef uint64_t word
    for index in range(words):
        memcpy(&word, data + (index << 3), 8)
        word ^= wide
        memcpy(data + (index << 3), &word, 8)
    mask_tail(data + (words << 3), data + (words << 3), size & 7, wide)


cdef inline void mask_copy(
    uint8_t* to, const uint8_t* data, size_t size, uint64_t wide
) noexcept nogil:
    """Mask or unmask into another buffer; the two must not overlap."""
    cdef size_t words = size >> 3
    cdef size_t index
    cdef uint64_t word
    for index in range(words):
        memcpy(&word, data + (index << 3), 8)
        word ^= wide
        memcpy(to + (index << 3), &word, 8)
    mask_tail(to + (words << 3), data + (words << 3), size & 7, wide)


cdef inline int take_key(object key, View* view) except -1:
    """View a masking key, which must have four bytes."""
    take_buffer(key, view)
    if view.len != 4:
        PyBuffer_Release(view)
        raise ValueError(f"masking key must be 4 bytes, got {view.len}")
    return 0


def apply_mask(data: Buffer, key: bytes, Py_ssize_t offset: int = 0) -> bytes:
    """Mask or unmask a payload (RFC 6455 §5.3).

    Args:
        data: the payload, or a piece of it.
        key: the masking key, four bytes.
        offset: how many bytes of the payload precede this piece.

    Returns:
        As many bytes as `data` has.

    Raises:
        ValueError: The key does not have four bytes.
    """
    cdef View view, key_view
    cdef bytes masked
    take_key(key, &key_view)
    try:
        take_buffer(data, &view)
        try:
            masked = PyBytes_FromStringAndSize(NULL, view.len)
            mask_copy(
                <uint8_t*> PyBytes_AS_STRING(masked),
                <const uint8_t*> view.buf,
                <size_t> view.len,
                wide_key(<const uint8_t*> key_view.buf, <size_t> offset),
            )
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&key_view)
    return masked

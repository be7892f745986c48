# UTF-8 that arrives in pieces, checked as far as it has come (RFC 3629 §4); the twin of
# `Utf8Validator` in `_fallback/codecs.py`. Included by `_speedups.pyx`.

cdef struct Utf8State:
    uint8_t missing  # continuation bytes of the character begun
    uint8_t low  # bounds of the next one of them
    uint8_t high


cdef inline bint is_ascii(uint64_t word) noexcept nogil:
    return not word & 0x8080808080808080ULL


cdef inline const uint8_t* skip_ascii(
    const uint8_t* pos, const uint8_t* end
) noexcept nogil:
    """The first byte that is not ASCII, or `end`."""
    cdef uint64_t words[4]
    while end - pos >= 32:
        memcpy(words, pos, 32)
        if not is_ascii(words[0] | words[1] | words[2] | words[3]):
            break
        pos += 32
    while end - pos >= 8:
        memcpy(words, pos, 8)
        if not is_ascii(words[0]):
            break
        pos += 8
    while pos < end and pos[0] < 0x80:
        pos += 1
    return pos


cdef inline const uint8_t* utf8_continue(
    Utf8State* state, const uint8_t* pos, const uint8_t* end
) noexcept nogil:
    """Continue the current character; NULL at a wrong byte."""
    while state.missing and pos < end:
        if pos[0] < state.low or pos[0] > state.high:
            return NULL
        state.low = 0x80
        state.high = 0xBF
        state.missing -= 1
        pos += 1
    return pos


cdef inline bint utf8_begin(Utf8State* state, uint8_t lead) noexcept nogil:
    """Process the first byte of a character; false if it cannot be one.

    RFC 3629 §4 leaves no overlong forms (C0, C1, E0 80..9F, F0 80..8F), no surrogates
    (ED A0..BF) and nothing above U+10FFFF (F4 90.., F5..).
    """
    state.low = 0x80
    state.high = 0xBF
    if lead < 0xC2:
        return False
    if lead < 0xE0:
        state.missing = 1
    elif lead < 0xF0:
        state.missing = 2
        if lead == 0xE0:
            state.low = 0xA0
        elif lead == 0xED:
            state.high = 0x9F
    elif lead < 0xF5:
        state.missing = 3
        if lead == 0xF0:
            state.low = 0x90
        elif lead == 0xF4:
            state.high = 0x8F
    else:
        return False
    return True


cdef inline const uint8_t* utf8_whole(
    const uint8_t* pos, const uint8_t* end
) noexcept nogil:
    """Skip characters of two and three bytes, the bulk of the world's text, while they
    are whole and in the common ranges; others are left to utf8_begin."""
    cdef uint8_t lead
    while end - pos >= 3:
        lead = pos[0]
        if 0xC2 <= lead < 0xE0:
            if (pos[1] & 0xC0) != 0x80:
                break
            pos += 2
        elif 0xE1 <= lead < 0xF0 and lead != 0xED:
            if (pos[1] & 0xC0) != 0x80 or (pos[2] & 0xC0) != 0x80:
                break
            pos += 3
        else:
            break
    return pos


cdef inline bint utf8_feed(
    Utf8State* state, const uint8_t* data, size_t size
) noexcept nogil:
    """Validate the next piece of a text; false at the first wrong byte, and then the
    state is the one before the piece."""
    cdef Utf8State now = state[0]
    cdef const uint8_t* pos = data
    cdef const uint8_t* end = data + size
    while True:
        pos = utf8_continue(&now, pos, end)
        if pos == NULL:
            return False
        pos = utf8_whole(skip_ascii(pos, end), end)
        if pos == end:
            break
        if pos[0] >= 0x80:
            if not utf8_begin(&now, pos[0]):
                return False
            pos += 1
    state[0] = now
    return True


@cython.final
cdef class Utf8Validator:
    """Utf8Validator()
--

Validates UTF-8 in pieces, and fails at the first wrong byte (RFC 3629).

    RFC 6455 §8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds
    that the byte stream is not, in fact, a valid UTF-8 stream, that endpoint MUST
    _Fail the WebSocket Connection_."
    """

    cdef Utf8State _state

    def __cinit__(self):
        self._state.missing = 0

    @cython.critical_section
    def feed(self, data: Buffer) -> bool:
        """Validate the next piece; False once the text cannot become valid any more."""
        cdef View view
        take_buffer(data, &view)
        try:
            if not view.len:
                return True
            return utf8_feed(&self._state, <const uint8_t*> view.buf, <size_t> view.len)
        finally:
            PyBuffer_Release(&view)

    @cython.critical_section
    def finish(self) -> bool:
        """Return whether the text may end here, and start over."""
        cdef bint complete = self._state.missing == 0
        self._state.missing = 0
        return complete

# cython: language_level=3, annotation_typing=False, auto_pickle=False
# cython: autotestdict=False, freethreading_compatible=True
"""The work done for every byte, frame and connection, in C.

Masking, frame headers and UTF-8 are here; the files of `_c` are included below, one job
each. This is the fast twin of `_fallback`, which is the specification: same names,
signatures, docstrings, results and error texts. `speedups` chooses between the two.
The meaning of frames is left to `protocol.websocket`.

Rules for adding to it: everything here has a twin in Python; codecs are small `cdef`
functions on raw pointers, which need no GIL and raise nothing, so that any later C code
can call them; lengths are unsigned and checked before they are narrowed; a buffer is
acquired and released in try/finally; no reference to the input survives a call.
The GIL is released only to wait. Where Python has none, what several threads may use is
an atomic or in a critical section, see `_c/threads.pxi`; the rest is its loop's alone.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromObject,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
    _PyBytes_Resize,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

import os
import socket
import time

from .constants import (
    DEFLATE_TAIL,
    GUID,
    MAX_DEFLATE_STREAMS,
    MAX_HEAD_SIZE,
    MAX_HEADER_COUNT,
    LATEST_PING,
    LEAST_SHARE,
    LONGEST_SHARE,
    MAX_READ,
    MOST_SWEPT,
    SWEEP_TIME,
    TURN,
    UPGRADE_HEAD,
    Delivered,
    SendStatus,
    State,
)
from .errors import InvalidData, MessageTooBig, ProtocolError
from .messages import encode_json as _encode_json
from .messages import encode_message
from .messages import json_text as _json_text
from .text import shared_text

__all__ = [
    "BACKEND",
    "ConnectionCore",
    "Deflater",
    "Inflater",
    "LoopState",
    "Opener",
    "Plan",
    "Plans",
    "Poller",
    "PublishCore",
    "Counters",
    "Utf8Validator",
    "Wheel",
    "accept_from",
    "accept_key",
    "apply_mask",
    "build_frame",
    "encode_json",
    "fan_out",
    "fan_out_latest",
    "json_text",
    "parse_header",
    "raw_fields",
    "read_request",
    "read_upgrade",
    "write_latest",
]

BACKEND = "extension"

cdef bytes _TAIL = DEFLATE_TAIL
cdef const char* _DIGITS = b"0123456789abcdef"
cdef int _MAX_STREAMS = MAX_DEFLATE_STREAMS


cdef extern from "Python.h":
    enum:
        PyBUF_SIMPLE

    # Declared here because Cython counts references in its own Py_buffer, so that
    # `obj` could not be NULL.
    ctypedef struct View "Py_buffer":
        void* obj
        void* buf
        Py_ssize_t len

    int PyObject_GetBuffer(object owner, View* view, int flags) except -1
    void PyBuffer_Release(View* view)
    PyObject* new_block "PyBytes_FromStringAndSize"(
        const char* data, Py_ssize_t size
    ) except NULL


cdef inline int take_buffer(object data, View* view) except -1:
    """View a bytes-like object; pair it with PyBuffer_Release.

    Bytes, the usual case, are viewed directly: masking 16 bytes then takes 34 ns, and
    167 through the buffer protocol. They live as long as the caller's argument;
    PyBuffer_Release does nothing when `obj` is NULL.
    """
    if PyBytes_CheckExact(data):
        view.obj = NULL
        view.buf = PyBytes_AS_STRING(data)
        view.len = PyBytes_GET_SIZE(data)
        return 0
    return PyObject_GetBuffer(data, view, PyBUF_SIMPLE)


cdef bytes exact_bytes(object data):
    """Bytes-like data as exactly bytes: a subclass might run code when it is accessed
    or released.

    Raises:
        TypeError: It is not bytes-like.
    """
    cdef View view
    if PyBytes_CheckExact(data):
        return <bytes> data
    take_buffer(data, &view)
    try:
        return PyBytes_FromStringAndSize(<char*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


# --- Masking -------------------------------------------------------------------------


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


# --- Frame headers -------------------------------------------------------------------


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


# --- UTF-8 ---------------------------------------------------------------------------


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


# --- The system ----------------------------------------------------------------------

include "_c/system.pxi"
include "_c/threads.pxi"


# --- Deflate -------------------------------------------------------------------------

include "_c/deflate.pxi"


# --- The opening handshake -----------------------------------------------------------

include "_c/upgrade.pxi"
include "_c/request.pxi"


# --- The byte path of a connection ---------------------------------------------------

include "_c/loop.pxi"

include "_c/outbox.pxi"

include "_c/token_bucket.pxi"

include "_c/json.pxi"

include "_c/messages.pxi"

include "_c/openssl.pxi"

include "_c/tls.pxi"

include "_c/connection.pxi"

include "_c/heartbeat.pxi"

include "_c/wheel.pxi"

include "_c/latest.pxi"

include "_c/fan_out.pxi"

include "_c/publish.pxi"


# --- Readiness -----------------------------------------------------------------------

include "_c/selector.pxi"

include "_c/accept.pxi"


# --- Opening -------------------------------------------------------------------------

include "_c/ending.pxi"

include "_c/opening.pxi"

# The request that nearly every client sends, parsed in C; included by `_speedups.pyx`.
#
# It accepts one form of a good opening handshake. For anything incomplete, unusual or
# wrong it returns None, and `http11` and `server_handshake` handle it.

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char* data, Py_ssize_t size, const char* errors)


cdef enum:
    IS_TOKEN = 1  # RFC 9110 §5.6.2
    IS_VALUE = 2  # of a header field: no control characters but the tab
    IS_TARGET = 4
    IS_BASE64 = 8
    IS_HOST = 16  # a name or an IPv4 address, like nearly all

cdef uint8_t _kinds[256]
cdef size_t _MAX_HEAD = MAX_HEAD_SIZE
cdef int _MAX_LINES = MAX_HEADER_COUNT


cdef void fill_kinds() noexcept:
    cdef int byte
    for byte in range(256):
        _kinds[byte] = (
            (IS_TOKEN if chr(byte) in _TOKEN_CHARACTERS else 0)
            | (IS_VALUE if byte == 9 or (byte >= 32 and byte != 127) else 0)
            | (IS_TARGET if 32 < byte < 127 and chr(byte) != "#" else 0)
            | (IS_BASE64 if chr(byte) in _BASE64_CHARACTERS else 0)
            | (IS_HOST if chr(byte) in _HOST_CHARACTERS else 0)
        )


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_TOKEN_CHARACTERS = _LETTERS + "!#$%&'*+-.^_`|~"
_BASE64_CHARACTERS = _LETTERS + "+/"
_HOST_CHARACTERS = _LETTERS + "._-"
fill_kinds()


cdef struct Span:
    const char* data
    size_t size


cdef struct Upgrade:
    Span target
    Span fields
    Span host
    Span upgrade
    Span connection
    Span key
    Span version
    Span protocols
    Span extensions
    Span origin  # recorded to detect a second one


cdef inline bint all_of(const char* data, size_t size, uint8_t kind) noexcept nogil:
    cdef size_t index
    for index in range(size):
        if not _kinds[<uint8_t> data[index]] & kind:
            return False
    return True


cdef inline bint same_word(Span* span, const char* word, size_t size) noexcept nogil:
    return span.size == size and same_letters(span.data, word, size) == 0


cdef inline Span trimmed(const char* data, size_t size) noexcept nogil:
    cdef Span span
    while size and (data[0] == b" " or data[0] == b"\t"):
        data += 1
        size -= 1
    while size and (data[size - 1] == b" " or data[size - 1] == b"\t"):
        size -= 1
    span.data = data
    span.size = size
    return span


cdef Span* place_of(Upgrade* upgrade, Span* name, bint* refused) noexcept nogil:
    """Where to record a field's value; NULL for other fields."""
    if same_word(name, b"host", 4):
        return &upgrade.host
    if same_word(name, b"upgrade", 7):
        return &upgrade.upgrade
    if same_word(name, b"connection", 10):
        return &upgrade.connection
    if same_word(name, b"origin", 6):
        return &upgrade.origin
    if name.size > 14 and same_letters(name.data, b"sec-websocket-", 14) == 0:
        if same_word(name, b"sec-websocket-key", 17):
            return &upgrade.key
        if same_word(name, b"sec-websocket-version", 21):
            return &upgrade.version
        if same_word(name, b"sec-websocket-protocol", 22):
            return &upgrade.protocols
        if same_word(name, b"sec-websocket-extensions", 24):
            return &upgrade.extensions
    # A body would be parsed as frames.
    if same_word(name, b"content-length", 14):
        refused[0] = True
    if same_word(name, b"transfer-encoding", 17):
        refused[0] = True
    return NULL


cdef bint take_line(Upgrade* upgrade, const char* line, size_t size) noexcept nogil:
    """Parse one header line; false when it must be handled elsewhere."""
    cdef const char* colon = <const char*> memchr(line, b":", size)
    cdef Span name, value
    cdef Span* place
    cdef bint refused = False
    if colon == NULL or colon == line:
        return False
    name.data = line
    name.size = colon - line
    if not all_of(line, name.size, IS_TOKEN):
        return False
    if not all_of(colon + 1, size - name.size - 1, IS_VALUE):
        return False
    place = place_of(upgrade, &name, &refused)
    if place != NULL:
        if place.data != NULL:
            return False  # repeated lines of one name
        place[0] = trimmed(colon + 1, size - name.size - 1)
    return not refused


cdef bint has_upgrade_token(Span* connection) noexcept nogil:
    cdef const char* data = connection.data
    cdef const char* comma
    cdef size_t left = connection.size
    cdef size_t size
    cdef Span token
    while True:
        comma = <const char*> memchr(data, b",", left)
        size = left if comma == NULL else <size_t> (comma - data)
        token = trimmed(data, size)
        if same_word(&token, b"upgrade", 7):
            return True
        if comma == NULL:
            return False
        data += size + 1
        left -= size + 1


cdef bint is_plain_host(Span* host) noexcept nogil:
    """Whether it is a name, optionally with a port."""
    cdef size_t index = 0
    while index < host.size and _kinds[<uint8_t> host.data[index]] & IS_HOST:
        index += 1
    if index == 0:
        return False
    if index < host.size and host.data[index] == b":":
        index += 1
        while index < host.size and b"0" <= host.data[index] <= b"9":
            index += 1
    return index == host.size


cdef bint is_good(Upgrade* upgrade) noexcept nogil:
    """RFC 6455 §4.2.1, for requests without repetitions or unusual forms."""
    return (
        is_plain_host(&upgrade.host)
        and same_word(&upgrade.upgrade, b"websocket", 9)
        and upgrade.connection.size > 0
        and has_upgrade_token(&upgrade.connection)
        and same_word(&upgrade.version, b"13", 2)
        and upgrade.key.size == 24
        and all_of(upgrade.key.data, 22, IS_BASE64)
        and upgrade.key.data[22] == b"="
        and upgrade.key.data[23] == b"="
    )


cdef size_t scan_upgrade(
    Upgrade* upgrade, const char* data, size_t size
) noexcept nogil:
    """The size of the head, or 0 when it must be handled elsewhere."""
    cdef const char* end = data + size
    cdef const char* line = data
    cdef const char* stop
    cdef int count = 0
    memset(upgrade, 0, sizeof(Upgrade))
    if size < 16 or memcmp(data, b"GET /", 5) != 0:
        return 0
    stop = <const char*> memchr(data, b"\r", size)
    if stop == NULL or stop - data < 14 or memcmp(stop - 9, b" HTTP/1.1", 9) != 0:
        return 0
    upgrade.target.data = data + 4
    upgrade.target.size = (stop - 9) - (data + 4)
    if not all_of(upgrade.target.data, upgrade.target.size, IS_TARGET):
        return 0
    upgrade.fields.data = stop + 2
    while True:
        if end - stop < 2 or stop[1] != b"\n":
            return 0
        line = stop + 2
        stop = <const char*> memchr(line, b"\r", end - line)
        if stop == NULL:
            return 0
        if stop == line:
            break
        count += 1
        if count > _MAX_LINES or not take_line(upgrade, line, stop - line):
            return 0
    if end - stop < 2 or stop[1] != b"\n" or not is_good(upgrade):
        return 0
    upgrade.fields.size = stop - upgrade.fields.data
    return (stop + 2) - data


cdef inline object span_text(Span* span):
    if span.data == NULL:
        return None
    return PyUnicode_DecodeLatin1(span.data, <Py_ssize_t> span.size, NULL)


def read_upgrade(
    data: bytes,
) -> tuple[int, str, bytes, str, str | None, str | None] | None:
    """Parse an opening handshake of the usual form (RFC 6455 §4.2.1).

    Args:
        data: the request received so far, possibly with bytes after it.

    Returns:
        (size of the head, target, header lines, Sec-WebSocket-Key,
        Sec-WebSocket-Protocol or None, Sec-WebSocket-Extensions or None), all of them
        validated; None for a request that is incomplete, unusual or wrong.
    """
    cdef View view
    take_buffer(data, &view)
    try:
        return upgrade_in(<const char*> view.buf, <size_t> view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple upgrade_in(const char* data, size_t size):
    cdef Upgrade upgrade
    size = scan_upgrade(&upgrade, data, size)
    if size == 0 or size > _MAX_HEAD:
        return None
    return (
        size,
        span_text(&upgrade.target),
        PyBytes_FromStringAndSize(
            upgrade.fields.data, <Py_ssize_t> upgrade.fields.size
        ),
        span_text(&upgrade.key),
        span_text(&upgrade.protocols),
        span_text(&upgrade.extensions),
    )

# The head of a plain request, parsed in C; included by `_speedups.pyx`.
#
# As with `upgrade.pxi`, it accepts the usual form, and `http11` handles the rest.


cdef size_t scan_fields(const char* line, const char* end) noexcept nogil:
    """The size of well-formed header lines; 0 when it must be handled elsewhere."""
    cdef const char* begin = line
    cdef const char* stop
    cdef const char* colon
    cdef int count = 0
    while True:
        stop = <const char*> memchr(line, b"\r", end - line)
        if stop == NULL or end - stop < 2 or stop[1] != b"\n":
            return 0
        if stop == line:
            return line - begin
        colon = <const char*> memchr(line, b":", stop - line)
        count += 1
        if colon == NULL or colon == line or count > _MAX_LINES:
            return 0
        if not all_of(line, colon - line, IS_TOKEN):
            return 0
        if not all_of(colon + 1, stop - colon - 1, IS_VALUE):
            return 0
        line = stop + 2


def read_request(data: bytes) -> tuple[int, str, str, int, bytes] | None:
    """Parse the head of a plain request of the usual form (RFC 9112 §3, §5).

    Args:
        data: the request received so far, possibly with bytes after its head.

    Returns:
        (size of the head, method, target, minor version, header lines), all of them
        validated; None for a request that is incomplete, unusual or wrong.
    """
    cdef View view
    take_buffer(data, &view)
    try:
        return request_in(<const char*> view.buf, <size_t> view.len)
    finally:
        PyBuffer_Release(&view)


cdef tuple request_in(const char* data, size_t size):
    cdef const char* blank = <const char*> memchr(data, b" ", size)
    cdef const char* stop
    cdef const char* target
    cdef size_t fields, length
    if blank == NULL or blank == data or not all_of(data, blank - data, IS_TOKEN):
        return None
    target = blank + 1
    stop = <const char*> memchr(target, b"\r", data + size - target)
    # At least "/ HTTP/1.1" and the line end.
    if stop == NULL or stop - target < 10 or data + size - stop < 2:
        return None
    if memcmp(stop - 9, b" HTTP/1.", 8) != 0 or stop[1] != b"\n":
        return None
    length = stop - 9 - target
    if target[0] != b"/" or not all_of(target, length, IS_TARGET):
        return None
    if stop[-1] != b"0" and stop[-1] != b"1":
        return None
    fields = scan_fields(stop + 2, data + size)
    size = stop + 2 + fields + 2 - data
    if fields == 0 or size > _MAX_HEAD:
        return None
    return (
        size,
        PyUnicode_DecodeLatin1(data, blank - data, NULL),
        PyUnicode_DecodeLatin1(target, <Py_ssize_t> length, NULL),
        <int> stop[-1] - 48,
        PyBytes_FromStringAndSize(stop + 2, <Py_ssize_t> fields),
    )


def raw_fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Names in lower case and values of well-formed header lines, each with its end."""
    cdef View view
    take_buffer(lines, &view)
    try:
        return fields_in(<const char*> view.buf, <size_t> view.len)
    finally:
        PyBuffer_Release(&view)


cdef list fields_in(const char* line, size_t size):
    cdef const char* end = line + size
    cdef const char* stop
    cdef const char* colon
    cdef Span value
    cdef list found = []
    while line < end:
        stop = <const char*> memchr(line, b"\r", end - line)
        if stop == NULL:
            break
        colon = <const char*> memchr(line, b":", stop - line)
        if colon == NULL:
            break
        value = trimmed(colon + 1, stop - colon - 1)
        found.append(
            (
                lower_name(line, colon - line),
                PyBytes_FromStringAndSize(value.data, <Py_ssize_t> value.size),
            )
        )
        line = stop + 2
    return found


cdef bytes lower_name(const char* name, Py_ssize_t size):
    cdef bytes lower = PyBytes_FromStringAndSize(NULL, size)
    cdef char* text = PyBytes_AS_STRING(lower)
    cdef Py_ssize_t index
    cdef char byte
    for index in range(size):
        byte = name[index]
        text[index] = byte + 32 if b"A" <= byte <= b"Z" else byte
    return lower

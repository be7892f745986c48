# Values as JSON text in one pass, the twin of `messages.encode_json` and `json_text`.
# Included by `_speedups.pyx` before `_c/messages.pxi`.
#
# Here is what messages are usually made of: dicts with keys that are str or int, lists,
# tuples, str, numbers, True, False and None. Of anything else, and of what is an error,
# nothing is written here: `messages` does the whole value again. No Python code runs
# meanwhile, so nothing changes under our hands; without the GIL the containers are
# locked, and what they hold is kept alive.

cdef extern from "Python.h":
    bint PyUnicode_Check(object value)
    bint PyUnicode_IS_ASCII(object text)
    int PyUnicode_KIND(object text)
    void* PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    uint32_t PyUnicode_READ(int kind, const void* data, Py_ssize_t index)
    bint PyLong_Check(object value)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow)
    bint PyFloat_Check(object value)
    double PyFloat_AS_DOUBLE(object value)
    enum:
        Py_DTSF_ADD_DOT_0
    char* PyOS_double_to_string(
        double value, char format, int precision, int flags, int* kind
    )
    void PyMem_Free(void* block)
    void PyErr_Clear()
    int PyDict_Next(
        object mapping, Py_ssize_t* pos, PyObject** key, PyObject** value
    )
    Py_ssize_t PySequence_Fast_GET_SIZE(object values)
    PyObject* PySequence_Fast_GET_ITEM(object values, Py_ssize_t index)


cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030C0000
    #define has_characters(text) 1
    #else
    /* Texts of very old extensions get theirs later. */
    #define has_characters(text) PyUnicode_IS_READY(text)
    #endif
    """
    bint has_characters(object text)
    bint isfinite(double number)


cdef enum:
    #: Bytes of a text that need no block.
    JSON_ROOM = 1024
    #: Containers within each other; deeper ones, and those that contain themselves, are
    #: left to `messages`.
    JSON_DEPTH = 64
    #: Bytes of a number, and of the longest escape, `\u001f`, with a quote after it.
    INT_ROOM = 24
    ESCAPE_ROOM = 7


cdef struct JsonWriter:
    uint8_t* data
    size_t size
    size_t room
    PyObject* block  # the bytes object that has `data`; NULL: it is `first`
    uint8_t first[JSON_ROOM]


cdef inline void begin_json(JsonWriter* to) noexcept:
    to.data = to.first
    to.size = 0
    to.room = JSON_ROOM
    to.block = NULL


cdef inline bint has_room(JsonWriter* to, size_t more) noexcept:
    """Make room for so many bytes; false if there is no memory."""
    return to.room - to.size >= more or enlarge(to, more)


cdef bint enlarge(JsonWriter* to, size_t more) noexcept:
    cdef size_t room = max(to.room * 2, to.size + more)
    try:
        if to.block == NULL:
            to.block = new_block(NULL, <Py_ssize_t> room)
            memcpy(PyBytes_AS_STRING(<object> to.block), to.first, to.size)
        else:
            _PyBytes_Resize(&to.block, <Py_ssize_t> room)
    except MemoryError:
        return False
    to.data = <uint8_t*> PyBytes_AS_STRING(<object> to.block)
    to.room = room
    return True


cdef inline void add_byte(JsonWriter* to, uint8_t byte) noexcept:
    """There is room."""
    to.data[to.size] = byte
    to.size += 1


cdef inline bint add_bytes(JsonWriter* to, const void* data, size_t size) noexcept:
    if not has_room(to, size):
        return False
    memcpy(to.data + to.size, data, size)
    to.size += size
    return True


# Text


cdef inline bint is_escaped(uint8_t byte) noexcept:
    return byte < 0x20 or byte == c'"' or byte == c'\\'


cdef inline bint has_escaped(uint64_t word) noexcept:
    """Whether any of eight ASCII characters must be escaped: in each byte the top bit
    is set by a borrow where it is smaller than 0x20, or 0 after the xor."""
    cdef uint64_t ones = 0x0101010101010101ULL
    return (
        (word - 0x20 * ones)
        | ((word ^ (0x22 * ones)) - ones)
        | ((word ^ (0x5C * ones)) - ones)
    ) & (0x80 * ones) != 0


cdef inline size_t end_of_plain(
    const uint8_t* data, size_t pos, size_t size
) noexcept:
    """The first character from there that must be escaped."""
    cdef uint64_t word
    while pos + 8 <= size:
        memcpy(&word, data + pos, 8)
        if has_escaped(word):
            break
        pos += 8
    while pos < size and not is_escaped(data[pos]):
        pos += 1
    return pos


cdef void add_escape(JsonWriter* to, uint8_t byte) noexcept:
    """There is room."""
    cdef const char* letters = b"\bb\ff\nn\rr\tt"
    cdef int index
    add_byte(to, c"\\")
    if byte >= 0x20:
        add_byte(to, byte)
        return
    for index in range(0, 10, 2):
        if byte == <uint8_t> letters[index]:
            add_byte(to, <uint8_t> letters[index + 1])
            return
    memcpy(to.data + to.size, b"u00", 3)
    to.size += 3
    add_byte(to, <uint8_t> _DIGITS[byte >> 4])
    add_byte(to, <uint8_t> _DIGITS[byte & 0xF])


cdef bint add_ascii(JsonWriter* to, const uint8_t* data, size_t size) noexcept:
    cdef size_t pos = 0
    cdef size_t start
    while True:
        start = pos
        pos = end_of_plain(data, start, size)
        if not has_room(to, pos - start + ESCAPE_ROOM):
            return False
        memcpy(to.data + to.size, data + start, pos - start)
        to.size += pos - start
        if pos == size:
            return True
        add_escape(to, data[pos])
        pos += 1


cdef bint add_character(JsonWriter* to, uint32_t character) noexcept:
    """Write it as UTF-8; false if it is half of a pair, which UTF-8 does not have."""
    if character < 0x80:
        if is_escaped(<uint8_t> character):
            add_escape(to, <uint8_t> character)
        else:
            add_byte(to, <uint8_t> character)
        return True
    if character < 0x800:
        add_byte(to, <uint8_t> (0xC0 | character >> 6))
    else:
        if 0xD800 <= character < 0xE000:
            return False
        if character < 0x10000:
            add_byte(to, <uint8_t> (0xE0 | character >> 12))
        else:
            add_byte(to, <uint8_t> (0xF0 | character >> 18))
            add_byte(to, <uint8_t> (0x80 | character >> 12 & 0x3F))
        add_byte(to, <uint8_t> (0x80 | character >> 6 & 0x3F))
    add_byte(to, <uint8_t> (0x80 | character & 0x3F))
    return True


cdef bint add_text(JsonWriter* to, object text) noexcept:
    cdef Py_ssize_t index, size
    cdef const void* data
    cdef int kind
    if not has_characters(text) or not has_room(to, 1):
        return False
    size = PyUnicode_GET_LENGTH(text)
    data = PyUnicode_DATA(text)
    add_byte(to, c'"')
    if PyUnicode_IS_ASCII(text):
        if not add_ascii(to, <const uint8_t*> data, <size_t> size):
            return False
    else:
        kind = PyUnicode_KIND(text)
        for index in range(size):
            if not has_room(to, ESCAPE_ROOM):
                return False
            if not add_character(to, PyUnicode_READ(kind, data, index)):
                return False
    add_byte(to, c'"')  # there is room, see ESCAPE_ROOM
    return True


# Numbers


cdef bint add_int(JsonWriter* to, object value) noexcept:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef uint64_t rest = <uint64_t> number
    cdef uint8_t digits[INT_ROOM]
    cdef int place = INT_ROOM
    if overflow:
        return False
    if number < 0:
        rest = 0 - rest
    while True:
        place -= 1
        digits[place] = <uint8_t> (c"0" + rest % 10)
        rest //= 10
        if not rest:
            break
    if number < 0:
        place -= 1
        digits[place] = c"-"
    return add_bytes(to, digits + place, <size_t> (INT_ROOM - place))


cdef bint add_float(JsonWriter* to, double value) noexcept:
    cdef char* text
    cdef bint added
    if not isfinite(value):
        return False
    text = PyOS_double_to_string(value, c"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    if text == NULL:
        PyErr_Clear()
        return False
    added = add_bytes(to, text, strlen(text))
    PyMem_Free(text)
    return added


# Values


cdef bint add_value(JsonWriter* to, object value, int depth) noexcept:
    """Write a value; false if `messages` must do it. What `json` does with subclasses
    of str, int and float needs no code of theirs."""
    if PyUnicode_Check(value):
        return add_text(to, value)
    if value is None:
        return add_bytes(to, b"null", 4)
    if value is True:
        return add_bytes(to, b"true", 4)
    if value is False:
        return add_bytes(to, b"false", 5)
    if PyLong_Check(value):
        return add_int(to, value)
    if PyFloat_Check(value):
        return add_float(to, PyFloat_AS_DOUBLE(value))
    if depth == JSON_DEPTH:
        return False
    if type(value) is dict:
        with cython.critical_section(value):
            return add_dict(to, value, depth + 1)
    if type(value) is list:
        with cython.critical_section(value):
            return add_sequence(to, value, depth + 1)
    return type(value) is tuple and add_sequence(to, value, depth + 1)


cdef bint add_key(JsonWriter* to, object key) noexcept:
    if PyUnicode_Check(key):
        return add_text(to, key)
    if not PyLong_Check(key) or key is True or key is False:
        return False
    return add_bytes(to, b'"', 1) and add_int(to, key) and add_bytes(to, b'"', 1)


cdef bint add_dict(JsonWriter* to, object mapping, int depth) noexcept:
    cdef uint8_t before = c"{"
    cdef Py_ssize_t pos = 0
    cdef PyObject* key
    cdef PyObject* value
    cdef bint added
    while PyDict_Next(mapping, &pos, &key, &value):
        Py_INCREF(<object> key)
        Py_INCREF(<object> value)
        added = (
            add_bytes(to, &before, 1)
            and add_key(to, <object> key)
            and add_bytes(to, b":", 1)
            and add_value(to, <object> value, depth)
        )
        Py_XDECREF(key)
        Py_XDECREF(value)
        if not added:
            return False
        before = c","
    return add_bytes(to, b"{}" if before == c"{" else b"}", 1 + (before == c"{"))


cdef bint add_sequence(JsonWriter* to, object values, int depth) noexcept:
    """Write a list or tuple."""
    cdef Py_ssize_t index = 0
    cdef PyObject* value
    cdef bint added
    if not add_bytes(to, b"[", 1):
        return False
    while index < PySequence_Fast_GET_SIZE(values):
        value = PySequence_Fast_GET_ITEM(values, index)
        Py_INCREF(<object> value)
        added = (not index or add_bytes(to, b",", 1)) and add_value(
            to, <object> value, depth
        )
        Py_XDECREF(value)
        if not added:
            return False
        index += 1
    return add_bytes(to, b"]", 1)


# What others call


cdef bytes json_bytes(object value):
    """JSON text in UTF-8."""
    cdef JsonWriter text
    cdef PyObject* block
    begin_json(&text)
    if not add_value(&text, value, 0):
        Py_XDECREF(text.block)
        return _encode_json(value)
    if text.block == NULL:
        return PyBytes_FromStringAndSize(<char*> text.first, <Py_ssize_t> text.size)
    block = text.block
    _PyBytes_Resize(&block, <Py_ssize_t> text.size)
    whole = <bytes> block
    Py_XDECREF(block)
    return whole


def encode_json(value: object) -> bytes:
    """JSON text in UTF-8 (RFC 8259 §8.1), without spaces.

    A lone surrogate, for example from an emoji that was cut in two, is written as an
    escape, as it came: JSON may contain it, UTF-8 may not (§8.2).

    Raises:
        TypeError: JSON cannot represent it.
        ValueError: It contains NaN or an infinity, which are not JSON (§6) and which
            browsers cannot parse, or it contains itself.
    """
    return json_bytes(value)


def json_text(value: object) -> str:
    """The same as a str; see `encode_json`."""
    cdef JsonWriter text
    begin_json(&text)
    try:
        if not add_value(&text, value, 0):
            return _json_text(value)
        return PyUnicode_DecodeUTF8(
            <char*> text.data, <Py_ssize_t> text.size, NULL
        )
    finally:
        Py_XDECREF(text.block)

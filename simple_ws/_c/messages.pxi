# Messages that users send; included by `_speedups.pyx` before `_c/connection.pxi`.

cdef extern from "Python.h":
    object PyUnicode_FromObject(object text)


cdef object _str_encode = str.encode
cdef object _bytes_bytes = bytes.__bytes__


cdef inline bint is_plain_message(object value):
    """Whether it may be sent, and is of no subclass."""
    return (
        type(value) is str
        or type(value) is bytes
        or type(value) is dict
        or type(value) is list
        or type(value) is bytearray
        or type(value) is memoryview
    )


cdef object exact_copy(object msg):
    """The str or bytes that `messages.encode_message` would send, where that needs no
    code of a subclass; others are returned as they are."""
    if type(msg) is bytearray or type(msg) is memoryview:
        return PyBytes_FromObject(msg)
    if isinstance(msg, str):
        return PyUnicode_FromObject(msg) if type(msg).encode is _str_encode else msg
    if isinstance(msg, bytes) and type(msg).__bytes__ is _bytes_bytes:
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(msg), PyBytes_GET_SIZE(msg))
    return msg


cdef bint is_utf8(bytes data):
    """Whether it is valid UTF-8, as a whole."""
    cdef Utf8State state
    state.missing = state.low = state.high = 0
    return (
        utf8_feed(
            &state,
            <const uint8_t*> PyBytes_AS_STRING(data),
            <size_t> PyBytes_GET_SIZE(data),
        )
        and state.missing == 0
    )

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


# --- Codecs --------------------------------------------------------------------------

include "_c/masking.pxi"
include "_c/headers.pxi"
include "_c/utf8.pxi"


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

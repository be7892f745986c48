"""WSGI applications as HTTP responses (PEP 3333), in worker threads.

A request is read as a whole before an application sees it, so a client that sends
slowly does not hold a thread. What the application gives goes to the loop through a
`worker_pipe` of bounded size. An answer that is complete leaves its thread at once,
however slowly it is read; one whose rest is still to be made waits in its thread, and
another thread takes its place meanwhile (docs/adr/0015-wsgi-slow-readers.md).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from ..connection.admission import retry_after
from ..errors import HandshakeError
from ..loop.deferred import check_callback
from ..loop.workers import Pool
from ..protocol.http_body import Stream
from ..protocol.response import check_field
from .environ import Environ, environ_of
from .exchange import Exchange
from .responses import server_error
from .routes import Route, check_prefix
from .worker_pipe import Gone, Pipe, Waiting

__all__ = ["Wsgi"]

#: Name of the threads, followed by a number.
_NAME = "simple_ws wsgi"
#: Requests that may wait for a worker; each may have a body of `max_body` bytes.
_MAX_QUEUED = 100
#: Upper limit for threads: with the GIL, more of them do not compute faster.
_MAX_THREADS = 1000
#: Calls that wait for slow readers, each in a thread. Above this number the one that
#: has waited longest is cut off: slow readers compete with each other only.
_MAX_PARKED = 100
_STATUS = re.compile(r"([2-5][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
#: RFC 9110 §7.6.1: fields of one connection, which an application must not set.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

StartResponse = Callable[..., Callable[[bytes], None]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class Wsgi:
    """A WSGI application, below a prefix.

    Args:
        prefix: all paths below it belong to the application.
        app: the application.
        threads: number of requests answered at a time, not counting those that wait
            for slow readers.

    Raises:
        TypeError: The application takes other arguments; `threads` is not a number.
        ValueError: See `check_prefix`; `threads` is out of range.
    """

    def __init__(self, prefix: str, app: App, threads: int) -> None:
        self.prefix = check_prefix(prefix)
        check_callback("app", app, ("environ", "start_response"))
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise TypeError(f"threads must be a whole number, not {threads!r}")
        if not 1 <= threads <= _MAX_THREADS:
            raise ValueError(f"threads must be from 1 to {_MAX_THREADS}, not {threads}")
        self._app = app
        self._threads = threads
        self._pool: Pool | None = None
        self._parked: dict[_Call, None] = {}  # the longest first
        self._parking = threading.Lock()
        self.route = Route(self._serve)

    def _serve(self, exchange: Exchange) -> None:
        with self._parking:  # several loops may serve it, in threads
            if self._pool is None:
                self._pool = Pool(_NAME, self._threads, _MAX_QUEUED)
            pool = self._pool
        environ = environ_of(exchange, self.prefix)
        call = _Call(self._app, environ, exchange, partial(self._park, pool))
        if not pool.submit(call):
            raise HandshakeError(503, "The server is busy.", [retry_after()])

    @contextmanager
    def _park(self, pool: Pool, call: _Call) -> Iterator[None]:
        """A call waits for its peer and gives up its place; used in its thread."""
        with self._parking:
            self._parked[call] = None
            many = len(self._parked) > _MAX_PARKED
            oldest = next(iter(self._parked)) if many else None
            if oldest is not None:
                del self._parked[oldest]
        if oldest is not None:
            oldest.give_up()
        try:
            with pool.aside():
                yield
        finally:
            with self._parking:
                self._parked.pop(call, None)

    def is_worker(self) -> bool:
        """Whether the caller is the application, in one of its threads."""
        pool = self._pool  # the loop may remove it meanwhile
        return pool is not None and pool.is_worker()

    def end(self) -> None:
        """The server stops; the threads end once they are free."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for call in pool.end():
                cast("_Call", call).pipe.close()


class _Call:
    """One call of an application.

    Args:
        app: the application.
        environ: its request.
        exchange: what it answers; everything about it happens in the loop.
        park: makes the context that it is in while it waits for the peer.
    """

    def __init__(
        self,
        app: App,
        environ: Environ,
        exchange: Exchange,
        park: Callable[[_Call], Waiting],
    ) -> None:
        self.pipe = Pipe(
            partial(exchange.call, exchange.resume_writing), partial(park, self)
        )
        self._app = app
        self._environ = environ
        self._exchange = exchange
        self._head: tuple[int, str, list[tuple[str, str]], int | None] | None = None
        self._head_sent = False
        self._single = False  # the body is one piece, whose length is the body's
        self._whole = False  # the complete response is in memory

    def run(self) -> None:
        """Call the application, pass on its output, and close its iterable."""
        if not self._exchange.waiting:
            return  # the client has disconnected
        try:
            self._iterate()
        except Gone:
            self.pipe.end(failed=True)
        except BaseException as error:  # also what is meant to end a program
            self._exchange.call(partial(self._exchange.note_failure, error))
            self._fail()

    def give_up(self) -> None:
        """Cut the response: too many peers read slowly."""
        why = "too many peers read slowly"
        self._exchange.call(partial(self._exchange.cut, why))

    def _iterate(self) -> None:
        result = self._app(self._environ, self._start_response)
        self._whole = isinstance(result, list | tuple)
        try:
            self._single = not self._head_sent and _length_of(result) == 1
            for piece in result:
                self._write(piece)
            self._finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _fail(self) -> None:
        if self._head_sent:
            self.pipe.end(failed=True)
        else:
            self._exchange.call(partial(self._exchange.respond, server_error()))

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a reference cycle, by the frame of the traceback
        elif self._head is not None:
            raise AssertionError("start_response was called before")
        self._head = _check_head(status, headers)
        return self._write

    def _write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"an application must give bytes, not {data!r}")
        # PEP 3333: headers wait for the first piece that is not empty.
        if not data:
            return
        if self._head_sent:
            self.pipe.put(data, wait=not self._whole)
        else:
            self._send_head(len(data) if self._single else None, data)

    def _finish(self) -> None:
        if not self._head_sent:
            # RFC 9110 §8.6: only the application knows the length of a body that it
            # omits for HEAD.
            for_head = self._exchange.request.method == "HEAD"
            self._send_head(None if for_head else 0, b"")
        self.pipe.end()

    def _send_head(self, length: int | None, data: bytes) -> None:
        if self._head is None:
            raise AssertionError("start_response was not called")
        status, reason, headers, promised = self._head
        self._head_sent = True
        # The loop gets the head together with the first bytes, in one call.
        if data:
            self.pipe.put(data)
        if promised is not None:
            length = promised
        stream = Stream(status, headers, self.pipe, length, reason)
        self._exchange.call(partial(self._exchange.respond, stream))


def _length_of(result: object) -> int | None:
    """The number of pieces, if known."""
    try:
        return len(result)  # type: ignore[arg-type]
    except TypeError:
        return None


def _check_head(
    status: object, headers: object
) -> tuple[int, str, list[tuple[str, str]], int | None]:
    """Check the application's status and headers; adds reason and length."""
    match = _STATUS.fullmatch(status) if isinstance(status, str) else None
    if match is None:
        raise ValueError(f"status must be such as '200 OK', not {status!r}")
    if not isinstance(headers, list):
        raise TypeError(f"headers must be a list, not {headers!r}")
    length = None
    kept = []
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must hold strings, not {name!r}: {value!r}")
        check_field(name, value)
        if name.lower() in _HOP_BY_HOP:
            raise ValueError(f"header {name!r} must not be set by an application")
        if name.lower() == "content-length":
            length = _check_length(value)
        else:
            kept.append((name, value))
    return int(match[1]), match[2], kept, length


def _check_length(value: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", value):
        raise ValueError(f"Content-Length must be a whole number, not {value!r}")
    return int(value)

"""`connect`: a client of the protocol for scripts and devices, with a thread behind it.

    with connect("ws://localhost:8080/live/websocket") as live:
        room = live.subscribe("room:7", recover=True)
        for publication in room:
            print(publication.data)

One thread does all that concerns the connection: it reads, writes, keeps the time, and
drives the session. Others hand it what is to be done, and are woken when something has
changed. What takes its time, opening a connection and the user's functions for tokens,
is done in threads of their own, so that pings are answered meanwhile.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from ...checks import duration, seconds, whole
from ...client.address import Address, read_address
from ...client.backoff import Backoff
from ...client.blocking import Connection
from ...client.blocking import connect as open_connection
from ...client.options import ConnectOptions, check_client_options
from ...constants import RELEASE
from ...errors import ConnectionClosed, InvalidState
from .connection import LiveConnection
from .interfaces import Action, Ask, Drop, Open, SessionOptions, State
from .session import Session

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["LiveOptions", "ThreadDriver", "connect", "live_options"]

#: Messages read before others have their turn.
_MANY = 256
#: What `connect` has other defaults for than `simple_ws.connect`: the protocol has
#: pings of its own, and the reply to `subscribe` has all that was missed.
_DEFAULTS: dict[str, Any] = {
    "subprotocols": ("centrifuge-json",),
    "ping_interval": None,
    "max_size": 64 * 2**20,
    "background": False,  # our own thread waits for messages all the time
}

_clock = time.monotonic


class LiveOptions(TypedDict, total=False):
    """The arguments of `connect` that are not those of `simple_ws.connect`."""

    token: str
    get_token: Callable[[], str] | None
    data: Any
    name: str
    timeout: float
    backoff: Backoff
    ping_delay: float
    max_outbox: int
    max_queue: int
    on_state: Callable[[str, Exception | None], object] | None


class _AllOptions(LiveOptions, ConnectOptions, total=False):
    """The keyword arguments of `connect`, for type checkers."""


def connect(url: Address, **options: Unpack[_AllOptions]) -> LiveConnection:
    """Connect to a `Server.live`, or another server of the Centrifugo client protocol,
    and wait until that has succeeded.

    Until then it tries again as it does later, unless that would not help.

    Args:
        url: such as "wss://example.com/live/websocket"; or a function that returns it,
            called before each attempt.
        options: those of `simple_ws.connect`, and these; times in seconds.
        token: says who the client is, where the server wants that.
        get_token: returns a token; called in a thread of its own, at first unless
            there is a `token`, and before one expires. If it returns "" or raises
            `AuthenticationError`, the client closes; another exception is logged,
            and it is called again later.
        data: any JSON for `on_connect` of the server.
        name: of the program, "python" by default.
        timeout: to connect, and for each call, 10 by default.
        backoff: a `simple_ws.aio.Backoff`, by default of 0.5 to 20.
        ping_delay: that a ping of the server may be late before the connection is
            given up, 10 by default.
        max_outbox: commands that wait at once, 1,000 by default.
        max_queue: what waits to be read in each subscription, 1,000 by default.
        on_state: called with "connecting", "connected" or "closed", and why it is
            not connected any more, or None.

    Returns:
        The client; close it by `with` or `close`.

    Raises:
        TypeError, ValueError: An option is wrong; `InvalidURI`: the address is wrong.
        LiveError: The server does not accept the client.
        ConnectError: The connection failed, and trying again would not help; or
            `ConnectTimeout`: it did not succeed in time.
        ConnectionClosed: The server has closed it, and says not to come back.
        Exception: What `get_token` has raised, if that was an `AuthenticationError`.
    """
    given: dict[str, Any] = dict(options)
    live = {name: given.pop(name) for name in tuple(given) if name in _LIVE}
    given = {**_DEFAULTS, **given}
    settings, session = live_options(live)
    uri = read_address(url)
    check_client_options(uri, given)  # now, rather than in the thread
    driver = ThreadDriver(partial(open_connection, url, **given))
    shown = "the server" if uri is None else uri.shown
    client = LiveConnection(driver, session, shown=shown, **settings)
    driver.ask = client._token_for
    client._begin(settings["timeout"])
    return client


_LIVE = frozenset(LiveOptions.__annotations__)


def live_options(given: dict[str, Any]) -> tuple[dict[str, Any], SessionOptions]:
    """Check the options of a client that are not those of its connection.

    Returns:
        Arguments of `LiveConnection`, and of its session.

    Raises:
        TypeError, ValueError: An option is wrong.
    """
    backoff = given.get("backoff", Backoff(first=0.5, longest=20.0))
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff(...), not {backoff!r}")
    for name in "token", "name":
        if not isinstance(given.get(name, ""), str):
            raise TypeError(f"{name} must be a str, not {type(given[name]).__name__}")
    for name in "get_token", "on_state":
        if given.get(name) is not None and not callable(given[name]):
            raise TypeError(f"{name} must be a function, not {given[name]!r}")
    timeout = seconds("timeout", given.get("timeout", 10.0))
    session = SessionOptions(
        backoff=backoff,
        token=given.get("token", ""),
        asks=given.get("get_token") is not None,
        data=given.get("data"),
        name=given.get("name", "python"),
        version=RELEASE,
        timeout=timeout,
        ping_delay=duration("ping_delay", given.get("ping_delay", 10.0)),
        max_outbox=whole(1, "commands")("max_outbox", given.get("max_outbox", 1000)),
    )
    settings = {
        "timeout": timeout,
        "max_queue": whole(1, "events")("max_queue", given.get("max_queue", 1000)),
        "get_token": given.get("get_token"),
        "on_state": given.get("on_state"),
    }
    return settings, session


class ThreadDriver:
    """Drives a session in a thread; see `interfaces.Driver`.

    Args:
        open_connection: opens a connection to the server.

    Attributes:
        ask: returns the token of a topic, or of the connection (None).
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open_connection = open_connection
        self.ask: Callable[[str | None], str]
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._wakes, self._wake = socket.socketpair()
        self._wakes.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ)
        self._connection: Connection | None = None
        self._descriptor = -1
        self._attempt: object = None  # the one that is under way
        self._unread = False  # perhaps
        self._finished = False
        self._thread = threading.Thread(
            target=self._run, name="simple_ws live", daemon=True
        )
        self._session: Session

    # Called in any thread

    def clock(self) -> float:
        """Seconds that never run backwards."""
        return _clock()

    def begin(self, session: Session) -> None:
        """Drive a session from now on."""
        self._session = session
        self._thread.start()
        self.run(session.begin)

    def run(self, job: Callable[[], object]) -> None:
        """Have something done with the session, in order."""
        self._check_process()
        self._jobs.append(job)
        if threading.current_thread() is not self._thread:
            with suppress(OSError):  # it is full, or closed
                self._wake.send(b"\0")
        if self._finished:
            self._do_jobs()

    @property
    def backlog(self) -> int:
        """What is to be done, and has not been begun."""
        return len(self._jobs)

    def wait(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """Wait until a condition is true that the session brings about."""
        if condition():
            return True
        self.check_may_wait()
        end = None if timeout is None else _clock() + timeout
        with self._changed:
            while not condition():
                left = None if end is None else end - _clock()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def check_may_wait(self) -> None:
        """Refuse a callback of this client, and a forked process."""
        self._check_process()
        if threading.current_thread() is self._thread:
            raise InvalidState(
                "a callback of this client must not wait for it: call enqueue, send, "
                "unsubscribe or close, or hand it to another thread"
            )

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidState(
                "this client belongs to the process that has forked this one: "
                "connect here"
            )

    def end(self) -> None:
        """The session is closed: wait until the connection is."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # The thread

    def _run(self) -> None:
        session = self._session
        try:
            while not self._finished:
                self._work()
                if session.state is State.CLOSED and not session.actions:
                    break
                self._sleep()
        except BaseException as error:  # a fault of ours: nobody must wait for ever
            session.fail(error if isinstance(error, Exception) else InvalidState("end"))
            raise
        finally:
            self._finish()

    def _work(self) -> None:
        self._do_jobs()
        self._read()
        self._session.on_time()
        self._act()
        with self._changed:
            self._changed.notify_all()

    def _do_jobs(self) -> None:
        while self._jobs:
            with suppress(IndexError):  # another thread, after the end
                self._jobs.popleft()()

    def _finish(self) -> None:
        self._finished = True
        self._do_jobs()
        with self._changed:
            self._changed.notify_all()
        self._forget_connection()
        self._selector.close()
        self._wakes.close()
        self._wake.close()

    def _sleep(self) -> None:
        due = self._session.next_deadline
        timeout = None if due is None else max(0.0, due - _clock())
        if self._unread or self._jobs or self._session.actions:
            timeout = 0.0
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wakes:
                with suppress(BlockingIOError):
                    self._wakes.recv(4096)

    def _read(self) -> None:
        self._unread = False
        for _ in range(_MANY):
            connection = self._connection
            if connection is None:
                return
            try:
                frame = connection.recv(0)
            except TimeoutError:
                return
            except ConnectionClosed as error:
                self._on_closed(error)
                return
            self._session.on_frame(frame)
            if self._session.actions:
                self._act()
        self._unread = True

    def _on_closed(self, error: ConnectionClosed) -> None:
        self._forget_connection()
        self._session.on_lost(error)

    def _act(self) -> None:
        """Do what the session wants."""
        session = self._session
        while True:
            while session.actions:
                self._do(session.actions.popleft())
            connection = self._connection
            if connection is not None:
                try:
                    for frame in session.output():
                        connection.send(frame)
                except ConnectionClosed as error:
                    self._on_closed(error)
            if not session.actions:
                return

    def _do(self, action: Action) -> None:
        if isinstance(action, Open):
            self._attempt = attempt = object()
            self._spawn(self._open_connection, partial(self._on_opened, attempt))
        elif isinstance(action, Drop):
            self._attempt = None
            connection = self._connection
            if connection is not None:
                self._forget_connection()
                self._close(connection, action.code)
        elif isinstance(action, Ask):
            topic = action.topic
            done = partial(self._session.on_token, topic)
            self._spawn(partial(self.ask, topic), done)

    def _on_opened(self, attempt: object, result: Connection | Exception) -> None:
        wanted = attempt is self._attempt and not self._finished
        if isinstance(result, Exception):
            if wanted:
                self._session.on_lost(result)
        elif wanted:
            self._connection, self._descriptor = result, result.fileno()
            if self._descriptor >= 0:
                self._selector.register(self._descriptor, selectors.EVENT_READ)
            self._unread = True
            self._session.on_open()
        else:
            self._close(result, 1000)

    def _forget_connection(self) -> None:
        self._connection = None
        if self._descriptor >= 0:
            self._selector.unregister(self._descriptor)
            self._descriptor = -1

    def _close(self, connection: Connection, code: int) -> None:
        """Close a connection that nobody reads any more."""
        if self._session.state is State.CLOSED:
            connection.close(code)  # the user waits until it is closed
        else:
            self._spawn(partial(connection.close, code), lambda result: None)

    def _spawn(
        self, function: Callable[[], Any], done: Callable[[Any], object]
    ) -> None:
        """Do something that takes its time, and give the result to the session."""

        def work() -> None:
            try:
                result = function()
            except Exception as error:
                result = error
            with suppress(InvalidState):  # a forked process
                self.run(partial(done, result))

        threading.Thread(target=work, daemon=True).start()

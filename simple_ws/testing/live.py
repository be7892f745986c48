"""`TestLive`: a client of `Server.live` in memory, controlled by the test.

It is the client for scripts (`live.sdk`), driven by the test kit in place of a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..client.core import encode
from ..errors import ConnectError, ConnectionClosed, InvalidState
from ..live.sdk.connection import LiveConnection
from ..live.sdk.interfaces import Action, Ask, Drop, Open, State
from ..live.sdk.session import Session
from ..live.sdk.thread import LiveOptions, live_options
from .client import TestClient
from .clock import Clock
from .tracebacks import begins_in_the_test

__all__ = ["TestLive"]

#: What `TestServer.live` takes besides the options of `TestServer.connect`.
_OWN = frozenset(LiveOptions.__annotations__)
#: To connect, after which a test that waits has failed.
_MAX_ATTEMPTS = 100


class LiveHost(Protocol):
    """What it needs of its server (`server.TestServer` has it)."""

    clock: Clock

    def settle(self) -> None:
        """Run server and clients until they have nothing to do."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def wait_until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Run the server until a condition is true."""

    def _wait(
        self, condition: Callable[[], object], what: str, timeout: float | None = None
    ) -> bool:
        """Run the server until a condition is true, if it can become true."""

    def connect(self, path: str = "/", **options: Any) -> TestClient:
        """Open a WebSocket connection."""


@begins_in_the_test
class TestLive(LiveConnection):
    """A client of `Server.live` in a test; `TestServer.live` creates it.

    It has what `simple_ws.live.LiveConnection` has. Waiting runs the server until what
    is waited for is there; it fails with `AssertionError` if nothing happens any more.
    With a timeout, the clock moves so far meanwhile.

    Attributes:
        peer: its present connection, a `TestClient`; None without one.
    """

    __test__ = False

    def __init__(self, server: LiveHost, path: str, options: dict[str, Any]) -> None:
        given = dict(options)
        own = {name: given.pop(name) for name in tuple(given) if name in _OWN}
        settings, session = live_options(own)
        self._kit = KitDriver(server, path, given)
        super().__init__(self._kit, session, shown=path, **settings)
        self._kit.ask = self._token_for

    @property
    def peer(self) -> TestClient | None:
        """Its present connection."""
        return self._kit.peer

    def cut(self) -> None:
        """Lose the connection, without a close frame; the client comes back when the
        clock has moved far enough."""
        peer = self._kit.peer
        assert peer is not None, "it is not connected"
        peer.cut()

    def offline(self) -> None:
        """Lose the connection, and do not connect again before `online`."""
        self._kit.is_offline = True
        if self._kit.peer is not None:
            self.cut()

    def online(self) -> None:
        """The network is back, and the time until the next attempt has passed."""
        self._kit.is_offline = False
        self._kit.come_back()

    def assert_closed(self, code: int) -> None:
        """Fail unless the server has closed it with this code, for good."""
        self._kit.server.settle()
        error = self._session.error
        assert self._session.state is State.CLOSED, f"it is {self.state}"
        assert isinstance(error, ConnectionClosed), f"it has ended with {error!r}"
        assert error.code == code, str(error)


class KitDriver:
    """Drives a session when the test does something; see `live.sdk.interfaces`."""

    def __init__(self, server: LiveHost, path: str, options: dict[str, Any]) -> None:
        self.server = server
        self.peer: TestClient | None = None
        self.is_offline = False
        self.ask: Callable[[str | None], str]
        self._path, self._options = path, options
        self._session: Session | None = None
        self._stepping = False

    @property
    def next_deadline(self) -> float | None:
        """When the client has something to do."""
        return None if self._session is None else self._session.next_deadline

    def clock(self) -> float:
        """The clock of the kit."""
        return self.server.clock()

    def begin(self, session: Session) -> None:
        """Drive a session from now on."""
        self._session = session
        self.run(session.begin)

    def run(self, job: Callable[[], object]) -> None:
        """Do something with the session."""
        job()
        if not self._stepping:
            self.server.settle()

    @property
    def backlog(self) -> int:
        """Everything is done at once."""
        return 0

    def wait(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """Run the server until a condition is true, or the time has passed."""
        self.check_may_wait()
        server, session = self.server, self._session
        assert session is not None
        server.settle()
        end = None if timeout is None else server.clock.now + timeout
        attempts = 0
        while not condition():
            if session.awaits_reply:  # perhaps from a thread
                server.wait_until(
                    lambda: condition() or not session.awaits_reply, "a reply"
                )
            elif (due := self._next_attempt(end)) is not None:
                attempts += 1
                assert attempts < _MAX_ATTEMPTS, "it does not connect"
                server.advance(max(0.0, due - server.clock.now))
            elif end is None:
                assert not self.is_offline, "it is offline, and would wait for ever"
                server._wait(condition, "what it waits for")
            else:
                server.advance(max(0.0, end - server.clock.now))
                return bool(condition())
        return True

    def _next_attempt(self, end: float | None) -> float | None:
        """When it tries again what has failed, if that is before the end."""
        assert self._session is not None
        due = None if self.is_offline else self._session.next_attempt
        return due if due is not None and (end is None or due <= end) else None

    def check_may_wait(self) -> None:
        """Refuse a callback of this client."""
        if self._stepping:
            raise InvalidState("a callback of this client must not wait for it")

    def end(self) -> None:
        """The session is closed."""
        if not self._stepping:
            self.server.settle()

    def come_back(self) -> None:
        """Connect as soon as the client does."""
        session = self._session
        assert session is not None
        if session.state is State.CONNECTING:
            self.wait(lambda: session.state is not State.CONNECTING, None)

    def step(self) -> bool:
        """Do what there is to do; return whether there was anything."""
        session = self._session
        if session is None or self._stepping:
            return False
        self._stepping = True
        try:
            session.on_time()
            moved = self._act(session)
            moved = self._read(session) or moved
            return self._act(session) or moved
        finally:
            self._stepping = False

    def _read(self, session: Session) -> bool:
        peer, moved = self.peer, False
        while peer is not None and peer is self.peer:
            if peer._inbox:
                session.on_frame(peer._take())
                self._act(session)
            elif peer._ended:
                self.peer = None
                session.on_lost(peer._closed())
            else:
                break
            moved = True
        return moved

    def _act(self, session: Session) -> bool:
        moved = False
        while session.actions:
            self._do(session, session.actions.popleft())
            moved = True
        if self.peer is not None and self.peer.is_open():
            for frame in session.output():
                self.peer._put(self.peer._frame(*encode(frame, None)))
                moved = True
        return moved

    def _do(self, session: Session, action: Action) -> None:
        if isinstance(action, Open):
            self._open(session)
        elif isinstance(action, Drop):
            peer, self.peer = self.peer, None
            if peer is not None and peer.is_open():
                peer._start_close(action.code, "")
        elif isinstance(action, Ask):
            try:
                token: str | Exception = self.ask(action.topic)
            except Exception as error:
                token = error
            session.on_token(action.topic, token)

    def _open(self, session: Session) -> None:
        try:
            if self.is_offline:
                raise ConnectError(self._path, "the network is down")
            self.peer = self.server.connect(self._path, **self._options)
        except ConnectError as error:
            session.on_lost(error)
        else:
            session.on_open()

"""`Server`: handlers on paths, one port, one loop.

It accepts, routes, counts, publishes, starts and stops. What happens on one connection
is left to `incoming` and `connection`.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from .connection import Client
from .constants import CloseCause, CloseCode, Opcode
from .errors import HandshakeError, InvalidState
from .http11 import Request
from .incoming import Incoming, Mount
from .listener import Listener, bind
from .messages import encode_message
from .options import Options, check_options
from .reactor import Reactor
from .routing import Router
from .speedups import BACKEND, fan_out
from .topics import Group, Identities, Topics

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

H = TypeVar("H", bound=Mount)

#: Seconds between two attempts of a client that found the server full.
_RETRY_AFTER = "5"


class Server:
    """Serves WebSocket handlers on one port.

    Args:
        host: name or address; "" is every interface, IPv4 and IPv6.
        port: 0 picks a free one; `port` tells which once it listens.
        options: see `options.Options`; they hold for every handler that was not
            given its own.

    Every public method may be called from any thread.

    Attributes:
        host, port: where it listens, the real port once it does.
        options: the options of the server.
        clients: open connections of all handlers, the earliest first.
    """

    #: Seconds that never run backwards; tests have a clock of their own.
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, host: str = "", port: int = 0, **options: Any) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host must be a str, not {host!r}")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int, not {port!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port}")
        self.host = host
        self.port = port
        self.options = Options().merged(check_options(options))
        self.clients: Group[Client] = Group()
        self.reactor = Reactor(clock=self._clock)
        self._router: Router[Mount] = Router()
        self._topics: Topics[Client] = Topics()
        self._identities: Identities[Client] = Identities()
        self._asked_port = port
        self._signals_seen = 0
        self._listeners: list[Listener] = []
        self._incoming: set[Incoming] = set()
        self._ending: set[Client] = set()  # ended, but for their sockets
        self._thread: threading.Thread | None = None
        self._running = False
        self._stopping = False
        self._deadline_passed = False
        self._started = threading.Event()
        self._finished = threading.Event()

    def mount(self, path: str, handler: H) -> H:
        """Serve a handler on a path: exact, with `{parameters}`, or `*` for the rest.

        Returns:
            The handler.

        Raises:
            TypeError: Not a handler (an instance of `WebSocket`), or not a path.
            ValueError: The path is malformed, or taken.
        """
        adopt = getattr(handler, "_adopt", None)
        if adopt is None or isinstance(handler, type):
            raise TypeError(
                f"handler must be an instance of WebSocket, not {handler!r}"
            )
        adopt(self)
        self._router.add(path, handler)
        return handler

    # Running

    def listen(self) -> None:
        """Bind the port; `run` and `start` do it where it was not done.

        Raises:
            OSError: The address is taken or not ours; the message names it.
            InvalidState: It listens already.
        """
        if self._listeners:
            raise InvalidState("the server listens already")
        options = self.options
        sockets = bind(self.host, self._asked_port, options.backlog, options.reuse_port)
        self.port = sockets[0].getsockname()[1]
        self._prepare()
        self._listeners = [
            Listener(self.reactor, sock, self._on_accept) for sock in sockets
        ]
        logger.info(
            "listening on %s:%d (backend: %s)", self.host or "*", self.port, BACKEND
        )

    def run(self) -> None:
        """Serve until `stop`; Ctrl-C and SIGTERM stop it too, in the main thread.

        Everybody is sent close code 1001, what was accepted is written, then it
        returns. A second signal ends at once, a third even a callback that hangs.

        Raises:
            InvalidState: It runs already.
            OSError: See `listen`.
        """
        self._begin()
        with self._signals():
            self._serve()

    def start(self) -> None:
        """Serve in a background thread; returns when the port is bound.

        Raises:
            InvalidState: It runs already.
            OSError: See `listen`.
        """
        self._begin()
        self._thread = threading.Thread(
            target=self._serve, name="simple_ws", daemon=True
        )
        self._thread.start()
        self._started.wait()

    def stop(self, drain: float | None = None) -> None:
        """Stop serving: nobody is accepted, everybody is sent close code 1001.

        Waits for the end, unless it is called from a callback.

        Args:
            drain: seconds for the clients to take what was written to them and to
                answer; the option `close_timeout` by default. Then they are cut.

        Raises:
            TypeError, ValueError: `drain` is not a number of seconds.
        """
        if drain is None:
            drain = self.options.close_timeout
        _check_drain(drain)
        # Before the question whether it runs: a later one has nothing to stop.
        reactor, thread = self.reactor, self._thread
        if not self._running:
            if self._listeners:
                self._tear_down()
        elif threading.get_ident() == reactor.owner:
            self._begin_stop(drain)
        else:
            reactor.call_threadsafe(partial(self._begin_stop, drain))
            self._finished.wait()
            if thread is not None:
                thread.join()

    def _begin(self) -> None:
        if self._running:
            raise InvalidState("the server runs already")
        if not self._listeners:
            self.listen()
        self._stopping = self._deadline_passed = False
        self._signals_seen = 0
        self._started.clear()
        self._finished.clear()
        # Before anybody may ask whose thread the loop's is.
        self.reactor.owner = threading.get_ident()
        self._running = True

    def _serve(self) -> None:
        self.reactor.owner = threading.get_ident()
        self._started.set()
        try:
            while not self._done():
                self.reactor.run_turns()
        finally:
            self._tear_down()

    def _done(self) -> bool:
        empty = not self.clients and not self._ending and not self._incoming
        return self._stopping and (empty or self._deadline_passed)

    def _begin_stop(self, drain: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.reactor.want_attention()
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.close()
        for client in self.clients:
            client._close(
                CloseCode.GOING_AWAY, "the server stops", CloseCause.SHUTDOWN, drain
            )
        self.reactor.call_later(drain, self._pass_deadline)

    def _pass_deadline(self) -> None:
        self._deadline_passed = True

    def _tear_down(self) -> None:
        """Give everything back, whatever state it is in; `run` works again."""
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.close()
        for client in [*self.clients, *self._ending]:
            client._cut("the server stopped", CloseCause.SHUTDOWN)
        self.reactor.finish_calls()
        self.reactor.close()
        self._listeners = []
        self._running = False
        self._thread = None
        self.reactor = Reactor(clock=self._clock)
        self._finished.set()

    def _prepare(self) -> None:
        """Get the loop ready, once it is known what is mounted."""
        everybody = [self.options, *(mount.options for mount in self._router.targets())]
        shortest = min(
            min(
                options.ping_interval,
                options.ping_timeout,
                options.open_timeout,
                options.close_timeout,
                options.idle_timeout or 60,
            )
            for options in everybody
        )
        # A quarter of the shortest deadline, and never finer than is worth a wake-up.
        self.reactor.wheel.grain = max(0.01, min(1.0, shortest / 4))
        self.reactor.busy_poll = self.options.busy_poll
        self.reactor.open()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM stop the server while it runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        # Runs between two instructions of whatever the loop is doing: only leave word.
        self._signals_seen += 1
        if self._signals_seen == 2:
            self._deadline_passed = True
        elif self._signals_seen > 2:
            raise KeyboardInterrupt
        drain = self.options.close_timeout
        self.reactor.call_threadsafe(partial(self._begin_stop, drain))

    # Sending

    def broadcast(self, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to every client; return how many took it.

        From a thread that is not the loop's it is queued, and 0 is returned.
        """
        return self._send_to(lambda: self.clients, msg, exclude)

    def publish(self, topic: str, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to everyone subscribed to a topic; see `broadcast`."""
        _check_topic(topic)
        return self._send_to(lambda: self._topics.members(topic), msg, exclude)

    def send_to(self, client_id: Any, msg: object) -> int:
        """Send a message to every connection of an identity; see `broadcast`."""
        return self._send_to(lambda: self._identities.members(client_id), msg, ())

    def _send_to(
        self,
        find: Callable[[], Iterable[Client]],
        msg: object,
        exclude: Collection[Client],
    ) -> int:
        if self._elsewhere():
            # Now: the caller may change it before its turn comes, or have to be told.
            opcode, payload = encode_message(msg, None)
            msg = payload.decode() if opcode == Opcode.TEXT else payload
            self.reactor.call_threadsafe(
                lambda: self._send_to(find, msg, exclude) and None
            )
            return 0
        return fan_out(find(), msg, exclude)

    # Topics and identities

    def subscribe(self, topic: str, client: Client, priority: int = 0) -> None:
        """Subscribe a client to a topic until its connection ends."""
        _check_topic(topic)
        self._on_loop(self._subscribe, topic, client, priority)

    def unsubscribe(self, topic: str, client: Client) -> None:
        """Take a client's subscription away."""
        _check_topic(topic)
        self._on_loop(self._unsubscribe, topic, client)

    def count(self, topic: str) -> int:
        """How many are subscribed to a topic."""
        return len(self._topics.members(topic))

    def members(self, topic: str) -> list[Client]:
        """Who is subscribed to a topic, the earliest first."""
        return list(self._topics.members(topic))

    def bind(self, client: Client, client_id: Any) -> None:
        """Give a connection an identity; an earlier one of it ends."""
        hash(client_id)
        self._on_loop(self._bind, client, client_id)

    def is_online(self, client_id: Any) -> bool:
        """Whether an identity has an open connection."""
        return bool(self._identities.members(client_id))

    def online(self) -> list[Any]:
        """Every identity with an open connection."""
        return self._identities.online()

    def _subscribe(self, topic: str, client: Client, priority: int) -> None:
        if client in self.clients:
            self._topics.subscribe(topic, client, priority)
            client.topics.add(topic)

    def _unsubscribe(self, topic: str, client: Client) -> None:
        self._topics.unsubscribe(topic, client)
        client.topics.discard(topic)

    def _bind(self, client: Client, client_id: Any) -> None:
        if client in self.clients:
            self._identities.unbind(client.client_id, client)
            client.client_id = client_id
            if client_id is not None:
                self._identities.bind(client_id, client)

    # What connections ask of their server

    def find(self, request: Request) -> Mount:
        """The handler of a path; raises HandshakeError 404 or 503."""
        found = self._router.find(request.path)
        if found is None:
            raise HandshakeError(404, "There is nothing at this path.")
        mount, request.params = found
        if self.options.max_connections is not None:
            _check_room(self.clients, self.options.max_connections)
        if mount.options.max_connections is not None:
            _check_room(mount.clients, mount.options.max_connections)
        return mount

    def left(self, incoming: Incoming) -> None:
        """A handshake is over."""
        self._incoming.discard(incoming)
        self.reactor.attention = True

    def welcome(self, client: Client) -> None:
        """A connection opened."""
        self.clients.add(client)
        client._handler.clients.add(client)

    def forget(self, client: Client) -> None:
        """A connection ended."""
        for topic in tuple(client._topics or ()):
            self._unsubscribe(topic, client)
        self._identities.unbind(client.client_id, client)
        self.clients.discard(client)
        client._handler.clients.discard(client)
        if client._registered:
            self._ending.add(client)

    def release(self, client: Client) -> None:
        """The socket of a connection is closed."""
        self._ending.discard(client)
        self.reactor.attention = True  # the last one ends a server that stops

    def _on_accept(self, sock: socket.socket, address: Any) -> None:
        incoming = Incoming(sock, address, self)
        self._incoming.add(incoming)
        incoming.begin()

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        if self._elsewhere():
            self.reactor.call_threadsafe(partial(function, *args))
        else:
            function(*args)

    def _elsewhere(self) -> bool:
        """Whether a call must be queued; while nobody listens, nothing waits for it."""
        return bool(self._listeners) and threading.get_ident() != self.reactor.owner


def _check_drain(drain: object) -> None:
    if isinstance(drain, bool) or not isinstance(drain, int | float):
        raise TypeError(f"drain must be a number of seconds, not {drain!r}")
    if not 0 <= drain < math.inf:
        raise ValueError(f"drain must be 0 seconds or more, not {drain!r}")


def _check_room(clients: Group[Client], limit: int) -> None:
    if len(clients) >= limit:
        raise HandshakeError(
            503, "The server is full.", [("Retry-After", _RETRY_AFTER)]
        )


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")

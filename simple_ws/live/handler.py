"""`Live`: a handler whose clients speak the Centrifugo client protocol.

It joins the sessions to the server: what comes in goes to `session`, what the topics of
the server have goes to `topics`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, TypeVar, overload

from ..checks import flag, optional, rate, seconds, whole
from ..connection.client import Client
from ..connection.option_checks import check_options
from ..handlers.handler import BaseHandler
from ..http.cors import Cors
from ..loop.reactor import Reactor
from ..speedups import fan_out
from .actions import Action, Actions
from .client import LiveClient
from .codes import Code, Disconnect
from .commands import METHODS, PING
from .counts import Counts
from .credentials import Credentials
from .expiry import Expiries
from .flags import AS_ASKED, Flags
from .heartbeat import Heartbeats
from .lifetimes import Lifetimes
from .methods import Hooks, Methods, Subscribed
from .reading import info_of
from .session import Session
from .streams.emulation import Emulation
from .topics import LiveTopics

__all__ = ["Live"]

#: The subprotocol of the same commands in another form.
_PROTOBUF = "centrifuge-protobuf"

F = TypeVar("F", bound=Callable[[Any, Any], Any])


class Live(BaseHandler):
    """What `Server.live` returns; its arguments are documented there.

    Attributes:
        counts: commands of all clients so far, see `Server.stats`.
        cors: which pages of other origins may use its paths by HTTP.

    Args:
        flags: called with a client, a topic, and whether the server subscribes it;
            returns what that subscription has. None: what clients ask for.
        present_alone: in topics with presence each client is a member, and not its
            identity with all its clients.
    """

    client_class: type[Client] = LiveClient
    _own_format = True

    def __init__(
        self,
        *,
        heartbeat: float = 25.0,
        heartbeat_timeout: float = 8.0,
        max_topics: int = 128,
        command_rate: tuple[float, float] | None = (100, 1000),
        force_recovery: bool = False,
        flags: Callable[[Any, str, bool], Flags] | None = None,
        present_alone: bool = False,
        cors: Cors | None = None,
        tokens: Any = None,
        allow_anonymous: bool = False,
        refresh_grace: float = 25.0,
        hooks: dict[str, Callable[..., Any] | None],
        options: dict[str, Any],
    ) -> None:
        self._given.update(_checked_options(options))
        heartbeat, heartbeat_timeout = _checked_heartbeat(heartbeat, heartbeat_timeout)
        topics = LiveTopics(self)
        lifetimes = Lifetimes(self, tokens, refresh_grace)
        credentials = Credentials(self, tokens, allow_anonymous, lifetimes)
        self._set(
            heartbeat=heartbeat,
            max_topics=whole(1, "topics")("max_topics", max_topics),
            command_rate=optional(rate)("command_rate", command_rate),
            _flags=flags,
            asks_for_joins=flags is None,  # otherwise they say that, too
            _default_flags=_flags(flag("force_recovery", force_recovery)),
            _present_alone=present_alone,
            cors=cors,
            hooks=Hooks(**hooks),
            methods=Methods(),
            counts=Counts(METHODS),
            _topics=topics,
            expiries=Expiries(),
            _emulation=Emulation(self),
            _credentials=credentials,
            _actions=Actions(self, topics, credentials),
            _heartbeats=Heartbeats[Session](heartbeat, heartbeat_timeout),
            _beating=None,
        )

    heartbeat: float
    max_topics: int
    asks_for_joins: bool
    command_rate: tuple[float, float] | None
    _flags: Callable[[Any, str, bool], Flags] | None
    _default_flags: Flags
    cors: Cors | None
    hooks: Hooks
    methods: Methods
    counts: Counts
    expiries: Expiries
    _credentials: Credentials
    _topics: LiveTopics
    _emulation: Emulation
    _actions: Actions
    _heartbeats: Heartbeats[Session]
    _beating: Reactor | None  # the loop of the run that pings

    @property
    def malformed(self) -> int:
        """Commands that were malformed, of all clients so far."""
        return self.counts.malformed

    @overload
    def method(self, function: str) -> Callable[[F], F]: ...
    @overload
    def method(self, function: F) -> F: ...
    def method(self, function: Any) -> Any:
        """Let clients call a function by `rpc`; as a decorator.

            @live.method
            def add(client, data):
                return data[0] + data[1]

        It is called with the client and the data, and returns what JSON can represent;
        it may be async or `in_thread`. It may raise `LiveError`; what else it raises is
        logged, and the client gets error 100. The function `authorize` is asked with
        the action "call" and the name before.

        Args:
            function: the function; or a str, the name if it is to be another than that
                of the function: `@live.method("add")`.

        Raises:
            TypeError: It takes other arguments.
            ValueError: There is a method of this name already.
            InvalidState: It is async, and the server does not run in an asyncio loop.
        """
        if isinstance(function, str):
            return lambda named: self._add_method(function, named)
        name = getattr(function, "__name__", repr(function))
        return self._add_method(name, function)

    def _add_method(self, name: str, function: Any) -> Any:
        self.methods.add(name, function)
        server = self.server
        if server is not None and server._running:
            server._check_awaited([(name, function)], server._asyncio_loop)
        return function

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The functions of the user's."""
        yield from self.hooks.callbacks()
        yield from self.methods.callbacks()

    # Connections

    def on_open(self, client: Any) -> None:
        """A client has come; it has to connect before its first heartbeat."""
        client._live = session = client._make_session(self)
        self._heartbeats.add(session)
        # A run that has ended has taken its timers with it.
        if self._beating is not self.server.reactor:
            self._set(_beating=self.server.reactor)
            self._beat_later()
        if client._form is not None:
            client._begin()
        elif client.subprotocol is None:
            offered = client.headers.get("Sec-WebSocket-Protocol", "")
            if _PROTOBUF in offered:  # such SDKs would come again and again
                session.disconnect(Disconnect.PROTOBUF)

    def on_message(self, msg: Any, client: Any) -> None:
        """A frame has come."""
        client._live.receive(msg)

    def on_close(self, client: Any) -> Any:
        """A client has gone."""
        session = client._live
        was_connected = session.is_connected
        self._heartbeats.discard(session)
        session.end()
        hook = self.hooks["on_disconnect"]
        if hook is not None and was_connected:
            return hook(client)
        return None

    def _beat_later(self) -> None:
        reactor, tick = self.server.reactor, self._heartbeats.tick
        reactor.call_later(tick, partial(self._beat, reactor.clock() + tick))

    def _beat(self, when: float) -> None:
        if not self.clients:
            self._set(_beating=None)
            return
        due, late = self._heartbeats.turn()
        if self.server.reactor.clock() - when > self._heartbeats.tick:
            late = []  # the loop stood still, and may not have read all answers yet
        connected: list[LiveClient] = []
        for session in due:
            if session.is_connected:
                session.pinged = session.answers_pings
                if session.client._form is None:
                    connected.append(session.client)
                else:
                    session.client._write_ping()
            else:
                session.disconnect(Disconnect.STALE)
        fan_out(connected, PING, (), raw=True)
        for session in late:
            client = session.client
            # Who takes its output slowly has not got the ping yet; who is not read
            # cannot answer.
            held_up = client.buffered_amount or client._input_held
            if client.is_open() and not held_up:
                session.disconnect(Disconnect.NO_PONG)
        self._beat_later()

    # Topics

    def find_action(self, method: str) -> Action:
        """See `LiveHost`; likewise below."""
        return self._actions[method]

    def flags(self, client: Any, topic: str, by_server: bool) -> Flags:
        """What a subscription has."""
        find = self._flags
        return self._default_flags if find is None else find(client, topic, by_server)

    def join_topic(
        self, session: Session, topic: str, since: Any, *granted: Subscribed
    ) -> bool:
        """The server subscribes a client."""
        return self._topics.join(session, topic, since, *granted)

    def leave_topic(self, session: Session, topic: str, code: Code) -> None:
        """The server ends a subscription."""
        self._topics.leave(session, topic, code)

    def expire_subscription(
        self, session: Session, topic: str, expires_at: float
    ) -> dict[str, Any]:
        """A subscription ends then; return what the client is told of it."""
        return self._credentials.lifetimes.subscribed(session, topic, expires_at)

    def expire_client(self, session: Session, expires_at: float | None) -> None:
        """The server says until when a client may stay."""
        self._credentials.lifetimes.expire(session, expires_at)

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        """Messages of a topic did not come here."""
        if topic is not None:
            self._topics.tell_gap(topic)

    def _on_member(
        self, payload: dict[str, Any] | None, topic: str, member: Hashable, joined: bool
    ) -> None:
        """A member has joined a topic, or left it; with what it said of itself."""
        self._topics.tell_presence(topic, joined, info_of(member, payload))


def _flags(force_recovery: bool) -> Flags:
    return AS_ASKED._replace(recoverable=True) if force_recovery else AS_ASKED


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("slow_consumer", "close") != "close":
        raise ValueError(
            "slow_consumer must be 'close' for live: a client that counts messages "
            "must not miss any"
        )
    return check_options({"subprotocols": ("centrifuge-json",), **options})


def _checked_heartbeat(interval: float, timeout: float) -> tuple[float, float]:
    interval = seconds("heartbeat", interval)
    timeout = seconds("heartbeat_timeout", timeout)
    if timeout >= interval:
        raise ValueError(
            f"heartbeat_timeout {timeout:g} must be less than heartbeat {interval:g}"
        )
    return interval, timeout

"""The state machine of a client of the protocol, without socket or thread.

    CONNECTING ── the reply to `connect` ──► CONNECTED
    CONNECTED ── the connection is lost ──► CONNECTING, after a random time
    any of them ── the user ends it, or the server, for good ──► CLOSED

Who drives it (`thread`, and the test kit) tells it what has happened, then does its
`actions`, sends its `output`, and calls `on_time` at its `next_deadline`. Everything is
called in one thread. Subscriptions are in `subscribing`, the commands of users in
`calls`; what users see is in `connection` and `subscription`.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

from ...client.backoff import retry_after
from ...constants import CloseCause, CloseCode
from ...errors import ConnectError, connection_closed
from .by_server import ByServer
from .calls import Call, Calls
from .codec import (
    PONG,
    MalformedError,
    Message,
    Ping,
    Push,
    Reply,
    encode_command,
    field,
    read_frame,
)
from .interfaces import Action, Ask, Drop, Listener, Open, SessionOptions, State
from .outcomes import (
    DISCONNECT_EXPIRED,
    TOKEN_EXPIRED,
    closed_by,
    is_final,
    is_for_good,
    is_temporary,
    lost,
    note_no_token,
    refusal,
)
from .rooms import Room
from .subscribing import Subscribing

__all__ = ["Session"]

logger = logging.getLogger("simple_ws")

#: Part of the life of a token after which it is renewed.
_RENEW_AT = 0.9
#: Seconds without commands after the server has refused some as too many.
_PAUSE = 0.5
#: Characters of commands in one frame.
_MAX_FRAME = 64 * 1024
#: Ids of commands are uint32 in the schema.
_MAX_ID = 2**32 - 1


class Session:
    """One client.

    Args:
        options: see there.
        listener: is told of it.
        clock: seconds that never run backwards.

    Attributes:
        state: see the head of the module.
        error: why it is closed; None: it is not, or the user has closed it.
        trouble: why it was not connected the last time; None: there was none.
        actions: to be done, in order.
        client: its id; "" before it is connected.
        data: what the server said when it was connected.
        rooms: its subscriptions.
        calls: the commands of the user.
        backoff: as given.
    """

    def __init__(
        self,
        options: SessionOptions,
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self._options, self._listener, self._clock = options, listener, clock
        self.state = State.CONNECTING
        self.error: Exception | None = None
        self.trouble: Exception | None = None
        self.actions: deque[Action] = deque()
        self.client = ""
        self.data: Any = None
        self.backoff = options.backoff
        self.rooms = Subscribing(self)
        self.calls = Calls(options.max_outbox)
        self._by_server = ByServer(listener.on_event, listener.on_server_gap)
        self._token = options.token
        self._token_wanted = False  # before it connects
        # Of commands; it is used in all threads.
        self._numbers = itertools.count()
        self._attempt = 0
        self._connected_at = 0.0
        self._is_open = False
        # Our own commands that are under way: what to do with their replies.
        self._awaited: dict[int, Callable[[Reply], object]] = {}
        self._timers: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._out: deque[str] = deque()
        self._longest_silence: float | None = None
        self._pong = False

    @property
    def is_connected(self) -> bool:
        """Whether commands can be sent."""
        return self.state is State.CONNECTED

    @property
    def awaits_reply(self) -> bool:
        """Whether the server has to say something next."""
        return self._is_open and (bool(self._awaited) or self.calls.are_sent)

    @property
    def next_attempt(self) -> float | None:
        """When it tries again what has failed; None: nothing waits for that."""
        return min(
            (
                due
                for key, (due, _) in self._timers.items()
                if key in ("begin", "pause") or isinstance(key, Room)
            ),
            default=None,
        )

    # Time

    @property
    def next_deadline(self) -> float | None:
        """When `on_time` is to be called."""
        return min((due for due, _ in self._timers.values()), default=None)

    def on_time(self) -> None:
        """Do what is due."""
        now = self._clock()
        for key, timer in list(self._timers.items()):
            if timer[0] <= now and self._timers.get(key) is timer:
                del self._timers[key]
                timer[1]()

    def later(self, key: Hashable, delay: float, job: Callable[[], object]) -> None:
        """Do something after some seconds, unless it is cancelled."""
        self._timers[key] = self._clock() + delay, job

    def cancel(self, key: Hashable) -> None:
        """Do not do it."""
        self._timers.pop(key, None)

    # The connection begins

    def begin(self) -> None:
        """Connect, for the first time or again."""
        if self._options.asks and not self._token:
            self._token_wanted = True
            self.actions.append(Ask(None))
        else:
            self.actions.append(Open())

    def on_open(self) -> None:
        """The connection is open."""
        options = self._options
        self._is_open = True
        self.later("connect", options.timeout, self._on_no_reply)
        params = {
            "token": self._token or None,
            "name": options.name or None,
            "version": options.version or None,
            "subs": self._by_server.claims(),
        }
        if options.data is not None:
            params["data"] = options.data
        self.ask("connect", params, self._on_connected)

    def _on_no_reply(self) -> None:
        text = f"no reply to connect within {self._options.timeout:g} s"
        self._lose(lost(text, CloseCause.PING_TIMEOUT))

    def _on_connected(self, reply: Reply) -> None:
        self.cancel("connect")
        if reply.error is not None:
            self._on_refused(reply.error)
            return
        result = field(reply.result, "connect", dict, {})
        self.client = field(result, "client", str, "")
        self.data = result.get("data")
        self._connected_at = self._clock()
        self._pong = field(result, "pong", bool, False)
        ping = field(result, "ping", int, 0)
        if ping > 0:
            self._longest_silence = ping + self._options.ping_delay
            self._note_alive()
        self._note_own_expiry(result)
        self._move(State.CONNECTED, None)
        self._by_server.begin_all(field(result, "subs", dict, {}))
        self.rooms.on_connected()

    def _on_refused(self, error: Any) -> None:
        expired = error.code == TOKEN_EXPIRED and self._options.asks
        if expired:
            self._token = ""
        if expired or is_temporary(error):
            self._lose(error)
        else:
            self.fail(error)

    # The connection ends

    def on_lost(self, error: Exception) -> None:
        """The connection has ended, or did not open."""
        if self.state is State.CLOSED:
            return
        if getattr(error, "code", 0) == DISCONNECT_EXPIRED and self._options.asks:
            self._token = ""
        if is_for_good(error):
            self._end(error)
        else:
            self._forget_connection(error)
            self._retry(error)

    def _lose(self, error: Exception) -> None:
        """Give the connection up, and connect again."""
        self.actions.append(Drop(CloseCode.NORMAL))
        self.on_lost(error)

    def _retry(self, error: Exception) -> None:
        self.trouble = error
        if self.state is State.CONNECTED:
            if self._clock() - self._connected_at >= self.backoff.stable:
                self._attempt = 0
            self._move(State.CONNECTING, error)
        asked = retry_after(error) if isinstance(error, ConnectError) else 0.0
        delay = max(self._wait(), asked)
        logger.info("live: %s; connecting again in %.1f s", error, delay)
        self.later("begin", delay, self.begin)

    def _wait(self) -> float:
        """Seconds until the next attempt."""
        delay = self.backoff.delay(self._attempt)
        self._attempt += 1
        return delay

    def close(self) -> None:
        """The user closes it."""
        if self.state is not State.CLOSED:
            self.actions.append(Drop(CloseCode.NORMAL))
            self._end(None)

    def fail(self, error: Exception, code: int = CloseCode.NORMAL) -> None:
        """It cannot go on."""
        if self.state is not State.CLOSED:
            self.actions.append(Drop(code))
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        ended = closed_by(error)
        self._forget_connection(ended)
        self.error = error
        self.actions = deque(each for each in self.actions if isinstance(each, Drop))
        self._move(State.CLOSED, error)
        self.calls.end(ended)
        self.rooms.end_all(ended)

    def _forget_connection(self, error: Exception) -> None:
        self._is_open = self._token_wanted = False
        self._out.clear()
        self._timers.clear()
        self._awaited.clear()
        self._longest_silence = None
        self.calls.on_lost(error)
        self.rooms.on_lost()

    def _move(self, state: State, error: Exception | None) -> None:
        self.state = state
        self._listener.on_state(state, error)

    # Tokens

    def ask_token(self, topic: str | None) -> None:
        """Ask the user for a token."""
        self.actions.append(Ask(topic))

    def on_token(self, topic: str | None, token: str | Exception) -> None:
        """The user has given a token, or has failed to."""
        if self.state is State.CLOSED:
            return
        if topic is not None:
            self.rooms.on_token(topic, token)
        elif is_final(token):
            self.fail(refusal(token))
        elif isinstance(token, Exception):
            self._on_no_token(token)
        else:
            self._on_own_token(token)

    def _on_own_token(self, token: str) -> None:
        self._token = token
        if self._token_wanted:
            self._token_wanted = False
            self.actions.append(Open())
        elif self.is_connected:
            self.ask("refresh", {"token": token}, self._on_refreshed)

    def _on_no_token(self, error: Exception) -> None:
        note_no_token(error)
        self.trouble = error
        if self._token_wanted:
            self._token_wanted = False
            self.later("begin", self._wait(), self.begin)
        elif self.is_connected:
            self._renew_later()

    def _renew_later(self) -> None:
        self.later("refresh", self._wait(), partial(self.ask_token, None))

    def _on_refreshed(self, reply: Reply) -> None:
        error = reply.error
        if error is None:
            self._note_own_expiry(field(reply.result, "refresh", dict, {}))
        elif is_temporary(error) or error.code == TOKEN_EXPIRED:
            self._renew_later()
        else:
            self.fail(error)

    def _note_own_expiry(self, result: dict[str, Any]) -> None:
        if self._options.asks:
            self.note_expiry("refresh", result, partial(self.ask_token, None))

    def note_expiry(
        self, key: Hashable, result: dict[str, Any], job: Callable[[], object]
    ) -> None:
        """Have a token renewed in time."""
        ttl = field(result, "ttl", int, 0)
        if field(result, "expires", bool, False) and ttl > 0:
            self.later(key, ttl * _RENEW_AT, job)

    # Output

    def output(self) -> Iterator[str]:
        """Frames to be sent now."""
        if self.is_connected:
            for call in self.calls.take():
                self._out.append(call.text)
        while self._out:
            lines = [self._out.popleft()]
            size = len(lines[0])
            while self._out and size + len(self._out[0]) < _MAX_FRAME:
                lines.append(self._out.popleft())
                size += len(lines[-1])
            yield "\n".join(lines)

    def ask(
        self, method: str, params: dict[str, Any], done: Callable[[Reply], object]
    ) -> int:
        """Send a command that is not the user's; return its id."""
        number = self._next_number()
        self._awaited[number] = done
        self._out.append(encode_command(number, method, params))
        return number

    def forget(self, number: int) -> None:
        """The reply is not wanted any more."""
        self._awaited.pop(number, None)

    def _next_number(self) -> int:
        return next(self._numbers) % _MAX_ID + 1

    # Input

    def on_frame(self, frame: str | bytes) -> None:
        """A message has come."""
        self._note_alive()
        try:
            for said in read_frame(frame):
                if self._is_open:  # what was said before may have ended it
                    self._on_said(said)
            if self.calls.is_refused:
                self.calls.pause()
                self.later("pause", _PAUSE, self.calls.resume)
        except (MalformedError, UnicodeDecodeError) as error:
            code, cause = CloseCode.PROTOCOL_ERROR, CloseCause.PROTOCOL_ERROR
            reason = f"the server broke the protocol: {error}"
            self.fail(connection_closed(code, reason, cause), code)

    def _note_alive(self) -> None:
        if self._longest_silence is not None:
            self.later("silence", self._longest_silence, self._on_silence)

    def _on_silence(self) -> None:
        self._lose(lost("the server is silent", CloseCause.PING_TIMEOUT))

    def _on_said(self, said: Reply | Push | Ping) -> None:
        if isinstance(said, Push):
            self._on_push(*said)
        elif isinstance(said, Ping):
            if self._pong:
                self._out.append(PONG)
        elif not self.calls.finish(said):
            done = self._awaited.pop(said.id, None)
            if done is not None:
                done(said)

    def _on_push(self, kind: str, topic: str, value: dict[str, Any]) -> None:
        if kind == "pub":
            if topic in self.rooms:
                self.rooms.on_publication(topic, value)
            elif topic in self._by_server:
                self._by_server.publish(topic, value)
        elif kind in ("join", "leave"):
            self.rooms.on_presence(topic, kind == "join", value)
        elif kind == "message":
            self._listener.on_event(Message(value.get("data")))
        elif kind == "subscribe":
            self._by_server.begin(topic, value)
        elif kind == "unsubscribe":
            self._by_server.end(topic)
            self.rooms.on_unsubscribed(topic, value)
        elif kind == "disconnect":
            code, reason = field(value, "code", int, 0), field(value, "reason", str, "")
            self._lose(connection_closed(code, reason, CloseCause.PEER))
        elif kind == "refresh":
            self._note_own_expiry(value)

    # Commands of the user

    def make_call(
        self,
        method: str,
        params: dict[str, Any],
        done: Callable[[Any], object],
        again: bool = False,
    ) -> Call:
        """A command that is to be given to `add`; may be called in any thread.

        Args:
            method: such as "publish".
            params: what it asks for.
            done: called once with the result, or with an exception.
            again: it may be sent again, if the connection is lost before the reply.

        Raises:
            TypeError, ValueError: JSON cannot represent it.
        """
        return Call(self._next_number(), method, params, done, again)

    def add(self, call: Call) -> None:
        """Send a command as soon as the client is connected."""
        if self.state is State.CLOSED:
            call.end(closed_by(self.error))
        else:
            self.calls.add(call)

    def subscribe(self, room: Room) -> None:
        """Begin a subscription; there is none to its topic."""
        if self.state is State.CLOSED:
            room.end(closed_by(self.error))
        else:
            self.rooms.begin(room)

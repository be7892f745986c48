"""NATS as an engine, for topics without history: sans-I/O.

One connection publishes and receives. The server processes what it is sent in order, so
a subscription is before all messages that are published later, and the PONG of a PING
says that all before it was accepted: there is one PING for each output.

    connected: INFO ─► CONNECT, PING ─► PONG: let in
        ─► SUB and PUB, a probe ─► Ready
        ─► SUB, 4,096 channels at a time ─► Subscribed
        ─► PUB, and another probe each 10 s

NATS does not tell how many get a message. All see the messages of one publisher in its
order; those of several may come to two nodes in different orders, since the server
passes on what different connections publish at the same time.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, islice
from typing import Any

from ..text import excerpt
from .connected_engine import ConnectedEngine
from .engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Origin,
    ReadRefused,
    Ready,
    Refused,
    Subscribed,
)
from .engine_address import DEFAULT_PREFIX, EngineAddress
from .history import Retention
from .nats_protocol import Line, NatsMessage, NatsReader, subject_of
from .position import Position

__all__ = ["NatsEngine"]

#: Subscriptions that are not confirmed, at most: output is bounded.
_WINDOW = 4096
#: Seconds for which a probe that was due waits when the loop stood still.
_PROBE_DELAY = 2.0
#: Bytes of a message, until INFO says so.
_MAX_PAYLOAD = 2**20

_VIOLATION = re.compile(
    r'Permissions Violation for (Publish|Subscription) to "([^"]*)"'
)
#: Errors that would come again.
_PERMANENT = re.compile(
    r"Authorization Violation|(User |Account )?Authentication|Secure Connection",
    re.IGNORECASE,
)
_NO_HISTORY = "NATS keeps no history of topics"


class _Fence:
    """A PING: what was sent before it is done when its PONG comes."""

    __slots__ = ("then",)

    def __init__(self, then: Callable[[], object] | None) -> None:
        self.then = then


#: A PUB of ours that nobody asked for.
_PROBE = object()


class NatsEngine(ConnectedEngine):
    """An `Engine` for NATS 2.

    Args:
        username: "" where the server asks for none; without a password, a token.
        password: "" where the server asks for none.
        client_name: for the server's list of connections.
        prefix: the subject of probes begins with it, as all others should.
        tls: the connection is encrypted.
        publish_only: never subscribe to anything, also not to probe the server.
    """

    #: See `Engine.keeps_history`.
    keeps_history = False
    _protocol = "NATS"

    def __init__(
        self,
        username: str = "",
        password: str = "",
        client_name: str = "",
        *,
        prefix: str = DEFAULT_PREFIX,
        tls: bool = False,
        publish_only: bool = False,
    ) -> None:
        #: INFO that was read before the engine was connected, see `note_info`.
        self._noted: bytes | None = None
        self._tls = tls
        self._probe_subject = subject_of(f"{prefix}.probe.{secrets.token_hex(8)}")
        super().__init__(username, password, client_name, publish_only)

    @classmethod
    def from_address(
        cls, address: EngineAddress, *, publish_only: bool = False
    ) -> NatsEngine:
        """Make the engine of a URL that `engine_address.parse` has read."""
        return cls(
            address.username,
            address.password,
            address.client_name,
            prefix=address.prefix,
            tls=address.tls,
            publish_only=publish_only,
        )

    def _reset(self, now: float) -> None:
        super()._reset(now)
        #: What is not done, in order: subjects of messages, probes, fences; and events
        #: that are due after what is before them.
        self._pending: deque[Any] = deque()
        self._unfenced = False  # something since the last PING
        self._entered = False
        self._max_payload = _MAX_PAYLOAD
        # Channels: those that the server has, once it has processed the output; by the
        # number of the subscription; and those that wait for the window.
        self._sids: dict[str, int] = {}
        self._channels: dict[int, str] = {}
        self._numbers = count(1)
        self._to_subscribe: dict[str, None] = dict.fromkeys(self._wanted)
        self._outstanding = 0
        #: Those of the beginning that are not confirmed; None once that was told.
        self._initial: set[str] | None = None

    def _make_reader(self) -> NatsReader:
        return NatsReader()

    # The engine's interface: see `Engine`

    def note_info(self, line: bytes) -> None:
        """The server's first line, where it came before TLS; from the thread that
        connects, before `connected`.

        Raises:
            OSError: The server has no TLS, or is none of NATS.
        """
        try:
            info = json.loads(line.partition(b" ")[2])
            offered = info.get("tls_required") or info.get("tls_available")
        except (ValueError, AttributeError, RecursionError):
            raise OSError(errno.EPROTO, "its INFO is malformed") from None
        if not offered:
            raise OSError(errno.EPROTO, "it has no TLS: the URL is nats:// then")
        self._noted = line

    def announce(self, rules: bytes) -> None:
        """See `Engine.announce`: there are no topics with history."""

    def _enter(self) -> None:
        noted, self._noted = self._noted, None
        if noted is not None:
            self._on_line(noted)

    def take_output(self) -> bytes:
        """See `Engine.take_output`."""
        if self._unfenced:
            self._fence()
        return super().take_output()

    def publish(self, channel: str, envelope: bytes) -> None:
        """See `Engine.publish`."""
        if len(envelope) > self._max_payload:
            # The server would close the connection.
            text = f"{len(envelope):,} bytes exceed max_payload {self._max_payload:,}"
            self._promise(Refused(text))
            return
        subject = self._wanted.get(channel) or subject_of(channel)
        self._write(b"PUB %b %d\r\n%b\r\n" % (subject, len(envelope), envelope))
        self._pending.append(subject)
        self._unfenced = True

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """See `Engine.append`; it is refused."""
        self._promise(Refused(_NO_HISTORY))

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """See `Engine.read`; it is refused."""
        self._promise(ReadRefused(channel, _NO_HISTORY))

    def receives(self, channel: str) -> bool:
        """See `Engine.receives`."""
        return channel in self._sids

    def subscribe(self, channels: Iterable[str]) -> None:
        """See `Engine.subscribe`."""
        for channel in channels:
            if channel not in self._wanted:
                self._wanted[channel] = subject_of(channel)
                self._to_subscribe[channel] = None
        self._send_subscriptions()

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """See `Engine.unsubscribe`."""
        for channel in channels:
            if self._wanted.pop(channel, None) is None:
                continue
            self._to_subscribe.pop(channel, None)
            if self._initial is not None:
                self._initial.discard(channel)
            sid = self._sids.pop(channel, None)
            if sid is not None:
                del self._channels[sid]
                self._write(b"UNSUB %d\r\n" % sid)

    # Output

    def _fence(self, then: Callable[[], object] | None = None) -> None:
        """Send a PING, and do something when all before it is done."""
        self._write(b"PING\r\n")
        self._pending.append(_Fence(then))
        self._unfenced = False

    def _promise(self, event: EngineEvent) -> None:
        """Tell of something in the order of what was asked for."""
        self._pending.append(event)
        self._fence()

    def _send_subscriptions(self) -> None:
        """Subscribe as far as the window allows it."""
        if not self._ready or self._failed or not self._to_subscribe:
            return
        batch = list(islice(self._to_subscribe, _WINDOW - self._outstanding))
        if not batch:
            return
        for channel in batch:
            del self._to_subscribe[channel]
            sid = self._sids[channel] = next(self._numbers)
            self._channels[sid] = channel
            self._write(b"SUB %b %d\r\n" % (self._wanted[channel], sid))
        self._outstanding += len(batch)
        self._fence(partial(self._on_subscribed, batch))

    # Input

    def _process(self, items: list[NatsMessage | Line]) -> None:
        channels, events = self._channels, self._events
        for item in items:
            if type(item) is tuple:
                sid, body = item
                channel = channels.get(sid)
                if channel is not None:
                    events.append(Delivered(channel, body))
                elif sid == 0:
                    self._on_probe(body)
            elif type(item) is bytes:
                self._on_line(item)
            if self._failed:
                break

    def _on_line(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"PONG" and self._entered:
            self._on_pong()
        elif word == b"PING":
            self._write(b"PONG\r\n")
        elif word == b"INFO":
            self._on_info(rest)
        elif word == b"-ERR":
            self._on_error(rest.decode("utf-8", "replace").strip(" '"))
        elif word != b"+OK":
            self._fail(f"it sent {excerpt(word.decode('latin-1'))}")

    def _on_pong(self) -> None:
        pending = self._pending
        while pending:
            item = pending.popleft()
            if type(item) is _Fence:
                if item.then is not None:
                    item.then()
                return
            self._settle(item)
        self._fail("it sent PONG without a PING")

    def _settle(self, item: Any) -> None:
        """What is not refused, and comes before something that is done, is done."""
        if type(item) is bytes:
            self._events.append(Accepted(-1))
        elif item is not _PROBE:
            self._events.append(item)

    def _on_info(self, text: bytes) -> None:
        try:
            info = json.loads(text)
        except (ValueError, RecursionError):
            info = None
        if not isinstance(info, dict):
            self._fail("its INFO is malformed")
            return
        size = info.get("max_payload")
        if type(size) is int and size > 0:
            self._max_payload = size
        if self._entered:
            return  # the servers of its cluster have changed
        version = excerpt(str(info.get("version", "")))
        self._server = f"NATS {version}".rstrip()
        if info.get("tls_required") is True and not self._tls:
            self._fail("it wants TLS: the URL is tls:// then, not nats://", True)
            return
        self._entered = True
        self._write(b"CONNECT %b\r\n" % json.dumps(self._entry()).encode())
        self._fence(self._on_entered)

    def _entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "echo": True,
            "tls_required": self._tls,
            "name": self._client_name,
            "lang": "python",
            "version": "1",
            "protocol": 1,
        }
        if self._password:
            entry |= {"user": self._username, "pass": self._password}
        elif self._username:
            entry["auth_token"] = self._username
        return entry

    def _on_entered(self) -> None:
        if self._publish_only:
            self._become_ready()
        else:
            self._write(b"SUB %b 0\r\n" % self._probe_subject)
            self._send_probe()

    def _become_ready(self) -> None:
        self._ready = True
        self._events.append(Ready(self._server))
        self._initial = set(self._wanted)
        if self._initial:
            self._send_subscriptions()
        else:
            self._on_subscribed([])

    def _on_subscribed(self, batch: list[str]) -> None:
        self._outstanding -= len(batch)
        self._send_subscriptions()
        if self._initial is not None:
            self._initial.difference_update(batch)
            if not self._initial:
                self._initial = None
                self._events.append(Subscribed())

    # Errors

    def _on_error(self, text: str) -> None:
        violation = _VIOLATION.match(text)
        if violation is None:
            self._fail(self._clean(text), _PERMANENT.match(text) is not None)
        elif violation[1] == "Subscription":
            self._fail(f"it lets us not subscribe: {self._clean(text)}", True)
        elif violation[2].encode() == self._probe_subject:
            self._fail(f"it lets us not publish: {self._clean(text)}", True)
        else:
            self._refuse(violation[2].encode(), self._clean(text))

    def _refuse(self, subject: bytes, reason: str) -> None:
        """Find the message that it is about: those before it were accepted."""
        pending = self._pending
        while pending and type(pending[0]) is not _Fence:
            item = pending.popleft()
            if item == subject:
                self._events.append(Refused(reason))
                return
            self._settle(item)
        self._fail(f"it refused what was not published: {reason}")

    # Liveness

    def _ask_for_life(self) -> None:
        if self._entered:
            self._fence()

    def _wait_anew(self, now: float) -> None:
        if self._probe_unanswered:
            self._next_probe = max(self._next_probe, now + _PROBE_DELAY)

    def _send_probe(self) -> None:
        subject, body = self._probe_subject, self._new_probe()
        self._write(b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body))
        self._pending.append(_PROBE)
        self._fence(self._on_probed)

    def _on_probed(self) -> None:
        self._probe_unanswered = False
        if self._probe:
            self._fail("it is deaf: a message to ourselves did not come back")
        elif not self._ready:
            self._become_ready()

    def _secrets(self) -> tuple[str, ...]:
        return (self._password or self._username,)

"""Publishing from a program that is no node: what both kinds of `Publisher` share, and
the connection of the one that blocks.

A message to a topic with history has a number by which the engine knows it: it is sent
again when a connection was lost. Any other is sent once.

A message counts as unsure from when its last byte was given to the system until it is
answered: an engine does not execute a command that it has only a part of.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import seconds, secret
from ..errors import EngineError, InvalidState
from .channels import Channels
from .content import Kind
from .engine import Accepted, EngineEvent, Failed, Origin, Ready, Refused, Stored
from .engine_address import EngineAddress, is_prefix, parse
from .engine_url import parse_all
from .engines import connect_engine, new_engine
from .envelope import Envelope, seal
from .history import Retention
from .numbers import Numbers
from .redis_engine import RedisEngine
from .resp import ErrorReply
from .stream import open_stream

if TYPE_CHECKING:
    from .nats_engine import NatsEngine

__all__ = [
    "CLOSED_BY_PEER",
    "MAX_IDLE",
    "KeptMessage",
    "PublishingConnection",
    "PublishingOptions",
    "Sealer",
    "cannot_connect",
    "check_publishing_options",
    "check_topic",
    "closed",
    "count_topics",
    "engine_to",
    "lost",
    "no_answer",
    "refused",
    "urls_of",
]

#: Seconds after which an unused connection is replaced: a firewall, or `timeout` of the
#: server, may have ended it without a word, and what is sent then would be unsure.
MAX_IDLE = 30.0

#: What is wrong when the engine has closed the connection.
CLOSED_BY_PEER = "it has closed the connection"

_READ = 65536
_clock = time.monotonic
#: Channels that are asked about at once.
_BATCH = 512


class PublishingOptions(NamedTuple):
    """What a publisher was given, checked."""

    address: EngineAddress
    channels: Channels
    secret: bytes | None
    timeout: float


class KeptMessage(NamedTuple):
    """A message to a topic with history; the arguments of `Engine.append`."""

    channel: str
    envelope: bytes
    origin: Origin
    retention: Retention


def check_topic(topic: object) -> None:
    """Raise TypeError if it is no topic."""
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")


def urls_of(url: str | Sequence[str]) -> list[str]:
    """The URLs of a publisher, checked as those of a server.

    Raises:
        TypeError, ValueError: See `engine_url.parse_all`.
    """
    if isinstance(url, list | tuple):
        parse_all(url)
        return list(url)
    return [url]  # type: ignore[list-item]  # whatever it is, it is checked later


def check_publishing_options(
    url: str, prefix: str | None, key: str | bytes | None, timeout: float
) -> PublishingOptions:
    """Check the arguments of a publisher.

    Raises:
        TypeError, ValueError: One of them is wrong; the text shows no password.
    """
    if isinstance(url, str) and url.partition(":")[0] in ("memory", "local"):
        raise ValueError(
            "the engines 'memory' and 'local' exist inside a server's processes: a "
            "Publisher needs the URL of a server of its own, such as redis://host"
        )
    address = parse(url)
    if prefix is not None:
        if not is_prefix(prefix):
            raise ValueError(
                "prefix must be 1 to 64 letters, digits, '_', '-' and ':', "
                f"not {prefix!r}"
            )
        address = replace(address, prefix=prefix)
    return PublishingOptions(
        address,
        Channels(address.prefix),
        None if key is None else secret("secret", key),
        seconds("timeout", timeout),
    )


class Sealer:
    """Makes the envelopes of one publisher: a process, or a part of one."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key
        self._id = os.urandom(8)
        self._session = 0
        self._numbers = Numbers()

    def begin_session(self) -> None:
        """There is a new connection."""
        self._session = (self._session + 1) & 0xFFFF

    def seal(self, channel: str, kind: Kind, body: bytes) -> bytes:
        """The envelope of the next message to a channel."""
        seq = self._numbers.next(channel)
        envelope = Envelope(self._id, self._session, seq, kind, body)
        return seal(envelope, channel, self._key)

    def seal_kept(
        self, channel: str, kind: Kind, body: bytes, key: str | None, kept: Retention
    ) -> KeptMessage:
        """The next message to a topic with history: the same on any connection."""
        seq = self._numbers.next(channel)
        envelope = seal(Envelope(self._id, 0, seq, kind, body), channel, self._key)
        return KeptMessage(channel, envelope, Origin(self._id, seq, key), kept)


def engine_to(address: EngineAddress) -> RedisEngine | NatsEngine:
    """The engine of an address, for one that never subscribes."""
    name = address.client_name or f"simple_ws-publisher-{os.getpid()}"
    return new_engine(replace(address, client_name=name), publish_only=True)


def no_answer(timeout: float) -> str:
    """What is wrong when time is over."""
    return f"no answer in {timeout:g} s"


def lost(error: Exception) -> str:
    """What is wrong when the connection is lost."""
    return f"the connection is lost: {getattr(error, 'strerror', None) or error}"


def refused(reason: str) -> str:
    """What is wrong when the engine has refused a message."""
    return f"it refused the message: {reason}"


def closed() -> InvalidState:
    """The error of a call after `close`."""
    return InvalidState("the publisher is closed")


def cannot_connect(address: EngineAddress, error: OSError) -> EngineError:
    """The error of `connect` as one of a publisher."""
    reason = str(error.strerror or error)
    reason = reason.removeprefix(f"cannot connect to {address}: ")
    return EngineError(str(address), f"cannot connect: {reason}")


def count_topics(options: PublishingOptions) -> dict[str, int]:
    """The topics that somebody has subscribed to, and on how many nodes; it blocks.

    Raises:
        EngineError: The engine does not tell in time.
    """
    if options.address.is_nats:
        raise EngineError(str(options.address), "NATS does not tell who subscribes")
    end = _clock() + options.timeout
    connection = PublishingConnection(options.address, end, options.timeout)
    try:
        plain = options.channels.topic("")
        topics = {
            name.removeprefix(plain): count
            for name, count in connection.subscribers(plain, end).items()
        }
        before, after = options.channels.kept("\0").split("\0")
        for name, count in connection.subscribers(before, end).items():
            topics[name.removeprefix(before).removesuffix(after)] = count
        return topics
    finally:
        connection.close()


class PublishingConnection:
    """A connection to an engine, ready; one thread at a time may use it.

    Args:
        address: of the engine.
        end: by `time.monotonic`; the time by which it must be ready.
        timeout: seconds, for the text of errors.

    Attributes:
        settled: no answer is outstanding; otherwise it cannot be used any more.

    Raises:
        EngineError: It cannot be made.
    """

    def __init__(self, address: EngineAddress, end: float, timeout: float) -> None:
        self._url = str(address)
        self._timeout = timeout
        self._unsure = False
        self.settled = False
        self._events: deque[EngineEvent] = deque()
        self._engine = engine_to(address)
        try:
            timeout = max(end - _clock(), 0.001)
            self._sock = connect_engine(self._engine, address, timeout)
        except OSError as error:
            raise cannot_connect(address, error) from error
        self._stream = open_stream(self._sock)
        try:
            self._used = _clock()
            self._engine.connected(self._used)
            self._send(end)
            self._wait_for(Ready, end)
            self.settled = True
        except BaseException:
            self.abort()
            raise

    def is_usable(self) -> bool:
        """Whether it is open, as far as that is known, and was used lately."""
        if _clock() - self._used > MAX_IDLE:
            return False
        self._sock.settimeout(0)
        try:
            data = self._stream.recv(_READ)
        except OSError:
            return False
        if data:
            self._events += self._engine.receive(data, _clock())
        failed = any(isinstance(event, Failed) for event in self._events)
        return data != b"" and not failed

    def publish(self, channel: str, envelope: bytes, end: float) -> int:
        """Publish a message; return how many connections of the engine got it.

        Raises:
            EngineError: It was refused, the connection is lost, or time is over.
        """
        self._engine.publish(channel, envelope)
        return self._await_answer(end)

    def append(self, message: KeptMessage, end: float) -> int:
        """Append a message to the history of a topic, once; as `publish`."""
        self._engine.append(*message)
        return self._await_answer(end)

    def _await_answer(self, end: float) -> int:
        self.settled = False
        self._send(end)
        self._unsure = True
        answer = self._wait_for((Accepted, Stored, Refused), end)
        self._unsure, self.settled = False, True
        self._used = _clock()
        if isinstance(answer, Refused):
            raise self._error(refused(answer.reason))
        return int(answer.receivers)

    def read(self, key: bytes, end: float) -> Any:
        """What a key holds, or an `ErrorReply`.

        Raises:
            EngineError: As with `publish`.
        """
        if not isinstance(self._engine, RedisEngine):
            return None  # NATS has no keys
        return self._request(end, b"GET", key)

    def subscribers(self, prefix: str, end: float) -> dict[str, int]:
        """The channels that begin so, and how many connections listen to each.

        Raises:
            EngineError: As with `publish`.
        """
        pattern = prefix.encode() + b"*"
        channels = self._ask(end, b"PUBSUB", b"CHANNELS", pattern)
        found: dict[str, int] = {}
        for start in range(0, len(channels), _BATCH):
            batch = channels[start : start + _BATCH]
            counts = self._ask(end, b"PUBSUB", b"NUMSUB", *batch)
            for key, count in zip(counts[::2], counts[1::2], strict=True):
                if count:
                    found[key.decode("utf-8", "surrogatepass")] = count
        return found

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def abort(self) -> None:
        """Close it; what the system has not sent yet is dropped."""
        self._stream.abort()

    def _ask(self, end: float, *command: bytes) -> Any:
        reply = self._request(end, *command)
        if isinstance(reply, ErrorReply):
            raise self._error(reply.text)
        return reply

    def _request(self, end: float, *command: bytes) -> Any:
        replies: list[Any] = []
        assert isinstance(self._engine, RedisEngine)
        self.settled = False
        self._engine.ask(replies.append, *command)
        self._send(end)
        while not replies:
            self._receive(end)
            self._check()
        self.settled = True
        return replies[0]

    def _wait_for(self, kind: type | tuple[type, ...], end: float) -> Any:
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kind):
                    return event
                if isinstance(event, Failed):
                    raise self._error(event.reason)
            self._receive(end)

    def _check(self) -> None:
        for event in self._events:
            if isinstance(event, Failed):
                raise self._error(event.reason)

    def _send(self, end: float) -> None:
        data = memoryview(self._engine.take_output())
        while data:
            self._set_timeout(end)
            try:
                data = data[self._sock.send(data) :]
            except TimeoutError:
                raise self._error(no_answer(self._timeout)) from None
            except OSError as error:
                raise self._error(lost(error)) from error

    def _receive(self, end: float) -> None:
        self._set_timeout(end)
        try:
            data = self._sock.recv(_READ)
        except TimeoutError:
            raise self._error(no_answer(self._timeout)) from None
        except OSError as error:
            raise self._error(lost(error)) from error
        if not data:
            raise self._error(CLOSED_BY_PEER)
        self._events += self._engine.receive(data, _clock())
        if self._engine.size:  # of the beginning, such as SELECT
            self._send(end)

    def _set_timeout(self, end: float) -> None:
        left = end - _clock()
        if left <= 0:
            raise self._error(no_answer(self._timeout))
        self._sock.settimeout(left)

    def _error(self, problem: str) -> EngineError:
        return EngineError(self._url, problem, self._unsure)

"""`Publisher`: publish from a script, a web framework or cron, without a server.

    from simple_ws import Publisher

    with Publisher("redis://localhost") as publisher:
        publisher.publish("news", {"title": "Hello"})

It blocks; `simple_ws.aio.Publisher` is the one for asyncio. The connection is in
`cluster.publishing`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .cluster.announced_rules import AnnouncedRules, rules_key
from .cluster.content import encode_body
from .cluster.history import Retention
from .cluster.publishing import (
    KeptMessage,
    PublishingConnection,
    PublishingOptions,
    Sealer,
    check_publishing_options,
    check_topic,
    closed,
    no_answer,
    urls_of,
)
from .cluster.shards import shard_of
from .cluster.topic_rules import check_key
from .errors import EngineError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Publisher"]

_clock = time.monotonic
#: Seconds until it connects again for a message that it sends again: the first and the
#: longest pause.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Publisher:
    """Publishes to the clients of all servers that share an engine; it blocks.

    It connects when it is first used, and again when the connection was lost. Every
    method may be called from any thread; they share one connection, one call after the
    other. After a fork the child has a connection of its own. There is no queue: when
    a call returns, the engine has the message.

    Args:
        url: of the engine, as for the option `engine` of a server: `redis://`,
            `rediss://`, `valkey://`, `valkeys://`, `unix://`, `redis+sentinel://`,
            `nats://` or `tls://`; or a list, in the order that the servers have.
        prefix: of the application; None: that of the URL (`?prefix=`), or `sws`.
        secret: signs the messages, as the servers' option `engine_secret` asks for.
        timeout: seconds that a call may take, with connecting. The system's name
            look-up has its own timeout.

    Raises:
        TypeError, ValueError: An argument is wrong; the text shows no password.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        prefix: str | None = None,
        secret: str | bytes | None = None,
        timeout: float = 5.0,
    ) -> None:
        first, *others = urls_of(url)
        self._options = check_publishing_options(first, prefix, secret, timeout)
        self._others = [
            Publisher(each, prefix=prefix, secret=secret, timeout=timeout)
            for each in others
        ]
        self._closed = False
        # By process: a forked one must use neither the connection of its parent nor its
        # lock, which a thread that does not exist here may hold.
        self._lines: dict[int, _Line] = {}

    def __repr__(self) -> str:
        return f"<Publisher {self._options.address}>"

    def publish(self, topic: str, msg: object, *, key: str | None = None) -> int:
        """Publish a message to the subscribers of a topic.

        If the topic has a history (`Server.topic`), the message is sent again when the
        connection is lost, within `timeout`; the history has it once.

        Args:
            topic: its name.
            msg: str, bytes, bytearray, memoryview, or dict or list (sent as JSON text).
            key: for a topic with history: if it has a message with this key, nothing is
                published. 1 to 256 characters.

        Returns:
            The connections of the engine that got it: the servers (each worker is one)
            where somebody has subscribed, and not the clients. -1 where the engine
            does not tell (NATS).

        Raises:
            EngineError: The engine cannot be reached, refused it, or did not answer
                within `timeout`; its `unsure` tells whether the message may have been
                published all the same.
            TypeError, ValueError: The message or the topic is of another type, or the
                message cannot be encoded; or there is a key, and the topic has no
                history.
            InvalidState: The publisher is closed.
        """
        check_topic(topic)
        if key is not None:
            check_key(key, topic, kept=True)
        kind, body = encode_body(msg)
        channels = self._options.channels
        publisher = self._of(channels.topic(topic))
        with publisher._session() as (line, connection, end):
            retention = line.retention(topic, end)
            if retention is not None:
                channel = channels.kept(topic)
                message = line.sealer.seal_kept(channel, kind, body, key, retention)
                return line.append(message, end)
            if key is not None:
                check_key(key, topic, kept=False)
            channel = channels.topic(topic)
            envelope = line.sealer.seal(channel, kind, body)
            return connection.publish(channel, envelope, end)

    def broadcast(self, msg: object) -> int:
        """Send a message to all clients of all servers; as `publish`."""
        return self._send(self._options.channels.all, msg)

    def send_to(self, client_id: object, msg: object) -> int:
        """Send a message to the connections of an identity (`bind`); as `publish`.

        Args:
            client_id: a str, int, bytes or UUID.
            msg: see `publish`.

        Raises:
            TypeError: The identity is of another type; and as `publish`.
        """
        return self._send(self._options.channels.identity(client_id), msg)

    def close(self) -> None:
        """Close the connection, after a call that uses it; may be repeated."""
        self._closed = True
        self._line().close()
        for other in self._others:
            other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, channel: str, msg: object) -> int:
        kind, body = encode_body(msg)
        with self._of(channel)._session() as (line, connection, end):
            envelope = line.sealer.seal(channel, kind, body)
            return connection.publish(channel, envelope, end)

    def _of(self, channel: str) -> Publisher:
        """The one for the engine that has a channel."""
        shards = (self, *self._others)
        if len(shards) == 1:
            return self
        name = self._options.channels.shard_key(channel)
        return shards[shard_of(name, len(shards))]

    @contextmanager
    def _session(self) -> Iterator[tuple[_Line, PublishingConnection, float]]:
        """What this process has, its connection, and until when it may be used."""
        if self._closed:  # perhaps by the parent of this process
            raise closed()
        end = _clock() + self._options.timeout
        line = self._line()
        with line.connection(end) as connection:
            yield line, connection, end

    def _line(self) -> _Line:
        """What this process has."""
        pid = os.getpid()
        line = self._lines.get(pid)
        if line is None:
            # `setdefault`: several threads of a child may come here at once.
            line = self._lines.setdefault(pid, _Line(self._options))
            for other in set(self._lines) - {pid}:
                inherited = self._lines.pop(other, None)
                if inherited is not None:
                    inherited.forget()
        return line


class _Line:
    """The connection of one process, its lock, and its identity as a publisher."""

    def __init__(self, options: PublishingOptions) -> None:
        self.sealer = Sealer(options.secret)
        self._rules = AnnouncedRules()
        self._options = options
        self._lock = threading.Lock()
        self._connection: PublishingConnection | None = None
        self._closed = False

    @contextmanager
    def connection(self, end: float) -> Iterator[PublishingConnection]:
        """A connection that works, for this thread alone."""
        options = self._options
        if not self._lock.acquire(timeout=max(end - _clock(), 0.0)):
            raise EngineError(str(options.address), no_answer(options.timeout))
        try:
            if self._closed:
                raise closed()
            yield self._connect(end)
        finally:
            # An answer may be outstanding, after Ctrl-C as well.
            if self._connection is not None and not self._connection.settled:
                self._drop()
            self._lock.release()

    def _connect(self, end: float) -> PublishingConnection:
        if self._connection is not None and not self._connection.is_usable():
            self._drop()
        if self._connection is None:
            options = self._options
            self._connection = PublishingConnection(
                options.address, end, options.timeout
            )
            self.sealer.begin_session()
        return self._connection

    def retention(self, topic: str, end: float) -> Retention | None:
        """How much of a topic is kept; within `connection`."""
        assert self._connection is not None
        if not self._rules.is_fresh(_clock()):
            key = rules_key(self._options.address.prefix)
            self._rules.take(self._connection.read(key, end), _clock())
        return self._rules.find(topic)

    def append(self, message: KeptMessage, end: float) -> int:
        """Append a message, and again if the connection is lost; within `connection`,
        so that no later message comes before it.

        Raises:
            EngineError: It was refused, or time is over.
        """
        lost: EngineError | None = None
        pause = 0.0
        while True:
            try:
                return self._connect(end).append(message, end)
            except EngineError as error:
                if self._connection is not None and self._connection.settled:
                    raise  # it was refused
                if lost is None or error.unsure:
                    lost = error
            self._drop()
            if _clock() + pause >= end:
                raise lost
            time.sleep(pause)
            pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def close(self) -> None:
        """Close the connection; waits for a call that uses it, which has a timeout."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forget(self) -> None:
        """Close a forked process's copy of the connection; the parent's goes on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

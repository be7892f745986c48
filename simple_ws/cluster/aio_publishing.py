"""The `Publisher` for asyncio.

Messages of several tasks are sent at once, and answered in order, on an `aio_link`.
Messages to topics with history that were not answered when the connection was lost are
the first on the next one, in their order.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import EngineError, InvalidState
from .aio_link import EngineConnection
from .announced_rules import AnnouncedRules, rules_key
from .content import Kind, encode_body
from .publishing import (
    KeptMessage,
    Sealer,
    check_publishing_options,
    check_topic,
    closed,
    no_answer,
    urls_of,
)
from .shards import shard_of
from .topic_rules import check_key

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Publisher"]

_clock = time.monotonic
#: Seconds between two attempts to connect, for messages that are sent again: the first
#: and the longest pause.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Publisher:
    """Publishes to the clients of all servers that share an engine, in asyncio.

    It connects when it is first used, and again when the connection was lost. Tasks of
    one event loop may use it at once, and do not wait for each other's answers. In
    another loop, when the first is over, and after a fork, it connects anew.

    Args:
        url: of the engine, as for the option `engine` of a server: `redis://`,
            `rediss://`, `valkey://`, `valkeys://`, `unix://`, `redis+sentinel://`,
            `nats://`, or `tls://` with `?tls_first=true`; or a list, in the order that
            the servers have.
        prefix: of the application; None: that of the URL (`?prefix=`), or `sws`.
        secret: signs the messages, as the servers' option `engine_secret` asks for.
        timeout: seconds that a call may take, with connecting.

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
        self._reset(None)

    def _reset(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._pid = os.getpid()
        self._loop = loop
        self._sealer = Sealer(self._options.secret)
        self._connection: EngineConnection | None = None
        self._connecting: asyncio.Task[EngineConnection] | None = None
        self._waiting = 0  # calls that wait for it
        self._rules = AnnouncedRules()
        #: What was not answered of messages to topics with history, in order.
        self._unconfirmed: dict[asyncio.Future[int], KeptMessage] = {}
        self._resending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Publisher {self._options.address}>"

    async def publish(self, topic: str, msg: object, *, key: str | None = None) -> int:
        """Publish a message to the subscribers of a topic.

        If it is cancelled, the message may have been published. If the topic has a
        history (`Server.topic`), the message is sent again when the connection is lost,
        within `timeout`; the history has it once.

        Args:
            topic: its name.
            msg: str, bytes, bytearray, memoryview, or dict or list (sent as JSON text).
            key: for a topic with history: if it has a message with this key, nothing is
                published. 1 to 256 characters.

        Returns:
            The connections of the engine that got it: the servers (each worker is one)
            where somebody has subscribed, and not the clients.

        Raises:
            EngineError: The engine cannot be reached, refused it, or did not answer
                within `timeout`; its `unsure` tells whether the message may have been
                published all the same.
            TypeError, ValueError: The message or the topic is of another type, or the
                message cannot be encoded; or there is a key, and the topic has no
                history.
            InvalidState: The publisher is closed, or another loop, which is running,
                uses it.
        """
        check_topic(topic)
        if key is not None:
            check_key(key, topic, kept=True)
        kind, body = encode_body(msg)
        shard = self._of(self._options.channels.topic(topic))
        return await shard._use(
            lambda connection: shard._publish(connection, topic, kind, body, key)
        )

    async def broadcast(self, msg: object) -> int:
        """Send a message to all clients of all servers; as `publish`."""
        return await self._send(self._options.channels.all, msg)

    async def send_to(self, client_id: object, msg: object) -> int:
        """Send a message to the connections of an identity (`bind`); as `publish`.

        Args:
            client_id: a str, int, bytes or UUID.
            msg: see `publish`.

        Raises:
            TypeError: The identity is of another type; and as `publish`.
        """
        return await self._send(self._options.channels.identity(client_id), msg)

    async def close(self) -> None:
        """Close the connection; may be repeated.

        Calls that wait for an answer raise `EngineError`.
        """
        self._closed = True
        self._settle()
        self._stop_connecting()
        if self._resending is not None:
            self._resending.cancel()
        self._on_lost()
        if self._connection is not None:
            await self._connection.close()
        for other in self._others:
            await other.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, channel: str, msg: object) -> int:
        kind, body = encode_body(msg)
        shard = self._of(channel)

        def publish(connection: EngineConnection) -> Awaitable[int]:
            envelope = shard._sealer.seal(channel, kind, body)
            return connection.publish(channel, envelope)

        return await shard._use(publish)

    def _of(self, channel: str) -> Publisher:
        """The one for the engine that has a channel."""
        shards = (self, *self._others)
        if len(shards) == 1:
            return self
        name = self._options.channels.shard_key(channel)
        return shards[shard_of(name, len(shards))]

    async def _publish(
        self,
        connection: EngineConnection,
        topic: str,
        kind: Kind,
        body: bytes,
        key: str | None,
    ) -> int:
        rules, channels = self._rules, self._options.channels
        if not rules.is_fresh(_clock()):
            reply = await connection.read(rules_key(self._options.address.prefix))
            rules.take(reply, _clock())
        retention = rules.find(topic)
        if retention is not None:
            channel = channels.kept(topic)
            return await self._append(
                connection,
                self._sealer.seal_kept(channel, kind, body, key, retention),
            )
        if key is not None:
            check_key(key, topic, kept=False)
        channel = channels.topic(topic)
        return await connection.publish(channel, self._sealer.seal(channel, kind, body))

    async def _append(self, connection: EngineConnection, message: KeptMessage) -> int:
        connection.check()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.append(message, answer)
        self._unconfirmed[answer] = message
        try:
            return await answer
        finally:
            self._unconfirmed.pop(answer, None)

    def _on_lost(self) -> None:
        """A connection is lost: messages may have to be sent again."""
        if self._loop is not asyncio.get_running_loop():
            return  # it belonged to one that was over
        if self._closed:
            unconfirmed, self._unconfirmed = self._unconfirmed, {}
            for answer in unconfirmed:
                if not answer.done():
                    answer.set_exception(
                        EngineError(str(self._options.address), "it was closed", True)
                    )
        elif self._unconfirmed and (self._resending is None or self._resending.done()):
            self._resending = asyncio.ensure_future(self._resend())

    async def _resend(self) -> None:
        """Connect, as long as a message waits for it."""
        pause = 0.0
        while self._unconfirmed and not self._closed and self._usable() is None:
            await asyncio.sleep(pause)
            pause = min(pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            with suppress(EngineError, InvalidState):
                await self._connected()

    async def _use(self, publish: Callable[[EngineConnection], Awaitable[int]]) -> int:
        """Publish something when there is a connection, within the timeout."""
        if self._closed:
            raise closed()
        self._settle()
        problem = no_answer(self._options.timeout)
        connection = self._usable()
        try:
            async with asyncio.timeout(self._options.timeout):
                if connection is None:
                    connection = await self._connected()
                return await publish(connection)
        except TimeoutError:
            if connection is None:
                raise EngineError(str(self._options.address), problem) from None
            # Another one, if the message was sent again.
            raise (self._connection or connection).give_up(problem) from None

    def _settle(self) -> None:
        """Forget what belongs to a parent process, or to a loop that is over."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # Not even closed: the parent's loop shares its selector with this process.
            self._reset(loop)
        elif self._loop is not loop:
            if self._loop is not None and self._loop.is_running():
                raise InvalidState("another event loop uses this publisher")
            if self._connection is not None:
                self._connection.forget()
            sealer = self._sealer
            self._reset(loop)
            self._sealer = sealer

    def _usable(self) -> EngineConnection | None:
        connection = self._connection
        if connection is not None and not connection.is_usable():
            connection.abort("it was not used")
            connection = self._connection = None
        return connection

    async def _connected(self) -> EngineConnection:
        """A new connection, which all calls that wait for it share."""
        self._waiting += 1
        connecting = None
        try:
            while True:
                if self._connecting is None:
                    self._begin_to_connect()
                connecting = self._connecting
                assert connecting is not None
                # The time of an attempt that an earlier call began ends earlier.
                with suppress(TimeoutError):
                    # Shielded: a call that is cancelled does not take it from others.
                    return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if connecting is not None and connecting.cancelled():
                raise closed() from None
            raise
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._stop_connecting()

    def _begin_to_connect(self) -> None:
        self._connecting = asyncio.ensure_future(self._connect())
        self._connecting.add_done_callback(self._on_connected)

    def _stop_connecting(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()

    def _on_connected(self, task: asyncio.Task[EngineConnection]) -> None:
        connection = None
        if not task.cancelled() and task.exception() is None:
            connection = task.result()
        if task is self._connecting:
            self._connecting = None
            self._connection = connection
        elif connection is not None:
            connection.abort()  # nobody waits for it any more

    async def _connect(self) -> EngineConnection:
        connection = EngineConnection(self._options, self._on_lost)
        try:
            async with asyncio.timeout(self._options.timeout):
                await connection.open()
        finally:
            if not connection.ready:
                await connection.close()
        self._sealer.begin_session()
        for answer, message in self._unconfirmed.items():
            connection.append(message, answer)
        return connection

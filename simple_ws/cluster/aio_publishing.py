"""The `Publisher` for asyncio, and its connection.

Messages of several tasks are sent at once, and answered in order. No thread stands on
their path; only names and certificates are looked up in one.

Messages to topics with history that were not answered when the connection was lost are
the first on the next one, in their order.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from ..client.aio_dial import AbortableProtocol, attach, dial, dial_unix
from ..errors import EngineError, InvalidState
from .announced_rules import AnnouncedRules, rules_key
from .connect import named, tls_context
from .engine import Accepted, EngineEvent, Failed, Ready, Refused, Stored
from .envelope import Kind, encode_body
from .publishing import (
    CLOSED_BY_PEER,
    MAX_IDLE,
    KeptMessage,
    PublishingOptions,
    Sealer,
    cannot_connect,
    check_publishing_options,
    check_topic,
    closed,
    engine_to,
    lost,
    no_answer,
    refused,
    urls_of,
)
from .redis_engine import RedisEngine
from .sentinel import find_master
from .shards import shard_of
from .topic_rules import check_key

if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import Self

__all__ = ["Publisher"]

#: Bytes that wait for the engine; above it a message is refused.
_OUTPUT_LIMIT = 8 * 2**20
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
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None
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

        def publish(connection: _Connection) -> Awaitable[int]:
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
        connection: _Connection,
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

    async def _append(self, connection: _Connection, message: KeptMessage) -> int:
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

    async def _use(self, publish: Callable[[_Connection], Awaitable[int]]) -> int:
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

    def _usable(self) -> _Connection | None:
        connection = self._connection
        if connection is not None and not connection.is_usable():
            connection.abort("it was not used")
            connection = self._connection = None
        return connection

    async def _connected(self) -> _Connection:
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

    def _on_connected(self, task: asyncio.Task[_Connection]) -> None:
        connection = None
        if not task.cancelled() and task.exception() is None:
            connection = task.result()
        if task is self._connecting:
            self._connecting = None
            self._connection = connection
        elif connection is not None:
            connection.abort()  # nobody waits for it any more

    async def _connect(self) -> _Connection:
        connection = _Connection(self._options, self._on_lost)
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


class _Connection(AbortableProtocol):
    """A connection to the engine.

    Args:
        options: of the publisher.
        on_lost: called when it has ended after it was ready.

    Attributes:
        ready: `open` has succeeded.
    """

    def __init__(
        self, options: PublishingOptions, on_lost: Callable[[], object]
    ) -> None:
        self._address, self._timeout = options.address, options.timeout
        self._on_lost = on_lost
        self._engine = engine_to(options.address)
        self._transport: asyncio.Transport | None = None
        self._sock: socket.socket | None = None
        self._problem = ""
        self.ready = False
        self._used = _clock()
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        #: Of messages that were neither accepted nor refused.
        self._answers: deque[asyncio.Future[int]] = deque()
        #: Those of them that a later connection may give as well.
        self._kept: set[asyncio.Future[int]] = set()
        self._reading: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Connect, and wait until the engine takes messages.

        Raises:
            EngineError: It is not possible.
        """
        if self._address.is_nats:
            self._engine.connected(_clock())  # the server speaks first
        try:
            await self._reach()
        except UnicodeError:  # an empty label, or one with more than 63 characters
            error = OSError(0, "not a host name")
            raise cannot_connect(self._address, error) from None
        except OSError as error:
            explained = named(error, self._address)
            raise cannot_connect(self._address, explained) from error
        if not self._address.is_nats:
            self._engine.connected(_clock())
        self._flush()
        await self._entered
        self.ready = True

    async def _reach(self) -> None:
        address = self._address
        if address.is_nats and address.tls and not address.tls_first:
            raise OSError(0, "in asyncio, NATS with TLS needs ?tls_first=true")
        if address.sentinels:
            timeout = self._timeout
            address = await asyncio.to_thread(find_master, address, timeout)
        context = await asyncio.to_thread(tls_context, address) if address.tls else None
        if address.path:
            self._sock = await dial_unix(address.path)
        else:
            self._sock = await dial(address.host, address.port, None)
        await attach(self._sock, self)
        if context is not None:
            assert self._transport is not None
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_hostname=address.host
            )
            if transport is None:  # possible according to typeshed
                raise ConnectionResetError("connection lost")
            self._transport = transport

    def is_usable(self) -> bool:
        """Whether it is open, as far as that is known, and was used lately."""
        if self._problem:
            return False
        return bool(self._answers) or _clock() - self._used <= MAX_IDLE

    def publish(self, channel: str, envelope: bytes) -> asyncio.Future[int]:
        """Publish a message; its answer comes later.

        Raises:
            EngineError: It was not sent.
        """
        self.check()
        answer = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self._engine.publish(channel, envelope)
        self._flush()
        return answer

    def append(self, message: KeptMessage, answer: asyncio.Future[int]) -> None:
        """Append a message to the history of a topic; if the connection is lost, its
        answer is left open."""
        self._answers.append(answer)
        self._kept.add(answer)
        self._engine.append(*message)
        self._flush()

    def read(self, key: bytes) -> asyncio.Future[Any]:
        """What a key holds, or an `ErrorReply`; it comes later.

        Raises:
            EngineError: It was not sent.
        """
        self.check()
        reply = asyncio.get_running_loop().create_future()
        self._reading.add(reply)
        reply.add_done_callback(self._reading.discard)

        def take(value: Any) -> None:
            if not reply.done():
                reply.set_result(value)

        if isinstance(self._engine, RedisEngine):
            self._engine.ask(take, b"GET", key)
            self._flush()
        else:
            take(None)  # NATS has no keys
        return reply

    def check(self) -> None:
        """Check that it takes messages.

        Raises:
            EngineError: It does not.
        """
        if self._problem or self._transport is None:
            raise EngineError(str(self._address), self._problem)
        if self._transport.get_write_buffer_size() > _OUTPUT_LIMIT:
            raise EngineError(
                str(self._address), f"more than {_OUTPUT_LIMIT:,} bytes wait for it"
            )

    def give_up(self, problem: str) -> EngineError:
        """Close it at once; return the error of a message that was sent."""
        self.abort(problem)
        return EngineError(str(self._address), problem, unsure=True)

    async def close(self) -> None:
        """Close it at once, and wait until it is."""
        self.abort("it was closed")
        if self._transport is not None:
            await self._lost

    def abort(self, problem: str = "it was given up") -> None:
        """Close it at once: nobody waits any more for what was not sent."""
        self._end(problem)
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Close it after the end of its loop."""
        with suppress(RuntimeError):  # the loop is closed
            if self._transport is not None:
                self._transport.abort()
        if self._sock is not None:
            self._sock.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`; likewise below."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the engine."""
        for event in self._engine.receive(data, _clock()):
            self._on_event(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._end(CLOSED_BY_PEER if exc is None else lost(exc))
        if not self._lost.done():
            self._lost.set_result(None)

    def _on_event(self, event: EngineEvent) -> None:
        if isinstance(event, Accepted | Stored | Refused):
            self._used = _clock()
            self._on_answer(event)
        elif isinstance(event, Ready):
            if not self._entered.done():
                self._entered.set_result(None)
        elif isinstance(event, Failed):
            self.abort(event.reason)

    def _on_answer(self, event: Accepted | Stored | Refused) -> None:
        if not self._answers:
            return
        answer = self._answers.popleft()
        if self._kept:
            self._kept.discard(answer)
        if answer.done():
            return  # cancelled
        if isinstance(event, Refused):
            answer.set_exception(EngineError(str(self._address), refused(event.reason)))
        else:
            answer.set_result(event.receivers)

    def _flush(self) -> None:
        data = self._engine.take_output()
        if data and self._transport is not None and not self._problem:
            self._transport.write(data)

    def _end(self, problem: str) -> None:
        if self._problem:
            return
        self._problem = problem
        url = str(self._address)
        if not self._entered.done():
            self._entered.set_exception(EngineError(url, problem))
            self._entered.exception()  # nobody may wait for it
        for reply in self._reading:
            if not reply.done():
                reply.set_exception(EngineError(url, problem))
                reply.exception()  # likewise
        answers, self._answers = self._answers, deque()
        for answer in answers:
            if not answer.done() and answer not in self._kept:
                answer.set_exception(EngineError(url, problem, unsure=True))
                answer.exception()  # likewise
        if self.ready:
            self._on_lost()

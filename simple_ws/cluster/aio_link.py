"""The connection of an asyncio `Publisher` to its engine.

No thread stands on the path of a message; only names and certificates are looked up in
one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from ..client.aio_dial import AbortableProtocol, attach, dial, dial_unix
from ..errors import EngineError
from .connect import named, tls_context
from .engine import Accepted, EngineEvent, Failed, Ready, Refused, Stored
from .publishing import (
    CLOSED_BY_PEER,
    MAX_IDLE,
    KeptMessage,
    PublishingOptions,
    cannot_connect,
    engine_to,
    lost,
    refused,
)
from .redis_engine import RedisEngine
from .sentinel import find_master

if TYPE_CHECKING:
    import socket

__all__ = ["EngineConnection"]

#: Bytes that wait for the engine; above it a message is refused.
_OUTPUT_LIMIT = 8 * 2**20
_clock = time.monotonic


class EngineConnection(AbortableProtocol):
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

"""The engine of an address: how it is spoken to, and how it is reached."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..loop.reactor import Reactor
from .attempt import Connect
from .engine import Engine
from .engine_address import EngineAddress
from .redis_engine import RedisEngine
from .sentinel import connect

if TYPE_CHECKING:
    from .broker import Broker
    from .nats_engine import NatsEngine
    from .thread_engine import SharedEngine, ThreadEngine

__all__ = [
    "EngineSetup",
    "connect_engine",
    "new_engine",
    "open_engine",
    "shared_setup",
]

#: Seconds to connect, with TLS.
_CONNECT_TIMEOUT = 5.0


class EngineSetup(NamedTuple):
    """An engine that is not connected yet, and what is needed with it."""

    engine: Engine | ThreadEngine
    #: Blocks for some seconds at most; not at all if there is a `broker`.
    connect: Connect
    #: For the log, without a password.
    name: str
    prefix: str
    secret: bytes | None
    #: Of `memory://`, in the same loop.
    broker: Broker | None = None
    #: Sends a command, see `RedisEngine.ask`; None where there is no Redis.
    ask: Callable[..., object] | None = None


def open_engine(
    address: EngineAddress, secret: bytes | None, reactor: Reactor
) -> EngineSetup:
    """Create the engine of an address; nothing is connected yet.

    Args:
        address: as parsed from the URL.
        secret: signs the messages, or None.
        reactor: drives the broker of `memory://`.
    """
    if address.scheme == "memory":
        return _open_memory(address, secret, reactor)
    name = address.client_name or f"simple_ws-{os.getpid()}"
    engine = new_engine(replace(address, client_name=name))

    def reach(cancelled: Callable[[], bool]) -> Any:
        return connect_engine(engine, address, _CONNECT_TIMEOUT, cancelled)

    plain = address.is_nats or address.scheme == "local"
    ask = engine.ask if isinstance(engine, RedisEngine) and not plain else None
    name = f"engine {address}"
    return EngineSetup(engine, reach, name, address.prefix, secret, ask=ask)


def shared_setup(shared: SharedEngine, reactor: Reactor) -> EngineSetup:
    """The end that one loop has of the engine of `worker_class="thread"`."""
    from .thread_engine import ThreadEngine  # only when needed

    engine = ThreadEngine(shared, reactor)
    return EngineSetup(engine, _no_connection, "engine of threads", "", None)


def _no_connection(cancelled: Callable[[], bool]) -> Any:
    raise AssertionError("it has no connection")


def new_engine(
    address: EngineAddress, *, publish_only: bool = False
) -> RedisEngine | NatsEngine:
    """The engine of a URL.

    Args:
        address: of Redis, Valkey, the broker or NATS.
        publish_only: it never subscribes to anything.
    """
    if not address.is_nats:
        return RedisEngine.from_address(address, publish_only=publish_only)
    from .nats_engine import NatsEngine  # only when needed

    return NatsEngine.from_address(address, publish_only=publish_only)


def connect_engine(
    engine: Engine,
    address: EngineAddress,
    timeout: float,
    cancelled: Callable[[], bool] = lambda: False,
) -> Any:
    """Connect to an engine; see `connect.connect`."""
    on_line = getattr(engine, "note_info", None) if not address.tls_first else None
    return connect(address, timeout, cancelled, on_line)


def _open_memory(
    address: EngineAddress, secret: bytes | None, reactor: Reactor
) -> EngineSetup:
    """The broker of `workers=N`, in this process and loop, and a connection to it."""
    from .broker import Broker  # only when needed

    password = secrets.token_hex(16)
    broker = Broker(reactor, None, password)
    engine = RedisEngine(password=password, prefix=address.prefix)
    name = f"engine {address}"
    return EngineSetup(
        engine, lambda cancelled: broker.connect(), name, address.prefix, secret, broker
    )

"""The engine of an address: how it is spoken to, and how it is reached."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..loop.reactor import Reactor
from .attempt import Connect
from .connect import connect
from .engine import Engine
from .redis_engine import RedisEngine
from .redis_url import EngineAddress

if TYPE_CHECKING:
    from .broker import Broker

__all__ = ["EngineSetup", "open_engine"]

#: Seconds to connect, with TLS.
_CONNECT_TIMEOUT = 5.0


class EngineSetup(NamedTuple):
    """An engine that is not connected yet, and what is needed with it."""

    engine: Engine
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
    engine = RedisEngine.from_address(replace(address, client_name=name))

    def reach(cancelled: Callable[[], bool]) -> Any:
        return connect(address, _CONNECT_TIMEOUT, cancelled)

    ask = None if address.scheme == "local" else engine.ask
    name = f"engine {address}"
    return EngineSetup(engine, reach, name, address.prefix, secret, ask=ask)


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

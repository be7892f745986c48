"""The engine of an address: how it is spoken to, and how it is reached."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from .attempt import Connect
from .connect import connect
from .engine import Engine
from .redis_engine import RedisEngine
from .redis_url import EngineAddress

__all__ = ["EngineSetup", "open_engine"]

#: Seconds to connect, with TLS.
_CONNECT_TIMEOUT = 5.0


class EngineSetup(NamedTuple):
    """An engine that is not connected yet, and what is needed with it."""

    engine: Engine
    #: Blocks for some seconds at most.
    connect: Connect
    #: For the log, without a password.
    name: str
    prefix: str
    secret: bytes | None


def open_engine(address: EngineAddress, secret: bytes | None) -> EngineSetup:
    """Create the engine of an address; nothing is connected yet.

    Args:
        address: as parsed from the URL.
        secret: signs the messages, or None.
    """
    name = address.client_name or f"simple_ws-{os.getpid()}"
    engine = RedisEngine.from_address(replace(address, client_name=name))

    def reach(cancelled: Callable[[], bool]) -> Any:
        return connect(address, _CONNECT_TIMEOUT, cancelled)

    return EngineSetup(engine, reach, f"engine {address}", address.prefix, secret)

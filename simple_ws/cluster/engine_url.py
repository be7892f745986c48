"""URLs of engines: which engine the scheme means.

`redis_url` reads those of Redis and Valkey, here is what is left.
"""

from __future__ import annotations

from dataclasses import replace

from . import redis_url
from .redis_url import EngineAddress

__all__ = ["check_history", "check_workers", "parse"]

_MEMORY = "memory://"


def parse(url: str) -> EngineAddress:
    """Read the URL of an engine.

    Args:
        url: of Redis or Valkey, see `redis_url.parse`; or `memory://`, with the option
            `prefix` at most.

    Raises:
        TypeError, ValueError: See `redis_url.parse`.
    """
    if not isinstance(url, str) or not url.lower().startswith(_MEMORY):
        return redis_url.parse(url)
    rest = url[len(_MEMORY) :]
    if rest.partition("?")[0]:
        raise ValueError(
            "memory:// is in this process and has no host; ?prefix= may follow"
        )
    address = redis_url.parse(f"unix:///memory{rest}")  # for its options
    made = EngineAddress("memory", prefix=address.prefix)
    if address != replace(made, scheme="unix", path="/memory"):
        raise ValueError("memory:// has no option but prefix")
    return made


def check_workers(address: EngineAddress, workers: int) -> None:
    """Refuse an engine that several workers cannot share.

    Raises:
        ValueError: It is `memory://`.
    """
    if address.scheme == "memory" and workers > 1:
        raise ValueError(
            "memory:// is an engine for one process: leave engine= out, and "
            f"workers={workers} are connected by a broker of their own"
        )


def check_history(url: str) -> None:
    """Refuse topics with history where the engine cannot have them.

    Raises:
        ValueError: It is NATS.
    """
    if parse(url).is_nats:
        raise ValueError(
            "NATS keeps no history of topics: use redis:// as the engine, or leave "
            "history out"
        )

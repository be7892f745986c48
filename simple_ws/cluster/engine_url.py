"""URLs of engines: which engine the scheme means.

`engine_address` reads those of Redis and Valkey, here is what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import engine_address
from .engine_address import EngineAddress

__all__ = ["check_history", "check_workers", "parse", "parse_all"]

_MEMORY = "memory://"


def parse(url: str) -> EngineAddress:
    """Read the URL of an engine.

    Args:
        url: of a server, see `engine_address.parse`; or `memory://`, with the option
            `prefix` at most.

    Raises:
        TypeError, ValueError: See `engine_address.parse`.
    """
    if not isinstance(url, str) or not url.lower().startswith(_MEMORY):
        return engine_address.parse(url)
    rest = url[len(_MEMORY) :]
    if rest.partition("?")[0]:
        raise ValueError(
            "memory:// is in this process and has no host; ?prefix= may follow"
        )
    address = engine_address.parse(f"unix:///memory{rest}")  # for its options
    made = EngineAddress("memory", prefix=address.prefix)
    if address != replace(made, scheme="unix", path="/memory"):
        raise ValueError("memory:// has no option but prefix")
    return made


def parse_all(urls: str | Sequence[str]) -> list[EngineAddress]:
    """Read the URL of an engine, or the URLs of several that share the topics.

    Raises:
        TypeError, ValueError: See `parse`; or there is none, one is there twice, they
            have different prefixes, or one of several is not Redis or Valkey. The text
            shows no password.
    """
    addresses = [parse(urls)] if isinstance(urls, str) else list(map(parse, urls))
    if not addresses:
        raise ValueError("a list of engines has one at least")
    if len({replace(each, username="", password="") for each in addresses}) < len(
        addresses
    ):
        raise ValueError("an engine stands in the list twice")
    if len({address.prefix for address in addresses}) > 1:
        raise ValueError("the engines of a list need the same prefix")
    if len(addresses) > 1 and any(
        each.is_nats or each.scheme == "memory" for each in addresses
    ):
        raise ValueError("several engines are Redis or Valkey, each of them")
    return addresses


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


def check_history(urls: str | Sequence[str]) -> None:
    """Refuse topics with history where the engine cannot have them.

    Raises:
        ValueError: It is NATS.
    """
    if any(address.is_nats for address in parse_all(urls)):
        raise ValueError(
            "NATS keeps no history of topics: use redis:// as the engine, or leave "
            "history out"
        )

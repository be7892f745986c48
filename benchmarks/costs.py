"""What was measured, in microseconds of CPU: the constants of `simulate.py`.

Each names its source. They are of one machine (two shared cores, 2.5 GHz, CPython 3.11,
the extension, Redis 7.0), for messages of 128 to 200 bytes, and good to about a third.
"""

from __future__ import annotations

import argparse
from dataclasses import Field, dataclass, field, fields
from typing import Any

__all__ = ["Costs", "add_options", "given"]

MICRO = 1e-6


def _cost(default: float, what: str) -> Any:
    return field(default=default, metadata={"what": what})


@dataclass(frozen=True)
class Costs:
    """Microseconds of a core."""

    # Of a node's loop.
    handshake: float = _cost(30, "a handshake (run.py, docs/performance.md)")
    join: float = _cost(15, "a client joins a topic that is in step (history.py)")
    replay: float = _cost(3, "a message that it had missed (history.py)")
    receive: float = _cost(12, "a message through Redis, to one client (engines.py)")
    fan_out: float = _cost(4, "each further client of it (run.py, broadcast)")
    publish_here: float = _cost(10, "a client's message is read and published (run.py)")
    subscribed: float = _cost(4.7, "a topic subscribed again (resubscription.py)")
    page: float = _cost(100, "a history read: at the node (reads.py)")
    page_message: float = _cost(16, "a message of it: at the node (reads.py)")

    # Of the engine's core: many commands in one read and one write, ...
    publish: float = _cost(0.8, "PUBLISH, many at once (broker.py)")
    delivery: float = _cost(0.45, "each connection that gets it, many at once")
    # ... or with a system call for each command and each delivery, over TCP.
    publish_alone: float = _cost(30, "PUBLISH, one by one on TCP")
    delivery_alone: float = _cost(5, "each connection that gets it, one by one on TCP")
    subscribe: float = _cost(2.5, "SUBSCRIBE, a channel in batches of 512")
    script: float = _cost(15, "a message is stored and published (a script)")
    read: float = _cost(25, "a history read: at Redis (reads.py)")
    read_message: float = _cost(6.5, "a message of it: at Redis (reads.py)")
    greeting: float = _cost(100, "a new connection: HELLO, scripts, a probe (assumed)")
    cut: float = _cost(1, "each channel of a connection that was lost")


def _option(each: Field[Any]) -> str:
    return "--" + each.name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each cost."""
    group = parser.add_argument_group("costs, in microseconds of a core")
    for each in fields(Costs):
        group.add_argument(
            _option(each),
            type=float,
            default=each.default,
            metavar="US",
            help=f"{each.metadata['what']}; default: %(default)g",
        )


def given(options: argparse.Namespace) -> Costs:
    """The costs of a command line."""
    return Costs(**{each.name: getattr(options, each.name) for each in fields(Costs)})

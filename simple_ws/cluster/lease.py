"""`Lease`: which of all nodes makes the calls that one alone makes, `every(once=True)`.

It is a key of Redis with the holder's name, which expires unless the holder renews it.
A node that hears nothing from Redis for so long counts as no holder any more, by its
own clock and from before it asked: so two never are at once, unless Redis forgets the
key (an empty restart, a replica that did not have it yet).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ..text import excerpt
from .resp import ErrorReply

__all__ = ["Lease", "LeaseHost"]

logger = logging.getLogger("simple_ws")

#: Seconds until another node may take a lease that is not renewed, and between two
#: renewals: two may fail.
TTL, _RENEW = 15.0, 5.0
#: Seconds between two looks whether this node wants it.
_LOOK = 1.0
#: Seconds that clocks may differ by in one lease.
_MARGIN = 0.5

#: Errors that say that we may not, or cannot; others are the server's state.
_DENIED = ("NOPERM", "ERR")

#: KEYS: of the lease. ARGV: who asks, milliseconds.
_SCRIPT = b"""\
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class LeaseHost(Protocol):
    """What a lease needs of its node."""

    def clock(self) -> float:
        """Seconds that never run backwards."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """Call it in so many seconds."""

    def wants_lease(self) -> bool:
        """Whether there are such calls, and this process would make them."""

    def ask_engine(
        self, answer: Callable[[Any], object], command: tuple[bytes, ...]
    ) -> bool:
        """Send a command to Redis; False if it is not there."""


class Lease:
    """The lease of one cluster, as one process sees it.

    Args:
        host: the node.
        prefix: of the application.
        owner: the same in all workers of a supervisor, who take over from each other at
            once.
    """

    def __init__(self, host: LeaseHost, prefix: str, owner: str) -> None:
        self._host = host
        self._key = f"{prefix}.once".encode()
        self._owner = owner.encode()
        self._until = 0.0  # held so long
        self._next = 0.0  # when to ask again
        self._denied = False  # we lack the rights
        self._running = False

    @property
    def is_held(self) -> bool:
        """Whether this process makes the calls; true if it must not know."""
        return self._denied or self._host.clock() < self._until

    def begin(self) -> None:
        """The engine is up."""
        self._next, self._denied = 0.0, False
        if not self._running:
            self._running = True
            self._look()

    def end(self) -> None:
        """The server stops."""
        self._running = False

    def _look(self) -> None:
        if not self._running:
            return
        now = self._host.clock()
        if now >= self._next and self._host.wants_lease():
            self._next = now + _RENEW
            self._ask(now)
        self._host.call_later(_LOOK, self._look)

    def _ask(self, now: float) -> None:
        def answer(reply: Any) -> None:
            if isinstance(reply, ErrorReply):
                self._note_refusal(reply)
            elif reply == 1:
                self._until = now + TTL - _MARGIN

        ttl = b"%d" % (TTL * 1000)
        command = (b"EVAL", _SCRIPT, b"1", self._key, self._owner, ttl)
        self._host.ask_engine(answer, command)

    def _note_refusal(self, error: ErrorReply) -> None:
        """Such as a user without the rights, from before there was a lease."""
        if error.code in _DENIED and not self._denied:
            self._denied = True
            logger.warning(
                "every(once=True) is called on each machine: the engine grants no "
                "lease (see docs/cluster.md for the rights): %s",
                excerpt(error.text),
            )

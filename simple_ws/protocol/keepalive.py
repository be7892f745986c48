"""Keep-alive: when to ping a silent peer, when to give it up, what a pong answers.

RFC 6455 §5.5.2 and §5.5.3, for servers and clients. Reading a clock, sending and
closing are left to the caller (`connection.keepalive`, `client.core`), and so is
keeping the moments: a server holds them for 50,000 connections.
"""

from __future__ import annotations

import itertools
from enum import Enum, auto

__all__ = ["Action", "Pings", "beat_payload", "next_action", "next_look", "no_answer"]

_beats = itertools.count(1)


class Action(Enum):
    """What there is to do for one connection."""

    WAIT = auto()
    PING = auto()
    GIVE_UP = auto()


def next_action(
    now: float,
    last_received: float,
    pinged_at: float | None,
    interval: float | None,
    timeout: float | None,
) -> tuple[Action, float | None]:
    """Judge a peer by when it was last heard.

    Args:
        now: seconds by the caller's clock, likewise the next two.
        last_received: when bytes last came.
        pinged_at: when the ping was sent that has not been answered yet, or None.
        interval: seconds of silence after which to ping; None never pings.
        timeout: seconds for an answer; None waits for ever.

    Returns:
        What to do, and `pinged_at` from now on.
    """
    if pinged_at is not None and last_received >= pinged_at:
        pinged_at = None  # any byte is a sign of life
    if pinged_at is None:
        if interval is not None and now - last_received >= interval:
            return Action.PING, now
    elif timeout is not None and now - pinged_at >= timeout:
        return Action.GIVE_UP, pinged_at
    return Action.WAIT, pinged_at


def next_look(
    last_received: float,
    pinged_at: float | None,
    interval: float | None,
    timeout: float | None,
) -> float | None:
    """When `next_action` has something to do, unless bytes come first; None: never."""
    if pinged_at is None or last_received >= pinged_at:
        return None if interval is None else last_received + interval
    return None if timeout is None else pinged_at + timeout


def beat_payload() -> bytes:
    """A ping's payload that no other ping of this process has.

    An empty one is like every other: its pong could answer any of them.
    """
    return b"%x" % next(_beats)


def no_answer(timeout: float) -> str:
    """The close reason of a peer that was given up."""
    return f"no answer to a ping within ping_timeout {timeout:g} s"


class Pings(dict[bytes, float]):
    """Pings without an answer, the earliest first: when each payload was sent.

    A dict itself: one more object for each connection that was pinged costs memory.
    """

    __slots__ = ()

    def note(self, payload: bytes, now: float, most: int | None = None) -> None:
        """A ping is sent; of more than `most` the earliest is forgotten."""
        self.pop(payload, None)
        if len(self) == most:
            del self[next(iter(self))]
        self[payload] = now

    def answer(self, payload: bytes, now: float) -> list[tuple[bytes, float]]:
        """A pong came; return what it answers, each with its latency in seconds.

        It answers the pings before its own as well (§5.5.3: an endpoint may answer
        only "the most recently processed Ping"). An unsolicited one answers none.
        """
        answered: list[tuple[bytes, float]] = []
        if payload in self:
            for earlier in list(self):
                answered.append((earlier, now - self.pop(earlier)))
                if earlier == payload:
                    break
        return answered

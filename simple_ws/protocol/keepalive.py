"""Keepalive: when to ping a silent peer, when to give up, which pings a pong answers.

RFC 6455 §5.5.2 and §5.5.3, for servers and clients. Reading a clock, sending and
closing are left to the caller (`connection.keepalive`, `client.core`), and so is
storing the times: a server stores them for 50,000 connections.
"""

from __future__ import annotations

import itertools
from enum import Enum, auto

__all__ = ["Action", "Pings", "beat_payload", "next_action", "next_look", "no_answer"]

_beats = itertools.count(1)


class Action(Enum):
    """What to do for one connection."""

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
    """Judge a peer by the time of its last bytes.

    Args:
        now: seconds by the caller's clock, like the next two.
        last_received: when bytes were last received.
        pinged_at: when the unanswered ping was sent, or None.
        interval: seconds of silence before a ping; None never pings.
        timeout: seconds to wait for an answer; None waits for ever.

    Returns:
        What to do, and the new value of `pinged_at`.
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
    """When `next_action` is due if no bytes are received; None for never."""
    if pinged_at is None or last_received >= pinged_at:
        return None if interval is None else last_received + interval
    return None if timeout is None else pinged_at + timeout


def beat_payload() -> bytes:
    """A ping payload that is unique in this process.

    With an empty one a pong could not be matched to its ping.
    """
    return b"%x" % next(_beats)


def no_answer(timeout: float) -> str:
    """The close reason for a peer that did not answer."""
    return f"no answer to a ping within ping_timeout {timeout:g} s"


class Pings(dict[bytes, float]):
    """Unanswered pings, the earliest first: payloads, and when each was sent.

    A dict itself: another object for each pinged connection would cost memory.
    """

    __slots__ = ()

    def note(self, payload: bytes, now: float, most: int | None = None) -> None:
        """Note a ping that is sent; beyond `most` pings the earliest is dropped."""
        self.pop(payload, None)
        if len(self) == most:
            del self[next(iter(self))]
        self[payload] = now

    def answer(self, payload: bytes, now: float) -> list[tuple[bytes, float]]:
        """Return the pings that a pong answers, each with its latency in seconds.

        It answers earlier pings as well (§5.5.3: an endpoint may answer only "the most
        recently processed Ping"). An unsolicited pong answers none.
        """
        answered: list[tuple[bytes, float]] = []
        if payload in self:
            for earlier in list(self):
                answered.append((earlier, now - self.pop(earlier)))
                if earlier == payload:
                    break
        return answered

"""What is special about topics: `Server.topic`, and which rule a topic has."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from ..checks import flag, optional, seconds, whole
from ..loop.deferred import check_callback, check_not_deferred
from .history import Retention

__all__ = ["TopicRule", "TopicRules", "check_key", "checked_rule"]

#: Characters of the key of a message.
_MAX_KEY = 256
#: Bytes that a message in a history costs at least.
_ENTRY = 64


class TopicRule(NamedTuple):
    """What is special about the topics of a pattern; see `Server.topic`.

    Attributes:
        pattern: a topic, or the beginning of topics and "*".
        history: messages that are kept of each topic.
        keep: seconds for which each is kept; None: no limit.
        presence: who is subscribed is known.
        latest: a slow client gets the newest message, of each key if it is a function.
        max_subscribers: of one topic in one process; None: no limit.
    """

    pattern: str
    history: int = 0
    keep: float | None = None
    presence: bool = False
    latest: bool | Callable[[Any], Hashable] = False
    max_subscribers: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether nodes must agree on it."""
        return self.history > 0 or self.presence

    @property
    def retention(self) -> Retention:
        """How much of a topic is kept."""
        return Retention(self.history, self.keep)


def checked_rule(
    pattern: Any,
    *,
    history: Any,
    keep: Any,
    presence: Any,
    latest: Any,
    max_subscribers: Any,
    max_buffered: int,
) -> TopicRule:
    """Make a rule of what a user gave; a history larger than `max_buffered` is refused.

    Raises:
        TypeError, ValueError: A value is not allowed; the text says which, and why.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str, not {pattern!r}")
    history = whole(0, "messages")("history", history)
    if history * _ENTRY > max_buffered:
        raise ValueError(
            f"history must be at most {max_buffered // _ENTRY:,} messages, since "
            f"max_buffered is {max_buffered:,} bytes, not {history!r}"
        )
    keep = optional(seconds)("keep", keep)
    if keep is not None and not history:
        raise ValueError("keep is for topics with history: history must be 1 or more")
    return TopicRule(
        pattern,
        history,
        keep,
        flag("presence", presence),
        _checked_latest(latest),
        optional(whole(1, "subscribers"))("max_subscribers", max_subscribers),
    )


def _checked_latest(latest: Any) -> bool | Callable[[Any], Hashable]:
    if isinstance(latest, bool):
        return latest
    check_callback("latest, unless it is True or False,", latest, ("msg",))
    check_not_deferred("latest", latest)
    return latest  # type: ignore[no-any-return]


def check_key(key: object, topic: str, kept: bool) -> None:
    """Check the key of a message, which is not None.

    Raises:
        TypeError: It is not a str.
        ValueError: The topic has no history, or it is empty or too long.
    """
    if not isinstance(key, str):
        raise TypeError(f"key must be a str or None, not {key!r}")
    if not kept:
        raise ValueError(f"key is for topics with history, and {topic!r} has none")
    if not 0 < len(key) <= _MAX_KEY:
        raise ValueError(f"key must have 1 to {_MAX_KEY} characters, not {len(key):,}")


class TopicRules:
    """Rules by their pattern; the most specific one holds: the topic itself, then the
    longest beginning. False without any."""

    def __init__(self, rules: Iterable[TopicRule] = ()) -> None:
        self._exact: dict[str, TopicRule] = {}
        # The longest first.
        self._beginnings: list[tuple[str, TopicRule]] = []
        for rule in rules:
            self.add(rule)

    def __bool__(self) -> bool:
        return bool(self._exact or self._beginnings)

    def __iter__(self) -> Iterator[TopicRule]:
        yield from self._exact.values()
        for _, rule in self._beginnings:
            yield rule

    def add(self, rule: TopicRule) -> None:
        """Add a rule.

        Raises:
            ValueError: The pattern is malformed, or has a rule.
        """
        pattern = rule.pattern
        if not pattern or "*" in pattern[:-1]:
            raise ValueError(
                f"pattern must be a topic, or end with its only '*', not {pattern!r}"
            )
        if any(known.pattern == pattern for known in self):
            raise ValueError(f"the pattern {pattern!r} has a rule already")
        if pattern.endswith("*"):
            self._beginnings.append((pattern[:-1], rule))
            self._beginnings.sort(key=lambda each: -len(each[0]))
        else:
            self._exact[pattern] = rule

    def digest(self) -> str:
        """The same on nodes whose clients get the same, whatever else is special about
        topics there; empty if no topic has a history or presence."""
        shared = sorted(
            (rule.pattern, rule.history, rule.keep, rule.presence)
            for rule in self
            if rule.is_shared or self._is_exception(rule)
        )
        return f"{zlib.crc32(repr(shared).encode(errors='replace')):08x}" * bool(shared)

    def _is_exception(self, rule: TopicRule) -> bool:
        pattern = rule.pattern
        return any(
            known.is_shared and known is not rule and pattern.startswith(beginning)
            for beginning, known in self._beginnings
        )

    def find(self, topic: str) -> TopicRule | None:
        """The rule of a topic, or None."""
        rule = self._exact.get(topic)
        if rule is None:
            for beginning, known in self._beginnings:
                if topic.startswith(beginning):
                    return known
        return rule

"""Which topics have a history, as servers tell it to programs that are no nodes.

A server leaves its rules in the engine whenever it connects, in the key `PREFIX.rules`;
a publisher reads them there, and again from time to time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from .history import Retention
from .resp import ErrorReply
from .topic_rules import TopicRule, TopicRules

__all__ = ["AnnouncedRules", "encode_rules", "rules_key"]

logger = logging.getLogger("simple_ws")

#: Seconds for which a publisher trusts what it has read, and that there is nothing: the
#: servers may be starting.
_FRESH, _FRESH_NOTHING = 30.0, 1.0


def rules_key(prefix: str) -> bytes:
    """The key that holds the rules of an application."""
    return f"{prefix}.rules".encode()


def encode_rules(rules: Iterable[TopicRule]) -> bytes:
    """What is left in the engine; nothing if no topic has a history.

    A rule without history may be the exception of one with it.
    """
    found = {rule.pattern: rule.retention for rule in rules}
    if not any(retention.size for retention in found.values()):
        return b""
    return json.dumps(found, separators=(",", ":")).encode()


class AnnouncedRules:
    """What one publisher knows of them."""

    def __init__(self) -> None:
        self._rules = TopicRules()
        self._read: float | None = None
        self._warned = False

    def is_fresh(self, now: float) -> bool:
        """Whether they were read lately."""
        fresh = _FRESH if self._rules else _FRESH_NOTHING
        return self._read is not None and now - self._read < fresh

    def take(self, reply: Any, now: float) -> None:
        """Note what the engine has.

        If it has none, those that are known stay: an engine that has lost its memory
        gets them again from the servers.

        Args:
            reply: to GET; it may be an `ErrorReply`.
            now: seconds.
        """
        self._read = now
        try:
            if isinstance(reply, ErrorReply):
                raise ValueError(reply.text)
            if reply is not None:
                self._rules = _decode(reply)
        except (ValueError, TypeError, RecursionError) as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "a publisher cannot read which topics have a history, and takes "
                    "none for one: %s",
                    error,
                )

    def find(self, topic: str) -> Retention | None:
        """How much of a topic is kept; None: it has no history."""
        rule = self._rules.find(topic)
        return rule.retention if rule is not None and rule.history else None


def _decode(data: bytes) -> TopicRules:
    """Read what `encode_rules` has written; ValueError, TypeError: it is malformed."""
    rules = TopicRules()
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} in place of a dict")
    for pattern, (size, keep) in found.items():
        if type(size) is not int or size < 0:
            raise ValueError(f"{size!r} messages")
        rules.add(TopicRule(pattern, size, None if keep is None else float(keep)))
    return rules

"""Conflation: which messages of topics with `latest` replace each other as they wait.

A message is about a subject: its topic, and its key if `latest` is a function. The byte
path compares slots, which are objects without a meaning, by their identity; so no code
of users runs there. What happens in the outboxes is left to `speedups`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from weakref import ref

from ..cluster.content import bare
from ..cluster.topic_rules import TopicRule

__all__ = ["Slot", "Slots", "Subject", "subject_of"]

#: A topic, and a key or None.
Subject = tuple[str, Hashable]

#: Slots that are kept without looking whether anything of them waits.
_FEW = 64


def subject_of(rule: TopicRule | None, topic: str, msg: Any) -> Subject | None:
    """What a message is about; None if its topic is without `latest`.

    Args:
        rule: of the topic.
        topic: its name.
        msg: as published.

    Raises:
        TypeError: The key is not hashable.
        Exception: What the function of the user's raises.
    """
    if rule is None or not rule.latest:
        return None
    if rule.latest is True:
        return topic, None
    key = rule.latest(bare(msg))
    try:
        hash(key)
    except TypeError:
        raise TypeError(
            f"latest of {rule.pattern!r} must return a hashable key, not {key!r}"
        ) from None
    return topic, key


class Slot:
    """Stands for a subject as long as messages of it wait."""

    __slots__ = ("__weakref__",)


class Slots:
    """The slots of a server, by subject; for the loop's thread."""

    def __init__(self) -> None:
        # References without a callback: a slot may end where no code may run.
        self._slots: dict[Subject, ref[Slot]] = {}
        self._most = _FEW

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, subject: Subject) -> Slot:
        """The slot of a subject."""
        known = self._slots.get(subject)
        slot = None if known is None else known()
        if slot is None:
            if len(self._slots) >= self._most:
                self._sweep()
            slot = Slot()
            self._slots[subject] = ref(slot)
        return slot

    def _sweep(self) -> None:
        """Forget the subjects of which nothing waits."""
        living = {key: known for key, known in self._slots.items() if known()}
        self._slots = living
        self._most = max(_FEW, 2 * len(living))

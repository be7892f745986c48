"""Checks of what users give to a client."""

from __future__ import annotations

import uuid
from typing import Any

from .codec import Position

__all__ = ["check_topic", "position_of", "publish_params"]


def check_topic(topic: object) -> None:
    """Refuse what is no topic with TypeError or ValueError."""
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")
    if not topic:
        raise ValueError("topic must not be empty")


def publish_params(topic: str, data: Any, key: str | None) -> dict[str, Any]:
    """What `publish` asks for."""
    check_topic(topic)
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key must be a str or None, not {key!r}")
    return {"channel": topic, "data": data, "key": key or uuid.uuid4().hex}


def position_of(since: Position | tuple[str, int] | None) -> Position | None:
    """A position that the user has given."""
    if since is None:
        return None
    try:
        position = Position(*since)
        valid = isinstance(position.epoch, str) and type(position.offset) is int
    except TypeError:
        valid = False
    if not valid or position.offset < 0:
        raise ValueError(f"since must be a Position or (epoch, offset), not {since!r}")
    return position

"""Values of a Centrifugo configuration: each function reads one kind.

A value may be text that says the same, as in the environment. What is none raises
ValueError, with what is allowed; who asked adds the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["Read", "boolean", "choice", "duration", "text", "whole", "words"]

#: Reads a value, or raises ValueError with what is allowed.
Read = Callable[[Any], Any]

#: As Go reads them (strconv.ParseBool).
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
#: Likewise (time.ParseDuration).
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(f"(?:{_PART.pattern})+")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def boolean(value: Any) -> bool:
    """A boolean."""
    if isinstance(value, str):
        value = _BOOLEANS.get(value)
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def whole(least: int, most: int = 2**31 - 1) -> Read:
    """A whole number in a range."""

    def read(value: Any) -> int:
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return value

    return read


def duration(value: Any) -> float:
    """A time, in seconds."""
    if value in ("0", 0) and value is not False:
        return 0.0
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError('a duration such as "300s" or "1h30m"')
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def words(value: Any) -> tuple[str, ...]:
    """A list of strings; as text with spaces between them."""
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("a list of strings")
    return tuple(value)


def choice(*names: str) -> Read:
    """One of some strings."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(", ".join(names[:-1]) + f" or {names[-1]}")
        return value

    return read

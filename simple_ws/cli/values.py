"""Valid values of command-line arguments, and errors for invalid ones."""

from __future__ import annotations

import argparse

from ..protocol.uri import parse_uri

__all__ = [
    "Failure",
    "UsageError",
    "count",
    "port",
    "seconds",
    "some_seconds",
    "url",
    "whole",
]

_LONGEST = 3600


class UsageError(Exception):
    """The arguments are well-formed, but wrong; the message says what and why."""


class Failure(Exception):
    """The command failed; the message says how."""


def url(text: str) -> str:
    """The address of a server."""
    try:
        parse_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def port(text: str) -> int:
    """A port, or 0."""
    if not text.isdecimal() or int(_significant(text)) > 65535:
        raise argparse.ArgumentTypeError(f"a port is from 0 to 65535, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal() or int(_significant(text)) >= 10**9:
        raise argparse.ArgumentTypeError(f"a whole number, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not 1 <= int(_significant(text)) < 10**9:
        raise argparse.ArgumentTypeError(f"a number, at least 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time greater than 0."""
    number = _number(text)
    if not 0 < number <= _LONGEST:
        wanted = f"more than 0 seconds, at most {_LONGEST}"
        raise argparse.ArgumentTypeError(f"{wanted}, not {text!r}")
    return number


def some_seconds(text: str) -> float:
    """A time of 0 or more."""
    return 0.0 if _number(text) == 0 else seconds(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _significant(digits: str) -> str:
    """Enough of a whole number to show that it is too large."""
    return digits.lstrip("0")[:10] or "0"

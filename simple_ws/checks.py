"""Checks of values given by users: options and arguments.

Each takes a name and a value. It returns the value in its internal form, or raises
TypeError or ValueError with the name, the value and what is allowed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .constants import LARGEST, TOKEN
from .deflate import Deflate

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = [
    "Check",
    "compression",
    "duration",
    "flag",
    "one_of",
    "optional",
    "path",
    "rate",
    "seconds",
    "secret",
    "several",
    "ssl_context",
    "subprotocols",
    "whole",
]

#: Checks a value that was given under a name.
Check = Callable[[str, Any], Any]


def flag(name: str, value: Any) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def seconds(name: str, value: Any) -> float:
    """Check a time greater than 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:,} seconds, not {value!r}")
    return float(value)


def secret(name: str, value: Any) -> bytes:
    """Check a key that signs; errors do not show it, since they stand in logs."""
    if not isinstance(value, str | bytes):
        raise TypeError(f"{name} must be str or bytes, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    return value.encode() if isinstance(value, str) else bytes(value)


def duration(name: str, value: Any, least: float = 0.0) -> float:
    """Check a time that may be 0: a time to wait, or between two calls.

    Args:
        name: of the argument.
        value: as given.
        least: smallest allowed value, in seconds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= least:
        raise ValueError(f"{name} must be {least:g} seconds or more, not {value!r}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:,} seconds, not {value!r}")
    return float(value)


def whole(least: int, unit: str) -> Callable[[str, Any], int]:
    """A check for a whole number of some unit, at least `least`."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number of {unit}, not {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least:,} {unit}, not {value!r}")
        if value > LARGEST:
            raise ValueError(
                f"{name} must be at most {LARGEST:,} {unit}, not {value!r}"
            )
        return value

    return check


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """A check that also accepts None."""

    def or_none(name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(name, value)
        except (TypeError, ValueError) as error:
            text = str(error).replace(", not ", " or None, not ", 1)
            raise type(error)(text) from None

    return or_none


def rate(name: str, value: Any) -> tuple[float, float]:
    """Check (number a second, burst)."""
    wanted = f"{name} must be (number a second, burst)"
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{wanted}, not {value!r}")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{wanted}, not {value!r}")
    number, burst = value
    if not 0 < number <= LARGEST or not 1 <= burst <= LARGEST:
        raise ValueError(
            f"{wanted}, more than 0 a second and a burst of at least 1, "
            f"both at most {LARGEST:,}, not {value!r}"
        )
    return float(number), float(burst)


def one_of(*allowed: str) -> Callable[[str, Any], str]:
    """A check for one of a few strings."""

    def check(name: str, value: Any) -> str:
        if value not in allowed:
            choice = ", ".join(map(repr, allowed))
            raise ValueError(f"{name} must be one of {choice}, not {value!r}")
        return str(value)

    return check


def several(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """Check a list of values; a string is not a list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {what}, not {value!r}")
    return tuple(value)


def path(name: str, value: Any) -> str:
    """Check the path of a file."""
    try:
        decoded = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {value!r}") from None
    if not decoded or "\0" in decoded:
        raise ValueError(f"{name} must be a path, not {value!r}")
    return decoded


def ssl_context(name: str, value: Any) -> SSLContext:
    """Check the TLS context of a server."""
    import ssl  # only when needed: some builds of Python lack it

    if not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext, not {value!r}")
    # Some versions of Python refuse such a context at each connection, with various
    # errors, and others do not: CVE-2026-19553.
    if value.protocol is ssl.PROTOCOL_TLS_CLIENT:
        why = "PROTOCOL_TLS_CLIENT"
    elif value.check_hostname:
        why = "check_hostname is on"
    else:
        return value
    raise ValueError(
        f"{name} must be a context for servers, such as "
        "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH); "
        f"this one is for clients ({why})"
    )


def compression(name: str, value: Any) -> Deflate | None:
    """Check the compression to accept or offer: True is the default, False none."""
    if value is None or value is False:
        return None
    if value is True:
        return Deflate()
    if not isinstance(value, Deflate):
        raise TypeError(f"{name} must be True, False or a Deflate(...), not {value!r}")
    return value


def subprotocols(name: str, value: Any) -> tuple[str, ...]:
    """Check names of subprotocols (RFC 6455 §4.1)."""
    names = several(name, value, "names")
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"{name} must hold strings, not {item!r}")
        if not re.fullmatch(TOKEN, item):
            raise ValueError(f"{name} must hold tokens of RFC 6455 §4.1, not {item!r}")
    return names

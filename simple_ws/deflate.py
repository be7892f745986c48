"""permessage-deflate: what is offered, what is agreed (RFC 7692 §5 and §7.1).

`Deflate` is what a user configures, `Agreement` what was negotiated with one peer.
The compression itself is done by the codecs, message by message, in `protocol`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Agreement", "Deflate", "negotiate", "parse_extensions"]

EXTENSION = "permessage-deflate"

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PART = re.compile(
    rf"[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*({_TOKEN}|{_QUOTED})[ \t]*)?(?:;|$)"
)
#: Splits at commas that are not inside a quoted string.
_ELEMENT = re.compile(rf"(?:{_QUOTED}|[^,])+")
#: RFC 7692 §7.1.2.1: "a decimal integer value without leading zeroes between 8 and 15".
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")

Parameters = list[tuple[str, str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How messages are compressed; the value of the option `compression`.

    Args:
        server_no_context_takeover: compress each message on its own; saves the memory
            of a window for each client and costs compression (RFC 7692 §7.1.1.1).
        client_no_context_takeover: ask the client for the same (§7.1.1.2).
        server_max_window_bits: largest window for what we send, 8 to 15 (§7.1.2.1).
        client_max_window_bits: largest window for what the client sends, 8 to 15;
            clients that cannot be told use 15 (§7.1.2.2).
        level: 0 to 9; speed against size.
        mem_level: 1 to 9; zlib takes 2 ** (mem_level + 9) bytes for each client that
            was sent a compressed message, and 2 ** (window bits + 2) for the window.
        threshold: bytes; shorter messages are sent plain (§6 allows it).

    Raises:
        ValueError, TypeError: A value is out of its range.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    level: int = 6
    mem_level: int = 5
    threshold: int = 64

    def __post_init__(self) -> None:
        for name in ("server_no_context_takeover", "client_no_context_takeover"):
            if not isinstance(getattr(self, name), bool):
                value = getattr(self, name)
                raise TypeError(f"Deflate: {name} must be True or False, not {value!r}")
        for name, low, high in (
            ("server_max_window_bits", 8, 15),
            ("client_max_window_bits", 8, 15),
            ("level", 0, 9),
            ("mem_level", 1, 9),
            ("threshold", 0, 2**63 - 1),
        ):
            _check_range(name, getattr(self, name), low, high)


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Deflate: {name} must be an int, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"Deflate: {name} must be from {low} to {high}, not {value}")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was negotiated with one peer, as seen from our side.

    Attributes:
        send_takeover: we may refer back to earlier messages.
        receive_takeover: the peer may.
        send_window_bits: our window, 8 to 15.
        receive_window_bits: the peer's largest window.
        level, mem_level, threshold: as in `Deflate`.
    """

    send_takeover: bool
    receive_takeover: bool
    send_window_bits: int
    receive_window_bits: int
    level: int
    mem_level: int
    threshold: int


def parse_extensions(lines: Iterable[str]) -> Iterator[tuple[str, Parameters]]:
    """Read `Sec-WebSocket-Extensions` (RFC 6455 §9.1), one element after the other.

    An element that does not follow the grammar is left out: its offer is declined.
    """
    for line in lines:
        for element in _ELEMENT.findall(line):
            parts = _parse_element(element)
            if parts:
                yield parts[0][0].lower(), parts[1:]


def _parse_element(element: str) -> Parameters:
    parts: Parameters = []
    pos = 0
    while pos < len(element):
        match = _PART.match(element, pos)
        if match is None:
            return []
        name, value = match.groups()
        if value is not None and value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parts.append((name, value))
        pos = match.end()
    if not parts or parts[0][1] is not None or element.rstrip().endswith(";"):
        return []
    return parts


def negotiate(
    offers: Iterable[tuple[str, Parameters]], config: Deflate
) -> tuple[str, Agreement] | None:
    """Accept the first offer of permessage-deflate that can be met (RFC 7692 §5.1).

    Returns:
        The element for the response's `Sec-WebSocket-Extensions`, and what it means;
        None when every offer is declined.
    """
    for name, parameters in offers:
        if name == EXTENSION:
            asked = _read_offer(parameters)
            if asked is not None:
                return _accept(asked, config)
    return None


def _read_offer(parameters: Parameters) -> dict[str, int | bool] | None:
    """The offer's parameters, or None to decline it (RFC 7692 §7.1)."""
    asked: dict[str, int | bool] = {}
    for name, value in parameters:
        # §7.1: decline "multiple extension parameters with the same name".
        if name in asked:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            asked[name] = True
        elif name == "client_max_window_bits" and value is None:
            asked[name] = 15
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is None or not _WINDOW_BITS.fullmatch(value):
                return None
            asked[name] = int(value)
        else:
            return None
    return asked


def _accept(asked: dict[str, int | bool], config: Deflate) -> tuple[str, Agreement]:
    send_fresh = config.server_no_context_takeover or bool(
        asked.get("server_no_context_takeover")
    )
    # §7.1.1.2: a server may ask for this whether or not the client offered it.
    receive_fresh = config.client_no_context_takeover or bool(
        asked.get("client_no_context_takeover")
    )
    send_bits = min(
        int(asked.get("server_max_window_bits", 15)), config.server_max_window_bits
    )
    receive_bits = 15
    answer = [EXTENSION]
    if send_fresh:
        answer.append("server_no_context_takeover")
    if receive_fresh:
        answer.append("client_no_context_takeover")
    if send_bits < 15 or "server_max_window_bits" in asked:
        answer.append(f"server_max_window_bits={send_bits}")
    # §7.1.2.2: only "if the received extension negotiation offer includes" it.
    if "client_max_window_bits" in asked:
        receive_bits = min(
            int(asked["client_max_window_bits"]), config.client_max_window_bits
        )
        if receive_bits < 15:
            answer.append(f"client_max_window_bits={receive_bits}")
    agreement = Agreement(
        send_takeover=not send_fresh,
        receive_takeover=not receive_fresh,
        send_window_bits=send_bits,
        receive_window_bits=receive_bits,
        level=config.level,
        mem_level=config.mem_level,
        threshold=config.threshold,
    )
    return "; ".join(answer), agreement

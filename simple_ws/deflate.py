"""permessage-deflate: offers and agreements (RFC 7692 §5 and §7.1).

`Deflate` is what a user configures, `Agreement` what was negotiated with one peer.
Messages are compressed by the codecs (`speedups`), for `protocol.websocket`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, NoReturn

from .constants import MAX_EXTENSION_PARTS, TOKEN
from .errors import HandshakeError

__all__ = ["Agreement", "Deflate", "agree", "negotiate", "offer", "parse_extensions"]

EXTENSION = "permessage-deflate"

_QUOTED = r'"(?:[^"\\]|\\.)*"'
#: A name, with or without a value, and its end: `;` if another one follows.
_PART = re.compile(
    rf"[ \t]*({TOKEN})[ \t]*(?:=[ \t]*({TOKEN}|{_QUOTED})[ \t]*)?(;|,[ \t,]*|\Z)"
)
#: RFC 7692 §7.1.2.1: "a decimal integer value without leading zeroes between 8 and 15".
_WINDOW_BITS = re.compile(r"[89]|1[0-5]")

Parameters = list[tuple[str, str | None]]


#: The least and the largest value of the numbers among the parameters of `Deflate`.
_RANGES = {
    "server_max_window_bits": (8, 15),
    "client_max_window_bits": (8, 15),
    "level": (0, 9),
    "mem_level": (1, 9),
    "threshold": (0, 2**63 - 1),
}


class Deflate:
    """Parameters of compression; a value of the option `compression`.

    Args:
        server_no_context_takeover: compress each message separately; saves the memory
            of a window for each client, but compresses less (RFC 7692 §7.1.1.1).
        client_no_context_takeover: ask the client for the same (§7.1.1.2).
        server_max_window_bits: largest window for what we send, 8 to 15 (§7.1.2.1).
        client_max_window_bits: largest window for what the client sends, 8 to 15;
            clients that do not support it use 15 (§7.1.2.2).
        level: 0 to 9; trades speed for size.
        mem_level: 1 to 9; zlib takes 2 ** (mem_level + 9) bytes for each client that
            was sent a compressed message, and 2 ** (window bits + 2) for the window.
        threshold: in bytes; shorter messages are sent uncompressed (§6 allows it).

    Raises:
        ValueError, TypeError: A value is out of range.
    """

    # Not a dataclass, which would cost every program 10 ms at its start: with it come
    # `inspect`, `ast` and `dis`.
    __slots__ = ("server_no_context_takeover", "client_no_context_takeover", *_RANGES)

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int
    level: int
    mem_level: int
    threshold: int

    def __init__(
        self,
        *,
        server_no_context_takeover: bool = False,
        client_no_context_takeover: bool = False,
        server_max_window_bits: int = 12,
        client_max_window_bits: int = 12,
        level: int = 3,
        mem_level: int = 5,
        threshold: int = 64,
    ) -> None:
        for name, value in (
            ("server_no_context_takeover", server_no_context_takeover),
            ("client_no_context_takeover", client_no_context_takeover),
            ("server_max_window_bits", server_max_window_bits),
            ("client_max_window_bits", client_max_window_bits),
            ("level", level),
            ("mem_level", mem_level),
            ("threshold", threshold),
        ):
            _check(name, value)
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Deflate cannot be changed: {name}")

    def __replace__(self, **changes: Any) -> Deflate:
        """A copy with changes, which are checked (`copy.replace`, Python 3.13)."""
        return Deflate(**{**self._values(), **changes})

    def __reduce__(self) -> Any:
        return partial(Deflate, **self._values()), ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Deflate):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        values = (f"{name}={value!r}" for name, value in self._values().items())
        return f"Deflate({', '.join(values)})"

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def _check(name: str, value: object) -> None:
    if name not in _RANGES:
        if not isinstance(value, bool):
            raise TypeError(f"Deflate: {name} must be True or False, not {value!r}")
        return
    low, high = _RANGES[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Deflate: {name} must be an int, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"Deflate: {name} must be from {low} to {high}, not {value}")


class Agreement(NamedTuple):
    """The result of the negotiation with one peer, from our side.

    Attributes:
        send_takeover: we may refer to earlier messages.
        receive_takeover: the peer may do so.
        send_window_bits: our window, 8 to 15.
        receive_window_bits: the peer's largest window.
        level, mem_level, threshold: as in `Deflate`.
        splits: `max_frame_size` holds for compressed messages as well.
    """

    send_takeover: bool
    receive_takeover: bool
    send_window_bits: int
    receive_window_bits: int
    level: int
    mem_level: int
    threshold: int
    splits: bool = True


def parse_extensions(lines: Sequence[str]) -> list[tuple[str, Parameters]]:
    """Parse `Sec-WebSocket-Extensions` (RFC 6455 §9.1).

    Returns:
        The extensions of all lines: the name in lower case, and the parameters. An
        empty field has none, like a missing one: some clients and servers send it to
        say so (ADR 9).

    Raises:
        HandshakeError: 400. §9.1: "If a value is received [...] that does not conform
            to the ABNF below, the recipient of such malformed data MUST immediately
            _Fail the WebSocket Connection_." Or there are far too many.
    """
    if not any(lines):
        return []
    text = ",".join(lines).lstrip(" \t,")
    if text.count(",") + text.count(";") >= MAX_EXTENSION_PARTS:
        raise HandshakeError(
            400, f"More than {MAX_EXTENSION_PARTS} extensions and parameters."
        )
    found = []
    pos = 0
    while pos < len(text):
        parts, pos = _parse_element(text, pos)
        found.append((parts[0][0].lower(), parts[1:]))
    if not found:
        raise _malformed()
    return found


def _parse_element(text: str, pos: int) -> tuple[Parameters, int]:
    """The parts of the element that begins at `pos`, and the start of the next one."""
    parts: Parameters = []
    ended_by = ";"
    while ended_by == ";":
        match = _PART.match(text, pos)
        if match is None:
            raise _malformed()
        name, value, ended_by = match.groups()
        if value is not None and value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
            # §9.1: "the value after quoted-string unescaping MUST conform to the
            # 'token' ABNF".
            if not re.fullmatch(TOKEN, value):
                raise _malformed()
        parts.append((name, value))
        pos = match.end()
    if parts[0][1] is not None:
        raise _malformed()
    return parts, pos


def _malformed() -> HandshakeError:
    return HandshakeError(400, "The Sec-WebSocket-Extensions header is malformed.")


def _read_parameters(parameters: Parameters) -> dict[str, int | bool]:
    """Names and values of an offer or a response (RFC 7692 §7.1).

    Raises:
        ValueError: One is unknown, repeated, or has a wrong value.
    """
    found: dict[str, int | bool] = {}
    for name, value in parameters:
        # §7.1: "multiple extension parameters with the same name".
        if name in found:
            raise ValueError(f"{name} is repeated")
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                raise ValueError(f"{name}={value}")
            found[name] = True
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is None or not _WINDOW_BITS.fullmatch(value):
                raise ValueError(f"{name}={value}")
            found[name] = int(value)
        else:
            raise ValueError(f"{EXTENSION} has a parameter '{name}'")
    return found


# The server's side


def negotiate(
    offers: Iterable[tuple[str, Parameters]], config: Deflate
) -> tuple[str, Agreement] | None:
    """Accept the first offer of permessage-deflate that can be met (RFC 7692 §5.1).

    Returns:
        The element for the response's `Sec-WebSocket-Extensions`, and the agreement;
        None when every offer is declined.
    """
    for name, parameters in offers:
        if name == EXTENSION:
            asked = _read_offer(parameters)
            if asked is not None:
                return _accept(frozenset(asked.items()), config)
    return None


def _read_offer(parameters: Parameters) -> dict[str, int | bool] | None:
    """The offer's parameters, or None to decline it (RFC 7692 §7.1)."""
    # §7.1.2.2: in an offer it may have no value.
    given = [
        (name, "15" if value is None and name == "client_max_window_bits" else value)
        for name, value in parameters
    ]
    try:
        return _read_parameters(given)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _accept(
    offered: frozenset[tuple[str, int | bool]], config: Deflate
) -> tuple[str, Agreement]:
    """The response to an offer; clients with the same offer share one agreement."""
    asked = dict(offered)
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


# The client's side


def offer(config: Deflate) -> str:
    """A client's offer: the value of its Sec-WebSocket-Extensions."""
    parts = [EXTENSION]
    if config.server_no_context_takeover:
        parts.append("server_no_context_takeover")
    if config.client_no_context_takeover:
        parts.append("client_no_context_takeover")
    if config.server_max_window_bits < 15:
        parts.append(f"server_max_window_bits={config.server_max_window_bits}")
    # §7.1.2.2: without a value the server may choose.
    bits = config.client_max_window_bits
    parts.append("client_max_window_bits" + (f"={bits}" if bits < 15 else ""))
    return "; ".join(parts)


def agree(parameters: Parameters, config: Deflate) -> Agreement:
    """The agreement from the server's response to that offer.

    Raises:
        ValueError: It does not match the offer. RFC 7692 §7.1: a client "MUST _Fail the
            WebSocket Connection_" then.
    """
    answer = _read_parameters(parameters)
    asked_bits = config.server_max_window_bits
    server_bits = int(answer.get("server_max_window_bits", 15))
    # §7.1.1.1 and §7.1.2.1: a server that accepts an offer with these must say so.
    if config.server_no_context_takeover and "server_no_context_takeover" not in answer:
        raise ValueError("server_no_context_takeover is missing")
    if server_bits > asked_bits:
        raise ValueError(f"server_max_window_bits={server_bits}, asked {asked_bits}")
    client_bits = int(answer.get("client_max_window_bits", 15))
    # §7.1.2.2: "a value equal to or smaller than the received value".
    offered_bits = config.client_max_window_bits
    if "client_max_window_bits" in answer and client_bits > offered_bits:
        raise ValueError(
            f"client_max_window_bits={client_bits}, offered {offered_bits}"
        )
    return Agreement(
        # §7.1.1.2: a server may ask for this whether or not we offered it.
        send_takeover=not (
            config.client_no_context_takeover or "client_no_context_takeover" in answer
        ),
        receive_takeover="server_no_context_takeover" not in answer,
        send_window_bits=min(client_bits, offered_bits),
        receive_window_bits=server_bits,
        level=config.level,
        mem_level=config.mem_level,
        threshold=config.threshold,
    )

"""Values passed in by users: messages, close reasons, ping payloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Set
from json import encoder as json_encoder
from typing import Any, Final, NoReturn

from .constants import (
    MAX_CLOSE_REASON,
    MAX_CONTROL_PAYLOAD,
    Opcode,
    may_travel,
)

__all__ = [
    "check_close",
    "check_ping",
    "encode_json",
    "encode_message",
    "encode_piece",
    "is_in_pieces",
    "json_text",
]

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)

_compact = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode


def _refuse(value: object) -> NoReturn:
    """Raise what `JSONEncoder.default` raises."""
    name = type(value).__name__
    raise TypeError(f"Object of type {name} is not JSON serializable")


#: What `_compact` makes for each value anew, made once; it does not look for a value
#: that contains itself.
_make: Final = getattr(json_encoder, "c_make_encoder", None)
_chunks: Callable[[Any, int], Iterable[str]] | None = _make and _make(
    None,
    _refuse,
    json_encoder.encode_basestring,
    None,
    ":",
    ",",
    False,
    False,
    False,
)


def _text_of(value: object) -> str:
    if _chunks is None:
        return _compact(value)
    try:
        return "".join(_chunks(value, 0))
    except (RecursionError, ValueError):
        return _compact(value)  # raises what it is


_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_message(msg: object, binary: bool | None) -> tuple[int, bytes]:
    """Encode a message: its opcode and its bytes.

    Args:
        msg: str, bytes, bytearray, memoryview, or dict or list (sent as JSON text).
        binary: None lets the type decide; True and False force the frame's type.

    Raises:
        TypeError: Another type.
        ValueError: Text that is not valid Unicode, bytes sent as text that are not
            valid UTF-8, or a number that JSON cannot represent.
    """
    if binary is not None and not isinstance(binary, bool):
        raise TypeError(f"binary must be None, True or False, not {binary!r}")
    if isinstance(msg, dict | list):
        return (_BINARY if binary else _TEXT), encode_json(msg)
    if isinstance(msg, str):
        return (_BINARY if binary else _TEXT), _encoded(msg)
    if not isinstance(msg, bytes | bytearray | memoryview):
        raise TypeError(
            "a message must be str, bytes, bytearray, memoryview, dict or list, "
            f"not {type(msg).__name__}"
        )
    payload = _exact(bytes(msg))
    if binary is not False:
        return _BINARY, payload
    payload.decode()
    return _TEXT, payload


def is_in_pieces(msg: object) -> bool:
    """Whether a message is given as an iterable of its pieces, or an async one."""
    if isinstance(msg, str | bytes | bytearray | memoryview | list | Mapping | Set):
        return False
    return isinstance(msg, Iterable | AsyncIterable)


def encode_piece(piece: object) -> bytes:
    """The bytes of a piece of a message.

    Raises:
        TypeError: It is neither str nor bytes, bytearray or memoryview.
        ValueError: Text that is not valid Unicode.
    """
    if isinstance(piece, str):
        return _encoded(piece)
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(
            "the pieces of a message must be str, bytes, bytearray or memoryview, "
            f"not {type(piece).__name__}"
        )
    return _exact(bytes(piece))


def encode_json(value: object) -> bytes:
    """JSON text in UTF-8 (RFC 8259 §8.1), without spaces.

    A lone surrogate, for example from an emoji that was cut in two, is written as an
    escape, as it came: JSON may contain it, UTF-8 may not (§8.2).

    Raises:
        TypeError: JSON cannot represent it.
        ValueError: It contains NaN or an infinity, which are not JSON (§6) and which
            browsers cannot parse, or it contains itself.
    """
    text = _text_of(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _ascii(value).encode()


def json_text(value: object) -> str:
    """The same as a str; see `encode_json`."""
    text = _compact(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ascii(value)
    return text


def _encoded(text: str) -> bytes:
    """The UTF-8 of a text, even if a subclass of str overrides `encode`.

    Raises:
        TypeError: That method returns something other than bytes.
        ValueError: It is not valid Unicode.
    """
    if type(text) is str:
        return text.encode()
    payload: object = text.encode()
    if not isinstance(payload, bytes):
        what, got = f"{type(text).__name__}.encode", type(payload).__name__
        raise TypeError(f"{what} must return bytes, not {got}")
    payload = _exact(payload)
    payload.decode()
    return payload


def _exact(data: bytes) -> bytes:
    """Exactly bytes: a subclass may run code when it is accessed or released, in the
    middle of an operation."""
    return data if type(data) is bytes else bytes.__getitem__(data, slice(None))


def check_close(code: int, reason: str) -> int:
    """Check a close code and reason from a user (RFC 6455 §7.4); return the code.

    Raises:
        TypeError: `code` is not an int, or `reason` not a str.
        ValueError: The code must not be sent, or the reason is too long.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"close code must be an int, not {code!r}")
    code = int.__int__(code)  # a subclass may override conversions
    if not may_travel(code):
        raise ValueError(
            "close code must be 1000-1003, 1007-1014 or 3000-4999, "
            f"not {code} (RFC 6455 §7.4)"
        )
    if not isinstance(reason, str):
        raise TypeError(f"close reason must be a str, not {reason!r}")
    size = len(str.encode(reason))
    if size > MAX_CLOSE_REASON:
        raise ValueError(
            f"close reason must have at most {MAX_CLOSE_REASON} bytes of UTF-8, "
            f"not {size}"
        )
    return code


def check_ping(payload: bytes | str) -> bytes:
    """Check a ping payload from a user (RFC 6455 §5.5); return its bytes.

    Raises:
        TypeError: The payload is neither bytes nor str.
        ValueError: It is longer than a control frame allows.
    """
    if isinstance(payload, str):
        payload = _encoded(payload)
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise TypeError(
            f"ping payload must be bytes or str, not {type(payload).__name__}"
        )
    payload = _exact(bytes(payload))
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"ping payload must have at most {MAX_CONTROL_PAYLOAD} bytes, "
            f"not {len(payload)}"
        )
    return payload

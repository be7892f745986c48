"""What users hand over: messages, close reasons, ping payloads."""

from __future__ import annotations

import json

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
]

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)

_compact = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode
_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_message(msg: object, binary: bool | None) -> tuple[int, bytes]:
    """Find out how a message travels: its opcode and its bytes.

    Args:
        msg: str, bytes, bytearray, memoryview, or dict or list (sent as JSON text).
        binary: None lets the type decide; True and False force the frame's type.

    Raises:
        TypeError: Another type.
        ValueError: Text that is not valid Unicode, bytes sent as text that are not
            valid UTF-8, or a number that JSON cannot say.
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


def encode_json(value: object) -> bytes:
    """JSON text in UTF-8 (RFC 8259 §8.1), without spaces.

    A lone surrogate, as of an emoji that was cut in two, goes out as the escape that it
    came as: JSON may hold it, UTF-8 may not (§8.2).

    Raises:
        TypeError: JSON cannot say it.
        ValueError: It holds NaN or an infinity, which are no JSON (§6) and which
            browsers would not read, or it holds itself.
    """
    text = _compact(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _ascii(value).encode()


def _encoded(text: str) -> bytes:
    """The UTF-8 of a text, also of a subclass of str with an `encode` of its own.

    Raises:
        TypeError: That returns something else than bytes.
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
    """Bytes and no subclass of them, which may have code that runs when they are looked
    at, or let go of: in the middle of what is done with them."""
    return data if type(data) is bytes else bytes.__getitem__(data, slice(None))


def check_close(code: int, reason: str) -> int:
    """Check what a user wants to close with (RFC 6455 §7.4); return the code.

    Raises:
        TypeError: `code` is not an int, or `reason` not a str.
        ValueError: The code may not travel, or the reason is too long.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"close code must be an int, not {code!r}")
    code = int.__int__(code)  # a subclass may have its own view of what it is
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
    """Check what a user wants to ping with (RFC 6455 §5.5); return its bytes.

    Raises:
        TypeError: The payload is neither bytes nor str.
        ValueError: It is longer than a control frame holds.
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

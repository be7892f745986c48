"""How a message of the user's travels: its opcode and its bytes."""

from __future__ import annotations

import json

from .constants import Opcode

__all__ = ["encode_message"]

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)


def encode_message(msg: object, binary: bool | None) -> tuple[int, bytes]:
    """Find out how a message travels: its opcode and its bytes.

    Args:
        msg: str, bytes, bytearray, memoryview, or dict or list (sent as JSON text).
        binary: None lets the type decide; True and False force the frame's type.

    Raises:
        TypeError: Another type.
        ValueError: Text that is not valid Unicode, or bytes sent as text that are not
            valid UTF-8.
    """
    if binary is not None and not isinstance(binary, bool):
        raise TypeError(f"binary must be None, True or False, not {binary!r}")
    if isinstance(msg, dict | list):
        msg = json.dumps(msg, separators=(",", ":"), ensure_ascii=False)
    if isinstance(msg, str):
        return (_BINARY if binary else _TEXT), msg.encode()
    if not isinstance(msg, bytes | bytearray | memoryview):
        raise TypeError(
            "a message must be str, bytes, bytearray, memoryview, dict or list, "
            f"not {type(msg).__name__}"
        )
    payload = bytes(msg)
    if binary is not False:
        return _BINARY, payload
    payload.decode()
    return _TEXT, payload

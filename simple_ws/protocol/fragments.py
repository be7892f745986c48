"""`Fragments`: one message that is sent in pieces (RFC 6455 §5.4).

Bytes of frames come out, to be sent at once and in this order; control frames may be
sent between them, other messages may not. Whose turn it is, is left to the clients.
"""

from __future__ import annotations

from ..constants import Opcode
from ..messages import encode_piece
from ..speedups import Utf8Validator
from .websocket import Protocol

__all__ = ["Fragments"]

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_CONTINUATION = int(Opcode.CONTINUATION)
_FIN = 0x80
_RSV1 = 0x40
#: What `Deflater.compress` removes (RFC 7692 §7.2.1): only the last fragment may lack
#: it, the others are joined before they are inflated.
_TAIL = b"\x00\x00\xff\xff"


class Fragments:
    """A message in pieces, which are framed as they come.

    The last frame has no payload: only then is it known that no piece follows. Empty
    pieces are not sent. Every piece is compressed, where that was agreed, also a short
    one: nobody knows how much will follow.

    Args:
        protocol: of the connection.
        binary: True sends text as binary, False bytes as text, which must be UTF-8.

    Attributes:
        begun: whether a frame has been made, so that the message must be ended.

    Raises:
        TypeError: `binary` is something else.
    """

    def __init__(self, protocol: Protocol, binary: bool | None) -> None:
        if binary is not None and not isinstance(binary, bool):
            raise TypeError(f"binary must be None, True or False, not {binary!r}")
        self.begun = False
        self._protocol = protocol
        self._binary = binary
        self._of_text: bool | None = None  # the pieces are str
        self._validator: Utf8Validator | None = None
        agreement = protocol.agreement
        self._packs = agreement is not None and agreement.splits

    def encode(self, piece: object) -> bytes:
        """The bytes of the next piece. May run code of the user's.

        Raises:
            TypeError: A piece of another type, or of another one than those before.
            ValueError: Text that is not valid Unicode, or not valid UTF-8.
        """
        payload, of_text = encode_piece(piece), isinstance(piece, str)
        if self._of_text is None:
            self._of_text = of_text
            if not of_text and self._binary is False:
                self._validator = Utf8Validator()
        elif self._of_text is not of_text:
            raise TypeError("the pieces of a message must all be str, or all bytes")
        if self._validator is not None and not self._validator.feed(payload):
            raise ValueError("the pieces of a text are not valid UTF-8")
        return payload

    def check_end(self) -> None:
        """No piece follows.

        Raises:
            ValueError: The text ends inside a character.
        """
        if self._validator is not None and not self._validator.finish():
            raise ValueError("the pieces of a text end inside a UTF-8 sequence")

    def frame(self, payload: bytes) -> bytes:
        """The frames of a piece, by `encode`; none for an empty one."""
        if not payload:
            return b""
        first = _CONTINUATION if self.begun else self._opcode()
        self.begun = True
        if self._packs:
            if first != _CONTINUATION:
                first |= _RSV1
            payload = self._protocol.deflater().compress(payload) + _TAIL
        return self._protocol.frame_piece(first, payload)

    def frame_end(self) -> bytes:
        """The last frame; none where no piece has been encoded."""
        if self._of_text is None:
            return b""
        if not self.begun:
            return self._protocol.frame_message(self._opcode(), b"")
        payload = self._protocol.deflater().compress(b"") if self._packs else b""
        return self._protocol.frame_message(_CONTINUATION, payload)

    def _opcode(self) -> int:
        binary = not self._of_text if self._binary is None else self._binary
        return _BINARY if binary else _TEXT

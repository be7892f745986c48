"""The codecs in pure Python: masking, frame headers, UTF-8, deflate.

The meaning of frames is left to `protocol`.

Rules for adding to it: everything here has a twin in C, and no function keeps a
reference to its input.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections import deque

from ..constants import (
    DEFLATE_TAIL,
    FIELD_LINES,
    MAX_DEFLATE_STREAMS,
    MAX_HEAD_SIZE,
    MAX_HEADER_COUNT,
    TOKEN,
)
from ..errors import InvalidData, ProtocolError

__all__ = [
    "Deflater",
    "Inflater",
    "Utf8Validator",
    "apply_mask",
    "build_frame",
    "parse_header",
    "raw_fields",
    "read_request",
    "read_upgrade",
]

Buffer = bytes | bytearray | memoryview

#: One translation table for each value of a key byte: table[k][b] == b ^ k.
_XOR_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]

#: Up to this size one XOR of two big integers is faster than four table look-ups with
#: strided slices (0.8 against 5.5 µs at 125 bytes, 195 against 130 at 64 KiB).
_LARGE = 2048


def apply_mask(data: Buffer, key: bytes, offset: int = 0) -> bytes:
    """Mask or unmask a payload (RFC 6455 §5.3).

    Args:
        data: the payload, or a piece of it.
        key: the masking key, four bytes.
        offset: how many bytes of the payload precede this piece.

    Returns:
        As many bytes as `data` has.

    Raises:
        ValueError: The key does not have four bytes.
    """
    if len(key) != 4:
        raise ValueError(f"masking key must be 4 bytes, got {len(key)}")
    offset &= 3
    if offset:
        key = key[offset:] + key[:offset]
    size = len(data)
    if size < _LARGE:
        number = int.from_bytes(data, "little")
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
        return (number ^ mask).to_bytes(size, "little")
    masked = bytearray(data)
    for lane in range(4):
        masked[lane::4] = masked[lane::4].translate(_XOR_TABLES[key[lane]])
    return bytes(masked)


def parse_header(
    data: Buffer, start: int, end: int
) -> tuple[int, int, int, bytes | None] | None:
    """Parse a frame header (RFC 6455 §5.2).

    Args:
        data: bytes received.
        start: where the frame begins.
        end: where to stop looking.

    Returns:
        (size of the header, first byte with FIN, RSV and opcode, payload length in
        bytes, masking key or None), or None while the header is incomplete.

    Raises:
        ProtocolError: The length is not minimal, or its most significant bit is set.
    """
    if end - start < 2:
        return None
    second = data[start + 1]
    length = second & 0x7F
    pos = start + 2
    if length >= 126:
        wide = 2 if length == 126 else 8
        if end - pos < wide:
            return None
        length = int.from_bytes(data[pos : pos + wide], "big")
        pos += wide
        _check_length(length, wide)
    if not second & 0x80:
        return pos - start, data[start], length, None
    if end - pos < 4:
        return None
    return pos + 4 - start, data[start], length, bytes(data[pos : pos + 4])


def _check_length(length: int, wide: int) -> None:
    """RFC 6455 §5.2: "the minimal number of bytes MUST be used to encode the length"
    and "the most significant bit MUST be 0"."""
    if length >> 63:
        raise ProtocolError("the most significant bit of a frame length is set")
    if length < (126 if wide == 2 else 65536):
        raise ProtocolError(f"frame length {length:,} is not encoded minimally")


def build_frame(first: int, payload: Buffer, key: bytes | None = None) -> bytes:
    """Serialize a frame (RFC 6455 §5.2).

    Args:
        first: its first byte: FIN, RSV bits and opcode.
        payload: not masked yet.
        key: masking key, four bytes; None sends the payload unmasked.
    """
    length = len(payload)
    masked = 0 if key is None else 0x80
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 65536:
        head = bytes((first, masked | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + length.to_bytes(8, "big")
    if key is None:
        return head + payload
    return head + key + apply_mask(payload, key)


_UPGRADE = re.compile(
    rb"GET (/[\x21\x22\x24-\x7e]*) HTTP/1\.1\r\n"  # no "#"
    rb"(" + FIELD_LINES + rb")\r\n"
)
_KEY = re.compile(rb"[0-9A-Za-z+/]{22}==")
_PLAIN_HOST = re.compile(rb"[0-9A-Za-z._-]+(?::[0-9]*)?")
#: The header fields that decide about an upgrade and must not be repeated; the last two
#: announce a body.
_DECISIVE = frozenset(
    {
        b"host",
        b"upgrade",
        b"connection",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
        b"origin",
        b"content-length",
        b"transfer-encoding",
    }
)


def read_upgrade(
    data: bytes,
) -> tuple[int, str, bytes, str, str | None, str | None] | None:
    """Parse an opening handshake of the usual form (RFC 6455 §4.2.1).

    Args:
        data: the request received so far, possibly with bytes after it.

    Returns:
        (size of the head, target, header lines, Sec-WebSocket-Key,
        Sec-WebSocket-Protocol or None, Sec-WebSocket-Extensions or None), all of them
        validated; None for a request that is incomplete, unusual or wrong.
    """
    match = _UPGRADE.match(data)
    if match is None or match.end() > MAX_HEAD_SIZE:
        return None
    target, fields = match.groups()
    lines = fields.split(b"\r\n")[:-1]
    found: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in _DECISIVE:
            if name in found:
                return None
            found[name] = value.strip(b" \t")
    if len(lines) > MAX_HEADER_COUNT or not _is_good_upgrade(found):
        return None
    protocols = found.get(b"sec-websocket-protocol")
    extensions = found.get(b"sec-websocket-extensions")
    return (
        match.end(),
        target.decode(),
        fields,
        found[b"sec-websocket-key"].decode(),
        None if protocols is None else protocols.decode("latin-1"),
        None if extensions is None else extensions.decode("latin-1"),
    )


def _is_good_upgrade(found: dict[bytes, bytes]) -> bool:
    """RFC 6455 §4.2.1, for requests without repetitions or unusual forms."""
    tokens = found.get(b"connection", b"").lower().split(b",")
    return (
        _PLAIN_HOST.fullmatch(found.get(b"host", b"")) is not None
        and found.get(b"upgrade", b"").lower() == b"websocket"
        and b"upgrade" in [token.strip(b" \t") for token in tokens]
        and found.get(b"sec-websocket-version") == b"13"
        and _KEY.fullmatch(found.get(b"sec-websocket-key", b"")) is not None
        and b"content-length" not in found
        and b"transfer-encoding" not in found
    )


class Utf8Validator:
    """Validates UTF-8 in pieces, and fails at the first wrong byte (RFC 3629).

    RFC 6455 §8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds
    that the byte stream is not, in fact, a valid UTF-8 stream, that endpoint MUST
    _Fail the WebSocket Connection_."
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: Buffer) -> bool:
        """Validate the next piece; False once the text cannot become valid any more."""
        text = self._tail + data if self._tail else data
        try:
            used = codecs.utf_8_decode(text, "strict", False)[1]
        except UnicodeDecodeError:
            return False
        tail = self._tail = bytes(text[used:])
        # CPython waits for the third byte of a surrogate, which RFC 3629 §3 prohibits;
        # ED followed by A0 or more can never become valid.
        return not (len(tail) == 2 and tail[0] == 0xED and tail[1] >= 0xA0)

    def finish(self) -> bool:
        """Return whether the text may end here, and start over."""
        complete = not self._tail
        self._tail = b""
        return complete


#: A final block of stored bytes (RFC 1951 §3.2.4).
_STORED = b"between blocks?!"
_STORED_BLOCK = b"\x01\x10\x00\xef\xff" + _STORED


class Deflater:
    """Compresses messages (RFC 7692 §7.2.1).

    Args:
        level: 0 (none) to 9 (smallest), or -1 for zlib's default.
        mem_level: 1 to 9; zlib then takes 2 ** (mem_level + 9) bytes.
        window_bits: LZ77 window, 8 to 15.
        takeover: keep the window from message to message.
    """

    __slots__ = ("_parameters", "_stream", "_takeover")

    def __init__(
        self, level: int, mem_level: int, window_bits: int, takeover: bool
    ) -> None:
        # zlib refuses a raw deflate stream with a window of 2 ** 8 bytes. One of 2 ** 9
        # obeys the same bound: it never looks back further than its window less 262
        # bytes (deflate.h, MAX_DIST), which is 250 and fits into 256.
        self._parameters = (level, zlib.DEFLATED, -max(window_bits, 9), mem_level)
        self._takeover = takeover
        self._stream = zlib.compressobj(*self._parameters)

    def reset(self) -> None:
        """Forget the window: start without context."""
        self._stream = zlib.compressobj(*self._parameters)

    def compress(self, data: Buffer) -> bytes:
        """Compress one whole message, without the tail that RFC 7692 removes."""
        stream = self._stream
        packed = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        if not self._takeover:
            self.reset()
        return packed[:-4]


class Inflater:
    """Decompresses messages, in pieces and up to a limit (RFC 7692 §7.2.2).

    Args:
        window_bits: LZ77 window the peer may have used, 8 to 15.
        takeover: the peer keeps its window from message to message.
    """

    __slots__ = (
        "_complete",
        "_ended",
        "_history",
        "_history_size",
        "_stream",
        "_takeover",
        "_wbits",
    )

    def __init__(self, window_bits: int, takeover: bool) -> None:
        self._wbits = -window_bits
        self._takeover = takeover
        self._stream = zlib.decompressobj(self._wbits)
        # References to the last 32 KiB of output: the window for a new stream, if the
        # peer ended a deflate stream inside the message (BFINAL, RFC 7692 §7.2.3.4).
        self._history: deque[bytes] = deque()
        self._history_size = 0
        self._ended = 0
        self._complete = False  # a stream has ended with the last byte so far

    def feed(self, data: Buffer, limit: int) -> bytes:
        """Inflate a piece of a message.

        Args:
            data: compressed bytes.
            limit: most bytes of output that are allowed.

        Returns:
            At most `limit` + 1 bytes. More than `limit` means that the message is too
            big; the rest of it is lost then, and the object must not be used again.

        Raises:
            InvalidData: Not deflate data, or too many empty streams.
        """
        plain = self._inflate(data, limit + 1)
        if data:
            self._complete = False
        while self._stream.eof and len(plain) <= limit:
            rest = self._stream.unused_data
            self._complete = not rest
            self._restart()
            self._ended += 1
            if self._ended > MAX_DEFLATE_STREAMS:
                raise InvalidData(f"more than {MAX_DEFLATE_STREAMS} deflate streams")
            if not rest:
                break
            plain += self._inflate(rest, limit + 1 - len(plain))
        return plain

    def finish(self) -> None:
        """Inflate the tail that the peer removed, which ends the message.

        Raises:
            InvalidData: The message was cut off in the middle of a block.
        """
        # RFC 7692 §7.2.3.4: the peer may end its stream together with the message.
        complete, streams = self._complete, self._ended
        plain = self.feed(DEFLATE_TAIL, 0)
        if not complete and (
            plain or streams != self._ended or not self._is_between_blocks()
        ):
            # The tail was not an empty block, but completed an unfinished one.
            raise InvalidData("deflate data ends inside a block")
        self._complete = False
        if not self._takeover:
            self._forget()
        elif self._ended:
            # A stream that ended by itself may leave part of the tail unread.
            self._restart()
        self._ended = 0

    def _is_between_blocks(self) -> bool:
        """Whether a block has ended exactly with the last bit of the input.

        zlib knows this, but Python does not expose it: only there another whole block
        is valid. The copy takes 3 µs with a window of 12 bits, 7 µs with 15.
        """
        stream = self._stream.copy()
        try:
            return stream.decompress(_STORED_BLOCK) == _STORED and stream.eof
        except zlib.error:
            return False

    def _inflate(self, data: Buffer, limit: int) -> bytes:
        try:
            plain = self._stream.decompress(data, limit)
        except zlib.error as error:
            raise InvalidData("invalid deflate data") from error
        if plain:
            self._remember(plain)
        return plain

    def _remember(self, plain: bytes) -> None:
        history = self._history
        history.append(plain[-32768:])
        self._history_size += len(history[-1])
        while self._history_size - len(history[0]) >= 32768:
            self._history_size -= len(history.popleft())

    def _restart(self) -> None:
        known = b"".join(self._history)[-(1 << -self._wbits) :]
        self._stream = zlib.decompressobj(self._wbits, zdict=known)

    def _forget(self) -> None:
        self._history.clear()
        self._history_size = 0
        self._stream = zlib.decompressobj(self._wbits)


#: RFC 9112 §3 and §5, without what is rare: other forms of the target.
_REQUEST = re.compile(
    rb"(%b) (/[!-\"$-~]*) HTTP/1\.([01])\r\n((?:%b)+?)\r\n"
    % (TOKEN.encode(), FIELD_LINES.removesuffix(b"*"))
)


def read_request(data: bytes) -> tuple[int, str, str, int, bytes] | None:
    """Parse the head of a plain request of the usual form (RFC 9112 §3, §5).

    Args:
        data: the request received so far, possibly with bytes after its head.

    Returns:
        (size of the head, method, target, minor version, header lines), all of them
        validated; None for a request that is incomplete, unusual or wrong.
    """
    match = _REQUEST.match(data)
    if match is None or match.end() > MAX_HEAD_SIZE:
        return None
    method, target, minor, fields = match.groups()
    if fields.count(b"\r\n") > MAX_HEADER_COUNT:
        return None
    return match.end(), method.decode(), target.decode(), int(minor), fields


def raw_fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Names in lower case and values of well-formed header lines, each with its end."""
    parts = (line.partition(b":") for line in lines.split(b"\r\n")[:-1])
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parts]

"""Check the load generator: ``python benchmarks/check_loadgen.py``

Runs it against small servers with unusual but allowed behaviour (which must not count
as an error) and against faulty servers (whose faults must be noticed). Exits with 0 if
it judged all of them correctly.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import environment

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TAIL = b"\x00\x00\xff\xff"

#: What a server answers to one message: pieces to send, each with its own send().
Answer = Callable[[int, bytes], Iterator[bytes]]


def frame(opcode: int, payload: bytes, fin: bool = True, rsv1: bool = False) -> bytes:
    """A server's frame."""
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    if len(payload) < 126:
        return bytes([first, len(payload)]) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload


def read_exactly(reader, size: int) -> bytes:
    data = reader.read(size)
    if len(data) < size:
        raise EOFError
    return data


def read_frame(reader) -> tuple[int, bool, bytes]:
    """Opcode, RSV1 and payload of a client's frame, which must be masked."""
    first, second = read_exactly(reader, 2)
    assert second & 0x80, "the load generator must mask its frames"
    size = second & 0x7F
    if size == 126:
        size = struct.unpack("!H", read_exactly(reader, 2))[0]
    elif size == 127:
        size = struct.unpack("!Q", read_exactly(reader, 8))[0]
    key = read_exactly(reader, 4)
    data = read_exactly(reader, size)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    plain = (int.from_bytes(data, "big") ^ mask).to_bytes(size, "big")
    return first & 15, bool(first & 0x40), plain


def shake_hands(
    reader, connection, extension: bytes = b"", accept: bytes = b""
) -> None:
    key = b""
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            key = value.strip()
    accept = accept or base64.b64encode(hashlib.sha1(key + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"sec-websocket-accept:" + accept + b"\r\n" + extension + b"\r\n"
    )


class Server:
    """Serves connections one thread each until closed."""

    def __init__(
        self, answer: Answer, extension: bytes = b"", accept: bytes = b""
    ) -> None:
        self.answer, self.extension, self.accept = answer, extension, accept
        self.pongs: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            try:
                shake_hands(reader, connection, self.extension, self.accept)
                self._echo(reader, connection)
            except (OSError, EOFError):
                pass

    def _echo(self, reader, connection: socket.socket) -> None:
        inflater = zlib.decompressobj(-15)
        number = 0
        while True:
            opcode, compressed, payload = read_frame(reader)
            if opcode == 10:
                self.pongs.append(payload)
                continue
            if compressed:
                payload = inflater.decompress(payload + TAIL)
            for piece in self.answer(number, payload):
                connection.sendall(piece)
            number += 1


# ---- allowed -------------------------------------------------------------------------


def plain(number, payload):
    yield frame(2, payload)


def dribble(number, payload):
    for byte in frame(2, payload):
        yield bytes([byte])


def fragments(number, payload):
    third = len(payload) // 3
    yield frame(2, payload[:third], fin=False)
    yield frame(9, b"between") + frame(0, payload[third : 2 * third], fin=False)
    yield frame(0, b"", fin=False) + frame(0, payload[2 * third :])


def pings(number, payload):
    yield frame(9, b"p" * 125) + frame(9, b"second")
    yield frame(2, payload) + frame(10, b"")


def packer(reset: bool, final: bool = False) -> Answer:
    """Answers deflated as one stream, one by one, or in blocks marked final."""
    streams: dict[int, object] = {}

    def answer(number, payload):
        if reset or final or threading.get_ident() not in streams:
            streams[threading.get_ident()] = zlib.compressobj(6, wbits=-15)
        stream = streams[threading.get_ident()]
        data = stream.compress(payload)
        if final:
            data += stream.flush(zlib.Z_FINISH) + b"\x00"
        else:
            data += stream.flush(zlib.Z_SYNC_FLUSH)
            data = data[:-4]
        half = len(data) // 2
        yield frame(1, data[:half], fin=False, rsv1=True)
        yield frame(0, data[half:])

    return answer


def uncompressed(number, payload):
    yield frame(1, payload)


# ---- wrong ---------------------------------------------------------------------------


def flipped(number, payload):
    if number == 7:
        payload = payload[:-1] + bytes([payload[-1] ^ 1])
    yield frame(2, payload)


def short(number, payload):
    yield frame(2, payload[:-1] if number == 7 else payload)


def longer(number, payload):
    yield frame(2, payload + b"x" if number == 7 else payload)


def as_text(number, payload):
    yield frame(1 if number == 7 else 2, payload)


def twice(number, payload):
    yield frame(2, payload) * (2 if number == 7 else 1)


def lost(number, payload):
    if number != 7:
        yield frame(2, payload)


def swapper() -> Answer:
    kept: dict[int, bytes] = {}

    def answer(number, payload):
        me = threading.get_ident()
        if number % 2 == 0:
            kept[me] = payload
            return
        yield frame(2, payload) + frame(2, kept[me])

    return answer


def masked(number, payload):
    data = bytearray(frame(2, payload))
    if number == 7:
        data[1] |= 0x80
    yield bytes(data)


def reserved(number, payload):
    yield frame(2, payload, rsv1=number == 7)


def closes(number, payload):
    yield frame(8, b"\x03\xe9going") if number == 7 else frame(2, payload)


def padded_length(number, payload):
    yield struct.pack("!BBH", 0x82, 126, len(payload)) + payload


def broken_stream(number, payload):
    yield frame(1, b"\xff\xff\xff\xff", rsv1=True)


def hangs_up(number, payload):
    if number == 7:
        raise EOFError
    yield frame(2, payload)


ALLOWED = [
    ("plain", plain, ()),
    ("byte by byte", dribble, ()),
    ("fragments with a ping between", fragments, ()),
    ("pings around", pings, ()),
    ("several in flight", plain, ("--inflight", "50")),
    ("64 KiB", fragments, ("--size", "65536")),
    ("3 MB", plain, ("--size", "3000000", "--seconds", "4")),
    ("one byte", plain, ("--size", "1")),
    ("deflate, one stream", packer(reset=False), ("--deflate",)),
    ("deflate, each alone", packer(reset=True), ("--deflate",)),
    ("deflate, final blocks", packer(reset=True, final=True), ("--deflate",)),
    ("deflate agreed, plain answers", uncompressed, ("--deflate",)),
    (
        "deflate, several in flight",
        packer(reset=False),
        ("--deflate", "--inflight", "20"),
    ),
]
WRONG = [
    ("one bit flipped", flipped, (), "content differs"),
    ("too short", short, (), "wrong length"),
    ("too long", longer, (), "content differs"),
    ("text for binary", as_text, (), "wrong opcode"),
    ("answered twice", twice, (), "answer without a question"),
    ("one lost", lost, (), "never answered"),
    ("one lost of many", lost, ("--inflight", "5"), "content differs"),
    ("order changed", swapper(), ("--inflight", "4"), "content differs"),
    ("masked", masked, (), "masked frame"),
    ("RSV1 not agreed", reserved, (), "unexpected RSV1"),
    ("close", closes, (), "closed by the server: 1001 going"),
    ("length not minimal", padded_length, (), "length not in its shortest form"),
    ("broken deflate stream", broken_stream, ("--deflate",), "cannot be inflated"),
    ("deflate without agreement", uncompressed, ("--deflate", "none"), "not taken"),
    ("hangs up", hangs_up, (), "ended by the server"),
    ("wrong accept", plain, ("accept",), "wrong Sec-WebSocket-Accept"),
]  # fmt: skip


def judge(answer: Answer, arguments: tuple[str, ...]) -> dict:
    """What the load generator says of a server."""
    agreed = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    extension = agreed if "--deflate" in arguments and "none" not in arguments else b""
    accept = b"A" * 27 + b"=" if "accept" in arguments else b""
    server = Server(answer, extension, accept)
    command = [str(environment.program("loadgen")), "echo", "--port", str(server.port)]
    command += ["--connections", "3", "--seconds", "0.3", "--warmup", "0.1"]
    command += [a for a in arguments if a not in ("none", "accept")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    server.listener.close()
    result = json.loads(done.stdout.splitlines()[-1])
    result["exit"] = done.returncode
    if answer is pings and b"second" not in server.pongs:
        result["error"], result["errors"] = "ping not answered", 1
    return result


def main() -> int:
    environment.prepare()
    environment.compile_programs()
    failures = 0
    for name, answer, arguments in ALLOWED:
        result = judge(answer, arguments)
        right = not result["errors"] and result["messages"] > 0 and not result["exit"]
        failures += not right
        words = f"{result['messages']} messages {result['error']}"
        print(f"{'ok  ' if right else 'FAIL'} allowed: {name}: {words}")
    for name, answer, arguments, expected in WRONG:
        result = judge(answer, arguments)
        right = result["errors"] and expected in result["error"] and result["exit"] == 1
        failures += not right
        words = f"{result['errors']} errors, {result['error']!r}"
        print(f"{'ok  ' if right else 'FAIL'} wrong: {name}: {words}")
    print(f"{failures} misjudged" if failures else "all judged rightly")
    time.sleep(0.1)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

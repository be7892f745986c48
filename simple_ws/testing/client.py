"""`TestClient`: one peer of a server in memory, controlled by the test.

It reads, sends and answers like the other clients (`client.core`). Its server keeps the
time and runs it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from ..client.core import ClientCore, encode
from ..client.options import check_client_options
from ..connection.client import Client
from ..constants import CloseCause, Opcode
from ..errors import NO_CLOSE_FRAME
from ..messages import check_ping, encode_json
from ..protocol.client_handshake import Opening, Outcome
from ..protocol.uri import parse_uri
from ..server.upgrade import UpgradeConnection
from ..speedups import apply_mask, build_frame
from .clock import Clock
from .tracebacks import begins_in_the_test

__all__ = ["TestClient"]

#: Options of the clients, without limits: their memory belongs to the test.
_DEFAULTS = {"compression": False, "read_limit": 2**30, "max_size": None}


class TestHost(Protocol):
    """What a test client needs of its server (`server.TestServer` has it)."""

    clock: Clock

    def settle(self) -> None:
        """Run the server until it has nothing to do."""

    def wait_until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Run the server until a condition is true."""

    def _wait(
        self, condition: Callable[[], object], what: str, timeout: float | None = None
    ) -> bool:
        """Run the server until a condition is true, if it can become true."""

    def _join(
        self, address: tuple[str, int] | None = None
    ) -> tuple[socket.socket, UpgradeConnection]:
        """Connect a peer; return its socket, and the server's end."""


@begins_in_the_test
class TestClient(ClientCore):
    """A client of a `TestServer`; like others it answers pings and close frames.

    Attributes:
        pings: payloads of the pings received, including unanswered ones.
        answer_pings: False leaves pings unanswered.
    """

    __test__ = False

    def __init__(
        self,
        server: TestHost,
        path: str,
        options: Mapping[str, Any],
        address: tuple[str, int] | None = None,
    ) -> None:
        uri = parse_uri(f"ws://testserver{path}")
        checked = check_client_options(uri, {**_DEFAULTS, **options})
        super().__init__(uri, None, checked, server.clock)
        self._opening = Opening(uri, checked, stay=True)
        self._opened = False
        self._server = server
        self._stalled = False
        self._out = bytearray()
        self.answer_pings = True
        self.pings: list[bytes] = []
        self._sock, self._upgrade = server._join(address)

    @property
    def client(self) -> Client:
        """The server's `Client` of this connection."""
        client = self._upgrade.client
        assert client is not None, "the connection has not opened"
        return client

    def is_open(self) -> bool:
        """Whether messages can be sent: opened, and not closing, closed or lost."""
        return self._opened and super().is_open()

    # Actions

    def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message, of the types that `Client.write_message` takes.

        Raises:
            ConnectionClosed: The connection is not open.
            TypeError: The message has another type.
        """
        self._need_open()
        self.send_raw(self._frame(*encode(msg, binary)))

    def send_fragments(self, parts: Iterable[str | bytes]) -> None:
        """Send one message in as many frames as there are parts (RFC 6455 §5.4).

        Args:
            parts: all str for a text message, or all bytes for a binary one.

        Raises:
            ConnectionClosed: The connection is not open.
        """
        self._need_open()
        pieces = list(parts)
        opcode = Opcode.TEXT if isinstance(pieces[0], str) else Opcode.BINARY
        for index, piece in enumerate(pieces):
            final = 0x80 if index == len(pieces) - 1 else 0
            data = piece.encode() if isinstance(piece, str) else piece
            first = final | (opcode if index == 0 else Opcode.CONTINUATION)
            self.send_raw(build_frame(first, data, b"\1\2\3\4"))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._out += data
        self._server.settle()

    def drip(self, data: bytes) -> None:
        """Send bytes one by one; the server reads each separately."""
        for index in range(len(data)):
            self.send_raw(data[index : index + 1])

    def send_json(self, value: Any) -> None:
        """Send any value as JSON text.

        Raises:
            ConnectionClosed: The connection is not open.
            TypeError, ValueError: JSON cannot represent it.
        """
        self.send(encode_json(value).decode())

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message.

        It waits for worker threads, but not for the time to pass.

        Args:
            timeout: seconds of the test's clock, which moves until a message comes.

        Raises:
            ConnectionClosed: There is none, and the connection has ended.
            AssertionError: There is none, and nothing happens any more.
            TimeoutError: None came in `timeout` seconds.
        """
        if not self._inbox:
            self._server._wait(self._has_input, "a message", timeout)
        if self._inbox:
            return self._take()
        if not self._ended:
            raise TimeoutError(f"no message came in {timeout:g} s")
        raise self._closed()

    def recv_json(self, timeout: float | None = None) -> Any:
        """Return the next message, parsed as JSON; see `recv`.

        Raises:
            ValueError: It is not JSON.
        """
        return json.loads(self.recv(timeout))

    def _has_input(self) -> bool:
        return bool(self._inbox) or self._ended

    @property
    def messages(self) -> list[str | bytes]:
        """Messages that arrived but were not received yet, the oldest first."""
        self._server.settle()
        return [message for message, _ in self._inbox]

    def ping(self, payload: bytes | str = b"") -> float:
        """Send a ping; return the seconds on the clock until its pong.

        Args:
            payload: at most 125 bytes; when empty, a unique one is used.

        Raises:
            AssertionError: No pong arrived.
            ConnectionClosed: The connection is not open.
            TypeError, ValueError: The payload is neither bytes nor str, or too long.
        """
        payload = check_ping(payload)
        self._need_open()
        payload = self._ping(payload)
        self._server._wait(lambda: payload not in self._pings, "a pong")
        return self.latency or 0.0

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake, as far as the server takes part in it.

        Args:
            code: sent as it is, even one that must not be sent (RFC 6455 §7.4).
            reason: text for people, cut to 123 bytes of UTF-8.
        """
        if self.is_open():
            self._start_close(code, reason)
        self._server.settle()

    def stall(self) -> None:
        """Stop reading: the output of the server piles up, as with a slow client."""
        self._stalled = True

    def resume(self) -> None:
        """Resume reading, starting with what has piled up."""
        self._stalled = False
        self._server.settle()

    def vanish(self) -> None:
        """Become silent for good, without a FIN, as if the cable were cut."""
        self._stalled = True
        self.answer_pings = False

    def cut(self) -> None:
        """End the connection without a close frame."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._lose("cut by the test", CloseCause.LOCAL)
        self._server.settle()

    # Assertions

    def assert_open(self) -> None:
        """Fail unless the connection is open on both sides."""
        self._server.settle()
        assert self.is_open(), self._state()
        assert self.client.is_open(), self._state()

    def assert_closed(
        self,
        code: int | None = None,
        *,
        cause: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Fail unless the server has closed the connection in this way.

        Args:
            code: the server's `close_code`.
            cause: its `close_cause`, see `CloseCause`.
            reason: a part of its `close_reason`.
        """
        self._server.settle()
        ended = self.client.close_cause
        assert ended is not None, self._state()
        assert code is None or self.client.close_code == code, self._state()
        assert cause is None or ended == cause, self._state()
        assert reason is None or reason in self.client.close_reason, self._state()

    def _state(self) -> str:
        client = self.client
        if client.close_cause is None:
            return f"{client!r} is open, {self!r}"
        return (
            f"{client!r} ended with {client.close_code} {client.close_reason!r}, "
            f"cause {client.close_cause!s}"
        )

    # Driving the connection

    def _open(self) -> None:
        self._begin_opening()
        self._server._wait(lambda: self._opened, "an answer to the handshake")

    def _begin_opening(self) -> None:
        self._out += self._opening.begin()

    def _need_open(self) -> None:
        self._server.settle()
        if not self.is_open():
            raise self._closed()

    def _read(self) -> bool:
        """Send pending output and read input; return whether there was any."""
        moved = self._write()
        if self._stalled:
            return moved
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return moved
        except OSError:
            data = b""
        if not self._opened:
            self._receive_answer(data)
        elif data:
            self._feed(data)
        elif self._loss is None and not self._ended:
            self._lose(NO_CLOSE_FRAME, CloseCause.EOF)
        else:
            return moved
        return True

    def _write(self) -> bool:
        if not self._out:
            return False
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            return False
        except OSError:
            sent = len(self._out)
        del self._out[:sent]
        return True

    def _receive_answer(self, data: bytes) -> None:
        opening = self._opening
        outcome = opening.receive(data) if data else opening.receive_eof()
        if outcome is Outcome.OPEN:
            self._opened = True
            self._agree(opening.accepted)
            if opening.accepted.rest:
                self._feed(opening.accepted.rest)
        elif outcome is Outcome.REDIRECT:
            opening.refuse()

    def _put(self, frame: bytes) -> None:
        self._out += frame

    def _put_pong(self, frame: bytes) -> None:
        self.pings.append(apply_mask(frame[6:], frame[2:6]))  # clients mask frames
        if self.answer_pings:
            self._out += frame

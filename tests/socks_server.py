"""A SOCKS proxy (RFC 1928, RFC 1929, and SOCKS 4a) in threads, for tests."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Any


class SocksServer:
    """Connects as it is asked to; ended on leaving its `with`.

    Args:
        credentials: user and password that SOCKS 5 clients must give, or None.
        reply: the code of its answer, 0 for success.

    Attributes:
        asked: (version, host, port) of each request; the host is a name or an address.
    """

    def __init__(
        self, credentials: tuple[str, str] | None = None, reply: int = 0
    ) -> None:
        self.asked: list[tuple[int, str, int]] = []
        self._credentials, self._reply = credentials, reply
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> SocksServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # `close` alone would leave the thread waiting in `accept`.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file, suppress(OSError, struct.error):
            version = file.read(1)[0]
            target = self._ask5(sock, file) if version == 5 else self._ask4(file)
            if target is None:
                return
            self.asked.append((version, *target))
            if self._reply:
                sock.sendall(self._answer(version))
                return
            with socket.create_connection(target) as server:
                sock.sendall(self._answer(version))
                other = threading.Thread(target=_copy, args=[server, sock])
                other.start()
                _copy(sock, server)
                other.join()

    def _ask5(self, sock: socket.socket, file: Any) -> tuple[str, int] | None:
        methods = file.read(file.read(1)[0])
        method = 0 if self._credentials is None else 2
        if method not in methods:
            sock.sendall(b"\x05\xff")
            return None
        sock.sendall(bytes([5, method]))
        if method == 2:
            file.read(1)
            given = tuple(file.read(file.read(1)[0]).decode() for _ in range(2))
            sock.sendall(b"\x01\x00" if given == self._credentials else b"\x01\x01")
            if given != self._credentials:
                return None
        kind = file.read(4)[3]
        if kind == 1:
            host = socket.inet_ntoa(file.read(4))
        else:
            host = file.read(file.read(1)[0]).decode()
        return host, struct.unpack(">H", file.read(2))[0]

    def _ask4(self, file: Any) -> tuple[str, int]:
        _, port, address = struct.unpack(">BH4s", file.read(7))
        _text(file)
        host = _text(file) if address[:3] == b"\0\0\0" else socket.inet_ntoa(address)
        return host, port

    def _answer(self, version: int) -> bytes:
        if version == 4:
            return bytes([0, 91 if self._reply else 90]) + bytes(6)
        return bytes([5, self._reply, 0, 1]) + bytes(6)


def _text(file: Any) -> str:
    text = b""
    while (byte := file.read(1)) not in (b"\0", b""):
        text += byte
    return text.decode()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

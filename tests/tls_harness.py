"""Helpers for tests of TLS: certificates, and the client's end for `harness.Peer`."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from harness import Driven, Peer

from simple_ws.loop.tls import TLSSocket

trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")


@lru_cache
def authority() -> trustme.CA:
    return trustme.CA()


@lru_cache
def server_side() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def client_side(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class TLSEnd:
    """The client's end, in the manner of a non-blocking socket, for `harness.Peer`."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None = None,
        name: str = "localhost",
    ) -> None:
        self.raw = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or client_side()
        self.object = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._unsent = b""
        self.ended = self.notified = False  # anyhow; by close_notify

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def shake(self) -> None:
        """Raise BlockingIOError until the handshake is done."""
        self._do(self.object.do_handshake)

    def recv(self, size: int) -> bytes:
        self.shake()
        if self.ended:
            return b""
        try:
            data = self._do(lambda: self.object.read(size))
        except ssl.SSLEOFError:
            self.ended = True
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        self.ended = self.notified = not data
        return bytes(data)

    def send(self, data: bytes | memoryview) -> int:
        self.shake()
        self._flush()
        if self._unsent:  # full, or the connection is lost, which this call says
            self._unsent = self._unsent[self.raw.send(self._unsent) :]
            raise BlockingIOError
        sent = self.object.write(data)
        self._flush()
        return sent

    def notify(self) -> None:
        """Send close_notify, and leave the socket open."""
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()
        self._flush()

    def _do(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.raw.recv(65536)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                self._flush()

    def _flush(self) -> None:
        self._unsent += self._out.read()
        with contextlib.suppress(OSError):  # full, or closed
            while self._unsent:
                self._unsent = self._unsent[self.raw.send(self._unsent) :]


def secured(peer: Peer, version: ssl.TLSVersion | None = None, **how: Any) -> Peer:
    """The same peer, with TLS."""
    context = how.pop("context", None) or client_side(version)
    peer.sock = TLSEnd(peer.sock, context, **how)  # type: ignore[assignment]
    return peer


def encrypting(driven: Driven) -> Callable[[socket.socket], Any]:
    """What makes the server's end of a connection of `Driven` one with TLS."""

    def wrap(sock: socket.socket) -> TLSSocket:
        address = ("192.0.2.1", 12345)
        return TLSSocket(server_side(), sock, address, driven.reactor.call_later)

    return wrap


def open_encrypted(driven: Driven, wrap: Callable[[Any], Any] | None = None) -> Peer:
    """An open connection with TLS; `wrap` makes of the server's socket what it gets."""
    encrypt = encrypting(driven)
    peer = secured(
        driven.join(lambda sock: encrypt(sock if wrap is None else wrap(sock)))
    )
    return peer.shake()

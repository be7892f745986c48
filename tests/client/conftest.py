"""Fixtures of the clients' tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_harness import FACES, Server
from harness import small_buffers

from simple_ws.client import driving
from simple_ws.client.blocking import Connection
from simple_ws.client.options import ClientOptions
from simple_ws.protocol.client_handshake import Accepted
from simple_ws.protocol.fields import Headers
from simple_ws.protocol.uri import parse_uri


class _Nobody:
    """In the place of the thread that keeps connections alive."""

    def add(self, connection: Connection) -> None: ...

    def remove(self, connection: Connection) -> None: ...


@pytest.fixture(autouse=True)
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test itself drives its connections, by the clock that it has set."""
    monkeypatch.setattr(driving, "keepalive_thread", _Nobody())


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of the clients, used in the same way."""
    face = FACES[request.param]()
    yield face
    face.close()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the environment's proxies is used."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def open_pair() -> Iterator[Callable[..., tuple[Connection, Server]]]:
    """Make connections that are open, each with the server's end of it."""
    made: list[tuple[Connection, Server]] = []

    def make(
        sock: Any = None, rest: bytes = b"", **options: Any
    ) -> tuple[Connection, Server]:
        ours, theirs = socket.socketpair()
        small_buffers(ours)
        ours.setblocking(False)
        accepted = Accepted(Headers(), None, None, rest)
        ws = Connection(
            ours if sock is None else sock(ours),
            parse_uri("ws://h/"),
            accepted,
            ClientOptions(**options),
        )
        made.append((ws, Server(theirs)))
        return made[-1]

    yield make
    for ws, server in made:
        server.sock.close()
        ws._sock.close()

"""`Listening`: the clients that connect to us (`--listen`)."""

from __future__ import annotations

import argparse
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from ... import Server, WebSocket
from ...constants import CloseCause
from ...errors import ConnectionClosed, connection_closed
from ...messages import check_close
from ..values import UsageError
from .peer import Received

__all__ = ["Listening"]

_HOST = "127.0.0.1"
#: Limits of a client: of a message, and of what it has not read yet.
_MAX_SIZE, _WRITE_LIMIT = 2**24, 2**25


class Listening:
    """All clients of a server that runs in a thread.

    Args:
        options: the arguments.
        first: messages that each client is sent when it comes.
        tell: tells a person something; called from the server's thread.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        first: list[str | bytes],
        tell: Callable[[str], None],
    ) -> None:
        if options.key is not None and options.cert is None:
            raise UsageError("--key needs --cert")
        if not options.verbose:
            logging.getLogger("simple_ws").setLevel(logging.WARNING)
        self._messages: queue.SimpleQueue[Received | None] = queue.SimpleQueue()
        self._over = False
        self._room = _Room(options.subprotocol, first, self._messages, tell)
        pair = {"certfile": options.cert, "keyfile": options.key}
        self._server = Server(_HOST, options.listen, **pair)
        self._server.mount("*", self._room)
        self._server.start()
        scheme = "ws" if options.cert is None else "wss"
        self.greeting = f"listening on {scheme}://{_HOST}:{self._server.port}/"
        tell(self.greeting)

    def send(self, message: str | bytes) -> None:
        """Send a message to all clients; the first one is waited for."""
        self._room.occupied.wait()
        if self._over:
            raise _ended()
        self._server.broadcast(message)

    def recv(self, timeout: float | None) -> Received:
        """The next message of any client."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            raise _ended()
        return message

    def ping(self, payload: str) -> float | None:
        """Ping all clients; their pongs are told."""
        for client in self._server.clients:
            client.ping(payload)
        return None

    def close(self, code: int, reason: str) -> None:
        """Close the connections of all clients."""
        check_close(code, reason)
        for client in self._server.clients:
            client.close(code, reason)

    def end(self) -> None:
        """Stop the server (1001)."""
        if not self._over:
            self._over = True
            self._room.occupied.set()
            self._server.stop()
            self._messages.put(None)

    def ended_by_us(self) -> bool:
        """Always: a server ends when it is told to."""
        return True

    def farewell(self) -> tuple[str, int]:
        """That it is over."""
        return "stopped", 0


class _Room(WebSocket):
    """Passes messages on, and tells who comes and goes."""

    def __init__(
        self,
        subprotocols: list[str],
        first: list[str | bytes],
        messages: queue.SimpleQueue[Any],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(
            subprotocols=subprotocols, max_size=_MAX_SIZE, write_limit=_WRITE_LIMIT
        )
        self.occupied = threading.Event()
        self._first, self._messages, self._tell_person = first, messages, tell

    def on_open(self, client: Any) -> None:
        self._tell_person(f"client {client.id} has connected from {_name(client)}")
        for message in self._first:
            client.write_message(message)
        self.occupied.set()

    def on_message(self, msg: Any, client: Any) -> None:
        self._messages.put(Received(msg, f"{client.id} "))

    def on_pong(self, client: Any) -> None:
        if client.latency is not None:
            self._tell_person(
                f"pong of client {client.id}: {client.latency * 1000:.1f} ms"
            )

    def on_close(self, client: Any) -> None:
        code, reason = client.close_code, client.close_reason
        self._tell_person(f"client {client.id} has left: {code} {reason}".rstrip())


def _name(client: Any) -> str:
    return ":".join(map(str, client.address[:2]))


def _ended() -> ConnectionClosed:
    return connection_closed(1001, "", CloseCause.LOCAL)

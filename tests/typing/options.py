"""What type checkers see of options (`make types`)."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from simple_ws import Client, Deflate, Server, WebSocket
from simple_ws.testing import TestServer

if TYPE_CHECKING:
    from typing import Unpack

    from simple_ws.connection.option_types import HandlerOptions, ServerOptions

Server(
    "",
    8080,
    ping_interval=20,
    compression=Deflate(),
    certfile=Path("cert.pem"),
    ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
    origins=re.compile("https://.*"),
    trusted_proxies=["10.0.0.0/8", "unix"],
    handshake_rate=(100, 200),
    engine=["redis://a", "redis://b"],
    engine_secret="secret",
)
Server(ping_intervall=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Server(max_siz=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Server(max_size="20")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Server(slow_consumer="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
WebSocket("", 8080, max_size=20, workers=2)
WebSocket(max_siz=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
TestServer(WebSocket(), max_size=20)
TestServer(WebSocket(), max_siz=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

server = Server()


@server.route("/", max_size=20)
def echo(msg: str, client: Client) -> str:
    return msg


server.route("/", max_siz=20)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
# The port is one for all handlers.
server.route("/", certfile="cert.pem")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Room(WebSocket):
    """Hands its options on."""

    def __init__(self, name: str, **options: Unpack[HandlerOptions]) -> None:
        super().__init__(**options)
        self.name = name


def make_server(**options: Unpack[ServerOptions]) -> Server:
    return Server("", 8080, **options)


Room("garden", max_size=20)
make_server(max_size=20)

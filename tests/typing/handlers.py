"""What type checkers see of handlers, their clients and callbacks (`make types`).

A line that must be an error says so to both checkers, which complain if it is none.
"""

from __future__ import annotations

from typing import assert_type

from simple_ws import (
    AsyncClient,
    Client,
    Request,
    Response,
    Server,
    WebSocket,
    in_thread,
)


class Player(Client):
    """A connection with state of its own."""

    score: int = 0


class Game(WebSocket[Player]):
    """Options as class attributes, in each form in which they are accepted."""

    ping_interval = 20
    max_size = None
    origins = ["same", "https://example.com", None]
    subprotocols = ["chess"]
    slow_consumer = "drop_old"
    message_rate = (10, 20)
    compression = False

    def on_request(self, request: Request) -> bool | Response:
        return request.path == "/" or Response(404)

    def on_open(self, client: Player) -> None:
        assert_type(self.server, Server)
        self.server.publish("room", "hello")
        for player in self.clients:
            assert_type(player, Player)

    async def on_message(self, msg: str | bytes, client: Player) -> str:
        client.score += 1
        return f"{client.score}"

    @in_thread
    def on_close(self, client: Player) -> None:
        """In a thread."""

    def on_error(self, error: Exception, client: Player) -> None:
        super().on_error(error, client)


class WrongAttributes(WebSocket):
    ping_interval = "20"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    slow_consumer = "drop"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    client_class = int  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class WrongClient(WebSocket):
    def on_open(self, client: Player) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """The clients are `Client`s: it lacks the type parameter."""


class WrongArguments(WebSocket):
    def on_message(self, msg: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """There is no client."""


class WrongParameter(WebSocket[int]):  # type: ignore[type-var]  # pyright: ignore[reportInvalidTypeArguments]
    """Not a client."""


class Plain(WebSocket):
    """The class of the clients has a default."""

    def on_open(self, client: Client) -> None:
        assert_type(self.clients.__iter__().__next__(), Client)


def echo(msg: str, client: Client) -> str:
    return msg


def wrong(msg: str) -> str:
    return msg


# A function in the place of a callback: mypy allows none in the place of a method.
plain = Plain()
plain.on_message = echo  # type: ignore[method-assign]
plain.on_message = wrong  # type: ignore[method-assign,assignment]  # pyright: ignore[reportAttributeAccessIssue]

server = Server("", 8080)
assert_type(server.mount("/game", Game()), Game)
server.mount("/", 7)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@server.route("/echo", max_size=100)
def shout(msg: str, client: Client) -> str:
    return msg.upper()


assert_type(shout("a", plain.clients.__iter__().__next__()), str)


@server.route("/later")
async def later(msg: str, client: Client) -> str:
    return msg


@server.route("/owned")
async def owned(client: AsyncClient) -> None:
    async for msg in client:
        await client.send(msg)


class Owner(WebSocket[AsyncClient]):
    async def on_connect(self, client: AsyncClient) -> None:
        assert_type(await client.ping(), float)


@server.route("/game/{room}")
class Room(Game):
    """A class is a handler, too."""


server.route("/wrong")(wrong)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@server.http("/page")
def page(request: Request) -> dict[str, str]:
    return {"path": request.path}

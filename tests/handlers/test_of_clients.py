"""`WebSocket[Player]`: the type parameter is the class of the connections."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import pytest

from simple_ws import Client, Server, WebSocket
from simple_ws.testing import TestServer

T = TypeVar("T", bound=Client)


class Player(Client):
    """A connection with state of its own."""

    score = 7


class Game(WebSocket[Player]):
    def on_message(self, msg: str, client: Player) -> str:
        return f"{client.score} {sum(player.score for player in self.clients)}"


def test_connections_have_the_class_of_the_parameter() -> None:
    with TestServer(Game()) as server:
        peer = server.connect()
        peer.send("?")
        assert peer.recv() == "7 7"
        assert type(peer.client) is Player


def test_the_parameter_is_enough_without_a_class() -> None:
    handler = WebSocket[Player](max_size=10)
    assert handler.client_class is Player
    assert isinstance(handler, WebSocket)
    assert type(handler).__name__ == "WebSocket"


def test_a_class_attribute_is_more_than_the_parameter() -> None:
    class Special(Player):
        """A subclass of it."""

    class Games(WebSocket[Player]):
        client_class = Special

    assert Games().client_class is Special


def test_handlers_of_ones_own_can_be_generic() -> None:
    class Board(WebSocket[T]):
        """Of players of some kind."""

    class Chess(Board[Player]):
        """Of these."""

    assert Chess().client_class is Player
    assert Board().client_class is Client
    assert WebSocket[Any] is WebSocket


@pytest.mark.parametrize("wrong", [int, "Player", Server, 7])
def test_other_parameters_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(wrong))):
        WebSocket[wrong]

"""The names on `Client`: documented, or private, or the user's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from simple_ws import Client, WebSocket
from simple_ws.testing import TestServer

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "client.md"

PUBLIC = sorted(name for name in dir(Client) if not name.startswith("_"))
#: What programs keep on a connection, and what the library has kept there once.
FAVOURITES = """
    bucket sweep release name user user_id room rooms state data handler server host
    loop timer timers tasks queue inbox lock logger options limits rate tally stats
    protocol reactor journal sock socket fd request started last_seen held deaf
    parked call end start follow heartbeat beat keepalive closing counters
"""
#: Each name of ours that is private could be a user's without its underscore.
WITHOUT_UNDERSCORE = {name.strip("_") for name in dir(Client) if name[0] == "_"}
FREE = sorted(
    {*FAVOURITES.split(), *WITHOUT_UNDERSCORE} - {*PUBLIC, "class", "doc", "dict"}
)


def documented() -> set[str]:
    """What the reference page shows: members with a docstring, and the attributes."""
    assert ":exclude-members:" not in REFERENCE.read_text(encoding="utf-8")
    text = (Client.__doc__ or "").partition("Attributes:")[2]
    listed = re.findall(r"^ +(\w[\w, ]*):", text, re.MULTILINE)
    shown = {name for names in listed for name in names.split(", ")}
    for name in PUBLIC:
        member = getattr(Client, name)
        if (callable(member) or isinstance(member, property)) and member.__doc__:
            shown.add(name)
    return shown


def test_public_names_are_documented() -> None:
    assert set(PUBLIC) - documented() == set()


def test_documented_names_exist() -> None:
    assert documented() - set(PUBLIC) == set()


class Keeper(WebSocket):
    """Keeps something on each connection, and all of its callbacks in order."""

    def __init__(self, names: list[str], value: Any) -> None:
        super().__init__(ping_interval=5, ping_timeout=5, idle_timeout=600)
        self.names = names
        self.value = value
        self.told: list[str] = []

    def on_open(self, client: Any) -> None:
        self.told.append("open")
        for name in self.names:
            setattr(client, name, self.value)

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg

    def on_ping(self, client: Any) -> None:
        self.told.append("ping")

    def on_pong(self, client: Any) -> None:
        self.told.append("pong")

    def on_close(self, client: Any) -> None:
        self.told.append("close")
        for name in self.names:
            assert getattr(client, name) is self.value


@pytest.mark.parametrize("value", [None, [10], "text"], ids=["none", "list", "text"])
def test_other_names_are_the_users(value: Any) -> None:
    handler = Keeper(FREE, value)
    with TestServer(handler) as server:
        peer = server.connect("/")
        peer.send("hello")
        assert peer.recv() == "hello"
        server.advance(6)
        peer.close()
        server.advance(1)
        assert handler.told == ["open", "ping", "pong", "close"]
        assert not server.server.clients
        assert not len(server.server.reactor.wheel)


@pytest.mark.parametrize("name", ["bucket", "sweep"])
def test_peer_that_is_dead_is_found_whatever_the_user_keeps(name: str) -> None:
    handler = Keeper([name], None)
    with TestServer(handler) as server:
        peer = server.connect("/")
        peer.vanish()
        server.advance(20)
        peer.assert_closed(1011, cause="ping_timeout")
        assert handler.told == ["open", "ping", "close"]
        assert not server.server.clients

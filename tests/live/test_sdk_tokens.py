"""The Python client and tokens, on the clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simple_ws import AuthenticationError, ConnectionClosed, Server
from simple_ws.live import LiveError
from simple_ws.testing import TestLive, TestServer
from simple_ws.tokens import Tokens


class Site:
    """A server with tokens that last a minute, and one that gives them."""

    def __init__(self) -> None:
        self.server = server = Server("127.0.0.1", 0, presence_grace=0)
        server.topic("room:*", history=50)
        self.tokens = Tokens(32 * "secret", clock=self.time)
        self.live = server.live("/live", tokens=self.tokens)
        self.kit = TestServer(server)
        self.given: list[str] = []
        self.away = False

    def time(self) -> float:
        """Seconds since 1970."""
        return 1_800_000_000.0 + self.kit.clock.now

    def get_token(self, topic: str = "") -> str:
        if self.away:
            raise OSError("no network")
        self.given.append(topic)
        if topic:
            return self.tokens.subscription("ann", topic, expires_in=60)
        return self.tokens.connection("ann", expires_in=60)

    def client(self, **options: Any) -> TestLive:
        options.setdefault("get_token", self.get_token)
        return self.kit.live("/live", **options)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.kit.close()


def test_connection_outlives_its_tokens(site: Site) -> None:
    live = site.client()
    client = live.client_id
    site.kit.advance(600)
    assert live.client_id == client
    assert 10 <= len(site.given) <= 13


def test_subscription_outlives_its_tokens(site: Site) -> None:
    live = site.client()
    ended: list[str] = []
    room = live.subscribe("room:1", get_token=site.get_token, on_gap=ended.append)
    site.kit.advance(600)
    assert room.state == "subscribed"
    assert 10 <= site.given.count("room:1") <= 13
    site.server.publish("room:1", "x")
    assert room.recv().data == "x"
    assert ended == []


def test_token_that_has_expired_while_it_was_offline(site: Site) -> None:
    live = site.client()
    room = live.subscribe("room:1", recover=True, get_token=site.get_token)
    live.offline()
    site.kit.advance(3600)
    site.server.publish("room:1", "missed")
    before = len(site.given)
    live.online()
    assert room.recv().data == "missed"
    assert len(site.given) > before
    assert room.gaps == 0


def test_server_of_tokens_that_is_away(site: Site) -> None:
    live = site.client()
    room = live.subscribe("room:1", recover=True, get_token=site.get_token)
    site.away = True
    site.kit.advance(200)
    site.server.publish("room:1", "missed")
    site.away = False
    site.kit.advance(60)
    assert live.state == "connected"
    assert room.recv().data == "missed"
    assert room.gaps == 0


def test_user_who_is_logged_out(site: Site) -> None:
    tokens = iter([site.tokens.connection("ann", expires_in=60)])

    def get_token() -> str:
        for token in tokens:
            return token
        raise AuthenticationError("logged out")

    live = site.client(get_token=get_token)
    site.kit.advance(59)
    assert live.state == "closed"
    assert isinstance(live._session.error, AuthenticationError)


def test_token_without_a_function(site: Site) -> None:
    live = site.client(token=site.get_token(), get_token=None)
    site.kit.advance(59)
    assert live.state == "connected"
    site.kit.advance(120)
    assert live.state == "closed"
    assert isinstance(live._session.error, LiveError)
    assert live._session.error.code == 109


def test_wrong_token(site: Site) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        site.client(get_token=lambda: "wrong")
    assert caught.value.code == 3500


def test_wrong_token_of_a_subscription(site: Site) -> None:
    live = site.client()
    with pytest.raises(LiveError) as caught:
        live.subscribe("room:1", get_token=lambda topic: "wrong")
    assert caught.value.code == 103
    with pytest.raises(LiveError) as caught:
        live.subscribe("room:1")
    assert caught.value.code == 103

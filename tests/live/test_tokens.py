"""Tokens of clients: who may connect and subscribe, and until when."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import DEADLINE
from live_peer import LivePeer

from simple_ws import ConnectionClosed, Server, in_thread
from simple_ws import connect as connect_client
from simple_ws.live import Connected, Subscribed
from simple_ws.testing import TestServer
from simple_ws.tokens import Tokens

SECRET = "a secret of thirty-two bytes or more"


class Site:
    """A server with tokens, and a clock that the test moves."""

    kit: TestServer

    def __init__(self) -> None:
        self.started = False

    def __call__(self, **options: Any) -> Site:
        server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
        server.topic("room:*", history=5, presence=True)
        self.tokens = Tokens(SECRET, clock=self.time)
        options.setdefault("tokens", self.tokens)
        self.live = server.live("/live", **options)
        self.server = server
        self.kit = TestServer(server, raise_server_exceptions=False)
        self.started = True
        return self

    def time(self) -> float:
        """Seconds since 1970."""
        return 1_800_000_000.0 + (self.kit.clock.now if self.started else 0)

    def advance(self, seconds: float) -> None:
        """Move the clock; clients answer their pings."""
        for _ in range(int(seconds)):
            self.kit.advance(1)
            for client in self.live.clients:
                client._live.pinged = False

    def peer(self) -> LivePeer:
        return LivePeer(self.kit)

    def connected(self, user: str = "ann", **claims: Any) -> LivePeer:
        peer = self.peer()
        peer.connect(token=self.tokens.connection(user, **claims))
        return peer


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    if made.started:
        made.kit.close()


def closed_with(peer: LivePeer) -> tuple[int, str]:
    return peer.peer.close_code, peer.peer.close_reason


def code_at_the_end(client: Any) -> int:
    """The close code of a connection that answers its pings."""
    try:
        while True:
            assert client.recv(timeout=DEADLINE) == "{}"
            client.send("{}")
    except ConnectionClosed as gone:
        return gone.code


class TestConnect:
    def test_token_says_who_it_is(self, site: Site) -> None:
        seen: list[Any] = []

        def on_connect(client: Any, request: Any) -> None:
            seen.append(request)

        site(on_connect=on_connect)
        token = site.tokens.connection("ann", expires_in=60, meta={"plan": 1})
        peer = site.peer()
        result = peer.connect(token=token)
        assert (result["expires"], result["ttl"]) == (True, 60)
        assert peer.client.client_id == "ann"
        assert seen[0].user == "ann"
        assert seen[0].claims["meta"] == {"plan": 1}

    def test_info_is_limited_as_that_of_members(self, site: Site) -> None:
        peer = site().connected(info={"name": "é" * 680})
        assert peer.client.present_as == {"name": "é" * 680}
        peer = site.peer()
        token = site.tokens.connection("ann", info={"name": "é" * 681})
        peer.send({"id": 1, "connect": {"token": token}})
        assert closed_with(peer) == (3500, "invalid token")

    def test_token_for_centuries(self, site: Site) -> None:
        peer = site().peer()
        token = site.tokens.connection("ann", exp=253_402_300_799)
        assert peer.connect(token=token)["ttl"] == 2**31 - 1

    @pytest.mark.parametrize("token", ["x", "a.b.c", "\ud800", "é" * 20_000])
    def test_wrong_token_disconnects_for_good(self, site: Site, token: str) -> None:
        peer = site().peer()
        peer.send({"id": 1, "connect": {"token": token}})
        assert peer.take() == []
        assert closed_with(peer) == (3500, "invalid token")

    def test_token_of_another_secret(self, site: Site) -> None:
        peer = site().peer()
        token = Tokens("b" * 32, clock=site.time).connection("ann")
        peer.send({"id": 1, "connect": {"token": token}})
        assert closed_with(peer) == (3500, "invalid token")

    def test_token_of_a_subscription_does_not_connect(self, site: Site) -> None:
        peer = site().peer()
        token = site.tokens.subscription("ann", "room:1")
        peer.send({"id": 1, "connect": {"token": token}})
        assert closed_with(peer) == (3500, "invalid token")

    def test_expired_token_is_told_and_another_one_connects(self, site: Site) -> None:
        token = site().tokens.connection("ann", expires_in=10)
        site.advance(11)
        peer = site.peer()
        assert peer.fail("connect", token=token) == 109
        assert peer.connect(token=site.tokens.connection("ann"))["expires"]

    def test_no_token_is_refused(self, site: Site) -> None:
        assert site().peer().fail("connect") == 101

    def test_no_token_is_nobody_where_that_is_allowed(self, site: Site) -> None:
        peer = site(allow_anonymous=True).peer()
        assert "expires" not in peer.connect()
        assert peer.client.client_id is None

    def test_topics_of_the_token(self, site: Site) -> None:
        site()
        peer = site.peer()
        subs = {"room:2": {"data": {"x": 1}, "info": "i"}}
        token = site.tokens.connection("ann", channels=["room:1"], subs=subs)
        result = peer.connect(token=token)
        assert sorted(result["subs"]) == ["room:1", "room:2"]
        assert result["subs"]["room:2"]["data"] == {"x": 1}

    def test_hook_may_say_something_else(self, site: Site) -> None:
        def on_connect(client: Any, request: Any) -> Connected:
            return Connected(user=7, expires_at=site.time() + 30, info={"name": "Bob"})

        site(on_connect=on_connect)
        peer = site.peer()
        result = peer.connect(token=site.tokens.connection("ann", info={"name": "A"}))
        assert result["ttl"] == 30
        assert peer.client.client_id == 7
        assert peer.client.present_as == {"name": "Bob"}

    def test_time_that_has_passed_is_told(self, site: Site) -> None:
        site(on_connect=lambda client, request: Connected(expires_at=1.0))
        peer = site.peer()
        assert peer.fail("connect", token=site.tokens.connection("ann")) == 110

    @pytest.mark.parametrize("wrong", [{"expires_at": "soon"}, {"info": "x" * 5000}])
    def test_what_the_hook_gives_is_checked(self, site: Site, wrong: Any) -> None:
        site(on_connect=lambda client, request: Connected(**wrong))
        peer = site.peer()
        assert peer.fail("connect", token=site.tokens.connection("ann")) == 100


class TestRefresh:
    def test_new_token_lets_the_client_stay(self, site: Site) -> None:
        peer = site().connected(expires_in=60)
        site.advance(70)
        result = peer.ask("refresh", token=site.tokens.connection("ann", expires_in=60))
        assert (result["expires"], result["ttl"]) == (True, 60)
        assert result["client"]
        site.advance(80)
        assert peer.client.is_open()
        site.advance(6)
        assert closed_with(peer) == (3005, "connection expired")

    def test_without_one_it_is_disconnected_after_the_grace(self, site: Site) -> None:
        peer = site(refresh_grace=5).connected(expires_in=60)
        site.advance(64)
        assert peer.client.is_open()
        site.advance(2)
        assert closed_with(peer) == (3005, "connection expired")

    def test_token_without_an_end(self, site: Site) -> None:
        peer = site().connected(expires_in=60)
        token = site.tokens.connection("ann", expires_in=None)
        assert "expires" not in peer.ask("refresh", token=token)
        site.advance(200)
        assert peer.client.is_open()
        assert not site.live.expiries

    @pytest.mark.parametrize(
        ("user", "expires_in", "code"), [("bob", 60, 3500), ("ann", -1, 3005)]
    )
    def test_wrong_token(
        self, site: Site, user: str, expires_in: int, code: int
    ) -> None:
        peer = site().connected()
        token = site.tokens.connection(user, expires_in=expires_in)
        peer.send({"id": 9, "refresh": {"token": token}})
        assert closed_with(peer)[0] == code

    def test_token_with_other_topics(self, site: Site) -> None:
        """It connects again, so that it is subscribed to these."""
        site()
        for before, after in ((["a"], []), ([], ["a"]), (["a"], ["b"])):
            peer = site.connected(channels=before)
            token = site.tokens.connection("ann", channels=after)
            peer.send({"id": 9, "refresh": {"token": token}})
            assert closed_with(peer) == (3010, "insufficient state")
        peer = site.connected(channels=["a"])
        peer.client.subscribe("by the server")
        token = site.tokens.connection("ann", channels=["a"])
        assert peer.ask("refresh", token=token)["expires"]

    def test_info_of_the_new_token(self, site: Site) -> None:
        peer = site().connected(info={"name": "A"})
        peer.ask("refresh", token=site.tokens.connection("ann", info={"name": "B"}))
        assert peer.client.present_as == {"name": "B"}
        peer.ask("refresh", token=site.tokens.connection("ann"))
        assert peer.client.present_as == {"name": "B"}

    def test_info_of_the_hook_stays(self, site: Site) -> None:
        site(on_connect=lambda client, request: Connected(info={"name": "Hook"}))
        peer = site.connected(info={"name": "A"})
        peer.ask("refresh", token=site.tokens.connection("ann", info={"name": "B"}))
        assert peer.client.present_as == {"name": "Hook"}

    def test_nothing_is_left_of_who_has_gone(self, site: Site) -> None:
        peer = site().connected()
        assert site.live.expiries
        peer.peer.close()
        assert not site.live.expiries

    def test_there_is_none_without_tokens(self, site: Site) -> None:
        peer = site(tokens=None).peer()
        peer.connect(token="anything")
        assert peer.fail("refresh", token="x") == 108
        assert peer.fail("sub_refresh", channel="room:1", token="x") == 108


class TestRefreshByTheServer:
    @pytest.mark.parametrize("threaded", [False, True])
    def test_hook_says_until_when(self, site: Site, threaded: bool) -> None:
        left = [30.0, 0.0]

        def on_refresh(client: Any) -> float | None:
            wait = left.pop(0)
            return site.time() + wait if wait else None

        hook = in_thread(on_refresh) if threaded else on_refresh
        peer = site(on_refresh=hook).peer()
        token = site.tokens.connection("ann", expires_in=60)
        assert "expires" not in peer.connect(token=token)
        site.advance(61)
        site.kit.wait_until(lambda: len(left) == 1)
        site.kit.settle()
        assert peer.take()[-1] == {"push": {"refresh": {"expires": True, "ttl": 30}}}
        site.advance(32)
        site.kit.wait_until(lambda: not peer.client.is_open())
        assert closed_with(peer) == (3005, "connection expired")

    def test_hook_that_fails_is_asked_once_more(self, site: Site) -> None:
        asked: list[float] = []

        def on_refresh(client: Any) -> float:
            asked.append(site.time())
            raise RuntimeError("the database is away")

        peer = site(on_refresh=on_refresh, refresh_grace=10).connected(expires_in=60)
        site.advance(61)
        assert len(asked) == 1
        site.advance(12)
        assert len(asked) == 2
        assert closed_with(peer) == (3005, "connection expired")

    def test_hook_that_does_not_answer(self, site: Site) -> None:
        go_on = threading.Event()

        @in_thread
        def on_refresh(client: Any) -> None:
            assert go_on.wait(DEADLINE)

        peer = site(on_refresh=on_refresh, refresh_grace=10).connected(expires_in=60)
        site.advance(65)
        assert peer.client.is_open()
        site.advance(8)
        assert closed_with(peer) == (3005, "connection expired")
        go_on.set()
        site.kit.settle()

    def test_expiry_without_tokens(self) -> None:
        server = Server("127.0.0.1", 0, ping=False)
        server.live(
            "/live",
            heartbeat=3600,
            on_connect=lambda client, request: Connected(expires_at=time.time() + 60),
        )
        with TestServer(server) as kit:
            peer = LivePeer(kit)
            assert "expires" not in peer.connect()
            kit.advance(58)
            assert peer.client.is_open()
            kit.advance(4)
            assert closed_with(peer) == (3005, "connection expired")

    def test_server_says_until_when(self, site: Site) -> None:
        peer = site().connected(expires_in=60)
        peer.client.refresh(site.time() + 300)
        (push,) = peer.pushes()
        assert push == {"refresh": {"expires": True, "ttl": 300}}
        site.advance(200)
        peer.take()
        assert peer.client.is_open()
        peer.client.refresh(None)
        assert peer.pushes() == [{"refresh": {}}]
        assert not site.live.expiries
        for wrong in ("soon", True):
            with pytest.raises(TypeError):
                peer.client.refresh(wrong)
        peer.client.refresh(0)
        site.kit.settle()
        assert closed_with(peer) == (3005, "connection expired")
        peer.client.refresh(None)

    def test_timers_survive_a_restart_of_the_server(self) -> None:
        server = Server("127.0.0.1", 0)
        live = server.live(
            "/live",
            heartbeat=0.5,
            heartbeat_timeout=0.4,
            on_connect=lambda client, request: Connected(expires_at=time.time() + 0.9),
        )
        for stopped_before in (True, False):
            server.start()
            url = f"ws://127.0.0.1:{server.port}/live/websocket"
            with connect_client(url) as client:
                client.send('{"id":1,"connect":{}}')
                client.recv(timeout=DEADLINE)
                if stopped_before:
                    server.stop(drain=0)
                else:
                    assert client.recv(timeout=DEADLINE) == "{}"
                    client.send("{}")
                code = code_at_the_end(client)
            assert code == (3001 if stopped_before else 3005)
        server.stop(drain=0)
        assert not live.expiries  # type: ignore[attr-defined]


class TestSubscription:
    def test_token_allows_what_authorize_does_not(self, site: Site) -> None:
        peer = site().connected()
        assert peer.fail("subscribe", channel="room:1") == 103
        token = site.tokens.subscription("ann", "room:1", expires_in=60)
        result = peer.ask("subscribe", channel="room:1", token=token)
        assert (result["expires"], result["ttl"]) == (True, 60)

    @pytest.mark.parametrize(
        ("user", "topic", "claims"),
        [
            ("bob", "room:1", {}),
            ("ann", "room:2", {}),
            ("ann", "room:1", {"client": "another"}),
        ],
    )
    def test_token_of_something_else_disconnects(
        self, site: Site, user: str, topic: str, claims: Any
    ) -> None:
        peer = site().connected()
        token = site.tokens.subscription(user, topic, **claims)
        peer.send({"id": 9, "subscribe": {"channel": "room:1", "token": token}})
        assert closed_with(peer) == (3500, "invalid token")

    def test_token_of_a_connection_does_not_subscribe(self, site: Site) -> None:
        peer = site().connected()
        token = site.tokens.connection("ann")
        assert peer.fail("subscribe", channel="room:1", token=token) == 103

    def test_wrong_and_expired_tokens_are_told(self, site: Site) -> None:
        peer = site().connected()
        assert peer.fail("subscribe", channel="room:1", token="x") == 103
        token = site.tokens.subscription("ann", "room:1", expires_in=-1)
        assert peer.fail("subscribe", channel="room:1", token=token) == 109

    def test_hook_may_refuse_all_the_same(self, site: Site) -> None:
        peer = site(on_subscribe=lambda client, topic, data: False).connected()
        token = site.tokens.subscription("ann", "room:1")
        assert peer.fail("subscribe", channel="room:1", token=token) == 103

    def test_hook_may_say_more(self, site: Site) -> None:
        def on_subscribe(client: Any, topic: str, data: Any) -> Subscribed:
            return Subscribed(data={"x": 1}, expires_at=site.time() + 20)

        peer = site(on_subscribe=on_subscribe).connected()
        token = site.tokens.subscription("ann", "room:1")
        result = peer.ask("subscribe", channel="room:1", token=token)
        assert (result["data"], result["ttl"]) == ({"x": 1}, 20)

    def test_override_of_the_token(self, site: Site) -> None:
        peer = site().connected()
        override = {"join_leave": {"value": True}, "recover": {"value": False}}
        token = site.tokens.subscription("ann", "room:1", override=override)
        result = peer.ask("subscribe", channel="room:1", token=token, recoverable=True)
        assert "recoverable" not in result
        site.connected("bob", channels=["room:1"])
        assert [list(each) for each in peer.pushes()] == [["channel", "join"]] * 2

    def test_refreshed_with_another_token(self, site: Site) -> None:
        peer = site().connected(expires_in=None)
        token = site.tokens.subscription("ann", "room:1", expires_in=60)
        peer.ask("subscribe", channel="room:1", token=token)
        site.advance(70)
        token = site.tokens.subscription("ann", "room:1", expires_in=60)
        result = peer.ask("sub_refresh", channel="room:1", token=token)
        assert result == {"expires": True, "ttl": 60}
        site.advance(80)
        peer.take()
        site.advance(6)
        (push,) = peer.pushes()
        assert push["unsubscribe"] == {"code": 2501, "reason": "subscription expired"}
        assert peer.client.is_open()
        assert not site.live.expiries

    def test_refused_refreshes(self, site: Site) -> None:
        peer = site().connected(channels=["room:9"])
        right = site.tokens.subscription("ann", "room:1")
        assert peer.fail("sub_refresh", channel="room:1", token=right) == 103
        assert peer.fail("sub_refresh", channel="room:9", token=right) == 103
        peer.ask("subscribe", channel="room:1", token=right)
        assert peer.fail("sub_refresh", channel="room:1", token="x") == 103
        assert peer.fail("sub_refresh", channel="room:1") == 107
        late = site.tokens.subscription("ann", "room:1", expires_in=-1)
        reply = peer.do("sub_refresh", channel="room:1", token=late)
        assert reply["error"]["code"] == 109
        assert reply["error"]["temporary"] is True

    def test_hook_refreshes_it(self, site: Site) -> None:
        asked: list[Any] = []

        def on_sub_refresh(client: Any, topic: str) -> bool:
            asked.append(topic)
            return False

        peer = site(on_sub_refresh=on_sub_refresh).connected(expires_in=None)
        token = site.tokens.subscription("ann", "room:1", expires_in=60)
        result = peer.ask("subscribe", channel="room:1", token=token)
        assert "expires" not in result
        site.advance(61)
        peer.take()
        assert asked == ["room:1"]
        assert "room:1" not in peer.client.topics

    def test_unsubscribed_is_not_refreshed(self, site: Site) -> None:
        peer = site().connected(expires_in=None)
        token = site.tokens.subscription("ann", "room:1", expires_in=60)
        peer.ask("subscribe", channel="room:1", token=token)
        peer.ask("unsubscribe", channel="room:1")
        assert not site.live.expiries


def test_keys_that_cannot_be_read_are_a_temporary_error(site: Site) -> None:
    # Nobody listens there; it is tried in a thread.
    peer = site(tokens=Tokens(jwks_url="http://127.0.0.1:1/keys")).peer()
    header = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"a"}').decode()
    peer.send({"id": 1, "connect": {"token": f"{header}.e30.AAAA"}})
    site.kit.wait_until(lambda: len(peer.peer.messages) == 1)
    (reply,) = peer.take()
    assert reply["error"] == {
        "code": 100,
        "message": "internal server error",
        "temporary": True,
    }
    # It may try again on the same connection.
    peer.send({"id": 2, "connect": {"token": f"{header}.e30.AAAA"}})
    assert peer.take()[0]["error"]["code"] == 100
    assert peer.client.is_open()


def test_client_that_leaves_while_its_token_is_verified(site: Site) -> None:
    asked: list[Any] = []
    begun, go_on = threading.Event(), threading.Event()
    tokens = Tokens(SECRET)

    class Slow:
        clock = staticmethod(time.time)

        def has_key(self, token: str) -> bool:
            return False

        def verify_connection(self, token: str) -> Any:
            begun.set()
            assert go_on.wait(DEADLINE)
            return tokens.verify_connection(token)

    site(tokens=Slow(), on_connect=lambda client, request: asked.append(client))
    peer = site.peer()
    peer.send({"id": 1, "connect": {"token": tokens.connection("ann")}})
    client = peer.client
    site.kit.wait_until(begun.is_set)
    other = site.peer()  # the loop serves others meanwhile
    other.send({"id": 1, "connect": {}})
    assert other.take()[0]["error"]["code"] == 101
    peer.peer.close()
    go_on.set()
    site.kit.settle()
    site.kit.advance(1)
    assert asked == []
    assert client.client_id is None
    assert not site.server.clients


def test_options_are_checked() -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(TypeError, match="tokens must be"):
        server.live("/a", tokens="secret")
    with pytest.raises(ValueError, match="refresh_grace"):
        server.live("/b", refresh_grace=-1)
    with pytest.raises(TypeError, match="allow_anonymous"):
        server.live("/c", allow_anonymous="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_refresh"):
        server.live("/d", on_refresh=lambda: 1)

"""What a client asked for that is refused, or disconnected, is not carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from live_peer import LivePeer

from simple_ws import Server
from simple_ws.live import LiveError
from simple_ws.testing import TestServer


class Site:
    """A server whose `on_connect` waits for `gate`, and notes what is asked."""

    def __init__(self, **options: Any) -> None:
        self.asked: list[tuple[str, str]] = []
        self.sent: list[Any] = []
        self.gates: list[asyncio.Future[Any]] = []
        server = self.server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
        server.topic("room:*", history=10, presence=True)
        given: dict[str, Any] = {
            "authorize": self.authorize,
            "on_connect": self.on_connect,
            "on_send": lambda client, data: self.sent.append(data),
            **options,
        }
        self.live = server.live("/live", **given)
        self.live.method("echo")(lambda client, data: data)
        self.kit = TestServer(server, raise_server_exceptions=False)

    def authorize(self, client: Any, action: str, topic: str) -> bool:
        self.asked.append((action, topic))
        return True

    async def on_connect(self, client: Any, request: Any) -> Any:
        return await self.wait()

    async def wait(self) -> Any:
        self.gates.append(asyncio.get_running_loop().create_future())
        return await self.gates[-1]

    def open(self, outcome: Any) -> None:
        """End the wait with a result, or an error."""
        gate = self.gates.pop()
        if isinstance(outcome, Exception):
            gate.set_exception(outcome)
        else:
            gate.set_result(outcome)
        self.kit.settle()


ALL = (
    {"id": 2, "subscribe": {"channel": "room:1"}},
    {"id": 3, "publish": {"channel": "room:1", "data": "x"}},
    {"id": 4, "history": {"channel": "room:1", "limit": -1}},
    {"id": 5, "presence": {"channel": "room:1"}},
    {"id": 6, "rpc": {"method": "echo", "data": 1}},
    {"send": {"data": "x"}},
)


@pytest.fixture
def made() -> Iterator[list[Site]]:
    sites: list[Site] = []
    yield sites
    for site in sites:
        site.kit.close()


@pytest.mark.parametrize(
    "outcome",
    [
        False,
        LiveError(400, "no"),
        LiveError(400, "not now", temporary=True),
        ValueError("a mistake"),
        "what on_connect must not return",
    ],
    ids=str,
)
def test_commands_behind_a_connect_that_is_refused(
    made: list[Site], outcome: Any
) -> None:
    made.append(site := Site())
    peer = LivePeer(site.kit)
    peer.send({"id": 1, "connect": {}}, *ALL)
    site.kit.settle()
    site.open(outcome)
    assert site.asked == []
    assert site.sent == []
    replies = {each.get("id"): each for each in peer.take()}
    assert "error" in replies[1]
    assert all("error" in each for each in replies.values()), replies


def test_commands_behind_the_end(made: list[Site]) -> None:
    async def authorize(client: Any, action: str, topic: str) -> bool:
        made[0].asked.append((action, topic))
        return bool(await made[0].wait())

    made.append(site := Site(authorize=authorize, on_connect=None))
    peer = LivePeer(site.kit)
    peer.connect()
    peer.send({"id": 9, "unsubscribe": {"channel": "a"}}, *ALL)
    site.kit.settle()
    peer.client.close(4500, "banned")  # the peer need not answer
    assert site.asked == [("subscribe", "room:1")]
    site.open(True)
    assert site.asked == [("subscribe", "room:1")]
    assert site.sent == []
    assert site.server.count("room:1") == 0
    assert not site.server.present("room:1")


@pytest.mark.parametrize(
    "answer",
    [
        *(401, 1, "no", (False, "no"), [False], {"ok": False}),
        *(ValueError("no"), Future(), len, (each for each in ())),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_no_answer_allows_nothing(
    made: list[Site], answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "simple_ws")
    site = Site(authorize=lambda client, action, topic: answer, on_connect=None)
    made.append(site)
    peer = LivePeer(site.kit)
    peer.connect()
    assert peer.fail("subscribe", channel="room:1") == 100
    assert peer.fail("rpc", method="echo", data=1) == 100
    assert "authorize returned" in caplog.text


@pytest.mark.parametrize("answer", [None, False])
def test_no_is_an_answer(made: list[Site], answer: Any) -> None:
    site = Site(authorize=lambda client, action, topic: answer, on_connect=None)
    made.append(site)
    peer = LivePeer(site.kit)
    peer.connect()
    assert peer.fail("subscribe", channel="room:1") == 103


@pytest.mark.parametrize("allowed", [False, True])
def test_who_may_not_see_who_is_there_is_not_told_who_comes(
    made: list[Site], allowed: bool
) -> None:
    def authorize(client: Any, action: str, topic: str) -> bool:
        return allowed or action == "subscribe"

    made.append(site := Site(authorize=authorize, on_connect=None))
    peer, other = LivePeer(site.kit), LivePeer(site.kit)
    peer.connect()
    other.connect()
    peer.ask("subscribe", channel="room:1", join_leave=True)
    other.ask("subscribe", channel="room:1")
    site.kit.settle()
    assert len(peer.pushes()) == (2 if allowed else 0)

"""Who is present, where that is not known at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.server.presence import Present
from simple_ws.testing import TestServer


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False)
    server.topic("hall", presence=True)
    server.live("/live", authorize=allow)
    with TestServer(server) as kit:
        yield kit


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("presence", {"presence": {"ann": {"client": "ann", "user": "ann"}}}),
        ("presence_stats", {"num_clients": 1, "num_users": 1}),
    ],
)
def test_answer_comes_when_it_is_known(
    kit: TestServer,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    result: dict[str, object],
) -> None:
    peer = LivePeer(kit)
    peer.connect()
    present = Present({}, stale=True)
    monkeypatch.setattr(kit.server, "present", lambda topic: present)
    peer.send({"id": 7, method: {"channel": "hall"}})
    kit.advance(1)
    assert peer.ask("ping") == {}  # others need not wait
    assert peer.take() == []
    present = Present({"ann": None}, stale=False)
    kit.advance(1)
    assert peer.take() == [{"id": 7, method: result}]


def test_what_stays_unknown_is_an_error_that_is_tried_again(
    kit: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = LivePeer(kit)
    peer.connect()
    monkeypatch.setattr(kit.server, "present", lambda topic: Present({}, stale=True))
    peer.send({"id": 7, "presence": {"channel": "hall"}})
    kit.advance(5)
    (reply,) = peer.take()
    assert (reply["error"]["code"], reply["error"]["temporary"]) == (100, True)

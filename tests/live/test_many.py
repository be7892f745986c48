"""Very many clients that wait for an engine: no turn of the loop serves all of them."""

from __future__ import annotations

from typing import Any

import pytest
from late_history import LateHistory
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.constants import TURN
from simple_ws.server.arrivals import Arriving
from simple_ws.testing import TestServer

CLIENTS = 60
#: Clients that a turn has time for, on the clock of these tests.
A_TURN = 10


class Crowd:
    """Clients that wait for a source; each that is answered takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = Server("127.0.0.1", 0, ping=False)
        server.topic("room:*", history=5)
        live: Any = server.live("/live", authorize=allow)
        self.kit = kit = TestServer(server)
        self.source = LateHistory()

        def arriving(topic: str, since: Any, begin: Any, arrive: Any) -> Arriving:
            def arrive_slowly(arrival: Any) -> None:
                self.answer()
                arrive(arrival)

            turns, reactor = server._histories.turns, server.reactor
            return Arriving(self.source, reactor, turns, since, begin, arrive_slowly)

        monkeypatch.setattr(server, "_arriving", arriving)
        really_end = live._topics.end

        def end(*args: Any) -> Any:
            self.answer()
            return really_end(*args)

        monkeypatch.setattr(live._topics, "end", end)
        self.peers = [LivePeer(kit) for _ in range(CLIENTS)]
        for peer in self.peers:
            peer.connect()
            peer.send({"id": 99, "subscribe": {"channel": "room:1"}})
        self.answered = 0

    def answer(self) -> None:
        self.answered += 1
        self.kit.clock.now += TURN / A_TURN

    def turns(self) -> list[int]:
        """Run until all are answered; return how many each turn has served."""
        served = []
        while self.answered < CLIENTS:
            before = self.answered
            assert self.kit._turn()
            served.append(self.answered - before)
        return served

    def replies(self) -> list[Any]:
        return [each for peer in self.peers for each in peer.take()]


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Crowd(monkeypatch)
    yield made
    made.kit.close()


def test_engine_comes_back(crowd: Crowd) -> None:
    crowd.source.come()
    assert max(crowd.turns()) <= A_TURN + 2
    assert all("subscribe" in reply for reply in crowd.replies())


def test_engine_stays_away(crowd: Crowd) -> None:
    crowd.kit.clock.now += 4
    assert max(crowd.turns()) <= A_TURN + 2
    replies = crowd.replies()
    assert len(replies) == CLIENTS
    assert all(reply["error"]["temporary"] for reply in replies)


def test_engine_has_lost_messages(crowd: Crowd) -> None:
    crowd.source.come()
    crowd.turns()
    crowd.replies()
    crowd.answered = 0
    (live,) = {client._live.live for client in crowd.kit.server.clients}  # type: ignore[attr-defined]
    live.on_gap("room:1", 1)
    assert crowd.kit.server.publish("room:1", "would hide it") == 0
    assert max(crowd.turns()) <= A_TURN + 2
    pushes = [each["push"] for each in crowd.replies()]
    assert len(pushes) == CLIENTS
    assert all(push["unsubscribe"]["code"] == 2500 for push in pushes)


def test_engine_comes_back_at_the_last_moment(crowd: Crowd) -> None:
    crowd.kit.clock.now += 4
    crowd.kit._turn()
    crowd.source.come()
    crowd.turns()
    assert len(crowd.replies()) == CLIENTS

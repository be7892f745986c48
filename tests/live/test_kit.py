"""`TestServer.live`: clients of `live` in memory, on the clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_peer import allow

from simple_ws import (
    AuthenticationError,
    ConnectionClosed,
    HandshakeRefused,
    InvalidState,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.live import Connected, LiveError, Message
from simple_ws.testing import TestServer


class Site:
    """A server, and its kit once it is used."""

    def __init__(self) -> None:
        self.kits: list[TestServer] = []

    def __call__(self, **options: Any) -> TestServer:
        self.server = server = Server("127.0.0.1", 0, presence_grace=0)
        server.topic("room:*", history=5, presence=True)
        options.setdefault("authorize", allow)
        self.live = server.live("/live", **options)
        server.mount("/raw", WebSocket())
        kit = TestServer(server)
        self.kits.append(kit)
        return kit


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    for kit in made.kits:
        kit.close()


def test_two_clients_meet(site: Site) -> None:
    kit = site()
    ann, ben = kit.live("/live"), kit.live("/live")
    came: list[str] = []
    room = ann.subscribe("room:1", on_join=lambda info: came.append(info.client))
    ben.subscribe("room:1").publish({"text": "hello"})
    assert room.recv().data == {"text": "hello"}
    assert room.publications == []
    assert came[-1] == ben.client_id
    assert list(room.presence()) == [ann.client_id, ben.client_id]
    assert len(room.history().publications) == 1
    site.server.broadcast("all")
    assert ann.recv() == Message("all")
    assert ann.peer is not None
    assert ann.peer.client.topics == {"room:1"}


@pytest.mark.parametrize("kind", ["plain", "async", "thread"])
def test_calls(site: Site, kind: str) -> None:
    def double(client: Any, data: Any) -> Any:
        if data is None:
            raise LiveError(400, "nothing")
        return 2 * data

    async def awaited(client: Any, data: Any) -> Any:
        return double(client, data)

    async def connected(client: Any, request: Any) -> None:
        """So that there is a loop."""

    functions = {"plain": double, "async": awaited, "thread": in_thread(double)}
    kit = site(on_connect=connected)
    site.live.method("double")(functions[kind])
    live = kit.live("/live")
    assert live.rpc("double", 4) == 8
    with pytest.raises(LiveError, match="nothing"):
        live.rpc("double")


def test_refusals(site: Site) -> None:
    kit = site(on_connect=lambda client, request: request.token == "right")
    with pytest.raises(LiveError):
        kit.live("/live", token="wrong")
    with pytest.raises(HandshakeRefused):
        kit.live("/other")
    with pytest.raises(TypeError):
        kit.live("/live", no_such_option=1)
    assert kit.live("/live", get_token=lambda: "right").state == "connected"

    def refuse() -> str:
        raise AuthenticationError("no")

    with pytest.raises(AuthenticationError):
        kit.live("/live", get_token=refuse)


def test_offline_and_online(site: Site) -> None:
    kit = site()
    live = kit.live("/live")
    room = live.subscribe("room:1", recover=True)
    live.offline()
    assert live.state == "connecting"
    assert live.peer is None
    waiting = room.enqueue("mine")
    site.server.publish("room:1", "missed")
    kit.advance(3600)
    assert live.state == "connecting"
    assert not waiting.done()
    live.online()
    assert live.state == "connected"
    assert [room.recv().data, room.recv().data] == ["missed", "mine"]
    assert waiting.result(0) is None
    assert room.gaps == 0


def test_more_than_is_kept(site: Site) -> None:
    kit = site()
    live = kit.live("/live")
    room = live.subscribe("room:1", recover=True)
    live.offline()
    for number in range(6):
        site.server.publish("room:1", str(number))
    live.online()
    assert room.gaps == 1
    room.publish("next")
    assert room.recv().gap is True


def test_cut_comes_back_by_itself(site: Site) -> None:
    kit = site()
    live = kit.live("/live")
    room = live.subscribe("room:1", recover=True)
    live.cut()
    site.server.publish("room:1", "missed")
    kit.advance(1)
    assert live.state == "connected"
    assert [each.data for each in room.publications] == ["missed"]
    live.cut()
    site.server.publish("room:1", "missed, too")
    assert [room.recv().data, room.recv().data] == ["missed", "missed, too"]


def test_time_passes(site: Site) -> None:
    kit = site(heartbeat=20, heartbeat_timeout=5)
    live = kit.live("/live", ping_delay=5)
    client = live.client_id
    kit.advance(3600)
    assert live.client_id == client
    assert live.peer is not None
    live.peer.vanish()
    kit.advance(60)
    assert live.state == "connected"
    assert live.client_id != client


def test_waiting_moves_the_clock(site: Site) -> None:
    kit = site()
    live = kit.live("/live")
    room = live.subscribe("room:1")
    began = kit.clock.now
    with pytest.raises(TimeoutError):
        room.recv(timeout=30)
    assert kit.clock.now == began + 30
    live.offline()
    with pytest.raises(TimeoutError):
        live.publish("room:1", 1, timeout=7)
    assert kit.clock.now == began + 37
    with pytest.raises(AssertionError, match="offline"):
        room.recv()


def test_closed_by_the_server(site: Site) -> None:
    kit = site()
    live = kit.live("/live")
    room = live.subscribe("room:1")
    (client,) = site.server.clients
    client.close(3501, "bad request")
    live.assert_closed(3501)
    with pytest.raises(ConnectionClosed):
        room.recv()


def test_callbacks(site: Site) -> None:
    kit = site(on_connect=lambda client, request: Connected(topics=["news"]))
    refused: list[Exception] = []

    def on_state(state: str, error: Exception | None) -> None:
        if holder:
            try:
                holder[0].rpc("x")
            except InvalidState as wrong:
                refused.append(wrong)
            holder[0].enqueue("news", state)

    holder: list[Any] = []
    live = kit.live("/live", on_state=on_state)
    holder.append(live)
    live.cut()
    kit.advance(1)
    assert len(refused) == 2
    assert [live.recv().data, live.recv().data] == ["connecting", "connected"]
    with live:
        pass
    assert live.state == "closed"
    assert not site.server.clients


def test_limits_of_the_server(site: Site) -> None:
    kit = site(command_rate=(10, 5))
    live = kit.live("/live")
    room = live.subscribe("room:1", recover=True)
    futures = [room.enqueue(number) for number in range(20)]
    kit.advance(30)
    assert [each.result(0) for each in futures] == 20 * [None]
    assert [each.data for each in room.publications] == list(range(20))

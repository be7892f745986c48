"""The server API by its client for Python, `cent`: in one process, with workers, and on
two nodes of a Redis, where requests reach another process than the clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import Peer, open_peer
from live_peer import allow
from nodes import Nodes, broker_server
from programs import Program, until
from redis_server import redis_server

from simple_ws import Server
from simple_ws.live import Connected
from simple_ws.live.api import methods as api_methods

cent = pytest.importorskip("cent", reason="no cent for this Python")

pytestmark = pytest.mark.one_backend

KEY = "key"
WORKERS = """
from simple_ws.live import Connected
from simple_ws.live.api import methods as api_methods
server.topic("room:*", history=100, presence=True)
server.live(
    "/live",
    authorize=lambda client, action, topic: True,
    on_connect=lambda client, request: Connected(user=request.data),
    api_key="key",
)
"""


def prepare(server: Server) -> None:
    server.topic("room:*", history=100, presence=True)
    server.live(
        "/live",
        authorize=allow,
        on_connect=lambda client, request: Connected(user=request.data),
        api_key=KEY,
    )


class Site:
    """Where the API is, and how clients connect.

    Args:
        stack: ends what is begun.
        urls: of the API, one for each process that can be chosen.
        connect: opens a connection of the protocol, on another node if it can be.
    """

    def __init__(self, stack: ExitStack, urls: list[str], connect: Any) -> None:
        self.stack, self.urls, self._connect = stack, urls, connect

    def client(self, user: str) -> SocketPeer:
        return SocketPeer(self.stack.enter_context(self._connect()), user)


class SocketPeer:
    """A client of the protocol on a socket."""

    def __init__(self, peer: Peer, user: str) -> None:
        self.peer = peer
        self._lines: list[dict[str, Any]] = []
        self.name = self.ask("connect", data=user)["client"]

    def read(self) -> dict[str, Any]:
        while not self._lines:
            frame = self.peer.read_message()
            assert isinstance(frame, str)
            lines = [json.loads(line) for line in frame.split("\n")]
            self._lines = [line for line in lines if line]
        return self._lines.pop(0)

    def ask(self, method: str, /, **params: Any) -> dict[str, Any]:
        self.peer.text(json.dumps({"id": 1, method: params}))
        reply = self.read()
        assert reply["id"] == 1
        result = reply[method]
        assert isinstance(result, dict)
        return result

    def push(self, kind: str) -> Any:
        """The next push of a kind."""
        while kind not in (push := self.read()["push"]):
            pass
        return push[kind]


@pytest.fixture(scope="module", params=["memory", "workers", "redis"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        if request.param == "memory":
            server = Server("127.0.0.1", 0)
            prepare(server)
            server.start()
            stack.callback(server.stop, 0)
            ports, connect = [server.port], lambda: open_peer(server, "/live/websocket")
        elif request.param == "workers":
            program = stack.enter_context(Program.with_workers(WORKERS))
            program.wait_for_workers()
            ports = [program.port]
            connect = lambda: Peer(program.connect()).shake("/live/websocket")  # noqa: E731
        else:
            nodes = Nodes(stack, stack.enter_context(redis_server()), prepare=prepare)
            ports = [server.port for server in nodes.servers]
            connect = lambda: open_peer(nodes.servers[1], "/live/websocket")  # noqa: E731
        urls = [f"http://127.0.0.1:{port}/live/api" for port in ports]
        yield Site(stack, urls, connect)


@pytest.fixture
def api(site: Site) -> Iterator[Any]:
    with cent.Client(site.urls[0], KEY) as client:
        yield client


def settled(api: Any, topic: str, count: int) -> None:
    """Wait until so many subscribers of a topic are known to all nodes."""
    request = cent.ChannelsRequest(pattern=topic)
    until(lambda: _count(api.channels(request), topic) == count)


def _count(found: Any, topic: str) -> int:
    info = found.channels.get(topic)
    return 0 if info is None else info.num_clients


def test_publish_and_history(site: Site, api: Any) -> None:
    reader = site.client("ann")
    reader.ask("subscribe", channel="room:publish")
    request = cent.PublishRequest(
        channel="room:publish", data={"n": 1}, idempotency_key="order 1"
    )
    placed = api.publish(request)
    assert reader.push("pub") == {"data": {"n": 1}, "offset": 1}
    assert placed.offset == 1
    # By any process: it was published already, there.
    for url in site.urls:
        with cent.Client(url, KEY) as other:
            assert other.publish(request) == placed
    api.publish(cent.PublishRequest(channel="room:publish", data=None, b64data="AAE="))
    api.publish(
        cent.PublishRequest(
            channel="room:publish", data=[3], skip_history=True, tags={"a": "b"}
        )
    )
    got = [reader.push("pub") for _ in range(2)]
    assert {"data": "AAE=", "offset": 2} in got
    assert {"data": [3], "tags": {"a": "b"}} in got
    page = api.history(cent.HistoryRequest(channel="room:publish", limit=10))
    assert [(each.data, each.offset) for each in page.publications] == [
        ({"n": 1}, 1),
        ("AAE=", 2),
    ]
    since = cent.StreamPosition(offset=placed.offset, epoch=placed.epoch)
    request_since = cent.HistoryRequest(channel="room:publish", limit=1, since=since)
    assert [each.offset for each in api.history(request_since).publications] == [2]
    back = cent.HistoryRequest(channel="room:publish", limit=1, reverse=True)
    assert [each.offset for each in api.history(back).publications] == [2]


def test_history_is_removed(site: Site, api: Any) -> None:
    topic, wait = "room:removed", cent.HistoryRequest(channel="room:removed", limit=9)
    assert api.history_remove(cent.HistoryRemoveRequest(channel=topic))
    reader = site.client("ann")  # there is a copy where it is
    reader.ask("subscribe", channel=topic)
    first = api.publish(cent.PublishRequest(channel=topic, data=1, idempotency_key="a"))
    assert reader.push("pub")["offset"] == 1
    api.history_remove(cent.HistoryRemoveRequest(channel=topic))
    for url in site.urls:
        with cent.Client(url, KEY) as other:
            page = other.history(wait)
            assert (page.publications, page.offset) == ([], 1)
    page = reader.ask("history", channel=topic, limit=9)
    assert (page["publications"], page["offset"]) == ([], 1)
    again = api.publish(cent.PublishRequest(channel=topic, data=1, idempotency_key="a"))
    assert again.offset == reader.push("pub")["offset"] == 2
    since = {"offset": first.offset, "epoch": first.epoch}
    page = reader.ask("history", channel=topic, limit=9, since=since)
    assert [each["offset"] for each in page["publications"]] == [2]


def test_broadcast(site: Site, api: Any) -> None:
    reader = site.client("ann")
    for topic in "room:b1", "room:b2":
        reader.ask("subscribe", channel=topic)
    request = cent.BroadcastRequest(channels=["room:b1", "room:b2"], data={"n": 1})
    responses = api.broadcast(request).responses
    assert [each.result.offset for each in responses if each.result] == [1, 1]
    assert [reader.push("pub")["data"] for _ in range(2)] == [{"n": 1}] * 2


def test_subscriptions_by_the_server(site: Site, api: Any) -> None:
    first = api.publish(cent.PublishRequest(channel="room:sub", data=1))
    api.publish(cent.PublishRequest(channel="room:sub", data=2))
    clients = [site.client("sue") for _ in range(2)]
    since = cent.StreamPosition(offset=first.offset, epoch=first.epoch)
    api.subscribe(
        cent.SubscribeRequest(
            user="sue", channel="room:sub", data={"a": 1}, recover_since=since
        )
    )
    for client in clients:
        assert client.push("subscribe")["data"] == {"a": 1}
        assert client.push("pub") == {"data": 2, "offset": 2}
    api.unsubscribe(
        cent.UnsubscribeRequest(user="sue", channel="room:sub", client=clients[0].name)
    )
    assert clients[0].push("unsubscribe")["code"] == 2000
    settled(api, "room:sub", 1)
    api.unsubscribe(cent.UnsubscribeRequest(user="sue", channel="room:sub"))
    assert clients[1].push("unsubscribe")["code"] == 2000


def test_refresh_and_disconnect(site: Site, api: Any) -> None:
    one, two, three = (site.client("rob") for _ in range(3))
    expiry = int(time.time()) + 3600
    api.refresh(cent.RefreshRequest(user="rob", client=one.name, expire_at=expiry))
    assert one.push("refresh")["expires"] is True
    api.refresh(cent.RefreshRequest(user="rob", client=one.name, expired=True))
    assert one.peer.read_close()[0] == 3005
    banned = cent.Disconnect(code=4501, reason="banned")
    api.disconnect(
        cent.DisconnectRequest(user="rob", whitelist=[three.name], disconnect=banned)
    )
    assert two.peer.read_close() == (4501, "banned")
    assert three.ask("ping") == {}
    api.disconnect(cent.DisconnectRequest(user="rob"))
    assert three.peer.read_close() == (3503, "force disconnect")


def test_presence_and_channels(site: Site, api: Any) -> None:
    for user in "ann", "bob":
        site.client(user).ask("subscribe", channel="room:here")
    settled(api, "room:here", 2)
    # A node where nobody is subscribed asks the others before it answers.
    request = cent.PresenceRequest(channel="room:here")
    assert set(api.presence(request).presence) == {"ann", "bob"}
    assert api.presence(request).presence["ann"].user == "ann"
    stats = api.presence_stats(cent.PresenceStatsRequest(channel="room:here"))
    assert (stats.num_clients, stats.num_users) == (2, 2)
    assert api.channels(cent.ChannelsRequest(pattern="nothing*")).channels == {}


def test_info(site: Site, api: Any) -> None:
    site.client("ann")
    nodes = api.info(cent.InfoRequest()).nodes
    assert sum(node.num_clients for node in nodes) >= 1
    assert all(node.uid and node.version.startswith("simple_ws") for node in nodes)
    assert len({node.uid for node in nodes}) == len(nodes)


def test_errors(site: Site, api: Any) -> None:
    for request, code in [
        (cent.PublishRequest(channel="", data=1), 107),
        (cent.PublishRequest(channel="hall", data=1, idempotency_key="a"), 108),
        (cent.DisconnectRequest(user=""), 107),
    ]:
        with pytest.raises(cent.CentApiResponseError) as raised:
            api._send(request)
        assert raised.value.code == code
    with pytest.raises(cent.CentApiResponseError) as raised:
        api.presence(cent.PresenceRequest(channel="hall"))
    assert raised.value.code == 108
    with (
        cent.Client(site.urls[0], "wrong") as stranger,
        pytest.raises(cent.CentUnauthorizedError),
    ):
        stranger.info(cent.InfoRequest())
    with pytest.raises(cent.CentTransportError) as transport:
        api.connections(cent.ConnectionsRequest(user="ann", expression=""))
    assert transport.value.status_code in (404, 405)


@pytest.mark.parametrize("parallel", [False, True])
def test_batch(site: Site, api: Any, parallel: bool) -> None:
    topic = f"room:batch {parallel}"
    requests = [
        cent.PublishRequest(channel=topic, data=1),
        cent.BroadcastRequest(channels=[topic, topic], data=2),
        cent.HistoryRequest(channel=topic, limit=0),
        cent.InfoRequest(),
    ]
    replies = api.batch(cent.BatchRequest(requests=requests, parallel=parallel)).replies
    one, two, history, info = replies
    assert isinstance(one, cent.PublishResult)
    assert isinstance(two, cent.BroadcastResult)
    assert isinstance(history, cent.HistoryResult)
    assert isinstance(info, cent.InfoResult)
    places = [
        one.offset,
        *(each.result.offset for each in two.responses if each.result),
    ]
    assert sorted(places) == [1, 2, 3]
    assert parallel or history.offset == 3


def test_engine_that_is_away_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_methods, "_ENGINE_TIMEOUT", 0.2)
    with ExitStack() as stack:
        engine = stack.enter_context(broker_server())
        nodes = Nodes(stack, engine, 1, prepare=prepare)
        url = f"http://127.0.0.1:{nodes.servers[0].port}/live/api"
        api = stack.enter_context(cent.Client(url, KEY))
        request = cent.PublishRequest(
            channel="room:away", data=1, idempotency_key="order 7"
        )
        engine.stop()
        try:
            for call, asked in (
                (api.publish, request),
                (api.history_remove, cent.HistoryRemoveRequest(channel="room:away")),
            ):
                with pytest.raises(cent.CentApiResponseError) as raised:
                    call(asked)
                assert raised.value.code == 100
        finally:
            engine.go_on()
        monkeypatch.undo()
        # It was stored all the same, and then removed: it may be sent again.
        offset = api.publish(request).offset
        page = api.history(cent.HistoryRequest(channel="room:away", limit=9))
        assert [each.offset for each in page.publications] == [offset]


def test_asyncio(site: Site) -> None:
    async def use() -> list[Any]:
        async with cent.AsyncClient(site.urls[-1], KEY) as api:
            request = cent.PublishRequest(channel="room:async", data=1)
            placed = [await api.publish(request) for _ in range(3)]
            page = await api.history(cent.HistoryRequest(channel="room:async", limit=9))
            assert [each.offset for each in page.publications] == [1, 2, 3]
            info = await api.info(cent.InfoRequest())
            assert info.nodes
            await api.disconnect(cent.DisconnectRequest(user="nobody"))
            return [each.offset for each in placed]

    assert asyncio.run(use()) == [1, 2, 3]

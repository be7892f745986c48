"""The unmodified SDK for asyncio, PyPI `centrifuge-python`, against `Server.live`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from live_peer import allow
from sdk_events import Events, leave, run_test

from simple_ws import Server
from simple_ws.live import Connected, LiveError

centrifuge = pytest.importorskip(
    "centrifuge", reason="centrifuge-python is not installed"
)


class World:
    """A server, and clients of the SDK."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.port = 0
        self.clients: list[Any] = []
        self.start()

    def start(self) -> None:
        self.server = server = Server("127.0.0.1", self.port, presence_grace=0)
        server.topic("room:*", history=100, presence=True)
        self.live = server.live("/live", authorize=allow, **self.options)
        server.start()
        self.port = server.port

    async def client(self, **options: Any) -> tuple[Any, Events]:
        events = Events()
        url = f"ws://127.0.0.1:{self.port}/live/websocket"
        options.setdefault("min_reconnect_delay", 0.01)
        options.setdefault("max_reconnect_delay", 0.1)
        client = centrifuge.Client(url, events=events, **options)
        self.clients.append(client)
        await client.connect()
        return client, events

    async def subscribe(self, client: Any, topic: str, **options: Any) -> Any:
        events = Events()
        sub = client.new_subscription(topic, events=events, **options)
        await sub.subscribe()
        await events.until("subscribed")
        return sub, events

    async def stop(self) -> None:
        await leave(*self.clients)
        self.server.stop(drain=0)


def run(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    run_test(lambda: World(**options), test)


def test_connect_subscribe_publish_and_the_rest() -> None:
    async def test(world: World) -> None:
        @world.live.method
        def add(client: Any, data: Any) -> Any:
            if data is None:
                raise LiveError(400, "nothing to add")
            return data[0] + data[1]

        client, events = await world.client(data={"who": "ann"})
        (connected,) = await events.until("connected")
        assert connected.data == {"hello": {"who": "ann"}}
        sub, told = await world.subscribe(
            client, "room:1", recoverable=True, join_leave=True
        )
        await sub.publish({"text": "hello"})
        world.server.publish("room:1", "from the server")
        await told.until("publication", 2)
        assert told.data == [{"text": "hello"}, "from the server"]
        assert [each.pub.offset for each in told.of("publication")] == [1, 2]
        assert (await client.rpc("add", [1, 2])).data == 3
        with pytest.raises(centrifuge.exceptions.ReplyError) as caught:
            await client.rpc("add", None)
        assert caught.value.code == 400
        history = await sub.history(limit=10)
        assert [each.data for each in history.publications] == told.data
        assert history.offset == 2
        (join,) = await told.until("join")
        assert join.info.client == client.client_id
        assert list((await sub.presence()).clients) == [client.client_id]
        assert (await sub.presence_stats()).num_clients == 1
        await sub.unsubscribe()
        await told.until("unsubscribed")
        assert (await client.rpc("add", [1, 1])).data == 2
        assert world.server.count("room:1") == 0

    def on_connect(client: Any, request: Any) -> Connected:
        return Connected(data={"hello": request.data})

    run(test, on_connect=on_connect)


def test_refused_client_stays_away() -> None:
    async def test(world: World) -> None:
        _, events = await world.client(token="wrong")
        (gone,) = await events.until("disconnected")
        assert gone.code == 101
        _, events = await world.client(token="right")
        await events.until("connected")

    run(test, on_connect=lambda client, request: request.token == "right" or False)


def test_what_is_missed_while_the_connection_is_lost_is_recovered() -> None:
    async def test(world: World) -> None:
        client, events = await world.client()
        _, told = await world.subscribe(client, "room:1", recoverable=True)
        await events.until("connected")
        for number in range(50):
            world.server.publish("room:1", number_of(number))
            if number % 10 == 9:
                for connection in world.server.clients:
                    connection.terminate()
                await events.until("connected", 1 + (number + 1) // 10)
        await told.until("publication", 50)
        assert told.data == [number_of(number) for number in range(50)]
        assert all(each.recovered for each in told.of("subscribed")[1:])

    run(test)


def test_more_than_is_kept_is_told() -> None:
    async def test(world: World) -> None:
        client, events = await world.client(min_reconnect_delay=0.2)
        _, told = await world.subscribe(client, "room:1", recoverable=True)
        world.server.publish("room:1", "first")
        await told.until("publication")
        for connection in world.server.clients:
            connection.terminate()
        for number in range(300):
            world.server.publish("room:1", number_of(number))
        await events.until("connected", 2)
        await told.until("subscribed", 2)
        last = told.of("subscribed")[-1]
        assert last.was_recovering
        if not last.recovered:  # it was back before all were published otherwise
            assert told.data == ["first"]
        world.server.publish("room:1", "next")
        await told.until("publication", 2)
        assert told.data[-1] == "next"

    run(test)


def test_server_that_restarts_is_told_to_have_lost_its_history() -> None:
    async def test(world: World) -> None:
        client, events = await world.client()
        _, told = await world.subscribe(client, "room:1", recoverable=True)
        world.server.publish("room:1", "before")
        await told.until("publication")
        await asyncio.to_thread(world.server.stop)
        (_, going) = await events.until("connecting", 2)
        assert going.code == 3001
        world.start()
        await events.until("connected", 2)
        await told.until("subscribed", 2)
        assert not told.of("subscribed")[-1].recovered
        world.server.publish("room:1", "after")
        await told.until("publication", 2)
        assert told.data == ["before", "after"]

    run(test)


def test_heartbeats_keep_the_client() -> None:
    async def test(world: World) -> None:
        loop, pongs = asyncio.get_running_loop(), asyncio.Semaphore(0)
        receive = world.live.on_message

        def on_message(msg: Any, client: Any) -> None:
            if msg == "{}":
                loop.call_soon_threadsafe(pongs.release)
            receive(msg, client)

        world.live.on_message = on_message
        _, events = await world.client()
        for _ in range(3):
            await pongs.acquire()
        assert len(events.of("connected")) == 1
        assert not events.of("disconnected")

    run(test, heartbeat=0.5, heartbeat_timeout=0.3)


def test_subscriptions_by_the_server() -> None:
    async def test(world: World) -> None:
        _, events = await world.client()
        (subscribed,) = await events.until("subscribed")
        assert subscribed.channel == "room:me"
        world.server.publish("room:me", {"a": 1})
        await events.until("publication")
        (connection,) = world.server.clients
        connection.subscribe("news")
        await events.until("subscribed", 2)
        world.server.publish("news", {"b": 2})
        await events.until("publication", 2)
        assert events.data == [{"a": 1}, {"b": 2}]
        connection.unsubscribe("news")
        (gone,) = await events.until("unsubscribed")
        assert gone.channel == "news"
        connection.terminate()
        world.server.publish("room:me", "missed")
        await events.until("publication", 3)
        assert events.data[-1] == "missed"

    run(test, on_connect=lambda client, request: Connected(topics=["room:me"]))


def test_loops_of_subscribe_and_unsubscribe_without_waiting() -> None:
    async def test(world: World) -> None:
        client, _ = await world.client()
        events = Events()
        sub = client.new_subscription("room:1", events=events)
        for _ in range(20):
            await sub.subscribe()
            await sub.unsubscribe()
        await sub.subscribe()
        await events.until("subscribed")
        await sub.publish("x")
        await events.until("publication")

    run(test)


def number_of(number: int) -> str:
    return json.dumps({"n": number})

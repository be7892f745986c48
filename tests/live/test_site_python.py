"""The SDK for asyncio, PyPI `centrifuge-python`, against the server of a Centrifugo
configuration: tokens, forced recovery, and what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import DEADLINE
from sdk_events import Events, leave

from simple_ws.cli.live.reader import read_settings
from simple_ws.cli.live.site import build
from simple_ws.tokens import Tokens

centrifuge = pytest.importorskip(
    "centrifuge", reason="centrifuge-python is not installed"
)

TOKENS = Tokens("secret", allow_short_secret=True)
FOR_SUBSCRIBERS = {
    f"allow_{action}_for_subscriber": True
    for action in ("publish", "presence", "history")
}
#: As in the SDK's own development.
CONFIG = {
    "client": {
        "token": {"hmac_secret_key": "secret"},
        "subscribe_to_user_personal_channel": {"enabled": True},
    },
    "channel": {
        "without_namespace": {
            "presence": True,
            "join_leave": True,
            "force_push_join_leave": True,
            "history_size": 100,
            "history_ttl": "300s",
            "force_recovery": True,
            **FOR_SUBSCRIBERS,
        },
        "namespaces": [
            {
                "name": "small",
                "history_size": 2,
                "history_ttl": "300s",
                "force_recovery": True,
                **FOR_SUBSCRIBERS,
            }
        ],
    },
}


class World:
    """A server, and clients of the SDK."""

    def __init__(self) -> None:
        self.clients: list[Any] = []
        self.server = build(read_settings(CONFIG, {}, {"http_server.port": 0}))
        self.server.start()

    def client(self, user: str = "ann", **options: Any) -> tuple[Any, Events]:
        async def token() -> str:
            return TOKENS.connection(user)

        events = Events()
        options.setdefault("get_token", token)
        options.setdefault("min_reconnect_delay", 0.01)
        options.setdefault("max_reconnect_delay", 0.1)
        url = f"ws://127.0.0.1:{self.server.port}/connection/websocket"
        client = centrifuge.Client(url, events=events, **options)
        self.clients.append(client)
        return client, events

    def subscription(
        self, client: Any, channel: str, user: str = "ann", **options: Any
    ) -> tuple[Any, Events]:
        async def token(channel: str) -> str:
            return TOKENS.subscription(user, channel)

        events = Events()
        options.setdefault("get_token", token)
        options.setdefault("min_resubscribe_delay", 0.01)
        return client.new_subscription(channel, events=events, **options), events

    async def subscribed(
        self, channel: str, user: str = "ann"
    ) -> tuple[Any, Any, Events]:
        client, _ = self.client(user)
        await client.connect()
        sub, events = self.subscription(client, channel, user)
        await sub.subscribe()
        await sub.ready(DEADLINE)
        return client, sub, events

    async def stop(self) -> None:
        await leave(*self.clients)
        self.server.stop(drain=0)


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        try:
            async with asyncio.timeout(2 * DEADLINE):
                await test(world)
        finally:
            await world.stop()

    asyncio.run(main())


async def code_of(call: Awaitable[Any]) -> int:
    """The code of the error that a call ends with."""
    with pytest.raises(centrifuge.exceptions.ReplyError) as caught:
        await call
    code: int = caught.value.code
    return code


def test_what_a_subscriber_may() -> None:
    async def test(world: World) -> None:
        client, sub, events = await world.subscribed("room")
        (told,) = await events.until("subscribed")
        assert (told.recoverable, told.positioned) == (True, True)
        (joined,) = await events.until("join")
        assert (joined.info.client, joined.info.user) == (client.client_id, "ann")
        for data in ({"a": 1}, "text", None):
            await sub.publish(data)
        assert await events.until("publication", 3)
        assert events.data == [{"a": 1}, "text", None]
        assert list((await sub.presence()).clients) == [client.client_id]
        stats = await sub.presence_stats()
        assert (stats.num_clients, stats.num_users) == (1, 1)
        page = await sub.history(limit=-1)
        assert [each.data for each in page.publications] == events.data
        since = centrifuge.StreamPosition(1, page.epoch)
        page = await sub.history(limit=1, since=since)
        assert [each.offset for each in page.publications] == [2]
        page = await sub.history(limit=1, reverse=True)
        assert [each.offset for each in page.publications] == [3]
        assert (await sub.history()).publications == []
        since = centrifuge.StreamPosition(1, "other")
        assert await code_of(sub.history(limit=1, since=since)) == 112
        assert await code_of(client.rpc("method", {})) == 108
        assert await code_of(client.publish("elsewhere", 1)) == 103
        assert await code_of(client.history("elsewhere")) == 103
        assert await code_of(client.presence("nothing:x")) == 102

    run(test)


def test_channel_of_a_user() -> None:
    async def test(world: World) -> None:
        client, events = world.client("ann")
        await client.connect()
        (told,) = await events.until("subscribed")
        assert (told.channel, told.recoverable) == ("#ann", True)
        world.server.publish("#ann", {"a": 1})
        await events.until("publication")
        await client.disconnect()
        world.server.publish("#ann", {"b": 2})
        await client.connect()
        await events.until("publication", 2)
        assert events.data == [{"a": 1}, {"b": 2}]
        assert events.of("subscribed")[1].recovered

    run(test)


def test_what_was_missed() -> None:
    async def test(world: World) -> None:
        client, sub, events = await world.subscribed("room")
        _, other, _ = await world.subscribed("room", "bob")
        await other.publish(0)
        await events.until("publication")
        await client.disconnect()
        for number in range(1, 10):
            await other.publish(number)
        await client.connect()
        await events.until("publication", 10)
        await sub.unsubscribe()
        for number in range(10, 20):
            await other.publish(number)
        await sub.subscribe()
        await events.until("publication", 20)
        assert events.data == list(range(20))
        recovered = [each.recovered for each in events.of("subscribed")]
        assert recovered == [False, True, True]
        for connection in world.server.clients:
            connection.terminate()
        await events.until("subscribed", 4)
        await other.ready(DEADLINE)
        await other.publish(20)
        await events.until("publication", 21)
        assert events.data == list(range(21))

    run(test)


def test_more_than_is_kept() -> None:
    async def test(world: World) -> None:
        client, sub, events = await world.subscribed("small:x")
        await client.disconnect()
        for number in range(5):
            world.server.publish("small:x", str(number))
        await client.connect()
        told = (await events.until("subscribed", 2))[1]
        assert (told.was_recovering, told.recovered) == (True, False)
        assert told.stream_position.offset == 5
        assert events.data == []
        await sub.publish("next")
        await events.until("publication")
        assert events.of("publication")[0].pub.offset == 6

    run(test)


def test_tokens_that_fail_at_first() -> None:
    async def test(world: World) -> None:
        tries = {"connection": 0, "subscription": 0}

        def fail_twice(what: str) -> None:
            tries[what] += 1
            if tries[what] < 3:
                raise ValueError("not now")

        async def connection() -> str:
            fail_twice("connection")
            return TOKENS.connection("ann")

        async def subscription(channel: str) -> str:
            fail_twice("subscription")
            return TOKENS.subscription("ann", channel)

        client, events = world.client(get_token=connection)
        sub, told = world.subscription(client, "room", get_token=subscription)
        await sub.subscribe()
        await client.connect()
        await sub.ready(DEADLINE)
        assert tries == {"connection": 3, "subscription": 3}
        assert len(events.of("error")) == len(told.of("error")) == 2

    run(test)


def test_tokens_that_are_refused() -> None:
    async def test(world: World) -> None:
        async def nobody(*channel: str) -> str:
            raise centrifuge.UnauthorizedError

        client, events = world.client(get_token=nobody)
        await client.connect()
        (gone,) = await events.until("disconnected")
        assert gone.code == 1
        client, events = world.client(get_token=None, token="no token")
        await client.connect()
        (gone,) = await events.until("disconnected")
        assert gone.code == 3500
        client, _ = world.client()
        await client.connect()
        sub, told = world.subscription(client, "room", get_token=nobody)
        await sub.subscribe()
        (gone,) = await told.until("unsubscribed")
        assert gone.code == 1
        sub, told = world.subscription(client, "open", get_token=None)
        await sub.subscribe()
        (gone,) = await told.until("unsubscribed")
        assert gone.code == 103

    run(test)


def test_tokens_that_expire() -> None:
    async def test(world: World) -> None:
        refreshed = asyncio.Semaphore(0)

        async def connection() -> str:
            return TOKENS.connection("ann", expires_in=2)

        async def subscription(channel: str) -> str:
            refreshed.release()
            return TOKENS.subscription("ann", channel, expires_in=2)

        client, events = world.client(get_token=connection)
        await client.connect()
        sub, told = world.subscription(client, "room", get_token=subscription)
        await sub.subscribe()
        await sub.ready(DEADLINE)
        for _ in range(3):  # the first is that which it subscribed with
            await refreshed.acquire()
        assert len(events.of("connected")) == 1
        assert not told.of("unsubscribed")

    run(test)


def test_loops_without_waiting() -> None:
    async def test(world: World) -> None:
        client, _ = world.client()
        sub, told = world.subscription(client, "room")
        await client.connect()
        for _ in range(20):
            await sub.subscribe()
            await sub.unsubscribe()
        await sub.subscribe()
        await sub.ready(DEADLINE)
        for _ in range(5):
            await client.disconnect()
            await client.connect()
        await sub.ready(DEADLINE)
        many = [world.subscription(client, f"many-{n}")[0] for n in range(100)]
        await asyncio.gather(*(each.subscribe() for each in many))
        await asyncio.gather(*(each.ready(DEADLINE) for each in many))
        await sub.publish("x")
        await told.until("publication")
        assert (await sub.presence_stats()).num_clients == 1

    run(test)


def test_state_is_loaded_again_when_the_position_is_lost() -> None:
    async def test(world: World) -> None:
        _, other, _ = await world.subscribed("small:x", "bob")
        loaded: list[int] = []

        async def load(channel: str) -> Any:
            top = await other.history(limit=0)
            loaded.append(top.offset)
            await other.publish(f"after {top.offset}")
            return centrifuge.StreamPosition(top.offset, top.epoch)

        await other.publish("before")
        client, _ = world.client()
        sub, events = world.subscription(client, "small:x", get_state=load)
        await client.connect()
        await sub.subscribe()
        await events.until("publication")
        assert (loaded, events.data) == ([1], ["after 1"])
        await client.disconnect()
        await other.publish("missed")
        await client.connect()
        await events.until("publication", 2)
        assert (loaded, events.data[1:]) == ([1], ["missed"])
        await client.disconnect()
        for number in range(5):
            await other.publish(number)
        await client.connect()
        await events.until("publication", 3)
        assert (loaded, events.data[2:]) == ([1, 8], ["after 8"])
        assert not events.of("unsubscribed")

    run(test)

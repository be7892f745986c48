"""Tokens of the unmodified SDK for asyncio: it gets new ones when they expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import DEADLINE
from sdk_events import Events, leave, run_test

from simple_ws import Server
from simple_ws.tokens import Tokens

centrifuge = pytest.importorskip(
    "centrifuge", reason="centrifuge-python is not installed"
)

SECRET = "a secret of thirty-two bytes or more"


class Giver:
    """Gives tokens to an SDK, and says how many it gave."""

    def __init__(self, *makers: Callable[[], str]) -> None:
        self._makers, self.given = makers, 0
        self._changed = asyncio.Event()

    async def __call__(self, *_: Any) -> str:
        maker = self._makers[min(self.given, len(self._makers) - 1)]
        self.given += 1
        self._changed.set()
        return maker()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.given < count:
                self._changed.clear()
                await self._changed.wait()


class World:
    """A server, and clients of the SDK."""

    def __init__(self, **options: Any) -> None:
        self.tokens = Tokens(SECRET)
        self.server = Server("127.0.0.1", 0)
        self.live = self.server.live("/live", tokens=self.tokens, **options)
        self.server.start()
        self.clients: list[Any] = []

    async def client(self, **options: Any) -> tuple[Any, Events]:
        events = Events()
        url = f"ws://127.0.0.1:{self.server.port}/live/websocket"
        client = centrifuge.Client(
            url,
            events=events,
            min_reconnect_delay=0.01,
            max_reconnect_delay=0.1,
            **options,
        )
        self.clients.append(client)
        await client.connect()
        return client, events

    async def stop(self) -> None:
        await leave(*self.clients)
        self.server.stop(drain=0)


def run(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    run_test(lambda: World(**options), test)


def test_expired_token_is_followed_by_another() -> None:
    async def test(world: World) -> None:
        old = world.tokens.connection("ann", expires_in=-5)
        giver = Giver(lambda: world.tokens.connection("ann"))
        _, events = await world.client(token=old, get_token=giver)
        await events.until("connected")
        assert giver.given == 1
        assert [each.client_id for each in world.server.clients] == ["ann"]

    run(test)


def test_tokens_are_refreshed_without_a_reconnect() -> None:
    async def test(world: World) -> None:
        make = world.tokens
        giver = Giver(lambda: make.connection("ann", expires_in=1.9))
        client, events = await world.client(get_token=giver)
        await events.until("connected")
        told = Events()
        giver_too = Giver(lambda: make.subscription("ann", "room", expires_in=1.9))
        sub = client.new_subscription("room", events=told, get_token=giver_too)
        await sub.subscribe()
        await told.until("subscribed")
        await giver.until(3)
        await giver_too.until(3)
        world.server.publish("room", "still here")
        await told.until("publication")
        assert len(await events.until("connected")) == 1
        assert len(await told.until("subscribed")) == 1

    run(test, refresh_grace=5)


def test_wrong_token_keeps_it_away() -> None:
    async def test(world: World) -> None:
        _, events = await world.client(token="wrong")
        (gone,) = await events.until("disconnected")
        assert (gone.code, gone.reason) == (3500, "invalid token")

    run(test)


def test_client_that_the_server_lets_expire_comes_back() -> None:
    async def test(world: World) -> None:
        make = world.tokens
        giver = Giver(lambda: make.connection("ann", expires_in=30))
        client, events = await world.client(get_token=giver)
        await events.until("connected")
        (connection,) = world.server.clients
        connection.refresh(time.time() - 1)
        (_, again) = await events.until("connecting", 2)
        assert again.code == 3005
        await events.until("connected", 2)
        assert client.state == centrifuge.ClientState.CONNECTED

    run(test)


def test_token_of_a_subscription_allows_it() -> None:
    async def test(world: World) -> None:
        make = world.tokens
        client, _ = await world.client(token=make.connection("ann"))
        told = Events()
        expired = make.subscription("ann", "room", expires_in=-5)
        giver = Giver(lambda: expired, lambda: make.subscription("ann", "room"))
        sub = client.new_subscription(
            "room", events=told, get_token=giver, min_resubscribe_delay=0.01
        )
        await sub.subscribe()
        await told.until("subscribed")
        assert giver.given == 2
        refused = Events()
        sub = client.new_subscription("other", events=refused)
        await sub.subscribe()
        (gone,) = await refused.until("unsubscribed")
        assert gone.code == 103

    run(test)

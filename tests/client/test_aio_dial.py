"""Connecting for asyncio: the first address that answers; the other attempts end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest
from client_harness import FakeTimeLoop, turns

from simple_ws.client import aio_dial
from simple_ws.client.aio_dial import _first_of, dial, dial_unix


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    """A loop whose time the test moves; nothing may be left behind in it."""
    with asyncio.Runner(loop_factory=FakeTimeLoop, debug=True) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, FakeTimeLoop)
        yield loop
        loop.run_until_complete(turns())
        assert not asyncio.all_tasks(loop)


class Attempt:
    """In place of connecting: comes to what the test says, when it says so."""

    def __init__(self) -> None:
        self.begun = self.closed = False
        self._outcome: asyncio.Future[Any] | None = None

    async def __call__(self) -> Any:
        self.begun = True
        self._outcome = asyncio.get_running_loop().create_future()
        await self._outcome
        return self

    def succeed(self) -> None:
        assert self._outcome is not None
        self._outcome.set_result(None)

    def fail(self, error: OSError) -> None:
        assert self._outcome is not None
        self._outcome.set_exception(error)

    @property
    def given_up(self) -> bool:
        return self._outcome is not None and self._outcome.cancelled()

    def close(self) -> None:
        self.closed = True


def race(loop: FakeTimeLoop, play: Callable[..., Coroutine[Any, Any, Any]]) -> None:
    """Run three attempts against what `play` does with them."""
    attempts = [Attempt(), Attempt(), Attempt()]

    async def run() -> None:
        racing = asyncio.ensure_future(_first_of(attempts))
        await turns()
        await play(racing, *attempts)
        if not racing.done():
            racing.cancel()
            with suppress(asyncio.CancelledError):
                await racing
        await turns()

    loop.run_until_complete(run())


class TestRace:
    def test_first_one_is_enough_when_it_is_quick(self, loop: FakeTimeLoop) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            a.succeed()
            assert await racing is a
            assert not b.begun
            assert not a.closed

        race(loop, play)

    def test_next_one_begins_when_the_last_is_slow(self, loop: FakeTimeLoop) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            assert not b.begun
            await loop.advance(aio_dial.NEXT_ATTEMPT)
            assert b.begun
            assert not c.begun
            b.succeed()
            assert await racing is b
            await turns()
            assert a.given_up
            assert not b.closed

        race(loop, play)

    def test_next_one_begins_at_once_after_a_failure(self, loop: FakeTimeLoop) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            a.fail(ConnectionRefusedError())
            await turns()
            assert b.begun
            b.fail(ConnectionRefusedError())
            await turns()
            c.succeed()
            assert await racing is c

        race(loop, play)

    def test_last_error_is_raised_when_all_have_failed(
        self, loop: FakeTimeLoop
    ) -> None:
        async def play(racing: Any, *attempts: Attempt) -> None:
            for number, attempt in enumerate(attempts):
                attempt.fail(OSError(number, "no"))
                await turns()
            with pytest.raises(OSError, match="no") as caught:
                await racing
            assert caught.value.errno == 2

        race(loop, play)

    def test_second_one_to_come_through_is_closed(self, loop: FakeTimeLoop) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            await loop.advance(aio_dial.NEXT_ATTEMPT)
            a.succeed()
            b.succeed()
            winner = await racing
            await turns()
            assert [a.closed, b.closed] == [a is not winner, b is not winner]

        race(loop, play)

    def test_one_that_came_through_is_closed_when_all_is_cancelled(
        self, loop: FakeTimeLoop
    ) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            a.succeed()
            await asyncio.sleep(0)
            racing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await racing
            await turns()
            assert a.closed

        race(loop, play)

    def test_cancelling_gives_all_up(self, loop: FakeTimeLoop) -> None:
        async def play(racing: Any, a: Attempt, b: Attempt, c: Attempt) -> None:
            await loop.advance(aio_dial.NEXT_ATTEMPT)
            racing.cancel()
            await turns()
            assert a.given_up
            assert b.given_up
            assert not c.begun

        race(loop, play)


class TestDialling:
    def test_addresses_are_tried_in_turn(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            async def look_up(*_: Any, **how: Any) -> Any:
                entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
                return [(*entry, (host, port)) for host in ("127.0.0.3", "127.0.0.1")]

            monkeypatch.setattr(loop, "getaddrinfo", look_up)
            sock = loop.run_until_complete(dial("two.invalid", port, None))
            with sock:
                assert sock.getpeername() == ("127.0.0.1", port)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_own_address_that_is_none_is_an_error(self, loop: FakeTimeLoop) -> None:
        with pytest.raises(OSError, match="assign requested address"):
            loop.run_until_complete(dial("127.0.0.1", 1, ("192.0.2.1", 0)))

    def test_system_without_unix_sockets_is_an_error(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(socket, "AF_UNIX")
        with pytest.raises(OSError, match="no Unix sockets"):
            loop.run_until_complete(dial_unix("/x"))

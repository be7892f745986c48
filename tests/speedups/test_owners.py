"""Messages that interpreters hold in ways of their own, while buffers are used again.

From CPython 3.14 on, calls borrow what they are given from a variable of the caller, so
fewer references are counted than there are users (ADR 11).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import re
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from harness import BINARY, Driven, Recorder

from simple_ws import Client

#: Bytes of a message: enough for its block to be used again.
SIZE = 200_000

#: What is to be held, and a function that gives the message back.
Kept = Callable[[], bytes]


def by_frame_of_generator(msg: bytes) -> Kept:
    def hold(mine: bytes) -> Generator[None, None, bytes]:
        yield
        return mine

    held = hold(msg)
    next(held)

    def give() -> bytes:
        try:
            next(held)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError

    return give


def by_stack_of_generator(msg: bytes) -> Kept:
    """The message is an argument of a call whose next argument is awaited."""

    def pair(first: bytes, second: object) -> bytes:
        return first

    def hold(mine: bytes) -> Generator[None, None, bytes]:
        return pair(mine, (yield))

    held = hold(msg)
    next(held)

    def give() -> bytes:
        try:
            held.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        raise AssertionError

    return give


def by_coroutine(msg: bytes) -> Kept:
    async def hold(mine: bytes, until: asyncio.Future[None]) -> bytes:
        await until
        return mine

    loop = asyncio.new_event_loop()
    until = loop.create_future()
    task = loop.create_task(hold(msg, until))
    loop.call_soon(loop.stop)
    loop.run_forever()

    def give() -> bytes:
        until.set_result(None)
        try:
            return loop.run_until_complete(task)
        finally:
            loop.close()

    return give


def by_traceback(msg: bytes) -> Kept:
    def fail(mine: bytes) -> None:
        raise ValueError

    try:
        fail(msg)
    except ValueError as error:
        trace = error.__traceback__
        assert trace is not None
        assert trace.tb_next is not None
        inner = trace.tb_next.tb_frame
        return lambda: inner.f_locals["mine"]  # type: ignore[no-any-return]


def by_frame(msg: bytes) -> Kept:
    def look(mine: bytes) -> Any:
        return sys._getframe()

    frame = look(msg)
    return lambda: frame.f_locals["mine"]  # type: ignore[no-any-return]


def by_cell(msg: bytes) -> Kept:
    return lambda: msg


def by_default(msg: bytes) -> Kept:
    def give(mine: bytes = msg) -> bytes:
        return mine

    return give


def by_partial(msg: bytes) -> Kept:
    return functools.partial(bytes.__getitem__, msg, slice(None))


def by_method(msg: bytes) -> Kept:
    return msg.strip


def by_match(msg: bytes) -> Kept:
    match = re.match(rb".", msg, re.DOTALL)
    assert match is not None
    return lambda: match.string


def by_view(msg: bytes) -> Kept:
    return memoryview(msg)[:].tobytes


def by_iterator(msg: bytes) -> Kept:
    rest = iter(msg)
    return lambda: bytes(rest)


WAYS = [
    by_frame_of_generator,
    by_stack_of_generator,
    by_coroutine,
    by_traceback,
    by_frame,
    by_cell,
    by_default,
    by_partial,
    by_method,
    by_match,
    by_view,
    by_iterator,
]


@pytest.fixture
def without_collector() -> Iterator[None]:
    """What only a cycle holds stays until the end, whenever the collector would run."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("echoed", [False, True], ids=["kept", "echoed"])
@pytest.mark.parametrize("way", WAYS)
def test_message_is_not_used_again_while_it_is_held(
    way: Callable[[bytes], Kept], echoed: bool
) -> None:
    held: list[Kept] = []

    def on_message(msg: bytes, client: Client) -> bytes | None:
        held.append(way(msg))
        return msg if echoed else None

    handler = Recorder()
    handler.on_message = on_message  # type: ignore[method-assign, assignment]
    sent = [bytes((97 + number,)) * SIZE for number in range(4)]
    with Driven(handler, write_limit=2**24, max_frame_size=None) as driven:
        peer = driven.open()
        for number, data in enumerate(sent):
            peer.send(BINARY, data)
            driven.until(lambda wanted=number: len(held) > wanted)
            if echoed:
                assert peer.read_message() == data
        assert [give() for give in held] == sent


@pytest.mark.parametrize("local", [True, False], ids=["local", "argument"])
def test_message_that_is_sent_while_its_callback_goes_on_stays(local: bool) -> None:
    """It is out before the callback has ended, which still has it."""
    seen: list[bool] = []

    def on_message(msg: bytes, client: Client) -> None:
        mine = msg if local else bytes(bytearray(msg))
        same = bytes(bytearray(mine))
        del msg
        client.write_message(mine)
        with suppress(BufferError):
            client.write_message(memoryview(mine)[:10])
        seen.append(mine == same)

    handler = Recorder()
    handler.on_message = on_message  # type: ignore[method-assign, assignment]
    with Driven(handler, write_limit=2**24, max_frame_size=None) as driven:
        peer = driven.open()
        for number in range(4):
            data = bytes((97 + number,)) * SIZE
            peer.send(BINARY, data)
            assert peer.read_message() == data
            assert peer.read_message() == data[:10]
        driven.until(lambda: len(seen) == 4)
    assert all(seen)

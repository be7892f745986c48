"""Commands out of bytes: the broker's side of RESP."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.commands import MAX_COMMAND, CommandReader
from simple_ws.cluster.resp import PythonReader, encode_command

pytestmark = pytest.mark.one_backend


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def expected(command: list[bytes]) -> Any:
    name = command[0].upper()
    if name == b"PUBLISH" and len(command) == 3:
        return command[1], bulk(command[1]) + bulk(command[2])
    return [name, *command[1:]]


names = st.sampled_from([b"PUBLISH", b"publish", b"SUBSCRIBE", b"ping", b""])
words = st.binary(max_size=40)
commands = st.lists(
    st.builds(lambda name, rest: [name, *rest], names, st.lists(words, max_size=4)),
    max_size=6,
)


@given(commands, st.data())
def test_bytes_may_be_cut_anywhere(given: list[list[bytes]], data: Any) -> None:
    whole = b"".join(encode_command(*command) for command in given)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    reader, found = CommandReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if begin < end:
            found += reader.receive(whole[begin:end])
    assert found == [expected(command) for command in given]
    assert reader.problem is None


@given(st.lists(st.binary(min_size=1), max_size=5))
def test_garbage_never_raises(parts: list[bytes]) -> None:
    reader = CommandReader()
    for part in parts:
        reader.receive(part)
        if reader.problem is not None:
            assert reader.receive(b"*1\r\n$4\r\nPING\r\n") == []


@given(st.lists(st.sampled_from(
    [b"*", b"$", b"3", b"0", b"-1", b"7", b"\r\n", b"PUBLISH", b"x", b"99999999999"]
)))  # fmt: skip
def test_garbage_that_is_nearly_right_never_raises(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    at_once, by_bytes = CommandReader(), CommandReader()
    found = at_once.receive(whole) if whole else []
    one_by_one = []
    for byte in whole:
        one_by_one += by_bytes.receive(bytes([byte]))
    assert found == one_by_one
    assert at_once.problem == by_bytes.problem


@given(words, words)
def test_publication_is_sent_on_as_it_was_encoded(channel: bytes, body: bytes) -> None:
    [(name, encoded)] = CommandReader().receive(
        encode_command(b"PUBLISH", channel, body)
    )
    push = b">3\r\n$7\r\nmessage\r\n" + bytes(encoded)
    assert PythonReader().receive(push) == [(b"message", channel, body)]
    assert name == channel


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"PING\r\n", "expected '*', got b'P'"),
        (b"*1\r\n+PING\r\n", "expected '$', got b'+'"),
        (b"*0\r\n", "a length of 0, where 1 to 4,096 are allowed"),
        (b"*4097\r\n", "a length of 4,097, where 1 to 4,096 are allowed"),
        (b"*-1\r\n", "a length is no number"),
        (b"*1\r\n$-1\r\n", "a length is no number"),
        (b"*1\r\n$\xb2\r\n", "a length is no number"),
        (b"*1\r\n$4\r\nPINGxx", "a string does not end where it should"),
        (b"*" + b"0" * 15, "a length is too long"),
        (b"*3\r\n$7\r\nPUBLISH\r\n$1\r\ncxx$1\r\nb\r\n", "a string does not end where"),
        (b"*1\r\n$67108865\r\n", "a length of 67,108,865, where 1 to"),
        (b"*2\r\n$1\r\nx\r\n$67108860\r\n", "a command of more than 67,108,864 bytes"),
    ],
)
def test_what_is_no_command(data: bytes, problem: str) -> None:
    reader = CommandReader()
    assert reader.receive(data) == []
    assert reader.problem is not None
    assert reader.problem.startswith(problem)


def test_commands_before_the_garbage_are_read() -> None:
    reader = CommandReader()
    assert reader.receive(b"*1\r\n$4\r\nping\r\nx") == [[b"PING"]]
    assert reader.problem


@pytest.mark.parametrize("most", [64, MAX_COMMAND])
def test_limit_can_be_raised(most: int) -> None:
    reader = CommandReader(64)
    reader.limit = most
    reader.receive(b"*1\r\n$65\r\n")
    assert (reader.problem is None) == (most > 64)


def test_long_command_is_put_together_once() -> None:
    reader, body = CommandReader(), b"x" * 2**20
    whole = encode_command(b"PUBLISH", b"c", body)
    for begin in range(0, len(whole) - 100, 1000):
        assert reader.receive(whole[begin : min(begin + 1000, len(whole) - 100)]) == []
    assert len(reader._waiting) > 1000
    [(channel, encoded)] = reader.receive(whole[-100:])
    assert channel == b"c"
    assert bytes(encoded) == bulk(b"c") + bulk(body)

"""`pipe`: messages between supervisor and worker."""

from __future__ import annotations

import socket

import pytest

from simple_ws.cluster.pipe import Pipe

pytestmark = pytest.mark.one_backend


def test_messages_arrive_whole_and_in_order() -> None:
    one, other = Pipe.pair()
    for number in range(3):
        one.send({"number": number})
    assert other.receive() == ([{"number": n} for n in range(3)], True)
    assert other.receive() == ([], True)
    other.send({"answer": "ü"})
    assert one.receive() == ([{"answer": "ü"}], True)
    one.close()
    assert other.receive() == ([], False)
    other.close()


def test_message_arrives_byte_by_byte() -> None:
    sock, peer = socket.socketpair()
    pipe = Pipe(sock)
    for byte in b"\0\0\0\x07" + b'{"a":1}' + b"\0":
        assert pipe.receive()[1]
        peer.send(bytes((byte,)))
        pipe_messages = pipe.receive()[0]
        if byte == ord("}"):
            assert pipe_messages == [{"a": 1}]
        else:
            assert pipe_messages == []
    peer.close()
    pipe.close()


def test_other_end_that_does_not_read_misses_what_may_be_dropped() -> None:
    one, other = Pipe.pair()
    large = {"stats": "x" * 2**22}
    one.send(large)
    one.send(large, droppable=True)
    one.send({"stop": None})
    got = []
    while not got or "stop" not in got[-1]:
        one.flush()
        got += other.receive()[0]
    assert got == [large, {"stop": None}]
    other.close()
    one.send({"up": True})  # it has gone, which `receive` tells
    assert one.receive() == ([], False)
    one.close()


def test_last_message_is_waited_for() -> None:
    one, other = Pipe.pair()
    one.send({"a": 1})
    one.send_last({"stats": "x"})
    one.close()
    assert other.receive() == ([{"a": 1}, {"stats": "x"}], False)
    other.close()

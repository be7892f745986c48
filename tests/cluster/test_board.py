"""`board`: what one process writes, others read whole."""

from __future__ import annotations

from typing import Any

import pytest

from simple_ws.cluster import board as module
from simple_ws.cluster.board import Board

pytestmark = pytest.mark.one_backend


def test_last_facts_are_read() -> None:
    board = Board()
    assert board.read() is None
    for number in range(5):
        assert board.write({"number": number, "more": "x" * number})
        assert board.read() == {"number": number, "more": "x" * number}


def test_reader_in_the_middle_of_a_write_gets_what_was_before() -> None:
    board = Board()
    for number in range(3):
        board.write({"number": number})
    memory: Any = board._memory
    place = module._START + module._HALF * (board._number % 2) + module._HEAD.size
    memory[place] ^= 1
    assert board.read() == {"number": 1}


def test_facts_that_are_too_large_are_refused() -> None:
    board = Board()
    board.write({"number": 1})
    assert not board.write({"number": "2" * module._HALF})
    assert board.read() == {"number": 1}


def test_leader() -> None:
    board = Board()
    assert board.leader == 0
    board.leader = 4194304
    board.write({})
    assert board.leader == 4194304

"""Silence: when to ask, and when to give up."""

from __future__ import annotations

import pytest

from simple_ws.cluster.silence import SILENCE, Silence

pytestmark = pytest.mark.one_backend


def test_connection_on_which_nothing_comes_is_given_up() -> None:
    silence = Silence(10.0)
    assert silence.deadline() == 10.0 + SILENCE
    assert not silence.look(12.9)
    assert not silence.over
    assert not silence.look(13.0)
    assert silence.over


def test_it_is_asked_after_a_second_and_any_byte_counts() -> None:
    silence = Silence(0.0)
    silence.hear(5.0)
    assert silence.deadline() == 6.0
    assert not silence.look(5.9)
    assert silence.look(6.0)
    assert silence.deadline() == 8.0
    assert not silence.look(7.0)  # asked already
    silence.hear(7.5)
    assert silence.deadline() == 8.5
    assert silence.look(8.5)
    silence.look(10.5)
    assert silence.over


def test_loop_that_stood_still_gives_the_server_its_time_again() -> None:
    silence = Silence(0.0)
    silence.hear(5.0)
    assert not silence.stood_still(6.0, 7.0)
    assert silence.look(7.0)
    assert silence.stood_still(9.0, 10.1)
    assert not silence.look(10.1)
    assert not silence.over
    assert silence.deadline() == 11.1

"""Pinging silent peers, giving up on dead ones, and matching pongs."""

from __future__ import annotations

import pytest

from simple_ws.protocol.keepalive import (
    Action,
    Pings,
    beat_payload,
    next_action,
    next_look,
    no_answer,
)

pytestmark = pytest.mark.one_backend

WAIT, PING, GIVE_UP = Action


#: now, last received, pinged at; what to do, and pinged at from now on. A ping after 20
#: seconds, 5 for its answer.
STEPS: list[tuple[float, float, float | None, Action, float | None]] = [
    (100, 100, None, WAIT, None),
    (119.9, 100, None, WAIT, None),
    (120, 100, None, PING, 120),
    (500, 100, None, PING, 500),
    (120, 100, 120, WAIT, 120),
    (124.9, 100, 120, WAIT, 120),
    (125, 100, 120, GIVE_UP, 120),
    # Any byte is a sign of life, also one that came along with the ping.
    (125, 121, 120, WAIT, None),
    (125, 120, 120, WAIT, None),
    (145, 120, 120, PING, 145),
]


@pytest.mark.parametrize(("now", "received", "pinged_at", "action", "then"), STEPS)
def test_peer_is_judged_by_when_it_was_last_heard(
    now: float,
    received: float,
    pinged_at: float | None,
    action: Action,
    then: float | None,
) -> None:
    assert next_action(now, received, pinged_at, 20, 5) == (action, then)


@pytest.mark.parametrize(
    ("received", "pinged_at", "when"),
    [(100, None, 120), (100, 120, 125), (121, 120, 141), (120, 120, 140)],
)
def test_next_look_is_when_there_is_something_to_do(
    received: float, pinged_at: float | None, when: float
) -> None:
    assert next_look(received, pinged_at, 20, 5) == when
    assert next_action(when - 0.1, received, pinged_at, 20, 5)[0] is WAIT
    assert next_action(when, received, pinged_at, 20, 5)[0] is not WAIT


def test_without_an_interval_nobody_is_pinged() -> None:
    assert next_action(1e9, 0, None, None, 5) == (WAIT, None)
    assert next_look(0, None, None, 5) is None


def test_without_a_timeout_nobody_is_given_up() -> None:
    assert next_action(1e9, 0, 1, 20, None) == (WAIT, 1)
    assert next_look(0, 1, 20, None) is None


def test_pong_answers_its_ping_and_those_before() -> None:
    pings = Pings()
    for moment, payload in enumerate((b"a", b"b", b"c")):
        pings.note(payload, moment)
    assert pings.answer(b"b", 10) == [(b"a", 10), (b"b", 9)]
    assert list(pings) == [b"c"]
    assert pings.answer(b"c", 12) == [(b"c", 10)]
    assert not pings


def test_unsolicited_pong_answers_nothing() -> None:
    pings = Pings()
    pings.note(b"a", 1)
    assert pings.answer(b"x", 2) == []
    assert list(pings) == [b"a"]


def test_same_payload_again_is_the_latest_ping() -> None:
    pings = Pings()
    pings.note(b"", 1)
    pings.note(b"a", 2)
    pings.note(b"", 3)
    assert pings.answer(b"a", 5) == [(b"a", 3)]
    assert pings.answer(b"", 5) == [(b"", 2)]


def test_pings_without_an_answer_are_limited() -> None:
    pings = Pings()
    for moment in range(10):
        pings.note(b"%d" % moment, moment, most=3)
    assert list(pings) == [b"7", b"8", b"9"]
    pings.note(b"8", 11, most=3)  # the same one again takes no room
    assert list(pings) == [b"7", b"9", b"8"]


def test_each_beat_has_a_payload_of_its_own() -> None:
    payloads = {beat_payload() for _ in range(100)}
    assert len(payloads) == 100
    assert all(0 < len(payload) <= 125 for payload in payloads)


def test_reason_names_the_option_and_its_value() -> None:
    assert no_answer(2.5) == "no answer to a ping within ping_timeout 2.5 s"

"""Opening for the blocking client: its deadlines. Responses: see `test_clients`."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from client_harness import Patient, Server

import simple_ws
from simple_ws import connect
from simple_ws.client import opening
from simple_ws.errors import HandshakeRefused


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Patient:
    """The client's time passes when nothing else happens."""
    patient = Patient()
    monkeypatch.setattr(opening, "_clock", patient.clock)
    monkeypatch.setattr(opening, "_wait_for", patient)
    return patient


def test_handshake_has_one_deadline_for_everything(
    patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    monkeypatch.setattr(opening, "dial", lambda *_: ours)
    server = Server(theirs)
    drip = iter(b"HTTP/1.1 101 Switching Protocols\r\n")

    def step() -> None:
        patient.clock.now += 1
        theirs.send(bytes((next(drip),)))

    patient.steps.extend([step] * 30)
    with theirs:
        with pytest.raises(simple_ws.ConnectTimeout, match="not open within 10 s"):
            connect("ws://h/", open_timeout=10, proxy=None)
        assert server.read_head()
        assert server.read_rest() == b""
    assert len(patient.steps) == 20


def test_body_of_a_refusal_is_waited_for_a_moment_only(
    patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    monkeypatch.setattr(opening, "dial", lambda *_: ours)
    head = b"HTTP/1.1 503 x\r\nContent-Length: 100\r\n\r\nwait"
    patient.steps.append(lambda: theirs.send(head))
    began = patient.clock.now
    with theirs, pytest.raises(HandshakeRefused) as caught:
        connect("ws://h/", proxy=None)
    assert caught.value.body == b"wait"
    assert patient.clock.now == began + 1


def test_body_that_drips_is_not_waited_for_any_longer(
    patient: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    monkeypatch.setattr(opening, "dial", lambda *_: ours)
    head = b"HTTP/1.1 503 x\r\nContent-Length: 100\r\n\r\n"

    def step() -> None:
        patient.clock.now += 0.25
        theirs.send(b".")

    patient.steps.append(lambda: theirs.send(head))
    patient.steps.extend([step] * 30)
    began = patient.clock.now
    with theirs, pytest.raises(HandshakeRefused) as caught:
        connect("ws://h/", proxy=None)
    assert caught.value.body == b"...."
    assert patient.clock.now == began + 1

"""Text from peers, made safe for logs and terminals."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from simple_ws import AuthenticationError, WebSocket
from simple_ws.errors import HandshakeRefused
from simple_ws.protocol.request import Request
from simple_ws.testing import TestServer
from simple_ws.text import excerpt, for_terminal, one_line

#: Characters that a terminal obeys, or that turn text around or end a line.
OBEYED = [
    *map(chr, range(0x20)),
    "\x7f",
    *map(chr, range(0x80, 0xA0)),
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\u200e",
    "\u200f",
    "\u061c",
    "\u2028",
    "\u2029",
]


@pytest.mark.one_backend
@pytest.mark.parametrize("character", OBEYED, ids=lambda each: f"{ord(each):04x}")
def test_what_a_terminal_obeys_is_spelled_out(character: str) -> None:
    text = f"a{character}b"
    for shown in (one_line(text), excerpt(text), repr(text)):
        assert character not in shown
        assert shown.isprintable()
    assert (character in for_terminal(text)) is (character in "\t\n")


@pytest.mark.one_backend
def test_other_text_stays_as_it_is() -> None:
    text = "Grüße, 世界 🎉 \\x1b 'quoted'"
    assert one_line(text) == excerpt(text) == for_terminal(text) == text
    assert for_terminal("a\tb\nc") == "a\tb\nc"


@pytest.mark.one_backend
def test_excerpt_has_a_bound() -> None:
    assert len(excerpt("x" * 10**6)) < 400
    assert len(excerpt("\x9b" * 10**6)) < 2000


@pytest.mark.one_backend
def test_request_tells_the_log_no_token() -> None:
    request = Request("GET", "/a?token=secret&x=1#", (1, 1), b"")
    assert "secret" not in repr(request)
    assert repr(request).startswith("<Request GET /a?")


def test_log_has_no_character_that_a_terminal_obeys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    nasty = "".join(OBEYED)

    class Quoting(WebSocket):
        def on_request(self, request: Any) -> Any:
            raise AuthenticationError(f"unknown user {nasty}")

    with TestServer(Quoting()) as tested, pytest.raises(HandshakeRefused):
        tested.connect("/%9b%C2%9b")
    assert "unknown user" in caplog.text
    for record in caplog.records:
        assert record.getMessage().isprintable()

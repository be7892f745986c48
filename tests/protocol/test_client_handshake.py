"""The opening handshake as the client sees it: RFC 6455 §4.1, RFC 7692 §5 and §7.1."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from client_harness import accept_for, answer_to, fields_of
from hypothesis import example, given
from hypothesis import strategies as st

from simple_ws.constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from simple_ws.deflate import Agreement, Deflate
from simple_ws.errors import (
    ConnectError,
    HandshakeError,
    HandshakeRefused,
    InvalidHandshake,
)
from simple_ws.protocol.client_handshake import (
    MAX_REDIRECTS,
    Accepted,
    Offer,
    Opening,
    Outcome,
)
from simple_ws.protocol.response_reader import MAX_BODY, ResponseReader
from simple_ws.protocol.uri import parse_uri

pytestmark = pytest.mark.one_backend

WIDE = Deflate(server_max_window_bits=15, client_max_window_bits=15)


def opening(url: str = "ws://h/", stay: bool = False, **offer: Any) -> Opening:
    return Opening(parse_uri(url), Offer(**offer), stay=stay)


def head_of(asking: Opening) -> str:
    """The head of the request."""
    request = asking.begin()
    assert request.endswith(b"\r\n\r\n")
    return request.decode("latin-1")


def ask(*lines: str, **offer: Any) -> Accepted:
    """Have a handshake answered well, with more header lines."""
    asking = opening(**offer)
    assert asking.receive(answer_to(head_of(asking), *lines)) is Outcome.OPEN
    return asking.accepted


def feed(asking: Opening, answers: Iterable[bytes], *, eof: bool = False) -> None:
    for answer in answers:
        asking.receive(answer)
    if eof:
        asking.receive_eof()


def refusal(status: int, *lines: str, body: bytes = b"") -> bytes:
    head = [f"HTTP/1.1 {status} Words", *lines, f"Content-Length: {len(body)}", "\r\n"]
    return "\r\n".join(head).encode("latin-1") + body


# --- The request ---------------------------------------------------------------------


def test_request_is_what_rfc_6455_asks_for() -> None:
    head = head_of(opening("ws://example.com:8080/chat?room=1"))
    lines = head.split("\r\n")
    assert lines[0] == "GET /chat?room=1 HTTP/1.1"
    fields = fields_of(head)
    assert fields["host"] == "example.com:8080"
    assert fields["upgrade"] == "websocket"
    assert fields["connection"] == "Upgrade"
    assert fields["sec-websocket-version"] == "13"
    assert len(base64.b64decode(fields["sec-websocket-key"], validate=True)) == 16
    assert fields["user-agent"] == "simple_ws"
    assert set(fields) == {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-version",
        "sec-websocket-key",
        "user-agent",
    }


def test_each_request_has_a_key_of_its_own() -> None:
    asking = opening()
    keys = {fields_of(head_of(asking))["sec-websocket-key"] for _ in range(100)}
    assert len(keys) == 100


def test_everything_offered_stands_in_the_request() -> None:
    fields = fields_of(
        head_of(
            opening(
                "wss://h/",
                subprotocols=("chat", "v2"),
                headers=(("X-One", "1"), ("X-Two", "zw\u00f6lf")),
                cookies=(("a", "1"), ("b", "2")),
                origin="https://page.example",
                user_agent=None,
                compression=WIDE,
            )
        )
    )
    assert fields["sec-websocket-protocol"] == "chat, v2"
    assert fields["x-one"] == "1"
    assert fields["cookie"] == "a=1; b=2"
    assert fields["origin"] == "https://page.example"
    assert "user-agent" not in fields
    assert fields["sec-websocket-extensions"].startswith("permessage-deflate")


def test_header_values_travel_as_latin_1() -> None:
    request = opening(headers=(("X", "\u00f6"),)).begin()
    assert b"X: \xf6\r\n" in request


def test_user_and_password_of_the_address_become_credentials() -> None:
    fields = fields_of(head_of(opening("ws://me:s%C3%A4cret@h/")))
    kind, text = fields["authorization"].split(" ")
    assert (kind, base64.b64decode(text).decode()) == ("Basic", "me:s\u00e4cret")


def test_authorization_of_the_user_wins_over_that_of_the_address() -> None:
    asking = opening("ws://me:secret@h/", headers=(("authorization", "Bearer x"),))
    head = head_of(asking)
    assert head.lower().count("authorization:") == 1
    assert fields_of(head)["authorization"] == "Bearer x"


# --- A good answer -------------------------------------------------------------------


def test_good_answer_opens() -> None:
    accepted = ask("X-Server: yes")
    assert accepted.headers["x-server"] == "yes"
    assert accepted.subprotocol is None
    assert accepted.agreement is None
    assert accepted.rest == b""


def test_answer_to_the_example_of_the_rfc() -> None:
    assert accept_for("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_answer_may_come_byte_by_byte() -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    for byte in answer[:-1]:
        assert asking.receive(bytes((byte,))) is None
    assert asking.receive(answer[-1:]) is Outcome.OPEN


def test_frames_behind_the_answer_are_kept() -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    assert asking.receive(answer + b"\x81\x02hi") is Outcome.OPEN
    assert asking.accepted.rest == b"\x81\x02hi"


def test_cases_and_spaces_of_an_answer_are_free() -> None:
    asking = opening()
    key = fields_of(head_of(asking))["sec-websocket-key"]
    answer = (
        "HTTP/1.1 101 \r\nUPGRADE: WebSocket\r\nconnection:\t keep-alive , uPGRADE \r\n"
        f"sec-websocket-accept:{accept_for(key)}  \r\n\r\n"
    )
    assert asking.receive(answer.encode()) is Outcome.OPEN


def test_interim_answers_are_passed_over() -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    )
    assert asking.receive(interim + answer[:30]) is None
    assert asking.receive(answer[30:]) is Outcome.OPEN


def test_reason_phrase_may_be_missing() -> None:
    asking = opening()
    answer = answer_to(head_of(asking)).replace(b" Switching Protocols", b"")
    assert asking.receive(answer) is Outcome.OPEN


@pytest.mark.parametrize("chosen", ["chat", "v2"])
def test_subprotocol_is_one_of_those_offered(chosen: str) -> None:
    accepted = ask(f"Sec-WebSocket-Protocol: {chosen}", subprotocols=("chat", "v2"))
    assert accepted.subprotocol == chosen


def test_server_may_choose_no_subprotocol() -> None:
    assert ask(subprotocols=("chat",)).subprotocol is None


# --- A wrong answer ------------------------------------------------------------------


def wrong(answer: bytes) -> str:
    """What is said about an answer that must not be taken."""
    asking = opening()
    asking.begin()
    with pytest.raises(InvalidHandshake) as caught:
        asking.receive(answer)
    assert str(caught.value).startswith("ws://h/: ")
    assert caught.value.url == "ws://h/"
    return caught.value.problem


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("HTTP/1.1", "HTTP/1.0", "HTTP/1.0"),
        ("Upgrade: websocket", "X: y", "Upgrade field"),
        ("Upgrade: websocket", "Upgrade: h2c", "Upgrade field"),
        ("Upgrade: websocket", "Upgrade: websocket, h2c", "Upgrade field"),
        ("Upgrade: websocket", "Upgrade: websocket/13", "Upgrade field"),
        ("Upgrade: websocket", "Upgrade:", "Upgrade field"),
        ("Connection: Upgrade", "X: y", "Connection field"),
        ("Connection: Upgrade", "Connection: close", "Connection field"),
        ("Connection: Upgrade", "Connection: Upgrades", "Connection field"),
        ("Accept: ", "Accept: x", "Accept field"),
        ("Accept: ", "Accept-Not: ", "Accept field"),
        ("Sec-", "Sec-WebSocket-Accept: AAAA\r\nSec-", "Accept field"),
    ],
)
def test_answer_with_something_wrong_is_refused(old: str, new: str, said: str) -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    assert answer.count(old.encode()) == 1
    with pytest.raises(InvalidHandshake) as caught:
        asking.receive(answer.replace(old.encode(), new.encode()))
    assert said in caught.value.problem


def test_accept_of_another_case_is_refused() -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    accept = answer.split(b"Accept: ")[1].split(b"\r\n")[0]
    with pytest.raises(InvalidHandshake, match="Sec-WebSocket-Accept"):
        asking.receive(answer.replace(accept, accept.swapcase()))


def test_answer_to_an_earlier_key_is_refused() -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    asking.begin()
    with pytest.raises(InvalidHandshake, match="Sec-WebSocket-Accept"):
        asking.receive(answer)


@pytest.mark.parametrize(
    "lines",
    [
        ["Sec-WebSocket-Protocol: other"],
        ["Sec-WebSocket-Protocol: Chat"],
        ["Sec-WebSocket-Protocol: chat, v2"],
        ["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: v2"],
        ["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"],
    ],
)
def test_subprotocol_that_was_not_offered_is_refused(lines: list[str]) -> None:
    with pytest.raises(InvalidHandshake, match="was not offered"):
        ask(*lines, subprotocols=("chat", "v2"))


def test_subprotocol_is_refused_where_none_was_offered() -> None:
    with pytest.raises(InvalidHandshake, match="'chat' was not offered"):
        ask("Sec-WebSocket-Protocol: chat")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x50", "but TLS: try wss://"),
        (b"SSH-2.0-OpenSSH_9\r\n", "it does not speak HTTP"),
        (b"\x81\x02hi", "it does not speak HTTP"),
        (b"HTTP/1.1 101 x\nUpgrade: websocket\n\n", "without CR LF"),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\n\r\n\r\n", "without CR LF"),
        (b"HTTP/1.1 101 x\r\nNo colon\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 x\r\nA : b\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 x\r\nA: b\r\n folded\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 x\r\nA: \x00\r\n\r\n", "malformed"),
        (b"HTTP/1.1 1010 x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 099 x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 abc x\r\n\r\n", "malformed"),
        (b"HTTP/1.1\r\n\r\n", "malformed"),
        (b"HTTP/11 101 x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 x\r\nA: " + b"b" * MAX_HEAD_SIZE, "exceeds 16,384 bytes"),
        (b"HTTP/1.1 101 x\r\n" + b"A: b\r\n" * 101 + b"\r\n", "100 header lines"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 1000, "exceeds 16,384 bytes"),
    ],
)
def test_what_is_no_http_is_refused(answer: bytes, said: str) -> None:
    assert said in wrong(answer)


def test_what_is_no_http_is_refused_at_its_first_byte() -> None:
    asking = opening()
    asking.begin()
    with pytest.raises(InvalidHandshake, match="does not speak HTTP"):
        asking.receive(b"S")


@pytest.mark.parametrize("beyond", [False, True])
def test_head_is_taken_up_to_its_limits(beyond: bool) -> None:
    asking = opening()
    answer = answer_to(head_of(asking))
    lines = b"A: b\r\n" * (MAX_HEADER_COUNT - 4)
    room = MAX_HEAD_SIZE - len(answer) - len(lines) - len("C: \r\n") + beyond
    answer = answer[:-2] + lines + b"C: " + b"d" * room + b"\r\n\r\n"
    if beyond:
        with pytest.raises(InvalidHandshake, match="exceeds 16,384 bytes"):
            asking.receive(answer)
    else:
        assert asking.receive(answer) is Outcome.OPEN


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", "without an answer"), (b"HTTP/1.1 101 Swi", "in the middle of an answer")],
)
def test_end_without_an_answer_is_an_error(answer: bytes, said: str) -> None:
    asking = opening()
    asking.begin()
    if answer:
        assert asking.receive(answer) is None
    with pytest.raises(ConnectError, match=said) as caught:
        asking.receive_eof()
    assert type(caught.value) is ConnectError  # it may be another time


# --- A refusal -----------------------------------------------------------------------


def refused(*answers: bytes, eof: bool = False, **how: Any) -> HandshakeRefused:
    asking = opening(**how)
    asking.begin()
    with pytest.raises(HandshakeRefused) as caught:
        feed(asking, answers, eof=eof)
    return caught.value


@pytest.mark.parametrize("status", [200, 204, 300, 400, 401, 403, 404, 426, 503, 599])
def test_refusal_carries_the_facts(status: int) -> None:
    body = b"" if status == 204 else b"Not today.\n"
    error = refused(refusal(status, "X-Why: rain", body=body))
    assert error.status == status
    assert error.headers["x-why"] == "rain"
    assert error.body == body
    assert error.url == "ws://h/"
    assert str(error).startswith(f"ws://h/: the server answered {status}")


@pytest.mark.parametrize(
    ("status", "lines", "said"),
    [
        (401, [], "user:password@host"),
        (403, [], "origin="),
        (404, [], "is the path right?"),
        (200, [], "plain HTTP"),
        (426, ["Sec-WebSocket-Version: 8, 7"], "it supports version 8, 7"),
        (400, ["Sec-WebSocket-Version: 12"], "not 13"),
    ],
)
def test_refusal_says_what_to_try(status: int, lines: list[str], said: str) -> None:
    assert said in str(refused(refusal(status, *lines)))


def test_first_line_of_a_text_is_shown() -> None:
    error = refused(refusal(403, body=b"Pages may not connect.\nMore.\n"))
    assert "403 Forbidden (Pages may not connect.)" in str(error)
    page = refused(refusal(403, "Content-Type: text/html", body=b"<html>x"))
    assert "html" not in str(page)
    assert page.body == b"<html>x"
    hostile = refused(refusal(403, body=b"\x1b[2J\x07"))
    assert str(hostile).isprintable()


def test_unknown_status_is_shown_without_a_phrase() -> None:
    assert "answered 599 (x)" in str(refused(refusal(599, body=b"x")))


def test_body_of_a_refusal_is_cut_at_its_limit() -> None:
    body = b"x" * (MAX_BODY + 1)
    assert refused(refusal(500, body=body)).body == body[:-1]


def test_refusal_may_come_byte_by_byte() -> None:
    answer = refusal(500, body=b"sorry")
    error = refused(*(bytes((byte,)) for byte in answer))
    assert error.body == b"sorry"


def test_body_without_a_length_ends_with_the_connection() -> None:
    answer = b"HTTP/1.1 500 x\r\n\r\nsor"
    assert refused(answer, b"ry", eof=True).body == b"sorry"


def test_body_may_end_too_early() -> None:
    answer = b"HTTP/1.1 500 x\r\nContent-Length: 10\r\n\r\nsorry"
    assert refused(answer, eof=True).body == b"sorry"


@pytest.mark.parametrize("length", ["x", "-1", "", "1" * 30])
def test_length_that_is_none_is_passed_over(length: str) -> None:
    answer = f"HTTP/1.1 500 x\r\nContent-Length: {length}\r\n\r\nsorry"
    assert refused(answer.encode(), eof=True).body == b"sorry"


CHUNKED = b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"5\r\nsorry\r\n0\r\n\r\n", b"sorry"),
        (b"3\r\nsor\r\n2;x=y\r\nry\r\n0\r\n\r\n", b"sorry"),
        (b"A\r\n0123456789\r\n00\r\n\r\n", b"0123456789"),
        (b"0\r\n\r\n", b""),
        (b"x\r\nsorry", b""),
        (b"3\r\nsor\r\nx\r\n", b"sor"),
        (b"ffffffffffffffff\r\n" + b"x" * MAX_BODY, b"x" * MAX_BODY),
        (b"800\r\n" + b"x" * 2048 + b"\r\n", b"x" * MAX_BODY),
        (b"1" * (MAX_BODY + 1), b""),
        (b"1;" + b"1" * (MAX_BODY + 1), b""),
    ],
)
def test_body_in_chunks_is_joined(chunks: bytes, body: bytes) -> None:
    assert refused(CHUNKED + chunks).body == body


def test_body_in_chunks_may_come_byte_by_byte() -> None:
    answer = CHUNKED + b"3\r\nsor\r\n2\r\nry\r\n0\r\n\r\n"
    assert refused(*(bytes((byte,)) for byte in answer)).body == b"sorry"


def test_tiny_chunks_are_not_collected_for_ever() -> None:
    asking = opening()
    asking.begin()
    asking.receive(CHUNKED)
    with pytest.raises(HandshakeRefused):
        feed(asking, [b"1;" + b"x" * 60 + b"\r\ny\r\n"] * MAX_HEAD_SIZE)


def test_refusal_is_known_before_its_body() -> None:
    asking = opening()
    asking.begin()
    assert not asking.refused
    assert asking.receive(b"HTTP/1.1 503 x\r\nContent-Length: 5\r\n\r\nso") is None
    assert asking.refused
    with pytest.raises(HandshakeRefused) as caught:
        asking.refuse()
    assert caught.value.body == b"so"


# --- Redirects -----------------------------------------------------------------------


def redirect(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} x\r\nLocation: {to}\r\n\r\n".encode()


def follow(asking: Opening, *targets: str) -> str:
    """Follow redirects; return the head of the last request."""
    asking.begin()
    for target in targets:
        assert asking.receive(redirect(target)) is Outcome.REDIRECT
        head = head_of(asking)
    return head


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(status: int) -> None:
    asking = opening("ws://h/a")
    asking.begin()
    assert asking.receive(redirect("/b?c", status)) is Outcome.REDIRECT
    assert str(asking.uri) == "ws://h/b?c"
    head = head_of(asking)
    assert head.startswith("GET /b?c HTTP/1.1\r\nHost: h\r\n")
    assert asking.receive(answer_to(head)) is Outcome.OPEN


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_other_answers_of_that_class_are_no_redirects(status: int) -> None:
    error = refused(redirect("/b", status), eof=True)
    assert error.status == status


def test_redirect_without_a_location_is_a_refusal() -> None:
    assert refused(refusal(302)).status == 302


def test_redirects_are_followed_up_to_a_limit() -> None:
    asking = opening()
    follow(asking, *(f"/{n}" for n in range(MAX_REDIRECTS)))
    with pytest.raises(HandshakeRefused, match="more than 5 redirects") as caught:
        asking.receive(redirect("/again"))
    assert caught.value.status == 302


def test_redirect_may_lead_to_tls_but_not_away_from_it() -> None:
    asking = opening("ws://h/")
    follow(asking, "wss://h/")
    assert str(asking.uri) == "wss://h/"
    for target in ("ws://h/", "http://h/", "ws://other/"):
        with pytest.raises(HandshakeRefused, match="which has no TLS"):
            asking.receive(redirect(target))
        asking.begin()


@pytest.mark.parametrize("target", ["ftp://h/", "ws://h:0/", "ws://a b/", "ws:///"])
def test_redirect_to_no_server_is_a_refusal(target: str) -> None:
    asking = opening()
    asking.begin()
    with pytest.raises(HandshakeRefused, match="it redirects to"):
        asking.receive(redirect(target))


SECRETS = {"authorization", "cookie", "proxy-authorization"}


def with_secrets(url: str, **how: Any) -> Opening:
    return opening(
        url,
        headers=(("Proxy-Authorization", "x"), ("X-Mine", "1")),
        cookies=(("session", "1"),),
        origin="https://page.example",
        subprotocols=("chat",),
        **how,
    )


def test_credentials_stay_with_the_origin() -> None:
    asking = with_secrets("ws://me:secret@h/a")
    assert set(fields_of(head_of(asking))) >= SECRETS
    fields = fields_of(follow(asking, "/b", "ws://h:80/c"))
    assert set(fields) >= SECRETS


@pytest.mark.parametrize(
    "targets",
    [
        ["ws://other/"],
        ["ws://h:81/"],
        ["wss://h/"],
        ["ws://me:secret@other/"],
        ["ws://other/", "ws://h/a"],  # nor are they given to who was sent back
    ],
)
def test_credentials_are_dropped_elsewhere(targets: list[str]) -> None:
    fields = fields_of(follow(with_secrets("ws://me:secret@h/a"), *targets))
    assert not SECRETS & set(fields)
    assert "x-mine" not in fields  # it may be an API key by any name
    assert fields["origin"] == "https://page.example"
    assert fields["sec-websocket-protocol"] == "chat"


def test_authorization_of_the_user_is_dropped_elsewhere_too() -> None:
    asking = opening(headers=(("AUTHORIZATION", "Bearer x"),))
    assert "authorization" in fields_of(head_of(asking))
    assert "authorization" not in fields_of(follow(asking, "ws://other/"))


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Cookie2", "X-Mine"])
def test_fields_of_the_user_are_for_the_origin_they_were_given_for(name: str) -> None:
    asking = opening("ws://h/a", headers=((name, "x"),), cookies=(("a", "b"),))
    kept = fields_of(follow(asking, "/b", "http://H:80/c"))
    assert kept[name.lower()] == "x"
    assert kept["cookie"] == "a=b"
    dropped = fields_of(follow(asking, "ws://elsewhere/"))
    assert not {name.lower(), "cookie"} & set(dropped)


def test_who_must_stay_is_not_led_away() -> None:
    asking = opening(stay=True)
    follow(asking, "/b")
    with pytest.raises(HandshakeRefused, match="which is another server"):
        asking.receive(redirect("ws://other/"))


LOCATIONS = st.text("/:@[]?#%.x0\xe4\u2100", max_size=12) | st.sampled_from(
    ["ws://[x]/", "//[", "ws://h:99999/", "ws://me:SECRET@[x]/?SECRET", "\x80\x9b"]
)


@given(
    st.sampled_from([200, 301, 302, 307, 308, 401, 407, 426, 503]),
    st.lists(
        st.sampled_from(["Location", "Content-Length", "Transfer-Encoding", "Retry"]),
        max_size=3,
    ),
    LOCATIONS | st.sampled_from(["chunked", "-1", "1" * 400]),
    st.binary(max_size=40),
)
@example(302, ["Location"], "ws://[x]/", b"")
@example(302, ["Location"], "ws://[fe80::1%25\xe4]/", b"")
def test_no_answer_raises_anything_but_our_errors(
    status: int, names: list[str], value: str, body: bytes
) -> None:
    fields = b"".join(f"{name}: {value}\r\n".encode() for name in names)
    answer = b"HTTP/1.1 %d x\r\n%b\r\n%b" % (status, fields, body)
    asking = opening("ws://me:SECRET@h/?SECRET")
    asking.begin()
    shown = ""
    try:
        if asking.receive(answer) is None:
            asking.receive_eof()
    except ConnectError as error:
        shown = f"{error} {error!r}"
    assert shown.isprintable()
    assert "SECRET" not in shown


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_but_our_errors(data: bytes) -> None:
    for start in (b"", b"HTTP/1.1 ", b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 302 x\r\n"):
        asking = opening()
        asking.begin()
        with suppress(ConnectError):
            asking.receive(start + data)
            asking.receive_eof()


def test_refusal_that_quotes_our_credentials_does_not_show_them() -> None:
    asking = opening(
        "ws://me:password1@h/?ticket=a%2Fb-ticket",
        headers=(("Authorization", "Bearer token-1"), ("X-Api-Key", "api-key")),
        cookies=(("session", "cookie-1"),),
    )
    asking.begin()
    quoted = b"no: token-1, api-key, cookie-1, password1, a/b-ticket, a%2Fb-ticket"
    head = b"HTTP/1.1 401 x\r\nContent-Length: %d\r\n\r\n" % len(quoted)
    with pytest.raises(HandshakeRefused) as caught:
        asking.receive(head + quoted)
    assert "(no: ***, ***, ***, ***, ***, ***)" in str(caught.value)
    assert caught.value.body == quoted
    assert "token-1" not in repr(caught.value)


# --- permessage-deflate --------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "offered"),
    [
        (WIDE, "client_max_window_bits"),
        (Deflate(), "server_max_window_bits=12; client_max_window_bits=12"),
        (
            Deflate(
                server_no_context_takeover=True,
                client_no_context_takeover=True,
                server_max_window_bits=8,
                client_max_window_bits=9,
            ),
            "server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=8; client_max_window_bits=9",
        ),
    ],
)
def test_offer_says_what_is_wanted(config: Deflate, offered: str) -> None:
    fields = fields_of(head_of(opening(compression=config)))
    assert fields["sec-websocket-extensions"] == f"permessage-deflate; {offered}"


def agree(answer: str, config: Deflate = WIDE) -> Agreement | None:
    return ask(f"Sec-WebSocket-Extensions: {answer}", compression=config).agreement


def agreement(
    send: tuple[bool, int] = (True, 15), receive: tuple[bool, int] = (True, 15)
) -> Agreement:
    return Agreement(send[0], receive[0], send[1], receive[1], 3, 5, 64)


@pytest.mark.parametrize(
    ("answer", "agreed"),
    [
        ("permessage-deflate", agreement()),
        ("Permessage-Deflate", agreement()),
        (
            "permessage-deflate; server_no_context_takeover",
            agreement(receive=(False, 15)),
        ),
        ("permessage-deflate; client_no_context_takeover", agreement(send=(False, 15))),
        ("permessage-deflate; server_max_window_bits=8", agreement(receive=(True, 8))),
        ("permessage-deflate; client_max_window_bits=8", agreement(send=(True, 8))),
        ('permessage-deflate; client_max_window_bits="10"', agreement(send=(True, 10))),
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=10; "
            "client_no_context_takeover; server_no_context_takeover",
            agreement((False, 9), (False, 10)),
        ),
    ],
)
def test_answer_to_an_open_offer_is_understood(answer: str, agreed: Agreement) -> None:
    assert agree(answer) == agreed


NARROW = Deflate(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=10,
    client_max_window_bits=11,
    level=9,
    mem_level=8,
    threshold=0,
)
ACCEPTS = "permessage-deflate; server_no_context_takeover; server_max_window_bits="


def test_what_we_said_of_ourselves_holds_without_an_echo() -> None:
    # RFC 7692 §7.1.1.2 and §7.1.2.2: both are hints that we keep to in any case.
    agreed = Agreement(False, False, 11, 9, 9, 8, 0)
    assert agree(ACCEPTS + "9", NARROW) == agreed
    assert agree(ACCEPTS + "9; client_max_window_bits=11", NARROW) == agreed


def test_smaller_window_of_the_server_wins() -> None:
    agreed = agree(ACCEPTS + "10; client_max_window_bits=8", NARROW)
    assert agreed == Agreement(False, False, 8, 10, 9, 8, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("permessage-deflate; server_max_window_bits=10", "takeover is missing"),
        ("permessage-deflate; server_no_context_takeover", "bits=15, asked 10"),
        (ACCEPTS + "11", "server_max_window_bits=11, asked 10"),
        (ACCEPTS + "10; client_max_window_bits=12", "bits=12, offered 11"),
    ],
)
def test_answer_that_ignores_the_offer_is_refused(answer: str, said: str) -> None:
    with pytest.raises(InvalidHandshake) as caught:
        agree(answer, NARROW)
    assert said in caught.value.problem


@pytest.mark.parametrize(
    "answer",
    [
        "x-webkit-deflate-frame",
        "permessage-bzip2",
        "permessage-deflate, x",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=08",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate;",
        "permessage-deflate; a b",
        "=",
        ",",
    ],
)
def test_wrong_answer_about_extensions_is_refused(answer: str) -> None:
    with pytest.raises(InvalidHandshake):
        agree(answer)


@pytest.mark.parametrize("line", ["Protocol:", "Protocol: ", "Extensions:"])
@pytest.mark.parametrize("how", [{}, {"subprotocols": ("chat",)}])
def test_empty_field_is_as_if_absent(line: str, how: dict[str, Any]) -> None:
    accepted = ask(f"Sec-WebSocket-{line}", **how)
    assert accepted.subprotocol is None
    assert accepted.agreement is None


@pytest.mark.parametrize("line", ["Upgrade: websocket", "Connection: Upgrade"])
def test_what_is_said_twice_is_no_contradiction(line: str) -> None:
    assert ask(line).subprotocol is None


def test_extension_is_refused_where_none_was_offered() -> None:
    with pytest.raises(InvalidHandshake, match="'permessage-deflate' was not offered"):
        ask("Sec-WebSocket-Extensions: permessage-deflate")


def test_server_may_decline_compression() -> None:
    assert ask(compression=WIDE).agreement is None


# --- Any bytes -----------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=8), st.booleans())
def test_reader_raises_nothing_but_its_own_error(
    pieces: Iterable[bytes], tunnel: bool
) -> None:
    for start in (b"", b"HTTP/1.1 ", b"HTTP/1.1 500 x\r\n\r\n", CHUNKED):
        reader = ResponseReader(tunnel=tunnel)
        try:
            for piece in (start, *pieces):
                reader.feed(piece)
        except HandshakeError:
            continue
        reader.feed_eof()
        assert len(reader.body) <= MAX_BODY
        assert reader.describe().isprintable()

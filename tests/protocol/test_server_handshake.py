"""The opening handshake: RFC 6455 §4.2, §4.4, §10.2."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rfc_cases import TEXT, bytewise, drive, frame

from simple_ws.connection.option_checks import check_options
from simple_ws.deflate import parse_extensions
from simple_ws.errors import HandshakeError
from simple_ws.protocol.http11 import RequestReader
from simple_ws.protocol.request import Request
from simple_ws.protocol.server_handshake import (
    OriginRule,
    check_origin,
    check_upgrade,
    offered_subprotocols,
    refusal,
    upgrade_response,
)
from simple_ws.protocol.websocket import Protocol

pytestmark = pytest.mark.one_backend

#: RFC 6455 §1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#: RFC 6455 §1.2, as it stands there.
LINES = (
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Origin: http://example.com",
    "Sec-WebSocket-Protocol: chat, superchat",
    "Sec-WebSocket-Version: 13",
)


def head(*lines: str, start: str = "GET /chat HTTP/1.1") -> bytes:
    return "\r\n".join([start, *lines]).encode("latin-1") + b"\r\n\r\n"


def request(*lines: str, start: str = "GET /chat HTTP/1.1") -> Request:
    found = RequestReader().feed(head(*lines, start=start))
    assert found is not None
    return found


def without(name: str, *more: str) -> list[str]:
    """The RFC's request without a field, and with other lines."""
    lines = [line for line in LINES if not line.lower().startswith(f"{name.lower()}:")]
    assert len(lines) == len(LINES) - 1
    return [*lines, *more]


def refused(*lines: str, start: str = "GET /chat HTTP/1.1") -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        check_upgrade(request(*lines, start=start))
    return caught.value


# --- What is taken -------------------------------------------------------------------


def test_example_of_the_rfc() -> None:
    asked = request(*LINES)
    assert check_upgrade(asked) == KEY
    assert offered_subprotocols(asked.headers) == ["chat", "superchat"]
    assert upgrade_response(KEY, "chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


VERSION_13 = "sec-websocket-version:\t13 "
#: (id, the RFC's request with this field in another form)
TAKEN = [
    ("upgrade-any-case", without("Upgrade", "uPGRADE: WebSocket")),
    ("upgrade-among-others", without("Upgrade", "Upgrade: h2c, websocket")),
    ("upgrade-on-a-second-line", without("Upgrade", "Upgrade: a", LINES[1])),
    ("connection-any-case", without("Connection", "CONNECTION: upgrade")),
    ("connection-as-firefox", without("Connection", "Connection: keep-alive, Upgrade")),
    ("connection-many", without("Connection", "Connection: a,UPGRADE ,\tb,,")),
    ("connection-two-lines", without("Connection", "Connection: a", LINES[2])),
    ("version-with-blanks", without("Sec-WebSocket-Version", VERSION_13)),
    ("key-with-blanks", without("Sec-WebSocket-Key", f"SEC-WEBSOCKET-KEY:  {KEY}  ")),
    ("no-origin", without("Origin")),
    ("no-subprotocol", without("Sec-WebSocket-Protocol")),
    ("empty-body", [*LINES, "Content-Length: 0"]),
    ("empty-body-twice", [*LINES, "Content-Length: 0", "Content-Length: 0"]),
    ("host-with-port", without("Host", "Host: server.example.com:8080")),
    ("host-ipv6", without("Host", "Host: [2001:db8::1]:8080")),
    ("host-encoded", without("Host", "Host: caf%C3%A9")),
    ("unknown-fields", [*LINES, "X-Anything: at all", "Sec-WebSocket-New: 1"]),
    ("reverse-order", list(reversed(LINES))),
]  # fmt: skip


@pytest.mark.parametrize(
    "lines", [row[1] for row in TAKEN], ids=[row[0] for row in TAKEN]
)
def test_good_handshake_is_taken(lines: list[str]) -> None:
    assert check_upgrade(request(*lines)) == KEY


@pytest.mark.parametrize(
    "start",
    [
        "GET / HTTP/1.1",
        "GET /chat?a=b HTTP/1.1",
        "GET /chat HTTP/1.2",
        "GET /chat HTTP/2.0",
        "GET http://server.example.com/chat HTTP/1.1",
        "GET wss://server.example.com HTTP/1.1",
    ],
)
def test_request_line_of_a_good_handshake(start: str) -> None:
    # §4.2.1, 1: "HTTP/1.1 or higher", a path or an absolute URI.
    assert check_upgrade(request(*LINES, start=start)) == KEY


# --- What is refused -----------------------------------------------------------------

#: (id, request line, fields, status, a word of the reason)
GET = "GET /chat HTTP/1.1"
REFUSED = [
    ("http-1.0", "GET /chat HTTP/1.0", LINES, 400, "HTTP/1.1"),
    ("http-0.9", "GET /chat HTTP/0.9", LINES, 400, "HTTP/1.1"),
    ("post", "POST /chat HTTP/1.1", LINES, 405, "GET request, not POST"),
    ("head", "HEAD /chat HTTP/1.1", LINES, 405, "GET request, not HEAD"),
    ("lower-case-get", "get /chat HTTP/1.1", LINES, 405, "GET request, not get"),
    ("no-host", GET, without("Host"), 400, "Host"),
    ("two-hosts", GET, [*LINES, "Host: other"], 400, "Host"),
    ("same-host-twice", GET, [*LINES, LINES[0]], 400, "Host"),
    # RFC 9112 §3.2: "any request message that contains [...] a Host header field with
    # an invalid field value".
    *((f"host-{host}", GET, without("Host", f"Host: {host}"), 400, "Host header is mal")
      for host in ("a b", "a/b", "u@a", "a#b", "a?b", "<a>", "\xe9", "a:b:c", "[::1",
                   "a:80a", "[]", "::1")),
    ("no-upgrade", GET, without("Upgrade"), 400, "Upgrade header"),
    ("other-upgrade", GET, without("Upgrade", "Upgrade: h2c"), 400, "Upgrade header"),
    ("upgrade-part", GET, without("Upgrade", "Upgrade: websockets"), 400, "Upgrade"),
    ("upgrade-nbsp", GET, without("Upgrade", "Upgrade: websocket\xa0"), 400, "Upgrade"),
    ("no-connection", GET, without("Connection"), 400, "Connection"),
    ("connection-close", GET, without("Connection", "Connection: close"), 400,
     "Connection"),
    ("connection-part", GET, without("Connection", "Connection: Upgrade2"), 400,
     "Connection"),
    ("no-key", GET, without("Sec-WebSocket-Key"), 400, "Sec-WebSocket-Key"),
    ("two-keys", GET, [*LINES, f"Sec-WebSocket-Key: {KEY}"], 400, "Sec-WebSocket-Key"),
    ("two-keys-in-one", GET,
     without("Sec-WebSocket-Key", f"Sec-WebSocket-Key: {KEY}, {KEY}"), 400,
     "16 bytes"),
    ("no-version", GET, without("Sec-WebSocket-Version"), 400, "Sec-WebSocket-Version"),
    ("body", GET, [*LINES, "Content-Length: 1"], 400, "body"),
    ("body-behind-none", GET, [*LINES, "Content-Length: 0", "Content-Length: 5"], 400,
     "body"),
    ("body-list", GET, [*LINES, "Content-Length: 0, 5"], 400, "body"),
    ("body-negative", GET, [*LINES, "Content-Length: -0"], 400, "body"),
    ("chunked-body", GET, [*LINES, "Transfer-Encoding: chunked"], 400, "body"),
    ("identity-body", GET, [*LINES, "Transfer-Encoding:"], 400, "body"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "lines", "status", "word"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_bad_handshake_is_refused(
    start: str, lines: list[str], status: int, word: str
) -> None:
    error = refused(*lines, start=start)
    assert error.status == status
    assert word in str(error)
    assert str(error).endswith(".")


def test_other_methods_are_told_what_is_allowed() -> None:
    # RFC 9110 §15.5.6: "The origin server MUST generate an Allow header field in a
    # 405 response".
    error = refused(*LINES, start="DELETE / HTTP/1.1")
    assert refusal(error)._encode().startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: GET\r\n" in refusal(error)._encode()


def test_plain_http_request_is_told_to_upgrade() -> None:
    error = refused("Host: h", "Accept: text/html")
    head = refusal(error)._encode()
    assert head.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    # RFC 9110 §15.5.22: "The server MUST send an Upgrade header field in a 426".
    assert b"\r\nUpgrade: websocket\r\n" in head
    assert b"\r\nConnection: Upgrade\r\n" in head


@pytest.mark.parametrize(
    "version", ["0", "7", "8", "12", "14", "1 3", "13, 8", "x", ""]
)
def test_other_versions_are_told_ours(version: str) -> None:
    # §4.4, and §4.2.2, 4: "an appropriate HTTP error code (such as 426 Upgrade
    # Required) and a |Sec-WebSocket-Version| header field".
    name = "Sec-WebSocket-Version"
    error = refused(*without(name, f"{name}: {version}"))
    response = refusal(error)._encode()
    assert response.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in response
    assert b"\r\nUpgrade: websocket\r\n" in response
    assert f"not {version}".encode() in response


def test_two_versions_are_refused() -> None:
    # §11.3.5: it "MUST NOT appear more than once in an HTTP request".
    for version in ("13", "8"):
        error = refused(*LINES, f"Sec-WebSocket-Version: {version}")
        assert error.status == 426


def test_long_version_is_not_repeated_in_full() -> None:
    name = "Sec-WebSocket-Version"
    assert len(str(refused(*without(name, f"{name}: {'9' * 5000}")))) < 200


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        KEY[:-1],
        KEY[:-2],
        KEY[:-2] + "=",
        KEY + "=",
        KEY + KEY,
        " ".join(KEY),
        KEY.replace("=", "-"),
        "*" + KEY[1:],
        "\xe9" + KEY[1:],
        "dGhlIHNhbXBsZS-ub25jZQ==",
        base64.b64encode(bytes(15)).decode(),
        base64.b64encode(bytes(17)).decode(),
        base64.b64encode(bytes(20)).decode(),
    ],
)
def test_key_must_be_sixteen_bytes_of_base64(key: str) -> None:
    name = "Sec-WebSocket-Key"
    error = refused(*without(name, f"{name}: {key}"))
    assert error.status == 400
    assert str(error) == "Sec-WebSocket-Key must be 16 bytes encoded as base64."


@given(nonce=st.binary(min_size=16, max_size=16))
def test_any_sixteen_bytes_make_a_key(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    name = "Sec-WebSocket-Key"
    assert check_upgrade(request(*without(name, f"{name}: {key}"))) == key


def test_refusal_says_in_one_sentence_what_was_wrong() -> None:
    error = HandshakeError(400, "The Host header is missing.", [("X-A", "b")])
    assert refusal(error)._encode() == (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"X-A: b\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 28\r\n"
        b"\r\n"
        b"The Host header is missing.\n"
    )


@given(
    lines=st.lists(
        st.sampled_from(
            [
                *LINES,
                "Upgrade: h2c",
                "Connection: close",
                "Sec-WebSocket-Key: x",
                "Sec-WebSocket-Version: 8",
                "Content-Length: 5",
                "Sec-WebSocket-Protocol: ,",
                "Sec-WebSocket-Extensions: ;",
            ]
        ),
        max_size=9,
    )
)
def test_only_documented_errors_escape(lines: list[str]) -> None:
    asked = request(*lines)
    status = None
    try:
        check_upgrade(asked)
        check_origin(asked, ("same",))
        offered_subprotocols(asked.headers)
        parse_extensions(asked.headers.get_all("Sec-WebSocket-Extensions"))
    except HandshakeError as error:
        status = refusal(error).status
    assert status in (None, 400, 403, 405, 426)


# --- From bytes to frames ------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytewise"])
def test_first_frame_may_come_with_the_request(split: bool) -> None:
    data = head(*LINES) + frame(0x81, b"Hello")[:7]
    reader, protocol = RequestReader(), Protocol()
    found = None
    rest: list[bytes] = []
    for chunk in bytewise(data) if split else [data]:
        if found is None:
            found = reader.feed(chunk)
            rest = [reader.rest] if found else []
        else:
            rest.append(chunk)
    assert found is not None
    assert check_upgrade(found) == KEY
    rest.append(frame(0x81, b"Hello")[7:])
    assert drive(protocol, rest).events == [(TEXT, "Hello")]


# --- Origin --------------------------------------------------------------------------

ONE = "https://a.example"

#: (allowed origins as the user gives them, Origin, Host, whether it may connect)
ORIGINS: list[tuple[object, str | None, str, bool]] = [
    (None, ONE, "h", True),
    (None, None, "h", True),
    (ONE, ONE, "h", True),
    (ONE, "HTTPS://A.Example", "h", True),
    ("HTTPS://A.Example", ONE, "h", True),
    (ONE, "https://b.example", "h", False),
    (ONE, "http://a.example", "h", False),
    (ONE, "https://a.example:8443", "h", False),
    (ONE, "https://a.example.evil", "h", False),
    (ONE, "https://evil.example/https://a.example", "h", False),
    (ONE, ONE + "/", "h", False),
    (ONE, None, "h", False),
    (ONE, "null", "h", False),
    (ONE, "", "h", False),
    ([ONE, None], None, "h", True),
    ([ONE, None], "https://b.example", "h", False),
    ([None], ONE, "h", False),
    ([], ONE, "h", False),
    ([], None, "h", False),
    ("null", "null", "h", True),
    ("file://", "file://", "h", True),
    (ONE, "file://", "h", False),
    ("same", "file://", "h", False),
    ("null", None, "h", False),
    ("null", ONE, "h", False),
    ("*", ONE, "h", True),
    ("*", "null", "h", True),
    ("*", None, "h", False),
    ("https://*.example", ONE, "h", True),
    ("https://*.example", "https://A.B.EXAMPLE", "h", True),
    ("https://*.example", "https://example", "h", False),
    ("https://*.example", "https://a.example:1", "h", False),
    ("https://*.example", "https://evil.com/.example", "h", False),
    ("https://a.example:*", "https://a.example:8443", "h", True),
    ("*://a.example", "http://a.example", "h", True),
    ("https://a.example", "https://aXexample", "h", False),
    ("https://*.a.example", "https://b.aXexample", "h", False),
    (re.compile(r"https://\w\.example"), ONE, "h", True),
    (re.compile(r"https://\w\.example"), ONE + ".evil", "h", False),
    (re.compile(r"https://\w\.example"), None, "h", False),
    ("same", ONE, "a.example", True),
    ("same", "http://a.example", "a.example", True),
    ("same", "https://A.example", "a.EXAMPLE", True),
    ("same", "http://a.example:8080", "a.example:8080", True),
    ("same", "http://a.example", "a.example:8080", False),
    ("same", "http://a.example:8080", "a.example", False),
    (ONE, ONE + ":443", "h", True),
    (ONE + ":443", ONE, "h", True),
    (ONE, ONE + ":80", "h", False),
    ("http://a.example:443", "http://a.example", "h", False),
    ("same", "http://a.example", "a.example:80", True),
    ("same", "https://a.example", "a.example:443", True),
    ("same", "https://a.example:443", "a.example", True),
    ("same", "http://[::1]", "[::1]:80", True),
    ("same", "http://a.example", "a.example:443", False),
    ("same", "https://a.example", "a.example:80", False),
    ("same", "http://:80", ":80", False),
    ("same", "https://b.example", "a.example", False),
    ("same", "null", "a.example", False),
    ("same", "null", "", False),
    ("same", "http://", "", False),
    ("same", None, "a.example", False),
    (["same", ONE], ONE, "b.example", True),
]


@pytest.mark.parametrize(("allowed", "origin", "host", "good"), ORIGINS)
def test_origin_decides_who_may_connect(
    allowed: object, origin: str | None, host: str, good: bool
) -> None:
    rules: Sequence[OriginRule] | None = check_options({"origins": allowed})["origins"]
    lines = without("Origin", *([] if origin is None else [f"Origin: {origin}"]))
    lines[0] = f"Host: {host}"
    if good:
        check_origin(request(*lines), rules)
        return
    with pytest.raises(HandshakeError) as caught:
        check_origin(request(*lines), rules)
    assert caught.value.status == 403
    assert "Origin" in str(caught.value)


def test_same_host_is_that_of_an_absolute_target() -> None:
    # RFC 9112 §3.2.2: "the origin server MUST ignore the received Host header field (if
    # any) and instead use the host information of the request-target".
    lines = without("Origin", "Origin: http://a.example:81")
    start = "GET WS://A.example:81/chat HTTP/1.1"
    check_origin(request(*lines, start=start), ["same"])
    lines = without("Origin", "Origin: http://server.example.com")
    with pytest.raises(HandshakeError):
        check_origin(request(*lines, start=start), ["same"])


def test_pattern_for_origins_takes_no_time() -> None:
    rules = check_options({"origins": "https://*.*.example"})["origins"]
    asked = request("Host: h", "Origin: https://" + "." * 16_000)
    began = time.process_time()
    with pytest.raises(HandshakeError):
        check_origin(asked, rules)
    assert time.process_time() - began < 0.2


# --- Subprotocols --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "offered"),
    [
        ([], []),
        (["chat"], ["chat"]),
        (["chat, superchat"], ["chat", "superchat"]),
        (["chat", "superchat"], ["chat", "superchat"]),
        (["b,a\t,  c"], ["b", "a", "c"]),
        (["Chat, chat"], ["Chat", "chat"]),
        (["v1.example.com, mqtt"], ["v1.example.com", "mqtt"]),
        # RFC 9110 §5.6.1.2: empty elements are ignored.
        (["chat,, superchat,"], ["chat", "superchat"]),
        ([", chat"], ["chat"]),
        (["", "chat"], ["chat"]),
        # An empty field is as if it were not there.
        ([""], []),
        (["", ""], []),
    ],
)
def test_offered_subprotocols(lines: list[str], offered: list[str]) -> None:
    fields = [f"Sec-WebSocket-Protocol: {line}" for line in lines]
    assert offered_subprotocols(request(*fields).headers) == offered


@pytest.mark.parametrize(
    "line",
    [",", " , ", "a b", "a/b", '"chat"', "chat;q=1", "(", "chat\xa0", "\xe9"],
)
def test_malformed_subprotocols_are_refused(line: str) -> None:
    # §4.2.1: "any violations of the ABNF grammar": "MUST stop processing the client's
    # handshake and return an HTTP response with an appropriate error code".
    with pytest.raises(HandshakeError, match="Sec-WebSocket-Protocol") as caught:
        offered_subprotocols(request(f"Sec-WebSocket-Protocol: {line}").headers)
    assert caught.value.status == 400


# --- The response --------------------------------------------------------------------


@pytest.mark.parametrize("subprotocol", [None, "chat"])
@pytest.mark.parametrize("extensions", [None, "permessage-deflate"])
def test_response_names_only_what_was_agreed(
    subprotocol: str | None, extensions: str | None
) -> None:
    lines = upgrade_response(KEY, subprotocol, extensions).decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert lines[-2:] == ["", ""]
    expected = ["Upgrade: websocket", "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {ACCEPT}"]  # fmt: skip
    if subprotocol:
        expected.append("Sec-WebSocket-Protocol: chat")
    if extensions:
        expected.append("Sec-WebSocket-Extensions: permessage-deflate")
    assert lines[1:-2] == expected

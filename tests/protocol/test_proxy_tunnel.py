"""HTTP proxies of the clients: choosing one, and its CONNECT (RFC 9110 §9.3.6)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from client_harness import fields_of
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.errors import InvalidURI, ProxyError
from simple_ws.protocol.proxy_tunnel import Tunnel, parse_proxy, proxy_for
from simple_ws.protocol.uri import parse_uri

pytestmark = pytest.mark.one_backend

VARIABLES = ("http", "https", "ws", "wss", "all", "no")


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in VARIABLES:
        monkeypatch.delenv(f"{kind}_proxy", raising=False)
        monkeypatch.delenv(f"{kind.upper()}_PROXY", raising=False)


# --- Which one -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("http://proxy:3128", "proxy", 3128),
        ("http://proxy:3128/", "proxy", 3128),
        ("HTTP://proxy", "proxy", 80),
        ("proxy:3128", "proxy", 3128),
        ("me:secret@proxy:3128", "proxy", 3128),
        ("http://[::1]:8080", "::1", 8080),
    ],
)
def test_address_of_a_proxy_is_read(address: str, host: str, port: int) -> None:
    proxy = parse_proxy(address)
    assert (proxy.host, proxy.port) == (host, port)


@pytest.mark.parametrize("scheme", ["https", "socks", "ws"])
def test_other_kinds_of_proxies_are_refused(scheme: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"only http:// and socks5:// proxies are supported, not {scheme}://",
    ):
        parse_proxy(f"{scheme}://proxy:1080")


@pytest.mark.parametrize(
    ("environ", "url", "host"),
    [
        ({}, "ws://h/", None),
        ({"http_proxy": "http://a:1"}, "ws://h/", "a"),
        ({"http_proxy": "http://a:1"}, "wss://h/", None),
        ({"https_proxy": "http://a:1"}, "wss://h/", "a"),
        ({"https_proxy": "http://a:1"}, "ws://h/", None),
        ({"HTTPS_PROXY": "http://a:1"}, "wss://h/", "a"),
        ({"all_proxy": "http://a:1"}, "ws://h/", "a"),
        ({"all_proxy": "http://a:1"}, "wss://h/", "a"),
        ({"http_proxy": "b:1", "ws_proxy": "a:1"}, "ws://h/", "a"),
        ({"https_proxy": "b:1", "wss_proxy": "a:1"}, "wss://h/", "a"),
        ({"all_proxy": "b:1", "http_proxy": "a:1"}, "ws://h/", "a"),
        ({"http_proxy": "a:1", "no_proxy": "h"}, "ws://h/", None),
        ({"http_proxy": "a:1", "no_proxy": "x,.h.y"}, "ws://z.h.y/", None),
        ({"http_proxy": "a:1", "no_proxy": "h:81"}, "ws://h:81/", None),
        ({"http_proxy": "a:1", "no_proxy": "h:81"}, "ws://h/", "a"),
        ({"http_proxy": "a:1", "no_proxy": "*"}, "ws://h/", None),
        ({"http_proxy": "a:1", "no_proxy": "::1"}, "ws://[::1]:9/", None),
        ({"http_proxy": ""}, "ws://h/", None),
        ({"http_proxy": "", "HTTP_PROXY": "a:1"}, "ws://h/", None),
        ({"http_proxy": "a:1", "HTTP_PROXY": "b:1"}, "ws://h/", "a"),
        ({"HTTP_PROXY": "a:1"}, "ws://h/", "a"),
        # httpoxy: a CGI program gets a field of the request as this variable.
        ({"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}, "ws://h/", None),
        # A server on this machine is not looked for by a proxy elsewhere.
        ({"http_proxy": "a:1"}, "ws://localhost:8080/", None),
        ({"http_proxy": "a:1"}, "ws://LocalHost./", None),
        ({"http_proxy": "a:1"}, "ws://app.localhost/", None),
        ({"https_proxy": "a:1"}, "wss://127.0.0.1/", None),
        ({"all_proxy": "a:1"}, "ws://127.9.9.9/", None),
        ({"all_proxy": "a:1"}, "ws://[::1]/", None),
        ({"all_proxy": "a:1"}, "ws://[::ffff:127.0.0.1]/", None),
        ({"all_proxy": "https://a:1"}, "ws://localhost/", None),
        ({"all_proxy": "a:1"}, "ws://localhost.example.com/", "a"),
        # Of several kinds the one that can be used.
        ({"all_proxy": "https://b:1", "http_proxy": "a:1"}, "ws://h/", "a"),
        ({"http_proxy": "https://b:1", "all_proxy": "a:1"}, "ws://h/", "a"),
        ({"ws_proxy": "https://b:1", "http_proxy": "a:1"}, "ws://h/", "a"),
        ({"https_proxy": "https://b:1", "all_proxy": "a:1"}, "wss://h/", "a"),
        ({"all_proxy": "https://b:1", "https_proxy": "a:1"}, "ws://h/", "a"),
        ({"all_proxy": "https://b:1", "http_proxy": "a:1"}, "wss://h/", "a"),
        ({"all_proxy": "https://b:1", "no_proxy": "h"}, "ws://h/", None),
    ],
)
def test_environment_names_the_proxy(
    environ: dict[str, str], url: str, host: str | None, monkeypatch: Any
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(parse_uri(url))
    assert (None if proxy is None else proxy.host) == host


@pytest.mark.parametrize("address", ["https://me:secret@a:1", "http://me:secret@a:x"])
def test_proxy_of_the_environment_that_cannot_be_used_is_named(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", address)
    said = "pass proxy='http://host:port' to use another one, or proxy=None to connect"
    with pytest.raises(InvalidURI, match=said) as caught:
        proxy_for(parse_uri("ws://h/"))
    assert caught.value.url == "ws://h/"
    assert "me:***@a" in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=60), st.booleans())
def test_no_answer_raises_anything_but_our_errors(data: bytes, refused: bool) -> None:
    asking = tunnel("http://me:SECRET@p:1", "ws://me:SECRET@h/?SECRET")
    asking.begin()
    start = b"HTTP/1.1 407 x\r\n\r\n" if refused else b""
    shown = ""
    try:
        if not asking.receive(start + data):
            asking.receive_eof()
    except ProxyError as error:
        shown = f"{error} {error!r}"
    assert shown.isprintable()
    assert "SECRET" not in shown


def test_refusal_that_quotes_our_credentials_does_not_show_them() -> None:
    asking = tunnel("http://me:SECRET@p:1")
    asking.begin()
    quoted = b"not SECRET, not " + base64.b64encode(b"me:SECRET")
    with pytest.raises(ProxyError, match=r"\(not \*\*\*, not \*\*\*\)"):
        asking.receive(
            b"HTTP/1.1 407 x\r\nContent-Length: %d\r\n\r\n" % len(quoted) + quoted
        )


# --- Its CONNECT ---------------------------------------------------------------------


def tunnel(proxy: str = "http://p:3128", url: str = "wss://h/path") -> Tunnel:
    return Tunnel(parse_proxy(proxy), parse_uri(url), "simple_ws")


def test_request_names_host_and_port() -> None:
    head = tunnel().begin().decode()
    assert head.startswith("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n")
    assert head.endswith("\r\n\r\n")
    assert fields_of(head) == {"host": "h:443", "user-agent": "simple_ws"}


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://h/", "h:80"),
        ("ws://[::1]:9/", "[::1]:9"),
        ("ws://b\u00fccher.example/", "xn--bcher-kva.example:80"),
    ],
)
def test_every_kind_of_host_can_be_asked_for(url: str, target: str) -> None:
    assert f"CONNECT {target} HTTP/1.1\r\n" in tunnel(url=url).begin().decode()


def test_credentials_go_to_the_proxy() -> None:
    head = tunnel("http://me:s%C3%A4cret@p:3128", "ws://you:other@h/").begin().decode()
    fields = fields_of(head)
    kind, text = fields["proxy-authorization"].split(" ")
    assert (kind, base64.b64decode(text).decode()) == ("Basic", "me:s\u00e4cret")
    assert "authorization" not in fields


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
    ],
)
def test_success_opens_the_way(answer: bytes) -> None:
    asking = tunnel()
    asking.begin()
    for byte in answer[:-1]:
        assert not asking.receive(bytes((byte,)))
    assert asking.receive(answer[-1:])


def fail(answer: bytes, *, eof: bool = False) -> ProxyError:
    asking = tunnel()
    asking.begin()
    if eof and answer:
        asking.receive(answer)
    with pytest.raises(ProxyError) as caught:
        asking.receive_eof() if eof else asking.receive(answer)
    assert str(caught.value).startswith("wss://h/path: the proxy p:3128 ")
    return caught.value


def test_refusal_carries_the_facts() -> None:
    error = fail(b"HTTP/1.1 403 x\r\nVia: p\r\nContent-Length: 3\r\n\r\nno!")
    assert error.status == 403
    assert error.headers["via"] == "p"
    assert error.body == b"no!"
    assert "answered 403 Forbidden (no!)" in str(error)


def test_wrong_credentials_are_hinted_at() -> None:
    error = fail(b"HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n")
    assert "proxy='http://user:password@host:port'" in str(error)


@pytest.mark.parametrize("status", [101, 301, 404, 500])
def test_anything_but_success_is_a_refusal(status: int) -> None:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\nLocation: /\r\n\r\n"
    assert fail(head.encode()).status == status


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 2", "closed the connection without an answer"),
        (b"HTTP/1.1 502 x\r\n\r\nBad luck", "answered 502 Bad Gateway (Bad luck)"),
    ],
)
def test_proxy_that_closes_is_named(answer: bytes, said: str) -> None:
    assert said in str(fail(answer, eof=True))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x05\x00", "it does not speak HTTP"),
        (b"HTTP/1.1 200 x\n\n", "without CR LF"),
        (b"HTTP/1.1 200 x\r\n\r\nhello", "sent extra bytes"),
    ],
)
def test_what_is_no_proxy_is_named(answer: bytes, said: str) -> None:
    assert said in str(fail(answer))


def test_refusal_is_known_before_its_body() -> None:
    asking = tunnel()
    asking.begin()
    assert not asking.refused
    assert not asking.receive(b"HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nwait")
    assert asking.refused
    with pytest.raises(ProxyError) as caught:
        asking.refuse()
    assert caught.value.body == b"wait"

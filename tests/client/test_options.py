"""Options of both clients: valid values, errors, and their effect."""

from __future__ import annotations

import math
import ssl
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from simple_ws import aio
from simple_ws.client import blocking as client
from simple_ws.client.options import (
    ClientOptions,
    ConnectOptions,
    check_client_options,
)
from simple_ws.deflate import Deflate
from simple_ws.protocol.client_handshake import Opening
from simple_ws.protocol.uri import URI, parse_uri

pytestmark = pytest.mark.one_backend

PLAIN = parse_uri("ws://h/")
SECURE = parse_uri("wss://h/")
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def check(uri: URI = SECURE, **given: Any) -> ClientOptions:
    return check_client_options(uri, given)


GOOD: list[tuple[str, Any, Any]] = [
    ("subprotocols", ["a", "b"], ("a", "b")),
    ("subprotocols", (), ()),
    ("headers", {"X": "1"}, (("X", "1"),)),
    ("headers", [("X", "1"), ("X", "2")], (("X", "1"), ("X", "2"))),
    ("headers", {"Authorization": "Bearer x"}, (("Authorization", "Bearer x"),)),
    ("headers", {"X": "\u00e9 \t x"}, (("X", "\u00e9 \t x"),)),
    ("headers", {"X": ""}, (("X", ""),)),
    ("cookies", {"a": "1", "b": "x y,z"}, (("a", "1"), ("b", "x y,z"))),
    ("cookies", {"a": ""}, (("a", ""),)),
    ("origin", "https://page.example", "https://page.example"),
    ("origin", None, None),
    ("user_agent", "mine/1", "mine/1"),
    ("user_agent", None, None),
    ("compression", False, None),
    ("compression", None, None),
    ("compression", Deflate(level=9), Deflate(level=9)),
    ("max_size", 1, 1),
    ("max_size", None, None),
    ("max_frame_size", 1, 1),
    ("max_frame_size", None, None),
    ("read_limit", 1, 1),
    ("open_timeout", 1, 1.0),
    ("close_timeout", 0.1, 0.1),
    ("write_timeout", 5, 5.0),
    ("ping_interval", 1, 1.0),
    ("ping_interval", None, None),
    ("ping_timeout", None, None),
    ("ssl", CONTEXT, CONTEXT),
    ("ssl", True, None),
    ("ssl", None, None),
    ("server_hostname", "name", "name"),
    ("server_hostname", None, None),
    ("proxy", True, True),
    ("proxy", False, False),
    ("proxy", None, False),
    ("proxy", "http://p:1", parse_uri("http://p:1")),
    ("proxy", "p:1", parse_uri("http://p:1")),
    ("source_address", ("127.0.0.1", 0), ("127.0.0.1", 0)),
    ("source_address", None, None),
    ("unix", "/run/ws", "/run/ws"),
    ("unix", Path("/run/ws"), "/run/ws"),
    ("unix", None, None),
]


@pytest.mark.parametrize(
    ("name", "value", "kept"), GOOD, ids=lambda value: str(value)[:40]
)
def test_good_value_is_kept(name: str, value: Any, kept: Any) -> None:
    assert getattr(check(**{name: value}), name) == kept


BAD: list[tuple[str, Any, str]] = [
    ("subprotocols", "chat", "subprotocols must be a list"),
    ("subprotocols", ["a b"], "subprotocols: a name 'a...' is not a token"),
    ("subprotocols", [1], "subprotocols must hold strings, not int"),
    ("subprotocols", ["a", "a"], "subprotocols must hold each name once"),
    ("headers", "X: 1", "headers must be a mapping or pairs"),
    ("headers", 1, "headers must be a mapping or pairs, not int"),
    ("headers", ["X: 1"], "headers must hold pairs of two strings, not str"),
    ("headers", [("a", "b", "c")], "headers must hold pairs of two strings"),
    ("headers", {"X": 1}, "headers must hold pairs of two strings"),
    ("headers", {"X Y": "1"}, "headers: the name of a field 'X...' is not a token"),
    ("headers", {"": "1"}, "headers: the name of a field is empty"),
    ("headers", {"X": "a\r\nb"}, "headers: X must be latin-1 text without line"),
    ("headers", {"X": "\u20ac"}, "headers: X must be latin-1 text"),
    ("headers", {"X": " a"}, "headers: X must be"),
    ("headers", {"X": "a "}, "headers: X must be"),
    ("headers", {"Host": "x"}, "headers: the handshake itself sets Host"),
    ("headers", {"upgrade": "x"}, "headers: the handshake itself sets upgrade"),
    ("headers", {"Connection": "x"}, "the handshake itself sets"),
    ("headers", {"Content-Length": "1"}, "the handshake itself sets"),
    ("headers", {"Transfer-Encoding": "x"}, "the handshake itself sets"),
    ("headers", {"Sec-WebSocket-Key": "x"}, "the handshake itself sets"),
    ("headers", {"Sec-WebSocket-Protocol": "x"}, "there is the option subprotocols"),
    ("headers", {"Sec-WebSocket-Extensions": "x"}, "there is the option compression"),
    ("headers", {"Cookie": "x"}, "there is the option cookies"),
    ("headers", {"Origin": "x"}, "there is the option origin"),
    ("headers", {"User-Agent": "x"}, "there is the option user_agent"),
    ("cookies", [("a", "b")], "cookies must be a mapping"),
    ("cookies", {"a": 1}, "cookies must hold strings, not (str, int)"),
    ("cookies", {"a b": "1"}, "cookies: the name of a cookie 'a...' is not a token"),
    ("cookies", {"a": "1;b"}, "cookies: a must be ASCII text without semicolons"),
    ("cookies", {"a": "1\n"}, "cookies: a must be"),
    ("cookies", {"a": "\u00e4"}, "cookies: a must be"),
    ("origin", 1, "origin must be a str or None, not int"),
    ("origin", "a\nb", "origin must be latin-1 text"),
    ("user_agent", b"x", "user_agent must be a str or None"),
    ("compression", "on", "compression must be True, False or a Deflate"),
    ("max_size", -1, "max_size must be at least"),
    ("max_size", "1", "max_size must be a whole number"),
    ("max_frame_size", 0, "max_frame_size must be at least 1"),
    ("read_limit", 0, "read_limit must be at least 1"),
    ("read_limit", None, "read_limit must be a whole number of bytes, not None"),
    ("read_limit", True, "read_limit must be a whole number of bytes, not True"),
    ("open_timeout", 0, "open_timeout must be more than 0"),
    ("open_timeout", None, "open_timeout must be a number of seconds, not None"),
    ("close_timeout", math.inf, "close_timeout must be more than 0"),
    ("write_timeout", 0, "write_timeout must be more than 0 seconds, not 0"),
    ("write_timeout", "1", "write_timeout must be a number of seconds, not '1'"),
    ("ping_interval", 0, "ping_interval must be more than 0 seconds or None, not 0"),
    ("ping_timeout", -1, "ping_timeout must be more than 0 seconds or None, not -1"),
    ("ssl", False, "ssl must be an ssl.SSLContext, True or None, not False"),
    ("ssl", "cert.pem", "ssl must be an ssl.SSLContext"),
    ("server_hostname", 1, "server_hostname must be a host name or None, not 1"),
    ("server_hostname", "", "server_hostname must be a host name or None, not ''"),
    ("server_hostname", "\u00e4", "server_hostname must be a host name"),
    ("server_hostname", ".a", "server_hostname must be a host name"),
    ("server_hostname", "a..b", "server_hostname must be a host name"),
    ("server_hostname", "a" * 64, "server_hostname must be a host name"),
    ("proxy", 1, "proxy must be True, None or an address"),
    ("proxy", "https://p:1", "proxy: only http:// and socks5:// proxies"),
    ("proxy", "http://me:secret@p:x", "proxy: http://me:***@p:x"),
    ("source_address", "127.0.0.1", "source_address must be (host, port) or None"),
    ("source_address", ("h", "1"), "source_address must be (host, port)"),
    ("source_address", ("h", 65536), "the port must be from 0 to 65535"),
    ("unix", 1, "unix must be a path"),
    ("unix", "", "unix must be a path"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"), BAD, ids=lambda value: ascii(value)[:40]
)
def test_wrong_value_is_refused_by_name(name: str, value: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        check(**{name: value})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": {"Authorization": "Bearer SECRET\n"}}, r"14 of 14 is '\\n'"),
        ({"headers": {"Authorization": " SECRET"}}, "character 1 of 7 is ' '"),
        ({"headers": {"Authorization": "SECRET\t"}}, r"7 of 7 is '\\t'"),
        ({"headers": {"X": "SECRET\r\nHost: x"}}, r"character 7 of 15 is '\\r'"),
        ({"headers": {"X": "SECRET\u20ac"}}, r"7 of 7 is '\\u20ac'"),
        ({"headers": {"X": b"SECRET"}}, r"not \(str, bytes\)"),
        ({"headers": {"Authorization: Bearer SECRET": ""}}, "'Authorization...'"),
        ({"headers": "Authorization: SECRET"}, "not str"),
        ({"headers": ["Authorization: SECRET"]}, "not str"),
        ({"headers": [("Authorization", "Bearer", "SECRET")]}, r"\(str, str, str\)"),
        ({"cookies": {"session": "SECRET;x"}}, "character 7 of 8 is ';'"),
        ({"cookies": {"session=SECRET": ""}}, "'session...'"),
        ({"cookies": {"session": b"SECRET"}}, "bytes"),
        ({"cookies": "session=SECRET"}, "not str"),
        ({"subprotocols": ["Bearer SECRET"]}, "'Bearer...'"),
        ({"subprotocols": "SECRET"}, "not str"),
        ({"subprotocols": [b"SECRET"]}, "not bytes"),
        ({"subprotocols": ["SECRET", "SECRET"]}, "each name once"),
        ({"proxy": b"http://me:SECRET@p:1"}, "not bytes"),
        ({"proxy": "http://me:SECRET@p:x"}, r"me:\*\*\*@p"),
        ({"proxy": "https://me:SECRET@p:1"}, "only http"),
        ({"proxy": "me:SECRET/x@p:1"}, r"me:\*\*\*@p"),
        ({"ssl": True}, r"not for ws://h/\?token=\*\*\*"),
    ],
    ids=str,
)
@pytest.mark.parametrize("connect", [client.connect, aio.connect])
def test_credentials_are_not_shown_where_they_are_wrong(
    connect: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        connect("ws://h/?token=SECRET", **options)
    assert "SECRET" not in f"{caught.value} {caught.value!r}"


def test_credentials_are_not_shown_among_the_options() -> None:
    options = check(
        headers={"X-Api-Key": "SECRET"},
        cookies={"a": "SECRET"},
        subprotocols=["SECRET"],
        proxy="http://SECRET:SECRET@p:1",
    )
    assert "SECRET" not in repr(options)


def test_unknown_option_is_refused_with_those_that_are() -> None:
    said = r"unknown option 'timeout'; options are .*unix"
    with pytest.raises(TypeError, match=said):
        check(timeout=1)


@pytest.mark.parametrize("connect", [client.connect, aio.connect])
def test_options_are_checked_before_anything_is_done(connect: Any) -> None:
    with pytest.raises(TypeError, match="unknown option"):
        connect("ws://192.0.2.1/", no_such_option=1)
    with pytest.raises(ValueError, match="max_size"):
        connect("ws://192.0.2.1/", max_size=-1)
    with pytest.raises(ValueError, match="the scheme must be"):
        connect("ftp://192.0.2.1/")


@pytest.mark.parametrize("connect", [client.connect, aio.connect])
def test_context_of_a_server_is_refused(connect: Any) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with pytest.raises(ValueError, match="ssl must be") as caught:
        connect("wss://192.0.2.1/", ssl=context)
    assert str(caught.value) == (
        "ssl must be a context for clients, such as ssl.create_default_context(); "
        "this one is for servers (PROTOCOL_TLS_SERVER)"
    )


@pytest.mark.parametrize("name", ["ssl", "server_hostname"])
def test_options_of_tls_are_refused_without_it(name: str) -> None:
    value = {"ssl": CONTEXT, "server_hostname": "x"}[name]
    with pytest.raises(ValueError, match=f"{name} is for wss addresses, not for ws://"):
        check(PLAIN, **{name: value})
    assert check(PLAIN, **{name: None}) == check(PLAIN)


@pytest.mark.parametrize(
    ("name", "value"), [("proxy", "http://p:1"), ("source_address", ("h", 0))]
)
def test_options_that_contradict_a_unix_socket_are_refused(
    name: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be used with unix='/x'"):
        check(unix="/x", **{name: value})


def test_unix_socket_and_settings_of_the_environment_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "http://p:1")
    assert check(unix="/x", proxy=True).proxy_to(SECURE) is None
    assert check(proxy=None).proxy_to(SECURE) is None
    found = check().proxy_to(SECURE)
    assert found is not None
    assert found.host == "p"


def test_defaults_are_what_the_documentation_says() -> None:
    options = check()
    assert options.max_size == 2**20
    assert options.read_limit == 2**20
    assert options.max_frame_size is None
    assert options.open_timeout == options.close_timeout == 10
    assert options.write_timeout == 20
    assert options.ping_interval == options.ping_timeout == 20
    assert options.proxy is True
    config = options.compression
    assert config is not None
    assert config.server_max_window_bits == config.client_max_window_bits == 15


def test_every_option_is_known_to_type_checkers() -> None:
    known = set(ConnectOptions.__annotations__)
    assert known == {field.name for field in fields(ClientOptions)}
    more = aio.AsyncConnectOptions.__annotations__.keys() - known
    assert more == {"backoff", "should_retry"}


def test_certificates_are_checked_by_default() -> None:
    assert check().tls_to(PLAIN, PLAIN) is None
    tls = check().tls_to(SECURE, SECURE)
    assert tls is not None
    context, name = tls
    assert name == "h"
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_name_given_for_the_certificate_is_for_that_server_only() -> None:
    options = check(ssl=CONTEXT, server_hostname="other")
    assert options.tls_to(SECURE, SECURE) == (CONTEXT, "other")
    assert options.tls_to(parse_uri("wss://next/"), SECURE) == (CONTEXT, "next")


@pytest.mark.parametrize(
    "given",
    [{"first": 0}, {"longest": math.inf}, {"stable": -1}, {"first": 2, "longest": 1}],
)
def test_backoff_refuses_what_makes_no_sense(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Backoff: "):
        aio.Backoff(**given)


def test_backoff_must_be_one() -> None:
    with pytest.raises(TypeError, match=r"backoff must be a Backoff\(...\), not 3"):
        aio.connect("ws://h/", backoff=3)  # type: ignore[typeddict-item]


def test_texts_are_sent_as_they_were_checked() -> None:
    """Also those of subclasses of str, which may say something else each time."""

    class Liar(str):
        def __str__(self) -> str:
            return "x\r\nInjected: 1"

        def __format__(self, spec: str) -> str:
            return "x\r\nInjected: 1"

        def lower(self) -> str:
            return "x"

    uri = parse_uri("ws://h/")
    text = Liar("abc")
    checked = check_client_options(
        uri,
        {
            "headers": {text: text},
            "cookies": {text: text},
            "origin": text,
            "user_agent": text,
            "subprotocols": [text],
        },
    )
    assert checked.headers == checked.cookies == (("abc", "abc"),)
    request = Opening(uri, checked).begin()
    assert b"Injected" not in request
    assert request.count(b"abc") == 7
    with pytest.raises(ValueError, match="the handshake itself sets"):
        check_client_options(uri, {"headers": {Liar("Host"): "x"}})

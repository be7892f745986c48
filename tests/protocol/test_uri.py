"""Addresses of servers: RFC 6455 §3, RFC 3986, international names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.errors import ConnectError, InvalidURI
from simple_ws.protocol.uri import URI, parse_uri
from simple_ws.text import excerpt, redacted

pytestmark = pytest.mark.one_backend

GOOD = [
    # what was written, TLS, host, port, what goes into the request line
    ("ws://example.com", False, "example.com", 80, "/"),
    ("wss://example.com", True, "example.com", 443, "/"),
    ("http://example.com/", False, "example.com", 80, "/"),
    ("https://example.com/", True, "example.com", 443, "/"),
    ("WS://Example.COM/Path", False, "example.com", 80, "/Path"),
    ("ws://example.com:8080/chat", False, "example.com", 8080, "/chat"),
    ("ws://example.com:/", False, "example.com", 80, "/"),
    ("wss://example.com:80/", True, "example.com", 80, "/"),
    ("ws://example.com:65535", False, "example.com", 65535, "/"),
    ("ws://example.com:1", False, "example.com", 1, "/"),
    ("ws://h?x=1&y=a/b?c", False, "h", 80, "/?x=1&y=a/b?c"),
    ("ws://h/a%20b?c%3D%C3%A4", False, "h", 80, "/a%20b?c%3D%C3%A4"),
    ("ws://h/\u00e4/\u65e5?\u00fc=\U0001f600", False, "h", 80, None),
    ("ws://h/a:b@c;d,e+f=g(h)*!$'~", False, "h", 80, "/a:b@c;d,e+f=g(h)*!$'~"),
    ('ws://h/"<>[]^`{|}\\', False, "h", 80, "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D%5C"),
    ("ws://my_service:9000/", False, "my_service", 9000, "/"),
    ("ws://127.0.0.1:9/", False, "127.0.0.1", 9, "/"),
    ("ws://[::1]:9/", False, "::1", 9, "/"),
    ("wss://[2001:DB8::0:1]/", True, "2001:db8::1", 443, "/"),
    ("ws://[fe80::1%25eth0]/", False, "fe80::1%eth0", 80, "/"),
    ("ws://[fe80::1%eth0]/", False, "fe80::1%eth0", 80, "/"),
    ("ws://b\u00fccher.example/", False, "xn--bcher-kva.example", 80, "/"),
    ("ws://B\u00dcCHER.example/", False, "xn--bcher-kva.example", 80, "/"),
    ("ws://b%C3%BCcher.example/", False, "xn--bcher-kva.example", 80, "/"),
    ("ws://\u4f8b\u3048.jp/", False, "xn--r8jz45g.jp", 80, "/"),
    ("ws://example.com./", False, "example.com.", 80, "/"),
]


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "target"), GOOD, ids=[row[0] for row in GOOD]
)
def test_good_address_is_read(
    url: str, secure: bool, host: str, port: int, target: str | None
) -> None:
    target = "/%C3%A4/%E6%97%A5?%C3%BC=%F0%9F%98%80" if target is None else target
    assert parse_uri(url) == URI(secure, host, port, target)


BAD = [
    # what was written, and a part of what is said about it
    ("", "it must begin like ws://host/"),
    ("example.com", "it must begin like ws://host/"),
    ("example.com:80", "it must begin like ws://host/"),
    ("//example.com/", "it must begin like ws://host/"),
    ("ws:/example.com/", "it must begin like ws://host/"),
    ("ws:example.com", "it must begin like ws://host/"),
    ("1ws://example.com", "it must begin like ws://host/"),
    ("ftp://example.com", "the scheme must be ws or wss, not ftp"),
    ("ws+unix://x", "the scheme must be ws or wss, not ws+unix"),
    ("ws://", "it has no host"),
    ("ws:///path", "it has no host"),
    ("ws://:80/", "it has no host"),
    ("ws://user@/", "it has no host"),
    ("ws://h#", "has no fragment"),
    ("ws://h/path#part", "write a # in it as %23"),
    ("ws://h:0", "the port must be from 1 to 65535, not 0"),
    ("ws://h:65536", "the port must be from 1 to 65535, not 65536"),
    ("ws://h:000000000000000080", "the port must be"),
    ("ws://h:http/", "must be host or host:port"),
    ("ws://h:80:80/", "must be host or host:port"),
    ("ws://::1/", "must be host or host:port"),
    ("ws://[::1/", "must be host or host:port"),
    ("ws://[::1]x/", "must be host or host:port"),
    ("ws://[]/", "'' is not an IPv6 address"),
    ("ws://[1.2.3.4]/", "'1.2.3.4' is not an IPv6 address"),
    ("ws://[v1.x]/", "'v1.x' is not an IPv6 address"),
    ("ws://a..b/", "'a..b' is not a host name"),
    ("ws://.a/", "is not a host name"),
    ("ws://" + "a" * 64 + "/", "is not a host name"),
    ("ws://" + "a." * 127 + "com/", "is not a host name"),
    ("ws://a,b/", "is not a host name"),
    ("ws://a\\b/", "is not a host name"),
    ("ws://%zz/", "is not a host name"),
    ("ws://%ff/", "is not a host name"),
    ("ws://%2f/", "is not a host name"),
    ("ws://h/100%", "write a % in path or query as %25"),
    ("ws://h/?%4", "write a % in path or query as %25"),
    ("ws://h/\ud800", "are not valid Unicode"),
    (" ws://h/", "a space or a control character"),
    ("ws://h/ ", "a space or a control character"),
    ("ws://h/a b", "a space or a control character"),
    ("ws://h/\r\nX: y", "a space or a control character"),
    ("ws://h/\x7f", "a space or a control character"),
    ("ws://h\\@evil/", "the special characters of user"),
    ("ws://%@h/", "the special characters of user"),
    ("ws://a%3Ab:c@h/", "must not contain a colon"),
]


@pytest.mark.parametrize(("url", "said"), BAD, ids=[ascii(row[0])[:30] for row in BAD])
def test_wrong_address_is_refused_with_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ConnectError)
    assert caught.value.problem in str(caught.value)


@pytest.mark.parametrize("url", [None, b"ws://h/", 80])
def test_address_must_be_a_str(url: object) -> None:
    with pytest.raises(TypeError, match="url must be a str, not"):
        parse_uri(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("ws://me@h/", "me", None),
        ("ws://me:@h/", "me", ""),
        ("ws://me:secret@h/", "me", "secret"),
        ("ws://me:a:b@h/", "me", "a:b"),
        ("ws://m%40e:%C3%A4%20@h/", "m@e", "\u00e4 "),
        ("ws://me@mail:secret@h/", "me@mail", "secret"),
        ("ws://@h/", None, None),
        ("ws://:secret@h/", "", "secret"),
    ],
)
def test_user_and_password_are_decoded(
    url: str, user: str | None, password: str | None
) -> None:
    uri = parse_uri(url)
    assert (uri.host, uri.user, uri.password) == ("h", user, password)


def test_password_is_shown_nowhere() -> None:
    uri = parse_uri("wss://me:secret@h/path")
    assert str(uri) == "wss://h/path"
    assert "secret" not in repr(uri)
    with pytest.raises(InvalidURI) as caught:
        parse_uri("ws://me:secret@h:x/")
    assert "secret" not in str(caught.value)
    assert "secret" not in caught.value.url
    assert caught.value.url == "ws://me:***@h:x/"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:1/", "http://u:***@h:1/"),
        ("http://u:p:q@h/", "http://u:***@h/"),
        ("http://u:p@q@h/", "http://u:***@h/"),
        ("http://u@h/", "http://***@h/"),
        ("u:p@h:1", "u:***@h:1"),
        ("ws://u:p/q@h/", "ws://u:***@h/"),
        ("ws://u:p?q@h/", "ws://u:***@h/"),
        ("ws://h/?token=abc&x&a=&b=c=d", "ws://h/?token=***&***&a=&b=***"),
        ("ws://u:p@h/?to=ws://u:p@h", "ws://u:***@h/?to=***"),
        ("ws://h:1/#access_token=abc", "ws://h:1/#***"),
        ("?token=abc", "?token=***"),
        ("http://h/a:b@c", "http://h/a:b@c"),
    ],
)
def test_addresses_are_shown_without_their_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_tokens_are_shown_in_no_error() -> None:
    uri = parse_uri("wss://me:SECRET@h/?token=SECRET")
    assert str(uri) == "wss://h/?token=SECRET"
    assert uri.shown == "wss://h/?token=***"
    assert "SECRET" not in repr(uri)
    for url in (
        "ws://h:x/?token=SECRET",
        "ws://h/#access_token=SECRET",
        "me:SECRET@h/",
        "ws://me:SECRET/x@h/",
        "ftp://h/?SECRET",
        "ws://SECRET@h:x/",
        "ws://h/?token=SECRET\n",
    ):
        with pytest.raises(InvalidURI) as caught:
            parse_uri(url)
        assert "SECRET" not in f"{caught.value} {caught.value!r} {caught.value.args}"
    with pytest.raises(TypeError, match="not bytes"):
        parse_uri(b"ws://me:SECRET@h/")  # type: ignore[arg-type]  # on purpose


def test_what_a_peer_wrote_is_shown_on_one_line_and_short() -> None:
    assert excerpt("a\x1b[2J\u202e\x9b") == r"a\x1b[2J\u202e\x9b"
    assert excerpt("a" * 1000) == "a" * 300 + "..."
    assert excerpt("caf\xe9") == "caf\xe9"


@pytest.mark.parametrize(
    ("url", "authority", "tunnel", "tls_name"),
    [
        ("ws://h/", "h", "h:80", "h"),
        ("ws://h:80/", "h", "h:80", "h"),
        ("ws://h:443/", "h:443", "h:443", "h"),
        ("wss://h:443/", "h", "h:443", "h"),
        ("wss://h:80/", "h:80", "h:80", "h"),
        ("ws://[::1]:9/", "[::1]:9", "[::1]:9", "::1"),
        ("wss://[fe80::1%25eth0]/", "[fe80::1]", "[fe80::1]:443", "fe80::1"),
        ("wss://example.com./", "example.com.", "example.com.:443", "example.com"),
    ],
)
def test_host_is_written_for_each_use(
    url: str, authority: str, tunnel: str, tls_name: str
) -> None:
    uri = parse_uri(url)
    assert uri.authority == authority
    assert uri.host_and_port == tunnel
    assert uri.tls_name == tls_name


@pytest.mark.parametrize(
    ("location", "to"),
    [
        ("/other", "ws://h:81/other"),
        ("other", "ws://h:81/a/other"),
        ("../up", "ws://h:81/up"),
        ("?q=1", "ws://h:81/a/b?q=1"),
        ("//o/p", "ws://o/p"),
        ("ws://o/", "ws://o/"),
        ("http://o/", "ws://o/"),
        ("https://o:444/x?y", "wss://o:444/x?y"),
        ("wss://o/#part", "wss://o/"),
        ("", "ws://h:81/a/b?c"),
        ("/\u00e4", "ws://h:81/%C3%A4"),
    ],
)
def test_redirects_lead_where_they_say(location: str, to: str) -> None:
    uri = parse_uri("ws://user:password@h:81/a/b?c")
    as_received = location.encode().decode("latin-1")
    assert str(uri.join(as_received)) == to


def test_redirect_of_a_link_local_address_stays_in_its_zone() -> None:
    uri = parse_uri("wss://[fe80::1%25eth0]:81/a/b?c")
    assert str(uri) == "wss://[fe80::1%25eth0]:81/a/b?c"
    assert uri.join("../up").host == "fe80::1%eth0"
    assert uri.join("//[fe80::2]/").host == "fe80::2"


@pytest.mark.parametrize("url", ["ws://[::%0]/", "ws://[fe80::1%25a~b]:443/x?y"])
def test_what_is_written_is_read_again(url: str) -> None:
    assert parse_uri(str(parse_uri(url))) == parse_uri(url)


def test_location_that_is_not_utf8_leads_somewhere_all_the_same() -> None:
    assert str(parse_uri("ws://h/").join("/\xff")) == "ws://h/%EF%BF%BD"


@pytest.mark.parametrize(
    "location",
    [
        "ftp://h/",
        "mailto:a@b",
        "ws://",
        "ws://a b/",
        "ws://h:0/",
        "ws://h:99999/",
        "ws://h:x/",
        # What `urljoin` raises ValueError for:
        "ws://[x]/",
        "//[",
        "http://]/",
        "//a\u2100b/".encode().decode("latin-1"),
        "//[::1]x/",
        "//[v1.%]/",
        # What `getaddrinfo` would raise UnicodeError for:
        "ws://[fe80::1%25\xe4]/",
        f"ws://[fe80::1%25{'a' * 300}]/",
        f"ws://{'a.' * 7000}/",
    ],
)
def test_redirect_to_no_server_is_an_error(location: str) -> None:
    with pytest.raises(InvalidURI):
        parse_uri("ws://h/").join(location)


def test_origin_is_scheme_host_and_port() -> None:
    assert parse_uri("ws://h/a").origin == parse_uri("http://u:p@h:80/b").origin
    for other in ("wss://h/a", "ws://h:81/a", "ws://i/a"):
        assert parse_uri("ws://h/a").origin != parse_uri(other).origin


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for url in (text, f"ws://{text}", f"ws://h/{text}", f"wss://{text}@h/"):
        try:
            uri = parse_uri(url)
        except InvalidURI as error:
            shown = str(error)
        else:
            shown = str(uri)
            line = f"GET {uri.target} HTTP/1.1\r\nHost: {uri.authority}\r\n"
            assert line.isascii()
            assert len(line.split(" ")) == 4
            assert parse_uri(shown).target == uri.target
        assert shown.isprintable()

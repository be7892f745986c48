"""Client addresses from proxies: only trusted ones are believed."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driven, Recorder, request
from http_peer import get
from hypothesis import example, given
from hypothesis import strategies as st

from simple_ws import Server
from simple_ws.constants import MAX_HEAD_SIZE
from simple_ws.protocol.fields import Headers
from simple_ws.server.forwarded import (
    TrustedProxies,
    client_address,
    client_hosts,
    client_scheme,
)

PEER = ("10.0.0.1", 4711)
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"])


def forwarded(*lines: str, peer: Any = PEER, trusted: TrustedProxies = TRUSTED) -> Any:
    headers = Headers(("Forwarded", line) for line in lines)
    return client_address(peer, headers, trusted)


def x_forwarded_for(*lines: str, peer: Any = PEER) -> Any:
    headers = Headers(("X-Forwarded-For", line) for line in lines)
    return client_address(peer, headers, TRUSTED)


# --- Whom the header names -----------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("line", "address"),
    [
        # RFC 7239 §4 and §6.
        ("for=192.0.2.43", ("192.0.2.43", 0)),
        ("For=192.0.2.43", ("192.0.2.43", 0)),
        ('for="192.0.2.43:47011"', ("192.0.2.43", 47011)),
        ('for="192.0.2.43:65535"', ("192.0.2.43", 65535)),
        ('for="192.0.2.43:_port"', ("192.0.2.43", 0)),
        ('For="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711)),
        ('for="[2001:db8:cafe::17]"', ("2001:db8:cafe::17", 0)),
        ('for="[2001:DB8:CAFE:0::17]"', ("2001:db8:cafe::17", 0)),
        ('for="[::ffff:192.0.2.43]"', ("192.0.2.43", 0)),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ("192.0.2.60", 0)),
        ("proto=http;by=203.0.113.43;for=192.0.2.60", ("192.0.2.60", 0)),
        ("proto=http; for=192.0.2.60 ;host=a", ("192.0.2.60", 0)),
        ("for=192.0.2.60;", ("192.0.2.60", 0)),
        (r'for="192\.0.2.60"', ("192.0.2.60", 0)),
        ('for=192.0.2.43;host="a,b;for=1.2.3.4"', ("192.0.2.43", 0)),
        (r'for=192.0.2.43;host="a\", for=1.2.3.4, \\"', ("192.0.2.43", 0)),
        # The rightmost that is not trusted.
        ("for=192.0.2.43, for=198.51.100.17", ("198.51.100.17", 0)),
        ("for=192.0.2.43,for=10.1.1.1", ("192.0.2.43", 0)),
        ("for=1.1.1.1, for=192.0.2.43, for=10.1.1.1", ("192.0.2.43", 0)),
        ('for=192.0.2.43, for="[fd00::1]:80"', ("192.0.2.43", 0)),
        ("for=192.0.2.43, for=192.0.2.7", ("192.0.2.43", 0)),
        # All are trusted: the leftmost.
        ("for=10.3.3.3, for=10.2.2.2", ("10.3.3.3", 0)),
        # Empty elements are none.
        (",, for=192.0.2.43 , ,for=10.1.1.1,\t,", ("192.0.2.43", 0)),
        ("", PEER),
        (" , ,", PEER),
        # What cannot be read ends the search.
        ("for=unknown", PEER),
        ("for=_hidden", PEER),
        ('for="_hidden:80"', PEER),
        ("for=192.0.2.43, for=unknown", PEER),
        ("for=192.0.2.43, for=_SEVKISEK, for=10.1.1.1", ("10.1.1.1", 0)),
        ("for=192.0.2.43, nonsense, for=10.1.1.1", ("10.1.1.1", 0)),
        ("for=192.0.2.43, proto=https", PEER),
        ("for=192.0.2.43;for=192.0.2.44", PEER),
        ("for=192.0.2.43:80", PEER),  # a colon must be in quotes
        ("for=[2001:db8::1]", PEER),
        ('for="2001:db8::1"', PEER),
        ('for="192.0.2.43:65536"', PEER),
        ('for="192.0.2.43:"', PEER),
        ('for="192.0.2.43:123456"', PEER),
        ("for=192.0.2.256", PEER),
        ("for=192.0.2", PEER),
        ("for=192.0.02.43", PEER),
        ("for=3221226027", PEER),
        ('for="[2001:db8::1%eth0]"', PEER),
        ('for="[192.0.2.43]"', ("192.0.2.43", 0)),
        ('for=""', PEER),
        ("for=", PEER),
        ("for", PEER),
        ("=192.0.2.43", PEER),
        ('for="192.0.2.43', PEER),
        ('192.0.2.43"', PEER),
        ("for =192.0.2.43", PEER),
        ("for= 192.0.2.43", PEER),
        # §4: `[ forwarded-pair ] *( ";" [ forwarded-pair ] )`
        (";for=192.0.2.43", ("192.0.2.43", 0)),
        ("for=192.0.2.43;;", ("192.0.2.43", 0)),
        ("proto=http; ;for=192.0.2.43 ; ", ("192.0.2.43", 0)),
        (";", PEER),
        ("for=192.0.2.43, ;", PEER),
        ('for="192.0.2.43"x', PEER),
    ],
)
def test_forwarded(line: str, address: Any) -> None:
    assert forwarded(line) == address


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("192.0.2.43", ("192.0.2.43", 0)),
        ("192.0.2.43:47011", ("192.0.2.43", 47011)),
        ("2001:db8::17", ("2001:db8::17", 0)),
        ("[2001:db8::17]", ("2001:db8::17", 0)),
        ("[2001:db8::17]:4711", ("2001:db8::17", 4711)),
        ("::ffff:192.0.2.43", ("192.0.2.43", 0)),
        ("192.0.2.43, 198.51.100.17", ("198.51.100.17", 0)),
        ("1.1.1.1,192.0.2.43 ,\t10.1.1.1", ("192.0.2.43", 0)),
        ("192.0.2.43, fd00::1", ("192.0.2.43", 0)),
        ("10.3.3.3, 10.2.2.2", ("10.3.3.3", 0)),
        ("192.0.2.43,, 10.1.1.1,", ("192.0.2.43", 0)),
        ("", PEER),
        ("unknown", PEER),
        ("192.0.2.43, unknown, 10.1.1.1", ("10.1.1.1", 0)),
        ('"192.0.2.43"', PEER),
        ("192.0.2.43:", PEER),
        ("192.0.2.43:http", PEER),
        ("192.0.2.43:65536", PEER),
        ("fe80::1%eth0", PEER),
        ("1", PEER),
        ("::", ("::", 0)),
        ("for=192.0.2.43", PEER),
    ],
)
def test_x_forwarded_for(line: str, address: Any) -> None:
    assert x_forwarded_for(line) == address


@pytest.mark.one_backend
def test_lines_are_one_list() -> None:
    assert forwarded("for=1.1.1.1", "for=192.0.2.43", "for=10.1.1.1") == (
        "192.0.2.43",
        0,
    )
    assert x_forwarded_for("1.1.1.1", "192.0.2.43", "10.1.1.1") == ("192.0.2.43", 0)


@pytest.mark.one_backend
def test_neither_header_is_believed_where_they_contradict_each_other() -> None:
    """A proxy writes one of them; the other may be its client's."""
    pairs = [("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.2")]
    for order in (pairs, pairs[::-1]):
        assert client_address(PEER, Headers(order), TRUSTED) == PEER


@pytest.mark.one_backend
def test_headers_that_agree_are_believed() -> None:
    pairs = [("X-Forwarded-For", "8.8.8.8, 192.0.2.2"), ("Forwarded", "for=192.0.2.2")]
    assert client_address(PEER, Headers(pairs), TRUSTED) == ("192.0.2.2", 0)


@pytest.mark.one_backend
def test_without_a_header_it_is_the_peer() -> None:
    assert client_address(PEER, Headers(), TRUSTED) == PEER


# --- Who may say so ------------------------------------------------------------------


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("peer", "networks", "believed"),
    [
        (("192.0.2.1", 1), ["192.0.2.0/24"], True),
        (("192.0.2.1", 1), ["192.0.3.0/24"], False),
        (("192.0.2.1", 1), ["::/0"], False),
        (("192.0.2.1", 1), ["unix"], False),
        (("2001:db8::1", 1), ["2001:db8::/32"], True),
        (("2001:db8::1", 1), ["0.0.0.0/0"], False),
        (("fe80::1%eth0", 1), ["fe80::/10"], True),
        (("no address", 1), ["0.0.0.0/0", "::/0"], False),
        ("", ["unix"], True),
        ("/tmp/client.sock", ["unix"], True),
        ("", ["0.0.0.0/0", "::/0"], False),
        (None, ["0.0.0.0/0", "::/0"], False),
    ],
)
def test_only_a_trusted_peer_is_believed(
    peer: Any, networks: list[str], believed: bool
) -> None:
    trusted = TrustedProxies(networks)
    told = forwarded("for=203.0.113.9", peer=peer, trusted=trusted)
    assert told == (("203.0.113.9", 0) if believed else peer)


# --- What an untrusted client sends --------------------------------------------------

#: All that a header field may hold, with a liking for what has a meaning here.
HEADER_TEXT = st.text(
    st.one_of(
        st.sampled_from('",;=\\[]:. \t_'),
        st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"),
    ),
    max_size=60,
)
ELEMENTS = st.sampled_from(
    [
        "for=10.0.0.1",
        "for=1.2.3.4",
        'for="1.2.3.4',
        '"',
        '\\"',
        'for="[::1]:80"',
        "for=unknown",
        "10.0.0.1",
        "1.2.3.4",
        'x="',
        'host="a\\',
    ]
)
HOSTILE = st.one_of(
    HEADER_TEXT, st.lists(st.one_of(ELEMENTS, HEADER_TEXT)).map(",".join)
)
#: What a proxy adds for a client at 198.51.100.7, and whether it is a line of its own.
HONEST_FORWARDED = st.sampled_from(
    [
        "for=198.51.100.7",
        'for="198.51.100.7:80"',
        'proto=https;for="198.51.100.7";host="a\\"b,c"',
        'for=198.51.100.7;by="[fd00::1]:80"',
        'by=_x;for=198.51.100.7, for="10.9.9.9:1"',
    ]
)
HONEST_X = st.sampled_from(
    ["198.51.100.7", "198.51.100.7:80", "198.51.100.7, 10.9.9.9"]
)
REAL = "198.51.100.7"


@pytest.mark.one_backend
@given(HOSTILE, HONEST_FORWARDED, st.booleans())
@example('for="1.2.3.4', "for=198.51.100.7", False)
@example('x="', 'for="198.51.100.7:80"', False)
@example("\\", 'for="198.51.100.7:80"', False)
def test_forged_forwarded_changes_nothing(
    forged: str, honest: str, own_line: bool
) -> None:
    lines = [forged, honest] if own_line else [f"{forged}, {honest}"]
    assert forwarded(*lines)[0] == REAL
    assert forwarded(*lines) == forwarded(honest)


@pytest.mark.one_backend
@given(HOSTILE, HONEST_X, st.booleans())
def test_forged_x_forwarded_for_changes_nothing(
    forged: str, honest: str, own_line: bool
) -> None:
    lines = [forged, honest] if own_line else [f"{forged}, {honest}"]
    assert x_forwarded_for(*lines)[0] == REAL
    assert x_forwarded_for(*lines) == x_forwarded_for(honest)


@pytest.mark.one_backend
@given(st.lists(st.tuples(st.sampled_from(["Forwarded", "X-Forwarded-For"]), HOSTILE)))
def test_untrusted_peer_cannot_change_its_address(lines: list[Any]) -> None:
    for peer in (("198.51.100.7", 80), ("2001:db8::7", 80), ""):
        assert client_address(peer, Headers(lines), TRUSTED) == peer


@pytest.mark.one_backend
@given(st.lists(st.tuples(st.sampled_from(["Forwarded", "X-Forwarded-For"]), HOSTILE)))
def test_whatever_comes_the_answer_is_an_address(lines: list[Any]) -> None:
    host, port = client_address(PEER, Headers(lines), TRUSTED)
    assert TrustedProxies([host, "unix"]).trust((host, port))
    assert 0 <= port <= 65535


def filled(piece: str) -> str:
    """As much of it as a request head may hold."""
    return (piece * MAX_HEAD_SIZE)[:MAX_HEAD_SIZE]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "line",
    [
        filled(","),
        filled('"'),
        filled("\\"),
        filled('\\"'),
        filled('","'),
        filled("for=10.0.0.1,"),
        filled("10.0.0.1,"),
        filled("for=10.0.0.1;"),
        filled("x=y;"),
        filled("=;"),
        filled("a"),
        filled(":"),
        filled("1."),
        'for="' + filled("\\\\") + '"',
        'for="' + filled("\\a") + '"',
        "for=" + filled("_"),
        '"' + filled('\\"') + '"',
        filled(" ") + "for=1.2.3.4",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_hostile_header_takes_little_work(line: str) -> None:
    # Of 64 times the largest head there is, a second of work if it grows as the length
    # does. What grows as its square does not end before the test is timed out.
    forwarded(line * 64)
    x_forwarded_for(line * 64)


@pytest.mark.one_backend
def test_chain_of_proxies_is_followed_so_far() -> None:
    assert x_forwarded_for(", ".join(["192.0.2.43", *["10.1.1.1"] * 31])) == (
        "192.0.2.43",
        0,
    )
    assert x_forwarded_for(", ".join(["192.0.2.43", *["10.1.1.1"] * 32])) == (
        "10.1.1.1",
        0,
    )


# --- Connections ---------------------------------------------------------------------

OTHER = ("192.0.2.1", 12345)  # the peer of `Driven`


class Asking(Recorder):
    def on_request(self, request: Any) -> None:
        self.note("request", None, request.address)


def test_client_has_the_address_that_its_proxy_tells() -> None:
    with Driven(Asking(), trusted_proxies=["192.0.2.0/24"]) as driven:
        driven.open("/", 'Forwarded: for="203.0.113.9:1234"')
        assert driven.handler.of("request") == [("203.0.113.9", 1234)]
        assert driven.handler.client().address == ("203.0.113.9", 1234)


def test_unusual_request_has_it_too() -> None:
    with Driven(Asking(), trusted_proxies=["192.0.2.0/24"]) as driven:
        # A second line of one name is not read in the fast way.
        driven.open("/", "X-Forwarded-For: 203.0.113.9", "Connection: keep-alive")
        assert driven.handler.client().address == ("203.0.113.9", 0)


@pytest.mark.parametrize("networks", [[], ["10.0.0.0/8"], ["unix"]])
def test_others_are_not_believed(networks: list[str]) -> None:
    with Driven(Asking(), trusted_proxies=networks) as driven:
        driven.open("/", "Forwarded: for=203.0.113.9", "X-Forwarded-For: 203.0.113.9")
        assert driven.handler.of("request") == [OTHER]
        assert driven.handler.client().address == OTHER


def test_page_has_the_address_that_its_proxy_tells() -> None:
    seen = []
    with Driven(Recorder(), trusted_proxies=["192.0.2.0/24"]) as driven:

        @driven.server.http("/page")
        def page(request: Any) -> str:
            seen.append(request.address)
            return "a page"

        peer = driven.join()
        for host in ("203.0.113.9", "203.0.113.10"):  # on one connection
            lines = f"Host: x\r\nX-Forwarded-For: {host}\r\n"
            peer.write(f"GET /page HTTP/1.1\r\n{lines}\r\n".encode())
            assert peer.read_head().startswith(b"HTTP/1.1 200")
            peer.read(len("a page"))
    assert seen == [("203.0.113.9", 0), ("203.0.113.10", 0)]


def test_connections_are_counted_by_what_the_proxy_tells() -> None:
    options = {"trusted_proxies": "192.0.2.1", "max_connections_per_ip": 1}
    with Driven(Recorder(), **options) as driven:
        driven.open("/", "X-Forwarded-For: 203.0.113.9")
        driven.open("/", "X-Forwarded-For: 203.0.113.10")
        peer = driven.join()
        peer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"X-Forwarded-For: 203.0.113.9\r\n\r\n"
        )
        assert peer.read_head().startswith(b"HTTP/1.1 429 ")


def test_handler_cannot_trust_on_its_own() -> None:
    with pytest.raises(ValueError, match="trusted_proxies is an option of the server"):
        Server().mount("/", Recorder(trusted_proxies=["10.0.0.0/8"]))


# --- Scheme and host -----------------------------------------------------------------

FOR = "X-Forwarded-For"
PROTO = "X-Forwarded-Proto"
CLIENT, NEAR = "192.0.2.1", "10.0.0.2"


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ([], None),
        ([(PROTO, "https")], "https"),
        ([(PROTO, "HTTPS")], "https"),
        ([(PROTO, "wss")], "https"),
        ([(PROTO, "http")], "http"),
        ([(PROTO, "ws")], "http"),
        ([(PROTO, "")], None),
        ([(PROTO, "ftp")], None),
        ([(PROTO, "https;")], None),
        ([(FOR, CLIENT), (PROTO, "https")], "https"),
        # Each proxy has added one: that of the client counts.
        ([(FOR, f"{CLIENT}, {NEAR}"), (PROTO, "https, http")], "https"),
        ([(FOR, f"{CLIENT}, {NEAR}"), (PROTO, "https"), (PROTO, "http")], "https"),
        ([(FOR, f"1.1.1.1, {CLIENT}, {NEAR}"), (PROTO, "http, https, http")], "https"),
        # Otherwise the nearest one.
        ([(FOR, f"{CLIENT}, {NEAR}"), (PROTO, "https")], "https"),
        ([(FOR, CLIENT), (PROTO, "https, http")], "http"),
        ([("Forwarded", f"for={CLIENT};proto=https")], "https"),
        ([("Forwarded", f'Proto="https"; for={CLIENT}')], "https"),
        ([("Forwarded", "proto=https")], "https"),
        ([("Forwarded", "for=unknown;proto=https")], "https"),
        ([("Forwarded", f"for={CLIENT};proto=https, for={NEAR};proto=http")], "https"),
        ([("Forwarded", f"for=1.1.1.1;proto=http, for={CLIENT};proto=https")], "https"),
        ([("Forwarded", f"for={CLIENT}")], None),
        ([("Forwarded", f"for={CLIENT};proto=https;proto=http")], None),
        ([("Forwarded", "proto")], None),
        ([("Forwarded", f"for={CLIENT};proto=https"), (PROTO, "https")], "https"),
        ([("Forwarded", f"for={CLIENT};proto=https"), (PROTO, "http")], None),
    ],
)
def test_scheme_is_that_of_the_client(
    fields: list[tuple[str, str]], scheme: str | None
) -> None:
    assert client_scheme(PEER, Headers(fields), TRUSTED) == scheme
    assert client_scheme(("192.0.2.9", 1), Headers(fields), TRUSTED) is None


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("fields", "hosts"),
    [
        ([("Host", "a.example")], []),
        ([("X-Forwarded-Host", "b.example:8443")], ["b.example:8443"]),
        ([("Forwarded", f'for={CLIENT};host="b.example:1"')], ["b.example:1"]),
        (
            [("Host", "a.example"), ("X-Forwarded-Port", "8443")],
            ["a.example", "a.example:8443"],
        ),
        (
            [("Host", "[::1]"), ("X-Forwarded-Port", "80, 8443")],
            ["[::1]", "[::1]:8443"],
        ),
        ([("Host", "a.example:1"), ("X-Forwarded-Port", "2")], ["a.example:1"]),
        ([("Host", "a.example"), ("X-Forwarded-Port", "evil")], []),
        ([("X-Forwarded-Host", " , ")], []),
    ],
)
def test_hosts_are_those_the_proxy_was_asked_for(
    fields: list[tuple[str, str]], hosts: list[str]
) -> None:
    assert client_hosts(PEER, Headers(fields), TRUSTED) == hosts
    assert client_hosts(("192.0.2.9", 1), Headers(fields), TRUSTED) == []


@pytest.mark.one_backend
@given(st.text(alphabet='for=,;" \\ht:/p1.[]', max_size=60))
def test_scheme_and_hosts_are_read_of_whatever_comes(text: str) -> None:
    headers = Headers([("Forwarded", text), (PROTO, text), ("X-Forwarded-Host", text)])
    assert client_scheme(PEER, headers, TRUSTED) in (None, "http", "https")
    assert all(client_hosts(PEER, headers, TRUSTED))


def told(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]


@pytest.mark.parametrize(
    ("proxies", "line", "scheme"),
    [
        (["192.0.2.1"], f"{PROTO}: https", "https"),
        (["192.0.2.1"], "Forwarded: for=1.2.3.4;proto=https", "https"),
        (["192.0.2.1"], f"{PROTO}: http", "http"),
        (["10.0.0.1"], f"{PROTO}: https", "http"),
        ([], f"{PROTO}: https", "http"),
    ],
)
def test_scheme_of_a_trusted_proxy_is_that_of_requests(
    proxies: list[str], line: str, scheme: str
) -> None:
    with Driven(trusted_proxies=proxies) as driven:
        driven.server.http("/page")(lambda request: f"{request.secure}")
        driven.server.wsgi("/app", told)
        assert get(driven, "/page", line).text == str(scheme == "https")
        assert get(driven, "/app/", line).text == scheme


@pytest.mark.parametrize(
    ("host", "lines", "origin", "status"),
    [
        ("a.example", [], "https://a.example", 101),
        ("a.example", [], "http://a.example", 101),
        ("a.example", [f"{PROTO}: https"], "https://a.example", 101),
        ("a.example", [f"{PROTO}: https"], "http://a.example", 403),
        ("a.example", [f"{PROTO}: http"], "https://a.example", 403),
        ("a.example", [f"{PROTO}: http"], "http://a.example", 101),
        ("a.example:443", [f"{PROTO}: https"], "https://a.example", 101),
        ("a.example", [], "https://a.example:8443", 403),
        ("a.example", ["X-Forwarded-Port: 8443"], "https://a.example:8443", 101),
        ("a.example", ["X-Forwarded-Port: 443"], "https://a.example", 101),
        ("a.example", ["X-Forwarded-Port: 8443"], "https://b.example:8443", 403),
        ("up:80", ["X-Forwarded-Host: a.example"], "https://a.example", 101),
        ("up:80", ["Forwarded: host=a.example"], "https://a.example", 101),
        ("a.example", [], "ftp://a.example", 403),
    ],
)
def test_same_origin_is_that_of_the_client(
    host: str, lines: list[str], origin: str, status: int
) -> None:
    with Driven(trusted_proxies=["192.0.2.1"], origins="same") as driven:
        data = request("/", f"Origin: {origin}", *lines)
        peer = driven.join()
        peer.write(data.replace(b"Host: example.com", b"Host: " + host.encode()))
        assert int(peer.read_head().split()[1]) == status


def test_log_says_which_origin_met_which_host(caplog: Any) -> None:
    caplog.set_level("INFO", "simple_ws")
    with Driven(origins="same") as driven:
        peer = driven.join()
        peer.write(request("/", "Origin: https://irc.example\x9b"))
        body = peer.read_rest()
    assert b"irc.example" not in body
    assert r"Origin 'https://irc.example\x9b', asked for 'example.com'" in caplog.text

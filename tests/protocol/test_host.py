"""`host`: which host a request is for, and whether it may be asked here."""

from __future__ import annotations

import pytest

from simple_ws.errors import HandshakeError
from simple_ws.protocol.host import (
    asked_host,
    check_allowed_host,
    check_host,
    host_name,
)
from simple_ws.protocol.request import Request

pytestmark = pytest.mark.one_backend


def request_for(target: str, *hosts: str) -> Request:
    fields = "".join(f"Host: {host}\r\n" for host in hosts)
    return Request("GET", target, (1, 1), fields.encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "hosts", "asked"),
    [
        ("/chat", ["example.com:80"], "example.com:80"),
        ("/chat", [], ""),
        # RFC 9112 §3.2.2: a host in the target counts, and Host is ignored.
        ("http://a.example/chat", ["b.example"], "a.example"),
        ("WSS://a.example:444", ["b.example"], "a.example:444"),
    ],
)
def test_host_is_that_of_the_target_or_of_the_field(
    target: str, hosts: list[str], asked: str
) -> None:
    assert asked_host(request_for(target, *hosts)) == asked


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.com", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com.", "example.com"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("192.0.2.1:", "192.0.2.1"),
        ("", ""),
        (":80", ":80"),
    ],
)
def test_name_is_without_port_brackets_and_final_dot(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["", "h", "h:", "h:80", "[::1]:80", "a%20b", "x_y"])
def test_well_formed_host_is_taken(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize("host", ["a b", "h:8x", "user@h", "[::1", "a/b", "a<b", "é"])
def test_malformed_host_is_400(host: str) -> None:
    with pytest.raises(HandshakeError, match="Host header is malformed") as caught:
        check_host(host)
    assert caught.value.status == 400


ALLOWED = ["example.com", "*.example.org"]


@pytest.mark.parametrize("host", ["example.com:80", "EXAMPLE.com.", "a.b.example.org"])
def test_request_for_an_allowed_host_is_taken(host: str) -> None:
    check_allowed_host(request_for("/", host), ALLOWED)


@pytest.mark.parametrize(
    ("target", "hosts"),
    [
        ("/", ["evil.example"]),
        ("/", ["example.org"]),
        ("/", ["example.com.evil.example"]),
        ("/", []),
        # An application may use either.
        ("http://example.com/", ["evil.example"]),
        ("http://evil.example/", ["example.com"]),
    ],
)
def test_request_for_another_host_is_421(target: str, hosts: list[str]) -> None:
    with pytest.raises(HandshakeError, match="does not serve this host") as caught:
        check_allowed_host(request_for(target, *hosts), ALLOWED)
    assert caught.value.status == 421


def test_star_allows_every_host_that_has_a_name() -> None:
    check_allowed_host(request_for("/", "anything.example"), ["*"])
    with pytest.raises(HandshakeError):
        check_allowed_host(request_for("/"), ["*"])

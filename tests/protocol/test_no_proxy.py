"""Hosts that are reached without the proxy from the environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.protocol.no_proxy import is_direct
from simple_ws.protocol.uri import parse_uri

pytestmark = pytest.mark.one_backend

DIRECT = [
    ("h", "ws://h/"),
    ("H", "ws://h/"),
    ("h", "ws://a.h/"),
    (".h", "ws://a.b.h/"),
    (".h", "ws://h/"),
    ("*.h", "ws://a.h/"),
    ("*.h", "ws://a.b.h/"),
    ("h.", "ws://h/"),
    ("h", "ws://h./"),
    ("*.h.", "ws://a.h./"),
    ("x,h", "ws://h/"),
    ("x h", "ws://h/"),
    (" x , h ", "ws://h/"),
    ("*", "ws://h/"),
    ("x,*", "ws://[fd00::1]/"),
    ("h:80", "ws://h/"),
    ("h:443", "wss://h/"),
    (".h:81", "ws://a.h:81/"),
    ("*:81", "ws://h:81/"),
    ("b\u00fccher.example", "ws://b\u00fccher.example/"),
    ("*.b\u00fccher.example", "ws://a.xn--bcher-kva.example/"),
    ("10.1.2.3", "ws://10.1.2.3/"),
    ("10.1.2.3:81", "ws://10.1.2.3:81/"),
    ("10.0.0.0/8", "ws://10.1.2.3/"),
    ("10.9.9.9/8", "ws://10.1.2.3/"),  # the bits of the host are of no matter
    ("10.0.0.0/8:81", "ws://10.1.2.3:81/"),
    ("0.0.0.0/0", "ws://8.8.8.8/"),
    ("10.0.0.0/8", "ws://[::ffff:10.1.2.3]/"),
    ("::ffff:10.0.0.0/104", "ws://10.1.2.3/"),
    ("fd00::1", "ws://[fd00::1]/"),
    ("FD00:0::1", "ws://[fd00::1]/"),
    ("[fd00::1]", "ws://[fd00::1]/"),
    ("[fd00::1]:81", "ws://[fd00::1]:81/"),
    ("fd00::/8", "ws://[fd12::1]/"),
    ("[fd00::]/8", "ws://[fd12::1]/"),
    ("fe80::/10", "ws://[fe80::1%25eth0]/"),
    ("localhost,127.0.0.0/8,.svc", "ws://api.svc/"),
    # This machine.
    ("", "ws://localhost/"),
    ("", "ws://127.0.0.1/"),
    ("", "ws://127.255.0.1:1/"),
    ("", "ws://[::1]/"),
]
BY_PROXY = [
    ("", "ws://h/"),
    (",", "ws://h/"),
    (".", "ws://h/"),
    ("*.", "ws://h/"),
    ("h", "ws://ah/"),
    ("h", "ws://h.a/"),
    ("*.h", "ws://h/"),
    ("*.h", "ws://ah/"),
    ("a*", "ws://ab/"),
    ("h:81", "ws://h/"),
    ("h:80", "wss://h/"),
    ("*:81", "ws://h/"),
    ("h:x", "ws://h/"),
    ("10.0.0.0/8", "ws://11.1.2.3/"),
    ("10.0.0.0/8", "ws://h/"),
    ("10.0.0.0/8:81", "ws://10.1.2.3/"),
    ("10.0.0.0/33", "ws://10.1.2.3/"),
    ("10.0.0.0/-1", "ws://10.1.2.3/"),
    ("10", "ws://10.1.2.3/"),
    ("1.2.3", "ws://10.1.2.3/"),
    ("2.3", "ws://1.2.3.4/"),
    ("fd00::/8", "ws://[fe80::1]/"),
    ("fd00::/8", "ws://10.1.2.3/"),
    ("10.0.0.0/8", "ws://[fd00::1]/"),
    ("[fd00::1]:81", "ws://[fd00::1]/"),
    ("[fd00::1", "ws://[fd00::1]/"),
    ("localhost", "ws://mylocalhost/"),
    ("", "ws://128.0.0.1/"),
    ("", "ws://[::2]/"),
]


@pytest.mark.parametrize(("no_proxy", "url"), DIRECT)
def test_host_is_reached_directly(no_proxy: str, url: str) -> None:
    assert is_direct(parse_uri(url), no_proxy)


@pytest.mark.parametrize(("no_proxy", "url"), BY_PROXY)
def test_host_is_reached_by_the_proxy(no_proxy: str, url: str) -> None:
    assert not is_direct(parse_uri(url), no_proxy)


@given(st.text("h.*:/[]10af,- \u00e4", max_size=30))
def test_any_text_is_read(no_proxy: str) -> None:
    for url in ("ws://h/", "ws://10.0.0.1/", "ws://[fa::1]:80/"):
        assert is_direct(parse_uri(url), no_proxy) in (True, False)

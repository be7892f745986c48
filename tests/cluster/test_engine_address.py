"""URLs of engines: what they mean, and that an error tells no password."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.engine_address import EngineAddress, is_prefix, parse

pytestmark = pytest.mark.one_backend

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("redis://host", {"scheme": "redis", "host": "host"}),
    ("redis://", {"scheme": "redis", "host": "localhost"}),
    ("redis:///2", {"scheme": "redis", "host": "localhost", "db": 2}),
    ("REDIS://Host:7000/", {"scheme": "redis", "host": "Host", "port": 7000}),
    ("valkey://host/1", {"scheme": "valkey", "host": "host", "db": 1}),
    (
        "redis+sentinel://a,[::1]:7,c:26380/main",
        {
            "scheme": "redis+sentinel",
            "sentinels": (("a", 26379), ("::1", 7), ("c", 26380)),
            "service": "main",
        },
    ),
    (
        "rediss+sentinel://u:p@h:1/a-B.c_1/5?sentinel_username=s&sentinel_password=%26",
        {
            "scheme": "rediss+sentinel",
            "tls": True,
            "username": "u",
            "password": "p",
            "sentinels": (("h", 1),),
            "service": "a-B.c_1",
            "db": 5,
            "sentinel_username": "s",
            "sentinel_password": "&",
        },
    ),
    ("valkeys://host", {"scheme": "valkeys", "host": "host", "tls": True}),
    (
        "redis://user:p%40ss@[::1]:6380/3?prefix=app:1",
        {
            "scheme": "redis",
            "host": "::1",
            "port": 6380,
            "username": "user",
            "password": "p@ss",
            "db": 3,
            "prefix": "app:1",
        },
    ),
    ("redis://:pa:ss@h", {"scheme": "redis", "host": "h", "password": "pa:ss"}),
    ("redis://:p@ss@h", {"scheme": "redis", "host": "h", "password": "p@ss"}),
    (
        "redis://h?username=u&password=a%26b&db=4&client_name=web-1",
        {
            "scheme": "redis",
            "host": "h",
            "username": "u",
            "password": "a&b",
            "db": 4,
            "client_name": "web-1",
        },
    ),
    (
        "rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem"
        "&ssl_check_hostname=False",
        {
            "scheme": "rediss",
            "host": "h",
            "tls": True,
            "ca_file": "/ca.pem",
            "cert_file": "/c.pem",
            "key_file": "/k.pem",
            "check_hostname": False,
        },
    ),
    (
        "rediss://h?ssl_cert_reqs=none",
        {"scheme": "rediss", "host": "h", "tls": True, "verify": False},
    ),
    (
        "unix://u:p@/run/redis%20a.sock?db=1",
        {
            "scheme": "unix",
            "path": "/run/redis a.sock",
            "username": "u",
            "password": "p",
            "db": 1,
        },
    ),
]


@pytest.mark.parametrize(("url", "fields"), GOOD, ids=[url for url, _ in GOOD])
def test_good_urls(url: str, fields: dict[str, Any]) -> None:
    assert parse(url) == EngineAddress(**fields)


BAD = [
    "",
    "localhost:6379",
    "http://:secret@host",
    "redis:/:secret@host",
    "redis://:secret@host:port",
    "redis://:secret@host:0",
    "redis://:secret@host:65536",
    "redis://:secret@host:6379:1",
    "redis://:secret@host/db",
    "redis://:secret@host/-1",
    "redis://:secret@ho st",
    "redis://:secret@host/\n",
    "redis://:secret%zz@host",
    "redis://:sec#secret@host",
    "redis://:sec/secret@host",
    "redis://:sec?secret@host",
    "redis://:secret@host?secret=1",
    "redis://:secret@host?prefix=a.b",
    "redis://:secret@host?prefix=",
    "redis://:secret@host?prefix=*",
    "redis://:secret@host?prefix=a&prefix=b",
    "redis://:secret@host?password=secret",
    "redis://:secret@host/1?db=2",
    "redis://:secret@host?client_name=a%20b",
    "redis://:secret@host?ssl_ca_certs=/secret.pem",
    "rediss://:secret@host?ssl_keyfile=/secret.pem",
    "rediss://:secret@host?ssl_cert_reqs=secret",
    "rediss://:secret@host?ssl_check_hostname=secret",
    "rediss://:secret@host?ssl_ca_certs=",
    "redis://:secret@[secret]",
    "redis://:secret@%2F",
    "redis://:secret@" + "h" * 256,
    "unix://secret",
    "unix://",
    "redis+sentinel://:secret@host",
    "redis+sentinel://:secret@host/",
    "redis+sentinel://:secret@host//1",
    "redis+sentinel://:secret@host/a b",
    "redis+sentinel://:secret@host/a%20b",
    "redis+sentinel://:secret@host/" + "a" * 129,
    "redis+sentinel://:secret@host/a/b",
    "redis+sentinel://:secret@host:0/a",
    "redis+sentinel://:secret@a,b:x/a",
    "redis+sentinel://:secret@" + ",".join(["h"] * 33) + "/a",
    "redis+sentinel://:secret@h/a?sentinel_password=secret&sentinel_password=secret",
    "redis://:secret@h?sentinel_password=secret",
    "unix+sentinel://:secret@h/a",
]


@pytest.mark.parametrize("url", BAD)
def test_bad_urls_are_refused_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_forms_are_named() -> None:
    with pytest.raises(ValueError, match=r"redis://.*rediss://.*valkey://.*unix://"):
        parse("mysql://host")
    with pytest.raises(ValueError, match="prefix, db, username"):
        parse("redis://host?timeout=3")


def test_a_url_is_a_str() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        parse(b"redis://:secret@host")  # type: ignore[arg-type]


@given(st.text())
def test_anything_else_is_a_value_error(text: str) -> None:
    for url in (
        text,
        f"redis://{text}",
        f"unix://{text}",
        f"rediss://h?{text}",
        f"redis+sentinel://{text}",
        f"redis+sentinel://h/{text}",
    ):
        try:
            address = parse(url)
        except ValueError:
            continue
        assert is_prefix(address.prefix)
        assert 0 < address.port < 65536


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://user:secret@h", "redis://h:6379"),
        ("rediss://:secret@[::1]:1/2", "rediss://[::1]:1/2"),
        ("unix://:secret@/run/r.sock", "unix:///run/r.sock"),
        ("redis://h?password=secret", "redis://h:6379"),
        (
            "redis+sentinel://:secret@a,[::1]:1/main/2?sentinel_password=secret",
            "redis+sentinel://a:26379,[::1]:1/main/2",
        ),
    ],
)
def test_neither_str_nor_repr_shows_the_password(url: str, text: str) -> None:
    address = parse(url)
    assert address.password == "secret"
    assert str(address) == text
    assert "secret" not in repr(address)
    assert text in repr(address)


@pytest.mark.parametrize("prefix", ["", "a.b", "a*", "a b", "é", "x" * 65, None])
def test_bad_prefixes(prefix: object) -> None:
    assert not is_prefix(prefix)


@pytest.mark.parametrize("prefix", ["sws", "app:1", "A_b-2", "x" * 64])
def test_good_prefixes(prefix: object) -> None:
    assert is_prefix(prefix)

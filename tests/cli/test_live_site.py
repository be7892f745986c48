"""The server that a Centrifugo configuration describes: its options, TLS and engine."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest

from simple_ws.cli.live.reader import read_settings
from simple_ws.cli.live.site import build
from simple_ws.cli.values import UsageError
from simple_ws.cluster.engine_url import parse_all

pytestmark = pytest.mark.one_backend


def redis(**keys: Any) -> list[Any]:
    """The addresses of the engine of a server."""
    tree = {"engine": {"type": "redis", "redis": keys}}
    urls = build(read_settings(tree)).options.engine
    assert urls is not None
    return parse_all(urls)


def test_memory_is_no_engine() -> None:
    assert build(read_settings({})).options.engine is None


def test_redis_by_default() -> None:
    (address,) = redis()
    assert str(address) == "redis://127.0.0.1:6379"
    assert address.prefix == "centrifugo"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis://r:1", ["redis://r:1"]),
        ("r:1", ["redis://r:1"]),
        ("rediss://r:1/2", ["rediss://r:1/2"]),
        (["a:1", "redis://b:2"], ["redis://a:1", "redis://b:2"]),
        ("a:1 b:2", ["redis://a:1", "redis://b:2"]),
        ("redis+sentinel://s1,s2/main", ["redis+sentinel://s1:26379,s2:26379/main"]),
        ("unix:///run/redis.sock", ["unix:///run/redis.sock"]),
    ],
)
def test_addresses_of_redis(given: Any, shown: list[str]) -> None:
    assert [str(each) for each in redis(address=given)] == shown


def test_what_stands_beside_the_address() -> None:
    keys = {"user": "u", "password": "p:@/", "db": 3, "prefix": "my.app"}
    (address,) = redis(address="r:1", **keys)
    assert (address.username, address.password) == ("u", "p:@/")
    assert (address.db, address.prefix) == (3, "my_app")
    (address,) = redis(address="redis://a:b@r:1/4?prefix=own", **keys)
    assert (address.username, address.password) == ("a", "b")
    assert (address.db, address.prefix) == (4, "own")


def test_address_that_is_none_is_an_error_without_its_password() -> None:
    tree = {"engine": {"type": "redis", "redis": {"address": "http://u:secret@r"}}}
    with pytest.raises(UsageError) as caught:
        build(read_settings(tree))
    assert "engine.redis: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_limit_of_connections() -> None:
    assert build(read_settings({})).options.max_connections is None
    server = build(read_settings({"client": {"connection_limit": 5}}))
    assert server.options.max_connections == 5


@pytest.fixture(scope="module")
def pem() -> tuple[str, str]:
    """A certificate and its key."""
    trustme = pytest.importorskip("trustme")
    made = trustme.CA().issue_cert("localhost")
    chain = b"".join(each.bytes() for each in made.cert_chain_pems)
    return chain.decode(), made.private_key_pem.bytes().decode()


def tls(**keys: str) -> Any:
    return build(read_settings({"http_server": {"tls": {"enabled": True, **keys}}}))


@pytest.mark.parametrize("suffix", ["", "_file"])
def test_certificate_in_files(
    tmp_path: Path, pem: tuple[str, str], suffix: str
) -> None:
    paths = [str(tmp_path / name) for name in ("cert", "key")]
    for path, text in zip(paths, pem, strict=True):
        Path(path).write_text(text)
    keys = dict(zip((f"cert_pem{suffix}", f"key_pem{suffix}"), paths, strict=True))
    options = tls(**keys).options
    assert [options.certfile, options.keyfile] == paths  # they are read again


@pytest.mark.parametrize("encode", [str, lambda s: base64.b64encode(s.encode())])
def test_certificate_in_the_configuration(pem: tuple[str, str], encode: Any) -> None:
    cert, key = (encode(text) for text in pem)
    if isinstance(cert, bytes):
        cert, key = cert.decode(), key.decode()
    context = tls(cert_pem=cert, key_pem=key).options.ssl
    assert isinstance(context, ssl.SSLContext)


def test_certificate_that_is_missing_or_none(pem: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=r"tls needs cert_pem and key_pem"):
        tls(cert_pem=pem[0])
    with pytest.raises(UsageError, match=r"http_server\.tls: "):
        tls(cert_pem=pem[1], key_pem=pem[1])
    with pytest.raises(UsageError, match=r"http_server: .*no/such"):
        tls(cert_pem="no/such", key_pem="no/such")
    assert build(read_settings({"tls_cert": "x"})).options.certfile is None

"""Both clients through SOCKS proxies."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from harness import DEADLINE, Echo, running
from socks_server import SocksServer

import simple_ws
from simple_ws import aio
from simple_ws.errors import InvalidURI, ProxyError
from simple_ws.protocol.proxy_tunnel import Socks, parse_proxy, proxy_for
from simple_ws.protocol.uri import parse_uri

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("python_socks") is None, reason="needs python-socks"
    )
]


def blocking(url: str, proxy: str) -> Any:
    with simple_ws.connect(url, proxy=proxy) as ws:
        ws.send("hello")
        return ws.recv(DEADLINE)


def asynchronous(url: str, proxy: str) -> Any:
    async def talk() -> Any:
        async with aio.connect(url, proxy=proxy) as ws:
            await ws.send("hello")
            return await ws.recv(DEADLINE)

    return asyncio.run(talk())


@pytest.fixture(params=[blocking, asynchronous])
def talk(request: Any) -> Callable[[str, str], Any]:
    function: Callable[[str, str], Any] = request.param
    return function


@pytest.mark.parametrize(
    ("scheme", "version", "resolved"),
    [("socks5", 5, True), ("socks5h", 5, False), ("socks4a", 4, False)],
)
def test_messages_pass(talk: Any, scheme: str, version: int, resolved: bool) -> None:
    with running(Echo()) as server, SocksServer() as proxy:
        url = f"ws://localhost:{server.port}/"
        assert talk(url, f"{scheme}://127.0.0.1:{proxy.port}") == "hello"
        host = "127.0.0.1" if resolved else "localhost"
        assert proxy.asked == [(version, host, server.port)]


def test_credentials(talk: Any) -> None:
    with running(Echo()) as server, SocksServer(("me", "a b")) as proxy:
        url, where = f"ws://127.0.0.1:{server.port}/", f"127.0.0.1:{proxy.port}"
        assert talk(url, f"socks5://me:a%20b@{where}") == "hello"
        with pytest.raises(ProxyError) as refused:
            talk(url, f"socks5://me:secret@{where}")
        assert where in str(refused.value)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("reply", "why"), [(2, "ruleset"), (4, "unreachable")])
def test_refusal_is_told(talk: Any, reply: int, why: str) -> None:
    with SocksServer(reply=reply) as proxy, pytest.raises(ProxyError, match=why):
        talk("ws://127.0.0.1:1/", f"socks5://127.0.0.1:{proxy.port}")


def test_proxy_that_is_not_there(talk: Any) -> None:
    with SocksServer() as proxy:
        port = proxy.port
    with pytest.raises(ProxyError, match=f"the proxy 127.0.0.1:{port}"):
        talk("ws://127.0.0.1:1/", f"socks5://127.0.0.1:{port}")


def test_addresses() -> None:
    proxy = parse_proxy("socks5h://me:pw@[::1]")
    assert isinstance(proxy, Socks)
    assert (proxy.version, proxy.resolves) == (5, True)
    assert (proxy.uri.host, proxy.uri.port) == ("::1", 1080)
    assert (proxy.uri.user, proxy.uri.password) == ("me", "pw")
    assert parse_proxy("socks4://p:80").host_and_port == "p:80"
    with pytest.raises(InvalidURI):
        parse_proxy("socks5://")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://p")
    found = proxy_for(parse_uri("wss://example.com/"))
    assert isinstance(found, Socks)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "simple_ws.protocol.proxy_tunnel.find_spec"
    monkeypatch.setattr(name, lambda _: None)
    with pytest.raises(ValueError, match=r"python-socks \(extra socks\)"):
        simple_ws.connect("ws://h/", proxy="socks5://p")

"""A test kit: a server without ports, and a clock that the test controls.

    from simple_ws.testing import TestServer

    def test_everybody_hears_it():
        with TestServer(Chat()) as server:
            alice, bob = server.connect("/room"), server.connect("/room")
            alice.send("hello")
            assert bob.recv() == "hello"
            server.advance(25)          # time passes, nobody sleeps
            bob.stall()                 # a peer that does not read
            …
            bob.assert_closed(1013, cause="slow_consumer")

Server and clients run in the thread of the test; every step runs the server until it is
idle. Handlers can be `async def`: a private asyncio loop uses the same clock. With
pytest installed, the fixture `ws_server` creates such servers and closes them.
"""

from .aio_server import AsyncTestClient, AsyncTestServer
from .client import TestClient
from .clock import Clock
from .http import HTTPAnswer
from .live import TestLive
from .server import ServerFactory, TestServer

__all__ = [
    "AsyncTestClient",
    "AsyncTestServer",
    "Clock",
    "HTTPAnswer",
    "ServerFactory",
    "TestClient",
    "TestLive",
    "TestServer",
]

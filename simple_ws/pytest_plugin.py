"""The pytest fixture `ws_server`: servers that are closed at the end of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from typing import Unpack

    from .connection.option_types import ServerOptions
    from .handlers.handler import BaseHandler
    from .server.server import Server
    from .testing import ServerFactory, TestServer


@pytest.fixture
def ws_server() -> Iterator[ServerFactory]:
    """Make servers in memory: `ws_server(handler, **options)`, see `TestServer`."""
    # Imported only when a test asks: every pytest run loads this module.
    from .testing import TestServer

    with ExitStack() as stack:

        def make(
            served: BaseHandler[Any] | Server,
            *,
            raise_server_exceptions: bool = True,
            **options: Unpack[ServerOptions],
        ) -> TestServer:
            server = TestServer(
                served, raise_server_exceptions=raise_server_exceptions, **options
            )
            return stack.enter_context(server)

        yield make

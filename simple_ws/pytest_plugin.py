"""The pytest fixture `simple_ws`: servers that are closed at the end of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from typing import Unpack

    from .connection.options import ServerOptions
    from .handlers.handler import BaseHandler
    from .server.server import Server
    from .testing import ServerFactory, TestServer


@pytest.fixture
def simple_ws() -> Iterator[ServerFactory]:
    """Make servers in memory: `simple_ws(handler, **options)`, see `TestServer`."""
    # Imported only when a test asks: every pytest run loads this module.
    from .testing import TestServer

    with ExitStack() as stack:

        def make(
            served: BaseHandler[Any] | Server, **options: Unpack[ServerOptions]
        ) -> TestServer:
            return stack.enter_context(TestServer(served, **options))

        yield make

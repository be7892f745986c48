"""The pytest fixture `simple_ws`: servers that are closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .handlers.handler import BaseHandler
    from .server.server import Server
    from .testing import TestServer


@pytest.fixture
def simple_ws() -> Iterator[Callable[..., TestServer]]:
    """Make servers in memory: `simple_ws(handler, **options)`, see `TestServer`."""
    # Imported only when a test asks: every pytest run loads this module.
    from .testing import TestServer

    with ExitStack() as stack:

        def make(served: BaseHandler | Server, **options: Any) -> TestServer:
            return stack.enter_context(TestServer(served, **options))

        yield make

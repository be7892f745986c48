"""Fixtures of the cluster's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from publisher_harness import KINDS
from redis_server import RedisServer, redis_server


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Any:
    """Each of the publishers."""
    return request.param


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with redis_server() as server:
        yield server

"""The OpenAPI description of the server API is true, as far as schemathesis finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from simple_ws import Server
from simple_ws.live.api.fields import METHODS

schemathesis = pytest.importorskip("schemathesis", reason="none for this Python")

pytestmark = pytest.mark.one_backend

KEY = "key"


@contextmanager
def served() -> Iterator[Server]:
    server = Server("127.0.0.1", 0)
    server.topic("*", history=10, presence=True)
    server.live("/live", api_key=KEY)
    server.start()
    try:
        yield server
    finally:
        server.stop(drain=0)


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    with served() as server:
        url = f"http://127.0.0.1:{server.port}/live/api/openapi.json"
        yield schemathesis.openapi.from_url(url)


def test_everybody_may_read_it(document: Any) -> None:
    described = document.raw_schema
    assert described["openapi"] == "3.1.0"
    paths = {f"/live/api/{name}" for name in [*METHODS, "batch"]}
    assert set(described["paths"]) == paths


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
@pytest.mark.parametrize("name", [*METHODS, "batch"])
def test_answers_are_as_described(document: Any, name: str, mode: Any) -> None:
    operation = document[f"/live/api/{name}"]["POST"]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=6,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.call_and_validate(headers={"X-API-Key": KEY})

    ask()

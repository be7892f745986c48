"""`access_log`: a line for each plain request that was answered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Driven
from http_peer import get

from simple_ws import Response, Server


@pytest.fixture
def access(caplog: Any) -> Iterator[list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, "simple_ws.access")
    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, logger = Keeping(), logging.getLogger("simple_ws.access")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def add_pages(server: Server) -> None:
    @server.http("/page/{name}")
    def page(request: Any) -> Any:
        return Response(200, b"x" * 1000)

    @server.http("/broken")
    def broken(request: Any) -> Any:
        raise ValueError("of the test")


def test_line_and_its_fields(access: list[logging.LogRecord]) -> None:
    with Driven(access_log=True) as driven:
        add_pages(driven.server)
        get(driven, "/page/a%0Ab?token=secret")
        get(driven, "/nothing")
        get(driven, "/broken")
    first, second, third = access
    assert first.getMessage().startswith('192.0.2.1 "GET /page/a\\nb" 200 1')
    assert "secret" not in first.getMessage()
    fields: Any = vars(first)
    assert fields["ws_event"] == "request"
    assert fields["ws_address"][0] == "192.0.2.1"
    assert (fields["ws_method"], fields["ws_path"]) == ("GET", "/page/a\nb")
    assert fields["ws_status"] == 200
    assert fields["ws_bytes_sent"] > 1000
    assert 0 <= fields["ws_seconds"] < 60
    assert [vars(each)["ws_status"] for each in (second, third)] == [426, 500]


def test_there_is_none_unless_it_is_asked_for(
    access: list[logging.LogRecord],
) -> None:
    with Driven() as driven:
        add_pages(driven.server)
        get(driven, "/page/a")
    assert access == []

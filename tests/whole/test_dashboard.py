"""The dashboard of docs/howto/dashboard.md in a real browser, on a line that stalls.

Needed are the package `playwright` and a `chromium` on the PATH, as for the drawing
board.
"""

from __future__ import annotations

import runpy
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import DEADLINE
from proxy import Proxy
from whole.test_docs import blocks
from whole.test_drawing_board import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

PAGE = "docs/howto/dashboard.md"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The names of the example; its server runs, on a free port."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGE, "python", "html"):
        assert block.file is not None
        path = tmp_path / block.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            block.code.replace('Server("", 8080)', 'Server("127.0.0.1", 0)')
        )
    names = runpy.run_path("prices.py")
    names["server"].start()
    try:
        yield names
    finally:
        names["server"].stop(drain=0)


SHOWN = """() => Object.fromEntries([...document.querySelectorAll("tr")].map(
    row => [row.cells[0].textContent, row.cells[1].textContent]))"""


@pytest.mark.browser
def test_page_shows_the_newest_prices_after_the_line_has_stalled(
    program: Any, browser: Browser
) -> None:
    server, prices, change = program["server"], program["prices"], program["change"]
    received: list[Any] = []
    errors: list[str] = []
    with Proxy(server.port) as proxy:
        page = browser.new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("websocket", partial(note_frames, received))
        page.goto(f"{proxy.url.replace('redis', 'http')}/prices.html")
        page.wait_for_function("() => document.querySelectorAll('tr').length === 50")
        proxy.hold()
        deadline = time.monotonic() + DEADLINE
        while conflated(server) < 5000:
            assert time.monotonic() < deadline
            change()
        server.reactor.call_threadsafe(
            lambda: prices.update(dict.fromkeys(prices, 5e6))
        )
        change()
        proxy.release()
        page.wait_for_function(
            f"() => Object.values(({SHOWN})()).every(price => price > 1e6)"
        )
        assert list(page.evaluate(SHOWN)) == list(prices)
        assert len(received) < server.stats()["total"]["messages_sent"] - 4000
        page.close()
    assert errors == []


def note_frames(received: list[Any], socket: Any) -> None:
    socket.on("framereceived", lambda payload: received.append(payload))


def conflated(server: Any) -> int:
    count: int = server.stats()["total"]["conflated"]
    return count

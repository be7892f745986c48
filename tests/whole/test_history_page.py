"""The page of docs/howto/history.md in a real browser: it misses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pages import HOWTO, served
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGE = HOWTO / "history.md"
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.browser,
    pytest.mark.skipif(not PAGE.exists(), reason="no checkout: no documentation"),
]

browser = test_drawing_board.browser


@pytest.fixture
def server() -> Iterator[Any]:
    """The server of the page, with its HTML at /."""
    with served(PAGE, "News") as made:
        yield made


@pytest.fixture
def page(server: Any, browser: Any) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.clock.install()  # it goes on by itself, but can be put forward
    opened.goto(f"http://127.0.0.1:{server.port}/")
    yield opened
    context.close()
    assert errors == []


def wait_for(page: Page, text: str) -> None:
    page.wait_for_function(
        "text => document.body.innerText.trim().split('\\n').join(' ') === text",
        arg=text,
        timeout=DEADLINE * 1000,
    )


def test_page_that_lost_its_connection_gets_what_it_missed(
    server: Any, page: Page
) -> None:
    page.wait_for_function("() => typeof epoch !== 'undefined'")
    server.publish("news", "1")
    wait_for(page, "1")
    for lost in ("2", "5"):
        for client in server.clients:
            client.close(1001)
        number = int(lost)
        server.publish("news", f"{number}")
        server.publish("news", f"{number + 1}")
        page.clock.run_for(1000)
        wait_for(page, " ".join(map(str, range(1, number + 2))))
        server.publish("news", f"{number + 2}")
        wait_for(page, " ".join(map(str, range(1, number + 3))))

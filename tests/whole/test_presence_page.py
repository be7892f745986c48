"""The page of docs/howto/presence.md in a real browser: it knows who is here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pages import HOWTO, served
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGE = HOWTO / "presence.md"
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.browser,
    pytest.mark.skipif(not PAGE.exists(), reason="no checkout: no documentation"),
]

browser = test_drawing_board.browser


@pytest.fixture
def server() -> Iterator[Any]:
    """The server of the page, with a short time of grace."""
    with served(PAGE, "Hall", "0, presence_grace=1") as made:
        yield made


def enter(context: Any, server: Any, name: str) -> Page:
    page: Page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/?name={name}")
    return page


def wait_for(page: Page, *names: str) -> None:
    page.wait_for_function(
        "names => document.querySelector('ul').innerText.trim() === names",
        arg="\n".join(names),
        timeout=DEADLINE * 1000,
    )


def test_pages_know_who_is_here(server: Any, browser: Any) -> None:
    context = browser.new_context()
    ann, ben = (enter(context, server, name) for name in ("ann", "ben"))
    for page in (ann, ben):
        wait_for(page, "ann", "ben")
    ann.evaluate("() => { window.left = []; }")
    ann.evaluate(
        "() => socket.addEventListener('message', ({data}) =>"
        " JSON.parse(data).left && left.push(JSON.parse(data).left))"
    )
    second = enter(context, server, "ben")  # a second tab
    ben.reload()
    wait_for(ben, "ann", "ben")
    ben.close()
    cid = enter(context, server, "<b>cid</b>")
    wait_for(ann, "<b>cid</b>", "ann", "ben")
    cid.close()
    wait_for(ann, "ann", "ben")
    second.close()
    wait_for(ann, "ann")
    assert ann.evaluate("() => left") == ["<b>cid</b>", "ben"]
    context.close()

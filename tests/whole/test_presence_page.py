"""The page of docs/howto/presence.md in a real browser: it knows who is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE

from simple_ws import Response

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "presence.md"
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.browser,
    pytest.mark.skipif(not PAGE.exists(), reason="no checkout: no documentation"),
]

browser = test_drawing_board.browser


def block(language: str) -> str:
    """The first block of the page in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def server() -> Iterator[Any]:
    """The server of the page, with its HTML at /, and a short time of grace."""
    names: dict[str, Any] = {"__name__": "hall"}
    program = block("python").replace("8080", "0, presence_grace=1")
    exec(compile(program, PAGE, "exec"), names)
    made = names["server"]
    html = f"<!doctype html><title>Hall</title><body>{block('html')}"
    kind = [("Content-Type", "text/html; charset=utf-8")]
    made.http("/")(lambda request: Response(200, html.encode(), kind))
    made.start()
    yield made
    made.stop(0)


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

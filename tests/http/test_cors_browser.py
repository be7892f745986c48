"""A real Chromium keeps the rules of CORS: what it lets a page of another origin do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from live_peer import allow
from whole import test_drawing_board

from simple_ws import Cors, HandshakeError, Response, Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.one_backend, pytest.mark.browser]

browser = test_drawing_board.browser


def serve(pages: Server, site: Server, origin: str) -> None:
    """Serve a page on one, and what it wants to have on the other."""
    html = [("Content-Type", "text/html")]
    pages.http("/")(lambda request: Response(200, b"<!doctype html>", html))
    own = Cors(origin, credentials=True, expose=["X-Left"], headers=["X-Key"])
    site.http("/all", cors="*")(lambda request: {"text": "all"})
    site.http("/none")(lambda request: {"text": "none"})

    @site.http("/own", methods=["GET", "PUT"], cors=own)
    def answer(request: Any) -> Response:
        if request.headers.get("X-Key") == "wrong":
            raise HandshakeError(403, "not with this key")
        who = request.cookies.get("who", "nobody")
        return Response(200, {"text": who}, {"X-Left": "3"})

    site.live("/live", authorize=allow, cors=origin, origins=origin)


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of two servers of one machine, which are two origins."""
    pages, site = Server("127.0.0.1", 0), Server("127.0.0.1", 0)
    for server in pages, site:
        server.listen()
    origin = f"http://127.0.0.1:{pages.port}"
    serve(pages, site, origin)
    for server in pages, site:
        server.start()
    yield origin, f"http://127.0.0.1:{site.port}"
    for server in pages, site:
        server.stop(drain=0)


ASK = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options)
    const left = answer.headers.get("X-Left")
    return [answer.status, await answer.text(), left]
  } catch (error) { return String(error) }
}"""
REFUSED = "TypeError: Failed to fetch"


def test_page_of_another_origin(browser: Any, servers: tuple[str, str]) -> None:
    origin, site = servers
    context = browser.new_context()
    context.add_cookies([{"name": "who", "value": "ann", "url": site}])
    page: Page = context.new_page()
    page.goto(origin)

    def ask(path: str, **options: Any) -> Any:
        return page.evaluate(ASK, [f"{site}{path}", options])

    assert ask("/all") == [200, '{"text": "all"}', None]
    assert ask("/none") == REFUSED
    assert ask("/all", credentials="include") == REFUSED
    assert ask("/own") == [200, '{"text": "nobody"}', "3"]
    assert ask("/own", credentials="include") == [200, '{"text": "ann"}', "3"]
    put = {"method": "PUT", "credentials": "include"}
    assert ask("/own", **put, headers={"X-Key": "a"})[0] == 200
    status, text, _ = ask("/own", **put, headers={"X-Key": "wrong"})
    assert (status, "not with this key" in text) == (403, True)
    assert ask("/own", **put, headers={"X-Other": "a"}) == REFUSED
    assert ask("/own", method="DELETE") == REFUSED
    # A client that streams reads its first answer.
    frame = '{"id":1,"connect":{}}'
    streams = page.evaluate(
        """async ([url, frame]) => {
          const answer = await fetch(url, { method: "POST", body: frame })
          const { value } = await answer.body.getReader().read()
          return JSON.parse(new TextDecoder().decode(value)).id
        }""",
        [f"{site}/live/http_stream", frame],
    )
    assert streams == 1
    context.close()


def test_page_that_is_not_allowed(browser: Any, servers: tuple[str, str]) -> None:
    origin, site = servers
    context = browser.new_context()
    page: Page = context.new_page()
    page.goto(origin.replace("127.0.0.1", "localhost"))
    for path in "/own", "/none", "/live/events?topic=a":
        assert page.evaluate(ASK, [f"{site}{path}", {}]) == REFUSED
    context.close()

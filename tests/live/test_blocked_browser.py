"""A real Chromium behind a proxy that refuses WebSockets, with the unmodified SDK; and
with an `EventSource` alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from live_peer import allow
from node_js import PACKAGES, needs_node
from proxy import Proxy
from whole import test_drawing_board

from simple_ws import Response, Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.one_backend, pytest.mark.browser, needs_node]

browser = test_drawing_board.browser

HTML = """<!doctype html><title>blocked</title><script type="module">
import { Centrifuge } from "/sdk/index.mjs"
const seen = window.seen = { transports: [], states: [], data: [], recovered: [] }
window.begin = (...transports) => {
  const live = window.live = new Centrifuge(transports.map((transport) => ({
    transport, endpoint: transport === "websocket"
      ? `ws://${location.host}/live/websocket` : `/live/${transport}`,
  })), { emulationEndpoint: "/live/emulation", minReconnectDelay: 10,
         maxReconnectDelay: 100, timeout: 3000 })
  live.on("connected", (context) => seen.transports.push(context.transport))
  live.on("state", (context) => seen.states.push(context.newState))
  const room = window.room = live.newSubscription("room:1", { recoverable: true })
  room.on("publication", (publication) => seen.data.push(publication.data))
  room.on("subscribed", (context) => seen.recovered.push(context.recovered))
  room.subscribe()
  live.connect()
}
window.listen = () => {
  const source = window.source = new EventSource("/live/events?topic=room:1&topic=b")
  source.onerror = () => seen.states.push("error")
  source.onmessage = (event) => {
    const push = JSON.parse(event.data)
    if (push.pub) seen.data.push(push.pub.data)
    if (push.connect) seen.recovered.push(push.connect.subs["room:1"].recovered ?? null)
  }
}
</script>"""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("127.0.0.1", 0)
    made.topic("room:*", history=100)
    made.live("/live", authorize=allow)
    made.static("/sdk", PACKAGES / "centrifuge" / "build")

    @made.http("/")
    def page(request: Any) -> Response:
        return Response(200, HTML.encode(), [("Content-Type", "text/html")])

    made.start()
    yield made
    made.stop(drain=0)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port or 0, refused=b"Upgrade: websocket") as made:
        yield made


@pytest.fixture
def page(browser: Any, proxy: Proxy) -> Iterator[Page]:
    context = browser.new_context()
    opened: Page = context.new_page()
    opened.goto(f"http://127.0.0.1:{proxy.port}/")
    opened.wait_for_function("() => window.listen")
    yield opened
    context.close()


def wait_for(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {{ const s = window.seen; return {condition} }}")


@pytest.mark.parametrize("fallback", ["http_stream", "sse"])
def test_sdk_falls_back_publishes_and_recovers(
    page: Page, proxy: Proxy, server: Server, fallback: str
) -> None:
    page.evaluate(f"() => begin('websocket', '{fallback}')")
    wait_for(page, "s.recovered.length === 1")
    assert page.evaluate("() => seen.transports") == [fallback]
    page.evaluate("() => room.publish({ text: 'hello' })")
    wait_for(page, "s.data.length === 1")
    proxy.hold()
    proxy.cut()
    wait_for(page, "s.states.at(-1) === 'connecting'")
    for number in range(3):
        server.publish("room:1", {"n": number})
    proxy.release()
    wait_for(page, "s.data.length === 4")
    assert page.evaluate("() => seen.data") == [
        {"text": "hello"},
        *({"n": number} for number in range(3)),
    ]
    assert page.evaluate("() => [seen.recovered.at(-1), seen.transports.at(-1)]") == [
        True,
        fallback,
    ]
    page.evaluate("() => live.disconnect()")


def test_event_source_continues_where_it_was(
    page: Page, proxy: Proxy, server: Server
) -> None:
    page.evaluate("() => listen()")
    wait_for(page, "s.recovered.length === 1")
    server.publish("room:1", "one")
    server.publish("b", "without history")
    wait_for(page, "s.data.length === 2")
    proxy.hold()
    proxy.cut()
    wait_for(page, "s.states.length === 1")
    server.publish("room:1", "two")
    proxy.release()
    wait_for(page, "s.data.length === 3")
    assert page.evaluate("() => seen.data") == ["one", "without history", "two"]
    assert page.evaluate("() => seen.recovered") == [None, True]


def test_event_source_that_is_refused_does_not_come_back(
    page: Page, proxy: Proxy, server: Server
) -> None:
    state = page.evaluate("""() => new Promise((resolve) => {
        const source = new EventSource("/live/events?topic=")
        source.onerror = () => resolve(source.readyState)
    })""")
    assert state == 2  # CLOSED

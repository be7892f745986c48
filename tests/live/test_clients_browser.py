"""What applications do in a real Chromium, with the npm package and our client.js."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from node_js import PACKAGES, SCRIPTS, needs_node
from sdk_driver import Sdk, SdkError
from sdk_scenarios import SCENARIOS, Scenario, World, data_of
from whole import test_drawing_board

from simple_ws import Response, Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.one_backend, pytest.mark.browser, needs_node]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium that keeps pages when they are left, which playwright turns off."""
    left_out = ["--disable-back-forward-cache"]
    with test_drawing_board.chromium(ignore_default_args=left_out) as made:
        yield made


MODULES = {"centrifuge": "/sdk/index.mjs", "client.js": "/live/client.js"}
HTML = """<!doctype html><title>driver</title><script type="module">
import * as module from "%s"
import { Driver } from "/driver.mjs"
window.driver = new Driver(module)
</script>"""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A server of the pages, with the modules; its address."""
    server = Server("127.0.0.1", 0)
    server.live("/live")
    server.static("/sdk", PACKAGES / "centrifuge" / "build")

    @server.http("/driver.mjs")
    def driver(request: Any) -> Response:
        kind = [("Content-Type", "text/javascript")]
        return Response(200, (SCRIPTS / "driver.mjs").read_bytes(), kind)

    @server.http("/page/{name}")
    def page(request: Any) -> Response:
        html = HTML % MODULES[request.params["name"]]
        return Response(200, html.encode(), [("Content-Type", "text/html")])

    @server.http("/elsewhere")
    def elsewhere(request: Any) -> Response:
        return Response(200, b"<title>elsewhere", [("Content-Type", "text/html")])

    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop(drain=0)


@pytest.fixture(scope="module", params=MODULES)
def module(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def open_page(context: Any, site: str, module: str) -> Page:
    page: Page = context.new_page()
    page.goto(f"{site}/page/{module}")
    page.wait_for_function("() => window.driver")
    return page


def carrier(page: Page) -> Callable[[dict[str, Any]], Any]:
    from playwright.sync_api import Error

    def carry(command: dict[str, Any]) -> Any:
        try:
            return page.evaluate("command => driver.do(command)", command)
        except Error as error:
            raise SdkError(f"{command}: {error.message}") from None

    return carry


@pytest.fixture(scope="module")
def page(browser: Any, site: str, module: str) -> Iterator[Page]:
    context = browser.new_context()
    opened = open_page(context, site, module)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []


@pytest.fixture
def world(page: Page) -> Iterator[World]:
    made = World(Sdk(carrier(page)))
    yield made
    made.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_scenario(scenario: Scenario, world: World) -> None:
    scenario(world)


RECOVERABLE = {"recoverable": True}
#: It does not come back in time, unless it is told that it can.
SLOW = {"minReconnectDelay": 60_000, "maxReconnectDelay": 60_000}


def test_network_that_is_away_is_noticed_and_comes_back(
    world: World, page: Page
) -> None:
    one = world.sdk.client(options=SLOW).connect()
    room = one.subscribe("room:1", options=RECOVERABLE)
    page.context.set_offline(True)
    one.wait_for("connecting", 2)
    world.publish("room:1", 1)
    page.context.set_offline(False)
    one.wait_for("connected", 2)
    assert data_of(room.wait_for("publication")) == [1]


def test_network_that_goes_in_the_middle_of_connecting(
    world: World, page: Page
) -> None:
    one = world.sdk.client(options=SLOW)
    room = one.subscribe("room:1", wait=False, options=RECOVERABLE)
    for _ in range(3):
        one.do("connect")
        page.context.set_offline(True)
        page.context.set_offline(False)
        one.do("ready")
        room.do("ready")
        one.do("disconnect")


def test_two_tabs(world: World, page: Page, site: str, module: str) -> None:
    other = open_page(page.context, site, module)
    sdk = Sdk(carrier(other))
    sdk.reset(world.url)
    rooms = [
        each.client().connect().subscribe("room:1", options=RECOVERABLE)
        for each in (world.sdk, sdk)
    ]
    for n in range(10):
        rooms[n % 2].call("publish", n)
    for room in rooms:
        assert data_of(room.wait_for("publication", 10)) == list(range(10))
    other.close()


def test_page_that_goes_back(browser: Any, site: str, module: str) -> None:
    context = browser.new_context()
    page = open_page(context, site, module)
    world = World(Sdk(carrier(page)))
    one = world.sdk.client(options=SLOW).connect()
    room = one.subscribe("room:1", options=RECOVERABLE)
    page.evaluate("() => addEventListener('pageshow', e => window.kept = e.persisted)")
    page.goto(f"{site}/elsewhere")
    world.publish("room:1", 1)
    page.go_back(wait_until="commit")
    page.wait_for_function("() => window.kept")
    one.wait_for("connected", 2)
    assert data_of(room.wait_for("publication")) == [1]
    world.close()
    context.close()

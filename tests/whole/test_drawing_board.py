"""The drawing board of the README: ws_example.py with index.html.

The tests marked ``browser`` draw in a real Chromium. They need the package
``playwright`` and a ``chromium`` on the PATH (none is downloaded), and are skipped
without them.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "ws_example.py").exists(), reason="no checkout: the demo is not here"
)

DEADLINE = 15  # seconds, for whatever a test waits for

RED, GREEN, BLUE, VIOLET = "#e03131", "#2f9e44", "#1971c2", "#7048e8"
NAMES = {RED: "Red", GREEN: "Green", BLUE: "Blue", VIOLET: "Violet"}


class Program:
    """A Python program in the checkout whose output is read line by line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line)
        self._lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line of output that matches."""
        while True:
            try:
                line = self._lines.get(timeout=DEADLINE)
            except queue.Empty:
                pytest.fail(f"waited in vain for {pattern!r}; output: {self.seen}")
            if line is None:
                pytest.fail(f"ended before {pattern!r}; output: {self.seen}")
            self.seen.append(line)
            if match := re.search(pattern, line):
                return match

    def rest(self) -> list[str]:
        """Wait for the end; return the lines not looked at so far."""
        self.process.wait(DEADLINE)
        lines = []
        while line := self._lines.get(timeout=DEADLINE):
            lines.append(line)
        return lines

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(DEADLINE)


class Board(Program):
    """ws_example.py, with the address it says is to be opened."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__("ws_example.py", f"--port={port}")
        self.address = ""

    def wait(self) -> Board:
        self.address = self.expect(r"^Open (http://\S+) in a browser$")[1]
        return self

    @property
    def port(self) -> int:
        """Of the WebSocket and of the page."""
        match = re.fullmatch(r"http://localhost:(\d+)", self.address)
        assert match, self.address
        return int(match[1])


@pytest.fixture
def programs() -> Iterator[ExitStack]:
    """Programs entered here are stopped after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_board(programs: ExitStack) -> Callable[..., Board]:
    def start(port: int = 0) -> Board:
        board = Board(port=port)
        programs.callback(board.stop)
        return board.wait()

    return start


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# ---- ws_example.py without a browser -------------------------------------------------


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("path", ["/", "/index.html", "/?ws=8080"])
def test_board_answers_with_its_page(
    start_board: Callable[..., Board], path: str
) -> None:
    port = start_board().port
    assert fetch(f"http://127.0.0.1:{port}{path}") == (
        200,
        (ROOT / "index.html").read_bytes(),
    )


@pytest.mark.parametrize(
    "path",
    [
        "/.git/config",
        "/ws_example.py",
        "/tests/",
        "/index.html/..",
        "/../index.html",
        "/x",
    ],
)
def test_board_answers_with_nothing_else(
    start_board: Callable[..., Board], path: str
) -> None:
    port = start_board().port
    # There is a WebSocket everywhere, and no other page.
    assert fetch(f"http://127.0.0.1:{port}{path}")[0] == 426


def test_board_says_in_one_line_that_its_port_is_taken(
    programs: ExitStack, taken_port: int
) -> None:
    board = Board(port=taken_port)
    programs.callback(board.stop)
    (line,) = board.rest()
    assert str(taken_port) in line
    assert board.process.returncode == 1


def test_board_ends_quietly_when_it_is_told_to(
    start_board: Callable[..., Board],
) -> None:
    board = start_board()
    fetch(f"http://127.0.0.1:{board.port}/")  # it is up when it answers
    board.process.terminate()
    assert not [line for line in board.rest() if "Traceback" in line]
    if sys.platform != "win32":  # where terminate() kills
        assert board.process.returncode == 0


def test_newcomer_is_told_the_strokes_so_far(start_board: Callable[..., Board]) -> None:
    url = f"ws://127.0.0.1:{start_board().port}/"
    stroke = '{"type":"stroke","id":"a-1"}'
    with connect(url) as first:
        welcome = json.loads(first.recv(DEADLINE))
        assert (welcome["type"], welcome["strokes"]) == ("welcome", [])
        assert json.loads(first.recv(DEADLINE)) == {"type": "people", "count": 1}
        for message in ('{"type":"line","id":"a-1"}', stroke, "no JSON", b"bytes"):
            first.send(message)
            assert first.recv(DEADLINE) == message
        with connect(url) as second:
            later = json.loads(second.recv(DEADLINE))
            assert later == {**welcome, "strokes": [stroke]}
            assert json.loads(first.recv(DEADLINE)) == {"type": "people", "count": 2}
            second.send('{"type":"clear"}')
            assert first.recv(DEADLINE) == '{"type":"clear"}'
        with connect(url) as third:
            assert json.loads(third.recv(DEADLINE))["strokes"] == []


def test_stroke_has_a_largest_size(start_board: Callable[..., Board]) -> None:
    with connect(f"ws://127.0.0.1:{start_board().port}/") as client:
        client.recv(DEADLINE)  # welcome
        client.recv(DEADLINE)  # people
        client.send("x" * 8192)
        assert client.recv(DEADLINE) == "x" * 8192
        client.send("x" * 8193)
        with pytest.raises(ConnectionClosedError) as error:
            client.recv(DEADLINE)
    assert error.value.rcvd
    assert error.value.rcvd.code == 1009


# ---- in a browser -------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@contextmanager
def chromium(**options: Any) -> Iterator[Browser]:
    """Start a browser, with options of playwright, or skip the test."""
    reason = "the drawing board needs the package playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("the drawing board needs a chromium on the PATH")
    with playwright.sync_playwright() as starter:
        # No sandbox: it does not work for root, nor in most containers.
        started = starter.chromium.launch(
            executable_path=program, args=["--no-sandbox"], **options
        )
        yield started
        started.close()


class Pages:
    """Pages of different people: each has a browser context of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts = ExitStack()
        self.errors: list[str] = []

    def open(self, address: str, **context_options: Any) -> Page:
        context = self._browser.new_context(**context_options)
        self._contexts.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.clock.install()  # it goes on by itself, but can be put forward
        page.goto(address)
        wait_for_state(page, "connected")
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def close(self) -> None:
        self._contexts.close()


@pytest.fixture
def pages(browser: Browser) -> Iterator[Pages]:
    """Opens pages; none of them may have complained in the end."""
    opened = Pages(browser)
    yield opened
    opened.close()
    assert opened.errors == []


WORDS = {"connected": "Connected", "offline": "Not connected"}


def wait_for_state(page: Page, state: str) -> None:
    page.wait_for_selector(f"#status[data-state={state}]")
    assert page.locator("#state").inner_text() == WORDS[state]


# The colour of the sheet at a place, as #rrggbb; "" where nobody has drawn.
PIXEL = """([x, y]) => {
  for (const canvas of document.querySelectorAll("canvas")) {
    const [left, top] = [x * canvas.width, y * canvas.height].map(Math.round);
    const pixel = canvas.getContext("2d").getImageData(left, top, 1, 1).data;
    const hex = Array.from(pixel, (value) => value.toString(16).padStart(2, "0"));
    if (pixel[3] > 250) return "#" + hex.slice(0, 3).join("");
  }
  return "";
}"""

Place = tuple[float, float]


def wait_for_colour(page: Page, place: Place, colour: str) -> None:
    page.wait_for_function(
        f"([place, colour]) => ({PIXEL})(place) === colour", arg=[list(place), colour]
    )


def on_screen(page: Page, place: Place) -> Place:
    box = page.locator("#paper").bounding_box()
    assert box
    return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]


def draw(page: Page, start: Place, end: Place, colour: str) -> None:
    """Draw a line with the mouse and see that it is there."""
    page.get_by_role("radio", name=NAMES[colour], exact=True).check()
    page.get_by_label("Pen width").fill("20")
    page.mouse.move(*on_screen(page, start))
    page.mouse.down()
    page.mouse.move(*on_screen(page, end), steps=8)
    page.mouse.up()
    wait_for_colour(page, middle(start, end), colour)


def middle(start: Place, end: Place) -> Place:
    return (start[0] + end[0]) / 2, (start[1] + end[1]) / 2


@pytest.fixture(params=["ws_example.py", "http.server"])
def address(
    request: pytest.FixtureRequest,
    programs: ExitStack,
    start_board: Callable[..., Board],
) -> str:
    """Where the page is served, in one window or in the two of the README."""
    if request.param == "ws_example.py":
        return start_board().address
    server = Program("-m", "http.server", "0", "--directory", str(ROOT))
    programs.callback(server.stop)
    page_port = int(server.expect(r"^Serving HTTP on .* port (\d+)")[1])
    return f"http://localhost:{page_port}/?ws={start_board().port}"


@pytest.mark.browser
def test_one_draws_and_all_see_it(address: str, pages: Pages, tmp_path: Path) -> None:
    first, second = pages.open(address), pages.open(address)
    for page in (first, second):
        page.wait_for_function("() => $('people').innerText === '2 people'")
    draw(first, (0.2, 0.2), (0.8, 0.3), RED)
    wait_for_colour(second, (0.5, 0.25), RED)
    draw(second, (0.2, 0.8), (0.8, 0.7), BLUE)
    wait_for_colour(first, (0.5, 0.75), BLUE)

    late = pages.open(address)
    for place, colour in (((0.5, 0.25), RED), ((0.5, 0.75), BLUE), ((0.5, 0.5), "")):
        wait_for_colour(late, place, colour)

    screenshot = tmp_path / "late.png"
    late.screenshot(path=screenshot)
    assert screenshot.stat().st_size > 0


@pytest.mark.browser
def test_line_is_seen_while_it_is_drawn(
    start_board: Callable[..., Board], pages: Pages
) -> None:
    address = start_board().address
    first, second = pages.open(address), pages.open(address)
    first.get_by_role("radio", name="Green").check()
    first.get_by_label("Pen width").fill("20")
    first.mouse.move(*on_screen(first, (0.1, 0.5)))
    first.mouse.down()
    first.mouse.move(*on_screen(first, (0.9, 0.5)), steps=8)
    wait_for_colour(second, (0.5, 0.5), GREEN)  # the button is still held
    first.mouse.up()


@pytest.mark.browser
def test_clear_empties_the_sheet_of_all(
    start_board: Callable[..., Board], pages: Pages
) -> None:
    address = start_board().address
    first, second = pages.open(address), pages.open(address)
    draw(first, (0.2, 0.5), (0.8, 0.5), RED)
    wait_for_colour(second, (0.5, 0.5), RED)

    second.get_by_role("button", name="Clear sheet").click()
    second.get_by_role("button", name="Clear for all?").click()
    wait_for_colour(first, (0.5, 0.5), "")
    wait_for_colour(second, (0.5, 0.5), "")
    draw(second, (0.2, 0.4), (0.8, 0.4), BLUE)
    late = pages.open(address)
    wait_for_colour(late, (0.5, 0.4), BLUE)
    wait_for_colour(late, (0.5, 0.5), "")


@pytest.mark.browser
def test_drawing_survives_another_size_of_the_window(
    start_board: Callable[..., Board], pages: Pages
) -> None:
    page = pages.open(start_board().address, device_scale_factor=2)
    draw(page, (0.1, 0.3), (0.9, 0.7), RED)
    for width, height in ((390, 844), (844, 390), (360, 640), (1600, 900)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(
            "() => ink.canvas.width === Math.round($('paper').clientWidth * 2)"
        )
        wait_for_colour(page, (0.5, 0.5), RED)
        overflow = "document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(overflow) <= 0, f"wider than {width}"


@pytest.mark.browser
def test_pages_come_back_after_the_server_was_killed(
    start_board: Callable[..., Board], pages: Pages, tmp_path: Path
) -> None:
    board = start_board()
    port = board.port
    first, second = pages.open(board.address), pages.open(board.address)
    draw(first, (0.1, 0.2), (0.9, 0.2), RED)
    wait_for_colour(second, (0.5, 0.2), RED)

    board.kill()
    for page in (first, second):
        wait_for_state(page, "offline")
    assert second.get_by_role("button", name="Clear sheet").is_disabled()
    draw(first, (0.1, 0.4), (0.9, 0.4), BLUE)  # is kept for later
    first.screenshot(path=tmp_path / "offline.png")

    start_board(port=port)
    for page in (first, second):
        wait_for_state(page, "connected")
    wait_for_colour(second, (0.5, 0.4), BLUE)
    draw(second, (0.1, 0.6), (0.9, 0.6), GREEN)
    wait_for_colour(first, (0.5, 0.6), GREEN)

    # The new server knew nothing; the pages have told it what they had.
    late = pages.open(board.address)
    for place, colour in (((0.5, 0.2), RED), ((0.5, 0.4), BLUE), ((0.5, 0.6), GREEN)):
        wait_for_colour(late, place, colour)

    # Chromium reports each attempt that failed; a page cannot prevent that.
    pages.errors[:] = [e for e in pages.errors if "ERR_CONNECTION_REFUSED" not in e]


@pytest.mark.browser
def test_page_notices_that_nothing_comes_any_more(
    start_board: Callable[..., Board], pages: Pages
) -> None:
    board = start_board()
    page = pages.open(board.address)
    page.wait_for_function("() => $('people').innerText === 'only you'")
    os.kill(board.process.pid, signal.SIGSTOP)  # as if the network were gone
    try:
        page.clock.fast_forward("00:21")  # a probe …
        page.clock.fast_forward("00:05")  # … that is not
        wait_for_state(page, "offline")
    finally:
        os.kill(board.process.pid, signal.SIGCONT)
    wait_for_state(page, "connected")


@pytest.mark.browser
def test_finger_draws_on_a_phone(
    start_board: Callable[..., Board], pages: Pages, tmp_path: Path
) -> None:
    address = start_board().address
    desk = pages.open(address)
    phone = pages.open(
        address,
        viewport={"width": 390, "height": 844},
        device_scale_factor=3,
        has_touch=True,
        is_mobile=True,
    )
    phone.get_by_role("radio", name="Violet").tap()
    phone.get_by_label("Pen width").fill("20")
    fingers = phone.context.new_cdp_session(phone)

    def touch(kind: str, *places: Place) -> None:
        points = [
            dict(zip("xy", on_screen(phone, place), strict=True)) for place in places
        ]
        for number, point in enumerate(points):
            point["id"] = number
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    # Downwards, where a page would scroll if it were allowed to; with two fingers.
    touch("touchStart", (0.3, 0.1), (0.7, 0.1))
    for y in (0.3, 0.5, 0.7, 0.9):
        touch("touchMove", (0.3, y), (0.7, y))
    touch("touchEnd")
    for page in (phone, desk):
        for x in (0.3, 0.7):
            wait_for_colour(page, (x, 0.6), VIOLET)
    assert phone.evaluate("scrollY") == 0
    phone.screenshot(path=tmp_path / "phone.png")


TEN_LINES = """
from simple_ws import Server, WebSocket

class WSHandler(WebSocket):
    def on_message(self, msg, target_client):
        for client in self.clients:
            if client.is_open():
                client.write_message(msg)

server = Server("localhost", 0)
server.mount("*", WSHandler())
server.listen()
print("port", server.port)
server.run()
"""


@pytest.mark.browser
def test_page_opened_as_a_file_does_with_a_server_of_ten_lines(
    programs: ExitStack, pages: Pages
) -> None:
    server = Program("-c", TEN_LINES)
    programs.callback(server.stop)
    port = server.expect(r"^port (\d+)$")[1]
    address = f"{(ROOT / 'index.html').as_uri()}?ws={port}"
    first, second = pages.open(address), pages.open(address)
    draw(first, (0.1, 0.2), (0.9, 0.2), RED)
    wait_for_colour(second, (0.5, 0.2), RED)


HOSTILE = [
    "no JSON",
    "null",
    "[]",
    '{"type":"constructor"}',
    '{"type":"welcome","board":"x","strokes":[]}',
    '{"type":"people","count":"<img src=x onerror=alert(1)>"}',
    '{"type":"line","id":"x-1","colour":"#000000","width":9,"points":[0.5,1e999]}',
    '{"type":"stroke","id":"x-2","colour":"red","width":9,"points":[0,0,1,1]}',
    '{"type":"stroke","id":"<b>","colour":"#000000","width":9,"points":[0,0,1,1]}',
    '{"type":"stroke","id":"x-3","colour":"#000000","width":null,"points":[0,0,1,1]}',
    '{"type":"stroke","id":"x-4","colour":"#000000","width":9,"points":[0,0,1]}',
    '{"type":"stroke","id":"x-5","colour":"#000000","width":9,"points":["0","0"]}',
    '{"type":"stroke","id":"x-6","colour":"#000000","width":9,"points":{"length":2}}',
    '{"type":"stroke","id":"x-7"}',
]


@pytest.mark.browser
def test_page_draws_nothing_that_it_has_not_checked(
    start_board: Callable[..., Board], pages: Pages
) -> None:
    board = start_board()
    page = pages.open(board.address)
    draw(page, (0.1, 0.9), (0.9, 0.9), RED)
    wide = {
        "type": "stroke",
        "id": "x-8",
        "colour": BLUE,
        "width": 1e9,
        "points": [-9e9, 0.2, 9e9, 0.2],
    }
    page.evaluate(
        """([url, messages]) => {
          const socket = new WebSocket(url);
          socket.onopen = () => messages.forEach((message) => socket.send(message));
        }""",
        [f"ws://localhost:{board.port}/", [*HOSTILE, json.dumps(wide)]],
    )
    wait_for_colour(page, (0.5, 0.2), BLUE)  # clamped, and the last of them
    wait_for_colour(page, (0.5, 0.9), RED)
    for place in ((0.5, 0.5), (0.25, 0.25), (0.5, 0.3), (0.0, 0.0)):
        assert page.evaluate(PIXEL, list(place)) == ""
    assert page.locator("#people").inner_text() != "<img src=x onerror=alert(1)>"
    late = pages.open(board.address)
    wait_for_colour(late, (0.5, 0.9), RED)

"""Take the pictures of docs/gallery.md: the examples, running, with two clients each.

    python scripts/screenshots.py [name …]

They are written to docs/images. Needed are what the browser tests need (playwright and
a Chromium on the PATH), and for the windows of Tk and Qt also Xvfb and PySide6; what
cannot be taken here is skipped, with a line that says why.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from playwright.sync_api import Browser, Frame, Page, sync_playwright  # noqa: E402
from whole.test_drawing_board import Board, Program, on_screen, wait_for_colour  # noqa: E402
from whole.test_examples import (  # noqa: E402
    Example,
    send_text,
    wait_for_line,
    wait_until_connected,
)

IMAGES = ROOT / "docs" / "images"
ORANGE = "#f08c00"
#: Bytes of a picture; tests/whole/test_docs.py holds it too.
LARGEST = 120 * 1024
DISPLAY = ":97"

TWO_PAGES = """
<style>
  body { margin: 0; display: grid; grid-template-columns: 1fr 1fr; gap: 12px;
         height: 100vh; background: #d0d7de; }
  iframe { width: 100%; height: 100%; border: 0; background: white; }
</style>
<iframe name="left"></iframe><iframe name="right"></iframe>
"""

#: For examples without a page: two clients, and what they say (→) and hear (←).
TWO_CLIENTS = """
<style>
  body { margin: 0; display: grid; grid-template-columns: 1fr 1fr; gap: 12px;
         height: 100vh; background: #d0d7de; }
  section { background: #0d1117; color: #e6edf3; padding: 14px; overflow: hidden;
            font: 14px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; }
  h2 { font: 600 13px system-ui, sans-serif; margin: 0 0 8px; color: #9198a1; }
  p { margin: 0; white-space: pre-wrap; } .said { color: #7ee787; }
  .note { color: #ffa657; }
</style>
<section id="left"></section><section id="right"></section>
<script>
  const sockets = {};
  function add(side, text, kind = "") {
    const line = document.createElement("p");
    line.textContent = text;
    line.className = kind;
    document.getElementById(side).append(line);
  }
  function join(side, title, url) {
    const head = document.createElement("h2");
    head.textContent = title;
    document.getElementById(side).append(head);
    const socket = sockets[side] = new WebSocket(url);
    socket.onmessage = ({ data }) => add(side, "← " + data);
    socket.onclose = ({ code, reason }) =>
      add(side, `closed: ${code} ${reason}`, "note");
    return new Promise((resolve) => { socket.onopen = resolve; });
  }
  function say(side, text) {
    sockets[side].send(text);
    add(side, "→ " + text, "said");
  }
</script>
"""


class Studio:
    """What the pictures are taken with."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._stack = ExitStack()

    def start(self, script: str, *options: str) -> Example:
        """Start an example on a free port."""
        example = Example(script, *options)
        self._stack.callback(example.stop)
        return example.wait()

    def at_end(self, function: Callable[[], object]) -> None:
        """Have something called when the picture is taken."""
        self._stack.callback(function)

    def start_board(self) -> str:
        """Start the drawing board; return its address."""
        board = Board()
        self._stack.callback(board.stop)
        return board.wait().address

    def _page(self, content: str, height: int) -> Page:
        size = {"width": 1100, "height": height}
        page = self._browser.new_page(viewport=size)
        self._stack.callback(page.close)
        page.set_default_timeout(15_000)
        page.set_content(content)
        return page

    def open_two(
        self, left: str, right: str, height: int = 560
    ) -> tuple[Page, Frame, Frame]:
        """Two pages beside each other, in one picture."""
        page = self._page(TWO_PAGES, height)
        frames = []
        for name, url in (("left", left), ("right", right)):
            frame = page.frame(name)
            assert frame
            frame.goto(url)
            frames.append(frame)
        return page, frames[0], frames[1]

    def join_two(
        self, left: tuple[str, str], right: tuple[str, str], height: int = 300
    ) -> Page:
        """Two clients without a page: title and address of each."""
        page = self._page(TWO_CLIENTS, height)
        for side, where in (("left", left), ("right", right)):
            page.evaluate("(where) => join(...where)", [side, *where])
        return page

    def open_one(self, url: str, height: int) -> Page:
        """One page."""
        page = self._page("", height)
        page.goto(url)
        return page

    def close(self) -> None:
        """Stop and close what was started and opened."""
        self._stack.close()


def say(page: Page, side: str, *texts: str) -> None:
    """Have one of two clients without a page say something."""
    for text in texts:
        page.evaluate("(what) => say(...what)", [side, text])


def hear(page: Page, side: str, text: str) -> None:
    """Wait until it hears something."""
    page.locator(f"#{side} p", has_text=text).last.wait_for()


# ---- What is to be seen --------------------------------------------------------------

PICTURES: dict[str, Callable[[Studio], Page]] = {}


def picture(take: Callable[[Studio], Page]) -> Callable[[Studio], Page]:
    """Have a function take the picture of its name."""
    PICTURES[take.__name__.strip("_").replace("_", "-")] = take
    return take


Place = tuple[float, float]


def trace(page: Page, frame: Any, colour: str, places: Iterable[Place]) -> None:
    """Draw a line with the mouse, in one of two frames."""
    frame.get_by_role("radio", name=colour, exact=True).check()
    frame.get_by_label("Pen width").fill("14")
    first, *others = places
    page.mouse.move(*on_screen(frame, first))
    page.mouse.down()
    for place in others:
        page.mouse.move(*on_screen(frame, place), steps=3)
    page.mouse.up()


def circle(x: float, y: float, size: float) -> list[Place]:
    """Places around another one."""
    angles = [2 * math.pi * step / 24 for step in range(25)]
    return [(x + size * math.cos(a), y + size * math.sin(a)) for a in angles]


def rays(x: float, y: float) -> Iterable[list[Place]]:
    """Short lines that lead away from a place."""
    for step in range(8):
        dx, dy = math.cos(step * math.pi / 4), math.sin(step * math.pi / 4)
        yield [(x + dx * part, y + dy * part) for part in (0.1, 0.145)]


@picture
def _drawing_board(studio: Studio) -> Page:
    address = studio.start_board()
    page, left, right = studio.open_two(address, address, height=520)
    for frame in (left, right):
        frame.wait_for_function("() => $('people').innerText === '2 people'")
    house = [(0.25, 0.85), (0.25, 0.5), (0.42, 0.3), (0.59, 0.5), (0.59, 0.85)]
    trace(page, left, "Red", [*house, (0.25, 0.85)])
    trace(page, left, "Blue", [(0.38, 0.85), (0.38, 0.65), (0.47, 0.65), (0.47, 0.85)])
    sun = (0.8, 0.2)
    trace(page, right, "Orange", circle(*sun, 0.065))
    for ray in rays(*sun):
        trace(page, right, "Orange", ray)
    ground = [(x / 20, 0.88 + 0.02 * math.sin(x)) for x in range(1, 20)]
    trace(page, right, "Green", ground)
    wait_for_colour(right, (0.25, 0.7), "#e03131")
    wait_for_colour(left, (0.865, 0.2), ORANGE)
    return page


@picture
def _board(studio: Studio) -> Page:
    example = studio.start("board/board.py")
    url = f"http://127.0.0.1:{example.port}/#garden"
    page, ann, ben = studio.open_two(url, url, height=700)
    page.set_viewport_size({"width": 1392, "height": 700})
    page.add_style_tag(content="body { grid-template-columns: 1000px 1fr !important }")
    for frame, name in ((ann, "Ann"), (ben, "Ben")):
        frame.get_by_label("Your name").fill(name)
        frame.get_by_role("button", name="Open the board").click()
        frame.locator("#status[data-state=connected]").wait_for()
    for text in ("Paint the door", "Sow the beans", "Mend the fence", "Buy seeds"):
        ann.get_by_label("Text of a new card").fill(text)
        ann.get_by_role("button", name="Add the card").click()
        ann.get_by_role("button", name=text).wait_for()
    for text in ("Buy seeds", "Sow the beans"):
        ann.locator("#todo").get_by_role("button", name=text).press("ArrowRight")
        ann.locator("#doing").get_by_role("button", name=text).wait_for()
    ben.locator("#doing").get_by_role("button", name="Buy seeds").press("ArrowRight")
    send_text(ben, "Message", "I have the seeds.", "Send")
    wait_for_line(ann, "I have the seeds.")
    ann.get_by_label("To whom").select_option("to Ben")
    send_text(ann, "Message", "Thank you!", "Send")
    wait_for_line(ben, "Thank you!")
    ben.evaluate("() => scrollTo(0, 0)")
    return page


@picture
def _named_users(studio: Studio) -> Page:
    example = studio.start("pywss/example5.py")
    url = f"http://127.0.0.1:{example.port}/chat.html"
    page, ann, bob = studio.open_two(url, url)
    for frame, name in ((ann, "Ann"), (bob, "Bob")):
        frame.get_by_label("Your name").fill(name)
        frame.get_by_role("button", name="Enter").click()
        wait_until_connected(frame)
    for frame, other, text in (
        (ann, "Bob", "Hello Bob, are you there?"),
        (bob, "Ann", "I am. Nobody else reads this."),
        (ann, "Bob", "Good."),
    ):
        frame.get_by_label("To").select_option(other)
        send_text(frame, "Message", text, "Send")
        wait_for_line(ann, text)
        wait_for_line(bob, text)
    return page


@picture
def _callbacks(studio: Studio) -> Page:
    example = studio.start("websocket_server/server.py")
    url = f"http://127.0.0.1:{example.port}/client.html"
    page, left, right = studio.open_two(url, url, height=480)
    wait_until_connected(right)
    send_text(left, "Message", "Hello all", "Send")
    number = wait_for_line(left, "You are client").split()[-1]
    send_text(right, "Message", f"@{number} only you can read this", "Send")
    wait_for_line(left, "to you alone")
    return page


@picture
def _headers(studio: Studio) -> Page:
    example = studio.start("websocket_server/headers.py")
    url = f"http://127.0.0.1:{example.port}/headers.html"
    page, left, right = studio.open_two(url, url, height=400)
    send_text(left, "Name of a header", "Origin", "Ask")
    send_text(right, "Name of a header", "Upgrade", "Ask")
    wait_for_line(left, "http://127.0.0.1")
    wait_for_line(right, "websocket")
    return page


@picture
def _reverse(studio: Studio) -> Page:
    example = studio.start("websocket_server/reverse.py")
    url = f"http://127.0.0.1:{example.port}/reverse.html"
    page, left, right = studio.open_two(url, url, height=400)
    send_text(left, "Text", "drawer", "Send")
    send_text(right, "Text", "WebSocket", "Send")
    wait_for_line(left, "r.e.w.a.r.d")
    wait_for_line(right, "t.e.k")
    return page


@picture
def _events(studio: Studio) -> Page:
    example = studio.start("websocket_server/notify.py")
    base = f"http://127.0.0.1:{example.port}"
    page, source, listener = studio.open_two(
        f"{base}/notify.html", f"{base}/listen.html", height=480
    )
    number = wait_for_line(source, "this is the event source").split()[-1]
    listener.get_by_label("Event source").fill(number)
    send_text(listener, "Priority", "2", "Listen")
    wait_for_line(listener, "listening to events")
    for text in ("the door is open", "the door is shut"):
        send_text(source, "Event", text, "Notify")
        wait_for_line(listener, text)
    return page


@picture
def _groups(studio: Studio) -> Page:
    example = studio.start("gmwebsockets/server.py", "--every", "0.5")
    url = f"http://127.0.0.1:{example.port}/"
    page, left, right = studio.open_two(url, url, height=600)
    for frame, name in ((left, "ann"), (right, "bob")):
        send_text(frame, "Client id", name, "Bind")
        frame.get_by_label("Group id").fill("red")
        frame.get_by_role("button", name="Join").click()
        wait_for_line(frame, "Clients in group red")
    left.get_by_label("To").select_option("group")
    left.get_by_label("Which").fill("red")
    send_text(left, "Message", "hello reds", "Send")
    wait_for_line(right, "hello reds")
    left.get_by_text("2 online").wait_for()
    return page


@picture
def _suffix(studio: Studio) -> Page:
    example = studio.start("pywss/example1.py")
    url = f"ws://127.0.0.1:{example.port}/test/example/1"
    page = studio.join_two(("a client", url), ("another", url), height=180)
    for side, text in (("left", "hello, pywss!"), ("right", "hello from here")):
        say(page, side, text)
        hear(page, side, "data from pywss")
    return page


@picture
def _radio(studio: Studio) -> Page:
    example = studio.start("pywss/example2.py", "--seconds", "0.5")
    url = f"ws://127.0.0.1:{example.port}/test/example/2"
    page = studio.join_two(("a client", url), ("another", url), height=180)
    for side in ("left", "right"):
        page.locator(f"#{side} p").nth(1).wait_for()
    return page


@picture
def _first_message(studio: Studio) -> Page:
    example = studio.start("pywss/example3.py")
    url = f"ws://127.0.0.1:{example.port}/test/example/3"
    page = studio.join_two(("says who it is", url), ("does not", url), height=180)
    say(page, "left", '{"name": "example3"}', '"Is anybody there?"')
    say(page, "right", '"Let me in"')
    hear(page, "left", "said:")
    hear(page, "right", "closed: 1008")
    return page


@picture
def _prepared(studio: Studio) -> Page:
    example = studio.start("pywss/example4.py")
    url = f"ws://127.0.0.1:{example.port}/test/example/4"
    page = studio.join_two(("sends JSON", url), ("does not", url), height=200)
    say(page, "left", '{"name": "Ann", "text": "hello"}')
    say(page, "right", "hello")
    page.locator("#left p").nth(1).wait_for()
    page.locator("#right p").nth(1).wait_for()
    return page


@picture
def _rooms(studio: Studio) -> Page:
    example = studio.start("websockets_tutorial/server.py", "--seconds", "0.7")
    base = f"ws://127.0.0.1:{example.port}"
    page = studio.join_two(
        ("in the room /nowtime", f"{base}/nowtime"),
        ("at another path", f"{base}/elsewhere"),
        height=260,
    )
    page.locator("#left p").nth(2).wait_for()
    say(page, "left", '{"event": "close"}')
    hear(page, "left", "closed:")
    hear(page, "right", "closed:")
    return page


@picture
def _thread(studio: Studio) -> Page:
    program = subprocess.Popen(
        [sys.executable, "-u", ROOT / "examples" / "loops" / "thread.py", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin
    assert program.stdout
    studio.at_end(program.communicate)
    studio.at_end(program.stdin.flush)
    url = program.stdout.readline().split()[-1]
    page = studio.join_two(("a client", url), ("another", url), height=150)
    say(page, "left", "hello, terminal")
    program.stdin.write("typed into the program\n")
    program.stdin.flush()
    for side in ("left", "right"):
        hear(page, side, "typed")
    return page


@picture
def _game_loop(studio: Studio) -> Page:
    example = studio.start("loops/game_loop.py")
    url = f"ws://127.0.0.1:{example.port}/"
    page = studio.join_two(("throws a ball", url), ("sees it", url), height=300)
    say(page, "left", '{"throw": 12}')
    page.locator("#right p").nth(8).wait_for()
    return page


@picture
def _asyncio_app(studio: Studio) -> Page:
    example = studio.start("loops/asyncio_app.py", "--seconds", "0.8")
    url = f"ws://127.0.0.1:{example.port}/"
    page = studio.join_two(("waits long", url), ("waits less", url), height=220)
    say(page, "left", "1.5")
    say(page, "right", "0.3")
    hear(page, "right", "slept 0.3")
    hear(page, "left", "slept 1.5")
    return page


@picture
def _dashboard(studio: Studio) -> Page:
    code = (
        "from simple_ws import Server\n"
        "s = Server('127.0.0.1', 0)\n"
        "@s.route('/echo')\n"
        "def echo(msg, client): return msg\n"
        "s.dashboard()\n"
        "s.listen(); print(f'http://127.0.0.1:{s.port}/', flush=True); s.run()\n"
    )
    program = Program("-c", code)
    studio.at_end(program.stop)
    address = program.expect(r"http://(\S+)/")[1]
    page = studio.open_one(f"http://{address}/_simple_ws", height=780)
    page.evaluate(
        """(address) => {
          for (let client = 0; client < 8; client++) {
            const socket = new WebSocket(`ws://${address}/echo`);
            socket.onopen = () => socket.send("x".repeat(60));
            socket.onmessage = ({ data }) =>
              setTimeout(() => socket.send(data), 10 + 15 * Math.random());
          }
        }""",
        address,
    )
    page.wait_for_timeout(40_000)  # so that its curves have something to show
    return page


# ---- Windows, on a display of their own ----------------------------------------------

WINDOWS = {"tk-window": "loops/tk_window.py", "qt-window": "loops/qt_window.py"}

#: Runs in a process of its own: a Qt program sees the whole display. What is black at
#: the right and at the bottom is no window.
GRAB = """
import sys
from PySide6.QtGui import QGuiApplication
app = QGuiApplication([])
image = app.primaryScreen().grabWindow(0).toImage()
width, height = image.width(), image.height()
black = image.pixel(width - 1, height - 1)
while all(image.pixel(x, height - 1) == black for x in range(width)):
    height -= 1
while all(image.pixel(width - 1, y) == black for y in range(height)):
    width -= 1
sys.exit(not image.copy(0, 0, width, height).save(sys.argv[1]))
"""


def take_window(name: str, script: str) -> None:
    """A program with a window, and what two clients have sent it."""
    from websockets.sync.client import connect

    display = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "800x600x24"])
    os.environ |= {"DISPLAY": DISPLAY, "QT_QPA_PLATFORM": "xcb"}
    example = Example(script)
    try:
        example.wait()
        url = f"ws://127.0.0.1:{example.port}/"
        with connect(url) as first, connect(url) as second:
            first.send("hello, window")
            second.send("hello from another client")
            for client in (first, second):
                client.ping().wait(5)
            subprocess.run(
                [sys.executable, "-c", GRAB, IMAGES / f"{name}.png"], check=True
            )
    finally:
        example.stop()
        display.terminate()
        display.wait()


def main(wanted: list[str]) -> None:
    """Take the pictures of these names, or all."""
    unknown = set(wanted) - set(PICTURES) - set(WINDOWS)
    if unknown:
        sys.exit(f"no such picture: {', '.join(sorted(unknown))}")
    os.environ["PYTHONPATH"] = str(ROOT)
    IMAGES.mkdir(exist_ok=True)
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as starter:
        browser = starter.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        for name in wanted or PICTURES:
            if name in PICTURES:
                studio = Studio(browser)
                try:
                    page = PICTURES[name](studio)
                    page.screenshot(path=IMAGES / f"{name}.png")
                finally:
                    studio.close()
                report(name)
        browser.close()
    for name in wanted or WINDOWS:
        if name in WINDOWS:
            try:
                take_window(name, WINDOWS[name])
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"SKIPPED {name}: {error}")
            else:
                report(name)


def report(name: str) -> None:
    """Say how large a picture has become."""
    size = (IMAGES / f"{name}.png").stat().st_size
    print(f"{name:<16} {size / 1024:5.0f} KiB{'  TOO LARGE' * (size > LARGEST)}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""`dashboard`: its viewers, their updates, and that no client notices.

The tests marked ``browser`` open the page in a real Chromium. They need the package
``playwright`` and a ``chromium`` on the PATH, and are skipped without them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from harness import (
    DEADLINE,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    open_peer,
    request,
    running,
    small_buffers,
)
from http_peer import Answered, HttpPeer
from programs import Program

from simple_ws import FirstMessageAuth, HandshakeError, JSONMessages, Server
from simple_ws.ops.dashboard import from_this_machine
from simple_ws.protocol.request import Request

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PATH = "/_simple_ws"


def everybody(request: Request) -> bool:
    return True


@pytest.fixture
def driven() -> Iterator[Driven]:
    """A server whose dashboard anybody may see: peers here have no loopback address."""
    with Driven(Echo()) as started:
        started.server.dashboard(allow=everybody)
        yield started


def fetch(driven: Driven, path: str = PATH, *lines: str) -> Answered:
    peer = driven.join()
    answer = HttpPeer(peer).get(path, *lines)
    peer.close()
    return answer


def figures(peer: Peer) -> Any:
    return json.loads(peer.read_message())


def go(peer: Peer) -> None:
    """Close properly, whatever was sent meanwhile."""
    peer.write(close_frame(1000))
    peer.read_rest()
    peer.close()


def refused(peer: Peer, path: str = PATH, *headers: str) -> int:
    """Status of a handshake that is refused."""
    peer.write(request(path, *headers))
    status = int(peer.read_head().split()[1])
    peer.close()
    return status


# --- The page ------------------------------------------------------------------------


class Elements(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(
        self, tag: str, attributes: list[tuple[str, str | None]]
    ) -> None:
        self.found.append((tag, dict(attributes)))


def policy_of(answer: Answered) -> dict[str, list[str]]:
    directives = answer.headers["content-security-policy"].split("; ")
    return {words[0]: words[1:] for words in map(str.split, directives)}


def test_page_is_html_that_is_kept_nowhere(driven: Driven) -> None:
    answer = fetch(driven)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.text.startswith("<!doctype html>")


def test_policy_lets_nothing_run_but_what_is_in_the_page(driven: Driven) -> None:
    answer = fetch(driven)
    policy = policy_of(answer)
    assert policy["default-src"] == ["'none'"]
    for tag in ("script", "style"):
        ((inside),) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == [f"'sha256-{digest}'"]
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_page_needs_nothing_from_elsewhere(driven: Driven) -> None:
    elements = Elements(fetch(driven).text).found
    assert {tag for tag, _ in elements} >= {"html", "meta", "style", "script", "main"}
    for tag, attributes in elements:
        for name, value in attributes.items():
            assert name != "style", f"<{tag}> has a style that the policy refuses"
            assert not name.startswith("on"), f"<{tag}> has a handler of its own"
            if name in ("src", "href", "srcset", "action"):
                assert str(value).startswith("data:"), f"<{tag}> loads {value}"


def test_page_never_takes_text_for_html() -> None:
    page = files("simple_ws.ops").joinpath("dashboard.html").read_text("utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert word not in page


def test_page_shows_every_cause_of_an_end_as_what_it_is() -> None:
    # The page has a list of those that are somebody's fault.
    page = files("simple_ws.ops").joinpath("dashboard.html").read_text("utf-8")
    match = re.search(r"FAULTS = new Set\(\[(.*?)\]\)", page, re.DOTALL)
    assert match
    faults = set(re.findall(r'"(\w+)"', match[1]))
    causes = set(Server().stats()["closed"])
    assert causes - faults == {"peer", "local", "eof", "idle_timeout", "shutdown"}
    assert faults < causes


def test_dashboard_is_off_unless_asked_for() -> None:
    with Driven() as driven:
        assert fetch(driven).status == 426


# --- Who may look --------------------------------------------------------------------


def asked_by(address: Any, *headers: str) -> Request:
    fields = "".join(f"{line}\r\n" for line in headers).encode()
    made = Request("GET", PATH, (1, 1), fields)
    made.address = address
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "localhost:8080",
        "LocalHost:80",
        "localhost.",
        "app.localhost:8080",
        "127.0.0.1:8080",
        "127.0.0.1",
        "[::1]:8080",
        "[::1]",
    ],
)
def test_browser_on_this_machine_may_look(host: str, name: str) -> None:
    assert from_this_machine(asked_by((host, 5555), f"Host: {name}"))


@pytest.mark.parametrize(
    "address",
    [
        ("192.0.2.1", 5555),
        ("10.0.0.1", 5555),
        ("0.0.0.0", 5555),
        ("::ffff:192.0.2.1", 5555, 0, 0),
        ("2001:db8::1", 5555, 0, 0),
        ("fe80::1%eth0", 5555, 0, 2),
        ("", 0),
        ("localhost", 5555),
        "",
        "/run/server.sock",
        None,
    ],
)
def test_peer_on_another_machine_may_not_look(address: Any) -> None:
    assert not from_this_machine(asked_by(address, "Host: localhost:8080"))


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "example.com:8080",
        "localhost.example.com",
        "notlocalhost",
        "127.0.0.1.example.com",
        "192.0.2.1:8080",
        "[2001:db8::1]:80",
        "[::1",
        "::1",
        "[::1]x",
        "",
        ":80",
        "0.0.0.0",
    ],
)
def test_name_of_another_machine_may_not_lead_here(name: str) -> None:
    # Of a page whose name was made to lead to this machine (DNS rebinding), or of
    # whatever a proxy serves.
    assert not from_this_machine(asked_by(("127.0.0.1", 5555), f"Host: {name}"))


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded: for=192.0.2.1",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-For: 127.0.0.1",
        "x-real-ip: 192.0.2.1",
        "X-Forwarded-Host: example.com",
        "Via: 1.1 proxy",
    ],
)
def test_proxy_on_this_machine_is_not_taken_for_its_clients(header: str) -> None:
    peer = ("127.0.0.1", 5555)
    assert not from_this_machine(asked_by(peer, "Host: localhost", header))


def test_others_are_refused_page_and_figures_unless_allowed() -> None:
    with Driven() as driven:
        driven.server.dashboard()
        answer = fetch(driven)
        assert answer.status == 403
        assert "script" not in answer.text
        assert fetch(driven, PATH, "X-Forwarded-For: 127.0.0.1").status == 403
        assert refused(driven.join()) == 403
        assert len(driven.server._stats.viewers) == 0


def test_this_machine_may_look_unless_told_otherwise() -> None:
    with running(Recorder()) as server:
        path = server.dashboard()
        name = b"localhost:%d" % server.port
        local = request(path).replace(b"example.com", name)
        with connect(server) as peer:
            peer.write(local)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            assert figures(peer)["connections"]["dashboards"] == 1
        with connect(server) as peer:
            peer.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
            assert peer.read_head().startswith(b"HTTP/1.1 200 ")
        assert refused(connect(server), path) == 403  # it asks for example.com
        forwarded = "X-Forwarded-For: 127.0.0.1"
        assert refused(connect(server), path, forwarded) == 403


@pytest.mark.parametrize("query", ["", "?key=", "?key=guess", "?key=%C3%BC", "?Key={}"])
def test_what_a_proxy_asks_on_this_machine_is_everybodys(query: str) -> None:
    # Neither the name nor the address nor any field tells nginx from a browser: its
    # `proxy_pass http://localhost:8080` sends just this.
    with running(Recorder()) as server:
        key = server.dashboard().partition("=")[2]
        name = b"localhost:%d" % server.port
        path = PATH + query.format(key)
        origin = f"Origin: http://localhost:{server.port}"
        upgrade = request(path, origin).replace(b"example.com", name)
        page = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        for data in (upgrade, page.encode()):
            with connect(server) as peer:
                peer.write(data)
                assert peer.read_head().startswith(b"HTTP/1.1 403 ")
                assert key.encode() not in peer.read_rest()


def test_key_of_the_dashboard_is_secret_and_not_in_the_log(caplog: Any) -> None:
    caplog.set_level("DEBUG")
    keys = set()
    for _ in range(3):
        with running(Recorder()) as server:
            keys.add(server.dashboard().partition("?key=")[2])
            refused(connect(server), PATH)
    assert len(keys) == 3
    assert min(map(len, keys)) >= 20
    assert not any(key in caplog.text for key in keys)
    assert Server().dashboard("/live", allow=lambda request: True) == "/live"


def test_allow_decides_for_page_and_figures() -> None:
    def allow(request: Request) -> bool:
        return request.query.get("key") == "s3cret"

    with Driven() as driven:
        driven.server.dashboard("/figures/live", allow=allow)
        assert fetch(driven, "/figures/live").status == 403
        assert fetch(driven, "/figures/live?key=s3cret").status == 200
        assert refused(driven.join(), "/figures/live?key=guess") == 403
        with driven.open("/figures/live?key=s3cret") as peer:
            assert figures(peer)["connections"]["dashboards"] == 1


def test_allow_may_refuse_in_its_own_way() -> None:
    def allow(request: Request) -> bool:
        challenge = [("WWW-Authenticate", 'Basic realm="figures"')]
        raise HandshakeError(401, "Say who you are.", challenge)

    with Driven() as driven:
        driven.server.dashboard(allow=allow)
        answer = fetch(driven)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="figures"'
        assert refused(driven.join()) == 401


def test_allow_that_raises_lets_nobody_look() -> None:
    def allow(request: Request) -> bool:
        raise KeyError("oops")

    with Driven() as driven:
        driven.server.dashboard(allow=allow)
        assert fetch(driven).status == 500
        assert refused(driven.join()) == 500


def test_allow_must_say_yes_or_no(caplog: pytest.LogCaptureFixture) -> None:
    with Driven() as driven:
        driven.server.dashboard(allow=lambda request: request)  # type: ignore[arg-type,return-value]
        assert fetch(driven).status == 500
        assert "allow returned" in caplog.text
        assert "return True or False" in caplog.text


def test_allow_must_not_be_async() -> None:
    async def allow(request: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="allow must not be async"):
        Server().dashboard(allow=allow)  # type: ignore[arg-type]


@pytest.mark.parametrize("allow", [True, False, "me", lambda: True, lambda a, b: True])
def test_allow_must_be_a_function_of_a_request(allow: Any) -> None:
    with pytest.raises(TypeError, match=r"allow must be a function of \(request\)"):
        Server().dashboard(allow=allow)


def test_dashboard_stands_at_one_path_once() -> None:
    server = Server()
    server.dashboard()
    with pytest.raises(ValueError, match=PATH):
        server.dashboard()
    with pytest.raises(ValueError, match="path must begin with '/'"):
        server.dashboard("figures")


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://localhost"])
def test_pages_of_others_may_not_read_the_figures(driven: Driven, origin: str) -> None:
    assert refused(driven.join(), PATH, f"Origin: {origin}") == 403


def test_page_itself_may_read_the_figures(driven: Driven) -> None:
    with driven.open(PATH, "Origin: http://example.com") as peer:
        assert figures(peer)


def test_too_many_cannot_look_at_once(driven: Driven) -> None:
    for _ in range(32):
        figures(driven.open(PATH))
    assert refused(driven.join()) == 503
    first = next(iter(driven.server._stats.viewers))
    first.terminate()
    driven.until(lambda: len(driven.server._stats.viewers) < 32)
    assert figures(driven.open(PATH))["connections"]["dashboards"] == 32


@pytest.mark.parametrize(
    "close_the_door",
    [
        lambda server: server.deny_new_connections(),
        lambda server: setattr(server, "options", server.options.merged(FULL)),
    ],
)
def test_server_that_lets_nobody_in_can_be_looked_at(
    driven: Driven, close_the_door: Callable[[Server], None]
) -> None:
    close_the_door(driven.server)
    assert refused(driven.join(), "/") == 503
    assert figures(driven.open(PATH))["refused"] == {"503": 1}


FULL = {"max_connections": 0}


def test_limits_at_the_door_do_not_count_who_looks() -> None:
    limits = {
        "max_connections": 1,
        "max_connections_per_ip": 1,
        "handshake_rate": (0.001, 1),
    }
    with Driven(**limits) as driven:
        driven.server.dashboard(allow=everybody)
        for _ in range(3):
            figures(driven.open(PATH))
        with driven.open() as peer:
            figures(driven.open(PATH))
            peer.leave()
        for viewer in driven.server._stats.viewers:
            viewer.terminate()
        driven.until(lambda: not driven.server._stats.viewers)


# --- What they are sent --------------------------------------------------------------


def test_figures_are_those_of_stats(driven: Driven) -> None:
    with driven.open() as client:
        client.text("hello")
        client.read_message()
        shown = figures(driven.open(PATH))
        stats = driven.server.stats()
        assert set(shown) == set(stats)
        assert {**shown, "time": stats["time"]} == stats
        assert shown["total"]["messages_received"] == 1


def test_figures_come_at_once_and_then_once_a_second(driven: Driven) -> None:
    with driven.open(PATH) as peer:
        uptime = figures(peer)["uptime"]
        for second in range(1, 4):
            driven.advance(0.5)
            assert peer.nothing_waits()
            driven.advance(0.5)
            assert figures(peer)["uptime"] == pytest.approx(uptime + second)
            assert peer.nothing_waits()


def test_all_who_look_are_told_the_same(driven: Driven) -> None:
    peers = [driven.open(PATH) for _ in range(3)]
    for peer in peers:
        figures(peer)
    driven.advance(1)
    assert len({peer.read_message() for peer in peers}) == 1


def test_figures_are_taken_only_while_somebody_looks(driven: Driven) -> None:
    taken = []
    stats = driven.server.stats
    driven.server.stats = lambda: taken.append(1) or stats()  # type: ignore[assignment,func-returns-value]
    driven.advance(5)
    fetch(driven)
    assert not taken
    first, second = driven.open(PATH), driven.open(PATH)
    driven.advance(1)
    assert len(taken) == 3
    go(first)
    driven.advance(1)
    assert len(taken) == 4
    second.reset()
    driven.until(lambda: not driven.server._stats.viewers)
    seen = len(taken)
    assert not driven.server._schedule.jobs
    driven.advance(5)
    assert len(taken) == seen
    driven.open(PATH)
    driven.advance(1)
    assert len(taken) == seen + 2


def test_who_does_not_read_misses_figures_and_costs_little() -> None:
    with Driven(ping=False) as driven:
        driven.server.dashboard(allow=everybody)
        driven.open(PATH, wrap=small_buffers)
        (viewer,) = driven.server._stats.viewers
        for _ in range(2000):
            driven.clock.now += 1
            driven.turn()
        assert 0 < viewer.buffered_amount <= 64 * 1024
        assert viewer.is_open()
        assert driven.server.stats()["buffered"] == 0
        assert driven.server.stats()["total"]["dropped"] == 0


def test_page_that_says_nothing_is_not_idle() -> None:
    with Driven(idle_timeout=2, ping=False) as driven:
        driven.server.dashboard(allow=everybody)
        peer = driven.open(PATH)
        for _ in range(10):
            figures(peer)
            driven.advance(1)
        assert len(driven.server._stats.viewers) == 1


def test_who_sends_more_than_a_page_does_is_closed(driven: Driven) -> None:
    peer = driven.open(PATH)
    figures(peer)
    peer.text("x" * 2000)
    assert peer.read_close()[0] == 1009
    peer = driven.open(PATH)
    figures(peer)
    for _ in range(20):
        peer.text("x")
    assert peer.read_close()[0] == 1008


# --- Nobody else notices -------------------------------------------------------------


def test_those_who_look_are_in_no_figures(driven: Driven) -> None:
    before = driven.server.stats()
    peers = [driven.open(PATH) for _ in range(3)]
    fetch(driven)
    for peer in peers:
        figures(peer)
    driven.advance(1)
    looked_at = driven.server.stats()
    assert looked_at["connections"] == {"open": 0, "opened": 0, "dashboards": 3}
    go(peers[0])
    peers[1].reset()
    driven.until(lambda: len(driven.server._stats.viewers) == 1)
    after = driven.server.stats()
    for stats in (before, looked_at, after):
        for name in ("time", "uptime", "connections"):
            del stats[name]
    assert before == looked_at == after


def test_those_who_look_are_no_clients(driven: Driven) -> None:
    peer, looking = driven.open(), driven.open(PATH)
    figures(looking)
    assert len(driven.server.clients) == 1
    assert driven.server.broadcast("news") == 1
    assert peer.read_message() == "news"
    driven.turn()
    assert looking.nothing_waits()
    assert [event.name for event in driven.handler.events] == ["open"]


def test_middleware_does_not_see_who_looks() -> None:
    with Driven(ping=False, auth_timeout=3) as driven:
        driven.server.dashboard(allow=everybody)
        driven.server.use(FirstMessageAuth(lambda msg: msg))
        driven.server.use(JSONMessages())
        peer = driven.open(PATH)
        for _ in range(6):
            assert figures(peer)["connections"]["dashboards"] == 1
            driven.advance(1)


def test_dashboard_stands_beside_a_handler_of_everything(driven: Driven) -> None:
    with driven.open("/anything") as peer:
        peer.text("hi")
        assert peer.read_message() == "hi"
    assert figures(driven.open(PATH))["total"]["messages_received"] == 1


def test_two_servers_show_figures_of_their_own(driven: Driven) -> None:
    with Driven() as other, driven.open():
        other.server.dashboard(allow=everybody)
        assert figures(driven.open(PATH))["connections"]["open"] == 1
        assert figures(other.open(PATH))["connections"]["open"] == 0


def test_server_that_stops_says_goodbye_to_those_who_look() -> None:
    server = Server("127.0.0.1", 0)
    server.dashboard(allow=everybody)
    for _ in range(2):
        server.start()
        with open_peer(server, PATH) as peer:
            assert figures(peer)["connections"]["dashboards"] == 1
            server.stop(drain=0)
            while (head := peer.read_frame()[0]) == 0x81:
                pass
            assert head == 0x88
            assert peer.read_rest() == b""
        assert len(server._stats.viewers) == 0
        assert not server._schedule.jobs
        assert server.stats()["closed"]["shutdown"] == 0


def test_server_waits_for_those_who_look_as_for_clients() -> None:
    server = Server("127.0.0.1", 0)
    server.dashboard(allow=everybody)
    server.start()
    with open_peer(server, PATH) as peer:
        figures(peer)
        server.reactor.call_threadsafe(lambda: server._begin_stop(DEADLINE))
        while (frame := peer.read_frame())[0] == 0x81:
            pass
        assert frame == (0x88, (1001).to_bytes(2, "big") + b"the server stops")
        run = server._run
        assert run is not None
        assert not run.finished.is_set()
    assert run.finished.wait(DEADLINE)
    server.stop()


# --- In a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page is looked at with playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("the page is looked at in a chromium; there is none on the PATH")
    with playwright.sync_playwright() as starter:
        # No sandbox: it does not work for root, nor in most containers.
        chromium = starter.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


class Looking:
    """Opens the dashboard of a server, and notes what the page complains about."""

    def __init__(self, browser: Browser, stack: ExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.errors: list[str] = []

    def at(self, server: Server | Program, **context_options: Any) -> Page:
        context = self._browser.new_context(**context_options)
        self._stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"http://localhost:{server.port}{PATH}")
        wait_for_state(page, "live", "Live")
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


@pytest.fixture
def looking(browser: Browser) -> Iterator[Looking]:
    with ExitStack() as stack:
        yield Looking(browser, stack)


@pytest.fixture
def served() -> Iterator[Server]:
    with running(Echo()) as server:
        server.dashboard(allow=everybody)
        yield server


def wait_for_state(page: Page, state: str, words: str) -> None:
    page.wait_for_selector(f"#status[data-state={state}]")
    page.wait_for_function(
        "words => document.getElementById('state').innerText === words", arg=words
    )


def wait_for_text(page: Page, selector: str, pattern: str) -> None:
    page.wait_for_function(
        "([selector, pattern]) => new RegExp(pattern).test("
        "document.querySelector(selector)?.innerText ?? '')",
        arg=[selector, pattern],
    )


@pytest.mark.browser
def test_page_shows_what_happens(served: Server, looking: Looking) -> None:
    page = looking.at(served)
    wait_for_text(page, "#connections .now", r"^0\s+open")
    assert page.locator("#none-closed").is_visible()
    with open_peer(served) as one, open_peer(served) as other:
        wait_for_text(page, "#connections .now", r"^2\s+open")
        wait_for_text(page, "#rows tr:first-child", r"^Echo \*")
        for _ in range(5):
            one.text("hello")
            one.read_message()
        wait_for_text(page, "#facts", r"Messages in\s+5\s+Messages out\s+5")
        wait_for_text(page, "#rows tr:first-child", r"µs")
        other.write(b"\xff\xff")
        other.read_close()
        one.leave()
    wait_for_text(page, "#causes", r"protocol error\s+1")
    wait_for_text(page, "#causes", r"peer\s+1")
    refused(connect(served), "/", "no colon")
    wait_for_text(page, "#statuses", r"400\s+1")
    curve = page.locator("#connections .curve").get_attribute("d")
    assert curve
    assert re.fullmatch(r"(M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)+)+", curve)
    assert looking.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_page_fits_every_screen(
    served: Server, looking: Looking, scheme: Any, width: int
) -> None:
    size = {"width": width, "height": 800}
    page = looking.at(served, viewport=size, color_scheme=scheme)
    wait_for_text(page, "#rows", "Echo")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)]
    assert (max(levels) < 64) == (scheme == "dark")
    assert page.screenshot()
    assert looking.errors == []


@pytest.mark.browser
def test_pointer_tells_what_was_at_a_moment(served: Server, looking: Looking) -> None:
    page = looking.at(served)
    box = page.locator("#connections .plot").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    wait_for_text(page, "#connections output", r"^0 · (now|\d+ s ago)$")
    wait_for_text(page, "#lag output", r"s · (now|\d+ s ago)$")  # and in all charts
    page.mouse.move(5, 5)
    page.locator("#connections output").wait_for(state="hidden")
    assert looking.errors == []


@pytest.mark.browser
def test_names_are_shown_as_they_are(served: Server, looking: Looking) -> None:
    handler = served.mount("/odd", Recorder())
    handler._set(_log_name="<img src=x onerror=alert(1)>")
    page = looking.at(served)
    wait_for_text(page, "#rows", r"<img src=x onerror=alert\(1\)> /odd")
    assert page.locator("#rows img").count() == 0
    assert looking.errors == []


@pytest.mark.browser
def test_page_says_when_the_connection_is_lost_and_comes_back(
    served: Server, looking: Looking
) -> None:
    page = looking.at(served)
    (viewer,) = served._stats.viewers
    viewer.terminate()
    page.wait_for_selector("#status[data-state=lost]")
    wait_for_state(page, "live", "Live")
    assert looking.errors == []


@pytest.mark.browser
def test_page_comes_back_after_a_restart(served: Server, looking: Looking) -> None:
    page = looking.at(served)
    open_peer(served).leave()
    wait_for_text(page, "#facts", r"Opened so far\s+1")
    port = served.port
    served.stop(drain=0)
    page.wait_for_selector("#status[data-state=lost]")
    assert page.title().startswith("Lost")
    wait_for_text(page, "#wait", r"trying again")
    with running(Echo()) as other:
        other.dashboard(allow=everybody)
        other.stop(drain=0)
        other._asked_port = port
        other.start()
        page.locator("#retry").click()
        wait_for_state(page, "live", "Live")
        wait_for_text(page, "#facts", r"Opened so far\s+0")


@pytest.mark.browser
def test_hidden_page_lets_the_server_rest(served: Server, looking: Looking) -> None:
    page = looking.at(served)
    page.clock.install()
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.clock.run_for(59_000)
    assert len(served._stats.viewers) == 1
    page.clock.run_for(2_000)
    wait_for_state(page, "connecting", "Paused")
    page.evaluate(hide, False)
    wait_for_state(page, "live", "Live")
    assert looking.errors == []


@pytest.mark.browser
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork")
def test_page_has_a_row_for_each_worker(looking: Looking) -> None:
    body = "server.dashboard(allow=lambda request: True)"
    with Program.with_workers(body) as program:
        workers = program.wait_for_workers()
        with program.peer(), program.peer():
            page = looking.at(program)
            for row, pid in enumerate(sorted(workers), 1):
                place = f"#worker-rows tr:nth-child({row})"
                wait_for_text(page, place, rf"^{row} process {pid}\b")
                wait_for_text(page, place, r"\bup, [\d.]+\s(ms|µs)")
            wait_for_text(page, "#engine", r"^Engine \S.*\s+State\s+up\b")
            wait_for_text(page, "#connections .now", r"^2\s+open")
            os.kill(min(workers), signal.SIGKILL)
            wait_for_text(page, "#worker-rows tr:first-child", "SIGKILL × 1")
        # The page may have been served by that worker: the connection is lost then.
        lost = [error for error in looking.errors if "WebSocket" not in error]
        assert lost == []
        assert program.end() == 0


@pytest.mark.browser
def test_page_of_one_process_has_no_workers(served: Server, looking: Looking) -> None:
    page = looking.at(served)
    wait_for_text(page, "#rows", "Echo")
    assert not page.locator("#workers").is_visible()
    assert not page.locator("#engine").is_visible()


@pytest.mark.browser
def test_page_tells_of_an_engine_that_is_down(looking: Looking) -> None:
    with running(Echo(), engine="redis://127.0.0.1:1") as server:
        server.dashboard(allow=everybody)
        for _ in range(3):
            server.broadcast("to those here alone")
        page = looking.at(server)
        wait_for_text(page, "#engine-facts", r"State\s+down: .*refused")
        wait_for_text(page, "#engine-facts", r"Lost\s+3\b")
        assert page.locator("#engine-facts .bad").count() == 2
        assert looking.errors == []

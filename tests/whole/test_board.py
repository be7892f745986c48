"""The kanban board, examples/board: what its server decides, and its pages.

The tests marked ``browser`` open the pages in a real Chromium; see test_drawing_board.
"""

from __future__ import annotations

import json
import re
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live_peer import LivePeer
from proxy import Proxy
from websockets.sync.client import connect
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE, Program, fetch
from whole.test_examples import end_of

import simple_ws
from simple_ws import Server
from simple_ws.testing import TestServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "examples" / "board"
MAX_PYTHON, MAX_SCRIPT = 160, 200  # lines
pytestmark = [
    pytest.mark.one_backend,  # a program like those of users: what it shows is tested
    pytest.mark.skipif(
        not BOARD.exists(), reason="no checkout: the example is not here"
    ),
]

browser, programs = test_drawing_board.browser, test_drawing_board.programs
GARDEN = "board:garden"


def lines(pattern: str) -> int:
    return sum(
        len(path.read_text("utf-8").splitlines()) for path in BOARD.rglob(pattern)
    )


def test_example_is_short() -> None:
    assert 0 < lines("*.py") <= MAX_PYTHON
    assert 0 < lines("*.js") <= MAX_SCRIPT
    assert max(map(len, (BOARD / "page/board.js").read_text().splitlines())) <= 100


# ---- What the server decides ---------------------------------------------------------


class Boards:
    """The program in this process, without ports."""

    def __init__(self, program: dict[str, Any], kit: TestServer) -> None:
        self.program, self.kit = program, kit

    def enter(self, name: str, key: str = "", board: str = GARDEN) -> LivePeer:
        """Somebody who has come to a board."""
        peer = LivePeer(self.kit)
        peer.connect(data={"name": name, "key": key or f"key of {name}"})
        peer.ask("subscribe", channel=board, join_leave=True)
        return peer

    def admin(self) -> LivePeer:
        peer = LivePeer(self.kit)
        peer.connect(data={"admin": self.program["admin_key"]})
        return peer


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Boards]:
    monkeypatch.setattr(sys, "argv", ["board.py", "0"])
    for name in ("listen", "run"):
        monkeypatch.setattr(Server, name, lambda server: None)
    program = runpy.run_path(str(BOARD / "board.py"))
    monkeypatch.undo()
    with TestServer(program["server"]) as kit:
        yield Boards(program, kit)


def put(peer: LivePeer, **card: Any) -> dict[str, Any]:
    """Have a card put somewhere; return the reply."""
    card = {"board": GARDEN, "text": "dig", "column": "todo", "place": 1} | card
    return peer.do("rpc", method="put", data=card)


def said(peer: LivePeer) -> list[Any]:
    """What was published where the peer is, or sent to it."""
    pushes = (push for push in peer.pushes() if "join" not in push)
    return [(push.get("pub") or push["message"])["data"] for push in pushes]


def reason(reply: dict[str, Any]) -> tuple[int, str]:
    return reply["error"]["code"], reply["error"]["message"]


def test_change_is_published_to_everybody_on_the_board(boards: Boards) -> None:
    ann, ben, cid = (boards.enter(name) for name in ("Ann", "Ben", "Cid"))
    cid.ask("unsubscribe", channel=GARDEN)
    assert "error" not in put(ann)
    (event,) = said(ann)
    assert (event["by"], event["text"]) == ("Ann", "put “dig” into To do")
    assert event["card"]["text"] == "dig"
    assert said(ben) == [event]
    assert said(cid) == []


def test_page_begins_with_the_cards_and_what_was_done(boards: Boards) -> None:
    ann = boards.enter("Ann")
    put(ann)
    card = said(ann)[0]["card"]
    put(ann, **card | {"column": "done"})
    put(ann, text="sow")
    ben = LivePeer(boards.kit)
    ben.connect(data={"name": "Ben", "key": "b"})
    data = ben.ask("subscribe", channel=GARDEN)["data"]
    assert [(c["text"], c["column"]) for c in data["cards"]] == [
        ("dig", "done"),
        ("sow", "todo"),
    ]
    assert [event["text"] for event in data["log"]] == [
        "put “dig” into To do",
        "put “dig” into Done",
        "put “sow” into To do",
    ]
    assert data["number"] > data["log"][-1]["number"]


def test_second_of_two_moves_is_refused_with_the_reason(boards: Boards) -> None:
    ann, ben = boards.enter("Ann"), boards.enter("Ben")
    put(ann)
    card = said(ann)[0]["card"]
    assert "error" not in put(ben, **card | {"column": "doing"})
    refused = 409, "somebody else was faster with this card"
    assert reason(put(ann, **card | {"column": "done"})) == refused
    (moved,) = [event["card"] for event in said(ann)]
    assert moved["column"] == "doing"
    assert "error" not in put(ann, **moved | {"column": "bin"})
    assert reason(put(ben, **moved)) == refused
    assert boards.program["boards"][GARDEN] == {}


def test_private_message_reaches_one_person_and_its_sender(boards: Boards) -> None:
    ann, ben, second, cid = (
        boards.enter(name) for name in ("Ann", "Ben", "Ben", "Cid")
    )
    data = {"board": GARDEN, "text": "psst", "to": "Ben"}
    ann.ask("rpc", method="say", data=data)
    (message,) = said(ben)
    assert (message["by"], message["to"], message["text"]) == ("Ann", "Ben", "psst")
    assert said(second) == said(ann) == [message]
    assert said(cid) == []
    # Nothing of it is in the history, which those who come later see.
    eve = LivePeer(boards.kit)
    eve.connect(data={"name": "Eve", "key": "e"})
    assert eve.ask("subscribe", channel=GARDEN)["data"]["log"] == []
    gone = ann.do("rpc", method="say", data=data | {"to": "Dan"})
    assert reason(gone) == (404, "Dan is not here any more")


def test_name_is_that_of_one_browser_while_it_is_here(boards: Boards) -> None:
    first = boards.enter("Ann", "secret")
    for data in ({"name": "Ann", "key": "other"}, {"name": " Ann ", "key": "x"}):
        thief = LivePeer(boards.kit)
        taken = 409, "Ann is here already: choose another name"
        assert reason(thief.do("connect", data=data)) == taken
    second = boards.enter("Ann", "secret")  # another tab
    for peer in (first, second):
        peer.peer.close()
    boards.enter("Ann", "other")
    assert boards.program["keys"].keys() == {"Admin", "Ann"}


@pytest.mark.parametrize(
    "data",
    [
        *[None, 7, [], {}, {"name": "Ann"}, {"name": 7, "key": "k"}],
        *[{"name": name, "key": "k"} for name in (" ", "x" * 25, "Admin")],
        {"name": "Ann", "key": "k" * 65},
        *[{"admin": key} for key in ("wrong", "é", None)],
    ],
)
def test_who_says_no_good_name_is_not_let_in(boards: Boards, data: Any) -> None:
    peer = LivePeer(boards.kit)
    assert reason(peer.do("connect", data=data))[0] in {400, 401, 409}
    assert not peer.client.is_open()


@pytest.mark.parametrize(
    "card",
    [
        {"text": "x" * 201},
        {"text": "  "},
        {"text": {"a": 1}},
        {"column": "elsewhere"},
        {"column": ["todo"]},
        {"place": "1"},
        {"place": None},
        {"place": 1e300},
        {"id": {}},
        {"id": "7", "seen": []},
        {"board": "board:other"},
        {"board": "news"},
        {"board": 7},
    ],
)
def test_card_of_a_stranger_is_refused(boards: Boards, card: dict[str, Any]) -> None:
    ann = boards.enter("Ann")
    assert reason(put(ann, **card))[0] in {400, 404, 409}
    assert said(ann) == []


def test_sizes_are_bounded(boards: Boards) -> None:
    ann = boards.enter("Ann")
    cards = boards.program["boards"]
    cards[GARDEN].update({f"card {n}": {} for n in range(99)})
    assert "error" not in put(ann)
    assert reason(put(ann)) == (403, "there are 100 cards already")
    cards.update({f"board:{number}": {"1": {}} for number in range(49)})
    assert ann.fail("subscribe", channel="board:more") == 403
    assert ann.fail("subscribe", channel="board:" + "x" * 35) == 400
    cards[
        "board:7"
    ].clear()  # nobody is there, and there is nothing: another can be made
    assert "subscribe" in ann.do("subscribe", channel="board:more")


def test_only_an_admin_closes_and_announces(boards: Boards) -> None:
    ann, admin = boards.enter("Ann"), boards.admin()
    for method in ("close", "announce"):
        data = {"board": GARDEN, "text": "tea"}
        assert ann.fail("rpc", method=method, data=data) == 103
    assert ann.fail("subscribe", channel="admin") == 103
    assert ann.fail("publish", channel=GARDEN, data={}) == 103
    boards.kit.advance(1)
    assert said(admin) == [{GARDEN: ["Ann"]}]
    admin.ask("rpc", method="announce", data={"text": "tea"})
    for peer in (ann, admin):
        (event,) = said(peer)
        assert (event["by"], event["text"]) == ("Admin", "tea")
    admin.ask("rpc", method="close", data={"board": GARDEN})
    closed, ended = ann.pushes()
    assert closed["pub"]["data"]["text"] == "closed this board"
    assert ended["unsubscribe"]["code"] == 2000
    assert reason(put(ann)) == (404, "you are not on this board")


# ---- The program ---------------------------------------------------------------------


class Example(Program):
    """The program on a free port.

    Attributes:
        address: of the board.
        admin: of the admin page.
    """

    def __init__(self) -> None:
        super().__init__("examples/board/board.py", "0")
        self.address = self.admin = ""

    def wait(self) -> Example:
        self.address = self.expect(r"^Open (http://\S+) in a browser$")[1]
        self.admin = self.expect(r"^The admin page: (\S+)$")[1]
        return self

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2].strip("/"))


@pytest.fixture(scope="module")
def example() -> Iterator[Example]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
        started = Example()
    yield started.wait()
    started.stop()


@pytest.mark.skipif(
    sys.platform == "win32", reason="Ctrl-C cannot be sent to one process alone"
)
def test_ctrl_c_ends_it_cleanly(
    programs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
    example = Example()
    programs.callback(example.stop)
    example.wait()
    with connect(f"ws://127.0.0.1:{example.port}/live/websocket") as client:
        hello = {"id": 1, "connect": {"data": {"name": "Ann", "key": "k"}}}
        client.send(json.dumps(hello))
        assert json.loads(client.recv(DEADLINE))["connect"]
        example.process.send_signal(signal.SIGINT)
        assert end_of(client)[0] == 3001  # come back
    rest = example.rest()
    assert example.process.returncode == 0
    assert not [line for line in rest if "Traceback" in line or "Error" in line]


def test_pages_are_served_with_all_that_they_name(example: Example) -> None:
    for page in BOARD.glob("page/*.html"):
        address = f"{example.address}{page.name}"
        assert fetch(address) == (200, page.read_bytes())
        for name in re.findall(r'(?:src|href)="([^"]+)"', page.read_text("utf-8")):
            assert name.startswith("data:") or fetch(example.address + name)[0] == 200
    assert fetch(f"{example.address}live/client.js")[0] == 200


# ---- In a browser --------------------------------------------------------------------


class People:
    """Pages of different people at a board; nothing went wrong on them."""

    def __init__(self, browser: Any, example: Example, board: str) -> None:
        self._browser, self.example, self.board = browser, example, board
        self._contexts = ExitStack()
        self.errors: list[str] = []

    def open(self, address: str, **context_options: Any) -> Page:
        context = self._browser.new_context(**context_options)
        self._contexts.callback(context.close)
        page: Page = context.new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        return page

    def enter(self, name: str, address: str = "", **context_options: Any) -> Page:
        """Somebody who opens the board, at its usual address or another one."""
        address = address or self.example.address
        page = self.open(f"{address}#{self.board}", **context_options)
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Open the board").click()
        return page

    def close(self) -> None:
        self._contexts.close()
        assert self.errors == []


@pytest.fixture
def people(browser: Any, example: Example, request: Any) -> Iterator[People]:
    made = People(browser, example, request.node.name[5:35])
    yield made
    made.close()


def add(page: Page, text: str) -> None:
    page.get_by_label("Text of a new card").fill(text)
    page.get_by_role("button", name="Add the card").click()
    card(page, "todo", text).wait_for()


def card(page: Page, column: str, text: str) -> Any:
    return page.locator(f"#{column}").get_by_role("button", name=text, exact=True)


def tell(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def wait_for_notice(page: Page, text: str) -> None:
    page.get_by_role("alert").get_by_text(text).wait_for()


@pytest.mark.browser
def test_pages_see_each_others_moves(people: People) -> None:
    ann = people.enter("Ann")
    ben = people.enter("Ben", viewport={"width": 390, "height": 800}, has_touch=True)
    add(ann, "dig <b>deep</b>")
    add(ann, "sow")
    card(ben, "todo", "dig <b>deep</b>").wait_for()
    assert ben.get_by_label("Who is here").inner_text().split() == ["Ann", "Ben"]
    # By mouse, by keys, in the dialog; and on a phone, where nothing is cut off.
    card(ann, "todo", "sow").drag_to(card(ann, "todo", "dig <b>deep</b>"))
    ben.locator("#todo li").first.get_by_text("sow").wait_for()
    card(ann, "todo", "sow").press("ArrowRight")
    card(ben, "doing", "sow").tap()
    ben.get_by_role("textbox", name="Card", exact=True).fill("sow beans")
    ben.get_by_label("Column").select_option("Done")
    ben.get_by_role("button", name="Save").click()
    card(ann, "done", "sow beans").press("Enter")
    ann.get_by_role("button", name="Remove").click()
    card(ben, "done", "sow beans").wait_for(state="detached")
    assert ben.evaluate("() => document.documentElement.scrollWidth") == 390


@pytest.mark.browser
def test_page_that_was_offline_shows_what_it_missed(people: People) -> None:
    with Proxy(people.example.port) as proxy:
        away = proxy.url.replace("redis", "http") + "/"
        ann, ben = people.enter("Ann"), people.enter("Ben", away)
        add(ann, "dig")
        card(ben, "todo", "dig").wait_for()
        proxy.hold()
        proxy.cut()
        ben.get_by_role("status").get_by_text("connecting").wait_for()
        card(ann, "todo", "dig").press("ArrowRight")
        card(ann, "doing", "dig").wait_for()
        tell(ann, "I dig")
        proxy.release()
        ben.locator("#log .missed").get_by_text("I dig").wait_for()
        assert ben.locator("#log .missed").count() == 2
        card(ben, "doing", "dig").wait_for()
        # All of it once, and what comes next was not missed.
        tell(ann, "back?")
        ben.locator("#log li:not(.missed)").get_by_text("back?").wait_for()
        assert ben.locator("#log li").count() == 4


@pytest.mark.browser
def test_refused_action_shows_why(people: People) -> None:
    ann, ben = people.enter("Ann"), people.enter("Ben")
    add(ann, "dig")
    card(ben, "todo", "dig").click()  # the dialog is open when the card is moved
    card(ann, "todo", "dig").press("ArrowRight")
    card(ben, "doing", "dig").wait_for()
    ben.get_by_role("button", name="Save").click()
    wait_for_notice(ben, "somebody else was faster with this card")
    eve = people.enter("Ann")
    wait_for_notice(eve, "Ann is here already: choose another name")
    eve.get_by_label("Your name").fill("Eve")
    eve.get_by_role("button", name="Open the board").click()
    card(eve, "doing", "dig").wait_for()


@pytest.mark.browser
def test_message_to_one_person_is_seen_by_nobody_else(people: People) -> None:
    ann, ben, cid = (people.enter(name) for name in ("Ann", "Ben", "Cid"))
    ann.get_by_label("To whom").select_option("to Ben")
    tell(ann, "psst")
    for page in (ann, ben):
        page.get_by_role("log").get_by_text("to Ben: psst").wait_for()
    ann.get_by_label("To whom").select_option("to everybody")
    tell(ann, "hello")
    cid.get_by_role("log").get_by_text("hello").wait_for()
    assert cid.get_by_role("log").get_by_text("psst").count() == 0


@pytest.mark.browser
def test_admin_sees_who_is_where_speaks_and_closes(people: People) -> None:
    ann = people.enter("Ann")
    add(ann, "dig")
    admin = people.open(people.example.admin)
    close = admin.get_by_role("button", name=f"Close {people.board}")
    boards = admin.get_by_label("Boards, and who is there").get_by_role("listitem")
    boards.filter(has=close).get_by_text("Ann").wait_for()
    admin.get_by_label("Message to everybody").fill("tea")
    admin.get_by_role("button", name="Say it").click()
    wait_for_notice(ann, "Admin: tea")
    close.click()
    wait_for_notice(ann, "This board was closed")
    ann.get_by_role("button", name="Open the board").wait_for()
    other = people.open(people.example.admin.rpartition("#")[0] + "#wrong")
    wait_for_notice(other, "this is not the key that the program has printed")

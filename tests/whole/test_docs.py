"""The documentation: its programs are run, its commands, names and links are checked.

Every Python block of README.md, docs/start.md and docs/howto/ is run, the blocks of a
page one after the other in one namespace, as a reader would type them. Servers do not
serve for ever here: `run` and its kin note the server and return, and what a client
block connects to is started on a free port. Functions named `test_…` are called. What a
page's programs do is looked at below, in a function for each page (`checks`).

A block whose first line is `# name.py` is also a file that others may import. One below
`<!-- not run: why -->` is compiled only.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from blocks import DOCS, PAGES, ROOT, Block, blocks, read
from live_peer import LivePeer
from publisher_harness import publisher_server
from whole import test_drawing_board

import simple_ws
import simple_ws.aio
import simple_ws.errors
import simple_ws.live
import simple_ws.testing
from simple_ws import EngineError, Publisher, Server
from simple_ws.cli.main import _parser
from simple_ws.client.options import ClientOptions
from simple_ws.cluster import aio_link, publishing
from simple_ws.cluster.engine_address import parse
from simple_ws.connection.options import Options
from simple_ws.server import thread_workers
from simple_ws.testing import TestServer

pytestmark = pytest.mark.skipif(
    not (DOCS / "conf.py").exists(), reason="no checkout: the documentation is not here"
)

DEADLINE = 15  # seconds, for whatever a test waits for
MOST_NOT_RUN = 3
LARGEST_IMAGE = 120 * 1024  # bytes

#: What a reader has installed if it is wanted, and whoever runs the tests may not have.
OPTIONAL = {"django", "fastapi", "flask", "uvloop", "PySide6", "tkinter", "trustme"}
OPTIONAL |= {
    "cryptography",
    "apscheduler",
    "cent",
    "opentelemetry",
    "sentry_sdk",
    "socketio",
    "uvicorn",
}

#: All that people read, but what Sphinx has made.
TEXTS = [
    *sorted(path.name for path in ROOT.glob("*.md")),
    "examples/README.md",
    "benchmarks/README.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in DOCS.rglob("*.md")
        if "_build" not in path.parts
    ),
]


# ---- Blocks --------------------------------------------------------------------------


@pytest.mark.one_backend
def test_blocks_are_found() -> None:
    assert len(blocks("docs/start.md", "python")) >= 4
    # Nothing escapes by another spelling of the language.
    for page in PAGES:
        for block in blocks(page, "py", "python3", "pycon", "{code-block}"):
            pytest.fail(f"{page}:{block.line}: call it python")


@pytest.mark.one_backend
def test_few_blocks_are_not_run() -> None:
    left_out = [b for page in PAGES for b in blocks(page, "python") if b.not_run]
    assert len(left_out) <= MOST_NOT_RUN, left_out


# ---- Running them --------------------------------------------------------------------


class Sandbox:
    """Where the blocks of a page are run.

    Attributes:
        names: what the blocks have defined.
        servers: those that were to be run, in order.
        started: set when one was started in the background.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.servers: list[Server] = []
        self.started = threading.Event()
        self._folder = folder
        self._ends = ExitStack()
        self._live: dict[int, Server] = {}
        self._polls = 0
        self._patch(monkeypatch)
        self._furnish(monkeypatch)

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_attribute = monkeypatch.setattr
        # What needs a Python without a GIL is run by others, too.
        set_attribute(thread_workers, "gil_is_enabled", lambda: False)
        really_bind = simple_ws.server.life.bind
        really_bind_unix = simple_ws.server.life.bind_unix
        self._connect = simple_ws.connect
        self._connect_async = simple_ws.aio.connect
        self._poll, really_start = Server.poll, Server.start

        def start(server: Server) -> None:
            really_start(server)
            self.started.set()

        async def serve_async(server: Server) -> None:
            self.note(server)

        def bind(host: str, port: int, *rest: Any) -> Any:
            return really_bind("localhost", 0, *rest)

        def bind_unix(path: str, backlog: int) -> Any:
            return really_bind_unix(Path(path).name, backlog)

        def poll(server: Server, timeout: float = 0.0) -> bool:
            self._polls += 1
            if self._polls % 5 == 0:
                server.stop(drain=0)
            return self._poll(server, timeout)

        set_attribute(simple_ws.server.life, "bind", bind)
        set_attribute(simple_ws.server.life, "bind_unix", bind_unix)
        set_attribute(Server, "run", lambda server: self.note(server))
        set_attribute(Server, "start", start)
        set_attribute(Server, "serve_async", serve_async)
        set_attribute(Server, "poll", poll)
        set_attribute(simple_ws, "connect", self._dial(self._connect))
        set_attribute(simple_ws.aio, "connect", self._dial(self._connect_async))

    def _furnish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the files that the pages speak of."""
        monkeypatch.chdir(self._folder)
        monkeypatch.syspath_prepend(str(self._folder))
        (self._folder / "public").mkdir()
        (self._folder / "public" / "index.html").write_text("<!doctype html>")
        _make_certificates(self._folder)
        self._ends.callback(_forget_modules, set(sys.modules))
        for name in ("", "simple_ws"):
            self._ends.callback(_restore_logger(logging.getLogger(name)))

    def note(self, server: Server) -> None:
        self.servers.append(server)
        self._ends.callback(server.stop, drain=0)  # it may listen already

    def at_end(self, function: Callable[..., object], *args: object) -> None:
        """Have something called when the page is done."""
        self._ends.callback(function, *args)

    def enter(self, context: Any) -> Any:
        """Enter a context until the page is done."""
        return self._ends.enter_context(context)

    def run(self, block: Block) -> None:
        code = compile(
            "\n" * (block.line - 1) + block.code, str(ROOT / block.page), "exec"
        )
        if block.file is not None:
            (self._folder / block.file).write_text(block.code, encoding="utf-8")
        if block.not_run is None:
            before = set(self.names)
            exec(code, self.names)
            for name in set(self.names) - before:
                if name.startswith("test_"):
                    self._test(self.names[name])

    def _test(self, function: Callable[..., object]) -> None:
        with ExitStack() as stack:

            def make(served: Any, **options: Any) -> TestServer:
                return stack.enter_context(TestServer(served, **options))

            known = {"ws_server": make}
            wanted = inspect.signature(function).parameters
            function(**{name: known[name] for name in wanted})

    def _dial(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        """A `connect` that finds what the page serves, whatever its port is here."""

        def connect_here(url: str, **options: Any) -> Any:
            parts = urlsplit(url)
            if any(server._asked_port == parts.port for server in self.servers):
                server = self.live(parts.port or 0)
                parts = parts._replace(netloc=f"localhost:{server.port}")
            return connect(parts.geturl(), **options)

        return connect_here

    def live(self, port: int) -> Server:
        """The server that the page runs on a port, running."""
        if port not in self._live:
            found = [server for server in self.servers if server._asked_port == port]
            self._live[port] = self._ends.enter_context(_serving(found[-1]))
        return self._live[port]

    @contextmanager
    def serve(self, served: Any) -> Iterator[TestServer]:
        with TestServer(served) as server:
            yield server

    def close(self) -> None:
        self._ends.close()


@contextmanager
def _serving(server: Server) -> Iterator[Server]:
    """Serve in a thread, in an asyncio loop so that callbacks may be async."""
    listening = threading.Event()

    async def serve() -> None:
        server.attach()
        listening.set()
        assert server._run.attachment
        await server._run.attachment.ended

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert listening.wait(DEADLINE)
    try:
        yield server
    finally:
        server.stop(drain=0)
        thread.join(DEADLINE)


def _make_certificates(folder: Path) -> None:
    with suppress(ModuleNotFoundError):
        import trustme

        authority = trustme.CA()
        cert = authority.issue_cert("localhost")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        for name in ("ca.pem", "devices-ca.pem"):
            authority.cert_pem.write_to_path(folder / name)


def _restore_logger(logger: logging.Logger) -> Callable[[], None]:
    """What undoes `basicConfig` and `setLevel`, which pages show."""
    level, handlers = logger.level, logger.handlers[:]

    def restore() -> None:
        logger.setLevel(level)
        for handler in logger.handlers[:]:
            if handler not in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)

    return restore


def _forget_modules(before: set[str]) -> None:
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if not file.startswith((sys.prefix, sys.base_prefix, str(ROOT))):
            del sys.modules[name]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(monkeypatch, tmp_path)
    yield made
    made.close()


Check = Callable[[Sandbox], None]
PREPARATIONS: dict[str, Check] = {}
CHECKS: dict[str, Check] = {}


def prepares(page: str) -> Callable[[Check], Check]:
    """Have a function called before the programs of a page are run."""

    def note(prepare: Check) -> Check:
        PREPARATIONS[page] = prepare
        return prepare

    return note


def checks(page: str) -> Callable[[Check], Check]:
    """Have a function look at what the programs of a page do."""

    def note(check: Check) -> Check:
        CHECKS[page] = check
        return check

    return note


@pytest.mark.parametrize("page", PAGES)
def test_programs_of_a_page_run(page: str, sandbox: Sandbox) -> None:
    for block in blocks(page, "html"):
        if block.file is not None:
            Path(block.file).parent.mkdir(exist_ok=True)
            Path(block.file).write_text(block.code, encoding="utf-8")
    if page in PREPARATIONS:
        PREPARATIONS[page](sandbox)
    left_out = []
    for block in blocks(page, "python"):
        try:
            sandbox.run(block)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            left_out.append(f"{block.page}:{block.line} needs {error.name}")
        except NameError:  # of a block that was left out
            if not left_out:
                raise
    if page in CHECKS:
        CHECKS[page](sandbox)
    if left_out:
        pytest.skip(", ".join(left_out))


@checks("docs/howto/jobs.md")
def check_jobs(sandbox: Sandbox) -> None:
    with suppress(ModuleNotFoundError):
        from apscheduler.events import EVENT_JOB_REMOVED
        from apscheduler.triggers.date import DateTrigger

        scheduler = sandbox.names["scheduler"]
        removed = threading.Event()
        scheduler.add_listener(lambda event: removed.set(), EVENT_JOB_REMOVED)
        with sandbox.serve(sandbox.servers[0]) as running:
            clients = [running.connect("/news") for _ in range(2)]
            scheduler.add_job(scheduler.get_jobs()[0].func, DateTrigger())
            running.wait_until(lambda: all(client.messages for client in clients))
            # Before it is shut down: its thread would look for the job in vain.
            assert removed.wait(DEADLINE)
            sandbox.names["morning"]()  # as that of another node
            running.settle()
            assert [client.messages for client in clients] == [["good morning"]] * 2


@checks("docs/howto/tracing.md")
def check_tracing(sandbox: Sandbox) -> None:
    traced, reported = sandbox.servers
    with suppress(ModuleNotFoundError):
        check_spans(sandbox, traced)
    with suppress(ModuleNotFoundError):
        check_reports(reported)


def check_spans(sandbox: Sandbox, server: Server) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with sandbox.serve(server) as running:
        client = running.connect(address=("192.0.2.7", 1))
        client.send("x")
        client.close()
    spans = exporter.get_finished_spans()
    names = [f"{name} Room" for name in ("on_request", "on_open", "on_message")]
    assert [span.name for span in spans] == [*names, "on_close Room"]
    assert spans[2].attributes == {"client.address": "192.0.2.7"}


def check_reports(server: Server) -> None:
    import sentry_sdk

    reports: list[Any] = []

    class Transport(sentry_sdk.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            reports.append(envelope.get_event())

    sentry_sdk.init(dsn="https://key@example.com/1", transport=Transport)
    sentry_sdk.integrations.logging.ignore_logger("simple_ws")
    with TestServer(server, raise_server_exceptions=False) as running:
        client = running.connect(address=("192.0.2.7", 1))
        client.send("no number")
        client.assert_closed(1011)
    sentry_sdk.init(dsn=None)
    (report,) = reports
    assert "connection" in report["tags"]
    assert report["exception"]["values"][0]["type"] == "ValueError"


@checks("docs/start.md")
def check_start(sandbox: Sandbox) -> None:
    assert {server._asked_port for server in sandbox.servers} == {8080, 8081}
    with sandbox.serve(sandbox.names["server"]) as server:
        ann, bob = LivePeer(server), LivePeer(server)
        for peer, name in ((ann, "ann"), (bob, "bob")):
            peer.connect(data=name)
        ann.ask("subscribe", channel="room:garden")
        bob.ask("publish", channel="room:garden", data="hello")
        assert ann.publications() == [({"from": "bob", "text": "hello"}, 1)]
        people = bob.ask("presence", channel="room:garden")["presence"]
        assert list(people) == ["ann"]
        assert b"<form>" in server.request(path="/").body


@checks("docs/howto/chat.md")
def check_chat(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        ann = server.connect("/chat/garden?name=Ann")
        ann.send('{"text":"hello"}')
        assert ann.messages[-1] == '{"from":"Ann","text":"hello"}'
        bob = server.connect("/chat/garden?name=Bob")
        history = '"history":[{"from":"Ann","text":"hello"}]'
        assert bob.recv() == f'{{"people":["Ann","Bob"],{history}}}'
        bob.close()
        assert ann.messages[-2:] == ['{"joined":"Bob"}', '{"left":"Bob"}']
        ann.close()  # the last one there
        eve = server.connect("/chat/garden?name=Eve")
        assert eve.recv() == '{"people":["Eve"],"history":[]}'
        eve.close()
        handler = sandbox.names["Chat"]
        assert [(h.people, h.history) for h in _mounted(server.server, handler)] == [
            ({}, {})
        ]
        cid, dan = (server.connect(f"/direct?name={name}") for name in ("Cid", "Dan"))
        cid.send('{"to":"Dan","text":"psst"}')
        assert dan.recv() == '{"from":"Cid","text":"psst"}'
        dan.send('{"to":"Eve","text":"?"}')
        assert dan.recv() == '{"error":"Eve is not online"}'
        with pytest.raises(simple_ws.HandshakeRefused) as refused:
            server.connect("/chat/garden")
        assert refused.value.status == 401
        with pytest.raises(simple_ws.HandshakeRefused) as refused:
            server.connect("/direct")
        assert refused.value.status == 400


def _mounted(server: Server, kind: type) -> list[Any]:
    """The handlers of a class that a server has."""
    return [t for t in server._router.targets() if type(t) is kind]


@pytest.fixture
def chat(sandbox: Sandbox) -> Iterator[TestServer]:
    """The server of the page about chats."""
    for block in blocks("docs/howto/chat.md", "python"):
        sandbox.run(block)
    with sandbox.serve(sandbox.names["server"]) as server:
        yield server


def test_presence_costs_one_short_message_for_each_pair(chat: TestServer) -> None:
    people = 60
    clients = [chat.connect(f"/chat/hall?name=p{n:02}") for n in range(people)]
    texts = [[str(message) for message in client.messages] for client in clients]
    lists = [text for of_one in texts for text in of_one if "people" in text]
    others = [text for of_one in texts for text in of_one if "people" not in text]
    assert len(lists) == people  # each has heard the whole list once
    assert len(others) == people * (people - 1) // 2
    assert max(map(len, others)) == len('{"joined":"p59"}')
    names = [f"p{n:02}" for n in range(people)]
    for here, of_one in enumerate(texts, start=1):
        assert json.loads(of_one[0])["people"] == names[:here]
        assert of_one[1:] == [f'{{"joined":"{name}"}}' for name in names[here:]]
    clients[0].close()
    assert clients[-1].messages[-1] == '{"left":"p00"}'


def test_presence_counts_people_not_tabs(chat: TestServer) -> None:
    ann = chat.connect("/chat/hall?name=Ann")
    first, second = (chat.connect("/chat/hall?name=Bob") for _ in range(2))
    assert json.loads(second.recv())["people"] == ["Ann", "Bob"]
    first.close()
    assert ann.messages[1:] == ['{"joined":"Bob"}']
    second.close()
    assert ann.messages[1:] == ['{"joined":"Bob"}', '{"left":"Bob"}']


@pytest.mark.parametrize("path", ["/chat/hall?name=Ann", "/direct?name=Ann"])
def test_what_is_no_message_of_a_chat_is_answered(
    chat: TestServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ["[]", "7", "null", '""', "{}", '{"text":7}', '{"to":[],"text":""}', b"\x00"]
    ann = chat.connect(path)
    for message in odd:
        ann.send(message)
        assert "error" in str(ann.messages[-1]), message
    ann.assert_open()
    ann.send("no JSON")
    ann.assert_closed(1007, cause="bad_data")
    assert not [record for record in caplog.records if record.exc_info]


@checks("docs/howto/push.md")
def check_push(sandbox: Sandbox) -> None:
    (handler,) = _mounted(sandbox.names["server"], sandbox.names["Load"])
    assert 1.5 < latest(handler.options) <= 2.1
    assert latest(Options()) > 60  # what the page says of the default
    with sandbox.serve(sandbox.names["server"]) as server:
        client = server.connect("/load")
        assert '"load":' in client.recv()
        server.advance(3)
        assert len(client.messages) == 3
        feed = server.connect("/feed")
        feed.send("subscribe events")
        assert feed.recv() == '{"topics":["events"]}'
        feed.send("subscribe secrets")
        assert "error" in str(feed.recv())
        post = {"method": "POST", "path": "/events", "body": b'{"door":"open"}'}
        assert server.request(**post).status == 401
        answer = server.request(**post, headers={"Authorization": "Bearer s3cret"})
        assert answer.json() == {"receivers": 1}
        assert feed.recv() == '{"door":"open"}'
        answer = server.request(
            "POST", "/events", body=b"{", headers={"Authorization": "Bearer s3cret"}
        )
        assert answer.status == 400
        feed.send(b"subscribe events")
        assert feed.recv() == '{"error":"send text"}'


@checks("docs/howto/dashboard.md")
def check_dashboard(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        client = server.connect("/prices")
        assert "<table" in server.request("GET", "/prices.html").text
        server.advance(0.1)
        names = [json.loads(text)["name"] for text in client.messages]
        assert names == [f"STOCK {number}" for number in range(50)] * 3


@prepares("docs/howto/publishing.md")
def prepare_publishing(sandbox: Sandbox) -> None:
    """An engine, wherever the page looks for one."""
    engine = sandbox.enter(publisher_server())
    patch = sandbox.enter(pytest.MonkeyPatch.context())
    really_connect, really_dial = publishing.connect_engine, aio_link.dial

    def connect(made: Any, address: Any, timeout: float) -> Any:
        return really_connect(made, parse(engine.url), timeout)

    async def dial(host: str, port: int, source: Any) -> Any:
        return await really_dial("127.0.0.1", engine.port, source)

    patch.setattr(publishing, "connect_engine", connect)
    patch.setattr(aio_link, "dial", dial)
    sandbox.names["engine"] = engine


@checks("docs/howto/publishing.md")
def check_publishing(sandbox: Sandbox) -> None:
    names, engine = sandbox.names, sandbox.names["engine"]
    channels = [published.channel for published in engine.published]
    assert channels == ["sws.t.news", "sws.i.s:ann", "sws.all"]
    with Publisher("redis://localhost") as publisher:
        engine.answer = b"-NOPERM once\r\n"
        with pytest.raises(EngineError, match="NOPERM once"):
            names["notify"](publisher, "a", "x")  # it tries twice
        engine.answer = None
        names["notify"](publisher, "a", "x")
    assert len(engine.published) == 6
    engine.rules = b'$19\r\n{"orders":[9,null]}\r\n'
    with Publisher("redis://localhost") as publisher:
        names["paid"].__globals__["publisher"], before = publisher, names["publisher"]
        names["paid"](7)
        names["paid"].__globals__["publisher"] = before
    assert engine.appended[0].arguments[10:] == [b"paid-7"]
    engine.answer = b":2\r\n"
    if "app" in names:
        answer = names["app"].test_client().post("/orders/7", json={"paid": True})
        assert answer.json == {"servers": 2}
        names["publisher"].close()
    if "api" in names:
        assert asyncio.run(_call_api(names)) == {"servers": 2}
    if "pay" in names:
        _call_django(names)
        assert engine.published[-1].channel == "sws.t.order:8"
        assert engine.published[-1].envelope.body == b'{"paid":true}'


async def _call_api(names: dict[str, Any]) -> Any:
    async with names["lifespan"](names["api"]):
        return await names["post"]("garden", {"text": "hello"})


def _call_django(names: dict[str, Any]) -> None:
    import django
    from django.conf import settings
    from django.test import RequestFactory

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    settings.configure(DATABASES={"default": database})
    django.setup()
    answer = names["pay"](RequestFactory().post("/"), 8)
    assert json.loads(answer.content) == {"paid": True}
    names["django_publisher"].close()


@prepares("docs/howto/server-api.md")
def prepare_server_api(sandbox: Sandbox) -> None:
    """A client of the API, which finds what the page serves."""
    with suppress(ModuleNotFoundError):
        import cent

        really_make = cent.Client

        def make(url: str, **options: Any) -> Any:
            port = sandbox.live(8080).port
            return really_make(url.replace("8080", f"{port}"), **options)

        patch = sandbox.enter(pytest.MonkeyPatch.context())
        patch.setattr(cent, "Client", make)


@prepares("docs/howto/socketio.md")
def prepare_socketio(sandbox: Sandbox) -> None:
    """A web server that serves nothing; test_socketio.py has a real one."""
    with suppress(ModuleNotFoundError):
        import uvicorn

        patch = sandbox.enter(pytest.MonkeyPatch.context())
        patch.setattr(uvicorn, "run", lambda app, port: None)


@checks("docs/howto/game.md")
def check_game(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        ann, bob = server.connect("/game"), server.connect("/game")
        assert ann.recv() == f'{{"you":{ann.client.id}}}'
        ann.client.x = 500
        ann.send('{"dx":1,"dy":0}')
        server.advance(0.1)
        assert f'"{ann.client.id}":[520,' in str(bob.messages[-1])
        bob.send('{"dx":9,"dy":0}')
        bob.assert_closed(1008)
        assert len(sandbox.names["encode"]([ann.client])) == 8
    assert 4 < latest(sandbox.names["game"].options) <= 5.2


def latest(options: Options) -> float:
    """Seconds by which a message can be late on a line of 16 KB/s."""
    assert options.notsent_lowat is not None
    return (options.write_limit + options.notsent_lowat) / 16_000


@checks("docs/howto/history.md")
def check_history(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        ann = server.connect("/news")
        position = json.loads(ann.recv())["position"]
        ann.send("1")
        assert ann.recv() == "1"
        ann.cut()
        server.settle()
        sandbox.names["server"].publish("news", "2")
        ben = server.connect(f"/news?since={position}")
        ben.send("3")
        first, second, joined, third = [ben.recv() for _ in ben.messages]
        assert (first, second, third) == ("1", "2", "3")
        assert json.loads(joined)["gap"] == 0
    chat = sandbox.names["Chat"]()
    server = simple_ws.Server("", 0)
    server.topic("news", history=10)
    server.mount("/", chat)
    with sandbox.serve(server) as kit:
        ann = kit.connect("/")
        ann.client.subscribe("news")
        chat.on_message({"text": "hi", "id": "1"}, ann.client)
        chat.on_message({"text": "hi", "id": "1"}, ann.client)
        assert ann.messages == ["hi"]


@checks("docs/howto/presence.md")
def check_presence(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        ann = server.connect("/hall?name=ann")
        assert json.loads(ann.recv()) == {"here": {"ann": {"away": False}}}
        assert json.loads(ann.recv()) == {"joined": "ann"}
        ann.send('{"away": true}')
        ben = server.connect("/hall?name=ben")
        here = {"ann": {"away": True}, "ben": {"away": False}}
        assert json.loads(ben.recv()) == {"here": here}
        assert json.loads(ann.recv()) == {"joined": "ben"}
        ben.send('{"text": "hello"}')
        assert json.loads(ann.recv()) == {"from": "ben", "text": "hello"}
        assert json.loads(server.request(path="/hall/people").body) == ["ann", "ben"]
        ben.close()
        server.advance(6)
        assert json.loads(ann.recv()) == {"left": "ben"}
        assert json.loads(server.request(path="/hall/people").body) == ["ann"]


@checks("docs/howto/live.md")
def check_live(sandbox: Sandbox) -> None:
    def ask(client: Any, command: dict[str, Any]) -> Any:
        client.send(json.dumps(command))
        return json.loads(client.recv())

    with sandbox.serve(sandbox.names["server"]) as server:
        client = server.connect("/live/websocket")
        hello = ask(client, {"id": 1, "connect": {"data": {"name": "ann"}}})
        assert hello["connect"]["data"] == {"hello": "ann"}
        room = {"channel": "room:7", "recoverable": True}
        assert ask(client, {"id": 2, "subscribe": room})["subscribe"]["offset"] == 0
        text = {"channel": "room:7", "data": {"text": "hello"}}
        pub = ask(client, {"id": 3, "publish": text})["push"]["pub"]
        info = {"user": "ann", "client": hello["connect"]["client"]}
        assert pub == {"data": {"text": "hello"}, "offset": 1, "info": info}
        assert json.loads(client.recv()) == {"id": 3, "publish": {}}
        result = ask(client, {"id": 4, "rpc": {"method": "add", "data": [1, 2]}})
        assert result == {"id": 4, "rpc": {"data": 3}}
        other = {"channel": "other", "data": 1}
        assert ask(client, {"id": 5, "publish": other})["error"]["code"] == 103


@prepares("docs/howto/live-python.md")
def prepare_live_python(sandbox: Sandbox) -> None:
    """The server of the other page; whoever calls `add` is told "bye"."""
    server = sandbox.names["room"] = Server("localhost", 0)
    server.topic("room:*", history=200)
    live = server.live("/live", authorize=lambda client, action, topic: True)

    @live.method
    def add(client: Any, data: Any) -> Any:
        server.publish("room:7", {"text": "bye"})
        return sum(data)

    server.start()
    sandbox._ends.callback(server.stop, drain=0)
    really_connect = simple_ws.live.connect
    url = f"ws://localhost:{server.port}/live/websocket"
    simple_ws.live.connect = lambda _, **options: really_connect(url, **options)
    sandbox._ends.callback(setattr, simple_ws.live, "connect", really_connect)


@checks("docs/howto/live-python.md")
def check_live_python(sandbox: Sandbox) -> None:
    room, follow = sandbox.names["room"], sandbox.names["follow"]
    came = threading.Semaphore(0)
    printed: list[Any] = []
    sandbox.names["print"] = lambda data: (printed.append(data), came.release())

    def follow_until_closed(text: str, count: int) -> None:
        def run() -> None:
            with suppress(simple_ws.ConnectionClosed):
                follow("url")

        thread = threading.Thread(target=run)
        thread.start()
        room.publish("room:7", text)
        for _ in range(count):
            assert came.acquire(timeout=15)
        for client in room.clients:
            client.close(3501, "enough")
        thread.join(15)
        assert not thread.is_alive()

    Path("position.json").write_text(json.dumps(["", 0]), encoding="utf-8")
    follow_until_closed("one", 3)
    room.publish("room:7", "missed")
    follow_until_closed("two", 2)
    assert printed == [{"text": "hello"}, {"text": "bye"}, "one", "missed", "two"]


@prepares("docs/howto/tokens.md")
def prepare_tokens(sandbox: Sandbox) -> None:
    patch = sandbox.enter(pytest.MonkeyPatch.context())
    patch.setenv("TOKEN_SECRET", "s" * 32)


@checks("docs/howto/tokens.md")
def check_tokens(sandbox: Sandbox) -> None:
    names = sandbox.names
    tokens = names["tokens"]
    with sandbox.serve(names["server"]) as server:
        ann = LivePeer(server)
        assert ann.connect(token=tokens.connection("ann"))["ttl"] > 3500
        assert ann.fail("subscribe", channel="room:7") == 103
        assert ann.ask("subscribe", channel="room:lobby") is not None
        token = tokens.subscription("ann", "room:7")
        assert ann.ask("subscribe", channel="room:7", token=token)["expires"]
        eve, bob = (
            LivePeer(server, "/club/websocket"),
            LivePeer(server, "/club/websocket"),
        )
        eve.connect(data="eve")
        bob.connect(data="bob")
        for _ in range(62):  # both answer their pings
            server.advance(1)
            for client in server.server.clients:
                client._live.receive("{}")
        assert (eve.peer.close_code, bob.client.is_open()) == (3005, True)
    _check_token_views(names, tokens)


def _check_token_views(names: dict[str, Any], tokens: Any) -> None:
    """What the web applications of the page give."""
    if "token" in names:
        settings = importlib.import_module("django.conf").settings
        if not settings.configured:
            settings.configure()
        user = SimpleNamespace(get_username=lambda: "ann", is_authenticated=True)
        answer = names["token"](SimpleNamespace(user=user))
        token = json.loads(answer.content)["token"]
        assert tokens.verify_connection(token).user == "ann"
    if "api" in names:
        token = names["connection_token"]("ann")["token"]
        assert tokens.verify_connection(token).info == {"name": "ann"}
        token = names["subscription_token"]("room:ann:1", "ann")["token"]
        assert tokens.verify_subscription(token).channel == "room:ann:1"
        with pytest.raises(names["HTTPException"]):
            names["subscription_token"]("room:bob:1", "ann")


@checks("docs/howto/calls.md")
def check_calls(sandbox: Sandbox) -> None:
    names = sandbox.names
    with sandbox.serve(names["server"]) as server:
        ann = LivePeer(server)
        ann.connect(data="ann")
        ann.ask("subscribe", channel="stock")

        def call(method: str, data: object) -> Any:
            return ann.do("rpc", method=method, data=data)

        for left in (2, 1, 0):
            assert call("buy", {"name": "apple"})["rpc"]["data"] == {"left": left}
            assert ann.publications()[0][0] == {"apple": left}
        assert call("buy", {"name": "apple"})["error"]["code"] == 409
        for data in (None, {"name": ["apple"]}, {"name": "pear"}):
            assert call("buy", data)["error"]["code"] == 404
        assert call("sell", {})["error"]["code"] == 104
        first, again = (call("pay", {"key": "7"}) for _ in range(2))
        assert first["rpc"] == again["rpc"] == {"data": {"paid": True}}
    assert len(names["done"]) == 1


@checks("docs/howto/fleet.md")
def check_fleet(sandbox: Sandbox) -> None:
    run, server, fleet = (
        sandbox.names["run"],
        sandbox.live(8080),
        sandbox.names["fleet"],
    )
    opened, on_open = threading.Event(), fleet.on_open
    fleet.on_open = lambda client: (on_open(client), opened.set())

    async def drive() -> None:
        with pytest.raises(simple_ws.HandshakeRefused) as refused:
            await run("ws://localhost:8080/devices/pump-7", "wrong")
        assert refused.value.status == 401
        url = "ws://localhost:8080/devices/pump-7"
        device = asyncio.create_task(run(url, "s3cret"))
        assert await asyncio.to_thread(opened.wait, DEADLINE)
        assert server.is_online("pump-7")
        server.send_to("pump-7", {"do": "stop"})
        await asyncio.wait_for(device, DEADLINE)

    asyncio.run(drive())
    assert "pump-7" in fleet.last_seen


@checks("docs/howto/authentication.md")
def check_authentication(sandbox: Sandbox) -> None:
    names = sandbox.names
    with sandbox.serve(names["private"]) as server:
        ann, eve, nobody = (server.connect("/echo") for _ in range(3))
        nobody.client.subscribe("topic")
        ann.send('{"token":"t0ken"}')
        ann.send('"hello"')
        assert ann.recv() == '{"ann":"hello"}'
        names["private"].broadcast("for members")
        names["private"].publish("topic", "for members")
        assert (ann.messages, nobody.messages) == (['"for members"'], [])
        eve.send('{"token":"x"}')
        eve.assert_closed(1008, cause="local")
        server.advance(5)
        nobody.assert_closed(1008, cause="auth_timeout")
    with sandbox.serve(names["server"]) as server:
        cookies = {"session": "5f1c…".encode().decode("latin-1")}
        key = {"Authorization": "Bearer k3y"}
        names["SESSIONS"]["good"] = "ann"
        cookies = {"session": "good"}
        ann = server.connect("/inbox", origin="http://testserver", cookies=cookies)
        account = server.connect(
            "/account", origin="http://testserver", cookies=cookies
        )
        assert account.client.session == {"user": "ann"}
        assert server.connect("/api", headers=key).client.session["name"] == "billing"
        names["log_out"]("ann")
        ann.assert_closed(4001)
        account.assert_open()
    for status, path, options in [
        (401, "/inbox", {"origin": "http://testserver"}),
        (403, "/inbox", {"origin": "http://evil.example", "cookies": cookies}),
        (401, "/api", {"headers": {"Authorization": "Bearer no"}}),
        (403, "/api", {"headers": key, "origin": "http://testserver"}),
        (401, "/account", {"origin": "http://testserver"}),
    ]:
        with (
            sandbox.serve(names["server"]) as server,
            pytest.raises(simple_ws.HandshakeRefused) as refused,
        ):
            server.connect(path, **options)
        assert refused.value.status == status


@pytest.mark.parametrize("number", range(9))
def test_a_block_about_testing_imports_what_it_uses(
    sandbox: Sandbox, number: int
) -> None:
    """Each may be copied into a file of its own."""
    made, *tests = blocks("docs/howto/testing.md", "python")
    assert len(tests) == 9
    sandbox.run(made)
    sandbox.names = {"__name__": "test_quiz"}
    sandbox.run(tests[number])


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, None),
        (True, None),
        ({"user": "ann"}, None),
        (False, 403),
        (simple_ws.Response(402), 402),
        (401, 500),
        (("no", 401), 500),
        (PermissionError("no"), 500),
        (dict, 500),
    ],
    ids=str,
)
def test_answers_of_on_request_are_as_documented(
    answer: object, status: int | None
) -> None:
    handler: Any = simple_ws.WebSocket()
    handler.on_request = lambda request: answer
    with TestServer(handler, raise_server_exceptions=False) as server:
        if status is None:
            session = {} if answer in (None, True) else answer
            assert server.connect("/").client.session == session
        else:
            with pytest.raises(simple_ws.HandshakeRefused) as refused:
                server.connect("/")
            assert refused.value.status == status


@checks("docs/howto/http.md")
def check_http(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        assert server.request(path="/healthz").text == "ok\n"
        added = server.request("POST", "/notes", body=b'{"text": "milk"}')
        assert (added.status, added.json()) == (201, {"number": 0})
        assert server.request(path="/notes/0").json() == {"text": "milk"}
        assert server.request(path="/notes/1").status == 404
        assert server.request("POST", "/notes", body=b"{").status == 400
        assert server.request("POST", "/notes", body=b" " * (2**20 + 1)).status == 413
        assert server.request(path="/hello").headers["Set-Cookie"].startswith("seen")
        assert server.request(path="/disk").status == 200


@checks("docs/howto/files.md")
def check_files(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.servers[0]) as server:
        assert server.request(path="/").headers["ETag"]
        assert server.request(path="/../web.py").status == 404
    with sandbox.serve(sandbox.servers[1]) as server:
        client = server.connect("/news")
        answer = server.request(
            "POST",
            "/publish",
            body=b'{"snow": true}',
            headers={"Content-Type": "application/json"},
        )
        assert answer.json() == {"queued": True}
        assert client.recv() == '{"snow":true}'


@checks("docs/howto/async.md")
def check_async(sandbox: Sandbox) -> None:
    archive, slow = sandbox.servers[:2]
    with sandbox.serve(archive) as server:
        client, viewer = server.connect("/archive"), server.connect("/images")
        client.send("a")
        assert client.recv() == '{"stored":1}'
        viewer.client.subscribe("thumbnails")
        viewer.send(b"0123456789abc")
        assert viewer.recv() == b"0123456789"
    with sandbox.serve(slow) as server:
        client = server.connect("/slow")
        client.send("hello")
        server.advance(0.1)
        assert client.recv() == "HELLO"
    with sandbox.serve(sandbox.names["greeter"]) as server:
        client = server.connect("/greet")
        assert client.recv() == "What is your name?"
        client.send("Ann")
        client.send("hello")
        assert client.recv() == "Ann: hello"


@checks("docs/howto/loops.md")
def check_loops(sandbox: Sandbox) -> None:
    assert sandbox.names["ball"].x >= 3


@checks("docs/howto/limits.md")
def check_limits(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        client = server.connect("/notes")
        client.send("x" * 65536)
        client.send("x" * 65537)
        client.assert_closed(1009, cause="too_big")
        handler = sandbox.names["Export"]
        begin, handler.on_open = handler.on_open, lambda self, client: None
        export = server.connect("/export")
        export.stall()
        begin(export.client._handler, export.client)
        server.settle()
        assert 0 < export.client.messages_sent < 100_000
        export.assert_open()
        export.resume()
        export.assert_closed(1000, cause="local")
        assert len(export.messages) == 100_000


@prepares("docs/howto/tls.md")
def prepare_tls(sandbox: Sandbox) -> None:
    pytest.importorskip("trustme", reason="cryptography has no wheel here")


@checks("docs/howto/tls.md")
def check_tls(sandbox: Sandbox) -> None:
    assert sandbox.live(8443) is sandbox.servers[0]
    assert sandbox.names["ask"]("wss://localhost:8443/echo") == "hello"


@prepares("docs/howto/deploy.md")
def prepare_deploy(sandbox: Sandbox) -> None:
    """The program waits for its SIGTERM; a client sends it, and sees the end."""

    def leave() -> None:
        assert sandbox.started.wait(DEADLINE)
        server = sandbox.names["server"]
        with simple_ws.connect(f"ws://localhost:{server.port}/chat") as ws:
            ws.send("hello")
            answers.append(ws.recv(DEADLINE))
            os.kill(os.getpid(), signal.SIGTERM)
            answers.extend(ws)
            answers.append(ws.close_code)

    answers: list[Any] = []
    thread = threading.Thread(target=leave)
    sandbox.names["answers"], sandbox.names["thread"] = answers, thread
    for number in (signal.SIGTERM, signal.SIGINT):
        sandbox.at_end(signal.signal, number, signal.getsignal(number))
    thread.start()


@checks("docs/howto/deploy.md")
def check_deploy(sandbox: Sandbox) -> None:
    sandbox.names["thread"].join(DEADLINE)
    assert sandbox.names["answers"] == ["hello", 1001]
    assert sandbox.names["healthz"](None).status == 503


PREFORK = """
import os
from prefork import make_server, serve
really_wait = os.waitpid

def wait(pid, options):  # from now on signals are passed on
    print(server.port, flush=True)
    return really_wait(pid, options)

os.waitpid = wait
server = make_server(0)
serve(server, 2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_servers_share_a_port_and_end_together(tmp_path: Path) -> None:
    (block,) = (
        b for b in blocks("docs/howto/deploy.md", "python") if b.file == "prefork.py"
    )
    (tmp_path / "prefork.py").write_text(block.code, encoding="utf-8")
    roots = [str(tmp_path), str(Path(simple_ws.__file__).parents[1])]
    parent = subprocess.Popen(
        [sys.executable, "-c", PREFORK],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
    )
    try:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with simple_ws.connect(f"ws://localhost:{port}/echo") as ws:
            ws.send("hello")
            assert ws.recv(DEADLINE) == "hello"
            parent.terminate()
            assert list(ws) == []
            assert ws.close_code == 1001
        assert parent.wait(DEADLINE) == 0
        assert parent.stdout.read() == f"{port}\n"  # and nobody holds it any more
    finally:
        parent.kill()
        parent.communicate()


@checks("docs/howto/metrics.md")
def check_metrics(sandbox: Sandbox) -> None:
    with sandbox.serve(sandbox.names["server"]) as server:
        assert b"simple_ws_connections" in server.request(path="/metrics").body
        stats = sandbox.names["server"].stats()
        assert "open" in stats["connections"]
        assert "callback_seconds" in stats["histograms"]
        assert server.request(path="/admin/live").status == 403
        cookie = {"Cookie": "admin=s3cret"}
        assert server.request(path="/admin/live", headers=cookie).status == 200
        assert server.request(path="/status").json()["online"] == 0


@checks("docs/howto/logging.md")
def check_logging(sandbox: Sandbox) -> None:
    record = logging.makeLogRecord({"msg": "x", "ws_cause": "eof", "ws_address": ()})
    line = json.loads(sandbox.names["JSONFormatter"]().format(record))
    assert (line["message"], line["ws_cause"]) == ("x", "eof")


# ---- Commands ------------------------------------------------------------------------

#: Programs of others that readers are told to use.
ELSEWHERE = {
    "curl",
    "docker",
    "echo",
    "journalctl",
    "openssl",
    "systemctl",
    "systemd-socket-activate",
}


def commands(page: str) -> Iterator[list[str]]:
    """What a page tells its readers to type, a program with its arguments each."""
    found = "".join(block.code for block in blocks(page, "sh", ""))
    for block in blocks(page, "console"):
        found += "".join(re.findall(r"^\$ (.*\n)", block.code, re.MULTILINE))
    for line in found.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, w in enumerate(words) if w in ("|", "&&")), len(words))
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"\w+=.*", command[0]):
                del command[0]
            if command:
                yield [command[0].removeprefix(".venv/bin/"), *command[1:]]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9]+):", read("Makefile"), re.MULTILINE))


def check_pip(arguments: list[str]) -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert arguments[0] == "install"
    for what in arguments[1:]:
        extra = re.fullmatch(r"\.\[(\w+)\]", what)
        known = extra and extra[1] in project["optional-dependencies"]
        assert known or what in ("-e", ".", "pytest"), what


def check_python(page: str, arguments: list[str]) -> None:
    if arguments[0] == "-m":
        if arguments[1] == "simple_ws":
            _parser().parse_args(arguments[2:])
        else:
            assert importlib.util.find_spec(arguments[1]), arguments
        return
    written = {block.file for block in blocks(page, "python")}
    assert arguments[0] in written or (ROOT / arguments[0]).is_file(), arguments


@pytest.mark.one_backend
@pytest.mark.parametrize("page", [*PAGES, "docs/gallery.md", "examples/README.md"])
def test_commands_exist(page: str) -> None:
    for program, *arguments in commands(page):
        if program == "make":
            named = {word for word in arguments if "=" not in word}
            assert named <= targets(), arguments
        elif program in ("python", "python3"):
            check_python(page, arguments)
        elif program == "simple-ws":
            _parser().parse_args(arguments)
        elif program == "pip":
            check_pip(arguments)
        else:
            assert program in {".", "pytest", *ELSEWHERE}, program


@pytest.mark.one_backend
def test_commands_are_found() -> None:
    assert ["make", "run"] in commands("README.md")
    assert ["pip", "install", "."] in commands("docs/start.md")
    assert len(list(commands("docs/howto/command-line.md"))) >= 8


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TEXTS)
def test_targets_of_make_exist(name: str) -> None:
    for span in re.findall(r"`make ([a-z0-9 ]+)", read(name)):
        assert set(span.split()) <= targets(), span


@pytest.mark.one_backend
def test_every_target_is_in_the_table() -> None:
    table = " ".join(re.findall(r"^\| `make (.*?)`", read("README.md"), re.MULTILINE))
    told = set(table.split()) | {"run", "clean", "help"}
    assert targets() <= told


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TEXTS)
def test_nobody_is_told_to_install_by_name(name: str) -> None:
    assert not re.search(r"pip install [^\n`]*\bsimple[_-]ws\b(?!-\d)", read(name))


@pytest.mark.one_backend
def test_command_line_is_described_as_a_whole() -> None:
    page = read("docs/howto/command-line.md")
    parser = _parser()
    assert parser._subparsers
    (actions,) = parser._subparsers._group_actions
    parsers: Any = actions.choices
    for name, command in parsers.items():
        assert f"\n## {name}\n" in page
        for action in command._actions:
            if action.option_strings and action.dest != "help":
                assert action.option_strings[-1] in page, f"{name}: {action.dest}"


# ---- Links ---------------------------------------------------------------------------


def anchors(name: str) -> set[str]:
    """What the headings of a text may be called in links."""
    text = re.sub(r"^```.*?^```$", "", read(name), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    } | set(re.findall(r'<a id="(\w+)"></a>', text))


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        found = ((ROOT / name).parent / path) if path else ROOT / name
        assert found.exists(), f"{name}: {link}"
        if anchor:
            where = found.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(where), f"{name}: {link}"


@pytest.mark.one_backend
def test_anchors_are_found() -> None:
    assert "what-blocks" in anchors("docs/reference/server.md")


@pytest.mark.one_backend
def test_every_page_is_in_the_contents() -> None:
    listed = set()
    for page in DOCS.rglob("*.md"):
        folder = page.parent
        for code in re.findall(
            r"^```{toctree}\n(.*?)^```$", page.read_text(), re.M | re.S
        ):
            for line in code.splitlines():
                if line and not line.startswith(":"):
                    listed |= set(folder.glob(f"{line}.md"))
    pages = {page for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    assert pages - listed == {DOCS / "index.md"}


# ---- Names ---------------------------------------------------------------------------


def rows(name: str) -> list[list[str]]:
    """The cells of all tables of a text, heads included."""
    lines = re.findall(r"^\|(.*)\|$", read(name), re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def plain(default: object) -> str:
    """A default as the tables have it."""
    if isinstance(default, simple_ws.Deflate):
        return "True"
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    if isinstance(default, str):
        return f'"{default}"'
    return str(default)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("page", "defaults"),
    [
        ("docs/reference/options.md", Options._field_defaults),
        (
            "docs/reference/connect.md",
            {field.name: field.default for field in fields(ClientOptions)},
        ),
    ],
)
def test_every_option_is_in_the_table_with_its_default(
    page: str, defaults: dict[str, Any]
) -> None:
    found = {
        row[0].strip("`"): row[1].strip("`")
        for row in rows(page)
        if row[0].startswith("`")
    }
    assert found == {name: plain(default) for name, default in defaults.items()}


def documented() -> set[str]:
    """Names that the reference shows."""
    text = "".join(read(name) for name in TEXTS if name.startswith("docs/reference/"))
    return set(re.findall(r"^\.\. \w+:: (simple_ws[\w.]*)$", text, re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    missing = {f"simple_ws.{name}" for name in simple_ws.__all__} - documented()
    errors = {f"simple_ws.{name}" for name in simple_ws.errors.__all__}
    assert "simple_ws.errors" in documented()  # with all of its members
    assert missing <= errors
    for module in (simple_ws.testing, simple_ws.aio):
        names = {f"{module.__name__}.{name}" for name in module.__all__}
        assert names <= documented()


@pytest.mark.one_backend
def test_every_module_is_in_the_design() -> None:
    rooms = read("docs/design.md").partition("## Rooms")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", rooms))
    package = Path(simple_ws.__file__).parent
    for path in [*package.rglob("*.py"), *package.rglob("*.p[yx][xi]")]:
        if path.stem != "__init__" or path.parent == package:
            assert path.stem in named, path.name


@pytest.mark.one_backend
def test_what_can_be_found_is_there() -> None:
    part = read("docs/design.md").partition("## Where do I find")[2]
    places = re.findall(r"`(\w+(?:/\w+)*(?:\.\w+)+)`", part)
    assert len(places) > 15
    for place in places:
        if place.endswith(".pxi"):  # a file; see the next test
            continue
        module, *names = place.split(".")
        found: Any = importlib.import_module(f"simple_ws.{module.replace('/', '.')}")
        for name in names:
            found = getattr(found, name)


@pytest.mark.skipif(
    not (Path(simple_ws.__file__).parent / "_c").exists(),
    reason="no checkout: a wheel has no sources in C",
)
@pytest.mark.one_backend
def test_files_that_are_named_are_there() -> None:
    """In the sources as well as in the documentation."""
    package, tests = ROOT / "simple_ws", ROOT / "tests"
    sources = [*package.rglob("*.py"), *package.rglob("*.p[yx][xi]")]
    texts = [*sources, *tests.rglob("*.py"), *DOCS.rglob("*.md")]
    pattern = re.compile(r"`([\w/]+\.pxi|(?:tests|docs)/[\w/.-]+\.(?:py|md))`")
    for text in [*texts, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for name in pattern.findall(text.read_text("utf-8")):
            folders = [ROOT, package, tests, text.parent]
            found = any((folder / name).exists() for folder in folders)
            assert found, f"{text.relative_to(ROOT)} names {name}"


@pytest.mark.one_backend
def test_decisions_have_a_number_each() -> None:
    numbers = [path.name[:4] for path in sorted((DOCS / "adr").glob("*.md"))]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    for path in (DOCS / "adr").glob("*.md"):
        assert path.read_text("utf-8").startswith(f"# {int(path.name[:4])}. ")


def test_every_metric_is_described() -> None:
    from simple_ws.ops.metrics import TABLE

    table = {row[0].strip("`") for row in rows("docs/howto/metrics.md")}
    assert {metric.name for metric in TABLE} == table - {"metric"} - {"---"}


def test_every_field_of_the_log_is_described() -> None:
    package = Path(simple_ws.__file__).parent
    sources = "".join(path.read_text("utf-8") for path in package.rglob("*.py"))
    said = set(re.findall(r'"(ws_[a-z_]+)"', sources))
    assert said == set(re.findall(r"`(ws_[a-z_]+)`", read("docs/howto/logging.md")))


@pytest.mark.one_backend
def test_every_cause_is_described() -> None:
    table = {row[0] for row in rows("docs/reference/words.md")}
    for cause in simple_ws.CloseCause:
        assert any(f"`{cause}`" in cell for cell in table), cause


# ---- Examples, pictures, figures -----------------------------------------------------


@pytest.mark.one_backend
def test_every_example_is_in_the_gallery() -> None:
    gallery = read("docs/gallery.md")
    examples = [ROOT / "ws_example.py", *(ROOT / "examples").rglob("*.py")]
    for example in examples:
        assert f"(../{example.relative_to(ROOT).as_posix()})" in gallery, example.name


@pytest.mark.one_backend
def test_pictures_are_small_and_used() -> None:
    gallery = read("docs/gallery.md")
    for image in (DOCS / "images").iterdir():
        assert f"](images/{image.name})" in gallery
        assert image.read_bytes().startswith(b"\x89PNG")
        assert image.stat().st_size <= LARGEST_IMAGE, image.name


#: Rows of the table in the README, and what the chart calls them.
FIGURES = {
    "echo 32 B × 100, messages/s": "echo 32 B × 100",
    "the same × 10, 50 in flight": "echo 32 B × 10, 50 in flight",
    "broadcast to 1,000, deliveries/s": "broadcast 128 B to 1,000",
    "handshakes/s": "handshakes, 64 at once",
    "idle connection, KiB": "memory of an idle connection",
}


def charted(title: str) -> dict[str, str]:
    """The bars of a chart in docs/performance.svg."""
    part = read("docs/performance.svg").partition(f">{title}</text>")[2]
    part = part.partition('class="title"')[0]
    pairs = re.findall(
        r'class="name(?: own)?"[^>]*>([^<]+)<.*?<text x="[\d.]+" y="[\d.]+">([^<]+)<',
        part,
        re.DOTALL,
    )
    # "picows, uvloop" is picows; "simple_ws, Python loop" is not what simple_ws is.
    return {name.partition(",")[0]: value for name, value in pairs} | dict(pairs)


@pytest.mark.one_backend
def test_figures_of_the_readme_are_those_of_the_charts() -> None:
    table = rows("README.md")
    (head,) = (row for row in table if "picows" in row)
    for row in table:
        if row[0] in FIGURES:
            bars = charted(FIGURES[row[0]])
            for name, figure in zip(head[1:], row[1:], strict=True):
                found = min(
                    (key for key in bars if key.lower() == name.lower()), default=None
                )
                assert found, f"{name} in {FIGURES[row[0]]}"
                assert bars[found].removesuffix(" KiB") == figure, (row[0], name)
    assert {row[0] for row in table} >= set(FIGURES)


# ---- Building it ---------------------------------------------------------------------


#: What one room tells another through an object that users hold as well.
FOR_THE_HOUSE = [
    "Server.welcome",
    "Server.forget",
    "Server.find",
    "WebSocket.max_size",
    "aio.Connection.data_received",
]


@pytest.mark.one_backend
@pytest.mark.timeout(200)  # half a minute of CPU time
def test_documentation_is_built_without_warnings(tmp_path: Path) -> None:
    for module in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(module, reason=f"the documentation needs {module}")
    build = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "doctrees"]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *build, DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert (result.returncode, result.stderr) == (0, "")
    reference = tmp_path / "html" / "reference"
    page = (reference / "server.html").read_text(encoding="utf-8")
    assert "deny_new_connections" in page
    pages = "".join(p.read_text(encoding="utf-8") for p in reference.glob("*.html"))
    for name in FOR_THE_HOUSE:
        assert f'id="simple_ws.{name}"' not in pages
    # Nothing is fetched from elsewhere when it is read.
    assert not re.findall(r'<(?:script|link|img)[^>]+"https?://', page)


# ---- In a browser --------------------------------------------------------------------

browser, programs = test_drawing_board.browser, test_drawing_board.programs

SERVE_START = """
import os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
from simple_ws import Server
run, Server.run = Server.run, lambda server: None
from chat import server
server._asked_port = 0
server.listen()
print("port", server.port, flush=True)
run(server)
"""


@pytest.mark.browser
def test_page_of_the_first_ten_minutes_works(
    browser: Any, programs: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
    for block in blocks("docs/start.md", "python", "html"):
        if block.file is not None:
            path = tmp_path / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
    program = test_drawing_board.Program("-c", SERVE_START, str(tmp_path))
    programs.callback(program.stop)
    port = program.expect(r"^port (\d+)$")[1]

    def enter(name: str) -> Any:
        page = browser.new_page()
        programs.callback(page.close)
        page.on("dialog", lambda dialog: dialog.accept(name))
        page.goto(f"http://localhost:{port}/")
        page.get_by_text("Here: ").wait_for()
        return page

    ann, bob = enter("ann"), enter("bob")
    ann.get_by_text("Here: ann, bob").wait_for()
    ann.locator("input").fill("hello <b>you</b>")
    ann.get_by_role("button", name="Send").click()
    for page in (ann, bob, enter("cid")):  # who comes later has it from the history
        page.get_by_text("ann: hello <b>you</b>").wait_for()
    bob.close()
    ann.get_by_text("Here: ann, cid").wait_for()


# Scripts are compiled as the body of an async function, which may await but neither
# import nor export.
IMPORT = re.compile(r"^import\b.*?\bfrom\b", re.MULTILINE)
EXPORT = re.compile(r"^export\b", re.MULTILINE)
COMPILE = "(code) => void new (async () => {}).constructor(code)"


@pytest.mark.browser
def test_scripts_are_well_formed(browser: Any) -> None:
    page = browser.new_page()
    for name in PAGES:
        for block in blocks(name, "js"):
            code = EXPORT.sub("", IMPORT.sub("await", block.code))
            page.evaluate(COMPILE, code)
    page.close()

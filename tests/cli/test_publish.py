"""`publish` and `topics`: what goes to the engine, what is printed, exit codes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from publisher_harness import PublisherServer, publisher_server
from redis_server import redis_server, session

from simple_ws.cli.main import main
from simple_ws.cluster.content import Kind
from simple_ws.cluster.engine import Subscribed
from simple_ws.cluster.envelope import open_

pytestmark = pytest.mark.one_backend


@pytest.fixture
def server() -> Iterator[PublisherServer]:
    with publisher_server() as made:
        yield made


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Have something come from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def code_of(arguments: list[str]) -> int:
    """The exit code, of argparse as well."""
    try:
        return main(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "body"),
    [
        (["hello"], Kind.TEXT, b"hello"),
        ([""], Kind.TEXT, b""),
        (["{}"], Kind.TEXT, b"{}"),
        (['{"a": 1}', "--json"], Kind.JSON, b'{"a":1}'),
        (["7.50", "--json"], Kind.TEXT, b"7.50"),
        (["hello", "--binary"], Kind.BINARY, b"hello"),
    ],
)
def test_message_is_published(
    server: PublisherServer, capsys: Any, arguments: list[str], kind: Kind, body: bytes
) -> None:
    server.answer = b":2\r\n"
    assert main(["publish", server.url, "news", *arguments]) == 0
    assert capsys.readouterr().out == "2\n"
    (published,) = server.published
    assert published.channel == "sws.t.news"
    assert (published.envelope.kind, published.envelope.body) == (kind, body)


@pytest.mark.parametrize(
    ("given", "options", "body"),
    [
        (b"two\nlines\n", [], b"two\nlines"),
        (b"line\r\n", [], b"line"),
        (b"", [], b""),
        (b"\xff\n", ["--binary"], b"\xff\n"),
        (b'{"a": 1}\n', ["--json"], b'{"a":1}'),
    ],
)
def test_message_of_standard_input(
    server: PublisherServer,
    monkeypatch: pytest.MonkeyPatch,
    given: bytes,
    options: list[str],
    body: bytes,
) -> None:
    give(monkeypatch, given)
    assert main(["publish", server.url, "news", *options]) == 0
    assert [published.envelope.body for published in server.published] == [body]


def test_prefix_and_secret(server: PublisherServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame\n")
    options = ["--prefix", "shop", "--secret-file", str(tmp_path / "key")]
    assert main(["publish", server.url, "news", "x", *options]) == 0
    (published,) = server.published
    assert published.channel == "shop.t.news"
    assert open_(published.data, published.channel, b"sesame").body == b"x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "http://u:sesame@h", "a", "x"], "redis://"),
        (["publish", "memory://", "a", "x"], "inside a server's processes"),
        (["publish", "redis://h", "a", "{", "--json"], "is not JSON"),
        (["publish", "redis://h", "a", "x", "--prefix", "a.b"], "prefix must be"),
        (["publish", "redis://h", "a", "x", "--json", "--binary"], "not allowed with"),
        (["publish", "redis://h", "a", "x", "--timeout", "0"], "more than 0 seconds"),
        (["publish", "redis://h"], "TOPIC"),
        (["topics", "nothing"], "redis://"),
    ],
)
def test_wrong_arguments_end_with_2(
    arguments: list[str], message: str, capsys: Any
) -> None:
    assert code_of(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "sesame" not in error


def test_empty_secret_ends_with_2(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "key").write_text("\n")
    secret = ["--secret-file", str(tmp_path / "key")]
    assert main(["publish", "redis://h", "a", "x", *secret]) == 2
    assert "secret must not be empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["publish", "a", "x"], ["topics"]])
def test_engine_that_is_not_there_ends_with_3(
    server: PublisherServer, capsys: Any, command: list[str]
) -> None:
    server.close()
    name, *rest = command
    assert main([name, server.url, *rest]) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"simple-ws: redis://127.0.0.1:{server.port}: cannot")
    assert "sesame" not in error


def test_message_that_may_have_been_published_ends_with_1(
    server: PublisherServer, capsys: Any
) -> None:
    server.answer = None
    assert main(["publish", server.url, "a", "x"]) == 1
    assert "the message may have been published" in capsys.readouterr().err


def test_message_that_is_no_text_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    give(monkeypatch, b"\xff")
    assert main(["publish", "redis://h", "a"]) == 1
    assert "try --binary" in capsys.readouterr().err


def test_topics_are_listed(capsys: Any) -> None:
    names = [f"room:{number:04}" for number in range(1000)]
    with redis_server() as server, session(server.url) as one:
        one.engine.subscribe(f"sws.t.{name}" for name in names)
        one.engine.subscribe(["sws.all", "sws.i.s:ann", "other.t.x", "sws.t.a\x1b\n"])
        one.until_event(Subscribed)
        with session(server.url) as two:
            two.engine.subscribe(["sws.t.room:0007"])
            two.until_event(Subscribed)
            assert main(["topics", server.url]) == 0
            out, _ = capsys.readouterr()
            first, *others = out.splitlines()
            assert first == "    1  a\\x1b\\n"
            expected = [f"    {1 + (name == 'room:0007')}  {name}" for name in names]
            assert others == expected
        assert main(["topics", f"{server.url}?prefix=other"]) == 0
        assert capsys.readouterr().out == "    1  x\n"


def test_topics_without_the_right_to_them(capsys: Any) -> None:
    with redis_server() as server:
        with server.commands() as command:
            rules = [
                "on",
                ">sesame",
                "resetchannels",
                "&sws.*",
                "-@all",
                "+hello",
                "+publish",
            ]
            command("ACL", "SETUSER", "cron", *rules)
        url = server.url.replace("//", "//cron:sesame@")
        assert main(["topics", url]) == 3
    assert "NOPERM" in capsys.readouterr().err

"""`publish`: a message to a topic of an engine; `topics`: who listens to which."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..cluster.publishing import (
    PublishingOptions,
    check_publishing_options,
    count_topics,
)
from ..publisher import Publisher
from ..text import one_line
from .values import Failure, UsageError, seconds

__all__ = ["add_publish", "add_topics"]


def add_publish(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "publish",
        help="publish a message to a topic, through an engine",
        description="Publish a message to the subscribers of a topic on all servers "
        "that use an engine, and print how many connections of the engine got it: "
        "each is a server, or a worker of one.",
        epilog="example: simple-ws publish redis://localhost news '{\"a\": 1}' --json",
    )
    _add_engine(parser)
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument(
        "message",
        metavar="MESSAGE",
        nargs="?",
        help="default: standard input to its end, without the last line's end",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="the message is JSON; refuse anything else"
    )
    form.add_argument(
        "--binary", action="store_true", help="send the bytes as a binary message"
    )
    parser.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="holds what the servers have as engine_secret, on one line",
    )
    parser.set_defaults(run=_publish)


def add_topics(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "topics",
        help="list the topics that clients have subscribed to, through an engine",
        description="List the topics that somebody has subscribed to on any server "
        "that uses an engine, each after the number of servers and workers.",
        epilog="example: simple-ws topics redis://localhost",
    )
    _add_engine(parser)
    parser.set_defaults(run=_topics)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", metavar="URL", help="of the engine, such as redis://localhost"
    )
    parser.add_argument(
        "--prefix", help="of the application; default: that of the URL, or sws"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="time for all of it; default: 5",
    )


def _publish(options: argparse.Namespace) -> int:
    publisher = Publisher(
        options.url,
        prefix=options.prefix,
        secret=_secret(options.secret_file),
        timeout=options.timeout,
    )
    message = _message(options)
    with publisher:
        print(publisher.publish(options.topic, message))
    return 0


def _secret(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes().rstrip(b"\r\n")


def _message(options: argparse.Namespace) -> object:
    data = _data(options.message, options.binary)
    if options.binary:
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Failure("the message is not UTF-8; try --binary") from None
    return _parsed(text) if options.json else text


def _data(message: str | None, binary: bool) -> bytes:
    if message is not None:
        return message.encode(errors="surrogateescape")
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    return data if binary else data.removesuffix(b"\n").removesuffix(b"\r")


def _parsed(text: str) -> object:
    """A dict or list; any other JSON as it is written."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the message is not JSON: {error}") from None
    return value if isinstance(value, dict | list) else text


def _topics(options: argparse.Namespace) -> int:
    given: PublishingOptions = check_publishing_options(
        options.url, options.prefix, None, options.timeout
    )
    for topic, nodes in sorted(count_topics(given).items()):
        print(f"{nodes:>5}  {one_line(topic)}")
    return 0

"""The how-to of the server API: its program, and its request as curl sends it."""

from __future__ import annotations

import re
import shlex
import urllib.request
from typing import Any

from pages import HOWTO

PAGE = (HOWTO / "server-api.md").read_text("utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_request_of_the_page_is_answered_as_it_says() -> None:
    names: dict[str, Any] = {"__name__": "rooms"}
    exec(block("python").replace('"", 8080', '"127.0.0.1", 0'), names)
    server = names["server"]
    _, *options, url = shlex.split(block("sh").replace("\\\n", " "))
    values = dict(zip(options[::2], options[1::2], strict=True))
    name, _, key = values["-H"].partition(": ")
    server.start()
    try:
        request = urllib.request.Request(
            url.replace("8080", str(server.port)),
            values["-d"].encode(),
            {name: key},
        )
        with urllib.request.urlopen(request, timeout=10) as answered:
            text = answered.read().decode()
    finally:
        server.stop(0)
    expected = block("json").strip()
    same = re.compile(r"[0-9a-f]{8}:1:[0-9a-f]{4}")
    assert same.sub("", text) == same.sub("", expected).replace(": ", ":").replace(
        ", ", ","
    )

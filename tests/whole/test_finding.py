"""Pages are found by the words that people search for, and options have anchors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

import pytest
from blocks import DOCS, read

from simple_ws.client.options import ClientOptions
from simple_ws.connection.options import Options

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not (DOCS / "conf.py").exists(), reason="no checkout"),
]

#: What people search for, and the page whose title has it.
WORDS = {
    "graceful shutdown": "deploy",
    "FastAPI": "fastapi",
    "Django": "fastapi",
    "OpenTelemetry": "tracing",
    "Sentry": "tracing",
    "type hints": "types",
    "scaling": "scaling",
    "Redis": "scaling",
    "reconnect": "fleet",
    "rate limit": "limits",
    "back-pressure": "limits",
    "reverse proxy": "proxies",
    "nginx": "proxies",
    "Docker": "docker",
    "cron": "jobs",
    "RPC": "calls",
}


def title(page: str) -> str:
    found = re.search(r"^# (.+)$", read(page), re.MULTILINE)
    assert found
    return found[1].lower()


@pytest.mark.parametrize(("word", "page"), WORDS.items())
def test_page_is_found_by_the_word(word: str, page: str) -> None:
    assert word.lower() in title(f"docs/howto/{page}.md")


def test_titles_say_what_a_stranger_understands() -> None:
    for page in DOCS.rglob("*.md"):
        if "_build" not in page.parts and page.name not in {
            "changelog.md",
            "contributing.md",
        }:
            assert "seed" not in title(page.relative_to(DOCS.parent).as_posix())


def test_landing_page_has_the_installation_and_a_picture() -> None:
    page = read("docs/index.md")
    assert re.search(r"^pip install ", page, re.MULTILINE)
    picture = re.search(r"^!\[.+\]\((images/[\w-]+\.png)\)$", page, re.MULTILINE)
    assert picture
    assert (DOCS / picture[1]).exists()


@pytest.mark.parametrize(
    ("page", "options"),
    [
        ("options", Options._fields),
        ("connect", [field.name for field in fields(ClientOptions)]),
    ],
)
def test_every_option_has_an_anchor(page: str, options: Sequence[str]) -> None:
    found = re.findall(
        r'^\| `(\w+)` \|.*\| <a id="(\w+)"></a>',
        read(f"docs/reference/{page}.md"),
        re.M,
    )
    assert all(name == anchor for name, anchor in found)
    assert {name for name, _ in found} == set(options)

"""Pages of the documentation as a site: their program, with their HTML at /."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simple_ws import Response

__all__ = ["HOWTO", "served"]

HOWTO = Path(__file__).resolve().parents[1] / "docs" / "howto"


def _block(page: Path, language: str) -> str:
    """The first block of a page in a language."""
    found = re.search(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def served(page: Path, title: str, port: str = "0") -> Iterator[Any]:
    """The running server of a page.

    Args:
        page: has a program that makes `server`, on port 8080, and a block of HTML.
        title: of the HTML.
        port: in the place of 8080; other options may follow.
    """
    names: dict[str, Any] = {"__name__": title.lower()}
    exec(compile(_block(page, "python").replace("8080", port), page, "exec"), names)
    server = names["server"]
    html = f"<!doctype html><title>{title}</title><body>{_block(page, 'html')}"
    kind = [("Content-Type", "text/html; charset=utf-8")]
    server.http("/")(lambda request: Response(200, html.encode(), kind))
    server.start()
    try:
        yield server
    finally:
        server.stop(0)

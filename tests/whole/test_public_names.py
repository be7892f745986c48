"""docs/reference/names.md is what the package has, in the form of the script."""

from __future__ import annotations

import difflib
import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import simple_ws
from simple_ws import errors

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "scripts" / "public_names.py").exists(), reason="no checkout"
)


def generator(name: str = "public_names") -> ModuleType:
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def comparable(page: str) -> list[str]:
    """The lines of a page; the extension has no types of attributes."""
    if simple_ws.BACKEND == "extension":
        page = re.sub(r"^(    \w+): .*$", r"\1", page, flags=re.MULTILINE)
    return page.splitlines()


def test_public_names_are_those_of_the_page() -> None:
    names = generator()
    page = comparable(names.PAGE.read_text(encoding="utf-8"))
    found = comparable(names.page())
    diff = difflib.unified_diff(page, found, "the page", "the package", "", "", 2, "")
    changes = "\n".join(diff)
    assert not changes, (
        "Public names or signatures have changed. What is in the page stays "
        f"(docs/versions.md); for what is new, run `{names.COMMAND}`:\n{changes}"
    )


def test_every_module_that_users_import_is_on_the_page() -> None:
    used = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        if "adr" not in page.parts and "_build" not in page.parts:
            text = page.read_text(encoding="utf-8")
            used |= set(re.findall(r"^\s*from (simple_ws[\w.]*) import", text, re.M))
    assert len(used) > 5
    assert used <= set(generator().MODULES)


def test_every_error_is_imported_from_the_top() -> None:
    for name in errors.__all__:
        assert getattr(simple_ws, name) is getattr(errors, name)
        assert name in simple_ws.__all__


def test_public_names_are_imported_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in map(importlib.import_module, generator().MODULES):
            for name in module.__all__:
                assert not name.startswith("_")
                getattr(module, name)


@pytest.mark.skipif(simple_ws.BACKEND == "extension", reason="written by the fallback")
def test_the_reference_is_what_the_docstrings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    pages = generator("reference_pages").pages()
    assert len(pages) > 10
    for path, text in pages.items():
        old = path.read_text(encoding="utf-8").splitlines()
        diff = difflib.unified_diff(old, text.splitlines(), lineterm="", n=1)
        changes = "\n".join(diff)
        assert not changes, f"{path.name}: run `make reference`\n{changes}"


def test_the_reference_can_be_read_without_building_it() -> None:
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        assert "```{eval-rst}" not in path.read_text(encoding="utf-8")
    server = (ROOT / "docs/reference/server.md").read_text(encoding="utf-8")
    assert "#### `Server.publish`" in server
    assert "- `topic`: " in server


DOCSTRING = """Send it.

    Args:
        msg, kind: what is sent,
            and how.

    Returns:
        Whether it was.

    Not more than once.
    """


def test_docstrings_become_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    text = "\n".join(generator("reference_pages").markdown_of(DOCSTRING))
    assert [part.strip() for part in text.split("\n\n")] == [
        "Send it.",
        "**Arguments**",
        "- `msg`, `kind`: what is sent,\n  and how.",
        "**Returns**",
        "Whether it was.",
        "Not more than once.",
    ]


class Sample:
    def f(self, a: int, /, b: str = "x", *rest: int, c: float, **more: object) -> None:
        """Every kind of parameter."""

    async def g(self) -> str:
        """A coroutine."""
        return ""


def test_signatures_are_written_as_in_the_source() -> None:
    call_of = generator().call_of
    assert list(call_of("f", Sample.f, "")) == [
        "f(a: int, /, b: str = 'x', *rest: int, c: float, **more: object) -> None"
    ]
    assert list(call_of("g", Sample.g, "    ")) == ["    async g() -> str"]

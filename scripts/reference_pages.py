"""Write what docs/reference shows of docstrings, as Markdown that a forge can show.

Each part stands below a comment with the directives that Sphinx reads in its place
(docs/conf.py), so that the site has its index and links, and both say the same.
usage: scripts/reference_pages.py
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["SIMPLE_WS_EXTENSION"] = "0"  # every docstring is Python's
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import public_names as names

FOLDER = names.ROOT / "docs" / "reference"
#: The directives, and what is written below them.
PART = re.compile(r"(<!-- autodoc\n(.*?)\n-->\n).*?(<!-- end -->\n)", re.DOTALL)
DIRECTIVE = re.compile(r"^\.\. (\w+):: ([\w.]+)\n((?:   .*\n?|\n)*)", re.MULTILINE)
OPTION = re.compile(r"^   :([\w-]+):(.*)$", re.MULTILINE)

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_TITLES = {"Args": "Arguments"}
_ENTRY = re.compile(r"([\w*.]+(?:, [\w*.]+)*): (.*)")


# ---- Docstrings ----------------------------------------------------------------------


def markdown_of(docstring: str | None) -> Iterator[str]:
    """A docstring in Google's form as Markdown: its sections become lists."""
    in_section = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        heading = _SECTION.fullmatch(line)
        if heading:
            in_section = True
            yield from (f"**{_TITLES.get(heading[1], heading[1])}**", "")
        elif not in_section:
            yield line
        elif line and not line.startswith(" "):
            in_section = False
            yield from ("", line)
        else:
            yield from item_of(line)


def item_of(line: str) -> Iterator[str]:
    """A line of a section: the beginning of an item, or more of it."""
    text = line.removeprefix("    ")
    entry = _ENTRY.fullmatch(text)
    if entry:
        listed = ", ".join(f"`{name}`" for name in entry[1].split(", "))
        yield f"- {listed}: {entry[2]}"
    else:
        yield re.sub(r"^ {4}", "  ", text)


# ---- Objects -------------------------------------------------------------------------


def signature_of(name: str, value: Any) -> Iterator[str]:
    """How a function or class is called, as code."""
    lines = list(names.call_of(name, value, ""))
    if inspect.isclass(value):
        lines[-1] = lines[-1].removesuffix(" -> None")
    yield from ("```python", *lines, "```", "")


def members_of(cls: type, options: dict[str, str]) -> Iterator[str]:
    """The members of a class that a directive asks for, each below a heading."""
    if "members" not in options:
        return
    wanted = [name.strip() for name in options["members"].split(",") if name.strip()]
    hidden = options.get("exclude-members", "").replace(",", " ").split()
    classes = names.names_of_classes()
    classes.setdefault(cls, cls.__name__)
    for name, value in names.own_members(cls, classes).items():
        value = inspect.getattr_static(cls, name, value)
        described = inspect.getdoc(getattr(cls, name, None))
        is_wrapped = isinstance(value, (classmethod, staticmethod))
        function = value.__func__ if is_wrapped else value
        is_code = inspect.isfunction(function) or isinstance(value, property)
        if name.startswith("_") or name in hidden or not (is_code and described):
            continue
        if not wanted or name in wanted:
            yield f"#### `{cls.__name__}.{name}`"
            yield ""
            if inspect.isfunction(function):
                yield from signature_of(name, function)
            yield from (*markdown_of(described), "")


def class_of(cls: type, options: dict[str, str]) -> Iterator[str]:
    """A class and its members."""
    yield from (f"### `{cls.__name__}`", "")
    bases = names.public_bases(cls, names.names_of_classes())
    if bases:
        yield from ("A " + ", ".join(f"`{base.__name__}`" for base in bases) + ".", "")
    if names.is_made_by_users(cls, cls.__name__):
        yield from signature_of(cls.__name__, cls)
    yield from (*markdown_of(cls.__doc__), "")
    if "undoc-members" in options:
        for name, value in getattr(cls, "__members__", {}).items():
            yield f"- `{name}` = {value.value!r}"
        yield ""
    yield from members_of(cls, options)


def module_of(module: Any, options: dict[str, str]) -> Iterator[str]:
    """What a module says, and its classes."""
    yield from (*markdown_of(module.__doc__), "")
    if "members" in options:
        for name in module.__all__:
            yield from class_of(getattr(module, name), options)


def found(path: str) -> Any:
    """The object of a dotted name."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def directive_of(kind: str, path: str, text: str) -> Iterator[str]:
    """What stands below one directive."""
    options = {name: value.strip() for name, value in OPTION.findall(text)}
    if kind == "automodule":
        yield from module_of(import_module(path), options)
    elif kind == "autoclass":
        yield from class_of(found(path), options)
    elif kind == "autofunction":
        name = path.rpartition(".")[2]
        yield from (f"### `{name}`", "", *signature_of(name, found(path)))
        yield from (*markdown_of(inspect.getdoc(found(path))), "")
    else:  # a description that stands in the directive itself
        description = inspect.cleandoc("\n" + OPTION.sub("", text))
        yield from (f"### `{path.rpartition('.')[2]}`", "", description, "")


def renewed(page: str) -> str:
    """A page with its parts written again."""

    def write(part: re.Match[str]) -> str:
        lines: list[str] = []
        for directive in DIRECTIVE.finditer(part[2] + "\n"):
            lines += directive_of(*directive.groups())
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        return f"{part[1]}\n{text}\n\n{part[3]}"

    return PART.sub(write, page)


def pages() -> dict[Path, str]:
    """The pages that have such parts, as they ought to be."""
    texts = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return {path: renewed(text) for path, text in texts.items() if PART.search(text)}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

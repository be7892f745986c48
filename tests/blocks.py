"""The programs of the documentation: which pages have some, and their blocks.

`whole/test_docs.py` runs them, `typing/check.py` checks their types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

PAGES = [
    "README.md",
    "docs/index.md",
    "docs/start.md",
    "docs/live.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("howto/*.md")),
    *sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("migrating/*.md")),
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+) -->\n)?"
    r"```(?P<language>[\w{}-]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if it is one."""
        comment = self.code.partition("\n")[0]
        match = re.fullmatch(r"(?:# |<!-- |// )([\w/.-]+\.\w+)(?: -->)?", comment)
        return match[1] if match else None


def blocks(page: str, *languages: str) -> list[Block]:
    text = read(page)
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            match["language"],
            match["code"],
            match["why"],
        )
        for match in _BLOCK.finditer(text)
        if match["language"] in languages
    ]

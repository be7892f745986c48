"""What others wrote, made fit to be logged, shown in an error, or printed.

A terminal obeys control characters, those of C1 (U+009B begins an escape sequence) as
well as the old ones, and turns text around at others. Every text of a peer that an
operator may see goes through here; `repr` escapes the same characters.
"""

from __future__ import annotations

import re

__all__ = ["excerpt", "for_terminal", "one_line"]

#: Characters of a text that an error quotes.
_LONGEST_EXCERPT = 300
#: Control characters but tab and line feed, and those that turn the direction of text
#: or end a line.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def one_line(text: str) -> str:
    """A text without anything that is not printable: that is spelled out."""
    return text if text.isprintable() else ascii(text)[1:-1]


def excerpt(text: str) -> str:
    """One line of a text, of bounded length."""
    if len(text) > _LONGEST_EXCERPT:
        text = text[:_LONGEST_EXCERPT] + "..."
    return one_line(text)


def for_terminal(text: str) -> str:
    """A text of several lines, with its tabs: what else a terminal would obey is
    spelled out."""
    return _CONTROL.sub(_spelled_out, text)


def _spelled_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]

"""Text from peers, made safe for logs, errors and terminals, and kept once.

A terminal obeys control characters, including those of C1 (U+009B begins an escape
sequence), and others reverse the direction of text. Every text of a peer that an
operator may see is passed through here; `repr` escapes the same characters.
"""

from __future__ import annotations

import re
import sys

__all__ = ["excerpt", "for_terminal", "one_line", "shared_text"]

#: Without the GIL, interned text stays for ever.
_INTERNS = "t" not in getattr(sys, "abiflags", "")

#: Characters of a text that an error quotes.
_LONGEST_EXCERPT = 300
#: Control characters except tab and line feed, and characters that change the direction
#: of text or end a line.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def shared_text(text: str) -> str:
    """The same text, as one object wherever it comes up: behind a proxy thousands of
    connections have the same host."""
    return sys.intern(text) if _INTERNS else text


def one_line(text: str) -> str:
    """A text with all characters escaped that are not printable."""
    return text if text.isprintable() else ascii(text)[1:-1]


def excerpt(text: str) -> str:
    """A text on one line, of limited length."""
    if len(text) > _LONGEST_EXCERPT:
        text = text[:_LONGEST_EXCERPT] + "..."
    return one_line(text)


def for_terminal(text: str) -> str:
    """A text of several lines and tabs, with everything else escaped that a terminal
    would obey."""
    return _CONTROL.sub(_spelled_out, text)


def _spelled_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]

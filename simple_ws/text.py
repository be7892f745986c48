"""Text from peers, made safe for logs, errors and terminals, and kept once.

A terminal obeys control characters, including those of C1 (U+009B begins an escape
sequence), and others reverse the direction of text. Every text of a peer that an
operator may see is passed through here; `repr` escapes the same characters.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "HOST_AND_PORT",
    "MASK",
    "excerpt",
    "for_terminal",
    "one_line",
    "parse_uuid",
    "redacted",
    "shared_text",
]

#: Without the GIL, interned text stays for ever.
_INTERNS = "t" not in getattr(sys, "abiflags", "")

#: Characters of a text that an error quotes.
_LONGEST_EXCERPT = 300
#: Control characters except tab and line feed, and characters that change the direction
#: of text or end a line.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
#: Replaces passwords and tokens.
MASK = "***"
#: The end of an address's authority, without user and password (RFC 3986 §3.2).
HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_AUTHORITY_END = re.compile(r"[/?#]|\Z")


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


def parse_uuid(text: str) -> UUID:
    """The UUID that a text stands for.

    Raises:
        ValueError: It is none.
    """
    from uuid import UUID  # only when needed

    return UUID(text)


def redacted(url: str) -> str:
    """An address, valid or not, in a form fit for logs: no password, no token.

    `***` replaces a password, a user name without one, the values of the query, and a
    fragment.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = "", url
    userinfo, rest = _split_userinfo(rest)
    shown = scheme + colon
    if userinfo is not None:
        user, secret, _ = userinfo.partition(":")
        shown += f"{user}:{MASK}@" if secret else f"{MASK}@"
    rest, hash_, fragment = rest.partition("#")
    rest, mark, query = rest.partition("?")
    shown += rest + mark + "&".join(map(_redact_part, query.split("&")))
    return shown + hash_ + (MASK if fragment else "")


def _split_userinfo(rest: str) -> tuple[str | None, str]:
    """User and password of an address without its scheme, and the remainder."""
    end = _end_of_authority(rest)
    at = rest.rfind("@", 0, end)
    if at < 0 and not HOST_AND_PORT.fullmatch(rest, 0, end):
        at = rest.rfind("@")  # a slash in the password, which should be %2F
    return (None, rest) if at < 0 else (rest[:at], rest[at + 1 :])


def _redact_part(part: str) -> str:
    name, equals, value = part.partition("=")
    if equals:
        return f"{name}={MASK if value else ''}"
    return MASK if part else ""


def _end_of_authority(rest: str) -> int:
    end = _AUTHORITY_END.search(rest)
    assert end is not None
    return end.start()

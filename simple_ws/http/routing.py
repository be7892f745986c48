"""Patterns of paths, and finding the target of a path.

A pattern is a path (`/chat`), a path with parameters (`/chat/{room}`,
`/user/{id:int}`), a prefix with everything below it (`/files/*`), or `*` for all other
paths. They are tried in this order, patterns with parameters in the order in which they
were added, the longest prefix first.

A segment can have one parameter, with literal text around it, so that matching takes no
longer than reading the path. The type of a parameter defines what it matches and its
Python value:

    str     anything but a slash (the default)
    int     decimal digits, at most 18, with an optional minus -> int
    float   the same, with an optional point and more digits -> float
    uuid    a UUID in its usual form -> uuid.UUID
    path    the rest of the path, including slashes; at the end of a pattern only
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import unquote

from ..text import parse_uuid

__all__ = ["Router", "check_pattern", "routing_path"]

T = TypeVar("T")
P = TypeVar("P")

#: See `Router.simplified`.
SimplifiedRoutes = tuple[
    dict[bytes, P],
    list[tuple[bytes, bytes, str | None, P | None]],
    list[tuple[bytes, P]],
    P | None,
]

_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")

#: A pattern with one parameter, of the type str.
_ONE_PARAMETER = re.compile(r"([^{]*)\{([^{}:]*)(?::str)?\}([^{]*)")

#: Parameters in other frameworks: `<room>`, `<int:id>` (Flask, Django), `:room`
#: (Express and many others), `(?P<room>…)` of regular expressions.
_FOREIGN = re.compile(
    r"(?:\(\?P)?<(?:(?P<type>\w+):)?(?P<angle>\w+)>|/:(?P<colon>[^\W\d]\w*)(?=[/(?*+]|\Z)"
)
#: Names of our types in those frameworks.
_FOREIGN_TYPES = {"string": "str", "slug": "str", "re": "str"}

#: Represents a percent-encoded slash, which does not end a segment. Text decoded from
#: bytes never contains half of a surrogate pair.
_HIDDEN_SLASH = "\udc2f"


#: The pattern of each type. 18 digits hold every 64-bit number except the largest, and
#: `int` takes quadratic time for very long ones.
_TYPES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "str": (r"[^/]+", str),
    "int": (r"-?[0-9]{1,18}", int),
    "float": (r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "uuid": (r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", parse_uuid),
    "path": (r".+", str),
}


class _Pattern(NamedTuple, Generic[T]):
    text: str
    expression: re.Pattern[str]
    types: dict[str, Callable[[str], Any]]
    target: T


def routing_path(encoded: str) -> str:
    """Decode a percent-encoded path segment by segment, for `Router.find`.

    RFC 3986 §2.4: "the components and subcomponents significant to the
    scheme-specific dereferencing process (if any) must be parsed and separated before
    the percent-encoded octets within those components can be safely decoded".
    """
    if "%" not in encoded:
        return encoded
    if "%2f" not in encoded and "%2F" not in encoded:
        return unquote(encoded)
    segments = map(unquote, encoded.split("/"))
    return "/".join(segment.replace("/", _HIDDEN_SLASH) for segment in segments)


class Router(Generic[T]):
    """A table of path patterns and their targets."""

    def __init__(self) -> None:
        self._exact: dict[str, T] = {}
        self._patterns: list[_Pattern[T]] = []
        self._prefixes: dict[str, T] = {}  # without the star, the longest first
        self._rest: T | None = None

    def __len__(self) -> int:
        return len(self.targets())

    def get(self, pattern: str) -> T | None:
        """The target added under exactly this pattern, or None."""
        if pattern == "*":
            return self._rest
        if pattern in self._exact:
            return self._exact[pattern]
        if pattern.endswith("/*"):
            return self._prefixes.get(pattern[:-1])
        return next((p.target for p in self._patterns if p.text == pattern), None)

    def add(self, pattern: str, target: T) -> None:
        """Add a pattern and its target; see the module docstring.

        Raises:
            TypeError: The pattern is not a string.
            ValueError: The pattern is malformed, or taken already.
        """
        check_pattern(pattern)
        if self.get(pattern) is not None:
            raise ValueError(f"path {pattern!r} is mounted already")
        if pattern == "*":
            self._rest = target
        elif "{" in pattern or "}" in pattern:
            self._add_pattern(pattern, target)
        elif pattern.endswith("/*"):
            prefixes = {**self._prefixes, pattern[:-1]: target}
            longest_first = sorted(prefixes.items(), key=lambda item: -len(item[0]))
            # A new one: another thread may be iterating over the old one.
            self._prefixes = dict(longest_first)
        else:
            self._exact[pattern] = target

    def _add_pattern(self, pattern: str, target: T) -> None:
        new = _compile(pattern, target)
        for known in self._patterns:
            if known.expression == new.expression:
                raise ValueError(f"path {pattern!r} takes what {known.text!r} takes")
        self._patterns.append(new)

    def find(self, path: str) -> tuple[T, dict[str, Any]] | None:
        """The target of a path, with the values of its parameters; None if not found.

        Args:
            path: as from `routing_path`.
        """
        found = self.find_named(path)
        if found is None and self._rest is not None:
            return self._rest, {}
        return found

    def find_named(self, path: str) -> tuple[T, dict[str, Any]] | None:
        """Like `find`, but without `*`."""
        target = self._exact.get(path)
        if target is not None:
            return target, {}
        if self._patterns or self._prefixes:
            for pattern in self._patterns:
                match = pattern.expression.fullmatch(path)
                if match is not None:
                    return pattern.target, _values(pattern, match)
            for prefix, target in self._prefixes.items():
                if path.startswith(prefix) or path == prefix[:-1]:
                    return target, {}
        return None

    def simplified(self, make: Callable[[T], P]) -> SimplifiedRoutes[P]:
        """The table for paths without `%`, with what `make` returns for each target.

        Returns:
            Exact paths; (prefix, suffix, name, target) of patterns with one parameter
            of the type str between the two, and (prefix, "", None, None) of others;
            prefixes, the longest first; and the target of all other paths, or None.
        """
        return (
            {path.encode(): make(target) for path, target in self._exact.items()},
            [_simplified(pattern, make) for pattern in self._patterns],
            [(path.encode(), make(target)) for path, target in self._prefixes.items()],
            None if self._rest is None else make(self._rest),
        )

    def targets(self) -> list[T]:
        """All targets, each once."""
        return list(dict.fromkeys(self._all()))

    def _all(self) -> Iterator[T]:
        yield from list(self._exact.values())
        yield from (pattern.target for pattern in self._patterns)
        yield from self._prefixes.values()
        if self._rest is not None:
            yield self._rest


def _simplified(
    pattern: _Pattern[T], make: Callable[[T], P]
) -> tuple[bytes, bytes, str | None, P | None]:
    simple = _ONE_PARAMETER.fullmatch(pattern.text)
    if simple is None:
        return pattern.text.partition("{")[0].encode(), b"", None, None
    prefix, name, suffix = simple.groups()
    return prefix.encode(), suffix.encode(), name, make(pattern.target)


def _values(pattern: _Pattern[T], match: re.Match[str]) -> dict[str, Any]:
    """The values of the parameters; in them an encoded slash is a plain slash."""
    found = (text.replace(_HIDDEN_SLASH, "/") for text in match.groups())
    pairs = zip(pattern.types.items(), found, strict=True)
    return {name: kind(text) for (name, kind), text in pairs}


def check_pattern(pattern: object) -> None:
    """Refuse an invalid pattern.

    Raises:
        TypeError: It is not a string.
        ValueError: It is malformed.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"path must be a str, not {pattern!r}")
    if pattern == "*":
        return
    if not pattern.startswith("/"):
        raise ValueError(f"path must begin with '/' or be '*', not {pattern!r}")
    _check_not_foreign(pattern)
    if "?" in pattern or "#" in pattern:
        raise ValueError(f"path {pattern!r}: a query or fragment is no part of a path")
    has_parameters = "{" in pattern or "}" in pattern
    if "*" in pattern.removesuffix("/*") or ("*" in pattern and has_parameters):
        raise ValueError(
            f"path {pattern!r}: '*' must be alone, or after the last '/' of a path "
            "without parameters; use {name} or {name:path}"
        )
    if has_parameters:
        _compile(pattern, None)


def _check_not_foreign(pattern: str) -> None:
    """Refuse parameters in the syntax of other frameworks: they would never match."""
    found = _FOREIGN.search(pattern)
    if found is not None:
        kind = found["type"] or "str"
        kind = _FOREIGN_TYPES.get(kind, kind)
        name = found["angle"] or found["colon"]
        ours = f"{{{name}}}" if kind == "str" else f"{{{name}:{kind}}}"
        theirs = found[0].removeprefix("/")
        raise ValueError(
            f"path {pattern!r}: write {ours} instead of {theirs}; parameters are "
            "written in braces"
        )


def _compile(pattern: str, target: T) -> _Pattern[T]:
    types: dict[str, Callable[[str], Any]] = {}
    expression = ""
    segments = pattern.split("/")
    for number, segment in enumerate(segments):
        parts = _PARAMETER.split(segment)  # literal, name, type, literal, …
        if any("{" in text or "}" in text for text in parts[::3]):
            raise ValueError(f"path {pattern!r}: a brace is not closed")
        if len(parts) > 4:
            raise ValueError(
                f"path {pattern!r}: {segment!r} has several parameters; put a '/' "
                "between them"
            )
        expression += "/" if number else ""
        expression += re.escape(parts[0])
        if len(parts) == 4:
            last = number == len(segments) - 1 and not parts[3]
            kind = "str" if parts[2] is None else parts[2]
            expression += _take(pattern, parts[1], kind, last, types)
            expression += re.escape(parts[3])
    return _Pattern(pattern, re.compile(expression, re.DOTALL), types, target)


def _take(
    pattern: str,
    name: str,
    kind: str,
    last: bool,
    types: dict[str, Callable[[str], Any]],
) -> str:
    """Add a parameter; return the regular expression of its type."""
    if not name.isidentifier() or name in types:
        raise ValueError(
            f"path {pattern!r}: {{{name}}} must be a Python name, each once"
        )
    if kind not in _TYPES:
        raise ValueError(
            f"path {pattern!r}: the type of {{{name}}} must be one of "
            f"{', '.join(_TYPES)}, not {kind!r}"
        )
    if kind == "path" and not last:
        raise ValueError(f"path {pattern!r}: {{{name}:path}} must be at the end")
    taken, types[name] = _TYPES[kind]
    return f"({taken})"

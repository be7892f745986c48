"""Which handler a path belongs to.

Exact paths come before those with parameters (`/chat/{room}`), and those before `*`,
which takes whatever is left.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

__all__ = ["Router"]

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([^{}]*)\}")


class Router(Generic[T]):
    """Paths and what stands behind them."""

    def __init__(self) -> None:
        self._exact: dict[str, T] = {}
        self._patterns: list[tuple[str, re.Pattern[str], T]] = []
        self._rest: T | None = None

    def add(self, pattern: str, target: T) -> None:
        """Put `target` behind a path, a pattern with `{names}`, or `*`.

        Raises:
            TypeError: The pattern is not a string.
            ValueError: The pattern is malformed, or taken already.
        """
        if not isinstance(pattern, str):
            raise TypeError(f"path must be a str, not {pattern!r}")
        if pattern == "*":
            if self._rest is not None:
                raise ValueError("path '*' is mounted already")
            self._rest = target
            return
        if not pattern.startswith("/"):
            raise ValueError(f"path must begin with '/' or be '*', not {pattern!r}")
        if pattern in self._exact or any(
            pattern == taken[0] for taken in self._patterns
        ):
            raise ValueError(f"path {pattern!r} is mounted already")
        if "{" in pattern or "}" in pattern:
            self._patterns.append((pattern, _compile(pattern), target))
        else:
            self._exact[pattern] = target

    def find(self, path: str) -> tuple[T, dict[str, str]] | None:
        """What stands behind a path, with the parameters' values; None for nothing."""
        if path in self._exact:
            return self._exact[path], {}
        for _, expression, target in self._patterns:
            match = expression.fullmatch(path)
            if match is not None:
                return target, match.groupdict()
        return None if self._rest is None else (self._rest, {})

    def targets(self) -> list[T]:
        """Everything that is mounted."""
        targets = [*self._exact.values(), *(entry[2] for entry in self._patterns)]
        return targets if self._rest is None else [*targets, self._rest]


def _compile(pattern: str) -> re.Pattern[str]:
    parts = _PARAMETER.split(pattern)
    names, literals = parts[1::2], parts[::2]
    for name in names:
        if not name.isidentifier() or names.count(name) > 1:
            raise ValueError(
                f"path {pattern!r}: {{{name}}} must be a Python name, each once"
            )
    if any("{" in text or "}" in text for text in literals):
        raise ValueError(f"path {pattern!r}: a brace is not closed")
    expression = re.escape(literals[0])
    for name, text in zip(names, literals[1:], strict=True):
        expression += f"(?P<{name}>[^/]+){re.escape(text)}"
    return re.compile(expression)

"""`Fields` and `Headers`: names with one or more values, as requests have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from ..errors import MissingField

__all__ = ["Fields", "Headers"]


class Fields(Mapping[str, str]):
    """Names with one or more values, in the order of arrival.

    Indexing gives the first value; `get_all` gives all of them.

    Args:
        pairs: names and values.
        kind: what they are in a request. Then indexing with a missing name raises
            `MissingField`, which answers the client with 400; otherwise it raises a
            plain KeyError.
    """

    __slots__ = ("_kind", "_values")

    def __init__(
        self, pairs: Iterable[tuple[str, str]] = (), kind: str | None = None
    ) -> None:
        self._kind = kind
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(self._fold(name), []).append(value)

    @staticmethod
    def _fold(name: str) -> str:
        return name

    def __getitem__(self, name: str) -> str:
        values = self._values.get(self._fold(name))
        if values is None:
            if self._kind is not None:
                raise MissingField(self._kind, name)
            raise KeyError(name)
        return values[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._fold(name) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get_all(self, name: str) -> list[str]:
        """All values of a name; an empty list if there is none."""
        return self._values.get(self._fold(name), [])

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of each name with each of its values, grouped by name."""
        return [(name, value) for name, some in self._values.items() for value in some]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pairs()!r})"


class Headers(Fields):
    """Header fields; names are case-insensitive (RFC 9110 §5.1)."""

    __slots__ = ()

    @staticmethod
    def _fold(name: str) -> str:
        return name.lower()

    @classmethod
    def _of(cls, fields: list[tuple[bytes, bytes]]) -> Self:
        """Those of a request, from names in lower case."""
        self = cls.__new__(cls)
        self._kind = "header field"
        values: dict[str, list[str]] = {}
        for name, value in fields:
            text = value.decode("latin-1")
            key = name.decode("ascii")
            if key in values:
                values[key].append(text)
            else:
                values[key] = [text]
        self._values = values
        return self

    def tokens(self, name: str) -> list[str]:
        """The elements of a comma-separated field, over all its lines, lower-case."""
        values = self._values.get(name.lower())
        if values is None:
            return []
        joined = ",".join(values)
        tokens = (part.strip(" \t").lower() for part in joined.split(","))
        return [token for token in tokens if token]

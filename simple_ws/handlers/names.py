"""Names that the library shares with its users' classes.

On a class that users subclass, the library's names without underscore are documented,
and all others belong to the user. `Names` refuses attributes that would break the
library, and misspelt callbacks, which it would never call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

__all__ = ["Names"]

#: Names of our callbacks in other libraries, without underscores and in lower case.
_ELSEWHERE = {
    "onbinary": "on_message",
    "onbinarymessage": "on_message",
    "onclient": "on_open",
    "onclientconnect": "on_open",
    "onclientconnected": "on_open",
    "onclientdisconnect": "on_close",
    "onclientdisconnected": "on_close",
    "onclientleft": "on_close",
    "onconnected": "on_open",
    "onconnection": "on_open",
    "onconnectionclose": "on_close",
    "onconnectionclosed": "on_close",
    "onconnectionlost": "on_close",
    "onconnectionmade": "on_open",
    "ondata": "on_message",
    "ondisconnect": "on_close",
    "ondisconnected": "on_close",
    "ondisconnection": "on_close",
    "onexception": "on_error",
    "onframe": "on_message",
    "onhandshake": "on_request",
    "onjson": "on_message",
    "onmessagereceived": "on_message",
    "onnewclient": "on_open",
    "onreceive": "on_message",
    "onreceived": "on_message",
    "onrecv": "on_message",
    "ontext": "on_message",
    "ontextmessage": "on_message",
    "onupgrade": "on_request",
    "onwsconnect": "on_open",
    "onwsdisconnect": "on_close",
    "onwsmessage": "on_message",
}

#: Similarity (`difflib`) from which one name counts as the other misspelt. Not lower:
#: with one different letter, `on_ring` is as close to `on_ping`.
_ALIKE = 0.86


class Names:
    """The meaning of the names on one of our base classes.

    Args:
        kind: the term for its subclasses in errors.
        callbacks: called by the library.
        reserved: public names that only the library sets, each with its meaning.
        private: names with an underscore that the library uses.
        foreign: callbacks of other classes, each with its class.
    """

    def __init__(
        self,
        kind: str,
        callbacks: Collection[str],
        reserved: Mapping[str, str],
        private: Iterable[str],
        foreign: Mapping[str, str] | None = None,
    ) -> None:
        self._kind = kind
        self._callbacks = callbacks
        self._reserved = reserved
        self._private = frozenset(private)
        self._foreign = foreign or {}

    def check_class(self, checked: type) -> None:
        """Check the attributes of a user's class and of its bases.

        Raises:
            TypeError: One of them is reserved, or a misspelt callback.
        """
        for base in checked.__mro__:
            if base is object or base.__module__.partition(".")[0] == "simple_ws":
                continue
            for name, value in vars(base).items():
                self.check(base.__name__, name, value)

    def check(self, owner: str, name: str, value: object) -> None:
        """Check an attribute that a user sets.

        Args:
            owner: name of the class, for the error.
            name: of the attribute.
            value: of the attribute.

        Raises:
            TypeError: It is reserved, or a misspelt callback.
        """
        if name in self._reserved:
            raise TypeError(
                f"{owner}.{name} is reserved: simple_ws keeps {self._reserved[name]} "
                "there; use another name"
            )
        if name in self._private:
            raise TypeError(
                f"{owner}.{name} is reserved: simple_ws uses it itself; use another "
                "name"
            )
        if name not in self._callbacks and callable(value):
            self._check_callback(owner, name)

    def _check_callback(self, owner: str, name: str) -> None:
        if name in self._foreign:
            raise TypeError(
                f"{owner}.{name} would never be called: it is a callback of "
                f"{self._foreign[name]}, not of a {self._kind}"
            )
        meant = self._meant(name)
        if meant is not None:
            raise TypeError(
                f"{owner}.{name} is not a callback of a {self._kind}; did you mean "
                f"{meant}? A method of your own needs another name"
            )

    def _meant(self, name: str) -> str | None:
        """The callback that was probably intended, or None."""
        plain = name.replace("_", "").lower()
        if not plain.startswith("on"):
            return None
        for callback in self._callbacks:
            if plain == callback.replace("_", ""):
                return callback
        if plain in _ELSEWHERE:
            return _ELSEWHERE[plain]
        if not name.startswith("on_"):
            return None
        for callback in self._callbacks:
            if sorted(name) == sorted(callback):  # letters in another order
                return callback
        import difflib  # only when needed

        near = difflib.get_close_matches(name, self._callbacks, n=1, cutoff=_ALIKE)
        return near[0] if near else None

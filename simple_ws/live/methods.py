"""The functions that clients can call, and the hooks of `live`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..checks import several
from ..loop.deferred import check_callback
from ..text import excerpt
from .codes import MAX_CHANNEL

__all__ = [
    "HOOKS",
    "LATEST",
    "ConnectRequest",
    "Connected",
    "Hooks",
    "Methods",
    "Subscribed",
    "checked_time",
]

#: Seconds since 1970 in the year 9999; larger numbers are mistakes, such as
#: milliseconds.
LATEST = 253_402_300_799

Function = Callable[..., Any]

#: The arguments of each.
HOOKS: dict[str, tuple[str, ...]] = {
    "authorize": ("client", "action", "topic"),
    "on_connect": ("client", "request"),
    "on_subscribe": ("client", "topic", "data"),
    "on_publish": ("client", "topic", "data"),
    "on_rpc": ("client", "method", "data"),
    "on_send": ("client", "data"),
    "on_refresh": ("client",),
    "on_sub_refresh": ("client", "topic"),
    "on_disconnect": ("client",),
}


class ConnectRequest(NamedTuple):
    """What a client said when it connected; all of it is a stranger's, but for `user`
    and `claims`.

    Attributes:
        token: "" without one.
        data: any JSON; None without it.
        name, version: of the client's program.
        headers: that a browser could not send with its handshake.
        user: of the token, which was verified; "" is nobody in particular.
        claims: of this token, by name; None without `tokens`, or without a token.
        topics: that it would like to be subscribed to by the server: one that cannot
            subscribe, or was subscribed before.
    """

    token: str
    data: Any
    name: str
    version: str
    headers: dict[str, Any]
    user: str = ""
    claims: Mapping[str, Any] | None = None
    topics: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Connected:
    """What `on_connect` may return.

    Attributes:
        user: the client is bound to this identity (`Client.bind`); None: to that of
            its token.
        data: any JSON, for the client.
        topics: that the client is subscribed to by the server, with those of its token.
        expires_at: seconds since 1970, when the connection ends unless it is refreshed;
            None: when its token expires, or never without one.
        info: what others see of the client, at most 4 KiB of JSON; None: that of its
            token.

    Raises:
        TypeError, ValueError: user cannot be hashed, topics are no names, or expires_at
            is no time.
    """

    user: Any = None
    data: Any = None
    topics: Sequence[str] = ()
    expires_at: float | None = None
    info: Any = None

    def __post_init__(self) -> None:
        try:
            hash(self.user)
        except TypeError:
            raise TypeError(f"user must be hashable, not {self.user!r}") from None
        checked_time(self.expires_at)
        topics = several("topics", self.topics, "names of topics")
        object.__setattr__(self, "topics", topics)  # they may come from a generator
        for topic in topics:
            if not isinstance(topic, str):
                raise TypeError(f"topics must hold strings, not {topic!r}")
            if not 0 < len(topic) <= MAX_CHANNEL:
                raise ValueError(
                    f"topics must hold names of 1 to {MAX_CHANNEL} characters, "
                    f"not {excerpt(repr(topic))}"
                )


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What `on_subscribe` may return.

    Attributes:
        data: any JSON, for the client.
        info: what others in the topic see of the client, at most 4 KiB of JSON; None:
            that of its token.
        expires_at: as of `Connected`, for the subscription.

    Raises:
        TypeError, ValueError: expires_at is no time.
    """

    data: Any = None
    info: Any = None
    expires_at: float | None = None

    def __post_init__(self) -> None:
        checked_time(self.expires_at)


class Hooks:
    """The functions that the user gave, checked.

    Args:
        given: by name; None where there is none.

    Raises:
        TypeError: One is no function of these arguments.
    """

    def __init__(self, **given: Function | None) -> None:
        for name, function in given.items():
            if function is not None:
                check_callback(name, function, HOOKS[name])
        self._functions = given

    def __getitem__(self, name: str) -> Function | None:
        return self._functions.get(name)

    def callbacks(self) -> Iterator[tuple[str, Function]]:
        """Those there are, by name."""
        for name, function in self._functions.items():
            if function is not None:
                yield name, function


class Methods:
    """The functions that clients can call, by name."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}

    def add(self, name: str, function: Function) -> None:
        """Add a function of (client, data).

        Raises:
            TypeError: It takes other arguments, or the name is not a str.
            ValueError: The name is empty, or there is one already.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a method must be a str, not {name!r}")
        if not name:
            raise ValueError("the name of a method must not be empty")
        check_callback(f"the method {name!r}", function, ("client", "data"))
        if name in self._functions:
            raise ValueError(f"there is a method {name!r} already")
        self._functions[name] = function

    def find(self, name: str) -> Function | None:
        """The function of this name."""
        return self._functions.get(name)

    def callbacks(self) -> Iterator[tuple[str, Function]]:
        """All, by name."""
        yield from self._functions.items()


def checked_time(value: Any) -> float | None:
    """Seconds since 1970, or None.

    Raises:
        TypeError, ValueError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise TypeError(f"expires_at must be seconds since 1970, not {value!r}")
    if value is not None and not 0 <= value <= LATEST:  # nor NaN
        raise ValueError(
            f"expires_at must be seconds since 1970, at most {LATEST:,}, not {value!r}"
        )
    return None if value is None else float(value)

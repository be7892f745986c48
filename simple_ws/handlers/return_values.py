"""Return values of callbacks that decide about a client: yes, no, or an identity.

One rule for all of them: a value that cannot be meant as an answer, such as a status or
an exception that was returned and not raised, is an error of the program. The client is
refused, and one log line names the function (`WrongReturnValue`).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from enum import Enum
from numbers import Number
from typing import Any

from ..loop.deferred import discard, is_deferred
from ..protocol.response import Response
from ..text import excerpt
from .middleware import Middleware

__all__ = [
    "Accepted",
    "WrongReturnValue",
    "as_bool",
    "identity_of",
    "session_of",
    "subprotocol_of",
    "yes_or_no",
]

#: Types that cannot be meant as an answer: code that was not called, exceptions that
#: were not raised, deferred results that nothing runs.
_NEVER = (
    BaseException,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.GeneratorType,
    types.AsyncGeneratorType,
    types.NotImplementedType,
    types.EllipsisType,
    functools.partial,
)


class Accepted:
    """What `on_request` of our own handlers returns to say more than a session.

    Args:
        session: see `Client.session`.
        subprotocol: one that the client offers, or None; nothing else is asked.
        headers: further header fields of the response.
    """

    def __init__(
        self,
        session: Any,
        subprotocol: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.session = session
        self.subprotocol = subprotocol
        self.headers = headers


class WrongReturnValue(TypeError):
    """A callback returned a value that is no answer: an error of the program."""


def session_of(what: str, answer: Any) -> Any:
    """The decision that a return value of `on_request` stands for.

    Args:
        what: the function, as the log calls it.
        answer: its return value, no longer deferred.

    Returns:
        None to accept the client, a `Response` to refuse it, or its session.

    Raises:
        WrongReturnValue: It is none of these.
    """
    if answer is None:
        return None
    flag = as_bool(answer)
    if flag is not None:
        return None if flag else Response(403, "You may not connect.\n")
    if _says_nothing(answer) or isinstance(answer, Number) or type(answer) is tuple:
        raise _wrong(
            what,
            answer,
            "return None or True to accept, False or a Response to refuse, or an "
            "object for client.session",
        )
    return answer


def yes_or_no(what: str, answer: Any) -> bool:
    """The answer of a function that must return True or False.

    Raises:
        WrongReturnValue: It returned something else, even if that is truthy.
    """
    flag = as_bool(answer)
    if flag is None:
        _says_nothing(answer)
        raise _wrong(what, answer, "return True or False")
    return flag


def identity_of(what: str, answer: Any) -> Any:
    """The identity that a check of credentials returned; a number may be one.

    Raises:
        WrongReturnValue: It is not an identity: None, a bool (True would be the same
            for all clients), a status, a `Response` and the like.
    """
    if answer is None or as_bool(answer) is not None or _says_nothing(answer):
        raise _wrong(what, answer, "return an identity, or raise AuthenticationError")
    if isinstance(answer, Enum | Response):
        raise _wrong(what, answer, "return an identity, or raise AuthenticationError")
    return answer


def subprotocol_of(what: str, answer: Any, offered: Sequence[str]) -> str | None:
    """The subprotocol that was chosen, or None.

    Raises:
        WrongReturnValue: It is not one of those that the client offers.
    """
    if answer is None:
        return None
    if not isinstance(answer, str) or answer not in offered:
        raise _wrong(what, answer, "return None or one of the offered subprotocols")
    return answer


def as_bool(answer: Any) -> bool | None:
    """True or False, including those of numpy; None if it is neither."""
    kind = type(answer)
    if kind is bool or (
        kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")
    ):
        return bool(answer)
    return None


def _says_nothing(answer: Any) -> bool:
    if answer is Middleware.STOP or isinstance(answer, _NEVER):
        return True
    if is_deferred(answer):  # the result of an await that is deferred again
        discard(answer)
        return True
    return False


def _wrong(what: str, answer: object, wanted: str) -> WrongReturnValue:
    shown = excerpt(repr(answer))
    return WrongReturnValue(
        f"{what} returned {shown} ({type(answer).__name__}): {wanted}"
    )

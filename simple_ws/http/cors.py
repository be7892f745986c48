"""`Cors`: which pages of other origins may use a path by HTTP (CORS).

Source: Fetch Standard, "CORS protocol". It makes header fields; sending them is left to
`exchange`. WebSocket handshakes know no CORS: for these there is the option `origins`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..checks import duration, flag, several
from ..connection.option_checks import check_origins
from ..protocol.request import Request
from ..protocol.server_handshake import OriginRule, origin_matches

__all__ = ["Cors", "check_cors"]

#: Header fields, by name.
Fields = list[tuple[str, str]]

#: A name of a header field, or of several (RFC 9110 §5.6.2).
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Characters of the list of names that a page asks for, which is said back to it.
_MAX_NAMES = 1000
#: The fields of a preflight request.
_ASKED = "Access-Control-Request-Method, Access-Control-Request-Headers"
#: Who allows one of these allows any page: frames in a sandbox are "null".
_ANY_PAGE = ("null", "http://any.invalid", "https://any.invalid")


class Cors:
    """Lets pages of other origins read answers, and send requests that browsers ask for
    first.

    It does not refuse anything: what else than a browser asks is answered as before.

    Args:
        origins: `"*"` for all; or one origin or several, such as "https://example.com",
            `"https://*.example.com"` (a star is anything but a slash), "null", or a
            compiled pattern.
        credentials: browsers may send cookies, and HTTP authentication that they know.
        headers: names of header fields that pages may send; None: any.
        expose: names of header fields of answers that pages may read, besides the usual
            ones.
        max_age: seconds for which a browser need not ask again.

    Raises:
        TypeError, ValueError: An argument has a value that is not allowed; or
            `credentials` is given to all origins, or to "null".
    """

    def __init__(
        self,
        origins: Any,
        *,
        credentials: bool = False,
        headers: Iterable[str] | None = None,
        expose: Iterable[str] = (),
        max_age: float = 600.0,
    ) -> None:
        given = (origins,) if isinstance(origins, str | re.Pattern) else origins
        given = several("cors", given, "origins or patterns")
        self._rules = _rules(given)
        self._all = "*" in given
        self._credentials = flag("credentials", credentials)
        if self._credentials and any(map(self._allows, _ANY_PAGE)):
            raise ValueError(
                "credentials must not be given to all origins, or to 'null': any page "
                "could act for the users of this server"
            )
        self._headers = None if headers is None else _names("headers", headers)
        self._expose = _names("expose", expose)
        duration("max_age", max_age)
        self._max_age = int(max_age)

    def _fields(self, request: Request, methods: Iterable[str]) -> Fields:
        """The header fields of the answer to a request.

        Args:
            request: of a path with this policy.
            methods: that pages may use there.
        """
        fields = [] if self._all else [("Vary", "Origin")]
        asked = asked_method(request)
        if asked is not None:
            fields.append(
                (
                    "Vary",
                    "Access-Control-Request-Method, Access-Control-Request-Headers",
                )
            )
        origin = request.origin
        if origin is None or not self._allows(origin):
            return fields
        named = "*" if self._all else origin
        fields.append(("Access-Control-Allow-Origin", named))
        if self._credentials:
            fields.append(("Access-Control-Allow-Credentials", "true"))
        if asked is not None:
            fields += self._preflight(request, methods)
        elif self._expose:
            fields.append(("Access-Control-Expose-Headers", self._expose))
        return fields

    def _allows(self, origin: str) -> bool:
        """Whether pages of this origin may read the answers."""
        return any(origin_matches(origin, rule, ()) for rule in self._rules)

    def _preflight(self, request: Request, methods: Iterable[str]) -> Fields:
        fields = [("Access-Control-Allow-Methods", ", ".join(methods))]
        names = self._headers
        if names is None:
            lines = request.headers.get_all("Access-Control-Request-Headers")
            names = _checked_names(",".join(lines))
        if names:
            fields.append(("Access-Control-Allow-Headers", names))
        fields.append(("Access-Control-Max-Age", str(self._max_age)))
        return fields


def asked_method(request: Request) -> str | None:
    """The method that a browser asks for before it uses it (a preflight request)."""
    if request.method != "OPTIONS" or request.origin is None:
        return None
    return request.headers.get("Access-Control-Request-Method")


def check_cors(cors: Any) -> Cors | None:
    """What users give as `cors`: a `Cors`, or its origins, or None.

    Raises:
        TypeError, ValueError: See `Cors`.
    """
    return cors if cors is None or isinstance(cors, Cors) else Cors(cors)


def _rules(origins: tuple[Any, ...]) -> tuple[OriginRule, ...]:
    for origin in origins:
        if origin is None or origin == "same":
            raise ValueError(
                f"cors must hold origins of other servers, not {origin!r}: pages of "
                "this one need no CORS"
            )
    if not origins:
        raise ValueError("cors must hold at least one origin")
    return check_origins("cors", origins) or ()


def _names(what: str, given: Any) -> str:
    names = several(what, given, "names of header fields")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{what} must hold strings, not {name!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{what} must hold names such as 'X-Name', not {name!r}")
    return ", ".join(names)


def _checked_names(text: str) -> str:
    """The names of a stranger, as far as they are names."""
    names = (name.strip(" \t") for name in text[:_MAX_NAMES].split(","))
    return ", ".join(name for name in names if _NAME.fullmatch(name))

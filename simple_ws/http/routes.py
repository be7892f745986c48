"""HTTP routes: responders by path and method, and user functions.

`Routes` is the table of paths, `Route` an entry of it. Handling a request is left to
`exchange`, patterns of paths to `routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..errors import HandshakeError
from ..loop.deferred import check_callback, is_deferred
from ..protocol.request import Request
from ..protocol.response import Response
from .cors import Cors, asked_method
from .exchange import Exchange, HttpConnection, Responder
from .responses import response_of
from .routing import Router, check_pattern, routing_path

__all__ = ["Route", "Routes", "answered_by", "check_methods", "check_prefix"]


class Route:
    """The responders of one path, by method.

    Args:
        serve: answers every method; if None, `add` sets a responder for each method.
        has: returns whether there is anything for a request; None: always.
        exchange: makes the `Exchange` of a request.
    """

    def __init__(
        self,
        serve: Responder | None = None,
        has: Callable[[Request], bool] | None = None,
        exchange: Callable[[HttpConnection, Request], Exchange] = Exchange,
    ) -> None:
        self._any = serve
        self._by_method: dict[str, Responder] = {}
        self._cors: dict[str, Cors] = {}  # by method
        self.has = has
        self.exchange = exchange

    def add(
        self,
        path: str,
        methods: Sequence[str],
        serve: Responder,
        cors: Cors | None = None,
    ) -> None:
        """Set the responder of methods; ValueError if one of them has one already."""
        for method in methods:
            if self._any is not None or method in self._by_method:
                raise ValueError(f"{method} of path {path!r} has a function already")
        self._by_method.update(dict.fromkeys(methods, serve))
        if cors is not None:
            self._cors.update(dict.fromkeys(methods, cors))
            if "GET" in methods:
                self._cors["HEAD"] = cors

    def cors_fields(self, request: Request) -> Sequence[tuple[str, str]]:
        """The header fields of the answer that are for pages of other origins."""
        if not self._cors:
            return ()
        asked = asked_method(request)
        cors = self._cors.get(request.method if asked is None else asked)
        if cors is None:
            return ()
        methods = [method for method, its in self._cors.items() if its is cors]
        return cors._fields(request, methods)

    def select(self, method: str) -> Responder:
        """The responder of a method; HEAD is GET without a body (RFC 9110 §9.3.2).

        Raises:
            HandshakeError: 405.
        """
        serve = self._any or self._by_method.get(method)
        if serve is None and method == "HEAD":
            serve = self._by_method.get("GET")
        if serve is None and method == "OPTIONS":
            return self._tell_methods
        if serve is None:
            raise self.refusal()
        return serve

    def refusal(self) -> HandshakeError:
        """The refusal of a method without a responder, and of WebSocket."""
        return HandshakeError(
            405, "This method is not allowed here.", [("Allow", self._allowed())]
        )

    def _allowed(self) -> str:
        if self._any is not None:
            return "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"
        methods = dict.fromkeys([*self._by_method, "OPTIONS"])
        if "GET" in methods:
            methods["HEAD"] = None
        return ", ".join(methods)

    def _tell_methods(self, exchange: Exchange) -> None:
        exchange.respond(Response(204, headers=[("Allow", self._allowed())]))


#: RFC 9110 §9.3.7: OPTIONS for `*`, which is no path, asks whether the server responds.
_WHOLE_SERVER = Route(lambda exchange: exchange.respond(Response(204)))


class Routes:
    """The table of HTTP paths; patterns as in `routing.Router`."""

    def __init__(self) -> None:
        self._router: Router[Route] = Router()
        self._ends: list[Callable[[], object]] = []

    def add(
        self,
        path: str,
        methods: Sequence[str],
        serve: Responder,
        cors: Cors | None = None,
    ) -> None:
        """Set the responder for methods of a path.

        Raises:
            TypeError, ValueError: As from `Router.add`; a method has a responder
                already.
        """
        route = self._router.get(path) if isinstance(path, str) else None
        if route is None:
            route = Route()
            self._router.add(path, route)
        route.add(path, methods, serve, cors)

    def add_below(
        self, prefix: str, route: Route, end: Callable[[], object] | None = None
    ) -> None:
        """Set the route for everything below a prefix.

        Args:
            prefix: see `check_prefix`.
            route: its responders.
            end: called when the server stops.
        """
        self._router.add(f"{prefix}/*", route)
        if end is not None:
            self._ends.append(end)

    def find(self, request: Request) -> Route | None:
        """The route of a path, or None; sets `request.params`."""
        if request.target == "*":
            return _WHOLE_SERVER
        found = self._router.find(routing_path(request.encoded_path))
        if found is None:
            return None
        route, request.params = found
        return route

    def end(self) -> None:
        """The server stops: no route is used until it runs again."""
        for end in self._ends:
            end()


def answered_by(function: Callable[[Request], object]) -> Responder:
    """A responder that calls a user function.

    Its return value is the response: a `Response`, dict or list (JSON), str, bytes, or
    None for 204; at once or deferred (`loop.deferred.in_thread`, `async def`).

    Raises:
        TypeError: It takes other arguments.
    """
    check_callback("what answers HTTP", function, ("request",))
    return partial(_answer_by, function)


def _answer_by(function: Callable[[Request], Any], exchange: Exchange) -> None:
    request = exchange.request
    given = exchange.server._log.call(request, "", function, request)
    if is_deferred(given):
        given = exchange.server._begin_deferred(given)
    if is_deferred(given):
        exchange.server._run_limited(given, partial(_answer_deferred, exchange))
    else:
        exchange.respond(response_of(given))


def _answer_deferred(
    exchange: Exchange, given: Any, error: BaseException | None
) -> None:
    if exchange.waiting:  # the client may have disconnected
        try:
            if error is not None:
                raise error
            exchange.respond(response_of(given))
        except BaseException as raised:
            exchange.fail(raised)


def check_prefix(prefix: object) -> str:
    """Check a path prefix; return it without its trailing slash.

    Raises:
        TypeError: It is not a string.
        ValueError: It is not a path, or has parameters.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, not {prefix!r}")
    if not prefix.startswith("/") or "//" in prefix or set(prefix) & set("{}*?#"):
        raise ValueError(
            f"prefix must be a path such as '/' or '/files', not {prefix!r}"
        )
    check_pattern(prefix)
    return prefix.rstrip("/")


def check_methods(methods: object) -> tuple[str, ...]:
    """Check HTTP methods given by a user.

    Raises:
        TypeError: It is not a list of strings.
        ValueError: It is empty, or contains an invalid name.
    """
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise TypeError(f"methods must be a list such as ['GET'], not {methods!r}")
    names = tuple(methods)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"methods must hold strings, not {name!r}")
        if not (name.isascii() and name.replace("-", "").isalpha() and name.isupper()):
            raise ValueError(f"methods must hold names such as 'GET', not {name!r}")
    if not names:
        raise ValueError("methods must hold at least one, such as 'GET'")
    return names

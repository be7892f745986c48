"""`Api`: the server API of Centrifugo, with which other programs publish and manage.

    POST {path}/publish  {"channel": …, "data": …}  ->  {"result": …} or {"error": …}
    POST {path}          {"method": "publish", "params": {…}} …, an older form

It knows keys, bodies and answers. What the methods take is in `api_fields`, what they
do in `api_methods`. Source: centrifugal.dev, "Server API walkthrough".
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

from ...http.exchange import Exchange
from ...protocol.request import Request
from ...protocol.response import Response
from ...speedups import encode_json
from .. import codes
from ..codes import LiveError
from ..counts import Counts
from ..reading import Outcome
from .description import describe
from .fields import BATCH, COMMAND, METHODS, Invalid, Schema, checked
from .methods import ApiMethods, Done
from .several import Several

__all__ = ["Api", "check_keys"]

#: The HTTP status of an error, for those who ask for it.
_STATUS = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416}
_UNAUTHORIZED = LiveError(*codes.UNAUTHORIZED)
_SPACE = re.compile(r"\s+")

#: Reads a body; raises ValueError or RecursionError for one that is malformed.
Read = Callable[[bytes], Any]
#: Answers what was read.
Answer = Callable[[Exchange, Any], object]


class Api:
    """See the head of the module.

    Args:
        server: that it publishes by.
        keys: one of them must be given with each request; without any, none need be.
        check: see `ApiMethods`.

    Attributes:
        counts: its calls.
    """

    def __init__(
        self,
        server: Any,
        keys: tuple[str, ...],
        check: Callable[[str], object] | None = None,
    ) -> None:
        self.counts = Counts(METHODS)
        self._server = server
        self._keys = [key.encode() for key in keys]
        self._methods = ApiMethods(server, check)

    def serve(self, path: str) -> None:
        """Answer below a path.

        Raises:
            TypeError, ValueError: It is malformed, or in use.
        """
        for name, method in METHODS.items():
            answer = partial(self._answer_method, name)
            self._add(f"{path}/{name}", partial(_read, method.params), answer)
        self._add(f"{path}/batch", partial(_read, BATCH), self._answer_batch)
        self._add(path, _read_old, self._answer_old)
        self._server._stats.add_source("api", self.counts.gather)
        document = Response(200, describe(path))
        self._server._routes.add(
            f"{path}/openapi.json",
            ("GET",),
            lambda exchange: exchange.respond(document),
        )

    def _add(self, path: str, read: Read, answer: Answer) -> None:
        begin = partial(self._begin, read, answer)
        self._server._routes.add(path, ("POST",), begin)

    # Requests

    def _begin(self, read: Read, answer: Answer, exchange: Exchange) -> None:
        """Check the key and the body, then answer."""
        if not self._has_key(exchange.request):
            self.counts.note_error(_UNAUTHORIZED.code)
            peer, why = exchange.request.address, "a wrong key of the server API"
            self._server._log.note_refusal(peer, why, 401)
            exchange.respond(_refused(401, _UNAUTHORIZED))
            return
        try:
            given = read(exchange.request.body)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, Invalid) else "the body is not JSON"
            refusal = _bad(why)
            self.counts.malformed += 1
            self.counts.note_error(refusal.code)
            exchange.respond(_refused(400, refusal))
        else:
            answer(exchange, given)

    def _has_key(self, request: Request) -> bool:
        """Whether a request has one of the keys; all are compared, in constant time."""
        kind, _, key = (request.authorization or "").partition(" ")
        if not self._keys:
            return True
        given = [request.headers.get("X-API-Key"), request.query.get("api_key")]
        given.append(key.strip() if kind.lower() == "apikey" else None)
        known = False
        for each in filter(None, given):
            encoded = each.encode("utf-8", "surrogatepass")
            for own in self._keys:
                known |= hmac.compare_digest(encoded, own)
        return known

    def _answer_method(
        self, name: str, exchange: Exchange, params: dict[str, Any]
    ) -> None:
        self._call(name, params, partial(_answer, exchange))

    def _answer_batch(self, exchange: Exchange, given: dict[str, Any]) -> None:
        calls = [partial(self._call_command, command) for command in given["commands"]]

        def done(replies: list[dict[str, Any]]) -> None:
            exchange.respond(_json({"replies": replies}))

        parallel = given.get("parallel", False)
        Several(self._server.reactor, calls, done, parallel=parallel).begin()

    def _call_command(
        self, command: dict[str, Any], done: Callable[[dict[str, Any]], object]
    ) -> None:
        if len(command) == 1:
            ((name, params),) = command.items()
            self._call(name, params, lambda outcome: done(_reply(name, outcome)))
        else:
            code = codes.BAD_REQUEST if command else codes.METHOD_NOT_FOUND
            done(self._refuse(LiveError(*code)))

    def _answer_old(self, exchange: Exchange, given: list[dict[str, Any]]) -> None:
        calls = [partial(self._call_old, command) for command in given]

        def done(replies: list[dict[str, Any]]) -> None:
            lines = b"\n".join(encode_json(reply) for reply in replies)
            exchange.respond(Response(200, lines, _JSON))

        Several(self._server.reactor, calls, done).begin()

    def _call_old(
        self, command: dict[str, Any], done: Callable[[dict[str, Any]], object]
    ) -> None:
        number = {"id": command["id"]} if "id" in command else {}
        name = command["method"].lower()
        method = METHODS.get(name)
        if method is None:
            error = LiveError(*codes.METHOD_NOT_FOUND)
            done({**number, **self._refuse(error)})
            return
        try:
            params = checked(method.params, command.get("params", {}), "params")
        except Invalid as wrong:
            done({**number, **self._refuse(_bad(str(wrong)))})
            return

        def reply(outcome: Outcome) -> None:
            done({**number, **_reply("result", outcome)})

        self._call(name, params, reply)

    def _refuse(self, error: LiveError) -> dict[str, Any]:
        """The reply to a command that calls nothing."""
        self.counts.note_error(error.code)
        return _reply("", error)

    def _call(self, name: str, params: dict[str, Any], done: Done) -> None:
        """Call a method, whose parameters are checked."""
        self.counts.commands[name] += 1

        def count(outcome: Outcome) -> None:
            if isinstance(outcome, LiveError):
                self.counts.note_error(outcome.code)
            done(outcome)

        self._methods.call(name, params, count)


# Bodies


def _read(schema: Schema, body: bytes) -> Any:
    return checked(schema, json.loads(body, parse_constant=_refuse_constant))


def _read_old(body: bytes) -> list[Any]:
    """The values of a body, one behind the other."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    text, at, found = body.decode().rstrip(), 0, []
    while at < len(text):
        begin = _SPACE.match(text, at)
        value, at = decoder.raw_decode(text, begin.end() if begin else at)
        found.append(checked(COMMAND, value, "a command"))
    if not found:
        raise Invalid("the body is empty")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise Invalid(f"{constant} is not JSON")


def _bad(why: str) -> LiveError:
    return LiveError(codes.BAD_REQUEST.code, f"bad request: {why}")


# Answers


def _answer(exchange: Exchange, outcome: Outcome) -> None:
    mode = exchange.request.headers.get("X-Centrifugo-Error-Mode")
    if isinstance(outcome, LiveError) and mode == "transport":
        exchange.respond(_json(_error(outcome), _STATUS.get(outcome.code, 500)))
    else:
        exchange.respond(_json(_reply("result", outcome)))


_JSON = [("Content-Type", "application/json")]


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(status, encode_json(value), _JSON)


def _refused(status: int, error: LiveError) -> Response:
    return _json({"error": _error(error)}, status)


def _error(error: LiveError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message}


def _reply(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, LiveError):
        return {"error": _error(outcome)}
    return {name: outcome}


def check_keys(api_key: Any) -> tuple[str, ...]:
    """What users give as `api_key`: None, a key, or several, of which each is valid.

    Raises:
        TypeError: One is not a str.
        ValueError: One is empty, or no printable ASCII.
    """
    if api_key is None:
        return ()
    if isinstance(api_key, bytes | Mapping) or not isinstance(api_key, Iterable):
        # Not the value: it is a secret.
        kind = type(api_key).__name__
        raise TypeError(f"api_key must be a str, or a list of them, not {kind}")
    keys = (api_key,) if isinstance(api_key, str) else tuple(api_key)
    for key in keys:
        if not isinstance(key, str):
            raise TypeError("api_key must be a str, or hold strings")
        if not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise ValueError("api_key must be printable ASCII, and not empty")
    return keys

"""Ready-made middlewares: `FirstMessageAuth`, `JSONMessages`, `Radio`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import AuthenticationError, InvalidData, InvalidState
from ..loop.deferred import Steps, check_callback, run_steps
from ..loop.schedule import check_interval
from ..speedups import json_text
from .middleware import Middleware
from .return_values import WrongReturnValue, identity_of

__all__ = ["FirstMessageAuth", "JSONMessages", "Radio"]


class FirstMessageAuth(Middleware):
    """Authenticates each client by its first message.

    Args:
        check: called with that message, and with the client if it takes two arguments;
            returns the identity, which the client is bound to. It raises
            `AuthenticationError` to refuse: the client is closed with 1008. Any other
            exception counts as a failure of the handler (1011).

    The check can be async, or `in_thread`. Handlers do not get the first message. A
    client that sends nothing for `auth_timeout` seconds is closed with 1008.

    Until then nothing that is sent to many reaches the client: `broadcast`, `publish`,
    `deliver` and `send_to` leave it out. What is written to it alone (`write_message`,
    or a loop over `clients`) does, and `on_open` was called: greet it, but tell it
    nothing. To refuse clients before the connection is open, use `on_request`.
    """

    authenticates = True

    def __init__(self, check: Callable[..., Any]) -> None:
        self._check = self._given = check
        try:
            check_callback("check", check, ("msg",))
            self._check = lambda msg, client: check(msg)
        except TypeError:
            check_callback("check", check, ("msg", "client"))

    def on_first_message(self, msg: Any, client: Any) -> Any:
        """Check it as credentials."""
        return run_steps(self._admit(msg, client))

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The methods, and the check."""
        yield from super()._callbacks()
        yield "check of FirstMessageAuth", self._given

    def _admit(self, msg: Any, client: Any) -> Steps:
        identity = yield self._check(msg, client)
        what = "check of FirstMessageAuth"
        try:
            identity = identity_of(what, identity)
        except WrongReturnValue as error:
            note_failure = client._host._log.note_failure
            note_failure(f"{what} failed", "%s", error, client=client)
            raise AuthenticationError("no identity") from error
        client.bind(identity)
        return self.STOP


class JSONMessages(Middleware):
    """Handlers receive and send JSON values; text on the wire is JSON (RFC 8259).

    Binary messages pass unchanged. Text that is not JSON fails the connection with 1007
    (`bad_data`), and so do NaN, infinities and numbers too large for a float. Sending
    an object that JSON cannot represent raises `TypeError` or `ValueError`.
    """

    _makes_none = True  # of `null`

    def on_message(self, msg: Any, client: Any) -> Any:
        """Parse text."""
        if not isinstance(msg, str):
            return msg
        try:
            return json.loads(msg, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise InvalidData("the message is not JSON") from error

    def on_send(self, msg: Any, client: Any) -> Any:
        """Encode everything that is not binary as JSON."""
        if isinstance(msg, bytes | bytearray | memoryview):
            return msg
        return json_text(msg)


def _finite(text: str) -> float:
    """A number that JSON can represent."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


class Radio(Middleware):
    """Broadcasts on a timer, while at least one client is connected.

    Args:
        interval: seconds between two messages, and until the first one.
        produce: called without arguments for each message; None sends nothing. It can
            be async, or `in_thread`. Its exceptions are logged.

    Raises:
        TypeError, ValueError: `interval` is not 0.001 seconds or more, or `produce`
            takes arguments.
    """

    def __init__(self, interval: float, produce: Callable[[], Any]) -> None:
        check_callback("produce", produce, ())
        self._interval = check_interval(interval)
        self._produce = produce
        self._server: Any = None
        self._timer: Any = None

    def on_use(self, server: Any) -> Any:
        """Remember the server; start if a client is connected already."""
        if self._server not in (None, server):
            raise InvalidState("a Radio broadcasts on one server")
        self._server = server
        if server.clients:
            server.call_later(0, self._begin)

    def on_open(self, client: Any) -> Any:
        """Start with the first client."""
        self._begin()

    def on_close(self, client: Any) -> Any:
        """Stop with the last client."""
        self._cease_alone()

    def _begin(self) -> None:
        if self._timer is None:
            self._timer = self._server.every(self._interval, self._send)

    def _cease_alone(self) -> bool:
        """Stop the timer when no client is connected; return whether that is so."""
        if self._server.clients:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The methods, and the function that produces the messages."""
        yield from super()._callbacks()
        yield "produce of Radio", self._produce

    def _send(self) -> Any:
        return run_steps(self._produce_and_send())

    def _produce_and_send(self) -> Steps:
        # Disconnecting clients that connected before `use` go unnoticed.
        if self._cease_alone():
            return
        msg = yield self._produce()
        if msg is not None:
            self._server.broadcast(msg)

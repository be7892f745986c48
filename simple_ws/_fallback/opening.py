"""Opening handshakes of the ordinary form; the twin of `_c/opening.pxi`.

What is decided here was worked out by `server.plans`, which asks the rules once.
Whatever a plan does not cover is left to `server.upgrade`.
"""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Callable
from typing import Any

from ..constants import GUID, UPGRADE_HEAD
from .codecs import read_upgrade
from .connection import accept_from
from .loop import LoopState

__all__ = ["Opener", "Plan", "Plans", "accept_key"]

#: Bytes that are read at once; a browser's request takes 500 to 1,500.
_REQUEST_SIZE = 4096
#: Characters of a `Sec-WebSocket-Key`: 16 bytes in base64.
_KEY_SIZE = 24


def accept_key(key: str) -> str:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2, 5.4).

    Raises:
        ValueError: It has not the length of a key, 24 characters, or is not ASCII.
    """
    text = key.encode("ascii")
    if len(text) != _KEY_SIZE:
        raise ValueError(f"a key has {_KEY_SIZE} characters, not {len(text)}")
    return base64.b64encode(hashlib.sha1(text + GUID).digest()).decode()


def _answer_to(key: str, extension: str | None) -> bytes:
    """The response that opens a connection (RFC 6455 §4.2.2)."""
    answer = UPGRADE_HEAD + accept_key(key).encode()
    if extension is not None:
        answer += f"\r\nSec-WebSocket-Extensions: {extension}".encode("latin-1")
    return answer + b"\r\n\r\n"


class Plan:
    """What an ordinary handshake for one handler leads to.

    Args:
        request: called with a request in the form of `request.Request._packed`, and
            with the parameters of the path, if there are any; returns what has both.
        terms: (client class, host, rules, options): what connections are
            created with; rules is called with the agreement.
        ended: called with the error's text, or None: there was none; returns the
            protocol of a connection that its peer has ended so.
        welcome: called with the connection when it is open, before `on_open`.
        leave: called with it when it has ended so, before `on_close`.
        handler: of the connection.
        admit: called with the address; False: there is no room. None: there always is.
        allows: called with Origin (or None) and Host; False: the page may not connect.
            None: all may.
        agree: called with `Sec-WebSocket-Extensions`; returns the element of the
            response and the agreement, both may be None; None: it is malformed.
    """

    # The fallback opens and ends connections by `Client`, which knows the others.
    __slots__ = (
        "_admit",
        "_agree",
        "_allows",
        "_client_class",
        "_handler",
        "_host",
        "_options",
        "_request",
    )

    def __init__(
        self,
        request: Callable[[bytes, dict[str, Any]], Any],
        terms: tuple[type[Any], Any, Callable[[Any], Any], Any],
        ended: Callable[[str | None], Any],
        welcome: Callable[[Any], object],
        leave: Callable[[Any], object],
        handler: Any,
        admit: Callable[[Any], bool] | None,
        allows: Callable[[str | None, str], bool] | None,
        agree: Callable[[str], tuple[Any, Any] | None],
    ) -> None:
        self._client_class, self._host, _, self._options = terms
        self._handler = handler
        self._request = request
        self._admit = admit
        self._allows = allows
        self._agree = agree

    def _create(self, sock: Any, request: Any, agreement: Any) -> Any:
        """A connection, as its class creates it."""
        given = self._host, self._handler, request, self._options, agreement, None
        return self._client_class(sock, *given)


class Plans:
    """Which plan a path has; None where a request needs another look.

    Args:
        exact: plans by path.
        patterns: (prefix, suffix, name, plan) of paths with one parameter of this name
            between the two; without a name, of all that begin so.
        prefixes: (prefix, plan), the longest first.
        rest: the plan of all other paths.
        max_head: bytes of a request at most.
    """

    __slots__ = ("_exact", "_max_head", "_patterns", "_prefixes", "_rest")

    def __init__(
        self,
        exact: dict[bytes, Plan | None],
        patterns: list[tuple[bytes, bytes, str | None, Plan | None]],
        prefixes: list[tuple[bytes, Plan | None]],
        rest: Plan | None,
        max_head: int,
    ) -> None:
        self._exact = exact
        self._patterns = patterns
        self._prefixes = prefixes
        self._rest = rest
        self._max_head = max_head

    def find(self, path: bytes) -> tuple[Plan | None, dict[str, str] | None]:
        """The plan of a path that has no `%`, and the values of its parameters."""
        if path in self._exact:
            return self._exact[path], None
        for prefix, suffix, name, plan in self._patterns:
            if not path.startswith(prefix):
                continue
            if name is None:
                return None, None
            value = path[len(prefix) : len(path) - len(suffix)]
            if value and path.endswith(suffix) and b"/" not in value:
                return plan, {name: value.decode("ascii")}
        for prefix, plan in self._prefixes:
            if path.startswith(prefix) or path == prefix[:-1]:
                return plan, None
        return self._rest, None


class Opener:
    """Opens connections whose handshake is ordinary.

    Args:
        loop: of the connections.
        make_plans: returns the plans, or None if no handshake is ordinary; called when
            they are needed, and again after `forget`.
    """

    def __init__(self, loop: LoopState, make_plans: Callable[[], Plans | None]) -> None:
        self._make_plans = make_plans
        self._plans: Plans | None = None
        self._known = False

    def forget(self) -> None:
        """The plans have changed; from any thread."""
        self._known = False

    def accept(
        self, sock: socket.socket
    ) -> tuple[socket.socket, Any, bytes | None] | None:
        """Accept a connection, and open it if its handshake is there and ordinary.

        Args:
            sock: listening and non-blocking.

        Returns:
            None: it is open. Otherwise the socket and the address as from
            `accept_from`, and what was read: None for nothing, b"" for the end.

        Raises:
            OSError: As from `socket.accept`.
        """
        accepted, address = accept_from(sock)
        if self._current() is None:
            return accepted, address, None
        try:
            data = accepted.recv(_REQUEST_SIZE)
        except (BlockingIOError, InterruptedError):
            return accepted, address, None
        except OSError:
            data = b""
        try:
            opened = data and self.open(accepted, address, data, None) is not None
        except BaseException:
            accepted.close()
            raise
        return None if opened else (accepted, address, data)

    def open(self, sock: socket.socket, address: Any, data: bytes, upgrade: Any) -> Any:
        """Open a connection if its handshake is ordinary.

        Args:
            sock: a plain socket, connected and non-blocking.
            address: of the client.
            data: all that was received.
            upgrade: has the socket; `_hand_over(client)` ends that, and returns whether
                the loop knows the socket.

        Returns:
            The client; None: the handshake needs another look.
        """
        plans = self._current()
        seen = None if plans is None else read_upgrade(data)
        if plans is None or seen is None or seen[0] > plans._max_head:
            return None
        size, target, fields, key, protocols, extensions = seen
        path = target.partition("?")[0]
        if protocols is not None or "%" in path or not _is_usual(address):
            return None
        plan, params = plans.find(path.encode())
        if plan is None or not _is_allowed(plan, fields):
            return None
        extension = agreement = None
        if extensions:
            agreed = plan._agree(extensions)
            if agreed is None:
                return None
            extension, agreement = agreed
        # Last: what it takes is not given back.
        if plan._admit is not None and not plan._admit(address):
            return None
        request = f"{address[0]} {address[1]} {target}\n"
        kept: Any = request.encode("utf-8", "surrogatepass") + fields
        if params is not None:
            kept = plan._request(kept, params)
        client = plan._create(sock, kept, agreement)
        registered = False if upgrade is None else upgrade._hand_over(client)
        client._start(_answer_to(key, extension), data[size:], registered)
        return client

    def _current(self) -> Plans | None:
        if not self._known:
            # In this order: `forget` may be called meanwhile.
            self._known = True
            self._plans = self._make_plans()
        return self._plans


def _is_allowed(plan: Plan, fields: bytes) -> bool:
    """Whether the page may connect, if the plan depends on that."""
    if plan._allows is None:
        return True
    found = {b"origin": None, b"host": ""}
    for line in fields.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        if name.lower() in found:
            found[name.lower()] = value.strip(b" \t").decode("latin-1")
    return plan._allows(found[b"origin"], found[b"host"] or "")


def _is_usual(address: Any) -> bool:
    """Whether it can be packed: see `request.Request._packed`."""
    return (
        type(address) is tuple
        and [type(part) for part in address] == [str, int]
        and " " not in address[0]
    )

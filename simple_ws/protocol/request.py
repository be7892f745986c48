"""`Request`: an HTTP request, as users see it.

It keeps the bytes of its head, and parses each part when somebody asks for it. Whether
a head is well-formed is checked before, by `http11`.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from ..errors import BadRequest, MissingField
from ..speedups import raw_fields
from ..text import excerpt, redacted
from .fields import Fields, Headers
from .grammar import ABSOLUTE_FORM

__all__ = ["Request"]

#: Fields of a form; no person fills in a form with thousands of them.
_MAX_FORM_FIELDS = 1000


class Request:
    """An HTTP request, as passed to `on_request` and to functions of `Server.http`.

    Attributes:
        method: such as "GET".
        target: the request target, as in the request line.
        version: (1, 1) for HTTP/1.1.
        address: (host, port) of the peer; a string for a Unix socket.
    """

    # Idle connections keep theirs `_packed`; all is kept as bytes, parsed when needed.
    __slots__ = (
        "_body",  # set only if there is one, like `_secure`
        "_fields",
        "_headers",
        "_params",
        "_parts",
        "_secure",
        "address",
        "method",
        "target",
        "version",
    )

    def __init__(
        self, method: str, target: str, version: tuple[int, int], fields: bytes
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.address: Any = None
        self._fields = fields
        self._headers: Headers | None = None
        self._parts: tuple[str, str] | None = None
        self._params: dict[str, Any] | None = None

    def _packed(self) -> bytes | Request:
        """The request of an open connection, in the form that takes least memory.

        Returns:
            One bytes object, for `_unpacked`; the request itself, without what can be
            parsed again, if it has more than an upgrade usually has.
        """
        address = self.address
        if (
            self._params is None
            and (self.method, self.version) == ("GET", (1, 1))
            and not self.secure
            and not self.body
            and type(address) is tuple
            and [type(part) for part in address] == [str, int]
            and " " not in address[0]
        ):
            line = f"{address[0]} {address[1]} {self.target}\n"
            return line.encode("utf-8", "surrogatepass") + self._fields
        self._headers = self._parts = None
        return self

    @staticmethod
    def _unpacked(packed: bytes) -> Request:
        """The request that `_packed` has made these bytes of."""
        line, fields = packed.split(b"\n", 1)
        target = line.split(b" ", 2)[2].decode("utf-8", "surrogatepass")
        request = Request("GET", target, (1, 1), fields)
        request.address = Request._packed_address(packed)
        return request

    @staticmethod
    def _packed_address(packed: bytes) -> tuple[str, int]:
        """The address in it, without anything else."""
        host, port, _ = packed.split(b" ", 2)
        return host.decode("utf-8", "surrogatepass"), int(port)

    @property
    def body(self) -> bytes:
        """The whole body, at most `max_body` bytes; empty in a WebSocket upgrade."""
        return getattr(self, "_body", b"")

    @body.setter
    def body(self, body: bytes) -> None:
        self._body = body

    @property
    def secure(self) -> bool:
        """Whether the client used TLS; a trusted proxy may say so."""
        return getattr(self, "_secure", False)

    @secure.setter
    def secure(self, secure: bool) -> None:
        self._secure = secure

    def json(self) -> Any:
        """The body, parsed as JSON.

        Raises:
            BadRequest: It is not JSON; unless caught, the client is answered 400.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise BadRequest("The body of the request is not JSON.") from None

    def text(self) -> str:
        """The body, decoded from UTF-8.

        Raises:
            BadRequest: It is not UTF-8; unless caught, the client is answered 400.
        """
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            raise BadRequest("The body of the request is not UTF-8.") from None

    def form(self) -> Fields:
        """The names and values of a form (`application/x-www-form-urlencoded`).

        Raises:
            BadRequest: The body is of another type, is not UTF-8, or has more than
                1,000 fields; unless caught, the client is answered 400.
        """
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if kind.strip().lower() != "application/x-www-form-urlencoded":
            raise BadRequest("The body of the request is not a form.")
        try:
            pairs = parse_qsl(
                self.body.decode(),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_FORM_FIELDS,
            )
        except ValueError:
            raise BadRequest("The form in the request is malformed.") from None
        return Fields(pairs, "form field")

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the path, as named by the route."""
        if self._params is None:
            self._params = {}
        return self._params

    @params.setter
    def params(self, params: dict[str, Any]) -> None:
        self._params = params or None

    @property
    def headers(self) -> Headers:
        """The header fields."""
        if self._headers is None:
            self._headers = Headers._of(raw_fields(self._fields))
        return self._headers

    def _raw_fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields as bytes, their names in lower case."""
        return raw_fields(self._fields)

    def _split(self) -> tuple[str, str]:
        """Path, still percent-encoded, and query."""
        if self._parts is None:
            # RFC 9112 §3.2.2: "a server MUST accept the absolute-form in requests".
            authority = ABSOLUTE_FORM.match(self.target)
            target = self.target[authority.end() :] if authority else self.target
            path, _, query = target.partition("?")
            self._parts = path or "/", query
        return self._parts

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query."""
        return unquote(self._split()[0])

    @property
    def encoded_path(self) -> str:
        """The path as requested, percent-encoded, without the query.

        In `path` an encoded slash (`%2F`) looks like one that ends a segment; here the
        two differ.
        """
        return self._split()[0]

    @property
    def _decoded_path(self) -> bytes:
        """The path, percent-decoded to arbitrary bytes."""
        return unquote_to_bytes(self._split()[0])

    @property
    def query(self) -> Fields:
        """The names and values of the query, decoded."""
        pairs = parse_qsl(self.query_string, keep_blank_values=True)
        return Fields(pairs, "query parameter")

    @property
    def query_string(self) -> str:
        """The query string as requested, percent-encoded."""
        return self._split()[1]

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name; for repeated names the first counts (RFC 6265 §5.4)."""
        found = _Cookies()
        for line in self.headers.get_all("Cookie"):
            for pair in line.split(";"):
                name, equals, value = pair.strip().partition("=")
                if equals and name:
                    found.setdefault(name, value.strip('"'))
        return found

    @property
    def origin(self) -> str | None:
        """The origin of the page, as sent by a browser (RFC 6454), or None."""
        return self.headers.get("Origin")

    @property
    def authorization(self) -> str | None:
        """The Authorization field, or None."""
        return self.headers.get("Authorization")

    def __repr__(self) -> str:
        # It goes to logs: what the query holds may be a token.
        return f"<Request {self.method} {excerpt(redacted(self.target))}>"


class _Cookies(dict[str, str]):
    """Cookies by name; indexing a missing one answers the client with 400."""

    def __missing__(self, name: str) -> str:
        raise MissingField("cookie", name)

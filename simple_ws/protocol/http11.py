"""HTTP/1.1 requests: reading their heads (RFC 9112).

`RequestReader` collects the bytes of one request head within its limits; users receive
`Request`. Responses are in `response`. Where bodies end is left to `http_body`, the
rules of an upgrade to `server_handshake`, sockets and timeouts to the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from ..constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT, TOKEN
from ..errors import ONE_HOST, BadRequest, HandshakeError, MissingField
from ..speedups import raw_fields
from ..text import excerpt
from .grammar import find_head_end, head_pattern, is_field_line
from .uri import redacted

__all__ = [
    "Fields",
    "Headers",
    "Request",
    "RequestReader",
    "asked_host",
    "check_allowed_host",
    "check_host",
    "check_request",
    "check_single_origin",
    "check_version",
    "expects_continue",
    "host_name",
    "stays_open",
    "wants_upgrade",
]

_TOKEN = TOKEN.encode()
#: RFC 9112 §2.1 and §5: no space before the colon, no line folding, no bare CR or LF.
_HEAD = head_pattern(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD_NAME = re.compile(TOKEN)
_REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e]+ HTTP/[0-9]\.[0-9]")
_METHOD_START = re.compile(_TOKEN)
_BARE_LF = "A line of the request ends without CR LF."
#: RFC 9110 §4.2.1 and §4.2.4: an empty host, and a user before it, are errors.
_ABSOLUTE = re.compile(r"(?:https?|wss?)://[^/?#@]+(?![^/?#])", re.IGNORECASE)
#: RFC 3986 §3.2.2 and §3.2.3, without validating addresses.
_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=%"
_HOST = re.compile(rf"(?:{_NAME}]*|\[{_NAME}:]+\])(?::[0-9]*)?")
#: An address in brackets, bare IPv6, or a name; optionally a port.
_HOST_PARTS = re.compile(r"\[([^]]+)\](?::[0-9]*)?|([^:]*:[^:]*:.*|[^:]+?)(?::[0-9]*)?")


#: Fields of a form; no person fills in a form with thousands of them.
_MAX_FORM_FIELDS = 1000


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
            authority = _ABSOLUTE.match(self.target)
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


class RequestReader:
    """Collects one request head, at any byte boundary.

    Args:
        max_size: bytes of the whole head.
        max_count: header lines.

    `rest` holds the bytes after the head.
    """

    def __init__(
        self, max_size: int = MAX_HEAD_SIZE, max_count: int = MAX_HEADER_COUNT
    ) -> None:
        self.rest = b""
        self._max_size = max_size
        self._max_count = max_count
        self._buffer = bytearray()
        self._seen = 0

    @property
    def empty(self) -> bool:
        """Whether no byte has been received yet."""
        return not self._buffer

    @property
    def buffered_input(self) -> int:
        """Bytes kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Request | None:
        """Process bytes; return the request when its head is complete.

        Raises:
            HandshakeError: 400 malformed, 414 or 431 beyond a limit.
        """
        buffer = self._buffer
        if not buffer:
            # RFC 9112 §2.2: a server "SHOULD ignore at least one empty line (CRLF)".
            data = data.lstrip(b"\r\n")
        buffer += data
        end = self._find_end()
        if end < 0 and len(buffer) > self._max_size:
            raise self._too_large()
        if end < 0:
            return None
        self.rest = bytes(buffer[end:])
        return self._parse(bytes(buffer[:end]))

    def _find_end(self) -> int:
        """Where the head ends, or -1; refuses early what cannot be HTTP."""
        buffer = self._buffer
        if buffer and not _METHOD_START.match(buffer):
            raise HandshakeError(400, "This is not an HTTP request.")
        end = find_head_end(buffer, self._seen, self._max_size, _BARE_LF)
        self._seen = len(buffer)
        return end

    def _too_large(self) -> HandshakeError:
        """RFC 9112 §3: "A server that receives a request-target longer than any URI it
        wishes to parse MUST respond with a 414 (URI Too Long) status code"."""
        begin = bytes(self._buffer[: self._max_size])
        if b" " in begin and b"\r\n" not in begin:
            status, what = 414, "line"
        else:
            status, what = 431, "head"
        return HandshakeError(
            status, f"The request {what} exceeds {self._max_size:,} bytes."
        )

    def _parse(self, head: bytes) -> Request:
        match = _HEAD.fullmatch(head)
        if match is None:
            raise HandshakeError(400, _what_is_wrong(head))
        method, target, major, minor, fields = match.groups()
        if fields.count(b"\r\n") > self._max_count:
            raise HandshakeError(
                431, f"The request has more than {self._max_count} header lines."
            )
        request = Request(
            method.decode(), target.decode(), (int(major), int(minor)), fields
        )
        _check_target(request)
        return request


def _check_target(request: Request) -> None:
    """RFC 9112 §3.2: a path, a URI, or `*`; not a CONNECT, as this is not a proxy."""
    target = request.target
    if "#" in target:  # WebSocket addresses have none either (RFC 6455 §3)
        raise HandshakeError(400, "The request target has a fragment.")
    if target.startswith("/") or _ABSOLUTE.match(target):
        return
    if target != "*" or request.method != "OPTIONS":
        raise HandshakeError(400, "The request target is neither a path nor a URI.")


def _what_is_wrong(head: bytes) -> str:
    """A sentence that says what is wrong with a malformed head."""
    lines = head.split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(lines[0]):
        return "The request line is malformed."
    for number, line in enumerate(lines[1:-2], 1):
        if line.startswith((b" ", b"\t")):
            return f"Header line {number} is folded (RFC 9112 §5.2)."
        if not is_field_line(line):
            return f"Header line {number} is malformed."
    return "The request head is malformed."


def check_version(request: Request) -> None:
    """Refuse an unsupported major version of HTTP (RFC 9110 §15.6.6).

    Raises:
        HandshakeError: 505.
    """
    if request.version[0] != 1:
        raise HandshakeError(505, "Only HTTP/1.0 and HTTP/1.1 are supported.")


def check_request(request: Request) -> None:
    """Check what HTTP requires of every request (RFC 9112 §2.3 and §3.2).

    Raises:
        HandshakeError: 400 or 505.
    """
    check_version(request)
    headers = request.headers
    hosts = headers.get_all("Host")
    # "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
    # request message that lacks a Host header field and to any request message that
    # contains more than one". Health checks of version 1.0 have none.
    if len(hosts) != 1 and (hosts or request.version >= (1, 1)):
        raise HandshakeError(400, ONE_HOST)
    if hosts:
        check_host(hosts[0])
    check_single_origin(headers)


def check_single_origin(headers: Headers) -> None:
    """Refuse two Origin headers: the server might use one, a proxy the other.

    RFC 6454 §7.3: "The user agent MUST NOT include more than one Origin header field in
    any HTTP request."

    Raises:
        HandshakeError: 400.
    """
    if len(headers.get_all("Origin")) > 1:
        raise HandshakeError(400, "The request has more than one Origin header.")


def asked_host(request: Request) -> str:
    """The host that a request is for, with its port if any; "" when it has none.

    RFC 9112 §3.2.2: if the target is in absolute form, Host is ignored.
    """
    authority = _ABSOLUTE.match(request.target)
    if authority is None:
        return request.headers.get("Host", "")
    return authority[0].partition("://")[2]


def host_name(host: str) -> str:
    """The name or address in a Host header, lower case, without port and final dot."""
    match = _HOST_PARTS.fullmatch(host)
    if match is None:
        return host.lower()
    return (match[1] or match[2]).lower().removesuffix(".")


def check_allowed_host(request: Request, allowed: Collection[str]) -> None:
    """Refuse a request that is for another server (RFC 9110 §7.4).

    After DNS rebinding a page's Host header still has the page's own name, because the
    browser does not allow it to be changed.

    Args:
        request: also refused when it names no host.
        allowed: names as from `host_name`, "*.example.com" for all subdomains of a
            name, or "*".

    Raises:
        HandshakeError: 421.
    """
    # An application may use either, if the target has a host as well.
    for host in {asked_host(request), *request.headers.get_all("Host")}:
        name = host_name(host)
        if not any(_is_allowed(name, rule) for rule in allowed):
            raise HandshakeError(421, "This server does not serve this host.")


def _is_allowed(name: str, rule: str) -> bool:
    if rule.startswith("*"):
        return name != "" and name.endswith(rule[1:])
    return name == rule


@lru_cache(maxsize=256)  # a server has few names
def check_host(host: str) -> None:
    """Check the value of a Host header.

    Raises:
        HandshakeError: 400. RFC 9112 §3.2: "A server MUST respond with a 400 (Bad
            Request) status code to any HTTP/1.1 request message that [...] contains
            [...] a Host header field with an invalid field value".
    """
    if not _HOST.fullmatch(host):
        raise HandshakeError(400, "The Host header is malformed.")


def wants_upgrade(request: Request) -> bool:
    """Whether this is an attempt to open a WebSocket, even a malformed one.

    A client may offer other protocols in `Upgrade` and still accept plain HTTP.
    """
    values = request.headers._values
    if "upgrade" not in values and "sec-websocket-key" not in values:
        return False
    headers = request.headers
    return "websocket" in headers.tokens("Upgrade") or "Sec-WebSocket-Key" in headers


def stays_open(request: Request) -> bool:
    """Whether the client may send another request after this (RFC 9112 §9.3)."""
    options = request.headers.tokens("Connection")
    if "close" in options:
        return False
    return request.version >= (1, 1) or "keep-alive" in options


def expects_continue(request: Request) -> bool:
    """Whether the client waits for `CONTINUE` before it sends the body.

    Raises:
        HandshakeError: 417, it expects anything else (RFC 9110 §10.1.1).
    """
    expected = request.headers.tokens("Expect")
    if not expected or request.version < (1, 1):
        return False
    if expected != ["100-continue"]:
        raise HandshakeError(417, "The only expectation supported is 100-continue.")
    return True

"""`Response`: an HTTP response, and how its head is written (RFC 9112)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from ..constants import TOKEN

__all__ = [
    "Response",
    "check_field",
    "encode_head",
    "http_date",
    "may_have_body",
]

_FIELD_NAME = re.compile(TOKEN)


def http_date(seconds: float) -> str:
    """Seconds since the epoch in the date format of HTTP (RFC 9110 §5.6.7)."""
    from email.utils import formatdate  # only when needed

    return formatdate(seconds, usegmt=True)


class Response:
    """An HTTP response.

    Args:
        status: 100 to 599.
        body: str (sent as UTF-8 text), bytes, or dict or list (sent as JSON).
        headers: additional header fields; they override the ones set here.

    Raises:
        ValueError: The status is out of range, a header has an invalid name or contains
            a line break, or the body cannot be encoded as JSON.
        TypeError: The body has another type.
    """

    def __init__(
        self,
        status: int = 200,
        body: str | bytes | dict[str, Any] | list[Any] = b"",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        if not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"status must be from 100 to 599, not {status!r}")
        self.status = status
        self.body, content_type = _encode_body(body)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.headers = [(str(name), str(value)) for name, value in pairs]
        for name, value in self.headers:
            check_field(name, value)
        if self.body and not self.has("Content-Type"):
            self.headers.append(("Content-Type", content_type))

    def has(self, name: str) -> bool:
        """Whether a header field was set."""
        return any(key.lower() == name.lower() for key, _ in self.headers)

    def _encode(self, *, head_only: bool = False) -> bytes:
        """The bytes on the wire; `head_only` leaves the body out (HEAD)."""
        headers = self.headers
        has_body = may_have_body(self.status)
        if has_body and not self.has("Content-Length"):
            headers = [*headers, ("Content-Length", str(len(self.body)))]
        head = encode_head(self.status, headers)
        return head if head_only or not has_body else head + self.body

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def check_field(name: str, value: str) -> None:
    """Refuse a header field that a parser would take for another, or for several.

    Raises:
        ValueError: The name is no token (RFC 9110 §5.1), or there is a line break.
    """
    if re.search(r"[\r\n\0]", name + value):
        raise ValueError(f"header {name!r} contains a line break: {value!r}")
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"header {name!r} must have a name such as 'X-Name'")


def may_have_body(status: int) -> bool:
    """Whether a response, other than to HEAD, has a body (RFC 9110 §6.4.1)."""
    return status >= 200 and status not in (204, 304)


def encode_head(
    status: int, headers: Iterable[tuple[str, str]], reason: str | None = None
) -> bytes:
    """Status line, header fields and the empty line after them.

    Raises:
        ValueError: A header field is invalid; see `check_field`.
    """
    if reason is None:
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}"]
    for name, value in headers:
        # Check again: a field may have been added after the constructor's check.
        check_field(name, value)
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def _encode_body(body: Any) -> tuple[bytes, str]:
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    if isinstance(body, dict | list):
        # NaN is not JSON (RFC 8259 §6), and browsers would not parse it.
        return json.dumps(body, allow_nan=False).encode(), "application/json"
    raise TypeError(f"body must be str, bytes, dict or list, not {type(body).__name__}")

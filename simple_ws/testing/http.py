"""`HTTPAnswer`: a plain HTTP response, as a test sees it."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPResponse
from io import BytesIO
from typing import Any

__all__ = ["HTTPAnswer", "parse_answer", "request_bytes"]


class HTTPAnswer:
    """The response of a server to a plain HTTP request.

    Attributes:
        status, reason: from the status line.
        headers: header fields of the response; names are case-insensitive.
        body: bytes.
    """

    def __init__(self, status: int, reason: str, headers: Any, body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, parsed as JSON."""
        import json

        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<HTTPAnswer {self.status} {self.reason}>"


def request_bytes(
    method: str, path: str, headers: Mapping[str, str], body: bytes
) -> bytes:
    """A whole request, as it is sent."""
    fields = {"Host": "testserver", "Connection": "close", **headers}
    if body:
        fields.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def parse_answer(data: bytes, method: str) -> HTTPAnswer:
    """Parse a whole response to a request with this method."""

    class Source:
        def makefile(self, mode: str) -> BytesIO:
            return BytesIO(data)

    response = HTTPResponse(Source(), method=method)  # type: ignore[arg-type]
    response.begin()
    return HTTPAnswer(
        response.status, response.reason, response.headers, response.read()
    )

"""`HTTPAnswer`: a plain HTTP response, as a test sees it."""

from __future__ import annotations

from http.client import HTTPResponse
from io import BytesIO
from typing import Any

__all__ = ["HTTPAnswer", "parse_answer"]


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

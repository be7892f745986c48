"""Plain HTTP on the same port: routes, files, WSGI, and how requests are answered."""

from ..protocol.http11 import Fields, Headers, Request
from ..protocol.response import Response

__all__ = ["Fields", "Headers", "Request", "Response"]

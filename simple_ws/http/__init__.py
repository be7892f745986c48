"""Plain HTTP on the same port: routes, files, WSGI, and how requests are answered."""

from ..protocol.fields import Fields, Headers
from ..protocol.request import Request
from ..protocol.response import Response

__all__ = ["Fields", "Headers", "Request", "Response"]

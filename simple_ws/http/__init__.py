"""Plain HTTP on the same port: what users handle, and how it is answered."""

from ..protocol.http11 import Fields, Headers, Request, Response

__all__ = ["Fields", "Headers", "Request", "Response"]

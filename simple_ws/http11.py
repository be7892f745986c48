"""Requests, responses and their header fields, as users import them."""

from .protocol.fields import Fields, Headers
from .protocol.request import Request
from .protocol.response import Response

__all__ = ["Fields", "Headers", "Request", "Response"]

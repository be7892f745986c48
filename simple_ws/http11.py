"""Requests, responses and their header fields, as users import them."""

from .protocol.http11 import Fields, Headers, Request
from .protocol.response import Response

__all__ = ["Fields", "Headers", "Request", "Response"]

"""The server API of `live`: what other programs ask for over HTTP."""

from .endpoint import Api, check_keys

__all__ = ["Api", "check_keys"]

"""The address of a client's server: a string, or a function that returns one.

A function is called before each attempt to connect, so that the address can contain
current values: a fresh token, the last message received, another server.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import ConnectError, ConnectTimeout
from ..protocol.uri import URI, parse_uri

__all__ = ["Address", "AsyncAddress", "ask", "ask_async", "read_address"]

Address = str | Callable[[], str]
AsyncAddress = str | Callable[[], str | Awaitable[str]]


def read_address(url: Any) -> URI | None:
    """The address, validated; None for a function, which is not called yet.

    Raises:
        TypeError: It is neither a str nor a function.
        InvalidURI: It is not the address of a WebSocket server.
    """
    return None if callable(url) else parse_uri(url)


def ask(function: Callable[[], Any]) -> URI:
    """The address that a function returns.

    Raises:
        TypeError: It returned something other than a str.
        InvalidURI: It did not return the address of a WebSocket server.
        ConnectError: It raised an `OSError`, for example if a token server is down.
    """
    try:
        url = function()
    except OSError as error:
        raise _failed(function, error) from error
    if inspect.isawaitable(url):
        if inspect.iscoroutine(url):
            url.close()
        raise TypeError(
            f"{_name(function)} is for `simple_ws.aio.connect`: it is async"
        )
    return _checked(function, url)


async def ask_async(function: Callable[[], Any], timeout: float) -> URI:
    """The same for asyncio, where the function may be a coroutine function.

    Args:
        function: the function to call.
        timeout: seconds; after that `ConnectTimeout` is raised.
    """
    import asyncio  # the blocking client does not need it

    try:
        async with asyncio.timeout(timeout) as timer:
            url = function()
            if inspect.isawaitable(url):
                url = await url
    except OSError as error:
        if timer.expired():
            problem = f"returned no address within {timeout:g} s"
            raise ConnectTimeout(_name(function), problem) from None
        raise _failed(function, error) from error
    return _checked(function, url)


def _checked(function: Callable[[], Any], url: Any) -> URI:
    if not isinstance(url, str):
        kind = type(url).__name__
        raise TypeError(f"{_name(function)} must return the url as a str, not {kind}")
    return parse_uri(url)


def _failed(function: Callable[[], Any], error: OSError) -> ConnectError:
    if isinstance(error, ConnectError):
        return error
    # Not its text, which may contain the address of a token server.
    return ConnectError(_name(function), f"returned no address: {type(error).__name__}")


def _name(function: Callable[[], Any]) -> str:
    return f"{getattr(function, '__qualname__', type(function).__name__)}()"

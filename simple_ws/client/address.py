"""The address of a client's server: a string, or a function that is asked for one.

A function is asked anew before each attempt to connect, so that the address can name
what has changed meanwhile: a fresh token, the last message received, another server.
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
    """The address, checked; None for a function, which is not asked yet.

    Raises:
        TypeError: It is neither a str nor a function.
        InvalidURI: It is no address of a WebSocket server.
    """
    return None if callable(url) else parse_uri(url)


def ask(function: Callable[[], Any]) -> URI:
    """The address that a function returns.

    Raises:
        TypeError: It returned something other than a str.
        InvalidURI: It returned no address of a WebSocket server.
        ConnectError: It raised an `OSError`, such as a server of tokens that is down.
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
        function: to be asked.
        timeout: seconds; beyond, `ConnectTimeout` is raised.
    """
    import asyncio  # the blocking client does without

    try:
        async with asyncio.timeout(timeout) as timer:
            url = function()
            if inspect.isawaitable(url):
                url = await url
    except OSError as error:
        if timer.expired():
            problem = f"gave no address within {timeout:g} s"
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
    # Not its text, which may hold the address of a server of tokens.
    return ConnectError(_name(function), f"gave no address: {type(error).__name__}")


def _name(function: Callable[[], Any]) -> str:
    return f"{getattr(function, '__qualname__', type(function).__name__)}()"

"""What the system says of a failed attempt to connect, as an exception with advice."""

from __future__ import annotations

import os
import re
from errno import ECONNREFUSED
from socket import gaierror

from ..errors import ConnectError, ConnectTimeout, ProxyError, TLSError
from ..protocol.uri import URI

__all__ = ["explain", "unreachable"]


def explain(uri: URI, error: OSError) -> ConnectError:
    """The exception for a failed connection attempt, with advice."""
    url, number = uri.shown, _number(error)
    if isinstance(error, TimeoutError):
        return ConnectTimeout(url, "the server does not answer")
    if isinstance(error, gaierror):
        return ConnectError(
            url, f"the name of the server is not known: {error.strerror}"
        )
    # By name: some Pythons have no `ssl`, and it is imported only when needed.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "SSLCertVerificationError" in kinds:
        why = getattr(error, "verify_message", "")
        hint = "server_hostname=... or ssl=... with the server's authority may help"
        return TLSError(url, f"its certificate is not accepted: {why}; {hint}")
    if "SSLError" in kinds:
        why = getattr(error, "reason", None) or str(error)
        hint = "; try ws://" if why == "WRONG_VERSION_NUMBER" else ""
        return TLSError(url, f"TLS failed: {why}{hint}")
    if number == ECONNREFUSED:
        return ConnectError(url, "connection refused; is the server running there?")
    text = os.strerror(number) if number else str(error)
    return ConnectError(url, text or "the connection was lost")


def unreachable(proxy: URI, uri: URI, error: OSError) -> ProxyError:
    """The exception for a proxy that could not be reached."""
    why = explain(proxy, error).problem
    return ProxyError(uri.shown, f"the proxy {proxy.host_and_port}: {why}")


def _number(error: OSError) -> int | None:
    """The errno of an error, also of one that asyncio combined from several."""
    if error.errno is None:
        numbers = set(re.findall(r"\[Errno (\d+)\]", str(error)))
        return int(numbers.pop()) if len(numbers) == 1 else None
    return error.errno

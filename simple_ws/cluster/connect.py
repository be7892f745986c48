"""Connecting to an engine: names, TCP, TLS and Unix sockets, within a deadline.

It blocks: `link` calls it in a thread, `publisher` where it is used. Entering (HELLO,
AUTH) is left to the engine.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..client.default_tls import default_context
from ..client.dial import (
    NEXT_ATTEMPT,
    READ,
    Left,
    dial,
    dial_unix,
    shake_tls,
    wait_for,
)

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Address", "connect", "named", "tls_context"]

#: Seconds before the next attempt where the backlog of a Unix socket is full: the
#: system tells this at once, and not when there is room.
_FULL = 0.02
#: Bytes of a line before TLS.
_MAX_LINE = 65536


class Address(Protocol):
    """What is needed of `engine_address.EngineAddress`, whose `str` is for people."""

    @property
    def path(self) -> str:
        """Of a Unix socket; else empty."""

    @property
    def host(self) -> str:
        """A name or an IP address."""

    @property
    def port(self) -> int:
        """Of the host."""

    @property
    def tls(self) -> bool:
        """With TLS."""

    @property
    def ca_file(self) -> str:
        """Certificates to check the server's with; empty: those of the system."""

    @property
    def cert_file(self) -> str:
        """Our own certificate; may be empty."""

    @property
    def key_file(self) -> str:
        """The key of it, if not in the same file."""

    @property
    def verify(self) -> bool:
        """Check the server's certificate."""

    @property
    def check_hostname(self) -> bool:
        """And that it is for this host."""


def _never() -> bool:
    return False


def connect(
    address: Address,
    timeout: float,
    cancelled: Callable[[], bool] = _never,
    on_line: Callable[[bytes], object] | None = None,
) -> Any:
    """Connect to an engine; from any thread.

    Args:
        address: where it is.
        timeout: seconds. The system's name look-up has its own timeout.
        cancelled: asked some times a second whether to give it up.
        on_line: called with a line that the server sends before TLS begins; it may
            raise OSError. None: it sends none.

    Returns:
        A socket, or an `ssl.SSLSocket`, connected and non-blocking.

    Raises:
        OSError: It is not possible (`ssl.SSLError` where TLS is the reason). The text
            is one line with the address and the reason, without credentials.
    """
    end = time.monotonic() + timeout

    def left() -> float:
        if cancelled():
            raise OSError(errno.ECANCELED, "it was given up")
        rest = end - time.monotonic()
        if rest <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer in {timeout:g} s")
        return min(rest, NEXT_ATTEMPT)  # to look again whether it is cancelled

    try:
        return _connect(address, left, on_line)
    except UnicodeError:  # an empty label, or one with more than 63 characters
        raise OSError(errno.EINVAL, _text(address, "not a host name")) from None
    except OSError as error:
        raise named(error, address) from None


def _connect(
    address: Address, left: Left, on_line: Callable[[bytes], object] | None
) -> Any:
    if address.path:
        return _dial_unix(address.path, left)
    sock = dial(address.host, address.port, None, left)
    if not address.tls:
        return sock
    try:
        context = tls_context(address)
        if on_line is not None:
            on_line(_receive_line(sock, left))
    except BaseException:
        sock.close()
        raise
    return shake_tls(sock, context, address.host, left)


def _receive_line(sock: socket.socket, left: Left) -> bytes:
    """Receive a line; the server sends no more before we answer."""
    line = b""
    while not line.endswith(b"\r\n"):
        if len(line) > _MAX_LINE:
            raise OSError(errno.EMSGSIZE, "its first line is too long")
        if not wait_for(sock, READ, left()):
            continue
        data = sock.recv(4096)
        if not data:
            raise OSError(errno.ECONNRESET, "the connection was closed")
        line += data
    return line[:-2]


def _dial_unix(path: str, left: Left) -> Any:
    while True:
        try:
            return dial_unix(path, left)
        except BlockingIOError:
            time.sleep(min(left(), _FULL))


def tls_context(address: Address) -> SSLContext:
    """The context of TLS to an address; it reads files.

    Raises:
        OSError: A file cannot be read, or this Python has no TLS.
    """
    try:
        import ssl
    except ImportError:
        raise OSError(errno.ENOSYS, "this Python has no TLS") from None
    plain = not (address.ca_file or address.cert_file)
    if plain and address.verify and address.check_hostname:
        return default_context()
    context = ssl.create_default_context(cafile=_readable(address.ca_file))
    context.check_hostname = address.verify and address.check_hostname
    if not address.verify:
        context.verify_mode = ssl.CERT_NONE
    if certificate := _readable(address.cert_file):
        context.load_cert_chain(
            certificate, _readable(address.key_file), password=_refuse_password
        )
    return context


def _readable(path: str) -> str | None:
    """A path, unless it is empty; `ssl` does not say which file is missing."""
    if not path:
        return None
    with open(path, "rb"):
        return path


def _refuse_password() -> str:
    # Without this OpenSSL would ask at the terminal, and a service would hang.
    raise OSError(errno.EACCES, "the key is encrypted")


def named(error: OSError, address: Address) -> OSError:
    """The same error with a text for people: one line with the address."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename:
        reason = f"{reason}: {error.filename}"
    detail = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    if detail is None:
        number = error.errno or errno.EIO
        return OSError(number, _text(address, reason))
    # OpenSSL's own words, without its numbers and the line of its source.
    detail = str(detail).replace("_", " ").lower()
    return type(error)(error.errno, _text(address, f"TLS: {detail}"))


def _text(address: Address, reason: str) -> str:
    return f"cannot connect to {address}: {reason}"

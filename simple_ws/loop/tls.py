"""TLS on accepted sockets: a context from files, and a socket that encrypts.

`TLSSocket` has the methods of a non-blocking socket that connections use. Reading and
writing records is left to `TLSRecords`, in C or in Python; choosing whom to serve, and
the deadline of the handshake, to the owner of the connection.

Ciphertext that does not come from `send` (handshake, replies to the peer's TLS, alerts)
belongs to no call: when the system does not take it, a timer tries again.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from .. import speedups
from .._fallback.tls import reason_of
from .forks import close_socket

if TYPE_CHECKING:
    from .._fallback.tls import TLSRecords
else:
    TLSRecords = speedups.tls_records()

__all__ = ["TLSSocket", "server_context"]

logger = logging.getLogger("simple_ws")

#: Bytes encrypted at once; hardly more ciphertext than this ever waits. Four records of
#: the largest size (RFC 8446 §5.1).
_PIECE = 65536
#: Limit for ciphertext not caused by `send`. Handshakes have 3,000 to 20,000 bytes; a
#: peer that exceeds this provokes replies (KeyUpdate, RFC 8446 §4.6.3) and does not
#: read them.
_MAX_OWED = 262144
#: Seconds until such ciphertext is offered again to a system that did not take it.
_RETRY = 0.02


class Cancellable(Protocol):
    """A timer (`timers.Timer` is one)."""

    def cancel(self) -> object:
        """Cancel it."""


def server_context(
    context: ssl.SSLContext | None, certfile: str | None, keyfile: str | None
) -> ssl.SSLContext:
    """The TLS context of a server: the given one, or one created from files.

    Args:
        context: for servers, checked by `checks.ssl_context`; used as it is.
        certfile: PEM file with the certificate and its chain.
        keyfile: PEM file with the private key, if it is not in `certfile`.

    Returns:
        The context; one created here accepts TLS 1.2 and later.

    Raises:
        ValueError: Options that exclude or need each other; files that do not hold a
            certificate and key, or do not match.
        OSError: A file cannot be read; `filename` is its path.
    """
    if context is not None:
        if certfile is not None or keyfile is not None:
            raise ValueError("either ssl or certfile and keyfile, not both")
        return context
    if certfile is None:
        raise ValueError(f"keyfile {keyfile!r} needs a certfile")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation lets a peer repeat the costly part of the handshake at will.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # RFC 6455 §4.1 requires HTTP/1.1; some clients insist on ALPN (RFC 7301).
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certfile, keyfile)
    return context


def _load(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    _check_readable("certfile", certfile)
    if keyfile is not None:
        _check_readable("keyfile", keyfile)
    named = f"certfile {certfile!r}"
    if keyfile is not None:
        named += f" and keyfile {keyfile!r}"

    def refuse_password() -> str:
        # Without this OpenSSL would prompt at the terminal, and a service would hang.
        raise ValueError(f"{named}: the key is encrypted; load it into an ssl context")

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_password)
    except ssl.SSLError as error:
        reason = reason_of(error) if error.reason else "no certificate and key in PEM"
        raise ValueError(f"{named} cannot be used: {reason}") from None


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(error.errno, f"{option}: {what}", path) from None


class TLSSocket(TLSRecords):
    """The server's end of a TLS connection, with the API of a non-blocking socket.

    Args:
        context: TLS context of the server.
        sock: accepted and non-blocking; this object owns it from now on.
        address: of the peer, for the log.
        call_later: calls a function in so many seconds, in this thread
            (`Reactor.call_later`).
        may_say: whether another line of a kind may be logged (`Log.may_say`).
    """

    #: Output is encrypted (`Request.secure`).
    secure = True

    __slots__ = (
        "_address",
        "_call_later",
        "_may_say",
        "_notified",
        "_shut",
        "_timer",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        sock: socket.socket,
        address: Any,
        call_later: Callable[[float, Callable[[], object]], Cancellable],
        may_say: Callable[[str], bool] = lambda kind: True,
    ) -> None:
        super().__init__(context, sock, _PIECE)
        self._may_say = may_say
        self._address = address
        self._call_later = call_later
        self._shut = False  # shut down once everything is written
        self._notified = False  # our close_notify was written
        self._timer: Cancellable | None = None

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._sock.fileno()

    def _shake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            fault = reason_of(error)
            text = "TLS handshake of %s failed: %s"
            self._say(logging.INFO, "TLS failed", text, self._address, fault)
            self._end(fault)
        else:
            self._shaken = True
        return self._shaken

    def _on_early_end(self) -> None:
        text = "%s left before its TLS handshake was done"
        self._say(logging.DEBUG, "left before TLS", text, self._address)

    def _say(self, level: int, kind: str, text: str, *args: object) -> None:
        """Log one line, unless there were enough of its kind: scanners are many."""
        if logger.isEnabledFor(level) and self._may_say(kind):
            logger.log(level, text, *args)

    def _answer(self) -> None:
        if self._owed > _MAX_OWED and self._fault is None:
            self._end("the peer does not read what it makes us answer")
        if self._owed:
            with suppress(OSError):  # the next read reports the reason better
                if not self._flush():
                    self._try_later()

    def _try_later(self) -> None:
        """Flush later: the owner may have nothing to send."""
        if self._timer is None:
            self._timer = self._call_later(_RETRY, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        with suppress(OSError):
            self._write_rest(socket.SHUT_WR)

    # Ending

    def shutdown(self, how: int) -> None:
        """Announce the end of our output: close_notify, then the socket's own end.

        Args:
            how: `socket.SHUT_WR`; the other direction ends when the peer ends it.

        Raises:
            OSError: The connection is lost.
        """
        self._shut = True
        self._write_rest(how)

    def _write_rest(self, how: int) -> None:
        """Write the pending ciphertext, then the end if `shutdown` was called."""
        if self._busy:  # called between two lines of another method
            self._try_later()
            return
        try:
            self._busy = True
            if self._shut:
                self._notify()
            if not self._flush():
                self._try_later()
            elif self._shut:
                self._sock.shutdown(how)
        finally:
            self._busy = False

    def _notify(self) -> None:
        """Write our close_notify, once."""
        if self._shaken and self._fault is None and not self._notified:
            self._notified = True
            # `unwrap` writes our close_notify and then looks for the peer's; `recv`
            # does that too.
            with suppress(ssl.SSLError):
                self._object.unwrap()

    def close(self) -> None:
        """Close the socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._detach()
        close_socket(self._sock)

    def close_copy(self) -> None:
        """Close a forked process's copy; see `forks`."""
        self._detach()
        self._sock.close()

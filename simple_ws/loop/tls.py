"""TLS on accepted sockets: a context from files, and a socket that encrypts.

`TLSSocket` has the methods of a non-blocking socket that connections use. It drives an
`ssl.SSLObject` between two `ssl.MemoryBIO`s, so that network bytes and user bytes never
wait for each other, which `ssl.SSLSocket` cannot guarantee (its `recv` may need to
write). Choosing whom to serve, and the deadline of the handshake, are left to the owner
of the connection.

What counts as sent: the owner keeps plaintext until it is reported as sent, drops whole
messages of which nothing was sent, and calls again when the socket is writable while it
has output left. Meanwhile this class may hold ciphertext that the system has not taken
yet. Let `encrypted` be the bytes of plaintext encrypted so far, and `reported` the
bytes reported as sent:

1. `encrypted - reported` is 0 or 1. It is 1 (`_held`) only when everything offered is
   encrypted and ciphertext waits: the last byte offered is held back, so that the owner
   has output left and calls again. When it is offered again, it is skipped.
2. That byte is the last of a message. No message (frame, HTTP response) has only one
   byte, so the owner sees a message that was sent in part, and finishes it.
3. When not everything offered is encrypted, nothing is held back: the owner has output
   left anyway. A byte held back there could be the first of a message, which the owner
   would regard as not started, and might drop.

Ciphertext that does not come from `send` (handshake, replies to the peer's TLS, alerts)
belongs to no call: when the system does not take it, a timer tries again.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from .forks import close_socket

__all__ = ["TLSSocket", "server_context"]

logger = logging.getLogger("simple_ws")

#: Bytes of one read from the network; all plaintext of a read is returned at once.
_READ_SIZE = 65536
#: Bytes encrypted at once; hardly more ciphertext than this ever waits. Four records of
#: the largest size (RFC 8446 §5.1).
_PIECE = 65536
#: Bytes of one read from the `SSLObject`, which returns at most one record.
_RECORD = 16384
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
        reason = _reason(error) if error.reason else "no certificate and key in PEM"
        raise ValueError(f"{named} cannot be used: {reason}") from None


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(error.errno, f"{option}: {what}", path) from None


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's error text, without its punctuation."""
    return (error.reason or str(error)).replace("_", " ").lower()


class TLSSocket:
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
        "_busy",
        "_call_later",
        "_ciphertext",
        "_ended",
        "_fault",
        "_held",
        "_incoming",
        "_may_say",
        "_notified",
        "_object",
        "_outgoing",
        "_shaken",
        "_shut",
        "_sock",
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
        self._sock = sock
        self._may_say = may_say
        self._address = address
        self._call_later = call_later
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, True)
        self._ciphertext = memoryview(b"")  # from `_outgoing`, offered to the system
        self._held = 0  # bytes encrypted and not reported: 0 or 1
        self._shaken = False  # the handshake is done
        self._ended = False  # nothing more will be received
        self._fault: str | None = None
        self._shut = False  # shut down once everything is written
        self._notified = False  # our close_notify was written
        # Set while a method runs. A signal handler or `__del__` may run between any two
        # lines of it, and must not encrypt or send anything then.
        self._busy = False
        self._timer: Cancellable | None = None

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._sock.fileno()

    # Receiving

    def recv(self, size: int) -> bytes:
        """All plaintext of one read from the network; also drives the handshake.

        No plaintext is left here, because no selector would report it.

        Args:
            size: ignored; more or less may be returned.

        Returns:
            Some bytes; none when the peer will send no more.

        Raises:
            BlockingIOError: There is no plaintext yet.
            OSError: The connection is lost, or the peer violated TLS.
        """
        plain = b""
        if self._busy:
            raise BlockingIOError(errno.EAGAIN, "called while another call runs")
        if self._fault is None and not self._ended:
            try:
                self._busy = True
                plain = self._take_in(self._sock.recv(_READ_SIZE))
                self._answer()
            except OSError:
                raise
            except BaseException:
                self._end("interrupted")  # what was decrypted is lost
                raise
            finally:
                self._busy = False
        if plain:
            return plain
        if self._fault is not None:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS: {self._fault}")
        if self._ended:
            return b""
        raise BlockingIOError(errno.EAGAIN, "no complete TLS record yet")

    def _take_in(self, data: bytes) -> bytes:
        if data:
            self._incoming.write(data)
            return self._decrypt() if self._shaken or self._shake() else b""
        # The peer ended without close_notify. WebSocket frames and HTTP lengths show by
        # themselves whether something is missing, and many peers just disconnect.
        # OpenSSL must not see it: it would fail, and pending output would be lost.
        if not self._shaken:
            text = "%s left before its TLS handshake was done"
            self._say(logging.DEBUG, "left before TLS", text, self._address)
        self._end(None)
        return b""

    def _shake(self) -> bool:
        """Continue the handshake; return whether it is done."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            fault = _reason(error)
            text = "TLS handshake of %s failed: %s"
            self._say(logging.INFO, "TLS failed", text, self._address, fault)
            self._end(fault)
        else:
            self._shaken = True
        return self._shaken

    def _say(self, level: int, kind: str, text: str, *args: object) -> None:
        """Log one line, unless there were enough of its kind: scanners are many."""
        if logger.isEnabledFor(level) and self._may_say(kind):
            logger.log(level, text, *args)

    def _decrypt(self) -> bytes:
        parts = []
        try:
            while part := self._object.read(_RECORD):
                parts.append(part)
            self._end(None)  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end(None)  # likewise; ours was sent before
        except ssl.SSLError as error:
            self._end(_reason(error))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _end(self, fault: str | None) -> None:
        self._fault = fault
        self._ended = True
        # Keep the socket readable, as if the peer had ended, even when plaintext must
        # be returned first.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def _answer(self) -> None:
        """Send what OpenSSL replies to the peer."""
        if self._outgoing.pending > _MAX_OWED and self._fault is None:
            self._end("the peer does not read what it makes us answer")
        if self._outgoing.pending:
            with suppress(OSError):  # the next read reports the reason better
                if not self._flush():
                    self._try_later()

    # Sending

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send; the module docstring defines what counts as sent.

        Args:
            data: begins with the bytes not reported as sent before.

        Returns:
            How many bytes count as sent.

        Raises:
            BlockingIOError: No byte counts as sent.
            OSError: The connection is lost or not ready, or TLS has failed.
        """
        if not self._shaken or self._fault is not None:
            raise ConnectionAbortedError(
                errno.ECONNABORTED, f"TLS: {self._fault or 'no handshake'}"
            )
        if self._busy:
            raise BlockingIOError(errno.EAGAIN, "called while another call runs")
        try:
            self._busy = True
            return self._encrypt(memoryview(data))
        except OSError:
            raise
        except BaseException:
            self._end("interrupted")  # it is unknown what was sent
            raise
        finally:
            self._busy = False

    def _encrypt(self, view: memoryview) -> int:
        if not self._flush():
            raise BlockingIOError(errno.EAGAIN, "ciphertext is waiting")
        total = len(view)
        done = min(self._held, total)
        self._held -= done
        while done < total:
            done += self._write(view[done : done + _PIECE])
            if not self._flush():
                return self._report(done, total)
        return total

    def _report(self, done: int, total: int) -> int:
        """How many of `done` encrypted bytes count as sent while ciphertext waits."""
        if done < total:
            return done
        self._held = 1
        if total == 1:
            raise BlockingIOError(errno.EAGAIN, "ciphertext is waiting")
        return total - 1

    def _write(self, piece: memoryview) -> int:
        try:
            return self._object.write(piece)
        except ssl.SSLError as error:
            fault = _reason(error)
            self._end(fault)
            raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS: {fault}") from None

    def _flush(self) -> bool:
        """Write ciphertext to the system; return whether it took all."""
        while True:
            if not self._ciphertext:
                if not self._outgoing.pending:
                    return True
                self._ciphertext = memoryview(self._outgoing.read())
            try:
                sent = self._sock.send(self._ciphertext)
            except (BlockingIOError, InterruptedError):
                return False
            if not sent:
                return False
            self._ciphertext = self._ciphertext[sent:]

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
        close_socket(self._sock)

    def close_copy(self) -> None:
        """Close a forked process's copy; see `forks`."""
        self._sock.close()

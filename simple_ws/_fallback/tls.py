"""The records of a TLS connection; the specification of `_c/tls.pxi`.

`TLSRecords` drives an `ssl.SSLObject` between two `ssl.MemoryBIO`s, so that network
bytes and user bytes never wait for each other, which `ssl.SSLSocket` cannot guarantee
(its `recv` may need to write). Handshakes, the log, timers and the end are left to
`loop/tls.TLSSocket`, which is a subclass.

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
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import suppress

__all__ = ["TLSRecords", "reason_of"]

#: Bytes of one read from the network; all plaintext of a read is returned at once.
_READ_SIZE = 65536
#: Bytes of one read from the `SSLObject`, which returns at most one record.
_RECORD = 16384


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's error text, without its punctuation."""
    return (error.reason or str(error)).replace("_", " ").lower()


class TLSRecords:
    """The records of the server's end of a TLS connection.

    Args:
        context: TLS context of the server.
        sock: accepted and non-blocking.
        piece: bytes encrypted at once; hardly more ciphertext than this ever waits.
    """

    __slots__ = (
        "_busy",
        "_ciphertext",
        "_ended",
        "_fault",
        "_held",
        "_incoming",
        "_object",
        "_outgoing",
        "_piece",
        "_shaken",
        "_sock",
    )

    def __init__(
        self, context: ssl.SSLContext, sock: socket.socket, piece: int
    ) -> None:
        self._sock = sock
        self._piece = piece
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, True)
        self._ciphertext = memoryview(b"")  # from `_outgoing`, offered to the system
        self._held = 0  # bytes encrypted and not reported: 0 or 1
        self._shaken = False  # the handshake is done
        self._ended = False  # nothing more will be received
        self._fault: str | None = None
        # Set while a method runs. A signal handler or `__del__` may run between any two
        # lines of it, and must not encrypt or send anything then.
        self._busy = False

    @property
    def _owed(self) -> int:
        """Bytes of ciphertext that the system has not taken yet."""
        return len(self._ciphertext) + self._outgoing.pending

    def _shake(self) -> bool:
        """Continue the handshake; return whether it is done. For the subclass."""
        raise NotImplementedError

    def _on_early_end(self) -> None:
        """The peer has left before the handshake was done. For the subclass."""
        raise NotImplementedError

    def _answer(self) -> None:
        """Send what OpenSSL replies to the peer. For the subclass."""
        raise NotImplementedError

    def _detach(self) -> None:
        """The socket is closed: its descriptor may belong to another one now."""

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
            self._on_early_end()
        self._end(None)
        return b""

    def _decrypt(self) -> bytes:
        parts = []
        try:
            while part := self._object.read(_RECORD):
                parts.append(part)
                # OpenSSL reads no further than the record it returns; asking for
                # another one would cost an exception.
                if not self._incoming.pending and not self._object.pending():
                    break
            else:
                self._end(None)  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end(None)  # likewise; ours was sent before
        except ssl.SSLError as error:
            self._end(reason_of(error))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _end(self, fault: str | None) -> None:
        self._fault = fault
        self._ended = True
        # Keep the socket readable, as if the peer had ended, even when plaintext must
        # be returned first.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    # Sending

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send; the head of `_fallback/tls.py` defines what counts as sent.

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
            end = total  # a piece that is little larger is not split
            if total - done > self._piece + (self._piece >> 4):
                end = done + self._piece
            while done < end:  # one record each
                done += self._write(view[done:end])
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
            fault = reason_of(error)
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

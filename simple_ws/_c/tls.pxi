# The records of TLS connections in C, the twin of `_fallback/tls.py`; included by
# `_speedups.pyx` after `_c/openssl.pxi` and `_c/loop.pxi`.
#
# The handshake is Python's (`SSLObject.do_handshake`: certificates by name, errors,
# sessions). Afterwards a read is one `recv`, and each record goes from the buffer of
# that through OpenSSL to where its bytes are needed; a write is one `send` for up to
# 64 KiB. The ciphertext of a read has a place some way behind that of its plaintext in
# the same buffer; what was decrypted never gets ahead of what was not.

cdef enum:
    #: Bytes of a record at most (RFC 8446 §5.1, RFC 5246 §6.2.1), without its header.
    RECORD_SIZE = 16384
    #: More than a whole record with its header: what OpenSSL may have kept of the last
    #: read, and return before anything of this one.
    GAP = 18688
    #: Bytes of one read from the network: four records of the largest size, and a small
    #: one, with room for what TLS adds.
    CIPHERTEXT = 66560
    #: What TLS adds to a record at most, for the size of a buffer only.
    ADDED = 64
    #: A read needs a buffer of this size.
    TLS_BUFFER = GAP + CIPHERTEXT

cdef object _no_record = "no complete TLS record yet"
cdef object _waiting = "ciphertext is waiting"
cdef object _no_handshake = "TLS: no handshake"
cdef object _nested = "called while another call runs"


cdef inline int descriptor_of(object sock) except? -1:
    """The descriptor of a plain socket; -1: it is used by its methods, because it is
    not a plain one (TLS, a test's), or the system knows no such descriptors."""
    if SOCKET_CALLS and type(sock) is _plain_socket:
        return sock.fileno()
    return -1


cdef class TLSRecords:
    """TLSRecords(context, sock, piece)
--

The records of the server's end of a TLS connection.

    Args:
        context: TLS context of the server.
        sock: accepted and non-blocking.
        piece: bytes encrypted at once; hardly more ciphertext than this ever waits.
    """

    cdef readonly object _sock
    cdef readonly object _object
    cdef readonly object _fault
    cdef SSL* ssl
    cdef BIO* bio
    cdef Wire* wire  # of `bio`
    cdef int fd
    cdef public uint32_t _piece
    cdef public flag _busy
    cdef public flag _shaken
    cdef readonly flag _ended
    cdef flag held

    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    def __init__(
        self, context: ssl.SSLContext, sock: socket.socket, piece: int
    ) -> None:
        if self.ssl != NULL:
            raise RuntimeError("initialized twice")
        self._sock = sock
        self._piece = piece
        self.ssl = self.make_object(context)
        SSL_up_ref(self.ssl)
        self.wire = connect_wire(self.ssl, &self.bio)
        if self.wire == NULL:
            raise MemoryError
        self.fd = descriptor_of(sock)

    def __dealloc__(self):
        if self.bio != NULL:
            BIO_free(self.bio)
        if self.ssl != NULL:
            SSL_free(self.ssl)

    cdef SSL* make_object(self, object context) except NULL:
        """Let Python make its object, and return that of OpenSSL within."""
        cdef uint64_t before
        cdef SSL* found
        cdef int attempt
        bio = _memory_bio
        for attempt in range(3):  # a signal handler or `__del__` may make others
            before = count_births()
            self._object = context.wrap_bio(bio(), bio(), True)
            found = only_birth(before)
            if found != NULL:
                return found
        raise ConnectionAbortedError(ECONNABORTED, "TLS: too many objects at once")

    @property
    def _owed(self) -> int:
        """Bytes of ciphertext that the system has not taken yet."""
        return self.wire.out_used - self.wire.out_sent if self.wire != NULL else 0

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
        self.fd = -1

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
        cdef uint8_t* buffer = <uint8_t*> malloc(TLS_BUFFER)
        cdef Py_ssize_t got
        if buffer == NULL:
            raise MemoryError
        try:
            got = self.read(NULL, 0, buffer, TLS_BUFFER)
            if got < 0:
                raise BlockingIOError(EAGAIN, _no_record)
            return PyBytes_FromStringAndSize(<char*> buffer, got)
        finally:
            free(buffer)

    cdef Py_ssize_t read(
        self, PyObject* block, size_t start, uint8_t* buffer, size_t size
    ) except -2:
        """Read once, into the rest of a bytes object from `start` on, if there is one,
        and then into the buffer, which has `size` bytes.

        Returns:
            How many bytes in both; 0 at the end, -1 when there is none yet.
        """
        cdef Py_ssize_t got = 0
        if self.wire == NULL:
            raise ConnectionAbortedError(ECONNABORTED, _no_handshake)
        if self._busy:
            raise BlockingIOError(EAGAIN, _nested)
        if self._fault is None and not self._ended:
            self._busy = True
            try:
                got = self.take_in(block, start, buffer, size)
                if self.wire.out_used:
                    self._answer()
            except OSError:
                raise
            except BaseException:
                self._end("interrupted")  # what was decrypted is lost
                raise
            finally:
                self.wire.in_left = 0
                self._busy = False
        if got:
            return got
        if self._fault is not None:
            raise ConnectionAbortedError(ECONNABORTED, f"TLS: {self._fault}")
        return 0 if self._ended else -1

    cdef Py_ssize_t take_in(
        self, PyObject* block, size_t start, uint8_t* buffer, size_t size
    ) except -1:
        cdef size_t got = self.fetch(buffer + GAP, min(size - GAP, <size_t> CIPHERTEXT))
        if got == 0:
            # The peer ended without close_notify. WebSocket frames and HTTP lengths
            # show by themselves whether something is missing, and many peers just
            # disconnect. OpenSSL must not see it: it would fail, and pending output
            # would be lost.
            if not self._shaken:
                self._on_early_end()
            self._end(None)
            return 0
        self.wire.in_ = buffer + GAP
        self.wire.in_left = got
        if not self._shaken:
            if not self._shake():
                return 0
            # It would call Python in the middle of what follows.
            SSL_set_msg_callback(self.ssl, NULL)
        return self.decrypt(block, start, buffer)

    cdef size_t fetch(self, uint8_t* to, size_t size) except? 0xFFFFFFFF:
        """Ciphertext from the network; none at its end."""
        cdef ssize_t got
        cdef bytes data
        if self.fd >= 0:
            got = c_recv(self.fd, to, size, 0)
            if got < 0:
                raise_errno()
            return <size_t> got
        data = exact_bytes(self._sock.recv(size))
        got = min(PyBytes_GET_SIZE(data), <Py_ssize_t> size)
        memcpy(to, PyBytes_AS_STRING(data), <size_t> got)
        return <size_t> got

    cdef Py_ssize_t decrypt(
        self, PyObject* block, size_t start, uint8_t* buffer
    ) except -1:
        """Decrypt all there is: into the rest of the block, then into the buffer."""
        cdef Wire* wire = self.wire
        cdef uint8_t* to
        cdef size_t room
        cdef size_t got
        cdef size_t total = 0
        cdef size_t first = 0
        if block != NULL:
            first = <size_t> PyBytes_GET_SIZE(<object> block) - start
        while True:
            if total < first:
                to = <uint8_t*> PyBytes_AS_STRING(<object> block) + start + total
                room = first - total
            else:
                to = buffer + (total - first)
                room = <size_t> (wire.in_ - to)
            ERR_clear_error()
            if not SSL_read_ex(self.ssl, to, room, &got):
                self.note_read_failure()
                return <Py_ssize_t> total
            total += got
            # Nothing is left: asking would cost as much as a small record.
            if not wire.in_left and not SSL_has_pending(self.ssl):
                return <Py_ssize_t> total

    cdef int note_read_failure(self) except -1:
        cdef int error = SSL_get_error(self.ssl, 0)
        if error == SSL_ERROR_WANT_READ:
            return 0
        if error == SSL_ERROR_ZERO_RETURN:
            self._end(None)  # close_notify
            return 0
        if self.wire.no_memory:
            raise MemoryError
        self._end(openssl_reason())
        return 0

    def _end(self, fault: str | None) -> None:
        """Nothing more will be received, because of a fault or the peer's end."""
        self._fault = fault
        self._ended = True
        # Keep the socket readable, as if the peer had ended, even when plaintext must
        # be returned first.
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass

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
        cdef View view
        cdef iovec part
        cdef size_t sent
        take_buffer(data, &view)
        try:
            part.iov_base = view.buf
            part.iov_len = <size_t> view.len
            sent = self.write(&part, 1, <size_t> view.len)
            if not sent and (view.len or self._owed):
                raise BlockingIOError(EAGAIN, _waiting)
            return sent
        finally:
            PyBuffer_Release(&view)

    cdef size_t write(self, iovec* parts, int count, size_t total) except? 0xFFFFFFFF:
        """Encrypt and send `total` bytes; the same as `send`, but for the result when
        no byte counts as sent, which is 0.

        Between the pieces a socket's method may run, if it is not a plain socket: then
        the parts must be safe from what that does.
        """
        if self.wire == NULL or not self._shaken or self._fault is not None:
            raise ConnectionAbortedError(
                ECONNABORTED,
                _no_handshake if self._fault is None else f"TLS: {self._fault}",
            )
        if self._busy:
            raise BlockingIOError(EAGAIN, _nested)
        self._busy = True
        try:
            return self.write_all(parts, count, total)
        except OSError:
            raise
        except BaseException:
            self._end("interrupted")  # it is unknown what was sent
            raise
        finally:
            self._busy = False

    cdef size_t write_all(
        self, iovec* parts, int count, size_t total
    ) except? 0xFFFFFFFF:
        cdef size_t done
        cdef size_t end
        if not self.flush():
            return 0
        done = min(<size_t> self.held, total)
        self.held = self.held and not total
        skip_parts(&parts, &count, done)
        while done < total:
            end = piece_end(done, total, self._piece)
            if not reserve_out(
                self.wire, end - done + (2 + (end - done) // RECORD_SIZE) * ADDED
            ):
                raise MemoryError
            while done < end:
                done += self.encrypt(&parts, &count, end - done)
            if not self.flush():
                return self.report(done, total)
        return total

    cdef size_t report(self, size_t done, size_t total) noexcept:
        """How many of `done` encrypted bytes count as sent while ciphertext waits."""
        if done < total:
            return done
        self.held = True
        return total - 1

    cdef size_t encrypt(
        self, iovec** parts, int* count, size_t size
    ) except? 0xFFFFFFFF:
        """Encrypt one record of at most `size` bytes from the front of the parts."""
        cdef uint8_t gathered[RECORD_SIZE]
        cdef const void* data = parts[0].iov_base
        cdef size_t part = min(size, parts[0].iov_len)
        cdef size_t written
        if part < size and part < RECORD_SIZE:
            size = min(size, <size_t> RECORD_SIZE)
            part = gather_parts(gathered, size, parts, count)
            data = gathered
        else:
            part = min(part, <size_t> RECORD_SIZE)
            skip_parts(parts, count, part)
        ERR_clear_error()
        if not SSL_write_ex(self.ssl, data, part, &written) or written != part:
            self.fail_to_write()
        return part

    cdef int fail_to_write(self) except -1:
        if self.wire.no_memory:
            raise MemoryError
        self._end(openssl_reason())
        raise ConnectionAbortedError(ECONNABORTED, f"TLS: {self._fault}")

    def _flush(self) -> bool:
        """Write ciphertext to the system; return whether it took all."""
        return self.wire == NULL or self.flush()

    cdef bint flush(self) except -1:
        cdef Wire* wire = self.wire
        cdef size_t left
        cdef size_t sent
        while True:
            left = wire.out_used - wire.out_sent
            if not left:
                drop_out(wire)
                return True
            sent = self.hand_over(wire.out + wire.out_sent, left)
            if not sent:
                return False
            wire.out_sent += sent

    cdef size_t hand_over(self, const uint8_t* data, size_t size) except? 0xFFFFFFFF:
        """Pass ciphertext to the system; return how much of it was taken."""
        cdef ssize_t sent
        cdef bytes copy
        if self.fd >= 0:
            sent = c_send(self.fd, data, size, MSG_NOSIGNAL)
            if sent < 0:
                if would_block(errno):
                    return 0
                raise_errno()
            return <size_t> sent
        copy = PyBytes_FromStringAndSize(<const char*> data, <Py_ssize_t> size)
        try:
            sent = self._sock.send(copy)
        except (BlockingIOError, InterruptedError):
            return 0
        return <size_t> min(max(sent, 0), <ssize_t> size)


cdef inline size_t piece_end(size_t done, size_t total, size_t piece) noexcept:
    """Where the next piece ends; one that is little larger is not split."""
    return total if total - done <= piece + (piece >> 4) else done + piece


cdef int raise_errno() except -1:
    cdef int error = errno
    raise OSError(error, os.strerror(error))


cdef void skip_parts(iovec** parts, int* count, size_t size) noexcept:
    """Drop bytes at the front, and parts of which nothing is left."""
    cdef size_t step
    while count[0]:
        step = min(size, parts[0].iov_len)
        parts[0].iov_base = <uint8_t*> parts[0].iov_base + step
        parts[0].iov_len -= step
        size -= step
        if parts[0].iov_len:
            return
        parts[0] += 1
        count[0] -= 1


cdef size_t gather_parts(
    uint8_t* to, size_t size, iovec** parts, int* count
) noexcept:
    """Copy bytes from the front, and drop them there; return how many there were."""
    cdef size_t done = 0
    cdef size_t step
    while done < size and count[0]:
        step = min(size - done, parts[0].iov_len)
        memcpy(to + done, parts[0].iov_base, step)
        done += step
        skip_parts(parts, count, step)
    return done


cdef object openssl_reason():
    """The last error's text, as `ssl.SSLError.reason` has it."""
    cdef const char* reason = ERR_reason_error_string(ERR_peek_last_error())
    if reason == NULL:
        return "the operation did not complete"
    # OpenSSL 3.2 has renamed alerts that Python calls by their old names.
    text = reason.decode("ascii", "replace").lower()
    return text.replace("ssl/tls alert", "sslv3 alert")


cdef object _memory_bio = None
cdef object _usable = None


def tls_records() -> type | None:
    """`TLSRecords`, if the OpenSSL of this Python can be called; else None."""
    global _memory_bio, _usable
    if _usable is None:
        import _ssl
        import ssl

        _memory_bio = ssl.MemoryBIO
        _usable = find_openssl(ssl, _ssl)
    return TLSRecords if _usable else None

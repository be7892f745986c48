# Opening handshakes of the ordinary form, in C up to `on_open`; the twin of
# `_fallback/opening.py`. Included by `_speedups.pyx` after `_c/accept.pxi`.
#
# What is decided here was worked out by `server/plans.py`, which asks the rules once.
# Whatever a plan does not cover is left to `server/upgrade.py`.

cdef extern from *:
    """
    static inline PyObject *new_object(PyObject *type, PyObject *args) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, args, NULL);
    }
    """
    object new_object(object type, object args)
    int snprintf(char* to, size_t size, const char* form, ...) nogil


cdef enum:
    KEY_SIZE = 24  # of a Sec-WebSocket-Key, in base64
    ACCEPT_SIZE = 28
    REQUEST_SIZE = 4096  # read at once; a browser's request takes 500 to 1,500

cdef bytes _GUID = GUID
cdef const char* _GUID_TEXT = _GUID
cdef bytes _ANSWER = UPGRADE_HEAD
cdef const char* _BASE64 = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)


cdef struct Peer:
    PyObject* address  # as Python has it; NULL: the others are set
    char host[HOST_SIZE]
    int port
    bint taken  # a connection has the descriptor


cdef inline uint32_t turned(uint32_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (32 - bits))


cdef void sha1_block(uint32_t* state, const uint8_t* block) noexcept nogil:
    """Add 64 bytes to a digest (RFC 3174 §6.1)."""
    cdef uint32_t words[80]
    cdef uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4]
    cdef uint32_t mixed
    cdef int t
    for t in range(16):
        words[t] = (
            (<uint32_t> block[4 * t] << 24)
            | (<uint32_t> block[4 * t + 1] << 16)
            | (<uint32_t> block[4 * t + 2] << 8)
            | block[4 * t + 3]
        )
    for t in range(16, 80):
        words[t] = turned(
            words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16], 1
        )
    for t in range(80):
        if t < 20:
            mixed = ((b & c) | (~b & d)) + <uint32_t> 0x5A827999
        elif t < 40:
            mixed = (b ^ c ^ d) + <uint32_t> 0x6ED9EBA1
        elif t < 60:
            mixed = ((b & c) | (b & d) | (c & d)) + <uint32_t> 0x8F1BBCDC
        else:
            mixed = (b ^ c ^ d) + <uint32_t> 0xCA62C1D6
        mixed += turned(a, 5) + e + words[t]
        e, d, c, b, a = d, c, turned(b, 30), a, mixed
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e


cdef void write_accept(char* to, const char* key) noexcept nogil:
    """Write the `Sec-WebSocket-Accept` of a key (RFC 6455 §4.2.2, 5.4)."""
    cdef uint8_t blocks[128]  # key, GUID, and the padding of SHA-1
    cdef uint8_t digest[21]
    cdef uint32_t state[5]
    cdef uint32_t three
    cdef int index
    memset(blocks, 0, sizeof(blocks))
    memcpy(blocks, key, KEY_SIZE)
    memcpy(blocks + KEY_SIZE, _GUID_TEXT, 36)
    blocks[60] = 0x80
    blocks[126] = 480 >> 8  # the number of bits
    blocks[127] = 480 & 0xFF
    state[0], state[1], state[2] = 0x67452301, 0xEFCDAB89, 0x98BADCFE
    state[3], state[4] = 0x10325476, 0xC3D2E1F0
    sha1_block(state, blocks)
    sha1_block(state, blocks + 64)
    for index in range(20):
        digest[index] = <uint8_t> (state[index >> 2] >> (24 - 8 * (index & 3)))
    digest[20] = 0
    for index in range(7):
        three = (
            (<uint32_t> digest[3 * index] << 16)
            | (<uint32_t> digest[3 * index + 1] << 8)
            | digest[3 * index + 2]
        )
        to[4 * index] = _BASE64[three >> 18]
        to[4 * index + 1] = _BASE64[(three >> 12) & 63]
        to[4 * index + 2] = _BASE64[(three >> 6) & 63]
        to[4 * index + 3] = _BASE64[three & 63]
    to[27] = b"="


def accept_key(str key not None):
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2, 5.4).

    Raises:
        ValueError: It has not the length of a key, 24 characters, or is not ASCII.
    """
    cdef bytes text = key.encode("ascii")
    cdef char accept[ACCEPT_SIZE]
    if PyBytes_GET_SIZE(text) != KEY_SIZE:
        raise ValueError(f"a key has 24 characters, not {len(key)}")
    write_accept(accept, PyBytes_AS_STRING(text))
    return accept[:ACCEPT_SIZE].decode("ascii")


cdef bytes answer_to(const char* key, object extension):
    """The response that opens a connection (RFC 6455 §4.2.2)."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(_ANSWER)
    cdef bytes more = b"\r\n\r\n"
    if extension is not None:
        more = f"\r\nSec-WebSocket-Extensions: {extension}\r\n\r\n".encode("latin-1")
    cdef bytes answer = PyBytes_FromStringAndSize(
        NULL, size + ACCEPT_SIZE + PyBytes_GET_SIZE(more)
    )
    cdef char* to = PyBytes_AS_STRING(answer)
    memcpy(to, PyBytes_AS_STRING(_ANSWER), <size_t> size)
    write_accept(to + size, key)
    memcpy(
        to + size + ACCEPT_SIZE,
        PyBytes_AS_STRING(more),
        <size_t> PyBytes_GET_SIZE(more),
    )
    return answer


cdef class Plan:
    """Plan(request, terms, ended, welcome, leave, handler, admit, allows, agree)
--

    What an ordinary handshake for one handler leads to.

    Args:
        request: called with a request in the form of `request.Request._packed`, and
            with the parameters of the path, if there are any; returns what has both.
        terms: (client class, host, rules, options): what connections are
            created with; rules is called with the agreement.
        ended: called with the error's text, or None: there was none; returns the
            protocol of a connection that its peer has ended so.
        welcome: called with the connection when it is open, before `on_open`.
        leave: called with it when it has ended so, before `on_close`.
        handler: of the connection.
        admit: called with the address; False: there is no room. None: there always is.
        allows: called with Origin (or None) and Host; False: the page may not connect.
            None: all may.
        agree: called with `Sec-WebSocket-Extensions`; returns the element of the
            response and the agreement, both may be None; None: it is malformed.
    """

    cdef object request
    cdef object client_class
    cdef object host
    cdef object rules
    cdef object message_rate
    cdef size_t buffer_size
    cdef size_t write_limit
    cdef object ended
    cdef object welcome
    cdef object leave
    cdef object handler
    cdef object admit
    cdef object allows
    cdef object agree

    def __init__(
        self,
        request: Callable[[bytes, dict[str, Any]], Any],
        terms: tuple[type[Any], Any, Callable[[Any], Any], Any],
        ended: Callable[[str | None], Any],
        welcome: Callable[[Any], object],
        leave: Callable[[Any], object],
        handler: Any,
        admit: Callable[[Any], bool] | None,
        allows: Callable[[str | None, str], bool] | None,
        agree: Callable[[str], tuple[Any, Any] | None],
    ) -> None:
        self.request = request
        self.client_class, self.host, self.rules, options = terms
        if not issubclass(self.client_class, ConnectionCore):
            raise TypeError(f"not a class of connections: {self.client_class!r}")
        self.message_rate = options.message_rate
        self.buffer_size = min(options.buffer_size, _MAX_READ)
        self.write_limit = min(options.write_limit, _NO_LIMIT)
        self.ended = ended
        self.welcome = welcome
        self.leave = leave
        self.handler = handler
        self.admit = admit
        self.allows = allows
        self.agree = agree

    cdef ConnectionCore create(
        self, object sock, int fd, LoopState loop, object request, object agreement
    ):
        """A connection, as its class creates it; without a socket (None), it owns the
        descriptor."""
        cdef ConnectionCore client = <ConnectionCore> new_object(self.client_class, ())
        client.set_up(loop, self.rules(agreement), self.buffer_size, self.write_limit)
        client._host = self.host
        client._handler = self.handler
        client._request_kept = request
        client.counters = <Counters?> self.handler._counters
        if self.message_rate is not None:
            client._limit_rate(*self.message_rate)
        client.plan = self
        client.own_sock = sock
        client.fd = fd if SOCKET_CALLS else -1
        client.owns_fd = sock is None
        return client


cdef class Plans:
    """Plans(exact, patterns, prefixes, rest, max_head)
--

    Which plan a path has; None where a request needs another look.

    Args:
        exact: plans by path.
        patterns: (prefix, suffix, name, plan) of paths with one parameter of this name
            between the two; without a name, of all that begin so.
        prefixes: (prefix, plan), the longest first.
        rest: the plan of all other paths.
        max_head: bytes of a request at most.
    """

    cdef dict exact
    cdef list patterns
    cdef list prefixes
    cdef Plan rest
    cdef size_t max_head

    def __init__(
        self,
        exact: dict[bytes, Plan | None],
        patterns: list[tuple[bytes, bytes, str | None, Plan | None]],
        prefixes: list[tuple[bytes, Plan | None]],
        rest: Plan | None,
        max_head: int,
    ) -> None:
        self.exact = exact
        self.patterns = patterns
        self.prefixes = prefixes
        self.rest = rest
        self.max_head = max_head

    def find(self, path: bytes) -> tuple[Plan | None, dict[str, str] | None]:
        """The plan of a path that has no `%`, and the values of its parameters."""
        cdef bytes prefix, suffix
        cdef bytes given = path
        if self.exact and given in self.exact:
            return self.exact[given], None
        for prefix, suffix, name, plan in self.patterns:
            if not given.startswith(prefix):
                continue
            if name is None:
                return None, None
            value = given[len(prefix) : len(given) - len(suffix)]
            if value and given.endswith(suffix) and b"/" not in value:
                if len(given) >= len(prefix) + len(suffix) + len(value):
                    return plan, {name: value.decode("ascii")}
        for prefix, plan in self.prefixes:
            if given.startswith(prefix) or given == prefix[:-1]:
                return plan, None
        return self.rest, None


cdef class Opener:
    """Opener(loop, make_plans)
--

    Opens connections whose handshake is ordinary.

    Args:
        loop: of the connections.
        make_plans: returns the plans, or None if no handshake is ordinary; called when
            they are needed, and again after `forget`.
    """

    cdef LoopState loop
    cdef object make_plans
    cdef Plans plans
    cdef bint known

    def __init__(
        self, loop: LoopState, make_plans: Callable[[], Plans | None]
    ) -> None:
        self.loop = loop
        self.make_plans = make_plans

    def forget(self) -> None:
        """The plans have changed; from any thread."""
        self.known = False

    def accept(
        self, sock: socket.socket
    ) -> tuple[socket.socket, Any, bytes | None] | None:
        """Accept a connection, and open it if its handshake is there and ordinary.

        Args:
            sock: listening and non-blocking.

        Returns:
            None: it is open. Otherwise the socket and the address as from
            `accept_from`, and what was read: None for nothing, b"" for the end.

        Raises:
            OSError: As from `socket.accept`.
        """
        cdef sockaddr_storage address
        cdef Peer peer
        cdef int fd
        if not SOCKET_CALLS or self.current() is None:
            return *accept_from(sock), None
        if HAVE_ACCEPT4 and type(sock) is _plain_socket:
            fd = accept_fd(sock, &address)
            peer.address = NULL
            peer.port = peer_of(&address, peer.host)
            if peer.port >= 0:
                return self.take_in(None, fd, &peer)
            accepted, known = named_socket(fd)
        else:
            accepted, known = accept_from(sock)
        peer.address = <PyObject*> known
        try:
            return self.take_in(accepted, accepted.fileno(), &peer)
        except BaseException:
            accepted.close()
            raise

    cdef object take_in(self, object sock, int fd, Peer* peer):
        """Read what has come; `sock` is None until an object is needed."""
        cdef LoopState loop = self.loop
        cdef uint8_t* buffer = loop.borrow_buffer()
        cdef ssize_t got
        cdef object data = None
        peer.taken = False
        try:
            got = c_recv(fd, buffer, REQUEST_SIZE, 0)
            if got >= 0 or not would_block(errno):
                got = max(got, 0)
                if got and self.open_from(
                    sock, fd, peer, <const char*> buffer, <size_t> got, None
                ) is not None:
                    return None
                data = PyBytes_FromStringAndSize(<char*> buffer, got)
        except BaseException:
            if sock is None and not peer.taken:
                c_close(fd)
            raise
        finally:
            loop.return_buffer(buffer)
        return owned_socket(fd) if sock is None else sock, address_of(peer), data

    def open(
        self, sock: socket.socket, address: Any, data: bytes, upgrade: Any
    ) -> Any:
        """Open a connection if its handshake is ordinary.

        Args:
            sock: a plain socket, connected and non-blocking.
            address: of the client.
            data: all that was received.
            upgrade: has the socket; `_hand_over(client)` ends that, and returns whether
                the loop knows the socket.

        Returns:
            The client; None: the handshake needs another look.
        """
        cdef Peer peer
        if self.current() is None:
            return None
        peer.address = <PyObject*> address
        return self.open_from(
            sock,
            sock.fileno(),
            &peer,
            PyBytes_AS_STRING(data),
            <size_t> PyBytes_GET_SIZE(data),
            upgrade,
        )

    cdef Plans current(self):
        if not self.known:
            # In this order: `forget` may be called meanwhile.
            self.known = True
            self.plans = self.make_plans()
        return self.plans

    cdef object open_from(
        self,
        object sock,
        int fd,
        Peer* peer,
        const char* data,
        size_t size,
        object upgrade,
    ):
        cdef Upgrade seen
        cdef Plan plan
        cdef object extension = None, agreement = None, params, request
        cdef ConnectionCore client
        cdef size_t head = scan_upgrade(&seen, data, size)
        if head == 0 or head > self.plans.max_head or seen.protocols.data != NULL:
            return None
        if peer.address != NULL and not is_usual(<object> peer.address):
            return None
        plan, params = self.find(&seen)
        if plan is None:
            return None
        if plan.allows is not None:
            if not plan.allows(span_text(&seen.origin), span_text(&seen.host)):
                return None
        if seen.extensions.size:
            agreed = plan.agree(span_text(&seen.extensions))
            if agreed is None:
                return None
            extension, agreement = agreed
        # Last: what it takes is not given back.
        if plan.admit is not None and not plan.admit(address_of(peer)):
            return None
        request = packed_request(peer, &seen)
        if params is not None:
            request = plan.request(request, params)
        client = plan.create(sock, fd, self.loop, request, agreement)
        peer.taken = True
        answer = answer_to(seen.key.data, extension)
        rest = None
        if size > head:
            rest = PyBytes_FromStringAndSize(data + head, <Py_ssize_t> (size - head))
        registered = False if upgrade is None else upgrade._hand_over(client)
        try:
            self.begin(client, plan, answer, rest, registered)
        except BaseException as error:
            # The handshake is over: the client has the socket.
            self.loop.on_failure(client, error)
        return client

    cdef int begin(
        self,
        ConnectionCore client,
        Plan plan,
        bytes answer,
        bytes rest,
        bint registered,
    ) except -1:
        """Open a connection, in the same steps as `Client._open_with`."""
        client._attached = True
        if registered:
            client._watch(READ_READY)
        else:
            watch_anew(self.loop, client)
        client.push_frames(answer)
        client.mark_dirty()
        plan.welcome(client)
        client._on_message = plan.handler._message_callback
        start_heartbeat(client)
        call_user(client, plan.handler.on_open)
        if type(client._request_kept) is not bytes:
            client._pack_request()
        if rest is not None:
            client._feed(rest)
        return 0

    cdef tuple find(self, Upgrade* seen):
        cdef const char* path = seen.target.data
        cdef size_t size = seen.target.size
        cdef const char* query = <const char*> memchr(path, b"?", size)
        if query != NULL:
            size = query - path
        if memchr(path, b"%", size) != NULL:
            return None, None
        return self.plans.find(PyBytes_FromStringAndSize(path, <Py_ssize_t> size))


cdef bint is_usual(object address) except -1:
    """Whether it can be packed: see `request.Request._packed`."""
    return (
        type(address) is tuple
        and len(<tuple> address) == 2
        and type(address[0]) is str
        and type(address[1]) is int
        and " " not in address[0]
    )


cdef object address_of(Peer* peer):
    if peer.address != NULL:
        return <object> peer.address
    return shared_address(peer.host, peer.port)


cdef bytes packed_request(Peer* peer, Upgrade* seen):
    """A request in the form of `request.Request._packed`."""
    cdef bytes who
    cdef char known[HOST_SIZE + 16]
    cdef const char* source = known
    cdef size_t size
    if peer.address == NULL:
        size = <size_t> snprintf(known, sizeof(known), b"%s %d ", peer.host, peer.port)
    else:
        address = <object> peer.address
        who = f"{address[0]} {address[1]} ".encode("utf-8", "surrogatepass")
        source = PyBytes_AS_STRING(who)
        size = <size_t> PyBytes_GET_SIZE(who)
    cdef bytes packed = PyBytes_FromStringAndSize(
        NULL, <Py_ssize_t> (size + seen.target.size + 1 + seen.fields.size)
    )
    cdef char* to = PyBytes_AS_STRING(packed)
    memcpy(to, source, size)
    to += size
    memcpy(to, seen.target.data, seen.target.size)
    to += seen.target.size
    to[0] = b"\n"
    memcpy(to + 1, seen.fields.data, seen.fields.size)
    return packed

# The heartbeat of ordinary connections in C: what `connection.keepalive` does for them,
# without Python code. Included by `_speedups.pyx` after `_c/connection.pxi`; the rules
# are those of `protocol.keepalive`.
#
# A connection is ordinary while nothing is to be told to anybody: its handler has no
# `on_ping` and no `on_pong` of its own, nothing waits to be sent, it is no TLS, and no
# ping but the last one of the heartbeat is unanswered. All else is left to `_sweep` and
# to `protocol`, and `_take_beat` tells them of an unanswered one.

cdef enum:
    PING_OPCODE = 0x9
    PONG_OPCODE = 0xA
    #: Bytes of the payload of a ping of the heartbeat: its number in hexadecimal.
    BEAT_SIZE = 8
    MAX_CONTROL = 125

#: What `look` returns instead of a deadline.
cdef double NEVER = INFINITY
cdef uint32_t _last_beat = 0


cdef class Aside:
    """What few connections have of pings and pongs."""

    cdef object pings  # unanswered ones (`protocol.keepalive.Pings`), or None
    cdef object ahead  # see `connection.keepalive`
    cdef bytes ping_payload  # None: that of the last beat
    cdef bytes pong_payload

    cdef inline bint is_empty(self) noexcept:
        return (
            self.pings is None
            and self.ahead is None
            and self.ping_payload is None
            and self.pong_payload is None
        )


cdef Aside aside_of(ConnectionCore core):
    if core.aside is None:
        core.aside = Aside()
    return core.aside


cdef inline void drop_empty_aside(ConnectionCore core):
    if core.aside is not None and core.aside.is_empty():
        core.aside = None


cdef inline void write_beat(uint8_t* to, uint32_t number) noexcept nogil:
    """The payload of a beat."""
    cdef int place
    for place in range(BEAT_SIZE - 1, -1, -1):
        to[place] = <uint8_t> _DIGITS[number & 0xF]
        number >>= 4


cdef bytes beat_payload(uint32_t number):
    cdef uint8_t payload[BEAT_SIZE]
    if not number:
        return b""
    write_beat(payload, number)
    return PyBytes_FromStringAndSize(<char*> payload, BEAT_SIZE)


cdef double look(ConnectionCore core, double now) except? -1.0:
    """Ping a silent peer; what else may be due is left to `_sweep`.

    Returns:
        When to look again, or NEVER.
    """
    cdef Counters rules = core.counters
    if not is_ordinary(core) or now - core._last_message >= rules.idle_timeout:
        return as_deadline(core._sweep(now))
    if core._last_received >= core.pinged_at:  # any byte is a sign of life
        if core.beat_pending:
            return as_deadline(core._sweep(now))
        core.pinged_at = NAN
    if core.pinged_at == core.pinged_at:
        if now - core.pinged_at >= rules.ping_timeout:
            return as_deadline(core._sweep(now))
    elif now - core._last_received >= rules.ping_interval:
        if not has_taken_all(core) and unsent_by_system(core.fd):
            return as_deadline(core._sweep(now))
        send_beat(core)
    return next_look(core, now)


cdef inline bint is_ordinary(ConnectionCore core) noexcept:
    return (
        core.counters.quiet
        and core._pings_itself
        and core.fd >= 0
        and core._open
        and not core.waiting
        and not (
            core._write_blocked
            | core._paused_by_callbacks
            | core._paused_by_backpressure
        )
        and (
            core.aside is None
            or (core.aside.pings is None and core.aside.ahead is None)
        )
    )


cdef inline bint has_taken_all(ConnectionCore core) noexcept:
    """Whether the last that the peer was sent is a ping, which it has answered."""
    return core.beat and core.answered == core.beat and not core.sent_since_beat


cdef double next_look(ConnectionCore core, double now) noexcept:
    """When `look` is due if no bytes are received."""
    cdef Counters rules = core.counters
    cdef double pinged_at = core.pinged_at
    cdef double due = core._last_received + rules.ping_interval + delay_of(core)
    if pinged_at == pinged_at and core._last_received < pinged_at:
        # Usually it has answered by then, but nothing tells the wheel.
        due = min(
            pinged_at + rules.ping_timeout,
            max(pinged_at + delay_of(core), now) + rules.ping_interval,
        )
    return min(due, core._last_message + rules.idle_timeout)


cdef inline double delay_of(ConnectionCore core) noexcept:
    """Seconds by which its pings are later than those of others."""
    return core.phase / 65536.0 * min(_LATEST_PING, core.counters.ping_interval / 4)


cdef int send_beat(ConnectionCore core) except -1:
    """Send a ping at once: nothing waits before it."""
    global _last_beat
    cdef uint8_t frame[2 + BEAT_SIZE]
    cdef ssize_t sent
    _last_beat += 1
    if not _last_beat:
        _last_beat = 1  # 0 means that there was none
    frame[0] = FINAL | PING_OPCODE
    frame[1] = BEAT_SIZE
    write_beat(frame + 2, _last_beat)
    core.pinged_at = core._loop.read_clock()
    core.beat = _last_beat
    core.beat_pending = True
    core.sent_since_beat = False
    if core.aside is not None:
        core.aside.ping_payload = None
        drop_empty_aside(core)
    sent = max(0, c_send(core.fd, frame, sizeof(frame), MSG_NOSIGNAL))
    core.bytes_sent += sent
    core.counters.bytes_sent += sent
    if sent < <ssize_t> sizeof(frame):  # the flush will find out why
        rest = PyBytes_FromStringAndSize(<char*> frame, sizeof(frame))[sent:]
        core._enqueue(memoryview(rest) if sent else rest)
    return 0


cdef bint take_control(
    ConnectionCore core, const uint8_t* payload, FrameHeader* header
) except -1:
    """Handle a whole ping or pong; false when `protocol` must."""
    cdef uint8_t plain[MAX_CONTROL]
    cdef size_t size = <size_t> header.length
    if size > MAX_CONTROL or not core.counters.quiet or not core._pings_itself:
        return False
    mask_copy(plain, payload, size, wide_key(header.key, 0))
    if header.first == FINAL | PING_OPCODE:
        return answer_ping(core, plain, size)
    return take_pong(core, plain, size)


cdef bint take_pong(ConnectionCore core, const uint8_t* plain, size_t size) except -1:
    """Handle the pong of the last beat."""
    cdef uint8_t expected[BEAT_SIZE]
    if not core.beat_pending or size != BEAT_SIZE:
        return False
    if core.aside is not None and core.aside.pings is not None:
        return False
    write_beat(expected, core.beat)
    if memcmp(plain, expected, BEAT_SIZE) != 0:
        return False
    core.last_latency = core._loop.read_clock() - core.pinged_at
    core.answered = core.beat
    core.beat_pending = False
    if core.aside is not None:
        core.aside.pong_payload = None
        drop_empty_aside(core)
    return True


cdef bint answer_ping(ConnectionCore core, const uint8_t* plain, size_t size) except -1:
    """Put a pong into the outbox (RFC 6455 §5.5.2), unless many wait already."""
    if core._write_blocked or core.queue_used or core.pongs >= MANY_PONGS:
        return False
    if core.small_used >= SMALL_LIMIT:
        return False
    core.pongs += 1
    core.write_small(PONG_OPCODE, plain, size)
    core.mark_dirty()
    note_ping(core, PyBytes_FromStringAndSize(<const char*> plain, <Py_ssize_t> size))
    return True


cdef int note_ping(ConnectionCore core, bytes payload) except -1:
    if payload or core.beat or core.aside is not None:
        aside_of(core).ping_payload = payload
    return 0

# Deadlines of very many owners, at a coarse grain; the twin of `_fallback/wheel.py`.
# Included by `_speedups.pyx` after `_c/heartbeat.pxi`.
#
# Connections are in rings whose links are fields of theirs (`_c/connection.pxi`): that
# takes 16 bytes each, and an entry of a dict 30 to 50. The links hold no references:
# whoever is in the wheel is registered elsewhere, and leaves it when it is freed.

cdef class Ring:
    """The owners that are due in the same tick."""

    cdef Link ends  # of the ring of connections
    cdef dict others  # owners that are not connections

    def __cinit__(self):
        self.ends.before = self.ends.after = &self.ends
        self.others = {}

    def __dealloc__(self):
        while self.ends.after != &self.ends:
            unlink(self.ends.after)

    cdef inline bint is_empty(self) noexcept:
        return self.ends.after == &self.ends and not self.others


#: Where `in_wheel` is in a connection.
cdef Py_ssize_t _link_offset = 0


cdef inline object owner_of(Link* link):
    return <object> <PyObject*> (<char*> link - _link_offset)


cdef inline void link_before(Link* place, Link* link) noexcept:
    link.before = place.before
    link.after = place
    place.before.after = link
    place.before = link


cdef class Wheel:
    """Wheel(grain, on_change=None, clock=None)
--

Deadlines at a coarse grain, for very many owners with one each.

    Args:
        grain: seconds; an owner is checked up to this much after its deadline, never
            before.
        on_change: called when `next_deadline` may have changed.
        clock: with it, one call of `run_due` takes a millisecond, and little more.
    """

    cdef readonly double grain
    #: When an owner must be checked next (seconds), or None.
    cdef readonly object next_deadline
    cdef object on_change
    cdef object clock
    cdef dict rings  # by tick
    cdef int64_t done  # ticks up to this one are over

    def __init__(
        self,
        double grain: float,
        on_change: Callable[[], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.grain = grain
        self.on_change = on_change
        self.clock = clock
        self.rings = {}
        self.next_deadline = None
        self.done = INT64_MIN

    def __len__(self) -> int:
        cdef Ring ring
        cdef Link* link
        cdef Py_ssize_t count = 0
        for ring in self.rings.values():
            count += len(ring.others)
            link = ring.ends.after
            while link != &ring.ends:
                count += 1
                link = link.after
        return count

    def put(self, owner: Any, double when: float) -> None:
        """Call `owner._sweep` soon after `when`; replaces its earlier deadline."""
        self.take_out(owner)
        self.insert(owner, when)

    def discard(self, owner: Any) -> None:
        """Remove an owner; no harm when it is not in."""
        self.take_out(owner)

    cdef inline int take_out(self, object owner) except -1:
        if isinstance(owner, ConnectionCore):
            unlink(&(<ConnectionCore> owner).in_wheel)
        elif owner._wheel_slot is not None:
            owner._wheel_slot.pop(owner, None)
            owner._wheel_slot = None
        return 0

    def is_due(self, double now: float) -> bool:
        """Whether an owner must be checked by now."""
        return self.next_deadline is not None and now >= self.next_deadline

    def run_due(self, double now: float) -> None:
        """Sweep owners whose deadline has passed, but not more than fit into a turn:
        `next_deadline` stays in the past then, and the next call goes on."""
        if self.next_deadline is not None and now >= self.next_deadline:
            self.sweep(now)
            if self.on_change is not None:
                self.on_change()

    cdef int sweep(self, double now) except -1:
        """See `run_due`; something is due."""
        cdef Ring ring
        cdef int left = _MOST_SWEPT
        cdef double deadline
        cdef object until = None
        cdef int64_t tick
        deadline = self.next_deadline
        if self.clock is not None:
            until = self.clock() + _SWEEP_TIME
        # Division may round to just below the tick of the deadline.
        self.done = max(
            <int64_t> (now / self.grain), <int64_t> (deadline / self.grain + 0.5)
        )
        while self.rings:
            tick = self.first_tick()
            if tick > self.done:
                break
            # Owners stay findable for `discard`: a sweep may remove any other owner.
            ring = self.rings[tick]
            while left and not ring.is_empty():
                left -= 1
                self.sweep_one(ring, now)
                if left & 7 == 0 and until is not None and self.clock() > until:
                    left = 0
            if not ring.is_empty():
                break
            del self.rings[tick]
        self.find_next()
        return 0

    cdef int insert(self, object owner, double when) except -1:
        global _link_offset
        cdef int64_t tick = <int64_t> (when / self.grain) + 1
        cdef Ring ring
        cdef Link* link
        if tick <= self.done:
            tick = self.done + 1
        ring = self.rings.get(tick)
        if ring is None:
            ring = self.rings[tick] = Ring()
            if self.next_deadline is None or tick * self.grain < self.next_deadline:
                self.note_next()
        if isinstance(owner, ConnectionCore):
            link = &(<ConnectionCore> owner).in_wheel
            _link_offset = <char*> link - <char*> <PyObject*> owner
            link_before(&ring.ends, link)
        else:
            ring.others[owner] = None
            owner._wheel_slot = ring.others
        return 0

    cdef int sweep_one(self, Ring ring, double now) except -1:
        """Let one owner check its deadlines."""
        cdef object owner
        cdef double when
        if ring.ends.after != &ring.ends:
            owner = owner_of(ring.ends.after)
        else:
            owner = next(iter(ring.others))
        self.take_out(owner)
        try:
            if isinstance(owner, ConnectionCore):
                when = look(<ConnectionCore> owner, now)
            else:
                when = as_deadline(owner._sweep(now))
        except Exception:
            raise
        except BaseException:
            self.put(owner, now)  # it was interrupted: check it again soon
            raise
        if when != NEVER:
            self.take_out(owner)  # it may have been put in meanwhile
            self.insert(owner, when)
        return 0

    cdef int note_next(self) except -1:
        if self.on_change is not None:
            self.on_change()
        return self.find_next()

    cdef int find_next(self) except -1:
        self.next_deadline = self.first_tick() * self.grain if self.rings else None
        return 0

    cdef int64_t first_tick(self) except? -1:
        """The earliest tick of a ring; there is one."""
        cdef int64_t first = INT64_MAX
        cdef Py_ssize_t pos = 0
        cdef PyObject* tick
        cdef PyObject* ring
        while PyDict_Next(self.rings, &pos, &tick, &ring):
            first = min(first, <int64_t> <object> tick)
        return first


cdef inline double as_deadline(object when) except? -1.0:
    return NEVER if when is None else when

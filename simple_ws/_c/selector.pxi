# Readiness by epoll in C; included by `_speedups.pyx` after `_c/connection.pxi`.
#
# `selectors.DefaultSelector` takes 0.37 µs a ready event, 1.2 µs when there is one;
# most of it creates objects that are never used. Here the descriptor is an index into a
# table, whose slot has the connection, which is called without a Python frame.
# Without epoll `Poller` is None and selectors.DefaultSelector serves.

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef enum:
    #: Events of one epoll_wait; further ones come with the next call, in turn.
    MAX_EVENTS = 256  # constants.MAX_READY


cdef struct Slot:
    PyObject* target  # called with the ready events; NULL: nothing is registered
    uint32_t generation  # of the registration: descriptors are reused
    uint8_t events  # selectors.EVENT_READ and EVENT_WRITE
    flag unheard  # left over from the last turn


cdef inline int descriptor(object fileobj) except? -1:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


cdef class Poller:
    """Reports which descriptors are ready, and calls their registered targets.

    The part of `selector.EpollSelector` that runs for every event.

    Attributes:
        busy_poll: seconds to poll before sleeping.
    """

    cdef public double busy_poll
    cdef int epoll
    cdef Slot* slots
    cdef int room
    cdef int count
    # What is ready, in the order in which it is called; the first ones may be left of
    # the last turn. Were they forgotten epoll would tell of the same ones first again.
    cdef epoll_event events[MAX_EVENTS]
    cdef int unheard

    def __cinit__(self):
        self.slots = NULL
        self.room = self.count = self.unheard = 0
        self.busy_poll = 0.0
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        cdef int fd
        for fd in range(self.room):
            Py_XDECREF(self.slots[fd].target)
        free(self.slots)
        if self.epoll >= 0:
            c_close(self.epoll)

    def __len__(self) -> int:
        return self.count

    def fileno(self) -> int:
        """The epoll descriptor; readable when a watched one is ready."""
        return self.epoll

    def add(self, fileobj: object, uint32_t events, target: object) -> None:
        """Register `target(ready events)`; KeyError when it is registered already.

        Args:
            fileobj: a descriptor, or an object with `fileno()`.
        """
        cdef int fd = descriptor(fileobj)
        if fd < 0:
            raise ValueError(f"invalid file descriptor: {fd}")
        self.watch(fd, events, target)

    cdef int watch(self, int fd, uint32_t events, object target) except -1:
        """See `add`."""
        cdef Slot* slot
        self.make_room(fd)
        slot = self.slots + fd
        if slot.target != NULL:
            raise KeyError(f"descriptor {fd} is registered already")
        slot.generation += 1
        self.control(EPOLL_CTL_ADD, fd, events)
        Py_INCREF(target)
        slot.target = <PyObject*> target
        slot.events = <uint8_t> events
        self.count += 1
        return 0

    def change(self, fileobj: object, uint32_t events, target: object) -> None:
        """Change a registration; KeyError when there is none."""
        cdef int fd = descriptor(fileobj)
        cdef Slot* slot = self.find(fd)
        cdef PyObject* old = slot.target
        if slot.events != events:
            self.control(EPOLL_CTL_MOD, fd, events)
        Py_INCREF(target)
        slot.target = <PyObject*> target
        slot.events = <uint8_t> events
        Py_XDECREF(old)

    def remove(self, fileobj: object) -> None:
        """Unregister a descriptor; KeyError when it is not registered."""
        self.forget(descriptor(fileobj))

    cdef int forget(self, int fd) except -1:
        """See `remove`."""
        cdef Slot* slot = self.find(fd)
        cdef PyObject* old = slot.target
        cdef epoll_event event
        slot.target = NULL
        slot.generation += 1
        self.count -= 1
        # A closed descriptor has left epoll by itself.
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, &event)
        Py_XDECREF(old)
        return 0

    def entry(self, int fd) -> tuple[int, object]:
        """(events, target) of a descriptor; KeyError when it is not registered."""
        cdef Slot* slot = self.find(fd)
        return slot.events, <object> slot.target

    def entries(self) -> list[tuple[int, int, object]]:
        """(descriptor, events, target) of everything registered."""
        cdef int fd
        return [
            (fd, self.slots[fd].events, <object> self.slots[fd].target)
            for fd in range(self.room)
            if self.slots[fd].target != NULL
        ]

    def poll(self, int milliseconds) -> list[tuple[int, int]]:
        """Wait, and return (descriptor, events) of what is ready."""
        cdef epoll_event events[MAX_EVENTS]
        cdef int index
        cdef int ready = self.wait(events, MAX_EVENTS, milliseconds)
        return [
            (<int> (events[index].data.u64 & 0xFFFFFFFF), ready_events(&events[index]))
            for index in range(ready)
        ]

    def dispatch(self, LoopState loop, int milliseconds) -> bool:
        """Wait, set the loop's clock, and call the target of everything ready.

        Args:
            loop: its `tick` is called after the wait.
            milliseconds: longest wait; -1 waits for ever.

        Returns:
            Whether more descriptors may be ready than one call handles.
        """
        cdef bint more = self.hear(loop, milliseconds)
        loop.end_turn()
        return more

    def run(self, LoopState loop, double deadline, Wheel wheel: Wheel) -> bool:
        """Turn, flush and sweep repeatedly until something needs Python.

        Args:
            loop: its `attention` ends this, after the turn.
            deadline: ends this when the loop's clock reaches it; negative for never.
            wheel: is swept when it is due; unless more may be ready, which ends this.

        Returns:
            Whether more descriptors may be ready than the last turn handled.
        """
        cdef int timeout
        cdef double rest, next
        cdef bint more
        while True:
            # Signal handlers may have written after the last flush.
            timeout = 0 if loop.dirty or self.unheard else -1
            next = deadline
            if wheel.next_deadline is not None:
                next = wheel.next_deadline
                if 0 <= deadline < next:
                    next = deadline
            if next >= 0 and timeout:
                loop.look_at_clock()
                rest = (next - loop.now) * 1000
                # Rounded up: the deadline has passed when the wait is over.
                timeout = 0 if rest <= 0 else <int> min(rest + 1, <double> 86400000)
            more = self.hear(loop, timeout)
            loop.write_all()
            if not more and wheel.is_due(loop.now):
                self.sweep(loop, wheel)
            loop.end_turn()
            # After the writes: what a signal handler wants must not wait for the next
            # event, and a peer that was answered may be who sends the signal.
            PyErr_CheckSignals()
            if load_word(&loop.attention_word):
                return more
            if deadline >= 0 and loop.now >= deadline:
                return more
            if more and wheel.is_due(loop.now):
                return more

    cdef int sweep(self, LoopState loop, Wheel wheel) except -1:
        """Do what is due in the wheel, and write the resulting output."""
        if loop.interrupted:
            return 0
        try:
            wheel.sweep(loop.now)
        except BaseException as error:
            loop.on_failure(wheel, error)
        loop.write_all()
        loop.mark = loop.read_clock()
        return 0

    def close(self) -> None:
        """Close the descriptor and forget all registrations."""
        cdef int fd
        cdef PyObject* target
        if self.epoll >= 0:
            c_close(self.epoll)
            self.epoll = -1
        self.count = self.unheard = 0
        for fd in range(self.room):
            target = self.slots[fd].target
            self.slots[fd].target = NULL
            Py_XDECREF(target)

    cdef bint hear(self, LoopState loop, int milliseconds) except -1:
        """Wait, and call what is ready until the turn is used up; the others are the
        first of the next.

        Returns:
            Whether more may be ready.
        """
        cdef int index = 0
        cdef int ready = self.collect(milliseconds)
        loop.look_at_clock()
        loop.allot(ready)
        self.unheard = 0
        try:
            while index < ready and not loop.interrupted:
                index += 1
                self.call(loop, &self.events[index - 1])
                if loop.is_spent():
                    break
        finally:
            if index < ready and self.epoll >= 0:
                self.put_off(index, ready)
        return ready == MAX_EVENTS or self.unheard

    cdef int collect(self, int milliseconds) except -1:
        """Wait, and put what is ready behind what is left of the last turn."""
        cdef int left = self.unheard
        cdef int ready = left
        cdef int index
        if not left:
            return self.wait(self.events, MAX_EVENTS, milliseconds)
        if left < MAX_EVENTS:
            ready += self.wait(self.events + left, MAX_EVENTS - left, 0)
        for index in range(left, ready):
            if not self.slot_of(&self.events[index]).unheard:
                self.events[left] = self.events[index]
                left += 1
        for index in range(self.unheard):
            self.slot_of(&self.events[index]).unheard = False
        return left

    cdef int put_off(self, int first, int ready) noexcept:
        """Keep these events for the next turn."""
        cdef int index
        for index in range(first, ready):
            self.events[index - first] = self.events[index]
            self.slot_of(&self.events[index]).unheard = True
        self.unheard = ready - first
        return 0

    cdef inline Slot* slot_of(self, epoll_event* event) noexcept:
        return self.slots + <int> (event.data.u64 & 0xFFFFFFFF)

    cdef int wait(self, epoll_event* events, int most, int milliseconds) except -1:
        cdef int ready
        if milliseconds == 0:
            ready = epoll_wait(self.epoll, events, most, 0)
        else:
            with nogil:
                ready = self.spin(events, milliseconds) if self.busy_poll > 0 else 0
                if ready == 0:
                    ready = epoll_wait(self.epoll, events, most, milliseconds)
        if ready >= 0:
            return ready
        if errno == EINTR:
            PyErr_CheckSignals()
            return 0
        raise OSError(errno, os.strerror(errno))

    cdef int spin(self, epoll_event* events, int milliseconds) noexcept nogil:
        """Poll without sleeping: a wake-up takes some 10 µs."""
        cdef double end = monotonic_seconds()
        cdef int ready = 0
        if milliseconds < 0 or self.busy_poll < milliseconds * 1e-3:
            end += self.busy_poll
        else:
            end += milliseconds * 1e-3
        while ready == 0 and monotonic_seconds() < end:
            ready = epoll_wait(self.epoll, events, MAX_EVENTS, 0)
        return ready

    cdef int call(self, LoopState loop, epoll_event* event) except -1:
        cdef int fd = <int> (event.data.u64 & 0xFFFFFFFF)
        cdef Slot* slot = self.slots + fd
        cdef int ready = ready_events(event)
        # An earlier callback of this turn may have closed the descriptor, and a new
        # connection may have reused it.
        if slot.target == NULL or slot.generation != <uint32_t> (event.data.u64 >> 32):
            return 0
        target = <object> slot.target
        try:
            if isinstance(target, ConnectionCore):
                (<ConnectionCore> target).ready(ready)
                loop.account(target, (<ConnectionCore> target).counters)
            else:
                target(ready)
                loop.account(target, None)
        except BaseException as error:
            loop.on_failure(target, error)
        return 0

    cdef Slot* find(self, int fd) except NULL:
        if not 0 <= fd < self.room or self.slots[fd].target == NULL:
            raise KeyError(f"descriptor {fd} is not registered")
        return self.slots + fd

    cdef int make_room(self, int fd) except -1:
        cdef int room = max(self.room, 64)
        cdef Slot* moved
        while room <= fd:
            room += room >> 2
        if room == self.room:
            return 0
        moved = <Slot*> realloc(self.slots, <size_t> room * sizeof(Slot))
        if moved == NULL:
            raise MemoryError
        memset(moved + self.room, 0, <size_t> (room - self.room) * sizeof(Slot))
        self.slots = moved
        self.room = room
        return 0

    cdef int control(self, int operation, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = (EPOLLIN if events & READ_READY else 0) | (
            EPOLLOUT if events & WRITE_READY else 0
        )
        event.data.u64 = (<uint64_t> self.slots[fd].generation << 32) | <uint64_t> fd
        if epoll_ctl(self.epoll, operation, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0


cdef inline int ready_events(epoll_event* event) noexcept:
    """The events of `selectors`: errors and hang-ups count as both."""
    cdef int ready = 0
    if event.events & ~EPOLLIN:
        ready |= WRITE_READY
    if event.events & ~EPOLLOUT:
        ready |= READ_READY
    return ready


if not SIMPLE_WS_EPOLL:
    globals()["Poller"] = None

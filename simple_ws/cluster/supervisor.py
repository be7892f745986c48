"""`Supervisor`: keeps N workers serving, in a process that does nothing else.

It opens no loop of the server, no engine and no thread: whatever it had, each fork
would copy. It waits for its workers' pipes and for signals:

- a worker that ends is replaced, see `restarts`;
- one whose loop has not turned for `STUCK_AFTER` seconds is sent SIGABRT, which shows
  where it hangs, and then SIGKILL; likewise the broker;
- one that cannot begin at all (exit code 3) ends everything, with that code;
- SIGTERM and SIGINT stop all gracefully; a second one cuts, a third one kills;
- SIGHUP replaces all, one after another: the successor serves on the same sockets
  before the old one stops;
- SIGUSR2 starts the whole program once more on the same sockets, see `handover`, and
  stops all when that one serves.

What a worker does by itself is in `worker` and `process`; what it serves is up to the
function that it is given.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..errors import InvalidState
from ..ops.totals import total
from .board import Board
from .broker_process import BrokerProcess
from .handover import Handover
from .pipe import Pipe
from .process import CANNOT_START, SUPERVISED, fork, ignore, reap, serve_and_exit
from .slot import Slot, WorkerProcess, ending
from .sockets import ListeningSockets
from .worker import HEARTBEAT, NamesWorker, Worker, WorkerLink

__all__ = ["Supervisor", "check_fork"]

logger = logging.getLogger("simple_ws")

#: Serves in a worker, on these sockets, until it is told to stop.
Serve = Callable[[WorkerLink, Sequence[socket.socket]], object]


class Supervisor:
    """The parent of all workers.

    Args:
        sockets: where each listens; closed at the end.
        count: of the workers.
        serve: what a worker does.
        on_ready: called once, when all workers serve for the first time.
        broker: the broker for the workers, or None if they need none; it is one more
            process that is kept alive.
        start_next: starts the program once more, at SIGUSR2; None leaves that signal
            to the program.
        clock: seconds that never run backwards.
    """

    #: Seconds without a sign of life after which a worker is ended.
    STUCK_AFTER = 30.0
    #: Seconds from SIGABRT to SIGKILL.
    KILL_AFTER = 5.0
    #: Seconds at least between two sums, so that many workers do not keep it busy.
    SUM_EVERY = 0.25

    def __init__(
        self,
        sockets: ListeningSockets,
        count: int,
        serve: Serve,
        on_ready: Callable[[], object] | None = None,
        broker: BrokerProcess | None = None,
        start_next: Callable[[], Handover] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sockets = sockets
        self._serve = serve
        self._on_ready = on_ready
        self._broker = broker
        self._start_next = start_next
        self._next: Handover | None = None  # the program that is to replace this one
        self._clock = clock
        self._board = Board()
        self._selector = selectors.PollSelector()  # it has no descriptor to inherit
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._slots = [Slot(number) for number in range(1, count + 1)]
        self._requests: deque[Callable[[], object]] = deque()  # of signals
        self._stops = 0  # how often it was told to stop
        self._code = 0
        self._rolling: deque[Slot] = deque()  # to be replaced
        self._successor: WorkerProcess | None = None
        self._began, self._started = clock(), time.time()
        self._turned = self._began  # when the last turn began
        self._summed = -self.SUM_EVERY
        self._news = False  # since the last sum
        self._too_large = False  # the stats, as was said

    # Called by the program

    def run(self) -> int:
        """Serve until all workers have ended; in the main thread.

        Returns:
            The exit code for the program: 0, or 3 when a worker could not begin.
        """
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        try:
            with self._handled_signals():
                self._run()
        finally:
            self._kill_all()
            if self._broker is not None:
                self._broker.end()
            self._sockets.close()
            self._selector.close()
            self._wake.close()
            self._woken.close()
        return self._code

    def stop(self, drain: float | None = None) -> None:
        """Stop all workers, as at SIGTERM; also in a handler of another signal."""
        self._requests.append(partial(self._stop, drain))
        with suppress(BlockingIOError):  # so many wait that it will wake anyway
            self._wake.send(b"\0")

    def stats(self) -> dict[str, Any] | None:
        """The sums of all workers; None before the first of them serves."""
        return self._board.read()

    # The loop

    def _run(self) -> None:
        if self._broker is not None:
            self._broker.start(self._clock(), self._leave)
        for slot in self._slots:
            self._start(slot)
        while self._stops == 0 or any(slot.processes for slot in self._slots):
            self._turn()
        self._sum_up()

    def _turn(self) -> None:
        ready = self._selector.select(self._time_to_wait())
        now = self._clock()
        self._forgive_pause(now)
        for key, _ in ready:
            if key.data is None:
                self._drain_wake()
            elif isinstance(key.data, Handover):
                self._end_handover(key.data)
            else:
                slot, process = key.data
                self._read(slot, process, now)
        while self._requests:
            self._requests.popleft()()
        for slot in self._slots:
            for process in tuple(slot.processes):
                self._look_after(slot, process, now)
            if slot.due is not None and now >= slot.due and not self._stops:
                self._start(slot)
        if self._broker is not None:
            self._broker.look_after(now, self._leave)
        if self._news and now >= self._summed + self.SUM_EVERY:
            self._sum_up()

    def _time_to_wait(self) -> float:
        now = self._clock()
        waits = [min(HEARTBEAT, self.STUCK_AFTER / 4)]
        waits += [slot.due - now for slot in self._slots if slot.due is not None]
        if self._broker is not None and self._broker.due is not None:
            waits.append(self._broker.due - now)
        if self._news:
            waits.append(self._summed + self.SUM_EVERY - now)
        return max(0.0, min(waits))

    def _forgive_pause(self, now: float) -> None:
        """Not the workers were silent if this process did not run either."""
        pause = now - self._turned
        if pause > self.STUCK_AFTER / 2:
            for slot in self._slots:
                for process in slot.processes:
                    process.liveness.seen += pause
            if self._broker is not None:
                self._broker.forgive(pause)
        self._turned = now

    def _drain_wake(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    # Signals

    @contextmanager
    def _handled_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in SUPERVISED}
        actions: dict[int, Callable[[], object]] = {
            signal.SIGINT: partial(self._stop, None),
            signal.SIGTERM: partial(self._stop, None),
            signal.SIGHUP: self._roll,
            signal.SIGCHLD: lambda: None,
        }
        if self._start_next is not None:
            before[signal.SIGUSR2] = signal.getsignal(signal.SIGUSR2)
            actions[signal.SIGUSR2] = self._hand_over
        # Written by the system's handler: no signal comes too late for `select`.
        woken_before = signal.set_wakeup_fd(
            self._wake.fileno(), warn_on_full_buffer=False
        )
        try:
            for number, action in actions.items():
                signal.signal(number, partial(self._on_signal, action))
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(woken_before)

    def _on_signal(
        self, action: Callable[[], object], number: int, frame: object
    ) -> None:
        self._requests.append(action)

    def _stop(self, drain: float | None) -> None:
        self._stops += 1
        processes = [process for slot in self._slots for process in slot.processes]
        if self._stops == 1:
            logger.info("stopping %d workers", len(processes))
            self._rolling.clear()
            for slot in self._slots:
                slot.due = None
            # The workers accept what waits now; nobody would accept what comes later.
            last = not self._sockets.given
            self._sockets.close()
            if self._next is not None:
                self._end_handover(self._next)
            for process in processes:
                process.stop(drain, last)
            self._choose_leader()
        elif self._stops == 2:
            logger.info("cutting %d workers", len(processes))
            for process in processes:
                process.cut()
        else:
            for process in processes:
                process.signal(signal.SIGKILL)

    # The next program

    def _hand_over(self) -> None:
        """Start the program once more, which may have changed."""
        if self._stops or self._start_next is None:
            return
        if self._next is not None:
            logger.warning("process %d still has to begin to serve", self._next.pid)
            return
        try:
            self._next = self._start_next()
        except OSError as error:
            logger.error("the program cannot be started once more: %s", error)
            return
        logger.info("the program is started once more (process %d)", self._next.pid)
        self._selector.register(self._next, selectors.EVENT_READ, self._next)

    def _end_handover(self, program: Handover) -> None:
        """The next program serves, or has ended, or all is to end."""
        self._next = None
        self._selector.unregister(program)
        if self._stops:
            program.terminate()
        elif (failure := program.wait_for_word()) is not None:
            text = "process %d does not replace this one: %s"
            logger.error(text, program.pid, failure)
        else:
            logger.info("process %d serves in place of this one", program.pid)
            program.announce()
            self._sockets.leave_to_others()
            self._stop(None)
        program.close()

    # One worker

    def _start(self, slot: Slot) -> WorkerProcess | None:
        """Fork a process for a slot; try again later if there is no room for one."""
        slot.due = None
        now = self._clock()
        try:
            ours, theirs = Pipe.pair()
        except OSError as error:
            self._start_later(slot, error)
            return None
        try:
            pid = fork(partial(self._work, slot, ours, theirs))
        except OSError as error:
            ours.close()
            self._start_later(slot, error)
            return None
        finally:
            theirs.close()
        process = WorkerProcess(pid, ours, now)
        slot.processes.append(process)
        self._selector.register(ours, selectors.EVENT_READ, (slot, process))
        return process

    def _start_later(self, slot: Slot, error: OSError) -> None:
        logger.error("worker %d cannot be started: %s", slot.number, error)
        slot.due = self._clock() + slot.restarts.delay(0.0)

    def _work(self, slot: Slot, ours: Pipe, theirs: Pipe) -> int:
        """What the new process does."""
        ours.close()
        self._leave(slot)
        if self._start_next is not None:
            signal.signal(signal.SIGUSR2, ignore)  # as the others, see `leave_signals`
        worker = Worker(slot.number, len(self._slots))
        logger.addFilter(NamesWorker(worker))
        broker = None if self._broker is None else self._broker.socket
        link = WorkerLink(worker, theirs, self._board, broker)
        sockets = self._sockets.sets[slot.number - 1]
        return serve_and_exit(
            partial(self._serve, link, sockets), lambda: link.turns, link.fail
        )

    def _leave(self, slot: Slot | None = None) -> None:
        """Close the copies of what a new process has no use for.

        Args:
            slot: of the worker that it is; None for the broker.
        """
        for other in self._slots:
            for process in other.processes:
                process.pipe.close()
        if self._next is not None:
            self._next.close()
        self._wake.close()
        self._woken.close()
        self._sockets.keep_only(None if slot is None else slot.number - 1)
        if slot is not None and self._broker is not None:
            self._broker.forget()

    def _read(self, slot: Slot, process: WorkerProcess, now: float) -> None:
        messages, there = process.pipe.receive()
        for message in messages:
            process.liveness.seen, process.turns = now, True
            if "stats" in message:
                process.stats = message["stats"]
                self._news = True
            if "failed" in message:
                process.failure = message["failed"]
            if "up" in message:
                self._note_up(slot, process)
            if "stop" in message and not self._stops:
                self._stop(message["stop"])
        if not there:
            self._selector.unregister(process.pipe)

    def _note_up(self, slot: Slot, process: WorkerProcess) -> None:
        process.up = slot.was_up = True
        self._sum_up()  # whoever reads the line finds the worker in the sums
        logger.info("worker %d serves (process %d)", slot.number, process.pid)
        if self._stops:
            return
        for older in slot.processes:
            if older is not process and not older.stopping:
                older.stop(None, last=False)
        self._choose_leader()
        if process is self._successor:
            self._successor = None
            self._roll_next()
        if self._on_ready is not None and all(each.was_up for each in self._slots):
            self._on_ready()
            self._on_ready = None

    def _look_after(self, slot: Slot, process: WorkerProcess, now: float) -> None:
        """Note that a process has ended, or end one that does nothing."""
        code = reap(process.pid)
        if code is not None:
            if process.pipe.fileno() in self._selector.get_map():
                self._read(slot, process, now)
            if process.pipe.fileno() in self._selector.get_map():
                self._selector.unregister(process.pipe)
            slot.remove(process)
            self._news = True
            self._on_end(slot, process, code, now)
            return
        silence = process.liveness.end_if_stuck(now, self.STUCK_AFTER, self.KILL_AFTER)
        if silence is not None:
            text = "worker %d (process %d) has not turned for %.0f s: it is ended"
            logger.error(text, slot.number, process.pid, silence)

    def _on_end(
        self, slot: Slot, process: WorkerProcess, code: int, now: float
    ) -> None:
        self._choose_leader()
        if self._stops or process.stopping:
            return
        slot.note_end(code)
        how = ending(code) if process.failure is None else process.failure
        if process is self._successor:
            self._successor = None
            self._rolling.clear()
            logger.error(
                "worker %d is not replaced, nor are others: its successor could not "
                "begin: %s",
                slot.number,
                how,
            )
        elif code == CANNOT_START and not slot.was_up:
            logger.critical("worker %d cannot begin: %s", slot.number, how)
            self._code = code
            self._stop(0.0)
        else:
            wait = slot.restarts.delay(now - process.born)
            slot.due = now + wait
            logger.error(
                "worker %d (process %d) ended: %s; it is replaced %s",
                slot.number,
                process.pid,
                how,
                f"in {wait:.0f} s" if wait else "now",
            )

    # All workers

    def _roll(self) -> None:
        """Replace all workers, one after another."""
        if self._stops:
            return
        logger.info("replacing %d workers", len(self._slots))
        self._rolling = deque(self._slots)
        if self._successor is None:
            self._roll_next()

    def _roll_next(self) -> None:
        while self._rolling and self._successor is None:
            slot = self._rolling.popleft()
            if slot.serving is not None:
                self._successor = self._start(slot)
            # Else one is about to start anyway, or has just been started.

    def _choose_leader(self) -> None:
        serving = (slot.serving for slot in self._slots)
        self._board.leader = next((each.pid for each in serving if each), 0)

    def _sum_up(self) -> None:
        self._news = False
        workers = [slot.stats() for slot in self._slots if slot.was_up]
        if not workers:
            return
        now = self._summed = self._clock()
        sums = total(workers)
        for name in ("worker", "pid", "endings"):
            del sums[name]
        sums["started"], sums["uptime"] = self._started, now - self._began
        fits = self._board.write({**sums, "workers": workers})
        if not fits and not self._too_large:
            self._too_large = True
            logger.warning("the stats of all workers are too large to be added up")

    def _kill_all(self) -> None:
        """The supervisor itself has failed, or all have ended."""
        for slot in self._slots:
            for process in slot.processes:
                process.signal(signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
                process.pipe.close()


def check_fork() -> None:
    """Refuse to fork workers where that cannot be done well.

    Raises:
        InvalidState: This system has no fork, or other threads are alive.
    """
    if sys.platform == "win32" or not hasattr(os, "fork"):
        raise InvalidState(
            "workers need os.fork, which this system does not have: start several "
            "programs behind a proxy instead"
        )
    others = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    ]
    if others:
        raise InvalidState(
            f"workers are forked before any thread is started, but there are "
            f"{', '.join(map(repr, others))}: start these in on_worker_start"
        )

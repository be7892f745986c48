"""Two clients of two nodes, messages of both, and the account of what came where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from harness import DEADLINE, Peer

__all__ = ["WINDOW", "Traffic"]

#: Messages of a publisher that its own client has not received yet, at most: so it is
#: as fast as its node, without a clock.
WINDOW = 50


class Holes(NamedTuple):
    """What a client did not get of the other node's publisher.

    Attributes:
        missing: numbers of messages.
        told: of these, how many `on_gap` told by their number.
    """

    missing: set[int]
    told: int


class Traffic:
    """Publishes at both nodes until the end, and at least so many messages at each.

    A client has to see `on_gap` between the messages, as "gap 5" or "gap None".

    Args:
        peers: a client of each node, in the room.
        publish: publishes a text at a node.
        least: messages of each node.

    Attributes:
        logs: what each client got, in order.
        sent: messages of each node, once it has ended.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        publish: Callable[[int, str], object],
        least: int = 1000,
    ) -> None:
        self.logs: list[list[str]] = [[], []]
        self.sent = [0, 0]
        self._peers, self._publish, self._least = peers, publish, least
        self._own = [0, 0]  # that have come back
        self._room = [threading.Semaphore(WINDOW) for _ in peers]
        self._ending = threading.Event()
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(4)
        self._work = [
            self._pool.submit(work, number)
            for number in (0, 1)
            for work in (self._publish_all, self._read_all)
        ]

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        """Both nodes must have their engine: what is published last must arrive."""
        self._ending.set()
        for work in self._work:
            if kind is None:
                work.result(2 * DEADLINE)
        self._pool.shutdown(cancel_futures=True)

    def more(self, count: int) -> None:
        """Wait until each client has got so many messages more of its own node."""
        with self._changed:
            wanted = [own + count for own in self._own]
            came = self._changed.wait_for(
                lambda: all(map(int.__ge__, self._own, wanted)), DEADLINE
            )
        ended = [work.exception() for work in self._work if work.done()]
        assert came, (wanted, self._own, ended)

    def _publish_all(self, number: int) -> None:
        count = 0
        while count < self._least or not self._ending.is_set():
            assert self._room[number].acquire(timeout=DEADLINE), "nothing comes back"
            self._publish(number, f"{number} {count}")
            count += 1
        self.sent[number] = count
        self._publish(number, f"{number} end")

    def _read_all(self, number: int) -> None:
        log, ends = self.logs[number], 0
        while ends < 2:
            message = self._peers[number].read_message()
            assert isinstance(message, str)
            log.append(message)
            ends += message.endswith("end")
            if message.startswith(f"{number} "):
                self._room[number].release()
                with self._changed:
                    self._own[number] += 1
                    self._changed.notify_all()

    # The account

    def check(self, number: int) -> Holes:
        """A client got all of its own node, and nothing twice or too late; each hole
        in what the other node published was told before it."""
        own = [text for text in self.logs[number] if text.startswith(f"{number} ")]
        whole = [f"{number} {count}" for count in range(self.sent[number])]
        assert own == [*whole, f"{number} end"]
        last, gaps, holes = -1, [], Holes(set(), 0)
        for text in self.logs[number]:
            who, _, what = text.partition(" ")
            if who == "gap":
                gaps.append(what)
            elif who == str(1 - number):
                count = self.sent[1 - number] if what == "end" else int(what)
                assert count > last, f"{text} after {last}"
                holes = self._note(holes, range(last + 1, count), gaps)
                last, gaps = count, []
        assert last == self.sent[1 - number]
        return holes

    @staticmethod
    def _note(holes: Holes, hole: range, gaps: list[str]) -> Holes:
        numbers = [int(gap) for gap in gaps if gap != "None"]
        assert "None" in gaps or numbers == [len(hole)] * bool(hole), (hole, gaps)
        assert sum(numbers) <= len(hole), (hole, gaps)
        return Holes(holes.missing | set(hole), holes.told + sum(numbers))

"""The account of a chaos run: what was published, what came where, and who was told.

`Node` is what a worker wrote down (see `node`), `Session` what a client sent and got.
`Ledger.check` compares the two, for each message and each client. That is right:

- a client gets all that its own node took, in order, whatever happens to the engine;
- it gets nothing twice, and nothing older after something newer of the same node;
- what it does not get of another node was counted there (lost, unsure, refused), or it
  was told of a gap at that place, or the other node was killed with it in its hands:
  given to the engine, and not accepted;
- a gap that is told with a number is exactly so large, and each of its messages was
  counted by its node;
- what was counted as lost comes to nobody else;
- all clients get the messages of all nodes in one order, except those that a node
  delivered without the engine.

With history the clients are `readers.Reader`s, and their own node is as all others:
nothing is delivered that the engine has not stored. When that loses its data, what it
had not confirmed is stored again, in another order: orders are compared in between.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from measuring import is_running

__all__ = ["UNKNOWN_GAP", "Ledger", "Node", "Session"]

#: In `Session.entries`: a gap of unknown size; one of n messages is -n.
UNKNOWN_GAP = -(2**40)
_BITS = 32
_MASK = 2**_BITS - 1
#: Problems that are shown of each kind.
_SHOWN = 5


class Node:
    """A worker, by its journal.

    Attributes:
        name: its process and when that began, in nanoseconds of the monotonic clock.
        taken: of each message the client that sent it, and its number there.
        lost, unsure, refused, early: numbers of messages, see `node`.
        accepted: the number of the last message that the engine has.
        up: the engine is there.
        ends: how often the engine has gone.
        counts: at its end; None if it was killed.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        process, _, born = path.name.partition("-")
        self.pid, self.born = int(process), int(born)
        self.taken: list[tuple[int, int]] = []
        self.lost: set[int] = set()
        self.unsure: set[int] = set()
        self.refused: set[int] = set()
        self.early: set[int] = set()
        self.accepted = 0
        self.up = False
        self.ends = 0
        self.counts: dict[str, int] | None = None
        self._path, self._read, self._rest = path, 0, b""

    def read(self) -> None:
        """Go on reading the journal."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._note(line.decode())

    def _note(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "t":
            number, publisher, count = map(int, rest.split())
            self.taken.append((publisher, count))
            assert number == len(self.taken)
        elif word == "a":
            self.accepted = int(rest)
        elif word == "s":
            self.up = rest == "up"
            self.ends += not self.up
        elif word == "c":
            self.counts = json.loads(rest)
        else:
            numbers = {"l": self.lost, "u": self.unsure, "r": self.refused}
            numbers.get(word, self.early).add(int(rest))

    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self.counts is None and is_running(self.pid)

    def counted(self, number: int) -> bool:
        """Whether it counts a message among those that others may not have."""
        return number in self.lost or number in self.unsure or number in self.refused

    def in_hands(self, number: int) -> bool:
        """Whether it was killed before the engine had a message, as far as it knew."""
        return self.counts is None and number > self.accepted


class Session:
    """One connection of a client.

    Attributes:
        number: of the session, by which its messages are known.
        node: the name of the worker that serves it; "" before that is known.
        sent: its messages.
        returned: of these, how many came back, or will not.
        entries: what came, see `note_message` and `note_gap`.
        last: the number of the last message of each node, by its index.
        heard: when it first got something of another node, or a gap; on the same clock
            as `Node.born`; 0 before.
        open: it has not ended, until the site does.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.node = ""
        self.sent = self.returned = 0
        self.entries = array("q")
        self._parts: dict[int, str] = {}
        self.last: dict[int, int] = {}
        self.heard = 0
        self.open = True

    def note_message(self, node: int, number: int) -> None:
        """A message came of a node, by its index in the ledger."""
        self.entries.append(node << _BITS | number)
        self.last[node] = number

    def begin_part(self, name: str) -> None:
        """What comes from now on has one order with what others get in this part."""
        self._parts[len(self.entries)] = name

    def messages(self) -> Iterator[tuple[str, int]]:
        """Its messages, each with the name of its part."""
        part = ""
        for at, entry in enumerate(self.entries):
            part = self._parts.get(at, part)
            if entry >= 0:
                yield part, entry

    def note_gap(self, missing: str) -> None:
        """`on_gap` was called, with so many, or "None"."""
        self.entries.append(UNKNOWN_GAP if missing == "None" else -int(missing))


class Ledger:
    """All nodes and sessions of a run.

    Args:
        directory: of the journals.
        history: sessions only publish; who gets messages are readers.

    Attributes:
        nodes: by name, in the order in which they were heard of.
        sessions: all of them; the index is their number.
        readers: with history; otherwise the same as the sessions.
        wipes: how often the engine was made to lose its data.
        acknowledged: (session, its number) of messages of which an SDK was told that
            they are stored.
        problems: what was not right, as text.
        totals: of all sessions: "received", "counted" (at the publisher), "told", "in
            hands" (of a killed node); and "not taken" of all publishers.
    """

    def __init__(self, directory: Path, history: bool = False) -> None:
        self.nodes: dict[str, Node] = {}
        self.sessions: list[Session] = []
        self.readers: list[Session] = [] if history else self.sessions
        self.wipes = 0
        self.acknowledged: set[tuple[int, int]] = set()
        self.problems: list[str] = []
        self.totals: Counter[str] = Counter()
        self._directory = directory
        self._indexes: dict[str, int] = {}
        self._kinds: Counter[str] = Counter()

    def index(self, name: str) -> int:
        """The index of a node."""
        return self._indexes.setdefault(name, len(self._indexes))

    def session(self) -> Session:
        """A new session."""
        session = Session(len(self.sessions))
        self.sessions.append(session)
        return session

    def reader(self) -> Session:
        """What somebody gets of a topic with history, from now on."""
        reader = Session(len(self.readers))
        reader.heard = time.monotonic_ns()
        self.readers.append(reader)
        return reader

    def read(self) -> None:
        """Read what the nodes have written meanwhile."""
        for path in self._directory.iterdir():
            if path.name not in self.nodes:
                self.nodes[path.name] = Node(path)
        for node in self.nodes.values():
            if node.counts is None:
                node.read()

    def everything_came(self) -> bool:
        """Whether each open session has the last message of each living node."""
        wanted = {
            self.index(node.name): _last_sure(node)
            for node in self.nodes.values()
            if node.alive()
        }
        return all(
            session.last.get(index, 0) >= number
            for session in self.readers
            if session.open
            for index, number in wanted.items()
        )

    # The check

    def check(self, killed: Iterable[int]) -> None:
        """Find all that is not right.

        Args:
            killed: processes that were killed.
        """
        self.read()
        ended = set(killed)
        for node in self.nodes.values():
            self._check_node(node, node.pid in ended)
        self._check_publishers()
        for session in self.readers:
            _Reading(self, session).check()
        self._check_order()

    def note(self, kind: str, text: str) -> None:
        """Something is not right; of each kind some are shown."""
        self._kinds[kind] += 1
        if self._kinds[kind] <= _SHOWN:
            self.problems.append(f"{kind}: {text}")

    def summary(self) -> list[str]:
        """The problems, with how many there are of each kind."""
        more = [
            f"{kind}: {count - _SHOWN} more"
            for kind, count in self._kinds.items()
            if count > _SHOWN
        ]
        return self.problems + more

    def _check_node(self, node: Node, killed: bool) -> None:
        if node.counts is None:
            if not killed:
                self.note("a worker has ended by itself", node.name)
            return
        least = {
            "lost": len(node.lost),
            "unsure": len(node.unsure),
            "refused": len(node.refused),
            "invalid": 0,
            "published": len(node.taken) - len(node.lost),
        }
        for name, value in least.items():
            has = node.counts[name]
            if not value <= has <= value + node.counts["noise"]:
                self.note("a count of a node is wrong", f"{name} {has}, not {value}")

    def _check_publishers(self) -> None:
        """Of each session its messages were taken from the first on, each once; of an
        SDK by several nodes, one after the other."""
        taken: Counter[int] = Counter()
        highest: dict[int, int] = {}
        for node in self.nodes.values():
            last: dict[int, int] = {}
            for number, (publisher, count) in enumerate(node.taken, 1):
                if count <= last.get(publisher, -1):
                    self.note("taken out of order", f"{publisher} {count}")
                last[publisher] = count
                taken[publisher] += 1
                missing = node.counted(number) or node.in_hands(number)
                if missing and (publisher, count) in self.acknowledged:
                    self.note("acknowledged, and not stored", f"{publisher} {count}")
            for publisher, count in last.items():
                highest[publisher] = max(count, highest.get(publisher, 0))
        for publisher, count in highest.items():
            if taken[publisher] != count + 1:
                self.note("taken twice, or left out", f"{publisher}, up to {count}")
        for session in self.sessions:
            rest = session.sent - taken[session.number]
            if rest < 0 or (rest and session.open):
                self.note("sent, and not taken", f"{rest} of client {session.number}")
            self.totals["not taken"] += rest
            self.totals["taken"] += taken[session.number]

    def _check_order(self) -> None:
        """Compare the orders of all sessions with that of the longest ones."""
        apart = self._delivered_apart()
        by_length = sorted(self.readers, key=lambda each: -len(each.entries))
        for reference in by_length[:2]:
            position = {each: at for at, each in enumerate(reference.messages())}
            for session in self.readers:
                if session is not reference:
                    self._compare(session, position, apart)

    def _compare(
        self, session: Session, position: dict[tuple[str, int], int], apart: set[int]
    ) -> None:
        last = -1
        for each in session.messages():
            at = position.get(each)
            if at is not None and each[1] not in apart:
                if at < last:
                    text = f"client {session.number}, message {each[1] & _MASK}"
                    self.note("another order", text)
                last = at

    def _delivered_apart(self) -> set[int]:
        """What a node delivered to its clients without the engine."""
        return {
            self.index(node.name) << _BITS | number
            for node in self.nodes.values()
            for number in node.lost | node.unsure | node.refused | node.early
        }


class _Reading:
    """One session, read from its beginning.

    Args:
        ledger: of all.
        session: to be checked.
    """

    def __init__(self, ledger: Ledger, session: Session) -> None:
        self._ledger, self._session = ledger, session
        self._nodes = {ledger.index(node.name): node for node in ledger.nodes.values()}
        self._own = ledger.index(session.node) if session.node else -1
        self._last: dict[int, int] = {}  # number of each node
        self._at: dict[int, int] = {}  # where that came
        self._unknown_at = -1  # where a gap of unknown size was told
        self._told = 0  # by the entry before this one

    def check(self) -> None:
        """Find what is not right."""
        if not self._session.entries:
            return
        for at, entry in enumerate(self._session.entries):
            if entry == UNKNOWN_GAP:
                self._unknown_at, self._told = at, 0
            elif entry < 0:
                if self._told:
                    self._note("told of a gap, and nothing is missing", -entry)
                self._told = -entry
            else:
                self._ledger.totals["received"] += 1
                self._on_message(at, entry >> _BITS, entry & _MASK)
                self._told = 0
        if self._session.open:
            self._check_end()

    def _on_message(self, at: int, index: int, number: int) -> None:
        last = self._last.get(index)
        if last is not None and number <= last:
            self._note(f"{number} after {last}", index)
            return
        if last is None and self._was_here_before(index):
            last = 0
        if last is not None:
            missing = range(last + 1, number)
            if self._told:
                self._check_told(index, missing)
            elif missing:
                self._check_missing(index, missing)
        self._check_not_lost(index, number)
        self._last[index], self._at[index] = number, at

    def _was_here_before(self, index: int) -> bool:
        """Whether the session should have all that a node ever published."""
        born = self._nodes[index].born
        return 0 < self._session.heard < born and index != self._own

    def _check_told(self, index: int, missing: range) -> None:
        if self._told != len(missing):
            self._note(f"told {self._told} missing, not {len(missing)}", index)
        node = self._nodes[index]
        for number in missing:
            if not node.counted(number) and not node.in_hands(number):
                self._note(f"{number} is missing, and not counted", index)
        self._ledger.totals["told and counted"] += len(missing)

    def _check_missing(self, index: int, missing: Iterable[int]) -> None:
        """Nobody told of a gap right before: it was told since the last message of
        this node, or each message is counted there."""
        if index == self._own:
            for number in missing:
                self._note(f"{number} of the own node is missing", index)
            return
        if self._unknown_at > self._at.get(index, -1):
            self._ledger.totals["told"] += len(list(missing))
            return
        node = self._nodes[index]
        for number in missing:
            if node.counted(number):
                self._ledger.totals["counted"] += 1
            elif node.in_hands(number):
                self._ledger.totals["in hands"] += 1
            else:
                self._note(f"{number} is missing, neither counted nor told", index)

    def _check_not_lost(self, index: int, number: int) -> None:
        if index != self._own and number in self._nodes[index].lost:
            self._note(f"{number} came, and was counted as lost", index)

    def _check_end(self) -> None:
        """It stayed to the end: what came of each node was all of it."""
        if self._told:
            self._note("told of a gap, and nothing came", self._told)
        for index, node in self._nodes.items():
            last = self._last.get(index)
            if last is None and self._was_here_before(index):
                last = 0
            if last is not None:
                self._check_missing(index, range(last + 1, len(node.taken) + 1))

    def _note(self, text: str, index: int) -> None:
        kind = text.lstrip("0123456789 ")
        node = self._nodes.get(index)
        name = node.name if node else index
        self._ledger.note(kind, f"{text} (client {self._session.number}, node {name})")


def _last_sure(node: Node) -> int:
    """The number of the last message that others must have."""
    number = len(node.taken)
    while number and node.counted(number):
        number -= 1
    return number

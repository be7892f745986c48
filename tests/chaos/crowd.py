"""The clients of a chaos run: each stays connected, counts what it gets, and some
publish. All are driven by one thread. What they got is in `ledger.Session`.
"""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from typing import Any

from harness import CLOSE, TEXT, frame, request
from ledger import Ledger, Session
from readers import Reader

__all__ = ["Crowd", "Member"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: Messages of a client that have not come back, at most.
WINDOW = 50
#: Seconds between two attempts to connect.
RETRY = 0.1
#: Seconds for which something of a client is on its way while all is well.
_SILENCE = 0.5
#: Seconds between two looks at who may publish.
TICK = 0.01


class Member:
    """A client, connection after connection: of one server, or with a reader, of any.

    Attributes:
        server: its index.
        rate: messages a second; 0: it only listens.
        session: of the present connection, once it is open.
        reader: of the topic's history, if it has one.
        ends: how its connections ended: "refused", "reset", "closed" and others.
        silent: the longest time in seconds in which nothing of its own came back
            though something was on its way, since somebody has set it to 0.
    """

    def __init__(
        self,
        server: int,
        address: tuple[str, int],
        rate: float,
        reader: Reader | None = None,
    ) -> None:
        self.server, self.rate, self.reader = server, rate, reader
        self.address = address
        self.session: Session | None = None
        self.ends: Counter[str] = Counter()
        self.silent = 0.0
        self.sock: socket.socket | None = None
        self.retry_at = 0.0
        self.next_at = 0.0
        self.heard_at = 0.0  # something of its own
        self.incoming = b""
        self.outgoing = b""
        self.shaken = False

    @property
    def joined(self) -> bool:
        """It is connected, and gets what is published from now on."""
        if self.session is None or not self.session.node:
            return False
        return self.reader is None or self.reader.in_step

    @property
    def ready(self) -> bool:
        """It is connected, and what it publishes comes back."""
        session = self.session
        if session is None or not self.joined:
            return False
        if not self.rate:
            return True
        waits = session.sent > session.returned
        return session.returned > 0 and not (
            waits and time.monotonic() - self.heard_at > _SILENCE
        )


class Crowd:
    """Drives the members in a thread, from `start` to `stop`.

    Args:
        ledger: for sessions and nodes.
        members: all clients.
        rng: for the times of messages.

    Attributes:
        publishing: new messages are sent.
        error: its thread has failed.
    """

    def __init__(
        self, ledger: Ledger, members: list[Member], rng: random.Random
    ) -> None:
        self.members = members
        self.publishing = True
        self.error: BaseException | None = None
        self._ledger, self._rng = ledger, rng
        self._addresses = list(dict.fromkeys(member.address for member in members))
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._noise: deque[tuple[int, int, int]] = deque()
        self._thread = threading.Thread(target=self._run, name="crowd")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave; the sessions that are open stay so in the account."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()
        self._selector.close()

    def ready(self) -> bool:
        """All are connected, and publish."""
        return all(member.ready for member in self.members)

    def settled(self) -> bool:
        """All that was sent has come back."""
        sessions = [member.session for member in self.members]
        return all(each and each.sent == each.returned for each in sessions)

    def noise(self, server: int, pid: int, count: int) -> None:
        """Have another process than that one of a server publish noise to it."""
        self._noise.append((server, pid, count))

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, events in self._selector.select(TICK):
                    self._on_ready(key.data, events)
                if self._noise:
                    self._make_noise(*self._noise.popleft())
                now = time.monotonic()
                for member in self.members:
                    self._look_after(member, now)
        except BaseException as error:
            self.error = error
        for member in self.members:
            if member.sock is not None:
                member.sock.close()

    def _make_noise(self, server: int, pid: int, count: int) -> None:
        for member in self.members:
            session = member.session
            if member.server != server or session is None or not session.node:
                continue
            if not session.node.startswith(f"{pid}-"):
                self._send(member, f"noise {pid} {count}")
                return

    def _look_after(self, member: Member, now: float) -> None:
        if member.sock is None:
            if now >= member.retry_at:
                self._connect(member, now)
            return
        session = member.session
        if session is None or not member.rate or not member.joined:
            return  # with history it would not see what it publishes before it joins
        waiting = session.sent - session.returned
        if waiting:
            member.silent = max(member.silent, now - member.heard_at)
        if self.publishing and now >= member.next_at and waiting < WINDOW:
            if not waiting:
                member.heard_at = now
            member.next_at = now + self._rng.uniform(0.5, 1.5) / member.rate
            self._send(member, f"p {session.number} {session.sent}")
            session.sent += 1

    def _connect(self, member: Member, now: float) -> None:
        member.retry_at = now + RETRY
        if member.reader is not None:
            member.server = self._rng.randrange(len(self._addresses))
            member.address = self._addresses[member.server]
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(member.address)
        member.sock, member.shaken, member.incoming = sock, False, b""
        since = "" if member.reader is None else f"?since={member.reader.since()}"
        member.outgoing = request(f"/hall{since}")
        self._selector.register(sock, READ | WRITE, member)

    def _send(self, member: Member, text: str) -> None:
        member.outgoing += frame(TEXT, text)
        self._watch(member)

    def _watch(self, member: Member) -> None:
        if member.sock is not None:
            wanted = READ | WRITE if member.outgoing else READ
            self._selector.modify(member.sock, wanted, member)

    def _on_ready(self, member: Member, events: int) -> None:
        sock = member.sock
        if sock is None:
            return
        try:
            if events & WRITE and member.outgoing:
                member.outgoing = member.outgoing[sock.send(member.outgoing) :]
                self._watch(member)
            if events & READ:
                data = sock.recv(2**18)
                if not data:
                    self._end(member, "cut")
                    return
                self._receive(member, data)
        except BlockingIOError:
            pass
        except ConnectionRefusedError:
            self._end(member, "refused")
        except OSError as error:
            how = "reset" if member.session else "reset before it was open"
            self._end(member, how if isinstance(error, ConnectionError) else str(error))

    def _end(self, member: Member, how: str) -> None:
        assert member.sock is not None
        self._selector.unregister(member.sock)
        member.sock.close()
        member.ends[how] += 1
        if member.session is not None and not self._stopping:
            member.session.open = False
        member.sock = member.session = None

    # What comes

    def _receive(self, member: Member, data: bytes) -> None:
        data = member.incoming + data
        if not member.shaken:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                member.incoming = data
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._end(member, head[9:12].decode())
                return
            member.shaken, data = True, rest
            member.session = self._ledger.session()
        at = 0
        while member.sock is not None and len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if len(data) < start + size:
                break
            self._on_frame(member, data[at] & 0x0F, data[start : start + size])
            at = start + size
        member.incoming = data[at:]

    def _on_frame(self, member: Member, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self._on_text(member, payload.decode())
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self._answer_close(member, payload)
            self._end(member, f"closed with {code}")

    @staticmethod
    def _answer_close(member: Member, payload: bytes) -> None:
        """As far as the system takes it: a server that stops does not wait long."""
        assert member.sock is not None
        with suppress(OSError):  # it has gone, and said before why
            member.sock.send(member.outgoing + frame(CLOSE, payload[:2]))

    def _on_text(self, member: Member, text: str) -> None:
        session: Any = member.session
        words = text.split()
        if words[0] == "m":
            _, name, number, publisher, count = words
            self._on_message(member, name, int(number))
            if int(publisher) == session.number:
                session.returned = int(count) + 1
                member.heard_at = time.monotonic()
        elif words[0] == "gap":
            self._on_gap(member, words[1])
        elif words[0] == "join":
            assert member.reader is not None
            member.reader.on_join(*words[1:])
        else:
            session.node = words[1]

    def _on_message(self, member: Member, name: str, number: int) -> None:
        session: Any = member.session
        node = self._ledger.index(name)
        if member.reader is not None:
            member.reader.on_message(node, number)
            return
        session.note_message(node, number)
        if not session.heard and name != session.node:
            session.heard = time.monotonic_ns()

    @staticmethod
    def _on_gap(member: Member, missing: str) -> None:
        session: Any = member.session
        if member.reader is not None:
            member.reader.on_gap(missing)
            session.returned = session.sent  # the engine may have lost them
            return
        session.note_gap(missing)
        session.heard = session.heard or time.monotonic_ns()

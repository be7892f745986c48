"""`ConnectedEngine`: what all engines share that talk to a server over one connection.

Its input and output, and its silence; what is said is left to those that inherit.
"""

from __future__ import annotations

import math
import secrets
from typing import Any, Protocol

from ..text import excerpt
from .engine import EngineEvent, Failed
from .silence import SILENCE, Silence

__all__ = ["ConnectedEngine"]

#: Seconds from one probe to the next.
_PROBE_INTERVAL = 10.0


class Reader(Protocol):
    """What reads the input.

    Attributes:
        problem: what is wrong with it, since when nothing is read; or None.
    """

    problem: str | None

    def receive(self, data: bytes) -> list[Any]:
        """Return what is complete."""


class ConnectedEngine:
    """See the head of the module, and `Engine` for the methods.

    Args:
        username, password: "" where the server asks for none.
        client_name: for the server's list of connections.
        publish_only: never subscribe to anything, also not to probe the server.

    Attributes:
        round_trip: seconds of the last probe from here to here; None: not known yet.
    """

    #: The protocol that the server should speak, for the log.
    _protocol: str

    def __init__(
        self, username: str, password: str, client_name: str, publish_only: bool
    ) -> None:
        self._username, self._password = username, password
        self._client_name = client_name
        self._publish_only = publish_only
        self.round_trip: float | None = None
        #: What is asked for: names, as they are sent.
        self._wanted: dict[str, bytes] = {}
        self._connected = False
        self._reset(0.0)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} channels={self.channels} ready={self._ready}>"

    def _reset(self, now: float) -> None:
        """Forget all that belongs to one connection."""
        self._reader = self._make_reader()
        self._events: list[EngineEvent] = []
        self._output: list[bytes] = []
        self._size = 0
        self._ready = self._failed = False
        self._server = ""
        self._now = now
        self._silence = Silence(now)
        # The probe: when the next is due, what is out, when it was sent.
        self._next_probe = math.inf
        self._probe = b""
        self._probe_sent = now
        self._probe_unanswered = False

    @property
    def channels(self) -> int:
        """See `Engine.channels`."""
        return len(self._wanted)

    @property
    def size(self) -> int:
        """See `Engine.size`."""
        return self._size

    def connected(self, now: float) -> None:
        """See `Engine.connected`."""
        self._reset(now)
        self._connected = True
        self._enter()

    def disconnected(self) -> None:
        """See `Engine.disconnected`."""
        self._reset(self._now)
        self._connected = False

    def take_output(self) -> bytes:
        """See `Engine.take_output`."""
        output, self._output, self._size = self._output, [], 0
        return output[0] if len(output) == 1 else b"".join(output)

    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        """See `Engine.receive`."""
        if self._failed or not self._connected:
            return []
        self._now = now
        self._silence.hear(now)
        self._process(self._reader.receive(data))
        if self._reader.problem is not None:
            self._fail(f"what it sends is not {self._protocol}: {self._reader.problem}")
        return self._take_events()

    def deadline(self) -> float | None:
        """See `Engine.deadline`."""
        if self._failed or not self._connected:
            return None
        return min(self._silence.deadline(), self._probe_deadline())

    def tick(self, now: float) -> list[EngineEvent]:
        """See `Engine.tick`.

        A tick that is late by more than a second gives the server its time again: the
        loop stood still, and what came meanwhile is not read yet.
        """
        due = self.deadline()
        if due is None or now < due:
            return []
        self._now = now
        if self._silence.stood_still(due, now):
            self._wait_anew(now)
        if self._silence.look(now):
            self._ask_for_life()
        if self._silence.over:
            self._fail(f"there was no sign of life for {SILENCE:g} s")
        else:
            self._check_probe(now)
        return self._take_events()

    # What those that inherit must say

    def _make_reader(self) -> Reader:
        """Make what reads the input of one connection."""
        raise NotImplementedError

    def _enter(self) -> None:
        """A connection is open: say who we are."""
        raise NotImplementedError

    def _process(self, items: list[Any]) -> None:
        """Work on what the reader has read."""
        raise NotImplementedError

    def _ask_for_life(self) -> None:
        """Send what the server answers at once."""
        raise NotImplementedError

    def _send_probe(self) -> None:
        """Publish what `_new_probe` makes to ourselves."""
        raise NotImplementedError

    def _wait_anew(self, now: float) -> None:
        """The loop stood still: what is awaited may come later."""
        raise NotImplementedError

    # The probe: a subscription may be deaf while PING is answered

    def _probe_deadline(self) -> float:
        return self._next_probe

    def _check_probe(self, now: float) -> None:
        if now < self._next_probe:
            return
        if self._probe_unanswered:
            self._fail(f"it did not answer a command for {_PROBE_INTERVAL:g} s")
        else:
            self._send_probe()

    def _new_probe(self) -> bytes:
        self._next_probe = self._now + _PROBE_INTERVAL
        self._probe = secrets.token_hex(8).encode()
        self._probe_sent = self._now
        self._probe_unanswered = True
        return self._probe

    def _on_probe(self, body: bytes) -> None:
        if body == self._probe:
            self._probe = b""
            self.round_trip = self._now - self._probe_sent

    # What they use

    def _write(self, data: bytes) -> None:
        self._output.append(data)
        self._size += len(data)

    def _fail(self, reason: str, permanent: bool = False) -> None:
        if not self._failed:
            self._failed = True
            self._events.append(Failed(reason, permanent))

    def _take_events(self) -> list[EngineEvent]:
        events, self._events = self._events, []
        return events

    def _secrets(self) -> tuple[str, ...]:
        """What must not be in a log, though the server repeats it."""
        return (self._password,)

    def _clean(self, text: str) -> str:
        """One line of a server for a log: it may repeat what we sent."""
        for secret in filter(None, self._secrets()):
            text = text.replace(secret, "***")
        return excerpt(text)

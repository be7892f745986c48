"""`Control`: what a node says to the others and hears of them, besides messages.

It joins the parts: the `Roster` of nodes, `Asking` all and `Calls` to one, and
`Presence`. They know nothing of the engine, so they work on any; each node is the only
authority for what it has itself, so nothing is to be merged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .asking import Asking, AskingHost
from .calls import Calls
from .internal import Inbox, Reader
from .presence import Presence
from .roster import NodeInfo, Roster, RosterHost

__all__ = ["Control", "ControlHost"]


class ControlHost(RosterHost, AskingHost, Protocol):
    """What the control needs of its server."""


class Control:
    """This node among the others.

    All methods are for the loop's thread.

    Args:
        host: the server.
        own: the id of this node.
        note_invalid: called with the sender of a malformed message, and what is wrong.
        alone: there is no engine, and no other node.
        rules: see `Roster`.

    Attributes:
        roster: the other nodes.
        asking: the questions to them, and their answers.
        calls: the questions to one of them.
        inbox: what they say.
    """

    def __init__(
        self,
        host: ControlHost,
        own: str,
        note_invalid: Callable[[str, str], object],
        *,
        alone: bool = False,
        rules: str = "",
    ) -> None:
        self.roster = Roster(host, rules)
        self.asking = Asking(host, self.roster, own, alone=alone)
        self.calls = Calls(host, self.roster)
        self.inbox = Inbox(own, note_invalid)
        self.inbox.add("here", self.roster.on_here)
        self.inbox.add("bye", self.roster.on_bye)
        self.inbox.add("ask", self.asking.on_ask)
        self.inbox.add("answer", self.asking.on_answer)
        self.inbox.add("call", self.calls.on_call)
        self.inbox.add("result", self.calls.on_result)
        self._host = host
        self._presence: Presence | None = None

    def add_presence(self, presence: Presence) -> None:
        """Tell somebody what the nodes say of who is present."""
        self._presence = presence
        self._add_reader("diff", presence.on_diff)
        self._add_reader("who", presence.on_who)
        self._add_reader("state", presence.on_state)

    def _add_reader(self, kind: str, reader: Reader) -> None:
        def read(sender: str, message: dict[str, Any]) -> None:
            self.roster.note_life(sender)  # so that what it has ends with it
            reader(sender, message)

        self.inbox.add(kind, read)

    def nodes(self) -> list[NodeInfo]:
        """All nodes that are there, this one first."""
        return [self._host.describe(), *self.roster.others()]

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone."""
        self.roster.on_engine(up)
        self.asking.on_engine(up)
        self.calls.on_engine(up)
        if self._presence is not None:
            self._presence.on_engine(up)

    def on_gone(self, node: str, seen: float) -> None:
        """The roster says that a node has gone."""
        self.asking.on_gone(node)
        self.calls.on_gone(node)
        if self._presence is not None:
            self._presence.on_gone(node, seen)

    def on_forgotten(self) -> None:
        """The roster says that others may have counted this node as gone."""
        if self._presence is not None:
            self._presence.tell_all_again()

    def receive(self, sender: str, body: bytes) -> None:
        """A node has said something."""
        self.inbox.receive(sender, body)

    def end(self) -> None:
        """The server stops: say good-bye, and end the questions."""
        self.asking.end()
        self.calls.end()
        if self._presence is not None:
            self._presence.end()
        self.roster.end()

"""Presence: each node tells the others which members it has, and keeps a copy of all.

On the channel of a topic, `PREFIX.p.TOPIC`:

    diff  members that have come to a node, or left it: number `s` follows number `p`
    who   the number of a node, what it knows of the others, and that it wants to know
          what is missing

A node that hears of a number that does not follow asks that node `who`. It asks all
when it begins to watch a topic, when its engine has come back, and some seconds after
each diff or question, in case that was lost. Each node answers it alone with its
`state`, in bounded pieces, if that is another than it knows. So a copy is only ever
changed by the node that has the members, and by the end of a node (`roster`).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable
from typing import Any, Protocol

from .channels import Audience, encode_identity
from .internal import Nodes, encode, value_of
from .presence_messages import Pieces, entry_of, in_pieces, member_of, members_of
from .present import Copy, Member, NodeMembers, Payload
from .roster import BEAT, SETTLE

__all__ = ["Presence", "PresenceHost"]

#: Seconds in which changes are gathered into one message.
_BATCH = 0.05
#: Topics that are asked for at once when the engine has come back.
_AT_ONCE = 100
#: Seconds for which a topic is watched that was asked for and has no subscriber here.
_ASKED = 60.0
#: Topics of that kind.
_MAX_ASKED = 1_000


class PresenceHost(Nodes, Protocol):
    """What it needs of its node."""

    def watch(self, topic: str) -> None:
        """Hear what the other nodes say of a topic."""

    def unwatch(self, topic: str) -> None:
        """Hear it no more."""

    def tell(self, topic: str, member: Member, joined: bool, payload: Payload) -> None:
        """A member has joined or left; with what it said of itself last."""

    def forget(self, topic: str) -> None:
        """Nobody here is interested in a topic any more."""


class _Watched:
    """A topic that this node watches."""

    def __init__(self) -> None:
        self.copy = Copy()
        self.subscribers = 0
        #: It is wanted until then, even without subscribers.
        self.wanted_until = -math.inf
        #: When the others were asked; infinite: not yet, since the engine is there.
        self.since = math.inf
        #: Members that have changed here since the last diff.
        self.changed: dict[Member, None] = {}


class Presence:
    """Who is present in the topics that this node watches.

    All methods are for the loop's thread, but `present`.

    Args:
        host: how the others are reached.
        own: the id of this node.
        grace: seconds for which a member that no node has any more is not gone.
        alone: there is no engine, and no other node.
    """

    def __init__(
        self, host: PresenceHost, own: str, grace: float, *, alone: bool = False
    ) -> None:
        self._host = host
        self._own = own
        self._grace = grace
        self._alone = alone
        self._up = False
        self._running = True
        self._watched: dict[str, _Watched] = {}
        self._asked: dict[str, None] = {}
        self._numbers = itertools.count(1)
        self._changed: dict[str, None] = {}
        # Topics, each once, in order: to ask about now, to ask about at the next tick,
        # and without a subscriber.
        self._to_ask: dict[str, None] = {}
        self._again: dict[str, None] = {}
        self._idle: dict[str, None] = {}
        #: Nodes, each with a topic, of which something is missing here.
        self._behind: dict[tuple[str, str], None] = {}
        #: Pieces of states that are not complete, by node and topic.
        self._pieces: dict[tuple[str, str], Pieces] = {}
        self._ends: list[tuple[float, int, str, Member]] = []
        self._end_at = math.inf
        self._order = itertools.count()
        host.call_later(BEAT, self._tick)

    # Who is interested

    def subscribe(self, topic: str) -> None:
        """A client has subscribed to a topic."""
        self._watch(topic).subscribers += 1
        self._idle.pop(topic, None)

    def unsubscribe(self, topic: str) -> None:
        """A client has unsubscribed; the topic is given up some seconds later."""
        watched = self._watched[topic]
        watched.subscribers -= 1
        if not watched.subscribers:
            self._idle[topic] = None

    def ask_for(self, topic: str) -> None:
        """Somebody wants to know who is present, now and in the next time."""
        watched = self._watch(topic)
        watched.wanted_until = self._host.time() + _ASKED
        if not watched.subscribers:
            self._idle[topic] = None
        self._asked[topic] = None
        if len(self._asked) > _MAX_ASKED:
            first = next(iter(self._asked))
            del self._asked[first]
            if first in self._watched:
                self._watched[first].wanted_until = -math.inf

    def present(self, topic: str) -> tuple[dict[Member, Payload], bool]:
        """Who is present as far as it is known, and whether that may be out of date.

        From any thread.
        """
        watched = self._watched.get(topic)
        if watched is None:
            return {}, not self._alone
        shown = watched.copy.shown.copy()
        if self._alone:
            return shown, False
        settled = self._host.time() >= watched.since + SETTLE
        return shown, not (self._up and settled)

    def _watch(self, topic: str) -> _Watched:
        watched = self._watched.get(topic)
        if watched is None:
            watched = self._watched[topic] = _Watched()
            self._host.watch(topic)
            self._ask_all(topic)
            self._again[topic] = None
        return watched

    def _drop_idle(self) -> None:
        now = self._host.time()
        for topic in list(self._idle):
            watched = self._watched[topic]
            wanted = now < watched.wanted_until or watched.changed
            if not (wanted or watched.copy.leaving):
                del self._watched[topic], self._idle[topic]
                self._asked.pop(topic, None)
                self._host.unwatch(topic)
                self._host.forget(topic)

    # The members of this node

    def enter(self, topic: str, member: Member, payload: Payload) -> None:
        """This node has a member, or its payload is new; its topic is watched."""
        watched = self._watched[topic]
        if watched.copy.enter(self._own, member, payload):
            self._host.tell(topic, member, True, watched.copy.shown[member])
        self._note_change(topic, watched, member)

    def leave(self, topic: str, member: Member) -> None:
        """This node has a member no more."""
        watched = self._watched[topic]
        if watched.copy.leave(self._own, member):
            self._begin_leaving(topic, watched.copy, [member], self._host.time())
        self._note_change(topic, watched, member)

    def _note_change(self, topic: str, watched: _Watched, member: Member) -> None:
        if self._alone:
            return
        if not self._changed:
            self._host.call_later(_BATCH, self._flush)
        self._changed[topic] = watched.changed[member] = None

    def _flush(self) -> None:
        """Tell the others what has changed since the last time."""
        changed, self._changed = self._changed, {}
        for topic in changed:
            watched = self._watched.get(topic)
            if watched is not None:
                self._send_diff(topic, watched)

    def _send_diff(self, topic: str, watched: _Watched) -> None:
        if not watched.changed:
            return
        changed, watched.changed = watched.changed, {}
        own = watched.copy.of(self._own)
        came = [entry_of(m, own.members[m]) for m in changed if m in own.members]
        left = [encode_identity(m) for m in changed if m not in own.members]
        for piece in in_pieces([*came, *left]):
            before, own.seq = own.seq, next(self._numbers)
            body = encode(
                "diff",
                topic=topic,
                p=before,
                s=own.seq,
                come=[each for each in piece if type(each) is list],
                left=[each for each in piece if type(each) is str],
            )
            self._host.send(Audience.PRESENCE, topic, body)
        self._again[topic] = None

    # The end of a presence

    def _begin_leaving(
        self, topic: str, copy: Copy, members: Iterable[Member], since: float
    ) -> None:
        """No node has these members any more, since a time in the past."""
        end = since + self._grace
        if end <= self._host.time():
            for member in members:
                self._end(topic, copy, member)
            return
        for member in members:
            copy.leaving[member] = end
            heapq.heappush(self._ends, (end, next(self._order), topic, member))
        self._schedule_end()

    def _schedule_end(self) -> None:
        if self._ends and self._ends[0][0] < self._end_at:
            self._end_at = at = self._ends[0][0]
            self._host.call_later(at - self._host.time(), lambda: self._end_due(at))

    def _end_due(self, at: float) -> None:
        if at != self._end_at:
            return  # an earlier one was scheduled after this one
        self._end_at = math.inf
        now = self._host.time()
        while self._ends and self._ends[0][0] <= now:
            end, _, topic, member = heapq.heappop(self._ends)
            watched = self._watched.get(topic)
            if watched is not None and watched.copy.leaving.get(member) == end:
                self._end(topic, watched.copy, member)
        self._schedule_end()

    def _end(self, topic: str, copy: Copy, member: Member) -> None:
        payload = copy.shown.get(member)
        copy.end(member)
        self._host.tell(topic, member, False, payload)

    # The other nodes

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone."""
        self._up = up
        if up:
            self.tell_all_again()

    def tell_all_again(self) -> None:
        """The others may not know what this node has, nor this node what they have."""
        for watched in self._watched.values():
            watched.since = math.inf
        self._ask_soon(self._watched)
        self._again.update(dict.fromkeys(self._watched))

    def _ask_soon(self, topics: Iterable[str]) -> None:
        """Ask about topics, some of them now, and the others little by little."""
        busy = bool(self._to_ask)
        self._to_ask.update(dict.fromkeys(topics))
        if not busy:
            self._ask_some()

    def on_gone(self, node: str, seen: float) -> None:
        """A node has gone, and with it what it had."""
        for key in [key for key in self._pieces if key[0] == node]:
            del self._pieces[key]
        for topic, watched in list(self._watched.items()):
            gone = watched.copy.drop(node)
            if gone:
                self._begin_leaving(topic, watched.copy, gone, seen)

    def _ask_some(self) -> None:
        for topic in list(itertools.islice(self._to_ask, _AT_ONCE)):
            del self._to_ask[topic]
            self._ask_all(topic)
        if self._to_ask:
            self._host.call_later(_BATCH, self._ask_some)

    def _ask_all(self, topic: str) -> None:
        watched = self._watched.get(topic)
        if watched is None or self._alone:
            return
        if watched.since == math.inf:
            watched.since = self._host.time()
        nodes = watched.copy.nodes
        have = {name: each.seq for name, each in nodes.items() if name != self._own}
        self._ask(Audience.PRESENCE, topic, topic, have)

    def _ask_one(self, node: str, topic: str, known: NodeMembers) -> None:
        self._ask(Audience.NODE, node, topic, {node: known.seq})

    def _ask(
        self, audience: Audience, value: str, topic: str, have: dict[str, int]
    ) -> None:
        own = self._watched[topic].copy.of(self._own)
        self._host.send(
            audience, value, encode("who", topic=topic, s=own.seq, have=have)
        )

    # What they say

    def on_diff(self, node: str, message: dict[str, Any]) -> None:
        """Members have come to a node, or left it.

        Raises:
            Malformed: It does not say so properly; likewise below.
        """
        topic, number = value_of(message, "topic", str), value_of(message, "s", int)
        before = value_of(message, "p", int)
        came = members_of(value_of(message, "come", list))
        left = [member_of(each) for each in value_of(message, "left", list)]
        watched = self._watched.get(topic)
        if watched is None:
            return
        copy, known = watched.copy, watched.copy.of(node)
        if number <= known.seq:
            return
        if before != known.seq:
            self._note_number(node, topic, known, number)
            return
        known.seq = known.heard = number
        for member, payload in came.items():
            if copy.enter(node, member, payload):
                self._host.tell(topic, member, True, copy.shown[member])
        gone = [member for member in left if copy.leave(node, member)]
        self._begin_leaving(topic, copy, gone, self._host.time())

    def on_who(self, node: str, message: dict[str, Any]) -> None:
        """A node wants to know what it does not know of this one."""
        topic, number = value_of(message, "topic", str), value_of(message, "s", int)
        have = value_of(message, "have", dict).get(self._own, 0)
        watched = self._watched.get(topic)
        if watched is None:
            own = NodeMembers()  # nobody, whatever is believed of this node
        else:
            self._send_diff(topic, watched)
            own = watched.copy.of(self._own)
        if have != own.seq:
            if not own.seq:  # as it began to watch the topic only now
                own.seq = next(self._numbers)
            self._send_state(node, topic, own)
        if watched is not None:
            known = watched.copy.of(node)
            # Even if it is lower: it has begun to watch the topic anew.
            behind = known.seq + 1 if number < known.seq else number
            self._note_number(node, topic, known, behind)

    def _send_state(self, node: str, topic: str, own: NodeMembers) -> None:
        entries = [entry_of(member, said) for member, said in own.members.items()]
        pieces = list(in_pieces(entries)) or [[]]
        for number, piece in enumerate(pieces, 1):
            body = encode(
                "state",
                topic=topic,
                s=own.seq,
                piece=number,
                pieces=len(pieces),
                come=piece,
            )
            self._host.send(Audience.NODE, node, body)

    def on_state(self, node: str, message: dict[str, Any]) -> None:
        """The members of a node, or a piece of them."""
        topic, number = value_of(message, "topic", str), value_of(message, "s", int)
        piece, pieces = (
            value_of(message, "piece", int),
            value_of(message, "pieces", int),
        )
        entries = value_of(message, "come", list)
        watched = self._watched.get(topic)
        if watched is None:
            return
        key = node, topic
        known = watched.copy.of(node)
        if piece == 1:
            known.heard = max(known.heard, number)
            self._behind[key] = None  # asked for again if some are lost
            self._pieces[key] = Pieces(number)
        begun = self._pieces.get(key)
        if begun is None or not begun.add(number, piece, entries):
            self._pieces.pop(key, None)
        elif piece == pieces:
            del self._pieces[key]
            members = members_of(begun.entries)
            self._take_state(topic, watched.copy, known, node, number, members)

    def _take_state(
        self,
        topic: str,
        copy: Copy,
        known: NodeMembers,
        node: str,
        number: int,
        members: dict[Member, Payload],
    ) -> None:
        if number < known.seq:
            return
        known.seq = known.heard = number
        joined, gone = copy.replace(node, members)
        for member in joined:
            self._host.tell(topic, member, True, copy.shown[member])
        self._begin_leaving(topic, copy, gone, self._host.time())

    def _note_number(
        self, node: str, topic: str, known: NodeMembers, number: int
    ) -> None:
        """A node is at another number than it is here: ask it, unless it was asked."""
        asked = known.heard > known.seq
        known.heard = max(known.heard, number)
        if known.heard > known.seq and not asked:
            self._behind[node, topic] = None
            self._ask_one(node, topic, known)

    # Time

    def _tick(self) -> None:
        """Ask again, about what was changed or asked since the last time."""
        if not self._running:
            return
        self._drop_idle()
        behind, self._behind = self._behind, {}
        for node, topic in behind:
            self._ask_again(node, topic)
        again, self._again = self._again, {}
        self._ask_soon(again)
        self._host.call_later(BEAT, self._tick)

    def _ask_again(self, node: str, topic: str) -> None:
        """Ask a node again if it has not answered."""
        watched = self._watched.get(topic)
        known = None if watched is None else watched.copy.nodes.get(node)
        if known is not None and known.heard > known.seq:
            self._behind[node, topic] = None
            self._ask_one(node, topic, known)

    def end(self) -> None:
        """The server stops."""
        self._running = False

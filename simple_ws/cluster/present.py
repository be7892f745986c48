"""Who is present in one topic, as one node knows it: what each node says of its own.

A member is present while any node has it, and for the time of grace after that. A copy
says what changes; it knows neither time nor network, see `presence`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

__all__ = ["Copy", "Member", "NodeMembers", "Payload"]

#: An identity, or the name of a client without one.
Member = Hashable
#: What a member has said of itself, or None.
Payload = dict[str, Any] | None


class NodeMembers:
    """The members that one node has.

    Attributes:
        members: with their payloads.
        seq: the number of the last change that is in them.
        heard: the number of the last change that was heard of: if it is higher, some
            are missing.
    """

    __slots__ = ("heard", "members", "seq")

    def __init__(self) -> None:
        self.members: dict[Member, Payload] = {}
        self.seq = self.heard = 0


class Copy:
    """The members of a topic.

    Attributes:
        nodes: those with members, or of which was heard.
        shown: who is present, with payloads; to be read by any thread.
        leaving: until when those that no node has any more are still shown.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, NodeMembers] = {}
        self.shown: dict[Member, Payload] = {}
        self.leaving: dict[Member, float] = {}

    def of(self, node: str) -> NodeMembers:
        """What a node has."""
        found = self.nodes.get(node)
        if found is None:
            found = self.nodes[node] = NodeMembers()
        return found

    def enter(self, node: str, member: Member, payload: Payload) -> bool:
        """A node has a member, or its payload is new; return whether it has joined."""
        self.of(node).members[member] = payload
        joined = member not in self.shown
        self.leaving.pop(member, None)
        self.shown[member] = self._payload(member)
        return joined

    def leave(self, node: str, member: Member) -> bool:
        """A node has a member no more; return whether no node has it now."""
        found = self.nodes.get(node)
        if found is None or member not in found.members:
            return False
        del found.members[member]
        return self._note_absence(member)

    def replace(
        self, node: str, members: Mapping[Member, Payload]
    ) -> tuple[list[Member], list[Member]]:
        """A node has just these members.

        Returns:
            Those that have joined, and those that no node has now.
        """
        before = list(self.of(node).members)
        joined = [
            member
            for member, payload in members.items()
            if self.enter(node, member, payload)
        ]
        gone = (member for member in before if member not in members)
        return joined, [member for member in gone if self.leave(node, member)]

    def drop(self, node: str) -> list[Member]:
        """A node is gone; return the members that no node has now."""
        found = self.nodes.pop(node, None)
        if found is None:
            return []
        # Not one by one: that took 28 ms for 10,000 members.
        elsewhere: set[Member] = set()
        for each in self.nodes.values():
            elsewhere.update(found.members.keys() & each.members.keys())
        for member in elsewhere:
            self.shown[member] = self._payload(member)
        return [member for member in found.members if member not in elsewhere]

    def end(self, member: Member) -> None:
        """A member that no node has is no longer shown."""
        self.leaving.pop(member, None)
        self.shown.pop(member, None)

    def _note_absence(self, member: Member) -> bool:
        for each in self.nodes.values():
            if member in each.members:
                self.shown[member] = self._payload(member)
                return False
        return True

    def _payload(self, member: Member) -> Payload:
        """Of several nodes the same one for all who look: the last by name."""
        last, payload = "", None
        for name, each in self.nodes.items():
            said = each.members.get(member)
            if said is not None and name > last:
                last, payload = name, said
        return payload

"""`PresenceRun`: who is present in the topics of one run: its clients, and who is told.

It counts the connections of each member, so that people are members and not tabs, and
calls `on_presence`. What the other nodes know is left to `cluster.presence`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.channels import Audience
from ..cluster.presence import Presence
from ..cluster.present import Member, Payload
from .tell import Telling, tell

if TYPE_CHECKING:
    from ..loop.reactor import Reactor
    from .control import ControlRun
    from .sharded_engine import AnyEngine

__all__ = ["PresenceRun", "PresenceUser", "Present", "checked_payload"]

#: The largest payload of a member, as JSON.
_MAX_PAYLOAD = 4096
#: Changes that are told at once; the others in the next turns of the loop.
_AT_ONCE = 100


class Present(dict[Any, dict[str, Any] | None]):
    """The members of a topic with their payloads, as `Server.present` returns them.

    Attributes:
        stale: it may be out of date: this node has begun to look only now, or its
            engine is down, and it knows of the other nodes what it knew then.
    """

    def __init__(self, members: dict[Member, Payload], stale: bool) -> None:
        super().__init__(members)
        self.stale = stale


class PresenceUser(Telling, Protocol):
    """What it needs of its server."""

    #: Clients that must authenticate and have not.
    _strangers: set[Any]
    #: What clients have said of themselves.
    _payloads: dict[Any, dict[str, Any]]


class _Here:
    """The members of a topic that are here."""

    def __init__(self) -> None:
        self.members: dict[Any, Member] = {}  # by client
        # The connections of each; whose payload was set last is the last one.
        self.tabs: dict[Member, dict[Any, None]] = {}


class PresenceRun:
    """The presence of one run; see `cluster.presence.PresenceHost`.

    All methods are for the loop's thread, but `present`.

    Args:
        user: the server.
        reactor: of the run.
        control: the other nodes.
        engine: of the run, or None: this process is alone.
        grace: the option `presence_grace`.
    """

    def __init__(
        self,
        user: PresenceUser,
        reactor: Reactor,
        control: ControlRun,
        engine: AnyEngine | None,
        grace: float,
    ) -> None:
        self._user = user
        self._reactor = reactor
        self._control = control
        self._engine = engine
        self._here: dict[str, _Here] = {}
        self._handlers: dict[str, dict[Any, None]] = {}
        self._untold: deque[tuple[str, Member, bool, Payload]] = deque()
        self._presence = Presence(self, control.id, grace, alone=engine is None)
        control.control.add_presence(self._presence)

    @property
    def members(self) -> int:
        """The members that are here, in all topics."""
        return sum(len(here.tabs) for here in list(self._here.values()))

    def present(self, topic: str) -> Present:
        """Who is present in a topic, as far as it is known; from any thread."""
        return Present(*self._presence.present(topic))

    def ask_for(self, topic: str) -> None:
        """Know who is present in a topic in the next time."""
        self._presence.ask_for(topic)

    # Clients

    def enter(self, topic: str, client: Any) -> None:
        """A client has subscribed to a topic."""
        self._presence.subscribe(topic)
        self._handlers.setdefault(topic, {})[client._handler] = None
        here = self._here.setdefault(topic, _Here())
        here.members[client] = None
        self._name(topic, here, client)

    def leave(self, topic: str, client: Any) -> None:
        """A client has unsubscribed; nothing happens if it was not known."""
        here = self._here.get(topic)
        if here is None or client not in here.members:
            return
        self._drop(topic, here, client, here.members[client])
        del here.members[client]
        if not here.members:
            del self._here[topic]
        self._presence.unsubscribe(topic)

    def rebind(self, client: Any) -> None:
        """A client may be somebody else now."""
        for topic, here in self._of(client):
            if here.members[client] != self._member(client):
                before = here.members[client]
                self._name(topic, here, client)
                self._drop(topic, here, client, before)

    def update(self, client: Any) -> None:
        """A client has said something else of itself."""
        for topic, here in self._of(client):
            member = here.members[client]
            if member is not None:
                tabs = here.tabs[member]
                del tabs[client]
                tabs[client] = None
                self._presence.enter(topic, member, self._payload(topic, tabs))

    def _of(self, client: Any) -> list[tuple[str, _Here]]:
        found = ((topic, self._here.get(topic)) for topic in client.topics)
        return [(t, here) for t, here in found if here and client in here.members]

    def _member(self, client: Any) -> Member:
        """Who a client is; None: a stranger, who is not present."""
        if client in self._user._strangers:
            return None
        identity: Member = client._client_id
        if client._handler._present_alone:
            named = "" if identity is None else identity
            return f"{client.id}@{self._control.id} {named}"
        return f"{client.id}@{self._control.id}" if identity is None else identity

    def _name(self, topic: str, here: _Here, client: Any) -> None:
        member = here.members[client] = self._member(client)
        if member is not None:
            tabs = here.tabs.setdefault(member, {})
            before = self._payload(topic, tabs) if tabs else None
            new = not tabs
            tabs[client] = None
            payload = self._payload(topic, tabs)
            if new or payload != before:
                self._presence.enter(topic, member, payload)

    def _drop(self, topic: str, here: _Here, client: Any, member: Member) -> None:
        tabs = here.tabs.get(member)
        if tabs is None:
            return
        before = self._payload(topic, tabs)
        del tabs[client]
        if not tabs:
            del here.tabs[member]
            self._presence.leave(topic, member)
        elif self._payload(topic, tabs) != before:
            self._presence.enter(topic, member, self._payload(topic, tabs))

    def _payload(self, topic: str, tabs: dict[Any, None]) -> Payload:
        """What a member says: what was set last by one of its connections."""
        client = next(iter(tabs))
        if client._handler._present_alone:
            said: Payload = client._live.info_in(topic)
            return said
        payloads = self._user._payloads
        found = (payloads[client] for client in reversed(tabs) if client in payloads)
        return next(found, None)

    # For the presence

    def time(self) -> float:
        """See `PresenceHost`; likewise below."""
        return self._reactor.time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """Call it in so many seconds."""
        self._reactor.call_later(delay, callback)

    def send(self, audience: Audience, value: str | None, body: bytes) -> bool:
        """Send something to other nodes."""
        return self._control.send(audience, value, body)

    def watch(self, topic: str) -> None:
        """Hear what the other nodes say of a topic."""
        if self._engine is not None:
            self._engine.watch_presence(topic, True)

    def unwatch(self, topic: str) -> None:
        """Hear it no more."""
        if self._engine is not None:
            self._engine.watch_presence(topic, False)

    def forget(self, topic: str) -> None:
        """Nobody here is interested in a topic any more."""
        self._handlers.pop(topic, None)

    def tell(self, topic: str, member: Member, joined: bool, payload: Payload) -> None:
        """A member has joined or left: tell it at the end of this turn."""
        if topic not in self._handlers:
            return  # it was only asked for
        if not self._untold:
            self._reactor.call_soon(self._tell_some)
        self._untold.append((topic, member, joined, payload))

    def _tell_some(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._untold))):
            self._tell(*self._untold.popleft())
        if self._untold:
            self._reactor.call_soon(self._tell_some)

    def _tell(self, topic: str, member: Member, joined: bool, payload: Payload) -> None:
        for handler in list(self._handlers.get(topic, ())):
            owner, callback = f"{handler._log_name}.", handler.on_presence
            if handler._own_format:
                callback = partial(handler._on_member, payload)
            tell(self._user, "presence", owner, callback, topic, member, joined)


def checked_payload(payload: object) -> dict[str, Any] | None:
    """What a client says of itself, as other nodes see it.

    Raises:
        TypeError, ValueError: It is no dict, JSON cannot represent it, or it is too
            large.
    """
    if payload is None:
        return None
    if not isinstance(payload, dict):
        raise TypeError(f"present_as must be a dict or None, not {payload!r}")
    text = json.dumps(payload, allow_nan=False)
    if len(text) > _MAX_PAYLOAD:
        raise ValueError(
            f"present_as must be at most {_MAX_PAYLOAD:,} bytes of JSON, not "
            f"{len(text):,}"
        )
    checked: dict[str, Any] = json.loads(text)
    return checked

"""`ShardedEngine`: several engines that do not know of each other, each for its topics.

Each is an `EngineHost` of its own, so that the loss of one concerns its topics alone.
What nodes say to each other goes through the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from typing import Any

from ..cluster.channels import Audience, Channels
from ..cluster.counts import NodeCounts
from ..cluster.engines import EngineSetup
from ..cluster.history import Retention
from ..cluster.node import EngineState
from ..cluster.position import Position
from ..cluster.replica import Replica
from ..cluster.shards import shard_of
from ..connection.client import Client
from ..loop.reactor import Reactor
from .engine import EngineHost, EngineUser, InternalListener
from .tell import tell

__all__ = ["AnyEngine", "ShardedEngine"]

#: Of `EngineHost.stats`: what is no count.
_NO_COUNTS = ("up", "reason", "server", "rtt", "connects")


class _ShardUser:
    """A server as one of its engines sees it: the state of all is told together."""

    def __init__(self, user: EngineUser, note: Callable[[EngineState], object]) -> None:
        self._user = user
        self._engine_listeners = [note]
        # What is on the path of each message, without `__getattr__`.
        self._send_local = user._send_local
        self._send_kept = user._send_kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._user, name)


class ShardedEngine:
    """The engines of one run; used as an `EngineHost`, whose methods it has.

    Args:
        setups: of the engines, in the order that all nodes have.
        reactor: of the run.
        user: the server.
        group: see `EngineHost`.
    """

    def __init__(
        self,
        setups: Sequence[EngineSetup],
        reactor: Reactor,
        user: EngineUser,
        group: str = "",
    ) -> None:
        self.channels = Channels(setups[0].prefix)
        self._user = user
        self._names = [setup.name for setup in setups]
        shard_user: Any = _ShardUser(user, self._note_state)
        self._shards = [
            EngineHost(
                # The first alone has the lease of calls that one node makes.
                setup if number == 0 else setup._replace(ask=None),
                reactor,
                shard_user,
                group,
            )
            for number, setup in enumerate(setups)
        ]
        self._first = self._shards[0]
        self._told = self.state
        self._awaited: list[Callable[[], object]] = []

    def _of_topic(self, topic: str) -> EngineHost:
        return self._shards[shard_of(topic, len(self._shards))]

    def _of_channel(self, channel: str) -> EngineHost:
        return self._of_topic(self.channels.shard_key(channel))

    @property
    def id(self) -> str:
        """See `EngineHost`; likewise below."""
        return self._first.id

    @property
    def state(self) -> EngineState:
        """Whether all engines are there; the reason names those that are not."""
        states = [shard.state for shard in self._shards]
        reason = "; ".join(
            f"{name}: {state.reason}"
            for name, state in zip(self._names, states, strict=True)
            if not state.up
        )
        servers = dict.fromkeys(state.server for state in states if state.server)
        return EngineState(not reason, reason, ", ".join(servers))

    @property
    def leads(self) -> bool:
        """Whether this node makes the calls that one node alone makes."""
        return self._first.leads

    @property
    def counts(self) -> NodeCounts:
        """The sums of all engines."""
        counts = [asdict(shard.counts) for shard in self._shards]
        names = [field.name for field in fields(NodeCounts)]
        return NodeCounts(*(sum(each[name] for each in counts) for name in names))

    def stats(self) -> dict[str, Any]:
        """The entry `engine` of `Server.stats`: sums. From any thread."""
        state = self.state
        stats, *others = [shard.stats() for shard in self._shards]
        trips = [each["rtt"] for each in (stats, *others)]
        for other in others:
            for name, value in other.items():
                if name not in _NO_COUNTS:
                    stats[name] += value
            for name, value in other["connects"].items():
                stats["connects"][name] += value
        stats["rtt"] = None if None in trips else max(trips)
        stats |= {"up": int(state.up), "reason": state.reason, "server": state.server}
        return stats

    def begin(self) -> None:
        """Connect, now and whenever a connection is lost."""
        for shard in self._shards:
            shard.begin()

    def when_up(self, callback: Callable[[], object]) -> None:
        """Call a function once all engines are up, now if they are."""
        if self.state.up:
            callback()
        else:
            self._awaited.append(callback)

    def end(self) -> None:
        """Close the connections."""
        for shard in self._shards:
            shard.end()

    def forget(self) -> None:
        """Close a forked process's copies of the connections."""
        for shard in self._shards:
            shard.forget()

    def _note_state(self, _: EngineState) -> None:
        """One of them has come, or has gone."""
        state = self.state
        if state == self._told:
            return
        self._told = state
        for listener in list(self._user._engine_listeners):
            tell(self._user, "engine", "", listener, state)
        if state.up:
            awaited, self._awaited = self._awaited, []
            for callback in awaited:
                callback()

    # For the hub

    def publish(self, channel: str, msg: object, exclude: Collection[Client]) -> None:
        """Publish a message."""
        self._of_channel(channel).publish(channel, msg, exclude)

    def listen(self, channel: str) -> None:
        """Somebody here listens to a channel."""
        self._of_channel(channel).listen(channel)

    def leave(self, channel: str) -> None:
        """Somebody listens to it no more."""
        self._of_channel(channel).leave(channel)

    # For what nodes say to each other

    def listen_internal(self, listener: InternalListener) -> None:
        """Have somebody hear what is said to all nodes, and to this one."""
        self._first.listen_internal(listener)

    def send_internal(self, audience: Audience, value: Any, body: bytes) -> bool:
        """Send something to other nodes; return False if the engine is not there."""
        return self._first.send_internal(audience, value, body)

    def note_internal_invalid(self, sender: str, why: str) -> None:
        """Another node has said something malformed."""
        self._first.note_internal_invalid(sender, why)

    def watch_presence(self, topic: str, wanted: bool) -> None:
        """Hear what is said of who is present in a topic, or hear it no more."""
        self._first.watch_presence(topic, wanted)

    # For topics with history

    def append(
        self,
        topic: str,
        retention: Retention,
        msg: object,
        exclude: Collection[Client],
        key: str | None,
        done: Callable[[Position | None], object] | None = None,
    ) -> bool:
        """Publish a message to a topic with history."""
        append = self._of_topic(topic).append
        return append(topic, retention, msg, exclude, key, done)

    def replica(self, topic: str, retention: Retention) -> Replica:
        """The copy of a topic that is listened to."""
        return self._of_topic(topic).replica(topic, retention)

    def remove(self, topic: str, done: Callable[[int | None], object]) -> None:
        """Remove the messages of a topic with history."""
        self._of_topic(topic).remove(topic, done)

    def forget_messages(self, topic: str, offset: int) -> None:
        """Drop the copies of messages that were removed."""
        self._of_topic(topic).forget_messages(topic, offset)

    def expire(self) -> None:
        """Free the memory of messages that are too old."""
        for shard in self._shards:
            shard.expire()


#: What a run may have.
AnyEngine = EngineHost | ShardedEngine

"""What a site needs when nothing happens: shares of a core, without a simulation.

Each work says what is published and who gets it, for so many connections on so many
nodes. The load of the engine's core is given for commands that come many at once and
for those that come one by one: what is busy is in between, and nearer to the first the
busier it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from costs import MICRO, Costs

__all__ = ["BEAT", "WORKS", "Load", "limit", "loads"]

#: Seconds between two signs of life of a node (`cluster/roster.py`).
BEAT = 5.0
#: Minutes of a connection.
SESSION = 20
#: The share of a core that is called full: above it queues grow.
FULL = 0.7


@dataclass(frozen=True)
class Traffic:
    """Of a site, a second.

    Attributes:
        published: messages.
        to_nodes: nodes that get each.
        to_clients: clients that get each, over all nodes.
        stored: share of the messages that a history keeps.
        changes: topics that a node subscribes to or leaves.
        by_nodes: nodes publish it themselves, no clients.
    """

    published: float
    to_nodes: float
    to_clients: float
    stored: float = 0.0
    changes: float = 0.0
    by_nodes: bool = False


@dataclass(frozen=True)
class Load:
    """Shares of a core: above 1 it takes several, or is impossible.

    Attributes:
        batched: of the engine, if commands come many at once.
        alone: of the engine, if they come one by one.
        node: of each node's loop.
        heard: messages that each node gets from the engine, a second.
    """

    batched: float
    alone: float
    node: float
    heard: float


def _spread(people: float, nodes: float) -> float:
    """On how many nodes so many people are, if they are spread at random."""
    return nodes * (1 - (1 - 1 / nodes) ** people)


def notifications(nodes: float, clients: float) -> Traffic:
    """A topic for each client, a message a minute."""
    total = nodes * clients
    changes = 2 * total / (SESSION * 60)
    return Traffic(total / 60, 1, 1, changes=changes)


def rooms(nodes: float, clients: float) -> Traffic:
    """Rooms of ten at random nodes; each client writes a message a minute."""
    total, on = nodes * clients, _spread(10, nodes)
    changes = 2 * total / 10 * on / (SESSION * 60)
    return Traffic(total / 60, on, 10, changes=changes)


def kept_rooms(nodes: float, clients: float) -> Traffic:
    """The same with a history."""
    plain = rooms(nodes, clients)
    return Traffic(plain.published, plain.to_nodes, 10, 1.0, plain.changes)


def dashboards(nodes: float, clients: float) -> Traffic:
    """Twenty topics that change five times a second; each client watches one."""
    return Traffic(20 * 5, nodes, nodes * clients / 20, by_nodes=True)


def presence(nodes: float, clients: float) -> Traffic:
    """Nodes say that they are there, and all nodes hear it."""
    return Traffic(nodes / BEAT, nodes, 0, by_nodes=True)


def members(nodes: float, clients: float) -> Traffic:
    """Members join and leave rooms of ten: each is told to the nodes of the room, and
    some seconds later these are asked once more (`cluster/presence.py`)."""
    on = _spread(10, nodes)
    changes = 2 * nodes * clients / (SESSION * 60)
    return Traffic(2 * changes, on, 0, by_nodes=True)


Work = Callable[[float, float], Traffic]
WORKS: dict[str, Work] = {
    "notifications": notifications,
    "rooms of ten": rooms,
    "rooms with history": kept_rooms,
    "dashboards": dashboards,
    "members of rooms": members,
    "signs of life": presence,
}


def load(work: Work, nodes: float, clients: float, costs: Costs) -> Load:
    """Of a work on so many nodes, with so many clients each."""
    traffic = work(nodes, clients)
    stored = traffic.published * traffic.stored
    plain = traffic.published - stored
    common = stored * costs.script + traffic.changes * costs.subscribe
    delivered = traffic.published * traffic.to_nodes
    heard = delivered / nodes
    further = max(0.0, traffic.published * traffic.to_clients / nodes - heard)
    here = 0.0 if traffic.by_nodes else traffic.published / nodes * costs.publish_here
    node = here + heard * costs.receive + further * costs.fan_out
    node += traffic.changes / nodes * costs.subscribed
    batched = plain * costs.publish + delivered * costs.delivery
    alone = plain * costs.publish_alone + delivered * costs.delivery_alone
    return Load(
        (common + batched) * MICRO, (common + alone) * MICRO, node * MICRO, heard
    )


def limit(share: Callable[[float], float], most: float = 1e6) -> float:
    """The number of nodes with which a share of a core, which grows, is full."""
    low, high = 1.0, most
    if share(low) >= FULL:
        return low
    if share(high) < FULL:
        return high
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) >= FULL else (middle, high)
    return low


def loads(
    nodes: tuple[int, ...], clients: int, costs: Costs
) -> Iterator[tuple[str, list[Load], float, float]]:
    """For each work: its name, loads by number of nodes, and how many nodes fill the
    engine's core, batched and one by one."""
    for name, work in WORKS.items():
        yield (
            name,
            [load(work, number, clients, costs) for number in nodes],
            limit(lambda n, work=work: load(work, n, clients, costs).batched),
            limit(lambda n, work=work: load(work, n, clients, costs).alone),
        )

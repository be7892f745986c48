"""The states of a server, and the steps between them.

    NEW ──> LISTENING ──> RUNNING ──> STOPPING ──> ABORTING
                ^ │          │           │            │
                │ └──────────┴─────┬─────┴────────────┘
                │                  v
             STOPPED <────────  CLOSING

One object holds what belongs to a run (`run.Run`): it is made with LISTENING, and
dropped with STOPPED.
"""

from __future__ import annotations

import enum

__all__ = ["STEPS", "Life", "step"]


class Life(enum.Enum):
    """Where a server stands."""

    #: It has never listened.
    NEW = enum.auto()
    #: The port is bound; from now on calls of other threads are queued for the loop.
    LISTENING = enum.auto()
    #: The loop turns.
    RUNNING = enum.auto()
    #: Nobody is accepted any more; connections are closed, and callbacks may end.
    STOPPING = enum.auto()
    #: The last deadline has passed: it ends with this turn of the loop.
    ABORTING = enum.auto()
    #: What is left is cut, and everything is given back. Calls of other threads reach
    #: nobody, and are not queued: threads that never cease must not keep the server.
    CLOSING = enum.auto()
    #: A run has ended; `listen` begins the next.
    STOPPED = enum.auto()


STEPS = {
    Life.NEW: (Life.LISTENING,),
    Life.LISTENING: (Life.RUNNING, Life.CLOSING),
    # Without a stop where the loop fails, or the asyncio loop around it is closed.
    Life.RUNNING: (Life.STOPPING, Life.CLOSING),
    Life.STOPPING: (Life.ABORTING, Life.CLOSING),
    Life.ABORTING: (Life.CLOSING,),
    Life.CLOSING: (Life.STOPPED,),
    Life.STOPPED: (Life.LISTENING,),
}


def step(now: Life, to: Life) -> Life:
    """Return the next state; an AssertionError where no step leads there."""
    if to not in STEPS[now]:
        raise AssertionError(f"a server that is {now.name} cannot be {to.name}")
    return to

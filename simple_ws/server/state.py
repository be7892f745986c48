"""The states of a server, and the steps between them.

    NEW ──> LISTENING ──> RUNNING ──> STOPPING ──> ABORTING
                ^ │          │           │            │
                │ └──────────┴─────┬─────┴────────────┘
                │                  v
             STOPPED <────────  CLOSING

One object holds everything that belongs to a run (`run.Run`): it is created with
LISTENING, and dropped with STOPPED.
"""

from __future__ import annotations

import enum

__all__ = ["STEPS", "ServerState", "step"]


class ServerState(enum.Enum):
    """The state of a server."""

    #: It has never listened.
    NEW = enum.auto()
    #: The port is bound; from now on calls from other threads are queued for the loop.
    LISTENING = enum.auto()
    #: The loop turns.
    RUNNING = enum.auto()
    #: No connection is accepted; open ones are closed, and callbacks may finish.
    STOPPING = enum.auto()
    #: The last deadline has passed: it ends with this turn of the loop.
    ABORTING = enum.auto()
    #: Remaining connections are cut, and resources released. Calls from other threads
    #: are not queued: threads that never stop calling must not block the end.
    CLOSING = enum.auto()
    #: A run has ended; `listen` begins the next.
    STOPPED = enum.auto()


STEPS: dict[ServerState, tuple[ServerState, ...]] = {
    ServerState.NEW: (ServerState.LISTENING,),
    ServerState.LISTENING: (ServerState.RUNNING, ServerState.CLOSING),
    # Without a stop if the loop fails, or the asyncio loop around it is closed.
    ServerState.RUNNING: (ServerState.STOPPING, ServerState.CLOSING),
    ServerState.STOPPING: (ServerState.ABORTING, ServerState.CLOSING),
    ServerState.ABORTING: (ServerState.CLOSING,),
    ServerState.CLOSING: (ServerState.STOPPED,),
    ServerState.STOPPED: (ServerState.LISTENING,),
}


def step(now: ServerState, to: ServerState) -> ServerState:
    """Return the next state; AssertionError if there is no such step."""
    if to not in STEPS[now]:
        raise AssertionError(f"a server that is {now.name} cannot be {to.name}")
    return to

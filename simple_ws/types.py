"""The types of what methods return and callbacks receive, for annotations.

Only the package makes objects of them. `HandlerOptions` and `ServerOptions` have all
options with their types: `**options: Unpack[HandlerOptions]`.
"""

from .connection.option_types import HandlerOptions, ServerOptions
from .loop.schedule import Job
from .server.cluster import Answers, AnswersFuture, Cluster, NodeInfo
from .server.joins import Join
from .server.presence import Present
from .server.publications import HistoryFuture, Publication

__all__ = [
    "Answers",
    "AnswersFuture",
    "Cluster",
    "HandlerOptions",
    "HistoryFuture",
    "Job",
    "Join",
    "NodeInfo",
    "Present",
    "Publication",
    "ServerOptions",
]

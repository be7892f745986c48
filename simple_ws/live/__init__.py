"""The Centrifugo client protocol for browsers, phones and services: `Server.live`.

`LiveError` is what methods and hooks raise, `Connected` what `on_connect` returns, and
`Subscribed` what `on_subscribe` may. `connect` is the client for scripts and devices.
"""

from .client import LiveClient
from .codes import LiveError
from .handler import Live
from .methods import Connected, ConnectRequest, Subscribed
from .sdk.codec import ClientInfo, History, Message, Position, Publication
from .sdk.connection import LiveConnection
from .sdk.subscription import Subscription
from .sdk.thread import connect

__all__ = [
    "ClientInfo",
    "ConnectRequest",
    "Connected",
    "History",
    "Live",
    "LiveClient",
    "LiveConnection",
    "LiveError",
    "Message",
    "Position",
    "Publication",
    "Subscribed",
    "Subscription",
    "connect",
]

"""The Centrifugo client protocol for browsers, phones and services: `Server.live`.

`LiveError` is what methods and hooks raise, `Connected` what `on_connect` returns, and
`Subscribed` what `on_subscribe` may.
"""

from .client import LiveClient
from .codes import LiveError
from .commands import encode_publication
from .handler import Live
from .methods import Connected, ConnectRequest, Subscribed

__all__ = [
    "ConnectRequest",
    "Connected",
    "Live",
    "LiveClient",
    "LiveError",
    "Subscribed",
    "encode_publication",
]
